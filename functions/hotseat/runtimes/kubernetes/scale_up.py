"""Start of an instance: its newest workload is scaled up, and its pod is probed until it serves."""

import threading
import time
from collections.abc import Callable

from hotseat.kube import pods
from hotseat.kube.pods import PodFailure, condition
from hotseat.runtimes.kubernetes.adapter import Probe, WorkloadAdapter
from hotseat.runtimes.kubernetes.informers import DELETION_COST
from hotseat.runtimes.kubernetes.instance import MISSING_AFTER, PodInstance, TrackedPod
from hotseat.runtimes.kubernetes.writes import FencedWriter

MIN_PAUSE, MAX_PAUSE = 0.005, 0.25  # seconds between probes
PAUSE_SHARE = 0.005  # between those limits, the pause is this share of the time that loading has taken
TIMEOUT = 1.0  # seconds for one probe


class ReadinessProbe:
    """Probes a pod from its own thread until it is ready, and then calls `on_ready` once, or until it is cancelled.

    Probes are frequent at first, because each pause delays a switch.
    """

    def __init__(self, target: str, probe: Probe, on_ready: Callable[[], None]) -> None:
        self._target = target
        self._probe = probe
        self._on_ready = on_ready
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, name=f"probe-{target}", daemon=True).start()

    def cancel(self) -> None:
        """End the probes."""
        self._cancelled.set()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._cancelled.is_set():
            if self._probe(self._target):
                self._on_ready()
                return
            taken = time.monotonic() - began
            self._cancelled.wait(min(max(MIN_PAUSE, PAUSE_SHARE * taken), MAX_PAUSE))


NODE_CHECK_PAUSE = 2.0  # seconds between checks of the node of a pod that is not ready any more


class ScaleUp:
    """Steps towards a pod that serves. Each can be repeated, and raises KubeError if it must be."""

    def __init__(self, writer: FencedWriter, adapter: WorkloadAdapter) -> None:
        self._writer = writer
        self._adapter = adapter
        self._informers = adapter.informers

    def step(self, instance: PodInstance, now: float) -> PodFailure | None:
        """Do what is possible now; return why the instance will not serve (any more), or None."""
        if not instance.scaled:
            return self._scale_up(instance, now)
        if found := instance.find_failure(now):
            return found
        if instance.main is None:
            return self._no_pod(instance)
        return self._node_failure(instance, instance.main, now)

    def annotate(self, instance: PodInstance, pod: TrackedPod) -> None:
        """Annotate a pod with its instance, and one of several with the order in which Kubernetes deletes them: the newest first."""
        several = instance.replicas > 1
        if pod.node and not (pod.annotated and (pod.number or not several)):
            number = instance.next_number()
            order = {DELETION_COST: str(-number)} if several else {}
            self._writer.annotate(pod.name, {key: value for key, value in instance.marks().items() if value} | order)
            pod.annotated, pod.number = True, number if several else 0

    def _scale_up(self, instance: PodInstance, now: float) -> PodFailure | None:
        workload, why = self._adapter.find_workload(self._writer, instance.model)
        deployment = self._informers.deployment(workload) if workload else None
        if deployment is None or "deletionTimestamp" in deployment["metadata"]:
            until = instance.started_at + MISSING_AFTER
            instance.step_by(until)
            return (
                PodFailure(
                    f"{self._adapter.serves_as}NotReady",
                    why or f"{self._adapter.describe(workload or '')} has no Deployment",
                )
                if now >= until
                else None
            )
        instance.workload = workload  # before the write, which may succeed although its response is lost
        instance.scaled = self._adapter.scale(self._writer, deployment, 1, instance.marks()) is not None
        return None

    def _no_pod(self, instance: PodInstance) -> PodFailure | None:
        deployment = self._informers.deployment(instance.workload or "")
        if deployment is None:
            return PodFailure(
                f"{self._adapter.serves_as}Deleted",
                f"the Deployment of {self._adapter.describe(instance.workload or '')} is gone",
            )
        failure = condition(deployment, "ReplicaFailure")
        if failure.get("status") == "True":
            return PodFailure("PodRefused", str(failure.get("message", "the pod could not be created")))
        return None

    def _node_failure(self, instance: PodInstance, main: TrackedPod, now: float) -> PodFailure | None:
        """Return a failure if the node is lost.

        If only the pod is not ready, its engine may be too busy for the probe.
        """
        if not instance.ready or main.node is None or pods.ready(main.latest) or now < instance.next_node_check:
            return None
        instance.next_node_check = now + NODE_CHECK_PAUSE
        instance.step_by(instance.next_node_check)
        lost = self._writer.node_is_lost(main.node)
        return PodFailure("NodeLost", f"node {main.node} does not report") if lost else None
