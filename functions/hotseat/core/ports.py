"""The interfaces that adapters of the core implement. Each has one contract test suite."""

from collections.abc import Callable, Iterable
from typing import Protocol

from hotseat.api.model import Model
from hotseat.core.messages import CacheObserved, Fetch, Observation, Park, PromptCommand, Start, Stop, Wake

Observe = Callable[[Observation], None]


class Runtime(Protocol):
    """Runs engines.

    Commands return at once. Their outcome is reported to `observe`, from any thread, in order per
    instance.

    Every Start ends in exactly one InstanceReleased or InstanceUnproven, maybe after InstanceReady,
    InstanceFailed or a Stop. After InstanceUnproven, InstanceReleased may still follow; a ready
    instance may be measured any number of times, and one that loads may be pending. After an InstanceFailed that `lives`, the runtime
    waits for a Stop. A Stop for an instance that is gone or never was is answered with
    InstanceReleased.

    Each Park is answered by InstanceParked or SleepFailed, each Wake by InstanceReady or
    SleepFailed, of the same turn, unless the instance ends or is stopped before. A runtime that
    cannot park answers SleepFailed. For an instance that is gone: InstanceReleased.

    Each SavePrompts is answered by PromptsSaved, each RestorePrompts by PromptsRestored, unless the
    instance ends or is stopped before. A failure is reported by PromptsDropped before the answer. A
    runtime that keeps no prompt caches answers at once. For an instance that is gone: InstanceReleased.

    Nothing is raised for failures of engines or of the environment. ValueError is for mistakes of
    the caller.
    """

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        """Stop or adopt what an earlier run left, report the cache state of each model, and observe from now on."""

    def update(self, models: Iterable[Model]) -> None:
        """Replace the documents; running instances are left alone. Reports the cache state of each new or changed model.

        A runtime may retry weights that could not be fetched, and report those, too.
        """

    def fetch(self, order: Fetch) -> None:
        """Fetch the weights, without the accelerator. Has no effect while a fetch runs."""

    def start(self, order: Start) -> None:
        """Load the model."""

    def stop(self, order: Stop) -> None:
        """Stop an instance, also while it loads, and prove that it is gone.

        A second Stop with a shorter grace shortens it.
        """

    def park(self, order: Park) -> None:
        """Let a ready engine sleep, and prove that it does. After a failure its process still lives."""

    def wake(self, order: Wake) -> None:
        """Let a parked engine serve again."""

    def handle_prompts(self, order: PromptCommand) -> None:
        """Save or restore the prompt cache of an engine, or limit what is kept of a Workspace."""

    def logs(self, model: str) -> "LogView | None":
        """Return the output of the engine, or None for an unknown model."""

    def close(self) -> None:
        """Close. On one machine all engines are stopped; on a cluster they stay, for the next switcher to adopt."""


class LogView(Protocol):
    """The bounded output of the engine of one model, over its runs."""

    def tail(self, lines: int) -> list[str]:
        """Return the last lines, oldest first, without line ends."""

    def read_after(self, position: int, timeout: float) -> tuple[int, list[str]]:
        """Return the lines after a position (0: from the oldest kept) and the new position.

        Waits up to `timeout` seconds for a line.
        """


class WeightsFetcher(Protocol):
    """Fetches weights. `observe` is called from any thread."""

    def begin(self, observe: Callable[[CacheObserved], None]) -> None:
        """Report to `observe` from now on."""

    def needs_fetch(self, model: Model) -> bool:
        """Whether hotseat fetches a model's weights; if not, they count as cached. No I/O."""

    def tell(self, model: Model) -> None:
        """Report the cache state of a model soon, and every change from then on."""

    def fetch(self, model: Model) -> None:
        """Fetch the weights of a model. A repetition while it runs does nothing."""

    def close(self) -> None:
        """Report no more; fetches that run continue."""
