"""The edges of the core: what an adapter must do to be one. Each has one contract test suite for all its adapters."""

from collections.abc import Callable, Iterable
from typing import Protocol

from hotseat.api.model import Model
from hotseat.core.messages import Fetch, Observation, Park, Start, Stop, Wake

Observe = Callable[[Observation], None]


class Runtime(Protocol):
    """Runs engines. Commands return at once; what comes of them is told to `observe`, from any thread, in order per instance.

    Every Start ends in exactly one InstanceReleased or InstanceUnproven (maybe after InstanceReady, InstanceFailed, a Stop), and an
    Unproven one may still become Released; a ready one may be measured any number of times. A InstanceFailed that `lives` waits for a
    Stop. A Stop for an instance that is gone or never was is answered with InstanceReleased.
    Each Park is answered by InstanceParked or SleepFailed, each Wake by InstanceReady or SleepFailed, of the same turn, unless the
    instance ends or is stopped before; a runtime that parks nothing answers SleepFailed. For an instance that is gone: InstanceReleased.
    Nothing is raised for what the world does; ValueError is for callers' mistakes.
    """

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        """Take down or adopt what an earlier run left, tell the cache state of each model, and listen from now on."""

    def update(self, models: Iterable[Model]) -> None:
        """Replace the documents; instances that run go on as they are. Tells the cache state of each new or changed model.

        A runtime may look again for weights that could not be had, and tell of those, too.
        """

    def fetch(self, order: Fetch) -> None:
        """Bring the weights, without touching the accelerator. Repeating it while it runs does nothing."""

    def start(self, order: Start) -> None:
        """Load the model."""

    def stop(self, order: Stop) -> None:
        """Stop and prove; also while loading. A second one with a shorter grace shortens it."""

    def park(self, order: Park) -> None:
        """Have a ready engine sleep, and prove that it does. After a failure its process is there still, to be stopped."""

    def wake(self, order: Wake) -> None:
        """Have a parked engine serve again."""

    def logs(self, model: str) -> "LogView | None":
        """Give the engine's output; None for a model it does not know."""

    def close(self) -> None:
        """End: on one machine nothing is left running; on a cluster models stay, for the next switcher to adopt."""


class LogView(Protocol):
    """Bounded output of one model's engine over its runs."""

    def tail(self, lines: int) -> list[str]:
        """Give the last lines, oldest first, without line ends."""

    def read_after(self, position: int, timeout: float) -> tuple[int, list[str]]:
        """Give the lines after a position (0: from the oldest kept) and the new position; waits up to `timeout` seconds for some."""
