"""What runs the scheduler of one Workspace, on one machine and on a cluster alike."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.commands import ModelCommands
from hotseat.control.event_log import EventLog
from hotseat.control.schedule_timer import ScheduleTimer
from hotseat.control.scheduler_thread import NO_RESIDENCY, SchedulerHost, SchedulerThread
from hotseat.control.scheduling_spec import capacity_of, groups_of
from hotseat.core.events import Emit
from hotseat.core.messages import Residency
from hotseat.core.policy.api import Capacity, Policy
from hotseat.core.ports import Runtime
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.core.scheduler.stats import StatsByModel

log = logging.getLogger(__name__)


def load_policy(name: str) -> Policy:
    """Return the policy NAME. Raise KeyError if no installed package has it."""
    for point in entry_points(group="hotseat.policies", name=name):
        policy: Policy = point.load()()
        return policy
    raise KeyError(name)


class WorkspaceController(ModelCommands, SchedulerHost):
    """Runs the scheduler of one Workspace.

    `residency` and `stats` are those of an earlier run.
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
    ) -> None:
        self.workspace = workspace
        self.models: tuple[Model, ...] = ()
        self.capacity = capacity_of(workspace)
        self._events = events
        scheduler = SchedulerThread(workspace.name, policy, runtime, clock, self, residency=residency, stats=stats)
        super().__init__(scheduler, clock)
        self._timer = ScheduleTimer(scheduler.send, clock)

    @property
    def name(self) -> str:
        """The name of the Workspace."""
        return self.workspace.name

    @property
    def effective_max_wait(self) -> float | None:
        """The bound on waiting in force, in seconds. None while no request is queued."""
        return self.scheduler.effective_max_wait

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
        self._timer.configure(self.models, specs, capacity, groups_of(workspace), retry_failed=retry_failed)

    # SchedulerHost ----------------------------------------------------------------------------------------------------

    def emit(self, epoch: int, emit: Emit) -> None:
        """Publish an event of the scheduler."""
        self._events.emit(self.name, epoch, emit)

    def give_up(self) -> None:
        """End this process. The next one starts from what it observes."""
        log.critical("the scheduler of %s failed repeatedly; this process exits, and a new one starts", self.name)
        os._exit(70)
