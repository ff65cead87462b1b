"""The controller of one Workspace: its scheduler, its configuration, and the commands of operators."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.accelerator_seconds import AcceleratorSeconds
from hotseat.control.active_model import ActiveModel
from hotseat.control.event_log import EventLog
from hotseat.control.schedule_timer import ScheduleTimer
from hotseat.control.scheduler_thread import NO_RESIDENCY, SchedulerHost, SchedulerThread
from hotseat.control.scheduling_spec import capacity_of, groups_of
from hotseat.core.errors import Conflict, Unavailable
from hotseat.core.events import Emit
from hotseat.core.messages import InstanceState, Residency, Wait
from hotseat.core.policy.api import Capacity, Policy
from hotseat.core.ports import Runtime
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.instance import DRAINING_STATES
from hotseat.core.scheduler.messages import (
    FetchOrdered,
    LoadOrdered,
    ModelStatus,
    ParkOrdered,
    PinOrdered,
    SchedulingSpec,
    UnloadOrdered,
    UnpinOrdered,
)
from hotseat.core.scheduler.stats import StatsByModel

log = logging.getLogger(__name__)


_PARKABLE = (InstanceState.READY, *DRAINING_STATES, InstanceState.PARKING, InstanceState.PARKED)
_ON_ITS_WAY = {*DRAINING_STATES, InstanceState.SAVING, InstanceState.PARKING, InstanceState.RELEASING}
STEP_TIMEOUT = 5.0  # seconds for a command that takes the scheduler one step


class ModelCommands:
    """Sends commands to a scheduler and waits for their results."""

    def __init__(self, scheduler: SchedulerThread, clock: Callable[[], float]) -> None:
        self.scheduler = scheduler
        self._clock = clock

    def status(self, model: str) -> ModelStatus:
        """Return the state of a model. `unloaded` if the scheduler has not seen it yet."""
        return next((s for s in self.scheduler.status() if s.name == model), ModelStatus(model, "unloaded"))

    def request_load(
        self, model: str, ended: Callable[[Unavailable | None], None], *, replaces: str | None = None
    ) -> None:
        """Load a model and do not wait. ENDED is called on the scheduler's thread, with the reason if it is not loaded.

        The load request of the model REPLACES is withdrawn.
        """

        def outcome() -> ModelStatus | None:
            if self.scheduler.has_load_request(model):
                return None
            status = self.status(model)
            ended(self._problem(status))
            return status

        self.scheduler.submit(LoadOrdered(self._clock(), model, replaces), outcome)

    def load(self, model: str, timeout: float | None) -> ModelStatus:
        """Load a model and wait until it is ready.

        Raise Unavailable with the reason. timeout 0: do not wait.
        """
        before, command = self.status(model), LoadOrdered(self._clock(), model)
        if timeout == 0:
            self.scheduler.send(command)
            return before
        return self._until_ready(command, model, timeout)

    def fetch(self, model: str) -> ModelStatus:
        """Fetch the weights of a model without a load, and do not wait. The status is that after the order."""
        status = self.scheduler.execute(FetchOrdered(self._clock(), model), lambda: self.status(model), STEP_TIMEOUT)
        if status is None:
            raise Unavailable(f"the scheduler has not answered yet for {model}", code="busy", retry_after=5.0)
        return status

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
        if problem := self._problem(status):
            raise problem
        return status

    def _problem(self, status: ModelStatus) -> Unavailable | None:
        """Return why a model is not ready although its load request has ended. None: it is ready."""
        model, refusal = status.name, self.scheduler.residency.refusals.get(status.name)
        if status.state == "failed":
            return Unavailable(f"{model} failed: {status.message}", code="model_failed", retry_after=5.0)
        if status.state == "ready":
            return None
        if refusal is not None:
            return Unavailable(refusal.message, code=refusal.code, retry_after=5.0)
        return Unavailable(f"{model} was unloaded before it was ready", code="unloaded", retry_after=5.0)

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

    def park(self, model: str, timeout: float | None) -> ModelStatus:
        """Put a loaded model to sleep and wait until it is off the accelerator. It is stopped instead if it does not fall asleep.

        Raise Conflict if it is not loaded, and Unavailable if it takes longer. timeout 0: do not wait.
        """
        before = self.status(model)
        if before.state not in _PARKABLE:
            raise Conflict(f"{model} cannot be parked: it is {before.state}, and only a loaded model can be parked")
        command = ParkOrdered(self._clock(), model)
        if timeout == 0:
            self.scheduler.send(command)
            return before

        begun = False

        def outcome() -> ModelStatus | None:
            nonlocal begun
            states = set(self.scheduler.instances(model).values())
            begun = begun or InstanceState.READY not in states  # a request may wake it at once
            return None if states & _ON_ITS_WAY or not begun else self.status(model)

        status = self.scheduler.execute(command, outcome, timeout)
        if status is None:
            raise Unavailable(f"{model} is still draining; parking continues", code="parking", retry_after=5.0)
        return status


def load_policy(name: str) -> Policy:
    """Return the policy NAME. Raise KeyError if no installed package has it."""
    for point in entry_points(group="hotseat.policies", name=name):
        policy: Policy = point.load()()
        return policy
    raise KeyError(name)


class WorkspaceController(ModelCommands, SchedulerHost):
    """Runs the scheduler of one Workspace.

    `residency` and `stats` are those of an earlier run. `active_model` is the `spec.activeModel` that it has acted on.
    """

    def __init__(
        self,
        workspace: Workspace,
        policy: Policy,
        runtime: Runtime,
        events: EventLog,
        clock: Callable[[], float],
        *,
        residency: Residency = NO_RESIDENCY,
        stats: StatsByModel = MappingProxyType({}),
        active_model: str | None = None,
    ) -> None:
        self.workspace = workspace
        self.models: tuple[Model, ...] = ()
        self.capacity = capacity_of(workspace)
        self.accelerator_seconds = AcceleratorSeconds(clock)
        self._gpus: dict[str, int] = {}  # that an instance needs, by model
        self._events = events
        scheduler = SchedulerThread(workspace.name, policy, runtime, clock, self, residency=residency, stats=stats)
        super().__init__(scheduler, clock)
        self._timer = ScheduleTimer(scheduler.send, clock)
        self._active_model = ActiveModel(active_model, self.request_load)

    @property
    def name(self) -> str:
        """The name of the Workspace."""
        return self.workspace.name

    @property
    def effective_max_wait(self) -> float | None:
        """The bound on waiting in force, in seconds. None while no request is queued."""
        return self.scheduler.effective_max_wait

    def waits(self, shown: Callable[[str], str]) -> Mapping[str, Wait]:
        """Return by model why its requests wait. SHOWN returns the name of a model for messages."""
        return self.scheduler.waits(shown)

    def switches(self) -> tuple[Switch, ...]:
        """Return the known switches, oldest first."""
        return self.scheduler.switches()

    def stop(self) -> None:
        """Send no more changes of schedules. Instances are left as they are."""
        self._timer.close()

    def _configure(
        self,
        workspace: Workspace,
        models: Iterable[Model],
        specs: Mapping[str, SchedulingSpec],
        capacity: Capacity,
        policy: Policy | None,
        *,
        retry_failed: bool = False,
    ) -> None:
        """Apply changed documents. POLICY is None if it is still the same.

        RETRY_FAILED: failed models are tried again at once.
        """
        if policy is not None:
            self.scheduler.set_policy(policy)
        self.workspace, self.models, self.capacity = workspace, tuple(models), capacity
        self._gpus = {
            **self._gpus,
            **{m.name: m.spec.resources.gpus for m in self.models},
        }  # a deleted one still leaves
        self._timer.configure(self.models, specs, capacity, groups_of(workspace), retry_failed=retry_failed)
        self._active_model.apply(workspace, self.models)

    # SchedulerHost ----------------------------------------------------------------------------------------------------

    def emit(self, epoch: int, emit: Emit) -> None:
        """Publish an event of the scheduler."""
        self._events.emit(self.name, epoch, emit)

    def stepped(self) -> None:
        """Count the time since the last step."""
        busy = {model for model, (_, _, in_flight) in self.scheduler.queue().items() if in_flight}
        self.accelerator_seconds.update(self.scheduler.residency.residents, busy, self._gpus)

    def give_up(self) -> None:
        """End this process. The next one starts from what it observes."""
        log.critical("the scheduler of %s failed repeatedly; this process exits, and a new one starts", self.name)
        os._exit(70)
