"""Saving and restoring the slots of one engine. It runs in the instance's thread and poll()."""

import hashlib
import logging
import secrets
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from hotseat.api.model import Model
from hotseat.api.types import EngineCall, Method
from hotseat.core.messages import (
    Observation,
    PromptsDropped,
    PromptsRestored,
    PromptsSaved,
    RestorePrompts,
    SavePrompts,
)
from hotseat.engines.base import Engine, EngineError, SavesPrompts, Slot, prompt_saver
from hotseat.runtimes.engine_http import EngineRefused, EngineRequest, EngineUnreachable
from hotseat.runtimes.local.prompt_store import PromptStore, Rates, SavedSlot, size_of

log = logging.getLogger(__name__)

MARGIN = 0.9  # of the timeout: the answer has to be there by then
WATCH_PAUSE = 0.02  # seconds between two looks at the size of a file that is being written
END_TIME = 0.25  # seconds in which the end of an engine that closed its connection is reported by its supervisor
TRUE_HIT = 2  # a conversation went on if at least this part (1/n) of a restored slot was used


@dataclass(slots=True)
class Moved:
    """What was saved or restored, and what was not."""

    tokens: int = 0
    size: int = 0  # bytes
    hits: int = 0
    spared: int = 0  # tokens
    dropped: list[tuple[str, str, int, int, str]] = field(default_factory=list)  # reason, message, tokens, bytes, Model

    def drop(self, reason: str, message: str, slots: Iterable[SavedSlot]) -> None:
        """Record that saved slots were deleted."""
        self.dropped += [(reason, message, each.tokens, each.size, each.model) for each in slots]


@dataclass(frozen=True, slots=True)
class _Writing:
    """A slot that the engine is saving."""

    tokens: int | None
    path: Path
    most: int  # bytes that the file may have
    began: float  # monotonic seconds


Steps = Generator[EngineCall, bytes, None]


