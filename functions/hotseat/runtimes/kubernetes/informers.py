"""The pods and Deployments of one namespace that a label names the workload of."""

from collections.abc import Callable
from functools import partial

from hotseat.api.types import Json
from hotseat.kube.client import Change, Kube, Watcher
from hotseat.kube.constants import DEPLOYMENTS, PODS, Resource

INSTANCE = "hotseat.dev/instance"  # annotation of a Deployment and its pods: the instance that they were scaled up for
EPOCH = "hotseat.dev/epoch"  # annotation of both: the epoch of that instance
REPLICAS = "hotseat.dev/instance-replicas"  # annotation of both: pods that it claims GPUs for, if it is more than one
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"  # Kubernetes': the pod with the lowest is deleted first
SWITCHER = "hotseat.dev/switcher"  # annotation of a Deployment: identity of the only switcher that may scale it

OnChange = Callable[[Resource, Change, Json], None]


class Informers:
    """Pods and Deployments that the selector `selector` selects, by default the label `label`, and objects of other kinds (`more`).

    `on_change` is called for each change, on any thread. `selector` selects fewer than all that have the label.
    """

    def __init__(
        self, kube: Kube, namespace: str, label: str, on_change: OnChange, *more: Resource, selector: str = ""
    ) -> None:
        def watch(resource: Resource, selector: str = "") -> Watcher:
            return Watcher(kube, resource, namespace, partial(on_change, resource), selector=selector)

        self._label = label
        self.pods = watch(PODS, selector or label)
        self.deployments = watch(DEPLOYMENTS, selector or label)
        self.more = {resource: watch(resource) for resource in more}
        self.all: tuple[Watcher, ...] = (self.pods, self.deployments, *self.more.values())

    def start(self) -> None:
        """Start all watches."""
        for watcher in self.all:
            watcher.start()

    def wait_synced(self, timeout: float) -> bool:
        """Wait until all existing objects are reported; return False if a watch takes over `timeout` seconds."""
        return all(watcher.wait_synced(timeout) for watcher in self.all)

    def stop(self) -> None:
        """Stop all watches."""
        for watcher in self.all:
            watcher.stop()

    def deployment(self, workload: str) -> Json | None:
        """Return the Deployment of a workload. The name of a Revision's may be a hash instead of `<revision>-deployment`."""
        found = [item for item in self.deployments.objects if self.workload_of(item) == workload]
        return next(
            (item for item in found if "deletionTimestamp" not in item["metadata"]), found[0] if found else None
        )

    def pods_of(self, workload: str) -> list[Json]:
        """Return the pods of a workload."""
        return [pod for pod in self.pods.objects if self.workload_of(pod) == workload]

    def workload_of(self, item: Json) -> str:
        """Return the name of the workload that an object belongs to; empty if it has none."""
        return labels(item).get(self._label, "")


def annotations(item: Json) -> dict[str, str]:
    """Return the annotations of an object."""
    return item["metadata"].get("annotations") or {}


def labels(item: Json) -> dict[str, str]:
    """Return the labels of an object."""
    return item["metadata"].get("labels") or {}
