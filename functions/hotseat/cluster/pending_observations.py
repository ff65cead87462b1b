"""Who is told what the runtime observes: the Workspace's chamber, or, until there is one, a shelf."""

import logging
import threading
from collections.abc import Iterable

from hotseat.cluster.workspace_controller import WorkspaceController
from hotseat.core.messages import CacheObserved, InstanceAdopted, InstanceReleased, Observation

log = logging.getLogger(__name__)

Key = tuple[str, type[Observation]]


class PendingObservations:
    """Tells chambers, and keeps what is of a Workspace without one: a pod that runs must count once the Workspace is made.

    Of each holder and of each Model's cache the newest of a kind is kept, and nothing of a holder that is proven gone.
    """

    def __init__(self, chambers: dict[str, WorkspaceController]) -> None:
        self._chambers = chambers
        self._lock = threading.Lock()
        self._kept: dict[str, dict[Key, Observation]] = {}  # by Workspace

    def tell(self, workspace: str, observation: Observation) -> None:
        """Hand it over, now or when that Workspace's chamber is opened. From any thread."""
        with self._lock:
            chamber = self._chambers.get(workspace)
            if chamber is None:
                log.warning("Workspace %r does not exist: %s", workspace, observation)
                _keep(self._kept.setdefault(workspace, {}), observation)
            else:
                chamber.switcher.tell(observation)

    def open(self, chamber: WorkspaceController) -> None:
        """Make it the one of its Workspace. It has its documents, without which holders are taken for removed Models."""
        with self._lock:
            self._chambers[chamber.name] = chamber
            for observation in _in_order(self._kept.pop(chamber.name, {}).values()):
                chamber.switcher.tell(observation)


def _keep(kept: dict[Key, Observation], observation: Observation) -> None:
    if isinstance(observation, CacheObserved):
        kept[observation.model, CacheObserved] = observation
        return
    holder = observation.holder
    if isinstance(observation, InstanceReleased):
        for key in [key for key in kept if key[0] == holder and key[1] is not CacheObserved]:
            del kept[key]
    elif isinstance(observation, InstanceAdopted) or (holder, InstanceAdopted) in kept:
        kept[holder, type(observation)] = observation


def _in_order(kept: Iterable[Observation]) -> list[Observation]:
    """Put holders first: a Model that is known to be cached may be started at once, on a seat that must not be taken."""
    return sorted(kept, key=lambda observation: isinstance(observation, CacheObserved))
