"""ReplicaSets of a workload, as far as a release depends on them: they must create no more pods."""

from hotseat.api.types import Json
from hotseat.kube.client import Kube
from hotseat.kube.constants import PODS, REPLICA_SETS, Resource


class ReplicaSets:
    """The ReplicaSets of one namespace, for Deployments that are scaled to zero before their pods are deleted.

    Then the ReplicaSet controller itself deletes the pods and creates none, so that nothing has to
    be suspended. Every method may raise KubeError, and can be repeated.
    """

    suspends = False  # whether the ReplicaSets are suspended first, so that pods are deleted before the scale

    def __init__(self, kube: Kube, namespace: str, label: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._label = label

    def is_held(self, workload: str) -> bool:  # noqa: ARG002
        """Whether a ReplicaSet of a running workload is held, so that its suspension takes one write less."""
        return False

    def hold(self, workload: str) -> None:
        """Hold the ReplicaSets of a workload, which changes nothing of what their controller does."""

    def let_go(self, workload: str) -> None:
        """Undo `hold`."""

    def suspend(self, workload: str) -> bool:  # noqa: ARG002
        """Stop the ReplicaSet controller from acting on the pods of a workload.

        Return True once the controller has acknowledged it.
        """
        return True

    def resume(self, workload: str) -> bool:
        """Undo `suspend`.

        Call this once the Deployment is scaled to zero; return True once no pod can be created.
        """
        return all(is_scaled_to_zero(replica_set) for replica_set in self._replica_sets(workload))

    def pods(self, workload: str) -> list[Json]:
        """Return the pods of a workload as they are now."""
        return self._of(PODS, workload)

    def suspended(self) -> set[str]:
        """Return the names of the workloads that an earlier switcher left suspended."""
        return set()

    def _replica_sets(self, workload: str) -> list[Json]:
        return self._of(REPLICA_SETS, workload)

    def _of(self, resource: Resource, workload: str) -> list[Json]:
        """Return the objects of a workload as they are now."""
        return self._list(resource, f"{self._label}={workload}")

    def _list(self, resource: Resource, selector: str) -> list[Json]:
        items, _ = self._kube.list(resource.path(self._namespace), labelSelector=selector)
        return items


def is_observed(replica_set: Json) -> bool:
    """Whether the controller has seen the newest version of a ReplicaSet."""
    generation: int = replica_set["metadata"].get("generation", 1)
    observed: int = replica_set.get("status", {}).get("observedGeneration", 0)
    return observed >= generation


def is_scaled_to_zero(replica_set: Json) -> bool:
    """Whether the controller knows that a ReplicaSet is scaled to zero, and has no pods to delete."""
    status = replica_set.get("status", {})
    return is_observed(replica_set) and not replica_set["spec"].get("replicas", 1) and not status.get("replicas", 0)
