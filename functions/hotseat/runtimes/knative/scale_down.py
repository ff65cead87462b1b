"""End of an instance: pods deleted, ReplicaSet held, scale set to zero, released once all pods are proven gone."""

import logging

from hotseat.api.types import Json
from hotseat.kube.client import CONFLICT, NOT_FOUND, Kube, KubeError
from hotseat.kube.constants import PODS, REPLICA_SETS, REVISION, Resource
from hotseat.runtimes.knative.informers import Informers
from hotseat.runtimes.knative.instance import UNPROVEN, PodInstance, TrackedPod, scaled_up, unproven_annotation
from hotseat.runtimes.knative.writes import FencedWriter

log = logging.getLogger(__name__)


FINALIZER = "hotseat.dev/release"


class ReplicaSetGuard:
    """Suspends ReplicaSets: their controller must not act while a pod of theirs is deleted.

    A ReplicaSet creates another pod as soon as one is deleted. Once it is scaled to zero, it deletes
    its pods itself, with their own long grace. Both controllers behind a scale act within milliseconds,
    so neither order of "scale" and "delete" is safe. But the controller does not act on a ReplicaSet
    with a deletion timestamp, and a finalizer of ours keeps such a ReplicaSet for as long as necessary.
    The timestamp is a new generation of the object, so the controller's `observedGeneration` proves
    that it knows. Every method may raise KubeError, and can be repeated.
    """

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


SUSPEND_PAUSE = 0.01  # seconds between checks whether the ReplicaSets are suspended, which usually takes some 15 ms
SUSPEND_TIME = 2.0  # seconds to wait for that
RESUME_PAUSE = 0.1  # seconds between attempts to resume the ReplicaSets
UNPROVEN_PAUSE = 2.0  # seconds between checks of the node of a pod that is not proven gone


class ScaleDown:
    """Steps towards the release of instances. Each can be repeated, and raises KubeError if it must be."""

    def __init__(self, writer: FencedWriter, guard: ReplicaSetGuard, informers: Informers) -> None:
        self._writer = writer
        self._guard = guard
        self._informers = informers

    def step(self, instance: PodInstance, now: float) -> None:
        """Do what is possible now."""
        if instance.revision is None:  # it was never scaled up
            instance.no_more_pods = True
        self._restart_if_scaled_up(instance)
        if not instance.no_more_pods and not self._suspend(instance, now):
            return
        self._delete_pods(instance)
        if not instance.no_more_pods:
            self._scale_down(instance)
            self._await_no_more_pods(instance, now)
        self._check_nodes(instance, now)

    def overdue(self, instance: PodInstance, now: float) -> bool:
        """Whether to report an instance as unproven: its deadline has passed, or no event will prove its end."""
        if instance.unproven or instance.released:
            return False
        remaining = instance.remaining
        return now >= instance.proof_deadline or (
            instance.no_more_pods and bool(remaining) and remaining == instance.lost
        )

    def record_unproven(self, instance: PodInstance) -> None:
        """Annotate the Deployment, if there is one, with the pods that are not proven gone, for the next switcher."""
        deployment = self._informers.deployment(instance.revision) if instance.revision else None
        try:
            if deployment is not None:
                self._writer.scale(deployment, 0, {UNPROVEN: unproven_annotation(instance)})
            instance.recorded = True
        except KubeError as error:
            log.warning("cannot record that %s is unproven: %s; trying again", instance.id, error)

    def _suspend(self, instance: PodInstance, now: float) -> bool:
        """Suspend the ReplicaSets, so that they create no pods, and delete none with a longer grace.

        Return True once the pods can be deleted. A controller that does not answer in time does not
        create pods either.
        """
        revision = instance.revision or ""
        if instance.suspended or (instance.suspend_deadline is not None and now >= instance.suspend_deadline):
            return True
        self._writer.check_fence(self._informers.deployment(revision))
        instance.suspended = self._guard.suspend(revision)
        if not instance.suspended:
            instance.suspend_deadline = instance.suspend_deadline or now + SUSPEND_TIME
            instance.step_by(now + SUSPEND_PAUSE)
        return instance.suspended

    def _delete_pods(self, instance: PodInstance) -> None:
        """Delete the pods with a grace of one second: no requests are in flight any more."""
        for pod in instance.pods.values():
            if pod.present and not pod.proven and not pod.deleted:
                pod.deleted = self._writer.delete_pod(pod.latest)

    def _restart_if_scaled_up(self, instance: PodInstance) -> None:
        """Begin again if another client has scaled the Deployment up again."""
        deployment = self._informers.deployment(instance.revision or "")
        if instance.zero_generation is not None and deployment is not None:
            later = deployment["metadata"].get("generation", 0) > instance.zero_generation
            if later and scaled_up(deployment):
                instance.zero_generation, instance.suspend_deadline = None, None
                instance.suspended = instance.no_more_pods = False

    def _scale_down(self, instance: PodInstance) -> None:
        if instance.zero_generation is None:
            deployment = self._informers.deployment(instance.revision or "")
            written = self._writer.scale(deployment, 0) if deployment is not None else None
            instance.zero_generation = 0 if written is None else int(written["metadata"].get("generation", 0))

    def _await_no_more_pods(self, instance: PodInstance, now: float) -> None:
        """Resume the ReplicaSets as soon as neither they nor later ones of the Deployment will create a pod."""
        revision = instance.revision or ""
        deployment = self._informers.deployment(revision)
        if deployment is not None:
            observed = min(
                deployment["metadata"].get("generation", 0), deployment.get("status", {}).get("observedGeneration", 0)
            )
            if observed < (instance.zero_generation or 0):
                return  # until the watch reports a later generation
        if not self._guard.resume(revision):
            instance.step_by(now + RESUME_PAUSE)
            return
        for item in self._guard.pods(revision):
            instance.update(item)
        instance.no_more_pods = True
        self._delete_pods(instance)

    def _check_nodes(self, instance: PodInstance, now: float) -> None:
        """Accept the permanent loss of a node as the proof for pods without news."""
        suspects: list[TrackedPod] = instance.lost
        if now >= instance.suspect_at:
            suspects = [pod for pod in instance.remaining if pod.holds_devices]
        if not suspects or now < instance.next_node_check:
            return
        instance.next_node_check = now + UNPROVEN_PAUSE
        for name in {pod.node for pod in suspects if pod.node}:
            if self._writer.node_is_gone(name):
                for pod in suspects:
                    if pod.node == name:
                        instance.mark_gone(pod.uid)
