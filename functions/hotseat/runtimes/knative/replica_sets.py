"""ReplicaSets of Revisions, which are suspended while a pod ends.

Knative gives each pod a grace of an hour. So a pod is deleted by hotseat, with a grace of a second,
before its Deployment is scaled: the ReplicaSet controller must neither replace it, nor delete it
first.
"""

from hotseat.api.types import Json
from hotseat.kube.client import CONFLICT, NOT_FOUND, Kube, KubeError
from hotseat.kube.constants import REPLICA_SETS, REVISION
from hotseat.runtimes.knative.informers import KnativeInformers
from hotseat.runtimes.kubernetes.replica_sets import ReplicaSets, is_observed, is_scaled_to_zero

FINALIZER = "hotseat.dev/release"


class ReplicaSetGuard(ReplicaSets):
    """Suspends ReplicaSets: their controller must not act while a pod of theirs is deleted.

    A ReplicaSet creates another pod as soon as one is deleted. Once it is scaled to zero, it deletes
    its pods itself, with their own long grace. Both controllers behind a scale act within milliseconds,
    so neither order of "scale" and "delete" is safe. But the controller does not act on a ReplicaSet
    with a deletion timestamp, and a finalizer of ours keeps such a ReplicaSet for as long as necessary.
    The timestamp is a new generation of the object, so the controller's `observedGeneration` proves
    that it knows. Every method may raise KubeError, and can be repeated.

    A suspension is in the path of each switch, so it reads the watched ReplicaSets. One that the watch
    does not have yet may make a pod, which is waited for as well.
    """

    suspends = True

    def __init__(self, kube: Kube, namespace: str, informers: KnativeInformers) -> None:
        super().__init__(kube, namespace, REVISION)
        self._informers = informers
        self._deleted: set[str] = set()  # uids; the watch may not have their deletion yet

    def suspend(self, workload: str) -> bool:
        """Stop the ReplicaSet controller from acting on this Revision's pods.

        Return True once the controller has acknowledged it.
        """
        watched = self._informers.replica_sets.objects
        replica_sets = [each for each in watched if self._informers.workload_of(each) == workload]
        replica_sets = replica_sets or self._replica_sets(workload)
        for replica_set in replica_sets:
            meta = replica_set["metadata"]
            if "deletionTimestamp" not in meta and meta["uid"] not in self._deleted:
                self._suspend(replica_set)
        return all(_is_suspended(replica_set) for replica_set in replica_sets)

    def resume(self, workload: str) -> bool:
        """Remove the finalizers.

        Call this once the Deployment is scaled to zero; return True once no pod can be created.
        """
        replica_sets = self._replica_sets(workload)
        if not all(_is_suspended(replica_set) or is_scaled_to_zero(replica_set) for replica_set in replica_sets):
            return False
        for replica_set in replica_sets:
            self._resume(replica_set)
            self._deleted.discard(replica_set["metadata"]["uid"])
        return True

    def suspended(self) -> set[str]:
        """Return the names of the Revisions that an earlier switcher left suspended."""
        replica_sets = self._list(REPLICA_SETS, REVISION)
        return {each["metadata"]["labels"][REVISION] for each in replica_sets if _has_finalizer(each)}

    def _suspend(self, replica_set: Json) -> None:
        meta = replica_set["metadata"]
        path = REPLICA_SETS.path(self._namespace, meta["name"])
        kept = [*meta.get("finalizers", []), *([] if _has_finalizer(replica_set) else [FINALIZER])]
        change = {"finalizers": kept, "resourceVersion": meta["resourceVersion"]}
        try:
            self._kube.merge(path, {"metadata": change})
            self._kube.delete(path, uid=meta["uid"])
            self._deleted.add(meta["uid"])
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


def _is_suspended(replica_set: Json) -> bool:
    """Whether the controller knows that a ReplicaSet has a deletion timestamp."""
    return "deletionTimestamp" in replica_set["metadata"] and is_observed(replica_set)
