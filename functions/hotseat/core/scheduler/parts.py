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

    scheduler_state: SchedulerState  # documents, capacity, and instances
    demand_state: DemandState  # what routers report
    availability: ModelAvailability  # weights, failures, refusals, orders
    preferences: Preferences  # pins, schedules, the default
    history: SwitchHistory  # switches, and what their steps take
    parking: SleepManager
    replicas: Replicas
    out: Effects

    @classmethod
    def new(cls, workspace: str, epoch: int) -> "Parts":
        """Return the parts of a Workspace of which nothing is known; `epoch` is the last one of an earlier run."""
        scheduler_state, availability = SchedulerState(workspace), ModelAvailability()
        history = SwitchHistory(workspace, epoch)  # each switch is an epoch at least
        demand_state, parking = DemandState(scheduler_state, availability), SleepManager(scheduler_state, history)
        out = Effects(scheduler_state, availability, history.costs, epoch)
        return cls(scheduler_state, demand_state, availability, Preferences(), history, parking, Replicas(), out)
