"""ReplicaSets of Revisions, which are suspended while a pod ends.

Knative gives each pod a grace of an hour. So a pod is deleted by hotseat, with a grace of a second,
before its Deployment is scaled: the ReplicaSet controller must neither replace it, nor delete it
first.
"""

from collections.abc import Callable

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
    does not have yet may make a pod, which is waited for as well. While a model drains, the finalizer
    is set in advance (`hold`). It alone does not keep the controller from anything. A ReplicaSet is
    deleted only in a version that has it: without it, the pods would be deleted with their own grace.
    """

    suspends = True

    def __init__(self, kube: Kube, namespace: str, informers: KnativeInformers) -> None:
        super().__init__(kube, namespace, REVISION)
        self._informers = informers
        self._deleted: set[str] = set()  # uids; the watch may not have their deletion yet
        self._written: dict[str, Json] = {}  # by uid, with or without the finalizer; the watch may not have it yet

    def is_held(self, workload: str) -> bool:
        """Whether a ReplicaSet of a running Revision has the finalizer."""
        return any(_has_finalizer(each) for each in self._not_deleted(workload))

    def hold(self, workload: str) -> None:
        """Set the finalizer in advance."""
        for replica_set in self._not_deleted(workload):
            if not _has_finalizer(replica_set):
                self._try(self._write_finalizer, replica_set, True)

    def let_go(self, workload: str) -> None:
        """Remove the finalizer of ReplicaSets that are not deleted."""
        for replica_set in self._not_deleted(workload):
            if _has_finalizer(replica_set):
                self._try(self._write_finalizer, replica_set, False)

    def suspend(self, workload: str) -> bool:
        """Stop the ReplicaSet controller from acting on this Revision's pods.

        Return True once the controller has acknowledged it.
        """
        replica_sets = self._watched(workload) or self._replica_sets(workload)
        for replica_set in replica_sets:
            if self._is_not_deleted(replica_set):
                self._try(self._suspend, replica_set)
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
            self._written.pop(replica_set["metadata"]["uid"], None)
        return True

    def suspended(self) -> set[str]:
        """Return the names of the Revisions that an earlier switcher left suspended."""
        replica_sets = self._list(REPLICA_SETS, REVISION)
        return {each["metadata"]["labels"][REVISION] for each in replica_sets if _has_finalizer(each)}

    def _watched(self, workload: str) -> list[Json]:
        """Return the watched ReplicaSets of a Revision, or newer versions of them."""
        watched = self._informers.replica_sets.objects
        return [self._newest(each) for each in watched if self._informers.workload_of(each) == workload]

    def _not_deleted(self, workload: str) -> list[Json]:
        return [each for each in self._watched(workload) if self._is_not_deleted(each)]

    def _is_not_deleted(self, replica_set: Json) -> bool:
        meta = replica_set["metadata"]
        return "deletionTimestamp" not in meta and meta["uid"] not in self._deleted

    def _newest(self, watched: Json) -> Json:
        """Return what was written last, until the watch has it. If it was changed since, a write conflicts."""
        uid = watched["metadata"]["uid"]
        written = self._written.get(uid, watched)
        if "deletionTimestamp" in watched["metadata"] or _has_finalizer(written) is _has_finalizer(watched):
            self._written.pop(uid, None)
            return watched
        return written

    def _try(self, write: Callable[..., object], replica_set: Json, *more: bool) -> None:
        """Write. After a conflict, the next call sees the new version."""
        try:
            write(replica_set, *more)
        except KubeError as error:
            if error.status not in (CONFLICT, NOT_FOUND):
                raise
            self._written.pop(replica_set["metadata"]["uid"], None)

    def _suspend(self, replica_set: Json) -> None:
        meta = replica_set["metadata"]
        if not _has_finalizer(replica_set):
            meta = self._write_finalizer(replica_set, True)["metadata"]
        path = REPLICA_SETS.path(self._namespace, meta["name"])
        self._kube.delete(path, uid=meta["uid"], version=meta["resourceVersion"])
        self._deleted.add(meta["uid"])

    def _write_finalizer(self, replica_set: Json, held: bool) -> Json:
        meta = replica_set["metadata"]
        others = [each for each in meta.get("finalizers", []) if each != FINALIZER]
        change = {"finalizers": [*others, *([FINALIZER] if held else [])], "resourceVersion": meta["resourceVersion"]}
        written = self._kube.merge(REPLICA_SETS.path(self._namespace, meta["name"]), {"metadata": change})
        self._written[meta["uid"]] = written
        return written

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
