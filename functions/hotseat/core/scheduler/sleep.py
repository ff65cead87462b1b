"""Parking: engines that leave the accelerator by falling asleep, and return by waking. Pure.

An instance goes READY → (quiescing, draining as for a stop) → PARKING → PARKED → WAKING → READY.
Parked, it claims host memory and nothing of the accelerator. An engine that does not fall asleep,
or does not wake, is stopped; after a failed wake it is started anew while its requests stay queued.
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

NO_PARK_AFTER_FAILURE = 300.0  # seconds for which a model that failed to park or to wake is stopped instead


@dataclass(slots=True)
class SleepManager:
    """The parked and parking engines.

    In its methods `needed` are the models that should be resident: they are woken, not stopped for
    host memory. `queued` are models with queued requests.
    """

    state: SchedulerState
    history: SwitchHistory
    budget: int | None = None  # bytes of host memory for all that sleep; None: no limit
    measured: dict[str, int] = field(default_factory=dict)  # by model: bytes, when it slept last
    _not_before: dict[str, float] = field(default_factory=dict)  # by model: until when it is stopped instead of parked

    def apply_config(self, budget: int | None, changed: Iterable[str]) -> None:
        """Apply a budget of host memory, in bytes, and let models whose documents `changed` park again."""
        self.budget = budget
        for model in changed:
            self._not_before.pop(model, None)

    # Host memory ------------------------------------------------------------------------------------------------------

    def memory_of(self, instance: Instance) -> int:
        """Return the bytes that an instance holds while parked: as stated, else as measured, else 0."""
        if instance.spec.host_memory is not None:
            return instance.spec.host_memory
        return instance.memory if instance.memory is not None else self.measured.get(instance.model, 0)

    def may_park(self, instance: Instance, now: float, needed: Collection[str], queued: Collection[str]) -> bool | None:
        """Whether a drained instance parks instead of stopping. None: not yet, others free host memory for it first.

        Victims are the least recently used parked engines without queued requests: stopping one
        with them would only be another, and sooner, cold start.
        """
        if (
            not (instance.spec.park or instance.park_ordered)
            or instance.replica > 1
            or instance.leaving
            or now < self._not_before.get(instance.model, 0.0)
        ):
            return False
        others = [h for h in self.state.instances.values() if h is not instance]
        over = self._over(others) + self.memory_of(instance)
        if over <= 0:
            return True
        victims = self._victims(others, over, queued, spared=(*needed, *queued))
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
        """Return the bytes that parked engines hold beyond the budget. Negative where there is space."""
        if self.budget is None:
            return float("-inf")
        return self._sum(instances) - self.budget

    @property
    def held(self) -> int:
        """Return the bytes that parked engines hold."""
        return self._sum(self.state.instances.values())

    def _sum(self, instances: Iterable[Instance]) -> int:
        return sum(self.memory_of(h) for h in instances if h.parked_since is not None)

    def _victims(
        self,
        instances: Iterable[Instance],
        over: float,
        queued: Collection[str],
        *,
        spared: Collection[str],
        all_else: bool = False,
    ) -> list[Instance] | None:
        """Return the parked engines to stop for `over` bytes, beside those that leave already.

        None where all of them are not enough; with `all_else`, all of them then.
        """
        candidates: list[Instance] = []
        for each in instances:
            going = each.state is InstanceState.RELEASING or (each.state is InstanceState.PARKED and each.leaving)
            if each.parked_since is not None and going:
                over -= self.memory_of(each)
            elif each.state is InstanceState.PARKED and each.model not in spared and self.memory_of(each):
                candidates.append(each)
        victims = parked_victims(candidates, over, self.memory_of, queued)
        return victims if all_else or over <= sum(map(self.memory_of, victims)) else None

    # Transitions: each changes the instance and returns the commands --------------------------------------------------

    def park(self, instance: Instance, now: float) -> list[SchedulerCommand]:
        """Tell a drained instance to sleep."""
        if instance.state is InstanceState.DRAINING:
            self.history.durations.record_drain(instance.model, now - instance.since)
        self.history.stop_started(instance.model, now)
        instance.turn += 1
        instance.ready_since, instance.parked_since, instance.memory = None, now, None
        instance.keep_alive, instance.park_ordered = None, False
        self.state.transition(instance, Trigger.PARK, now)
        return [Park(instance.model, instance.id, instance.epoch, instance.turn)]

    def handle(self, instance: Instance, s: InstanceParked | SleepFailed) -> list[SchedulerCommand]:
        """Handle the answer to a Park or Wake. Answers to earlier commands are ignored."""
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
        data["keeps_prompts"] = s.keeps_prompts
        return [Emit("model.parked", instance.model, data)]

    def wake(self, instance: Instance, spec: SchedulingSpec, now: float) -> list[SchedulerCommand]:
        """Tell a parked instance to wake. From now on it claims what its document says."""
        self.history.load_started(instance.model, now, woken=True)
        instance.turn += 1
        instance.asleep, instance.spec = False, spec
        self.state.transition(instance, Trigger.WAKE, now)
        return [Wake(instance.model, instance.id, instance.epoch, instance.turn)]

    def record_woken(self, instance: Instance, seconds: float) -> list[SchedulerCommand]:
        """Record that an instance has woken."""
        instance.parked_since = instance.memory = None
        self.history.durations.record_wake(instance.model, seconds)
        return [Emit("model.woken", instance.model, {"instance": instance.id, "seconds": round(seconds, 4)})]

    # Failures ---------------------------------------------------------------------------------------------------------

    def give_up(self, instance: Instance, now: float, message: str = "") -> list[SchedulerCommand]:
        """Stop an instance that did not park or wake. Without a message: in time."""
        spec, phase = instance.spec, _phase(instance)
        late = (
            f"not asleep within {spec.stop_timeout:g} s (lifecycle.stopTimeout)"
            if phase == "Park"
            else f"not awake within {spec.start_timeout:g} s (lifecycle.startTimeout)"
        )
        said = self.fail(instance, now, f"{phase}Failed" if message else f"{phase}Timeout", message or late)
        instance.leaving = "park_failed" if phase == "Park" else "wake_failed"
        return [Stop(instance.model, instance.id, instance.epoch, spec.stop_timeout), *said]

    def fail(self, instance: Instance, now: float, reason: str, message: str) -> list[SchedulerCommand]:
        """Record that an instance in a sleep state failed.

        Its model may be started anew at once, while its requests stay queued. An engine that ends
        while it parks or wakes has failed at that.
        """
        if instance.state is not InstanceState.PARKED and not reason.startswith(_phase(instance)):
            reason, message = f"{_phase(instance)}Failed", f"{reason}: {message}"
        self._not_before[instance.model] = now + NO_PARK_AFTER_FAILURE
        self.history.load_restarted(instance.model)
        self.history.stop_started(instance.model, now)
        instance.leaving, instance.stop_asked = "failed", now
        self.state.transition(instance, Trigger.FAILED, now, reason)
        return [model_failed(instance.model, instance.id, reason, message)]


def deadline(instance: Instance) -> float | None:
    """Return the time by which an instance must be parked or awake. None: it is neither parking nor waking."""
    if instance.state is InstanceState.PARKING:
        return instance.since + instance.spec.stop_timeout
    return instance.since + instance.spec.start_timeout if instance.state is InstanceState.WAKING else None


def _phase(instance: Instance) -> str:
    return "Park" if instance.state is InstanceState.PARKING else "Wake"
