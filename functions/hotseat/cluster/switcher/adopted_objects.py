"""What adopted objects need beside their documents: who else scales them, and where their problems are told."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from hotseat.api.types import Json
from hotseat.kube.adoption import is_adopted
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import AUTOSCALERS, DEPLOYMENTS

log = logging.getLogger(__name__)

INTERVAL = 30.0  # seconds between reads of HorizontalPodAutoscalers
MISCONFIGURED = "Misconfigured"  # reason of Kubernetes Events


class Autoscalers:
    """The HorizontalPodAutoscalers of one namespace. They are read while a Deployment is adopted."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._path = AUTOSCALERS.path(namespace)
        self._due = 0.0
        self._known: Mapping[str, str] = {}

    def read(self, deployments: Iterable[Json]) -> Mapping[str, str]:
        """Return the names of HorizontalPodAutoscalers by that of the Deployment that they scale."""
        if time.monotonic() >= self._due and any(is_adopted(each) for each in deployments):
            self._due = time.monotonic() + INTERVAL
            try:
                items, _ = self._kube.list(self._path)
            except KubeError as error:
                log.debug("HorizontalPodAutoscalers cannot be read: %s", error)
                items = []
            targets = [(each["spec"]["scaleTargetRef"], each["metadata"]["name"]) for each in items]
            self._known = {target["name"]: name for target, name in targets if target["kind"] == DEPLOYMENTS.kind}
        return self._known


class AdoptionProblems:
    """Tells the problems of adopted objects, once each. `tell` records a Warning of an object, with its reason and message."""

    def __init__(self, tell: Callable[[Json, str, str], None]) -> None:
        self._tell = tell
        self._told: dict[str, str] = {}  # by uid

    def update(self, adopted: Mapping[str, tuple[Json, str]]) -> None:
        """Tell what is new. ADOPTED are objects by uid, with their problems."""
        for uid, (item, problem) in adopted.items():
            if problem and self._told.get(uid) != problem:
                self._tell(item, MISCONFIGURED, problem)
        self._told = {uid: problem for uid, (_, problem) in adopted.items()}
