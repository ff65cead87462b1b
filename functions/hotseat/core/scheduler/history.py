"""The history of switches, the duration of their phases, and averages of what each step has taken. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from hotseat.core.events import Emit

KEPT = 100
STEPS = ("load", "drain", "stop", "park", "wake")
SOON = 600.0  # seconds for which a load that was given up is remembered
_WEIGHT = 0.3  # of the newest measurement in a moving average


@dataclass(slots=True)
class Eviction:
    """One model's way off the accelerator; times are None until they come."""

    model: str
    draining: float | None = None
    stopping: float | None = None
    released: float | None = None


@dataclass(slots=True)
class Switch:
    """One change of who holds the accelerator. Times are seconds on the machine's clock."""

    id: str
    workspace: str
    to: str
    reason: str
    requested: float
    decided: float
    waiting: int
    leaving: dict[str, Eviction] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    outcome: str = "running"
    message: str = ""

    def phases(self) -> dict[str, float]:
        """Seconds of each phase that has ended: wait, drain, release, load, total."""
        result = {"wait": self.decided - self.requested}
        gone = self.leaving.values()
        drains = [d.stopping - d.draining for d in gone if d.stopping is not None and d.draining is not None]
        releases = [d.released - d.stopping for d in gone if d.released is not None and d.stopping is not None]
        result["drain"] = max(drains, default=0.0)
        result["release"] = max(releases, default=0.0)
        if self.started is not None and self.ended is not None:
            result["load"] = self.ended - self.started
        if self.ended is not None:
            result["total"] = self.ended - self.decided
        return {phase: round(seconds, 4) for phase, seconds in result.items()}

    def describe(self) -> dict[str, Any]:
        """Fields that its events share."""
        return {
            "switch": self.id,
            "workspace": self.workspace,
            "from": list(self.leaving),
            "to": self.to,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """A moving average of seconds, and of how far they were from it."""

    mean: float = 0.0
    spread: float = 0.0

    def after(self, seconds: float) -> "Estimate":
        """Learn from one more."""
        off = seconds - self.mean
        return Estimate(self.mean + _WEIGHT * off, self.spread + _WEIGHT * (abs(off) - self.spread))


UNKNOWN = Estimate()


@dataclass(slots=True)
class StepDurations:
    """What loading and stopping each model takes, learned from each time."""

    load: dict[str, Estimate] = field(default_factory=dict)
    drain: dict[str, Estimate] = field(default_factory=dict)
    stop: dict[str, Estimate] = field(default_factory=dict)
    park: dict[str, Estimate] = field(default_factory=dict)
    wake: dict[str, Estimate] = field(default_factory=dict)

    def record_load(self, model: str, seconds: float) -> None:
        """Learn from a load."""
        _record(self.load, model, seconds)

    def record_drain(self, model: str, seconds: float) -> None:
        """Learn how long what was in flight took, when nothing came after it."""
        _record(self.drain, model, seconds)

    def record_stop(self, model: str, seconds: float) -> None:
        """Learn from a stop."""
        _record(self.stop, model, seconds)

    def record_park(self, model: str, seconds: float) -> None:
        """Learn from a fall asleep."""
        _record(self.park, model, seconds)

    def record_wake(self, model: str, seconds: float) -> None:
        """Learn from a wake."""
        _record(self.wake, model, seconds)

    def known(self, model: str) -> dict[str, Estimate]:
        """Give all that was learned of a model, by step."""
        return {step: book[model] for step, book in self._books().items() if model in book}

    def learned(self) -> set[str]:
        """Return the models of which anything was learned."""
        return set().union(*self._books().values())

    def restore(self, model: str, known: Mapping[str, Estimate]) -> None:
        """Take in what was learned of it before, by step."""
        books = self._books()
        for step, estimate in known.items():
            books[step][model] = estimate

    def forget(self, model: str) -> None:
        """Forget a model."""
        for book in self._books().values():
            book.pop(model, None)

    def _books(self) -> dict[str, dict[str, Estimate]]:
        return dict(zip(STEPS, (self.load, self.drain, self.stop, self.park, self.wake), strict=True))

    def of(self, model: str, *, parks: bool = False) -> float:
        """Seconds that switching to and away from a model takes; 0 while unknown. `parks`: it sleeps instead of stopping."""
        come, go = self._come_and_go(model, parks)
        return come.mean + go.mean

    def whole(self, model: str, *, parks: bool = False) -> float:
        """Seconds that a switch to and away from a model takes, with the drain, in which ever fewer requests are answered."""
        return self.of(model, parks=parks) + self.drain.get(model, UNKNOWN).mean

    def uncertainty(self, model: str, *, parks: bool = False) -> float:
        """Seconds by which that differs from time to time."""
        come, go = self._come_and_go(model, parks)
        return come.spread + go.spread

    def _come_and_go(self, model: str, parks: bool) -> tuple[Estimate, Estimate]:
        """How it comes, and how it goes; of a sleeper, as if it were loaded and stopped where it has not slept yet."""
        come, go = self.load.get(model, UNKNOWN), self.stop.get(model, UNKNOWN)
        return (self.wake.get(model, come), self.park.get(model, go)) if parks else (come, go)

    def draining(self, model: str) -> float:
        """Seconds that its drain takes, as a rule no more than that."""
        drain = self.drain.get(model, UNKNOWN)
        return drain.mean + drain.spread


def _record(book: dict[str, Estimate], model: str, seconds: float) -> None:
    book[model] = book[model].after(seconds) if model in book else Estimate(seconds)


@dataclass(slots=True)
class SwitchHistory:
    """Switches under way, by the model that comes, and the last that ended. `count`: at least as many as there were before."""

    workspace: str
    count: int = 0
    durations: StepDurations = field(default_factory=StepDurations)
    _running: dict[str, Switch] = field(default_factory=dict)
    _evictions: dict[str, Eviction] = field(default_factory=dict)
    _ended: deque[Switch] = field(default_factory=lambda: deque(maxlen=KEPT))
    _abandoned_loads: dict[str, tuple[float, float]] = field(default_factory=dict)  # by model: see `given_up`

    def drain_started(self, model: str, now: float) -> None:
        """Note that it was told to make room."""
        self._evictions[model] = Eviction(model, draining=now)

    def drain_cancelled(self, model: str) -> None:
        """Note that it may stay after all."""
        self._evictions.pop(model, None)
        for switch in self._running.values():
            switch.leaving.pop(model, None)

    def stop_started(self, model: str, now: float) -> None:
        """Note that it is drained and being stopped."""
        departure = self._evictions.setdefault(model, Eviction(model, draining=now))
        departure.stopping = now

    def released(self, model: str, now: float) -> None:
        """Note that it is proven gone."""
        departure = self._evictions.pop(model, None)
        if departure is not None:
            departure.released = now

    def decided(
        self, model: str, now: float, requested: float, *, leaving: list[str], waiting: int, reason: str
    ) -> list[Emit]:
        """Note that a model shall come; says so once. `leaving` are those that make room."""
        switch = self._running.get(model)
        new = switch is None
        if switch is None:
            self.count += 1
            id_ = f"{self.workspace}/{self.count}"
            switch = Switch(id_, self.workspace, model, reason, min(requested, now), now, waiting)
            self._running[model] = switch
        for name in leaving:
            if name in self._evictions:
                switch.leaving.setdefault(name, self._evictions[name])
        return [Emit("switch.started", model, {**switch.describe(), "waiting": waiting})] if new else []

    def under_way(self) -> set[str]:
        """Give the models that switches bring."""
        return set(self._running)

    def promised(self, model: str) -> bool:
        """Whether a switch to it has been decided that still waits for others to leave."""
        switch = self._running.get(model)
        return switch is not None and switch.started is None

    def load_started(self, model: str, now: float) -> None:
        """Its engine is being started."""
        if model in self._running:
            self._running[model].started = now

    def load_restarted(self, model: str) -> None:
        """Note that it did not wake: its switch waits for its own release, and then for a load."""
        if model in self._running:
            self._running[model].started = None

    def ready(self, model: str, now: float) -> list[Emit]:
        """Note that it is ready."""
        self._abandoned_loads.pop(model, None)
        return self._end(model, now, "completed", "switch.completed", {})

    def failed(self, model: str, now: float, phase: str, code: str, message: str) -> list[Emit]:
        """Note that it did not get ready."""
        return self._end(model, now, "failed", "switch.failed", {"phase": phase, "code": code, "message": message})

    def cancelled(self, model: str, now: float, phase: str, code: str, message: str) -> list[Emit]:
        """Note that it was given up before it got ready: nothing went wrong, but it is not next any longer."""
        switch = self._running.get(model)
        if switch is not None and switch.started is not None:
            self._abandoned_loads[model] = (now, now - switch.started)
        return self._end(
            model, now, "cancelled", "switch.cancelled", {"phase": phase, "code": code, "message": message}
        )

    def abandoned_load_seconds(self, model: str, now: float) -> float:
        """Seconds that a model's last load had taken when it was given up, if that was lately and it was not ready since; else 0."""
        at, seconds = self._abandoned_loads.get(model, (-inf, 0.0))
        return seconds if now - at < SOON else 0.0

    def failed_release(self, model: str, now: float, message: str) -> list[Emit]:
        """Fail every switch that waits for a model that cannot be proven gone."""
        waiting = [to for to, switch in self._running.items() if model in switch.leaving and switch.started is None]
        return [e for to in waiting for e in self.failed(to, now, "release", "ReleaseUnproven", message)]

    def cancel_unwanted(self, wanted: set[str], now: float) -> list[Emit]:
        """End the switches to models that nobody wants any longer."""
        gone = [to for to in self._running if to not in wanted]
        message = "the load was cancelled: no request is queued for the model, or another model goes first"
        return [e for to in gone for e in self.cancelled(to, now, "drain", "Abandoned", message)]

    def switches(self) -> tuple[Switch, ...]:
        """All that are known, oldest first."""
        return (*self._ended, *self._running.values())

    def _end(self, model: str, now: float, outcome: str, event: str, extra: dict[str, str]) -> list[Emit]:
        switch = self._running.pop(model, None)
        if switch is None:
            return []
        switch.ended, switch.outcome, switch.message = now, outcome, extra.get("message", "")
        self._ended.append(switch)
        return [Emit(event, model, {**switch.describe(), "phases": switch.phases(), **extra})]
