"""A scheduler for a test, short ways to send it stimuli, and the commands that its tests expect."""

from collections.abc import Mapping
from typing import Any

from hotseat.core.events import Emit
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    QueuedDemand,
    Refusal,
    Residency,
    Resident,
)
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import (
    ConfigChanged,
    DemandReported,
    Publish,
    SchedulerCommand,
    SchedulingSpec,
    Tick,
)

READY, QUIESCING, DRAINING = InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING
LOADING, RELEASING, UNPROVEN = InstanceState.LOADING, InstanceState.RELEASING, InstanceState.UNPROVEN
CACHED, ABSENT, FETCHING, FAILED = CacheState.CACHED, CacheState.ABSENT, CacheState.FETCHING, CacheState.FAILED
SERVER = "http://outside"
EXTERNAL = Resident("x", "x@external", READY, 0, 0.0, SERVER)
SHORT = "the accelerator could not be verified as free: pid 7 is still there; manual action is needed (run: hotseat ps)"


class Story:
    """A switching machine, and short ways of saying things to it."""

    def __init__(self, capacity: Capacity | None = None, **models: SchedulingSpec) -> None:
        self.machine = Scheduler("w", Batch())
        self.capacity = capacity or Capacity(1)
        self.seq = 0
        self.terms = models or {"a": SchedulingSpec(), "b": SchedulingSpec()}
        self.machine.step(ConfigChanged(0.0, self.terms, self.capacity))
        for model in self.terms:
            self.machine.step(CacheObserved(0.0, model, CACHED))

    def demand(
        self,
        now: float,
        waiting: Mapping[str, int] | None = None,
        flight: Mapping[str, int] | None = None,
        *,
        quiescing: Mapping[str, int] | None = None,
        since: float | None = None,
        served: Mapping[str, int] | None = None,
        seen: int | None = None,
        router: str = "r",
        requested: tuple[str, ...] = (),
        keep_alive: Mapping[str, tuple[float, float]] | None = None,
    ) -> list[SchedulerCommand]:
        """A router's snapshot, of one that has seen the newest epoch unless told otherwise."""
        self.seq += 1
        since = now if since is None else since
        queued = {model: QueuedDemand(count, since) for model, count in (waiting or {}).items()}
        seen = self.machine.epoch if seen is None else seen
        snapshot = Demand(
            router,
            self.seq,
            seen,
            queued,
            flight or {},
            served or {},
            quiescing or {},
            requested,
            keep_alive=keep_alive or {},
        )
        return self.machine.step(DemandReported(now, snapshot))

    def ready(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceReady(now, f"w/{model}@{of}", of, f"http://{model}{of}"))

    def released(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceReleased(now, f"w/{model}@{of}", of))

    def failed(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceFailed(now, f"w/{model}@{of}", of, "Exited", "exit code 1", exit_code=1))

    def unproven(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceUnproven(now, f"w/{model}@{of}", of, "pid 7 is still there"))

    def tick(self, now: float) -> list[SchedulerCommand]:
        return self.machine.step(Tick(now))

    def change(
        self, now: float, *, capacity: Capacity | None = None, **models: SchedulingSpec | None
    ) -> list[SchedulerCommand]:
        """Edit some documents; None removes one."""
        self.terms = {name: terms for name, terms in (self.terms | models).items() if terms is not None}
        self.capacity = capacity or self.capacity
        return self.machine.step(ConfigChanged(now, self.terms, self.capacity))

    def states(self) -> dict[str, str]:
        return {status.name: status.state for status in self.machine.status()}

    def load(self, now: float, model: str = "a") -> int:
        """Bring a model to ready, for a request that is in flight from then on; returns its epoch."""
        self.demand(now, {model: 1})
        of = next(h.epoch for h in self.machine.instances.values() if h.model == model)
        self.ready(now, model, of)
        self.demand(now, {}, {f"w/{model}@{of}": 1})
        return of


def who(model: str, state: InstanceState, since: float, of: int, leaving: str | None = None) -> Resident:
    """A resident; one that has been ready has an address."""
    return Resident(
        model, f"w/{model}@{of}", state, of, since, None if state is LOADING else f"http://{model}{of}", leaving
    )


def unready(model: str, state: InstanceState, since: float, of: int, leaving: str) -> Resident:
    """A resident that goes without having been ready."""
    return Resident(model, f"w/{model}@{of}", state, of, since, None, leaving)


def publish(
    epoch: int,
    *residents: Resident,
    refuse: dict[str, Refusal] | None = None,
    bound: float | None = None,
    outlook: dict[str, float] | None = None,
) -> Publish:
    return Publish(Residency(epoch, residents, refuse or {}, bound, outlook or {}))


def switch(number: int, to: str, *leaving: str, reason: str = "demand") -> dict[str, Any]:
    return {"switch": f"w/{number}", "workspace": "w", "from": list(leaving), "to": to, "reason": reason}


def started(number: int, to: str, *leaving: str, waiting: int = 1, reason: str = "demand") -> Emit:
    return Emit("switch.started", to, switch(number, to, *leaving, reason=reason) | {"waiting": waiting})


def completed(number: int, to: str, *leaving: str, reason: str = "demand", **phases: float) -> Emit:
    nothing = {"wait": 0.0, "drain": 0.0, "release": 0.0, "load": 0.0, "total": 0.0}
    return Emit("switch.completed", to, switch(number, to, *leaving, reason=reason) | {"phases": nothing | phases})


def broken(
    number: int,
    to: str,
    *leaving: str,
    phase: str,
    code: str,
    message: str,
    reason: str = "demand",
    how: str = "failed",
    **phases: float,
) -> Emit:
    facts = switch(number, to, *leaving, reason=reason)
    phases = {"wait": 0.0, "drain": 0.0, "release": 0.0} | phases
    return Emit(f"switch.{how}", to, facts | {"phases": phases, "phase": phase, "code": code, "message": message})


def cancelled(number: int, to: str, *leaving: str, message: str, **more: Any) -> Emit:
    return broken(number, to, *leaving, message=message, how="cancelled", **more)


def is_ready(model: str, of: int, seconds: float) -> Emit:
    return Emit("model.ready", model, {"instance": f"w/{model}@{of}", "seconds": seconds})


def is_released(model: str, of: int, reason: str, seconds: float) -> Emit:
    return Emit("model.released", model, {"instance": f"w/{model}@{of}", "reason": reason, "seconds": seconds})


def has_failed(model: str, of: int | None, reason: str, message: str, retry_after: float | None = None) -> Emit:
    instance = None if of is None else f"w/{model}@{of}"
    data = {"instance": instance, "reason": reason, "message": message, "retry_after": retry_after}
    return Emit("model.failed", model, data)


def crash(model: str, epoch: int, retry_at: float) -> Refusal:
    return Refusal(epoch, "model_failed", f"{model} failed: Exited: exit code 1", retry_at)


def learned(story: Story, load: float) -> None:
    """Have a model's load measured."""
    for model in ("a", "b"):
        story.machine.parts.history.durations.record_load(model, load)
