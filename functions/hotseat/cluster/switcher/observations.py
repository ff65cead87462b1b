"""Observations on their way to the schedulers: kept until the Workspace, or what a load needs, is there."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from hotseat.cluster.switcher.workspace import ClusterWorkspace
from hotseat.core.messages import CacheObserved, CacheState, InstanceAdopted, InstanceReleased, Observation

log = logging.getLogger(__name__)

Key = tuple[str, type[Observation]]


class PendingObservations:
    """Sends observations to schedulers, and keeps them until the Workspace's controller is attached.

    A pod that runs must count once its Workspace is created. Of each instance and of each Model's cache, the newest observation
    of a type is kept. Nothing is kept of an instance that is proven gone.
    """

    def __init__(self, controllers: dict[str, ClusterWorkspace]) -> None:
        self._controllers = controllers
        self._lock = threading.Lock()
        self._pending: dict[str, dict[Key, Observation]] = {}  # by Workspace

    def send(self, workspace: str, observation: Observation) -> None:
        """Send an observation, now or when the Workspace's controller is attached. From any thread."""
        with self._lock:
            controller = self._controllers.get(workspace)
            if controller is None:
                log.warning("Workspace %r does not exist: %s", workspace, observation)
                _add(self._pending.setdefault(workspace, {}), observation)
            else:
                controller.scheduler.send(observation)

    def attach(self, controller: ClusterWorkspace) -> None:
        """Attach a controller. It must be configured, or else instances count as those of deleted Models."""
        with self._lock:
            self._controllers[controller.name] = controller
            for observation in _sorted(self._pending.pop(controller.name, {}).values()):
                controller.scheduler.send(observation)


class CachedWeights:
    """Tells schedulers that weights are cached, once the objects of their Models name the path. Else a load would not find them."""

    def __init__(self, send: Callable[[str, Observation], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._paths: Mapping[str, str] = {}  # by Job, as applied
        self._held: dict[str, tuple[str, CacheObserved]] = {}  # Job and observation, by Model

    def observe(self, observation: CacheObserved, job: str | None, workspace: str) -> None:
        """Send an observation, or hold it until the path that JOB reported is applied. From any thread."""
        with self._lock:
            self._held.pop(observation.model, None)
            if observation.state is CacheState.CACHED and job is not None and job not in self._paths:
                self._held[observation.model] = (job, observation)
            else:
                self._send(workspace, observation)

    def applied(self, paths: Mapping[str, str], workspaces: Mapping[str, str]) -> None:
        """Send what was held for these paths. WORKSPACES are by Model."""
        with self._lock:
            self._paths = paths
            for model, (job, observation) in list(self._held.items()):
                if job in paths:
                    del self._held[model]
                    self._send(workspaces.get(model, ""), observation)


def _add(pending: dict[Key, Observation], observation: Observation) -> None:
    if isinstance(observation, CacheObserved):
        pending[observation.model, CacheObserved] = observation
        return
    instance = observation.instance
    if isinstance(observation, InstanceReleased):
        for key in [key for key in pending if key[0] == instance and key[1] is not CacheObserved]:
            del pending[key]
    elif isinstance(observation, InstanceAdopted) or (instance, InstanceAdopted) in pending:
        pending[instance, type(observation)] = observation


def _sorted(pending: Iterable[Observation]) -> list[Observation]:
    """Sort instances first. A Model whose weights are known to be cached may start at once, and needs to know which GPUs are free."""
    return sorted(pending, key=lambda observation: isinstance(observation, CacheObserved))