class InstancePrompts:
    """The prompts of one instance: what is kept for it, and how they are saved and restored."""

    def __init__(
        self, store: PromptStore, model: Model, engine: SavesPrompts, directory: Path, *, epoch: int, identity: str
    ) -> None:
        self.directory = directory
        self._store, self._model, self._engine = store, model, engine
        self._prefix = f"{epoch}-{secrets.token_hex(4)}-"  # epochs begin anew with hotseat, files may outlive it
        self._identity = hashlib.sha256(identity.encode()).hexdigest()
        self._restored: dict[int, int] = {}  # tokens by slot
        self._restoring: SavedSlot | None = None
        self._writing: _Writing | None = None
        self._epoch = epoch
        self._unfit = store.drop_others(model.name, self._identity)
        if self._unfit:
            store.rates.pop(model.name, None)

    @property
    def kept(self) -> int:
        """Bytes that can be restored."""
        return sum(each.size for each in self._kept())

    @property
    def writing(self) -> bool:
        """Whether the engine is writing a file."""
        return self._writing is not None

    def report_unfit(self, now: float, instance: str) -> PromptsDropped | None:
        """Return what was deleted because this instance cannot restore it."""
        if not self._unfit:
            return None
        message = "they were saved by another version of the engine, with other weights or other settings"
        tokens, size = sum(each.tokens for each in self._unfit), sum(each.size for each in self._unfit)
        return PromptsDropped(now, instance, self._epoch, "Mismatch", message, tokens, size)

    def restore(self, moved: Moved) -> Steps:
        """Yield the requests that restore what is kept, the newest first. What the engine refuses is deleted."""
        rates, now = self._rates(), time.time()
        for each in self._kept():
            began, self._restoring = time.monotonic(), each
            try:
                body = yield self._engine.restore(each.slot, Path(each.file).name)
                tokens, size = self._engine.read_transfer(body)
            except (EngineRefused, ValueError) as problem:
                moved.drop("RestoreFailed", str(problem), self._store.drop([each]))
                continue
            rates.record_restore(size, time.monotonic() - began)
            self._restored[each.slot] = tokens
            self._store.touch(each, now)
            moved.tokens, moved.size = moved.tokens + tokens, moved.size + size
        self._restoring = None

    def forget(self) -> None:
        """Delete what is kept: the engine ended while it was restored."""
        self._store.drop(self._store.of(self._model.name))

    def save(self, moved: Moved, until: float = inf) -> Steps:
        """Yield the requests that save the slots that were used, those with the most tokens first.

        `until`: when to be done, in monotonic seconds.
        """
        try:
            slots = self._engine.read_slots((yield EngineCall(path=self._engine.slots_path, method=Method.GET)))
        except (EngineRefused, ValueError) as problem:
            moved.dropped.append(("SaveFailed", str(problem), 0, 0, ""))
            return
        rate: float | None = None
        used = [each for each in slots if each.used]
        if used:
            try:
                call = EngineCall(path=self._engine.prompt_rate_path, method=Method.GET)
                rate = self._engine.read_prompt_rate((yield call))
            except (EngineRefused, ValueError):
                rate = None
        before, now = {each.slot: each for each in self._store.of(self._model.name)}, time.time()
        for slot in sorted(used, key=lambda each: -(each.tokens or 0)):
            if slot.id in self._restored and slot.reused:
                moved.hits += TRUE_HIT * slot.reused >= self._restored[slot.id]
                moved.spared += min(slot.reused, self._restored[slot.id])
            if reason := self._unworthy(slot, rate, until - time.monotonic()):
                self._store.drop([before[slot.id]] if slot.id in before else [])
                moved.dropped += [(*reason, slot.tokens or 0, 0, "")] if slot.tokens else []
                continue
            yield from self._save_slot(slot, before.get(slot.id), moved, now)

    def check_size(self, moved: Moved) -> str:
        """Make room for a file that grows beyond what was expected. Return why it must not grow any more, or an empty string."""
        if self._writing is None or not (size := size_of(self._writing.path)):
            return ""
        if size > self._writing.most:
            return f"it takes more than {self._writing.most / 2**20:.0f} MiB"
        self._drop_for_room(moved, self._store.trim(self._model.spec.workspace, size))
        return ""

    def cut_off(self, moved: Moved, reason: str, message: str) -> None:
        """Record that what is being saved or restored is given up."""
        if self._restoring is not None:  # another try would take as long
            moved.drop(reason, message, self._store.drop([self._restoring]))
            return
        tokens = 0
        if (writing := self._writing) is not None:
            tokens = writing.tokens or 0
            self._rates().record_cut_off(tokens, size_of(writing.path) or 0, time.monotonic() - writing.began)
        moved.dropped.append((reason, message, tokens, 0, ""))

    def sweep(self) -> None:
        """Delete what the engine wrote and was not kept."""
        self._store.sweep(self._model.spec.workspace, self._model.name, self._prefix)

    def _kept(self) -> list[SavedSlot]:
        return [each for each in self._store.of(self._model.name) if each.identity == self._identity]

    def _save_slot(self, slot: Slot, before: SavedSlot | None, moved: Moved, now: float) -> Steps:
        name, rates, workspace = f"{self._prefix}{slot.id}", self._rates(), self._model.spec.workspace
        path, expected = self.directory / name, int((slot.tokens or 0) * rates.per_token)
        self._drop_for_room(moved, self._store.make_room(workspace, expected, before))
        began = time.monotonic()
        self._writing = _Writing(slot.tokens, path, self._store.room(workspace), began)
        try:
            tokens, size = self._read_saved((yield self._engine.save(slot.id, name)), path)
        except (EngineRefused, ValueError, OSError) as problem:
            moved.dropped.append(("SaveFailed", str(problem), slot.tokens or 0, 0, ""))
            return
        finally:
            self._writing = None
        if not size:
            return
        rates.record_save(tokens, size, time.monotonic() - began)
        new = SavedSlot(workspace, self._model.name, slot.id, str(path), self._identity, tokens, size, now)
        self._drop_for_room(moved, self._store.add(new))
        if new in self._store.of(self._model.name):
            moved.tokens, moved.size = moved.tokens + tokens, moved.size + size

    def _read_saved(self, body: bytes, path: Path) -> tuple[int, int]:
        """Return the tokens and bytes that were saved. Raise ValueError if the file is not whole, such as on a full disk."""
        tokens, written = self._engine.read_transfer(body)
        size = path.stat().st_size if tokens else 0
        if tokens and written != size:
            raise ValueError(f"the engine reports {written} bytes, but its file has {size}")
        return tokens, size

    def _unworthy(self, slot: Slot, rate: float | None, left: float) -> tuple[str, str] | None:
        """Return why a slot is not saved: it is empty, too large, too slow, or quicker to process again. None: it is saved.

        `left`: seconds.
        """
        if slot.tokens is None:
            return None
        rates = self._rates()
        seconds, size = rates.seconds(slot.tokens), slot.tokens * rates.per_token
        if not slot.tokens:
            return ("Empty", "")
        if rate and slot.tokens / rate < seconds:
            rates.doubt()
            message = (
                f"saving and restoring take {seconds:.2f} s, processing the prompt again {slot.tokens / rate:.2f} s"
            )
            return ("TooCostly", message)
        if rates.save and (saving := size / rates.save) > left:
            rates.doubt()
            return ("TooCostly", f"saving takes {saving:.2f} s of {left:.2f} s (promptCache.timeout of the Workspace)")
        if size > (room := self._store.room(self._model.spec.workspace)):
            rates.doubt_size()
            return ("BudgetExceeded", f"it would take {size / 2**20:.0f} MiB of {room / 2**20:.0f} MiB")
        return None

    def _rates(self) -> Rates:
        return self._store.rates.setdefault(self._model.name, Rates())

    def _drop_for_room(self, moved: Moved, slots: Iterable[SavedSlot]) -> None:
        moved.drop("BudgetExceeded", "the least recently used prompts make room for others", slots)


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


