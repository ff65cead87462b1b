"""The history of switches, the duration of their phases, and EWMAs of the duration of each step. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from hotseat.core.events import Emit

KEPT = 100
STEPS = ("load", "drain", "stop", "park", "wake", "save", "restore")
SOON = 600.0  # seconds for which a cancelled load is remembered
_WEIGHT = 0.3  # of the newest measurement in a moving average


@dataclass(slots=True)
class Eviction:
    """The times of an eviction. None: not yet."""

    model: str
    draining: float | None = None
    stopping: float | None = None
    released: float | None = None
    saving: float | None = None  # only where it saves its prompt cache
    saved: int = 0  # bytes of that


@dataclass(slots=True)
class Switch:
    """A change of residents. Times are seconds on the clock of the scheduler."""

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
    restoring: float | None = None  # only where it restores its prompt cache
    restored: int = 0  # bytes of that
    woken: bool = False  # its process was parked

    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase that has ended: wait, drain, save, release, load, restore, total.

        Save and restore are missing where no prompt cache was saved or restored.
        """
        result = {"wait": self.decided - self.requested}
        gone = self.leaving.values()
        drained = [(d, d.stopping if d.saving is None else d.saving) for d in gone]
        drains = [until - d.draining for d, until in drained if until is not None and d.draining is not None]
        saves = [d.stopping - d.saving for d in gone if d.stopping is not None and d.saving is not None]
        releases = [d.released - d.stopping for d in gone if d.released is not None and d.stopping is not None]
        result["drain"] = max(drains, default=0.0)
        if saves:
            result["save"] = max(saves)
        result["release"] = max(releases, default=0.0)
        loaded = self.ended if self.restoring is None else self.restoring
        if self.started is not None and loaded is not None:
            result["load"] = loaded - self.started
        if self.restoring is not None and self.ended is not None:
            result["restore"] = self.ended - self.restoring
        if self.ended is not None:
            result["total"] = self.ended - self.decided
        return {phase: round(seconds, 4) for phase, seconds in result.items()}

    def describe(self) -> dict[str, Any]:
        """Return the fields that all events of a switch have."""
        return {
            "switch": self.id,
            "workspace": self.workspace,
            "from": list(self.leaving),
            "to": self.to,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """An EWMA of seconds, and of the absolute deviation from it."""

    mean: float = 0.0
    spread: float = 0.0

    def after(self, seconds: float) -> "Estimate":
        """Return the estimate after one more measurement."""
        off = seconds - self.mean
        return Estimate(self.mean + _WEIGHT * off, self.spread + _WEIGHT * (abs(off) - self.spread))


UNKNOWN = Estimate()


@dataclass(slots=True)
class StepDurations:
    """What each step takes, by model, in seconds: an EWMA."""

    load: dict[str, Estimate] = field(default_factory=dict)
    drain: dict[str, Estimate] = field(default_factory=dict)
    stop: dict[str, Estimate] = field(default_factory=dict)
    park: dict[str, Estimate] = field(default_factory=dict)
    wake: dict[str, Estimate] = field(default_factory=dict)
    save: dict[str, Estimate] = field(default_factory=dict)
    restore: dict[str, Estimate] = field(default_factory=dict)

    def record_load(self, model: str, seconds: float) -> None:
        """Record a load."""
        _record(self.load, model, seconds)

    def record_drain(self, model: str, seconds: float) -> None:
        """Record how long requests in flight took after the last was dispatched."""
        _record(self.drain, model, seconds)

    def record_stop(self, model: str, seconds: float) -> None:
        """Record a stop."""
        _record(self.stop, model, seconds)

    def record_park(self, model: str, seconds: float) -> None:
        """Record a park."""
        _record(self.park, model, seconds)

    def record_wake(self, model: str, seconds: float) -> None:
        """Record a wake."""
        _record(self.wake, model, seconds)

    def record_prompts(self, model: str, phase: str, seconds: float) -> None:
        """Record a `save` or a `restore` of a prompt cache."""
        _record(self._steps()[phase], model, seconds)

    def known(self, model: str) -> dict[str, Estimate]:
        """Return the estimates of a model, by step."""
        return {step: models[model] for step, models in self._steps().items() if model in models}

    def learned(self) -> set[str]:
        """Return the models with an estimate."""
        return set().union(*self._steps().values())

    def apply_known(self, model: str, known: Mapping[str, Estimate]) -> None:
        """Apply the estimates of a model that an earlier run learned, by step."""
        steps = self._steps()
        for step, estimate in known.items():
            steps[step][model] = estimate

    def forget(self, model: str) -> None:
        """Forget a model."""
        for models in self._steps().values():
            models.pop(model, None)

    def forget_prompts(self, model: str) -> None:
        """Forget how long a model saves and restores its prompt cache."""
        for models in (self.save, self.restore):
            models.pop(model, None)

    def _steps(self) -> dict[str, dict[str, Estimate]]:
        each = (self.load, self.drain, self.stop, self.park, self.wake, self.save, self.restore)
        return dict(zip(STEPS, each, strict=True))

    def of(self, model: str, *, parks: bool = False) -> float:
        """Return the seconds that a load and a stop take, 0 while unknown, with its prompt cache. `parks`: wake and park instead."""
        return sum(each.mean for each in self._come_and_go(model, parks))

    def whole(self, model: str, *, parks: bool = False) -> float:
        """Return the seconds that a load and a stop take, with the drain, in which throughput falls."""
        return self.of(model, parks=parks) + self.drain.get(model, UNKNOWN).mean

    def uncertainty(self, model: str, *, parks: bool = False) -> float:
        """Return the seconds by which that varies."""
        return sum(each.spread for each in self._come_and_go(model, parks))

    def _come_and_go(self, model: str, parks: bool) -> tuple[Estimate, ...]:
        """Return the estimates of a load and a stop, or of a wake and a park where they are known."""
        come, go = self.load.get(model, UNKNOWN), self.stop.get(model, UNKNOWN)
        if parks:
            return (self.wake.get(model, come), self.park.get(model, go))
        return (come, go, self.save.get(model, UNKNOWN), self.restore.get(model, UNKNOWN))

    def draining(self, model: str) -> float:
        """Return the seconds that a drain mostly takes at most."""
        drain = self.drain.get(model, UNKNOWN)
        return drain.mean + drain.spread


def _record(estimates: dict[str, Estimate], model: str, seconds: float) -> None:
    estimates[model] = estimates[model].after(seconds) if model in estimates else Estimate(seconds)


@dataclass(slots=True)
class SwitchHistory:
    """Running switches, by the model that is loaded, and the last that ended. `count` is the number of the last switch."""

    workspace: str
    count: int = 0
    durations: StepDurations = field(default_factory=StepDurations)
    _running: dict[str, Switch] = field(default_factory=dict)
    _evictions: dict[str, Eviction] = field(default_factory=dict)
    _ended: deque[Switch] = field(default_factory=lambda: deque(maxlen=KEPT))
    # By model: see `abandoned_load_seconds`.
    _abandoned_loads: dict[str, tuple[float, float]] = field(default_factory=dict)

    def drain_started(self, model: str, now: float) -> None:
        """Record that a model began to drain."""
        self._evictions[model] = Eviction(model, draining=now)

    def drain_cancelled(self, model: str) -> None:
        """Record that a model stays after all."""
        self._evictions.pop(model, None)
        for switch in self._running.values():
            switch.leaving.pop(model, None)

    def save_started(self, model: str, now: float) -> None:
        """Record that a model saves its prompt cache."""
        self._evictions.setdefault(model, Eviction(model, draining=now)).saving = now

    def restore_started(self, model: str, now: float) -> None:
        """Record that a model has loaded, and restores its prompt cache."""
        if model in self._running:
            self._running[model].restoring = now

    def prompts_moved(self, model: str, phase: str, size: int) -> None:
        """Record the bytes of a prompt cache that was saved or restored (`phase`)."""
        if phase == "save" and model in self._evictions:
            self._evictions[model].saved = size
        elif phase == "restore" and model in self._running:
            self._running[model].restored = size

    def stop_started(self, model: str, now: float) -> None:
        """Record that a model is being stopped."""
        eviction = self._evictions.setdefault(model, Eviction(model, draining=now))
        eviction.stopping = now

    def released(self, model: str, now: float) -> None:
        """Record the proof that a model is gone."""
        eviction = self._evictions.pop(model, None)
        if eviction is not None:
            eviction.released = now

    def decided(
        self, model: str, now: float, requested: float, *, leaving: list[str], waiting: int, reason: str
    ) -> list[Emit]:
        """Record the decision to load a model, for which `leaving` ones are evicted. Return its event, the first time."""
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
        """Return the models that running switches load."""
        return set(self._running)

    def promised(self, model: str) -> bool:
        """Whether a switch to a model is decided and its load has not started."""
        switch = self._running.get(model)
        return switch is not None and switch.started is None

    def load_started(self, model: str, now: float, *, woken: bool = False) -> None:
        """Record that a load starts. `woken`: a parked process wakes instead."""
        if model in self._running:
            self._running[model].started, self._running[model].woken = now, woken

    def load_restarted(self, model: str) -> None:
        """Record that a model did not wake, or ended while it restored: its switch waits for its release, and then for a load."""
        if model in self._running:
            self._running[model].started = self._running[model].restoring = None
            self._running[model].woken = False

    def ready(self, model: str, now: float) -> list[Emit]:
        """Record that a model is ready."""
        self._abandoned_loads.pop(model, None)
        return self._end(model, now, "completed", "switch.completed", {})

    def failed(self, model: str, now: float, phase: str, code: str, message: str) -> list[Emit]:
        """Record that a model did not get ready."""
        return self._end(model, now, "failed", "switch.failed", {"phase": phase, "code": code, "message": message})

    def cancelled(self, model: str, now: float, phase: str, code: str, message: str) -> list[Emit]:
        """Record that a switch was cancelled before its model was ready."""
        switch = self._running.get(model)
        if switch is not None and switch.started is not None:
            self._abandoned_loads[model] = (now, now - switch.started)
        return self._end(
            model, now, "cancelled", "switch.cancelled", {"phase": phase, "code": code, "message": message}
        )

    def abandoned_load_seconds(self, model: str, now: float) -> float:
        """Return the seconds that the last load of a model had taken when it was cancelled.

        0 if it was not cancelled lately, or was ready since.
        """
        at, seconds = self._abandoned_loads.get(model, (-inf, 0.0))
        return seconds if now - at < SOON else 0.0

    def failed_release(self, model: str, now: float, message: str) -> list[Emit]:
        """Fail every switch that waits for a model that cannot be proven gone."""
        waiting = [to for to, switch in self._running.items() if model in switch.leaving and switch.started is None]
        return [e for to in waiting for e in self.failed(to, now, "release", "ReleaseUnproven", message)]

    def cancel_unwanted(self, wanted: set[str], now: float) -> list[Emit]:
        """Cancel the switches to models that are not wanted any longer."""
        gone = [to for to in self._running if to not in wanted]
        message = "the load was cancelled: no request is queued for the model, or another model goes first"
        return [e for to in gone for e in self.cancelled(to, now, "drain", "Abandoned", message)]

    def switches(self) -> tuple[Switch, ...]:
        """Return all switches, oldest first."""
        return (*self._ended, *self._running.values())

    def _end(self, model: str, now: float, outcome: str, event: str, extra: dict[str, str]) -> list[Emit]:
        switch = self._running.pop(model, None)
        if switch is None:
            return []
        switch.ended, switch.outcome, switch.message = now, outcome, extra.get("message", "")
        self._ended.append(switch)
        return [Emit(event, model, {**switch.describe(), "phases": switch.phases(), **extra})]
