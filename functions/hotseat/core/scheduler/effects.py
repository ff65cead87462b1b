"""The effects of a step of the scheduler: commands in order, residencies with their epochs, and wake times. Pure."""

from dataclasses import dataclass, field

from hotseat.core.messages import Residency
from hotseat.core.policy.api import UNMEASURED_WAIT
from hotseat.core.scheduler.availability import ModelAvailability
from hotseat.core.scheduler.history import StepDurations
from hotseat.core.scheduler.messages import Publish, SchedulerCommand
from hotseat.core.scheduler.state import SchedulerState
from hotseat.core.scheduler.status import min_seconds_to_ready, residents


@dataclass(slots=True)
class Effects:
    """Commands of the step under way, and the newest Residency: each has an epoch of its own."""

    state: SchedulerState
    availability: ModelAvailability
    durations: StepDurations
    epoch: int
    residency: Residency = field(default_factory=Residency)
    auto_max_wait: float = UNMEASURED_WAIT  # seconds: what `maxWait: Auto` stood for in the last decision
    commands: list[SchedulerCommand] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)  # times that the step under way waits for

    @property
    def next_epoch(self) -> int:
        """Epoch of the Residency that is published next."""
        return self.epoch + 1

    def begin(self) -> None:
        """Begin a step, which has said nothing yet."""
        self.commands, self.wakes = [], []

    def add(self, *commands: SchedulerCommand) -> None:
        """Say this."""
        self.commands += commands

    def wake_at(self, *times: float) -> None:
        """Have the machine look again at these times, as far as they are to come."""
        self.wakes += times

    def next_wake(self, now: float) -> float | None:
        """Return the first time to come at which the machine looks again."""
        return min((wake for wake in self.wakes if wake > now), default=None)

    def publish(self, now: float, effective_max_wait: float | None) -> None:
        """Tell routers who holds what, and the bound on waiting in force, in seconds."""
        state, self.epoch = self.state, self.epoch + 1
        who, refusals = (
            residents(state.instances.values(), state.specs),
            dict(self.availability.refusals),
        )
        soonest = min_seconds_to_ready(now, state.specs, state.instances.values(), self.durations, state.capacity)
        self.residency = Residency(self.epoch, who, refusals, effective_max_wait, soonest, now)
        state.changed = self.availability.changed = False
        self.add(Publish(self.residency))

    def publish_changes(self, now: float, effective_max_wait: float | None) -> None:
        """Tell them, where that has changed."""
        if self.state.changed or self.availability.changed:
            self.publish(now, effective_max_wait)
