"""End of an instance: pods deleted, ReplicaSet held, scale set to zero, released once all pods are proven gone."""

import logging

from hotseat.kube.client import KubeError
from hotseat.runtimes.kubernetes.adapter import WorkloadAdapter
from hotseat.runtimes.kubernetes.instance import UNPROVEN, PodInstance, TrackedPod, scaled_up, unproven_annotation
from hotseat.runtimes.kubernetes.writes import FencedWriter

log = logging.getLogger(__name__)


SUSPEND_PAUSE = 0.01  # seconds between checks whether the ReplicaSets are suspended, which usually takes some 15 ms
SUSPEND_TIME = 2.0  # seconds to wait for that
RESUME_PAUSE = 0.1  # seconds between attempts to resume the ReplicaSets
SCALE_PAUSE = 1.0  # seconds between checks whether another controller has scaled a Deployment; its watch says so before
HOLD_TIME = 3.0  # seconds of a drain in which its ReplicaSets are held: whoever removes hotseat would meet finalizers
BUSY_GRACE = 1  # seconds for an engine that still saves prompts: it might not notice its end before it is done
UNPROVEN_PAUSE = 2.0  # seconds between checks of the node of a pod that is not proven gone


class ScaleDown:
    """Steps towards the release of instances. Each can be repeated, and raises KubeError if it must be."""

    def __init__(self, writer: FencedWriter, adapter: WorkloadAdapter) -> None:
        self._writer = writer
        self._adapter = adapter
        self._replica_sets = adapter.replica_sets
        self._informers = adapter.informers

    def step(self, instance: PodInstance, now: float) -> None:
        """Do what is possible now."""
        if instance.workload is None:  # it was never scaled up
            instance.no_more_pods = True
        self._restart_if_scaled_up(instance)
        if self._replica_sets.suspends and not instance.no_more_pods and not self._suspend(instance, now):
            return
        if self._replica_sets.suspends or instance.no_more_pods:
            self._delete_pods(instance)
        if not instance.no_more_pods:
            self._scale_down(instance, now)
            if instance.zero_generation is not None:
                self._await_no_more_pods(instance, now)
        self._check_nodes(instance, now)

    def prepare(self, instance: PodInstance, now: float) -> None:
        """Hold the ReplicaSets while an instance drains, for its release is near. Let them go if it stays."""
        if not self._replica_sets.suspends or instance.workload is None:
            return
        since = instance.draining_since
        near = since is not None and now < since + HOLD_TIME
        if since is not None and near:
            instance.step_by(since + HOLD_TIME)
        if self._replica_sets.is_held(instance.workload) is not near:
            self._writer.check_fence(self._informers.deployment(instance.workload))
            (self._replica_sets.hold if near else self._replica_sets.let_go)(instance.workload)

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
        deployment = self._informers.deployment(instance.workload) if instance.workload else None
        try:
            if deployment is not None:
                self._adapter.scale(self._writer, deployment, 0, {UNPROVEN: unproven_annotation(instance)})
            instance.recorded = True
        except KubeError as error:
            log.warning("cannot record that %s is unproven: %s; trying again", instance.id, error)

    def _suspend(self, instance: PodInstance, now: float) -> bool:
        """Suspend the ReplicaSets, so that they create no pods, and delete none with a longer grace.

        Return True once the pods can be deleted. A controller that does not answer in time does not
        create pods either.
        """
        workload = instance.workload or ""
        if instance.suspended or (instance.suspend_deadline is not None and now >= instance.suspend_deadline):
            return True
        self._writer.check_fence(self._informers.deployment(workload))
        instance.suspended = self._replica_sets.suspend(workload)
        if not instance.suspended:
            instance.suspend_deadline = instance.suspend_deadline or now + SUSPEND_TIME
            instance.step_by(now + SUSPEND_PAUSE)
        return instance.suspended

    def _delete_pods(self, instance: PodInstance) -> None:
        """Delete the pods: no requests are in flight any more."""
        grace = BUSY_GRACE if instance.saving else self._adapter.grace()
        for pod in instance.pods.values():
            if pod.present and not pod.proven and not pod.deleted:
                pod.deleted = self._writer.delete_pod(pod.latest, grace)

    def _restart_if_scaled_up(self, instance: PodInstance) -> None:
        """Begin again if another client has scaled the Deployment up again."""
        deployment = self._informers.deployment(instance.workload or "")
        if instance.zero_generation is not None and deployment is not None:
            later = deployment["metadata"].get("generation", 0) > instance.zero_generation
            if later and scaled_up(deployment):
                instance.zero_generation, instance.suspend_deadline = None, None
                instance.suspended = instance.no_more_pods = False

    def _scale_down(self, instance: PodInstance, now: float) -> None:
        if instance.zero_generation is None:
            instance.zero_generation = self._adapter.scale_to_zero(self._writer, instance.workload or "")
            if instance.zero_generation is None:
                instance.step_by(now + SCALE_PAUSE)

    def _await_no_more_pods(self, instance: PodInstance, now: float) -> None:
        """Resume the ReplicaSets as soon as neither they nor later ones of the Deployment will create a pod."""
        workload = instance.workload or ""
        deployment = self._informers.deployment(workload)
        if deployment is not None:
            observed = min(
                deployment["metadata"].get("generation", 0), deployment.get("status", {}).get("observedGeneration", 0)
            )
            if observed < (instance.zero_generation or 0):
                return  # until the watch reports a later generation
        if not self._replica_sets.resume(workload):
            instance.step_by(now + RESUME_PAUSE)
            return
        for item in self._replica_sets.pods(workload):
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
