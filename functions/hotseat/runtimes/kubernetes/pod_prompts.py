"""Saved prompt caches of pods: what is known of them, and how the engine of a pod saves and restores them.

The files are on the claim of a Model's cache, which only its pods see: one for each slot, in a directory
that belongs to the engine and its weights. The engine's entry point makes it, and deletes what is
outdated (see kube/engine_entrypoint.py). So an engine cannot restore what another one saved. A save
replaces the file of its slot, and nothing else deletes files. What this switcher knows of them ends with
it, and the next one tries each slot.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from urllib.parse import urlsplit

from hotseat.api.model import Model
from hotseat.api.types import EngineCall, Json, Method
from hotseat.core.messages import RestorePrompts, SavePrompts
from hotseat.engines.access import engine_headers
from hotseat.engines.base import SavesPrompts, load_engine, prompt_saver
from hotseat.kube import pods
from hotseat.kube.constants import FINGERPRINT
from hotseat.runtimes.engine_http import EngineRefused
from hotseat.runtimes.kubernetes.informers import annotations
from hotseat.runtimes.prompt_transfer import END_TIME, EnginePrompts, KeptSlots, Moved, PromptTransfer, Rates
from hotseat.secret_values import SecretMissing

log = logging.getLogger(__name__)

NOT_KNOWN = 1  # bytes that can be restored, where it is not known whether there are some


@dataclass(frozen=True, slots=True)
class SlotFile:
    """The file of a slot."""

    tokens: int
    size: int  # bytes
    used_at: float  # when it was saved or restored last, in seconds since 1970
    fingerprint: str  # of the pod that saved it


@dataclass(slots=True)
class ModelPrompts:
    """What is known of the files of a Model. `complete`: there are no others."""

    slots: dict[int, SlotFile] = field(default_factory=dict)
    complete: bool = False
    rates: Rates = field(default_factory=Rates)


class PromptFiles:
    """What is known of the files of all Models. Methods can be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._limits: dict[str, int] = {}  # by Workspace, in bytes for each Model
        self._models: dict[str, ModelPrompts] = {}

    def set_limit(self, workspace: str, size: int) -> None:
        """Save at most so many bytes of each Model of a Workspace from now on."""
        self._limits[workspace] = size

    def limit(self, workspace: str) -> int:
        """Return how many bytes of each Model of a Workspace may be saved."""
        return self._limits.get(workspace, 0)

    def keep_models(self, models: Container[str]) -> None:
        """Forget Models that are gone."""
        with self._lock:
            self._models = {name: each for name, each in self._models.items() if name in models}

    def of(self, model: str) -> ModelPrompts:
        """Return what is known of the files of a Model, to change it. One transfer of a Model takes place at a time."""
        with self._lock:
            return self._models.setdefault(model, ModelPrompts())

    def expire(self, model: str, keep: float) -> ModelPrompts:
        """Forget the files of a Model that its next engine deletes, as they were not used for `keep` seconds. Return the rest."""
        known, oldest = self.of(model), self.clock() - keep
        known.slots = {number: each for number, each in known.slots.items() if each.used_at >= oldest}
        return known

    def sizes(self) -> Mapping[str, int]:
        """Return the known bytes of each Model that has some."""
        with self._lock:
            sums = {name: sum(each.size for each in list(known.slots.values())) for name, known in self._models.items()}
        return {name: size for name, size in sums.items() if size}


