"""Parking: engines that leave the accelerator by falling asleep, and come back by waking. Pure.

A holder goes READY → (closing, draining as for a stop) → PARKING → PARKED → WAKING → READY. Parked, it claims host memory and
nothing of the accelerator. What does not fall asleep, or does not wake, is stopped; after a failed wake it is started anew while
its requests go on waiting.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hotseat.core.events import Emit, model_failed
from hotseat.core.messages import InstanceParked, InstanceState, Park, SleepFailed, Stop, Wake
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

    seating: SchedulerState
    ledger: SwitchHistory
    budget: int | None = None  # bytes of host memory for all that sleep; None: no limit
    measured: dict[str, int] = field(default_factory=dict)  # by model: bytes, when it slept last
    _distrusted: dict[str, float] = field(default_factory=dict)  # until when

    # Host memory ------------------------------------------------------------------------------------------------------

    def memory_of(self, holder: Instance) -> int:
        """Bytes that it holds while it sleeps: what its Model states, else what was measured, else 0."""
        if holder.terms.host_memory is not None:
            return holder.terms.host_memory
        return holder.memory if holder.memory is not None else self.measured.get(holder.model, 0)

    def parks(self, holder: Instance, now: float, needed: Collection[str], waited_for: Collection[str]) -> bool | None:
        """Say whether a drained holder falls asleep, and does not stop; None: not yet, others give back memory for it first.

        Those are the least recently used, and nobody who is waited for: that would only be another cold start, and a sooner one.
        """
        if (
            not holder.terms.park
            or holder.replica > 1
            or holder.leaving
            or now < self._distrusted.get(holder.model, 0.0)
        ):
            return False
        others = [h for h in self.seating.holders.values() if h is not holder]
        over = self._over(others) + self.memory_of(holder)
        if over <= 0:
            return True
        victims = self._least_recent(others, over, waited_for, spared=(*needed, *waited_for))
        for victim in victims or ():
            victim.leave("host_memory")
        return None if victims is not None else False

    def in_order(self, needed: Collection[str], waited_for: Collection[str]) -> list[Instance]:
        """List all, those that are parked last: others may have to be told first that they need their memory.

        Where more memory is held than there is (the budget shrank, a measurement came), the least recently used have to leave.
        """
        ordered = sorted(self.seating.holders.values(), key=lambda h: h.state is InstanceState.PARKED)
        if (over := self._over(ordered)) > 0:
            for victim in self._least_recent(ordered, over, waited_for, spared=needed, all_else=True) or ():
                victim.leave("host_memory")
        return ordered

    def _over(self, holders: Iterable[Instance]) -> float:
        """Bytes that sleepers hold beyond the budget; below 0 where there is room."""
        if self.budget is None:
            return float("-inf")
        return sum(self.memory_of(h) for h in holders if h.parked_since is not None) - self.budget

    def _least_recent(
        self,
        holders: Iterable[Instance],
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
        for each in holders:
            going = each.state is InstanceState.RELEASING or (each.state is InstanceState.PARKED and each.leaving)
            if each.parked_since is not None and going:
                over -= self.memory_of(each)
            elif each.state is InstanceState.PARKED and each.model not in spared and self.memory_of(each):
                candidates.append(each)
        victims: list[Instance] = []
        for each in sorted(candidates, key=lambda h: (h.model in waited_for, h.last_used, h.id)):
            if over <= 0:
                break
            victims.append(each)
            over -= self.memory_of(each)
        return victims if over <= 0 or all_else else None

    # Transitions: each changes the holder, and returns what is to be said ---------------------------------------------

    def fall_asleep(self, holder: Instance, now: float) -> list[SchedulerCommand]:
        """Tell it to leave the accelerator."""
        if holder.state is InstanceState.DRAINING:
            self.ledger.costs.note_drain(holder.model, now - holder.since)
        self.ledger.stopping(holder.model, now)
        holder.turn += 1
        holder.ready_since, holder.parked_since, holder.memory = None, now, None
        self.seating.go(holder, Trigger.PARK, now)
        return [Park(holder.model, holder.id, holder.epoch, holder.turn)]

    def hear(self, holder: Instance, s: InstanceParked | SleepFailed) -> list[SchedulerCommand]:
        """Take in what came of an order; what answers an earlier order says nothing."""
        expected = (
            (InstanceState.PARKING,) if isinstance(s, InstanceParked) else (InstanceState.PARKING, InstanceState.WAKING)
        )
        if holder.turn != s.turn or holder.state not in expected:
            return []
        if isinstance(s, SleepFailed):
            return self.give_up(holder, s.now, s.message)
        seconds = s.now - holder.since
        holder.asleep, holder.memory = True, s.memory
        if s.memory is not None:
            self.measured[holder.model] = s.memory
        self.ledger.costs.note_park(holder.model, seconds)
        self.ledger.released(holder.model, s.now)
        self.seating.go(holder, Trigger.PARKED, s.now)
        data = {"holder": holder.id, "seconds": round(seconds, 4), "memory": self.memory_of(holder) or None}
        return [Emit("model.parked", holder.model, data)]

    def wake(self, holder: Instance, terms: SchedulingSpec, now: float) -> list[SchedulerCommand]:
        """Tell it to come back; from now on it claims what its document says."""
        self.ledger.starting(holder.model, now)
        holder.turn += 1
        holder.asleep, holder.terms = False, terms
        self.seating.go(holder, Trigger.WAKE, now)
        return [Wake(holder.model, holder.id, holder.epoch, holder.turn)]

    def woken(self, holder: Instance, seconds: float) -> list[SchedulerCommand]:
        """Note that it is ready again."""
        holder.parked_since = holder.memory = None
        self.ledger.costs.note_wake(holder.model, seconds)
        return [Emit("model.woken", holder.model, {"holder": holder.id, "seconds": round(seconds, 4)})]

    # Failures ---------------------------------------------------------------------------------------------------------

    def give_up(self, holder: Instance, now: float, message: str = "") -> list[SchedulerCommand]:
        """Stop what did not fall asleep, or did not wake; without a message, because its time is over."""
        terms, what = holder.terms, _what(holder)
        late = (
            f"not asleep within {terms.stop_timeout:g} s (lifecycle.stopTimeout)"
            if what == "Park"
            else f"not awake within {terms.start_timeout:g} s (lifecycle.startTimeout)"
        )
        said = self.died(holder, now, f"{what}Failed" if message else f"{what}Timeout", message or late)
        holder.leaving = "park_failed" if what == "Park" else "wake_failed"
        return [Stop(holder.model, holder.id, holder.epoch, terms.stop_timeout), *said]

    def died(self, holder: Instance, now: float, reason: str, message: str) -> list[SchedulerCommand]:
        """Note that a sleeper is no good any more. It may be started anew at once: whoever waits for it goes on waiting.

        One that ends while it is to fall asleep, or to wake, has failed at that.
        """
        if holder.state is not InstanceState.PARKED and not reason.startswith(_what(holder)):
            reason, message = f"{_what(holder)}Failed", f"{reason}: {message}"
        self._distrusted[holder.model] = now + DISTRUST
        self.ledger.starting_over(holder.model)
        self.ledger.stopping(holder.model, now)
        holder.leaving, holder.stop_asked = "failed", now
        self.seating.go(holder, Trigger.FAILED, now, reason)
        return [model_failed(holder.model, holder.id, reason, message)]

    def mended(self, model: str) -> None:
        """Note that its document has changed, or is gone."""
        self._distrusted.pop(model, None)


def deadline(holder: Instance) -> float | None:
    """Give the time by which it must sleep, or be awake; None where it is not on its way to either."""
    if holder.state is InstanceState.PARKING:
        return holder.since + holder.terms.stop_timeout
    return holder.since + holder.terms.start_timeout if holder.state is InstanceState.WAKING else None


def _what(holder: Instance) -> str:
    return "Park" if holder.state is InstanceState.PARKING else "Wake"
