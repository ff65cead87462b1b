"""Keeping a ReplicaSet's controller from acting while a pod of it ends.

A ReplicaSet makes another pod as soon as one is deleted, and once it is scaled to zero it deletes what is there itself, with the
long grace of the pod's own. Both controllers behind a scale act within milliseconds, so neither order of "scale" and "delete" is
safe. A ReplicaSet that has a deletion timestamp, however, is left alone by its controller, and a finalizer of ours keeps it there
for as long as that is needed. That its controller knows is exact: the timestamp is a generation of its own, which it confirms.
"""

from hotseat.kube.client import CONFLICT, NOT_FOUND, Json, Kube, KubeError
from hotseat.kube.constants import PODS, REPLICA_SETS, REVISION, Resource

FINALIZER = "hotseat.dev/release"


class ReplicaSetGuard:
    """The ReplicaSets of one namespace. Every method raises KubeError, and can be called again."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace

    def freeze(self, revision: str) -> bool:
        """Stop the ReplicaSet controller from acting on this Revision's pods.

        Return True once the controller has acknowledged it.
        """
        sets = self._of(revision)
        for each in sets:
            if "deletionTimestamp" not in each["metadata"]:
                self._freeze(each)
        return all(_is_frozen(each) for each in sets)

    def thaw(self, revision: str) -> bool:
        """Let the ReplicaSets go, once their Deployment is known to want no pods; True once none can make another."""
        sets = self._of(revision)
        if not all(_is_frozen(each) or _is_still(each) for each in sets):
            return False
        for each in sets:
            self._thaw(each)
        return True

    def pods(self, revision: str) -> list[Json]:
        """List the pods of a Revision, as they are now."""
        return self._list(PODS, f"{REVISION}={revision}")

    def frozen(self) -> set[str]:
        """Name the Revisions of which an earlier switcher left something frozen."""
        sets = self._list(REPLICA_SETS, REVISION)
        return {each["metadata"]["labels"][REVISION] for each in sets if _is_ours(each)}

    def _of(self, revision: str) -> list[Json]:
        return self._list(REPLICA_SETS, f"{REVISION}={revision}")

    def _list(self, resource: Resource, selector: str) -> list[Json]:
        items: list[Json] = self._kube.get(resource.path(self._namespace), labelSelector=selector)["items"]
        return items

    def _freeze(self, replica_set: Json) -> None:
        meta = replica_set["metadata"]
        path = REPLICA_SETS.path(self._namespace, meta["name"])
        kept = [*meta.get("finalizers", []), *([] if _is_ours(replica_set) else [FINALIZER])]
        change = {"finalizers": kept, "resourceVersion": meta["resourceVersion"]}
        try:
            self._kube.merge(path, {"metadata": change})
            self._kube.delete(path, uid=meta["uid"])
        except KubeError as error:
            if error.status not in (CONFLICT, NOT_FOUND):  # the next look sees what it is now
                raise

    def _thaw(self, replica_set: Json) -> None:
        if not _is_ours(replica_set):
            return
        meta = replica_set["metadata"]
        kept = [each for each in meta["finalizers"] if each != FINALIZER]
        try:
            self._kube.merge(REPLICA_SETS.path(self._namespace, meta["name"]), {"metadata": {"finalizers": kept}})
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise


def _is_ours(replica_set: Json) -> bool:
    return FINALIZER in replica_set["metadata"].get("finalizers", [])


def _is_observed(replica_set: Json) -> bool:
    generation: int = replica_set["metadata"].get("generation", 1)
    observed: int = replica_set.get("status", {}).get("observedGeneration", 0)
    return observed >= generation


def _is_frozen(replica_set: Json) -> bool:
    """Whether its controller knows that it goes."""
    return "deletionTimestamp" in replica_set["metadata"] and _is_observed(replica_set)


def _is_still(replica_set: Json) -> bool:
    """Whether its controller knows that it wants no pods, and has none left to delete."""
    status = replica_set.get("status", {})
    return _is_observed(replica_set) and not replica_set["spec"].get("replicas", 1) and not status.get("replicas", 0)
