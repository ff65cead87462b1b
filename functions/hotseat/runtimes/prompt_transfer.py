"""Saving and restoring the slots of one engine: which requests it gets for that, and what becomes of its answers."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import inf

from hotseat.api.types import EngineCall, Method
from hotseat.core.messages import (
    Observation,
    PromptsDropped,
    PromptsRestored,
    PromptsSaved,
    RestorePrompts,
    SavePrompts,
)
from hotseat.engines.base import SavesPrompts, Slot
from hotseat.runtimes.engine_http import EngineRefused, EngineRequest, EngineUnreachable

MARGIN = 0.9  # of the timeout: the answer has to be there by then
WATCH_PAUSE = 0.02  # seconds between two looks at the size of a file that is being written
END_TIME = 0.25  # seconds in which the end of an engine that closed its connection is reported by its supervisor

LEAST_MEASURED = 2**20  # bytes from which on a transfer says something about its rate
HOPE = 1.5  # a rate may be so much higher than it was measured last, and a token so much smaller
UNFINISHED = 2  # a file that was not finished would have been so many times as large, if nothing else is known


@dataclass(slots=True)
class Rates:
    """What was measured of one model: bytes for a token, and bytes per second. 0: not known."""

    per_token: float = 0.0
    save: float = 0.0
    restore: float = 0.0

    def record_save(self, tokens: int, size: int, seconds: float) -> None:
        """Record that so many tokens were saved to so many bytes."""
        self.per_token, self.save = size / tokens, _rate(self.save, size, seconds)

    def record_restore(self, size: int, seconds: float) -> None:
        """Record that so many bytes were restored."""
        self.restore = _rate(self.restore, size, seconds)

    def record_cut_off(self, tokens: int | None, written: int, seconds: float) -> None:
        """Record that of a slot with so many tokens no more than `written` bytes were saved, when it was given up."""
        self.save = _rate(self.save, written, seconds)
        if tokens:
            self.per_token = max(self.per_token, UNFINISHED * written / tokens)

    def record_late(self, tokens: int | None, seconds: float) -> None:
        """Record that so many tokens were not saved in so many seconds, of which nothing else is known."""
        self.save = _rate(self.save, int((tokens or 0) * self.per_token), seconds)

    def seconds(self, tokens: int) -> float:
        """Return the seconds that saving and restoring so many tokens take. 0: not known."""
        if not self.save:
            return 0.0
        return tokens * self.per_token * (1 / self.save + 1 / (self.restore or self.save))

    def doubt(self) -> None:
        """Take both to be faster than measured: what is not done because it would be slow is not measured again."""
        self.save, self.restore = HOPE * self.save, HOPE * self.restore

    def doubt_size(self) -> None:
        """Take a token to be smaller than measured, for the same reason. With a sliding window, it is in a longer prompt."""
        self.per_token /= HOPE


def _rate(before: float, size: int, seconds: float) -> float:
    """Return a rate after one more measurement. One that is slow by chance counts little, one of few bytes nothing."""
    return before if size < LEAST_MEASURED else max(size / max(seconds, 1e-6), before / HOPE)


@dataclass(slots=True)
class Moved:
    """What was saved or restored, and what was not."""

    tokens: int = 0
    size: int = 0  # bytes
    dropped: list[tuple[str, str, int, int, str]] = field(default_factory=list)  # reason, message, tokens, bytes, Model

    def drop(self, reason: str, message: str, tokens: int = 0, size: int = 0, model: str = "") -> None:
        """Record that something is not kept. MODEL is empty for that of the instance."""
        self.dropped.append((reason, message, tokens, size, model))


@dataclass(frozen=True, slots=True)
class _Writing:
    """A slot that the engine is saving."""

    slot: int
    tokens: int | None
    most: int  # bytes that the file may have
    began: float  # monotonic seconds


Steps = Generator[EngineCall, bytes, None]
KeptSlots = Generator[EngineCall, bytes, list[tuple[int, str]]]


class EnginePrompts(ABC):
    """The prompts of one instance: which of its slots are saved and restored. Subclasses say where the files are kept.

    `clock` returns seconds since 1970.
    """

    sees_files = True  # the size of a file is known while it is written

    def __init__(self, engine: SavesPrompts, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock
        self._restoring: int | None = None
        self._writing: _Writing | None = None

    @property
    def writing(self) -> bool:
        """Whether the engine is writing a file that can be looked at."""
        return self.sees_files and self._writing is not None

    # Of a subclass ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def forget(self) -> None:
        """Keep nothing any longer: the engine ended while it was restored."""

    @abstractmethod
    def _rates(self) -> Rates:
        """Return what was measured of the model."""

    @abstractmethod
    def _kept(self) -> KeptSlots:
        """Return the slots to restore, the newest first, with the names of their files. It may yield requests to the engine."""

    @abstractmethod
    def _name(self, slot: int) -> str:
        """Return the name of the file to which a slot is saved."""

    @abstractmethod
    def _mark_restored(self, slot: int, tokens: int, size: int, now: float) -> None:
        """Record that a slot was restored. NOW is the same for all that are restored together."""

    @abstractmethod
    def _drop_unrestored(self, slot: int, reason: str, message: str, moved: Moved) -> None:
        """Keep a slot no longer that could not be restored."""

    @abstractmethod
    def _room(self, slot: int) -> int:
        """Return how many bytes the file of a slot may have."""

    @abstractmethod
    def _prepare(self, slot: int, expected: int, moved: Moved) -> None:
        """Make room for the file of a slot, which will have some EXPECTED bytes."""

    @abstractmethod
    def _written(self, slot: int) -> int | None:
        """Return the bytes of a file that is being written; None if they are not known."""

    def _trim(self, written: int, moved: Moved) -> None:  # noqa: B027 - where they are not known
        """Delete what exceeds the limit beside a file that is being written."""

    @abstractmethod
    def _size(self, slot: int, written: int) -> int:
        """Return the bytes of a new file. WRITTEN is what the engine says. Raise OSError or ValueError if it is not whole."""

    @abstractmethod
    def _add(self, slot: int, tokens: int, size: int, now: float, moved: Moved) -> bool:
        """Keep a file that was written; return False if it is not kept after all."""

    @abstractmethod
    def _discard(self, slot: int) -> None:
        """Handle what was saved of a slot before, as its newest state is not saved."""

    # What is done -----------------------------------------------------------------------------------------------------

    def restore(self, moved: Moved) -> Steps:
        """Yield the requests that restore what is kept, the newest first. What the engine refuses is deleted."""
        rates, now = self._rates(), self._clock()
        for slot, name in (yield from self._kept()):
            began, self._restoring = time.monotonic(), slot
            try:
                body = yield self._engine.restore(slot, name)
                tokens, size = self._engine.read_transfer(body)
            except (EngineRefused, ValueError) as problem:
                self._drop_unrestored(slot, "RestoreFailed", str(problem), moved)
                continue
            rates.record_restore(size, time.monotonic() - began)
            self._mark_restored(slot, tokens, size, now)
            moved.tokens, moved.size = moved.tokens + tokens, moved.size + size
        self._restoring = None

    def save(self, moved: Moved, until: float = inf) -> Steps:
        """Yield the requests that save the slots that were used, those with the most tokens first.

        `until`: when to be done, in monotonic seconds.
        """
        try:
            slots = self._engine.read_slots((yield EngineCall(path=self._engine.slots_path, method=Method.GET)))
        except (EngineRefused, ValueError) as problem:
            moved.drop("SaveFailed", str(problem))
            return
        rate: float | None = None
        used = [each for each in slots if each.used]
        if used:
            try:
                call = EngineCall(path=self._engine.prompt_rate_path, method=Method.GET)
                rate = self._engine.read_prompt_rate((yield call))
            except (EngineRefused, ValueError):
                rate = None
        now = self._clock()
        for slot in sorted(used, key=lambda each: -(each.tokens or 0)):
            if reason := self._unworthy(slot, rate, until - time.monotonic()):
                self._discard(slot.id)
                moved.dropped += [(*reason, slot.tokens or 0, 0, "")] if slot.tokens else []
                continue
            yield from self._save_slot(slot, moved, now)

    def check_size(self, moved: Moved) -> str:
        """Make room for a file that grows beyond what was expected. Return why it must not grow any more, or an empty string."""
        if self._writing is None or not (size := self._written(self._writing.slot)):
            return ""
        if size > self._writing.most:
            return f"it takes more than {self._writing.most / 2**20:.0f} MiB"
        self._trim(size, moved)
        return ""

    def cut_off(self, moved: Moved, reason: str, message: str) -> None:
        """Record that what is being saved or restored is given up."""
        if self._restoring is not None:  # another try would take as long
            self._drop_unrestored(self._restoring, reason, message, moved)
            return
        tokens = 0
        if (writing := self._writing) is not None:
            tokens, seconds = writing.tokens or 0, time.monotonic() - writing.began
            if (written := self._written(writing.slot)) is None:
                self._rates().record_late(tokens, seconds)
            else:
                self._rates().record_cut_off(tokens, written, seconds)
        moved.drop(reason, message, tokens)

    def _save_slot(self, slot: Slot, moved: Moved, now: float) -> Steps:
        rates = self._rates()
        self._prepare(slot.id, int((slot.tokens or 0) * rates.per_token), moved)
        began = time.monotonic()
        self._writing = _Writing(slot.id, slot.tokens, self._room(slot.id), began)
        try:
            tokens, written = self._engine.read_transfer((yield self._engine.save(slot.id, self._name(slot.id))))
            size = self._size(slot.id, written) if tokens else 0
        except (EngineRefused, ValueError, OSError) as problem:
            moved.drop("SaveFailed", str(problem), slot.tokens or 0)
            return
        finally:
            self._writing = None
        if not size:
            return
        rates.record_save(tokens, size, time.monotonic() - began)
        if self._add(slot.id, tokens, size, now, moved):
            moved.tokens, moved.size = moved.tokens + tokens, moved.size + size

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
        if size > (room := self._room(slot.id)):
            rates.doubt_size()
            return ("BudgetExceeded", f"it would take {size / 2**20:.0f} MiB of {room / 2**20:.0f} MiB")
        return None


def _none() -> Steps:
    yield from ()


class PromptTransfer:
    """A SavePrompts or RestorePrompts that is being carried out.

    The owner polls `fd` for `events` until `due`, and calls step() until it returns True. That is within the timeout of the
    command. `prompts` None: the engine saves none. `end_time` is how long, in seconds, the end of an engine that is not reached
    may take to be reported by others. `cut_off`: the engine was not done, and may still be busy.
    """

    def __init__(
        self,
        command: SavePrompts | RestorePrompts,
        prompts: EnginePrompts | None,
        address: tuple[str, int],
        now: float,
        *,
        end_time: float = END_TIME,
        headers: bytes = b"",
    ) -> None:
        self.command = command
        self.moved = Moved()
        self._prompts, self._address, self._headers = prompts, address, headers
        self._phase = "Save" if isinstance(command, SavePrompts) else "Restore"
        self._allowed = MARGIN * command.timeout
        self._deadline = now + self._allowed
        self._end_time = end_time
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
    def unreachable(self) -> bool:
        """Whether the engine closed its last connection, or accepted none, and nothing came after that."""
        return self._problem is not None

    @property
    def events(self) -> int:
        """Events to poll the socket for."""
        return 0 if self._request is None else self._request.events

    def step(self, now: float) -> bool:
        """Do what is possible without waiting; return True once all is done, or it is too late."""
        try:
            if not self._begun:
                self._begun = True
                self._request = self._ask(next(self._steps), now)
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
                    self._problem, self._resume_at = unreachable, now + self._end_time
                    continue
                except EngineRefused as refused:
                    call = self._steps.throw(refused)
                self._request.close()
                self._request = self._ask(call, now)
        except StopIteration:
            self.close()
        except OSError as problem:  # of the files
            self.moved.drop(f"{self._phase}Failed", str(problem))
            self.close()
        return True

    def _ask(self, call: EngineCall, now: float) -> EngineRequest:
        return EngineRequest(self._address, [call], now, headers=self._headers)

    def _why_cut_off(self, prompts: EnginePrompts, now: float) -> tuple[str, str] | None:
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
        return [*said, PromptsSaved(now, order.instance, order.epoch, moved.tokens, moved.size)]

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
