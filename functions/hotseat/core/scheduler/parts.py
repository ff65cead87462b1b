"""The parts of the scheduler: each owns a piece of its state, and the steps that change that piece alone. Pure.

A part returns the commands that follow. Steps that work on several parts (lifecycle.py, runtime_events.py, policy_view.py,
machine.py) add them to `effects`, by which alone commands, residencies and wake times leave a step.
"""

from dataclasses import dataclass

from hotseat.core.messages import Residency
from hotseat.core.scheduler.availability import ModelAvailability
from hotseat.core.scheduler.demand import DemandState
from hotseat.core.scheduler.effects import Effects
from hotseat.core.scheduler.history import SwitchHistory
from hotseat.core.scheduler.messages import Publish
from hotseat.core.scheduler.pins import Preferences
from hotseat.core.scheduler.replicas import Replicas
from hotseat.core.scheduler.sleep import SleepManager
from hotseat.core.scheduler.state import SchedulerState
from hotseat.core.scheduler.status import min_seconds_to_ready, residents


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of one Workspace."""

    state: SchedulerState  # specs, capacity, instances and the newest residency
    demand: DemandState  # what routers report
    availability: ModelAvailability  # weights, failures, refusals, load requests
    preferences: Preferences  # pins, schedules, the default
    history: SwitchHistory  # switches, and how long their steps take
    sleep: SleepManager
    replicas: Replicas
    effects: Effects

    @classmethod
    def new(cls, workspace: str, epoch: int) -> "Parts":
        """Return the parts of a Workspace of which nothing is known. `epoch` is the last one of an earlier run."""
        state, availability = SchedulerState(workspace, epoch), ModelAvailability()
        history = SwitchHistory(workspace, epoch)  # each switch is an epoch at least
        demand, sleep = DemandState(state, availability), SleepManager(state, history)
        return cls(state, demand, availability, Preferences(), history, sleep, Replicas(), Effects())

    def publish(self, now: float, effective_max_wait: float | None) -> None:
        """Publish a residency with a new epoch, and the bound on waiting in force, in seconds."""
        state = self.state
        state.epoch += 1
        soonest = min_seconds_to_ready(
            now, state.specs, state.instances.values(), self.history.durations, state.capacity
        )
        state.residency = Residency(
            state.epoch,
            residents(state.instances.values(), state.specs),
            dict(self.availability.refusals),
            effective_max_wait,
            soonest,
            now,
        )
        state.changed = self.availability.changed = False
        self.effects.add(Publish(state.residency))

    def publish_changes(self, now: float, effective_max_wait: float | None) -> None:
        """Publish a residency if it has changed."""
        if self.state.changed or self.availability.changed:
            self.publish(now, effective_max_wait)
