"""Runtime of one namespace: an instance is the pods of the Deployment of a Model, which KEDA scales."""

import logging
import threading
from collections.abc import Callable
from functools import partial

from hotseat.api.types import Json
from hotseat.kube.adoption import target_of
from hotseat.kube.client import Change, KubeError
from hotseat.kube.constants import MODEL, SCALED_OBJECTS, Resource
from hotseat.runtimes.keda.adapter import KedaAdapter
from hotseat.runtimes.kubernetes.informers import labels
from hotseat.runtimes.kubernetes.instance import PodInstance
from hotseat.runtimes.kubernetes.runtime import RETRY, PodRuntime

log = logging.getLogger(__name__)


class KedaRuntime(PodRuntime):
    """PodRuntime for Deployments with ScaledObjects."""

    adapter_type = KedaAdapter
    _adapter: KedaAdapter

    def on_place(self, call: Callable[[], None]) -> None:
        """Call this whenever a Model gets a place, or loses it."""
        self._adapter.on_place = call

    def has_place(self, model: str) -> bool | None:
        """Whether a Model may have a pod; None until it is known. From any thread."""
        if self._adapter.adopting:
            return None
        return self.replicas_of(model) > 0

    def replicas_of(self, model: str) -> int:
        """Return how many pods a Model may have at most: what it claims GPUs for, 0 without a place. From any thread."""
        found = [each for each in self._instances.all() if each.workload == model and not each.stopping]
        return max((each.replicas for each in found), default=0)

    def _handle_change(self, resource: Resource, change: Change, item: Json) -> None:
        super()._handle_change(resource, change, item)
        if resource is SCALED_OBJECTS and change is Change.PUT:
            self._jobs.put(partial(self._keep_paused, target_of(item)))

    def adopt_running(self) -> None:
        """Adopt what runs already of Models that are new, pause the others, and give back what is no Model any more."""
        super().adopt_running()
        for item in self._informers.more[SCALED_OBJECTS].objects:
            if MODEL not in labels(item):
                self._jobs.put(partial(self._keep_paused, target_of(item)))

    def _report_end(self, instance: PodInstance, now: float) -> None:
        super()._report_end(instance, now)
        if instance.released and instance.workload is not None:  # it may have waited for that to be given back
            self._jobs.put(partial(self._keep_paused, instance.workload))

    def _keep_paused(self, workload: str) -> None:
        if self._closed or self.superseded.is_set() or self.has_place(workload):
            return
        item = self._adapter.record(workload)
        if item is not None and MODEL not in labels(item) and self._instances.of_workload(workload) is not None:
            return  # it is released first
        try:
            self._adapter.keep_paused(self._writer, workload)
        except KubeError as error:
            log.warning("cannot pause %s: %s; trying again", workload, error)
            threading.Timer(RETRY, self._jobs.put, [partial(self._keep_paused, workload)]).start()
