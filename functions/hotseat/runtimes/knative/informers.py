"""The objects of one namespace that concern models, in five informers."""

from collections.abc import Callable
from functools import partial

from hotseat.api.types import Json
from hotseat.kube.client import Change, Kube, Watcher
from hotseat.kube.constants import (
    AUTOSCALING_CLASS,
    CLASS_ANNOTATION,
    DEPLOYMENTS,
    POD_AUTOSCALERS,
    PODS,
    REVISION,
    SERVERLESS_SERVICES,
    SERVICES,
    WORKSPACE,
    Resource,
)

INSTANCE = "hotseat.dev/instance"  # annotation of a Deployment and its pods: the instance that they were scaled up for
EPOCH = "hotseat.dev/epoch"  # annotation of both: the epoch of that instance
SWITCHER = "hotseat.dev/switcher"  # annotation of a Deployment: identity of the only switcher that may scale it

OnChange = Callable[[Resource, Change, Json], None]


class Informers:
    """Pods and Deployments of Revisions, Knative Services, PodAutoscalers and ServerlessServices.

    `on_change` is called for each change, on any thread.
    """

    def __init__(self, kube: Kube, namespace: str, on_change: OnChange) -> None:
        def watch(resource: Resource, selector: str = "") -> Watcher:
            return Watcher(kube, resource, namespace, partial(on_change, resource), selector=selector)

        self.pods = watch(PODS, REVISION)
        self.deployments = watch(DEPLOYMENTS, REVISION)
        self.services = watch(SERVICES)
        self.autoscalers = watch(POD_AUTOSCALERS)
        self.serverless = watch(SERVERLESS_SERVICES)
        self.all = (self.pods, self.deployments, self.services, self.autoscalers, self.serverless)

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

    def deployment(self, revision: str) -> Json | None:
        """Return the Deployment of a Revision. Its name may be a hash instead of `<revision>-deployment`."""
        found = [item for item in self.deployments.objects if revision_of(item) == revision]
        return next(
            (item for item in found if "deletionTimestamp" not in item["metadata"]), found[0] if found else None
        )

    def pods_of(self, revision: str) -> list[Json]:
        """Return the pods of a Revision."""
        return [pod for pod in self.pods.objects if revision_of(pod) == revision]

    def is_model(self, item: Json) -> bool:
        """Whether a Deployment or a pod belongs to a model: by annotation, label or autoscaling class."""
        if INSTANCE in annotations(item) or WORKSPACE in labels(item):
            return True
        autoscaler = self.autoscalers.named(revision_of(item))
        return autoscaler is not None and has_our_class(autoscaler)


def has_our_class(autoscaler: Json) -> bool:
    """Whether a PodAutoscaler has the autoscaling class of hotseat."""
    return annotations(autoscaler).get(CLASS_ANNOTATION) == AUTOSCALING_CLASS


def annotations(item: Json) -> dict[str, str]:
    """Return the annotations of an object."""
    return item["metadata"].get("annotations") or {}


def labels(item: Json) -> dict[str, str]:
    """Return the labels of an object."""
    return item["metadata"].get("labels") or {}


def revision_of(item: Json) -> str:
    """Return the name of the Revision that a pod, Deployment or ReplicaSet belongs to; empty if it has none."""
    return labels(item).get(REVISION, "")
