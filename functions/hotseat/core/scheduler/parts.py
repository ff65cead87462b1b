"""The parts of the scheduler and the effects of one of its steps: commands, residencies, wake times. Pure."""

from dataclasses import dataclass, field

from hotseat.core.messages import Residency
from hotseat.core.scheduler.availability import ModelAvailability
from hotseat.core.scheduler.demand import DemandState
from hotseat.core.scheduler.history import SwitchHistory
from hotseat.core.scheduler.messages import Publish, SchedulerCommand
from hotseat.core.scheduler.preferences import Preferences
from hotseat.core.scheduler.prompts import PromptCaches
from hotseat.core.scheduler.replicas import Replicas
from hotseat.core.scheduler.sleep import SleepManager
from hotseat.core.scheduler.state import SchedulerState
from hotseat.core.scheduler.status import min_seconds_to_ready, residents


@dataclass(slots=True)
class Effects:
    """The commands and wake times of the current step."""

    commands: list[SchedulerCommand] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Begin a step."""
        self.commands, self.wakes = [], []

    def add(self, *commands: SchedulerCommand) -> None:
        """Append commands."""
        self.commands += commands

    def wake_at(self, *times: float) -> None:
        """Have the scheduler decide again at these times. Times that have passed are ignored."""
        self.wakes += times

    def next_wake(self, now: float) -> float | None:
        """Return the first wake time after `now`, or None."""
        return min((wake for wake in self.wakes if wake > now), default=None)


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of one Workspace."""

    state: SchedulerState  # specs, capacity, instances and the newest residency
    demand: DemandState  # what routers report
    availability: ModelAvailability  # weights, failures, refusals, load requests
    preferences: Preferences  # pins, schedules, the default
    history: SwitchHistory  # switches, and how long their steps take
    sleep: SleepManager
    prompts: PromptCaches
    replicas: Replicas
    effects: Effects

    @classmethod
    def new(cls, workspace: str, epoch: int) -> "Parts":
        """Return the parts of a Workspace of which nothing is known. `epoch` is the last one of an earlier run."""
        state, availability = SchedulerState(workspace, epoch), ModelAvailability()
        history = SwitchHistory(workspace, epoch)  # each switch is an epoch at least
        demand, sleep = DemandState(state, availability), SleepManager(state, history)
        prompts = PromptCaches(state, history, sleep)
        return cls(state, demand, availability, Preferences(), history, sleep, prompts, Replicas(), Effects())

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
