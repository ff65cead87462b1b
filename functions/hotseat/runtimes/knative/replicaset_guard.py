"""Suspension of ReplicaSets: their controller must not act while a pod of theirs is deleted.

A ReplicaSet creates another pod as soon as one is deleted. Once it is scaled to zero, it deletes
its pods itself, with their own long grace. Both controllers behind a scale act within milliseconds,
so neither order of "scale" and "delete" is safe. But the controller does not act on a ReplicaSet
with a deletion timestamp, and a finalizer of ours keeps such a ReplicaSet for as long as necessary.
The timestamp is a new generation of the object, so the controller's `observedGeneration` proves
that it knows.
"""

from hotseat.api.types import Json
from hotseat.kube.client import CONFLICT, NOT_FOUND, Kube, KubeError
from hotseat.kube.constants import PODS, REPLICA_SETS, REVISION, Resource

FINALIZER = "hotseat.dev/release"


class ReplicaSetGuard:
    """The ReplicaSets of one namespace. Every method may raise KubeError, and can be repeated."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace

    def suspend(self, revision: str) -> bool:
        """Stop the ReplicaSet controller from acting on this Revision's pods.

        Return True once the controller has acknowledged it.
        """
        replica_sets = self._replica_sets(revision)
        for replica_set in replica_sets:
            if "deletionTimestamp" not in replica_set["metadata"]:
                self._suspend(replica_set)
        return all(_is_suspended(replica_set) for replica_set in replica_sets)

    def resume(self, revision: str) -> bool:
        """Remove the finalizers.

        Call this once the Deployment is scaled to zero; return True once no pod can be created.
        """
        replica_sets = self._replica_sets(revision)
        if not all(_is_suspended(replica_set) or _is_scaled_to_zero(replica_set) for replica_set in replica_sets):
            return False
        for replica_set in replica_sets:
            self._resume(replica_set)
        return True

    def pods(self, revision: str) -> list[Json]:
        """Return the pods of a Revision as they are now."""
        return self._list(PODS, f"{REVISION}={revision}")

    def suspended(self) -> set[str]:
        """Return the names of the Revisions that an earlier switcher left suspended."""
        replica_sets = self._list(REPLICA_SETS, REVISION)
        return {each["metadata"]["labels"][REVISION] for each in replica_sets if _has_finalizer(each)}

    def _replica_sets(self, revision: str) -> list[Json]:
        return self._list(REPLICA_SETS, f"{REVISION}={revision}")

    def _list(self, resource: Resource, selector: str) -> list[Json]:
        items: list[Json] = self._kube.get(resource.path(self._namespace), labelSelector=selector)["items"]
        return items

    def _suspend(self, replica_set: Json) -> None:
        meta = replica_set["metadata"]
        path = REPLICA_SETS.path(self._namespace, meta["name"])
        kept = [*meta.get("finalizers", []), *([] if _has_finalizer(replica_set) else [FINALIZER])]
        change = {"finalizers": kept, "resourceVersion": meta["resourceVersion"]}
        try:
            self._kube.merge(path, {"metadata": change})
            self._kube.delete(path, uid=meta["uid"])
        except KubeError as error:
            if error.status not in (CONFLICT, NOT_FOUND):  # the next call sees the new version
                raise

    def _resume(self, replica_set: Json) -> None:
        if not _has_finalizer(replica_set):
            return
        meta = replica_set["metadata"]
        kept = [each for each in meta["finalizers"] if each != FINALIZER]
        try:
            self._kube.merge(REPLICA_SETS.path(self._namespace, meta["name"]), {"metadata": {"finalizers": kept}})
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise


def _has_finalizer(replica_set: Json) -> bool:
    return FINALIZER in replica_set["metadata"].get("finalizers", [])


def _is_observed(replica_set: Json) -> bool:
    generation: int = replica_set["metadata"].get("generation", 1)
    observed: int = replica_set.get("status", {}).get("observedGeneration", 0)
    return observed >= generation


def _is_suspended(replica_set: Json) -> bool:
    """Whether the controller knows that a ReplicaSet has a deletion timestamp."""
    return "deletionTimestamp" in replica_set["metadata"] and _is_observed(replica_set)


def _is_scaled_to_zero(replica_set: Json) -> bool:
    """Whether the controller knows that a ReplicaSet is scaled to zero, and has no pods to delete."""
    status = replica_set.get("status", {})
    return _is_observed(replica_set) and not replica_set["spec"].get("replicas", 1) and not status.get("replicas", 0)
