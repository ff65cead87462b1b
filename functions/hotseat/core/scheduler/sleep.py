"""Parking: engines that leave the accelerator by falling asleep, and come back by waking. Pure.

An instance goes READY → (quiescing, draining as for a stop) → PARKING → PARKED → WAKING → READY. Parked, it claims host memory and
nothing of the accelerator. What does not fall asleep, or does not wake, is stopped; after a failed wake it is started anew while
its requests go on waiting.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hotseat.core.events import Emit, model_failed
from hotseat.core.messages import InstanceParked, InstanceState, Park, SleepFailed, Stop, Wake
from hotseat.core.policy.eviction import parked_victims
from hotseat.core.scheduler.history import SwitchHistory
from hotseat.core.scheduler.instance import Instance, Trigger
from hotseat.core.scheduler.messages import SchedulerCommand, SchedulingSpec
from hotseat.core.scheduler.state import SchedulerState

DISTRUST = 300.0  # seconds in which a model that failed to sleep or to wake is stopped instead


@dataclass(slots=True)
class SleepManager:
    """The book of what sleeps, or may.

    `needed` are names of models that shall be resident: to be woken, not to be stopped for room; `waited_for`, of those that requests
    wait for.
    """

    state: SchedulerState
    history: SwitchHistory
    budget: int | None = None  # bytes of host memory for all that sleep; None: no limit
    measured: dict[str, int] = field(default_factory=dict)  # by model: bytes, when it slept last
    _not_before: dict[str, float] = field(default_factory=dict)  # until when

    def apply_config(self, budget: int | None, changed: Iterable[str]) -> None:
        """Apply a budget of host memory, in bytes, and let models whose documents `changed` park again."""
        self.budget = budget
        for model in changed:
            self._not_before.pop(model, None)

    # Host memory ------------------------------------------------------------------------------------------------------

    def memory_of(self, instance: Instance) -> int:
        """Bytes that it holds while it sleeps: what its Model states, else what was measured, else 0."""
        if instance.spec.host_memory is not None:
            return instance.spec.host_memory
        return instance.memory if instance.memory is not None else self.measured.get(instance.model, 0)

    def may_park(
        self, instance: Instance, now: float, needed: Collection[str], waited_for: Collection[str]
    ) -> bool | None:
        """Say whether a drained instance falls asleep, and does not stop; None: not yet, others give back memory for it first.

        Those are the least recently used, and nobody who is waited for: that would only be another cold start, and a sooner one.
        """
        if (
            not instance.spec.park
            or instance.replica > 1
            or instance.leaving
            or now < self._not_before.get(instance.model, 0.0)
        ):
            return False
        others = [h for h in self.state.instances.values() if h is not instance]
        over = self._over(others) + self.memory_of(instance)
        if over <= 0:
            return True
        victims = self._victims(others, over, waited_for, spared=(*needed, *waited_for))
        for victim in victims or ():
            victim.mark_leaving("host_memory")
        return None if victims is not None else False

    def evict_over_budget(self, needed: Collection[str], queued: Collection[str]) -> None:
        """Let parked instances leave where they hold more than the budget, which shrank or was measured wrong."""
        instances = self.state.instances.values()
        if (over := self._over(instances)) > 0:
            for victim in self._victims(instances, over, queued, spared=needed, all_else=True) or ():
                victim.mark_leaving("host_memory")

    def _over(self, instances: Iterable[Instance]) -> float:
        """Bytes that sleepers hold beyond the budget; below 0 where there is room."""
        if self.budget is None:
            return float("-inf")
        return sum(self.memory_of(h) for h in instances if h.parked_since is not None) - self.budget

    def _victims(
        self,
        instances: Iterable[Instance],
        over: float,
        waited_for: Collection[str],
        *,
        spared: Collection[str],
        all_else: bool = False,
    ) -> list[Instance] | None:
        """Choose parked ones to make up for what is too much, beside those that go already.

        None where all of them would not do; `all_else`: then all of them.
        """
        candidates: list[Instance] = []
        for each in instances:
            going = each.state is InstanceState.RELEASING or (each.state is InstanceState.PARKED and each.leaving)
            if each.parked_since is not None and going:
                over -= self.memory_of(each)
            elif each.state is InstanceState.PARKED and each.model not in spared and self.memory_of(each):
                candidates.append(each)
        victims = parked_victims(candidates, over, self.memory_of, waited_for)
        return victims if all_else or over <= sum(map(self.memory_of, victims)) else None

    # Transitions: each changes the instance, and returns what is to be said ---------------------------------------------

    def park(self, instance: Instance, now: float) -> list[SchedulerCommand]:
        """Tell it to leave the accelerator."""
        if instance.state is InstanceState.DRAINING:
            self.history.durations.record_drain(instance.model, now - instance.since)
        self.history.stop_started(instance.model, now)
        instance.turn += 1
        instance.ready_since, instance.parked_since, instance.memory = None, now, None
        self.state.transition(instance, Trigger.PARK, now)
        return [Park(instance.model, instance.id, instance.epoch, instance.turn)]

    def handle(self, instance: Instance, s: InstanceParked | SleepFailed) -> list[SchedulerCommand]:
        """Take in what came of an order; what answers an earlier order says nothing."""
        expected = (
            (InstanceState.PARKING,) if isinstance(s, InstanceParked) else (InstanceState.PARKING, InstanceState.WAKING)
        )
        if instance.turn != s.turn or instance.state not in expected:
            return []
        if isinstance(s, SleepFailed):
            return self.give_up(instance, s.now, s.message)
        seconds = s.now - instance.since
        instance.asleep, instance.memory = True, s.memory
        if s.memory is not None:
            self.measured[instance.model] = s.memory
        self.history.durations.record_park(instance.model, seconds)
        self.history.released(instance.model, s.now)
        self.state.transition(instance, Trigger.PARKED, s.now)
        data = {"instance": instance.id, "seconds": round(seconds, 4), "memory": self.memory_of(instance) or None}
        return [Emit("model.parked", instance.model, data)]

    def wake(self, instance: Instance, spec: SchedulingSpec, now: float) -> list[SchedulerCommand]:
        """Tell it to come back; from now on it claims what its document says."""
        self.history.load_started(instance.model, now)
        instance.turn += 1
        instance.asleep, instance.spec = False, spec
        self.state.transition(instance, Trigger.WAKE, now)
        return [Wake(instance.model, instance.id, instance.epoch, instance.turn)]

    def record_woken(self, instance: Instance, seconds: float) -> list[SchedulerCommand]:
        """Note that it is ready again."""
        instance.parked_since = instance.memory = None
        self.history.durations.record_wake(instance.model, seconds)
        return [Emit("model.woken", instance.model, {"instance": instance.id, "seconds": round(seconds, 4)})]

    # Failures ---------------------------------------------------------------------------------------------------------

    def give_up(self, instance: Instance, now: float, message: str = "") -> list[SchedulerCommand]:
        """Stop what did not fall asleep, or did not wake; without a message, because its time is over."""
        spec, what = instance.spec, _what(instance)
        late = (
            f"not asleep within {spec.stop_timeout:g} s (lifecycle.stopTimeout)"
            if what == "Park"
            else f"not awake within {spec.start_timeout:g} s (lifecycle.startTimeout)"
        )
        said = self.fail(instance, now, f"{what}Failed" if message else f"{what}Timeout", message or late)
        instance.leaving = "park_failed" if what == "Park" else "wake_failed"
        return [Stop(instance.model, instance.id, instance.epoch, spec.stop_timeout), *said]

    def fail(self, instance: Instance, now: float, reason: str, message: str) -> list[SchedulerCommand]:
        """Note that a sleeper is no good any more. It may be started anew at once: whoever waits for it goes on waiting.

        One that ends while it is to fall asleep, or to wake, has failed at that.
        """
        if instance.state is not InstanceState.PARKED and not reason.startswith(_what(instance)):
            reason, message = f"{_what(instance)}Failed", f"{reason}: {message}"
        self._not_before[instance.model] = now + DISTRUST
        self.history.load_restarted(instance.model)
        self.history.stop_started(instance.model, now)
        instance.leaving, instance.stop_asked = "failed", now
        self.state.transition(instance, Trigger.FAILED, now, reason)
        return [model_failed(instance.model, instance.id, reason, message)]


def deadline(instance: Instance) -> float | None:
    """Give the time by which it must sleep, or be awake; None where it is not on its way to either."""
    if instance.state is InstanceState.PARKING:
        return instance.since + instance.spec.stop_timeout
    return instance.since + instance.spec.start_timeout if instance.state is InstanceState.WAKING else None


def _what(instance: Instance) -> str:
    return "Park" if instance.state is InstanceState.PARKING else "Wake"