class PodPrompts(EnginePrompts):
    """The prompts of the engine of a pod."""

    sees_files = False

    def __init__(self, files: PromptFiles, model: Model, engine: SavesPrompts, pod: Json, keep: float) -> None:
        super().__init__(engine, files.clock)
        self._files, self._model, self._keep = files, model, keep
        self._fingerprint = annotations(pod).get(FINGERPRINT, "")

    def headers(self) -> bytes:
        """Return the lines of the headers for the engine. Without its key, it refuses, which is reported."""
        try:
            return engine_headers(self._model)
        except SecretMissing as problem:
            log.warning("%s", problem)
            return b""

    def forget(self) -> None:
        """Restore no file any more: the engine ended while it restored one. Saving replaces them."""
        known = self._known
        known.slots, known.complete = {}, True

    @property
    def _known(self) -> ModelPrompts:
        return self._files.of(self._model.name)

    def _rates(self) -> Rates:
        return self._known.rates

    def _kept(self) -> KeptSlots:
        known = self._files.expire(self._model.name, self._keep)
        slots = sorted(known.slots, key=lambda number: -known.slots[number].used_at)
        if not known.complete:
            try:
                found = self._engine.read_slots((yield EngineCall(path=self._engine.slots_path, method=Method.GET)))
                slots += [each.id for each in found if each.id not in known.slots]
                known.complete = True
            except (EngineRefused, ValueError):
                pass  # a save says so
        return [(number, self._name(number)) for number in slots]

    def _name(self, slot: int) -> str:
        return str(slot)

    def _mark_restored(self, slot: int, tokens: int, size: int, now: float) -> None:
        before = self._known.slots.get(slot) or SlotFile(tokens, size, 0.0, self._fingerprint)
        self._known.slots[slot] = replace(before, used_at=now, fingerprint=self._fingerprint)

    def _drop_unrestored(self, slot: int, reason: str, message: str, moved: Moved) -> None:
        gone = self._known.slots.pop(slot, None)
        if gone is None and reason == "RestoreFailed":
            return  # there was none, as far as is known
        if gone is not None and gone.fingerprint != self._fingerprint and reason == "RestoreFailed":
            reason = "Mismatch"
            message = "it was saved by another version of the engine, with other weights or other settings"
        moved.drop(reason, message, gone.tokens if gone else 0, gone.size if gone else 0)

    def _room(self, slot: int) -> int:
        others = sum(each.size for number, each in self._known.slots.items() if number != slot)
        return max(0, self._files.limit(self._model.spec.workspace) - others)

    def _prepare(self, slot: int, expected: int, moved: Moved) -> None:  # noqa: ARG002 - no file can be deleted
        self._known.slots.pop(slot, None)  # it is being overwritten

    def _written(self, slot: int) -> None:  # noqa: ARG002
        return None

    def _size(self, slot: int, written: int) -> int:
        if not written:
            raise ValueError(f"the engine wrote nothing to the file of slot {slot}; the volume may be full")
        return written

    def _add(self, slot: int, tokens: int, size: int, now: float, moved: Moved) -> bool:  # noqa: ARG002
        self._known.slots[slot] = SlotFile(tokens, size, now, self._fingerprint)
        return True

    def _discard(self, slot: int) -> None:
        """Do nothing: the file has an earlier state of a conversation, which can be restored as well."""


def restorable(files: PromptFiles, model: str, pod: Json) -> int:
    """Return how many bytes a pod may be able to restore; 0 if it keeps no prompts, or there are none."""
    keep = pods.keeps_prompts(pod)
    if keep is None:
        return 0
    known = files.expire(model, keep)
    return sum(each.size for each in known.slots.values()) or (0 if known.complete else NOT_KNOWN)


def pod_prompts(files: PromptFiles, model: Model | None, pod: Json) -> PodPrompts | None:
    """Return the prompts of a pod. None: it keeps none."""
    keep = pods.keeps_prompts(pod)
    if model is None or keep is None:
        return None
    try:
        saver = prompt_saver(load_engine(model.spec.engine), model)
    except KeyError:
        return None
    return None if saver is None else PodPrompts(files, model, saver, pod, keep)


def transfer(
    command: SavePrompts | RestorePrompts,
    prompts: PodPrompts | None,
    address: str,
    done: Callable[[PromptTransfer], None],
) -> None:
    """Carry a command out in a thread, and call `done` within its timeout. `address` is that of the pod.

    An engine that cannot be reached while it restores has probably ended, which its pod's status says within some seconds. So
    the answer, after which it would count as ready, is not given before the bound.
    """
    parts = urlsplit(address)
    end_time = inf if isinstance(command, RestorePrompts) else END_TIME
    headers = b"" if prompts is None else prompts.headers()
    at = (parts.hostname or "", parts.port or 80)
    it = PromptTransfer(command, prompts, at, time.monotonic(), end_time=end_time, headers=headers)

    def run() -> None:
        while not it.step(time.monotonic()):
            poll = select.poll()
            if (fd := it.fd) is not None:
                poll.register(fd, it.events)
            poll.poll(max(0.0, it.due - time.monotonic()) * 1000)
        if it.unreachable:
            it.fail()
        done(it)

    threading.Thread(target=run, name=f"prompts-{command.instance}", daemon=True).start()