def _none() -> Steps:
    yield from ()


class PromptTransfer:
    """A SavePrompts or RestorePrompts that is being carried out.

    The owner polls `fd` for `events` until `due`, and calls step() until it returns True. That is within the timeout of the
    command. `prompts` None: the engine saves none. `cut_off`: the engine was not done, and may still be busy.
    """

    def __init__(
        self,
        command: SavePrompts | RestorePrompts,
        prompts: InstancePrompts | None,
        address: tuple[str, int],
        now: float,
    ) -> None:
        self.command = command
        self.moved = Moved()
        self._prompts, self._address = prompts, address
        self._phase = "Save" if isinstance(command, SavePrompts) else "Restore"
        self._allowed = MARGIN * command.timeout
        self._deadline = now + self._allowed
        if prompts is None:
            self._steps = _none()
        else:
            saves = self._phase == "Save"
            self._steps = prompts.save(self.moved, self._deadline) if saves else prompts.restore(self.moved)
        self._request: EngineRequest | None = None
        self._begun = self.cut_off = False
        self._problem: EngineUnreachable | None = None  # waits until `_resume_at`, for the end of the engine
        self._resume_at = inf
        self._look_at = inf  # when to check the size of the file

    @property
    def due(self) -> float:
        """When to call step() even if nothing happened."""
        if not self._begun:
            return -inf
        due = self._request.due if self._request and not self._problem else self._resume_at
        return min(self._deadline, self._look_at, due)

    @property
    def fd(self) -> int | None:
        """Socket to poll; None if there is nothing to poll for."""
        return None if self._request is None or self._problem else self._request.fd

    @property
    def events(self) -> int:
        """Events to poll the socket for."""
        return 0 if self._request is None else self._request.events

    def step(self, now: float) -> bool:
        """Do what is possible without waiting; return True once all is done, or it is too late."""
        try:
            if not self._begun:
                self._begun = True
                self._request = EngineRequest(self._address, [next(self._steps)], now)
            while self._request is not None:
                if self._prompts is not None and (why := self._why_cut_off(self._prompts, now)):
                    self._prompts.cut_off(self.moved, *why)
                    self.cut_off = True
                    self.close()
                    return True
                try:
                    if self._problem is None and not self._request.step(now):
                        return False
                    if self._problem is not None and now < self._resume_at:
                        return False
                    problem, self._problem = self._problem, None
                    call = self._steps.throw(problem) if problem else self._steps.send(self._request.body)
                except EngineUnreachable as unreachable:
                    self._problem, self._resume_at = unreachable, now + END_TIME
                    continue
                except EngineRefused as refused:
                    call = self._steps.throw(refused)
                self._request.close()
                self._request = EngineRequest(self._address, [call], now)
        except StopIteration:
            self.close()
        except OSError as problem:  # of the files
            self.moved.dropped.append((f"{self._phase}Failed", str(problem), 0, 0, ""))
            self.close()
        return True

    def _why_cut_off(self, prompts: InstancePrompts, now: float) -> tuple[str, str] | None:
        """Return a reason and a message if the engine is not awaited any longer."""
        if now >= self._deadline:
            message = f"not done within {self._allowed:.3g} s (promptCache.timeout of the Workspace)"
            return f"{self._phase}Timeout", message
        too_large = prompts.check_size(self.moved)
        self._look_at = now + WATCH_PAUSE if prompts.writing else inf
        return ("BudgetExceeded", too_large) if too_large else None

    def observations(self, now: float) -> list[Observation]:
        """Return what was dropped, and the answer to the command."""
        order, moved = self.command, self.moved
        said: list[Observation] = [PromptsDropped(now, order.instance, order.epoch, *each) for each in moved.dropped]
        if isinstance(order, RestorePrompts):
            return [*said, PromptsRestored(now, order.instance, order.epoch, moved.tokens, moved.size)]
        saved = (moved.tokens, moved.size, moved.hits, moved.spared)
        return [*said, PromptsSaved(now, order.instance, order.epoch, *saved)]

    def fail(self) -> None:
        """Delete what was being restored: the engine has ended, whatever of it was the cause."""
        if self._prompts is not None and isinstance(self.command, RestorePrompts):
            self._prompts.forget()

    def close(self) -> None:
        """Abandon the request that is under way."""
        if self._request is not None:
            self._request.close()
            self._request = None
        self._steps.close()
