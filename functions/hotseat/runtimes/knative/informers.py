"""What goes on in one namespace, as far as models are concerned: five watches, and questions to what they know."""

from collections.abc import Callable
from functools import partial

from hotseat.kube.client import Json, Kube
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
from hotseat.kube.watching import Change, Watcher

INSTANCE = "hotseat.dev/instance"  # annotation on a Deployment and its pods: the instance that they were scaled up for
EPOCH = "hotseat.dev/epoch"  # annotation: of the decision that did
SWITCHER = "hotseat.dev/switcher"  # annotation on a Deployment: who took it over last; nobody else may scale it

Told = Callable[[Resource, Change, Json], None]


class Informers:
    """Pods and Deployments of Knative's Revisions, ksvcs, PodAutoscalers and SKSs. `told` hears of each change, on any thread."""

    def __init__(self, kube: Kube, namespace: str, told: Told) -> None:
        def follow(resource: Resource, selector: str = "") -> Watcher:
            return Watcher(kube, resource, namespace, partial(told, resource), selector=selector)

        self.pods = follow(PODS, REVISION)
        self.deployments = follow(DEPLOYMENTS, REVISION)
        self.services = follow(SERVICES)
        self.autoscalers = follow(POD_AUTOSCALERS)
        self.serverless = follow(SERVERLESS_SERVICES)
        self.all = (self.pods, self.deployments, self.services, self.autoscalers, self.serverless)

    def start(self) -> None:
        """Begin to follow."""
        for each in self.all:
            each.start()

    def wait_synced(self, timeout: float) -> bool:
        """Wait until everything that was there has been told; False if that takes longer."""
        return all(each.wait_synced(timeout) for each in self.all)

    def stop(self) -> None:
        """End."""
        for each in self.all:
            each.stop()

    def deployment(self, revision: str) -> Json | None:
        """Give the Deployment of a Revision. Its name is not always `<revision>-deployment`: long ones are hashed."""
        found = [each for each in self.deployments.objects if revision_of(each) == revision]
        return next(
            (each for each in found if "deletionTimestamp" not in each["metadata"]), found[0] if found else None
        )

    def pods_of(self, revision: str) -> list[Json]:
        """Give the pods of a Revision."""
        return [each for each in self.pods.objects if revision_of(each) == revision]

    def ours(self, item: Json) -> bool:
        """Whether a Deployment or a pod is of a model: our mark or label on it, or our class at its PodAutoscaler."""
        if INSTANCE in annotations(item) or WORKSPACE in labels(item):
            return True
        autoscaler = self.autoscalers.named(revision_of(item))
        return autoscaler is not None and is_ours(autoscaler)


def is_ours(autoscaler: Json) -> bool:
    """Whether a PodAutoscaler is of our class."""
    return annotations(autoscaler).get(CLASS_ANNOTATION) == AUTOSCALING_CLASS


def annotations(item: Json) -> dict[str, str]:
    """Give its annotations."""
    return item["metadata"].get("annotations") or {}


def labels(item: Json) -> dict[str, str]:
    """Give its labels."""
    return item["metadata"].get("labels") or {}


def revision_of(item: Json) -> str:
    """Name the Revision that a pod, Deployment or ReplicaSet belongs to."""
    return labels(item).get(REVISION, "")
