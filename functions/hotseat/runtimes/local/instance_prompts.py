"""The prompts of one engine on this machine: what the store keeps of them, and where their files are."""

import hashlib
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from hotseat.api.model import Model
from hotseat.core.messages import PromptsDropped
from hotseat.engines.base import Engine, EngineError, SavesPrompts, prompt_saver
from hotseat.runtimes.local.prompt_store import PromptStore, SavedSlot, size_of
from hotseat.runtimes.prompt_transfer import EnginePrompts, KeptSlots, Moved, Rates

log = logging.getLogger(__name__)


class InstancePrompts(EnginePrompts):
    """The prompts of one instance, in a directory of its Model."""

    def __init__(
        self, store: PromptStore, model: Model, engine: SavesPrompts, directory: Path, *, epoch: int, identity: str
    ) -> None:
        super().__init__(engine)
        self.directory = directory
        self._store, self._model = store, model
        self._prefix = f"{epoch}-{secrets.token_hex(4)}-"  # epochs begin anew with hotseat, files may outlive it
        self._identity = hashlib.sha256(identity.encode()).hexdigest()
        self._epoch = epoch
        self._unfit = store.drop_others(model.name, self._identity)
        if self._unfit:
            store.rates.pop(model.name, None)

    @property
    def kept(self) -> int:
        """Bytes that can be restored."""
        return sum(each.size for each in self._own())

    def report_unfit(self, now: float, instance: str) -> PromptsDropped | None:
        """Return what was deleted because this instance cannot restore it."""
        if not self._unfit:
            return None
        message = "they were saved by another version of the engine, with other weights or other settings"
        tokens, size = sum(each.tokens for each in self._unfit), sum(each.size for each in self._unfit)
        return PromptsDropped(now, instance, self._epoch, "Mismatch", message, tokens, size)

    def forget(self) -> None:
        """Delete what is kept: the engine ended while it was restored."""
        self._store.drop(self._store.of(self._model.name))

    def sweep(self) -> None:
        """Delete what the engine wrote and was not kept."""
        self._store.sweep(self._model.spec.workspace, self._model.name, self._prefix)

    def _rates(self) -> Rates:
        return self._store.rates_of(self._model.name)

    def _kept(self) -> KeptSlots:
        yield from ()
        return [(each.slot, Path(each.file).name) for each in self._own()]

    def _own(self) -> list[SavedSlot]:
        return [each for each in self._store.of(self._model.name) if each.identity == self._identity]

    def _of(self, slot: int) -> list[SavedSlot]:
        return [each for each in self._store.of(self._model.name) if each.slot == slot]

    def _path(self, slot: int) -> Path:
        return self.directory / self._name(slot)

    def _name(self, slot: int) -> str:
        return f"{self._prefix}{slot}"

    def _mark_restored(self, slot: int, tokens: int, size: int, now: float) -> None:  # noqa: ARG002 - the store knows
        for each in self._of(slot):
            self._store.touch(each, now)

    def _drop_unrestored(self, slot: int, reason: str, message: str, moved: Moved) -> None:
        for each in self._store.drop(self._of(slot)):
            moved.drop(reason, message, each.tokens, each.size, each.model)

    def _room(self, slot: int) -> int:  # noqa: ARG002 - others are deleted for it
        return self._store.room(self._model.spec.workspace)

    def _prepare(self, slot: int, expected: int, moved: Moved) -> None:
        before = next(iter(self._of(slot)), None)
        self._drop_for_room(moved, self._store.make_room(self._model.spec.workspace, expected, before))

    def _written(self, slot: int) -> int:
        return size_of(self._path(slot)) or 0

    def _trim(self, written: int, moved: Moved) -> None:
        self._drop_for_room(moved, self._store.trim(self._model.spec.workspace, written))

    def _size(self, slot: int, written: int) -> int:
        if written != (size := self._path(slot).stat().st_size):  # such as on a full disk
            raise ValueError(f"the engine reports {written} bytes, but its file has {size}")
        return size

    def _add(self, slot: int, tokens: int, size: int, now: float, moved: Moved) -> bool:
        model = self._model
        new = SavedSlot(
            model.spec.workspace, model.name, slot, str(self._path(slot)), self._identity, tokens, size, now
        )
        self._drop_for_room(moved, self._store.add(new))
        return new in self._store.of(model.name)

    def _discard(self, slot: int) -> None:
        self._store.drop(self._of(slot))

    def _drop_for_room(self, moved: Moved, slots: Iterable[SavedSlot]) -> None:
        for each in slots:
            message = "the least recently used prompts make room for others"
            moved.drop("BudgetExceeded", message, each.tokens, each.size, each.model)


def instance_prompts(
    store: PromptStore, model: Model, engine: Engine, weights: str | None, epoch: int
) -> InstancePrompts | None:
    """Return the prompts of a new instance. None: they are not kept."""
    saver = prompt_saver(engine, model)
    directory = None if saver is None else store.directory(model.spec.workspace, model.name)
    if saver is None or directory is None:
        store.drop(store.of(model.name))
        return None
    try:
        identity = saver.prompt_identity(model, weights)
    except (OSError, EngineError) as problem:
        log.warning("the prompt cache of %s cannot be kept: %s", model.name, problem)
        return None
    return InstancePrompts(store, model, saver, directory, epoch=epoch, identity=identity)
