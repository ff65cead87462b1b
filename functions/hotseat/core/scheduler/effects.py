"""The effects of one step of the scheduler: commands in order, and wake times. Pure."""

from dataclasses import dataclass, field

from hotseat.core.scheduler.messages import SchedulerCommand


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
