"""Commands of operators to a Workspace, and their results: load, unload, pin and unpin."""

from collections.abc import Callable

from hotseat.control.scheduler_thread import SchedulerThread
from hotseat.core.errors import Unavailable
from hotseat.core.messages import InstanceState
from hotseat.core.scheduler.messages import LoadOrdered, ModelStatus, PinOrdered, UnloadOrdered, UnpinOrdered

STEP_TIMEOUT = 5.0  # seconds for a command that takes the scheduler one step


class ModelCommands:
    """Sends commands to a scheduler and waits for their results."""

    def __init__(self, scheduler: SchedulerThread, clock: Callable[[], float]) -> None:
        self.scheduler = scheduler
        self._clock = clock

    def status(self, model: str) -> ModelStatus:
        """Return the state of a model. `unloaded` if the scheduler has not seen it yet."""
        return next((s for s in self.scheduler.status() if s.name == model), ModelStatus(model, "unloaded"))

    def load(self, model: str, timeout: float | None) -> ModelStatus:
        """Load a model and wait until it is ready.

        Raise Unavailable with the reason. timeout 0: do not wait.
        """
        before, command = self.status(model), LoadOrdered(self._clock(), model)
        if timeout == 0:
            self.scheduler.send(command)
            return before
        return self._until_ready(command, model, timeout)

    def pin(self, model: str, timeout: float | None) -> ModelStatus:
        """Pin a model and wait as `load` does. Raise Unavailable `pinned` if it can never fit beside other pinned models.

        The answer about the pin is immediate, also with timeout 0.
        """
        command = PinOrdered(self._clock(), model)
        if timeout != 0:
            return self._until_ready(command, model, timeout)
        status = self.scheduler.execute(command, lambda: self.status(model), STEP_TIMEOUT)
        if status is None:
            raise Unavailable(
                f"the scheduler has not answered yet; {model} will be pinned when it does", code="busy", retry_after=5.0
            )
        refusal = self.scheduler.residency.refusals.get(model)
        if refusal is not None and not status.pinned:
            raise Unavailable(refusal.message, code=refusal.code, retry_after=5.0)
        return status

    def unpin(self, model: str) -> ModelStatus:
        """Unpin a model, whatever pinned it."""
        status = self.scheduler.execute(UnpinOrdered(self._clock(), model), lambda: self.status(model), STEP_TIMEOUT)
        return self.status(model) if status is None else status

    def _until_ready(self, command: LoadOrdered | PinOrdered, model: str, timeout: float | None) -> ModelStatus:
        def outcome() -> ModelStatus | None:
            return None if self.scheduler.has_load_request(model) else self.status(model)

        status = self.scheduler.execute(command, outcome, timeout)
        if status is None:
            raise Unavailable(f"{model} is not ready yet; loading continues", code="loading", retry_after=5.0)
        if status.state == "failed":
            raise Unavailable(f"{model} failed: {status.message}", code="model_failed", retry_after=5.0)
        refusal = self.scheduler.residency.refusals.get(model)
        if status.state != "ready" and refusal is not None:
            raise Unavailable(refusal.message, code=refusal.code, retry_after=5.0)
        if status.state != "ready":
            raise Unavailable(f"{model} was unloaded before it was ready", code="unloaded", retry_after=5.0)
        return status

    def unload(self, model: str, timeout: float | None) -> ModelStatus:
        """Unload a model and wait until it is verified to be gone.

        Raise Unavailable otherwise. timeout 0: do not wait.
        """
        command = UnloadOrdered(self._clock(), model)
        if timeout == 0:
            self.scheduler.send(command)
            return self.status(model)
        leaving: set[str] = set()

        def outcome() -> ModelStatus | None:
            instances = self.scheduler.instances(model)
            if not leaving:
                leaving.update(instances)
            left = {instances[each] for each in leaving & instances.keys()}
            return None if left - {InstanceState.UNPROVEN} else self.status(model)

        status = self.scheduler.execute(command, outcome, timeout)
        if status is None:
            raise Unavailable(f"{model} is still draining; unloading continues", code="unloading", retry_after=5.0)
        if status.state == InstanceState.UNPROVEN.value:
            raise Unavailable(
                f"the release of {model} could not be verified; manual action is needed (run: hotseat ps)",
                code="release_unproven",
            )
        return status
