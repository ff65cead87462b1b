"""What the switching machine knows, in parts: each owns a piece of it, and the steps that change that piece alone. Pure.

A part returns what has to be said; the steps that work on several parts (lifecycle.py, runtime_events.py, policy_view.py, machine.py)
put it into `out`, which is the only way for a command, a Residency or a wake time to leave a step.
"""

from dataclasses import dataclass

from hotseat.core.scheduler.availability import ModelAvailability
from hotseat.core.scheduler.demand import DemandState
from hotseat.core.scheduler.effects import Effects
from hotseat.core.scheduler.history import SwitchHistory
from hotseat.core.scheduler.pins import Preferences
from hotseat.core.scheduler.replicas import Replicas
from hotseat.core.scheduler.sleep import SleepManager
from hotseat.core.scheduler.state import SchedulerState


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of one Workspace."""

    state: SchedulerState  # documents, capacity, and instances
    demand: DemandState  # what routers report
    availability: ModelAvailability  # weights, failures, refusals, orders
    preferences: Preferences  # pins, schedules, the default
    history: SwitchHistory  # switches, and what their steps take
    sleep: SleepManager
    replicas: Replicas
    effects: Effects

    @classmethod
    def new(cls, workspace: str, epoch: int) -> "Parts":
        """Return the parts of a Workspace of which nothing is known; `epoch` is the last one of an earlier run."""
        state, availability = SchedulerState(workspace), ModelAvailability()
        history = SwitchHistory(workspace, epoch)  # each switch is an epoch at least
        demand, sleep = DemandState(state, availability), SleepManager(state, history)
        effects = Effects(state, availability, history.durations, epoch)
        return cls(state, demand, availability, Preferences(), history, sleep, Replicas(), effects)
