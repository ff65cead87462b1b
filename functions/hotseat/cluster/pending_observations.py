"""Who is told what the runtime observes: the Workspace's controller, or, until there is one, a shelf."""

import logging
import threading
from collections.abc import Iterable

from hotseat.cluster.workspace_controller import ClusterWorkspace
from hotseat.core.messages import CacheObserved, InstanceAdopted, InstanceReleased, Observation

log = logging.getLogger(__name__)

Key = tuple[str, type[Observation]]


class PendingObservations:
    """Tells controllers, and keeps what is of a Workspace without one: a pod that runs must count once the Workspace is made.

    Of each instance and of each Model's cache the newest of a kind is kept, and nothing of an instance that is proven gone.
    """

    def __init__(self, controllers: dict[str, ClusterWorkspace]) -> None:
        self._controllers = controllers
        self._lock = threading.Lock()
        self._kept: dict[str, dict[Key, Observation]] = {}  # by Workspace

    def tell(self, workspace: str, observation: Observation) -> None:
        """Hand it over, now or when that Workspace's controller is opened. From any thread."""
        with self._lock:
            controller = self._controllers.get(workspace)
            if controller is None:
                log.warning("Workspace %r does not exist: %s", workspace, observation)
                _keep(self._kept.setdefault(workspace, {}), observation)
            else:
                controller.scheduler.send(observation)

    def open(self, controller: ClusterWorkspace) -> None:
        """Make it the one of its Workspace. It has its documents, without which instances are taken for removed Models."""
        with self._lock:
            self._controllers[controller.name] = controller
            for observation in _in_order(self._kept.pop(controller.name, {}).values()):
                controller.scheduler.send(observation)


def _keep(kept: dict[Key, Observation], observation: Observation) -> None:
    if isinstance(observation, CacheObserved):
        kept[observation.model, CacheObserved] = observation
        return
    instance = observation.instance
    if isinstance(observation, InstanceReleased):
        for key in [key for key in kept if key[0] == instance and key[1] is not CacheObserved]:
            del kept[key]
    elif isinstance(observation, InstanceAdopted) or (instance, InstanceAdopted) in kept:
        kept[instance, type(observation)] = observation


def _in_order(kept: Iterable[Observation]) -> list[Observation]:
    """Put instances first: a Model that is known to be cached may be started at once, on a seat that must not be taken."""
    return sorted(kept, key=lambda observation: isinstance(observation, CacheObserved))
