"""One instance: its pods, what must still end before its GPU is free, and adoption by a new switcher."""

import re
import threading
from dataclasses import dataclass, field

from hotseat.api.types import Json
from hotseat.core.messages import instance_id
from hotseat.kube import pods
from hotseat.kube.constants import FINGERPRINT, WORKSPACE
from hotseat.kube.pods import (
    PodFailure,
    deleted,
    failure,
    is_terminating,
    node,
    pull_error,
    ready,
    terminal,
    uid,
    unschedulable,
)
from hotseat.runtimes.kubernetes.adapter import WorkloadAdapter
from hotseat.runtimes.kubernetes.informers import DELETION_COST, EPOCH, INSTANCE, REPLICAS, annotations, labels

_NUMBER = re.compile(r"-[1-9]\d{0,8}")
UNSCHEDULABLE_AFTER = 1.0  # seconds; kube-scheduler needs some time to see that the GPU of the last instance is free
PULL_TIMEOUT = 120.0  # seconds from the first image that could not be pulled; the kubelet tries again meanwhile
MISSING_AFTER = 10.0  # seconds until the objects that serve the Model, and their Deployment, must exist
SUSPECT_AFTER = 5.0  # seconds; the node of a pod that has not ended by then may be gone
PROOF_TIME = 30.0  # seconds after the grace until an instance is reported as unproven


@dataclass(slots=True)
class TrackedPod:
    """A pod of an instance. `proven` never becomes False again."""

    uid: str
    name: str
    node: str | None = None
    proven: bool = False  # none of its containers runs any more
    present: bool = True  # its object exists
    deleted: bool = False  # the runtime has deleted it
    annotated: bool = False  # it has the annotation with its instance
    was_ready: bool = False
    number: int = 0  # order in which the pods of an instance are deleted, the highest first; 0: it has none yet
    latest: Json = field(default_factory=dict)

    @property
    def holds_devices(self) -> bool:
        """Whether the pod may occupy devices of its node."""
        return self.node is not None and not self.proven


@dataclass(slots=True)
class PodInstance:
    """An instance of a Model.

    `workload` is set before its Deployment is scaled up, `scaled` afterwards. Times are in seconds.
    """

    model: str
    id: str
    epoch: int
    started_at: float
    workload: str | None = None
    replicas: int = 1  # most pods that it claims GPUs for
    addresses: tuple[str, ...] = ()  # that were last reported, where it may have several pods
    last: str | None = None  # uid of the main pod when the instance last served
    pods: dict[str, TrackedPod] = field(default_factory=dict)  # oldest first
    scaled: bool = False
    ready: bool = False
    stopping: bool = False
    saving: bool = False  # its engine saves prompts, or did so when that was given up
    unproven: bool = False
    recorded: bool = False  # an annotation tells the next switcher that it is unproven
    suspended: bool = False  # its ReplicaSets are suspended: they create no pods
    no_more_pods: bool = False  # its Deployment is scaled to zero: no pods will be created
    zero_generation: int | None = None  # of the Deployment once it is scaled to zero; 0: there is no Deployment
    suspend_deadline: float | None = None  # when its pods are deleted even if the ReplicaSets are not suspended
    draining_since: float | None = None  # it is about to be stopped, unless it may stay after all
    stopped_at: float = 0.0
    proof_deadline: float = 0.0
    suspect_at: float = 0.0  # when to check whether the nodes of its pods are gone
    unschedulable_since: float | None = None
    pending: str = ""  # what it was last reported to wait for
    pull_error_since: float | None = None
    retry_at: float = 0.0  # no step before then, because the API server refused a request
    next_step: float | None = None  # when to step even if no event comes
    next_node_check: float = 0.0

    def update(self, pod: Json, *, gone: bool = False) -> TrackedPod:
        """Record the newest version of a pod. `gone`: its object was deleted."""
        tracked = self.pods.setdefault(uid(pod), TrackedPod(uid(pod), pod["metadata"]["name"]))
        tracked.node = node(pod) or tracked.node
        tracked.proven = tracked.proven or terminal(pod)
        tracked.present = tracked.present and not gone
        tracked.was_ready = tracked.was_ready or ready(pod)
        tracked.latest = pod
        return tracked

    def next_number(self) -> int:
        """Return the number of the next pod."""
        return 1 + max((pod.number for pod in self.pods.values()), default=0)

    def marks(self) -> dict[str, str | None]:
        """Return the annotations that say which instance something is of, and how many pods it claims GPUs for."""
        several = str(self.replicas) if self.replicas > 1 else None
        return {INSTANCE: self.id, EPOCH: str(self.epoch), REPLICAS: several}

    def mark_gone(self, pod_uid: str) -> None:
        """Accept a user's statement, or the loss of a node, as the proof that a pod is gone."""
        if pod_uid in self.pods:
            self.pods[pod_uid].proven = True
            self.pods[pod_uid].present = False

    @property
    def serving(self) -> list[TrackedPod]:
        """Pods that serve, where there may be several: those that are ready, else those that were and have not failed.

        An engine may be too busy for its probe, but another that is ready is preferred.
        """
        if self.replicas == 1:
            return []
        able = [pod for pod in self.present if pod.was_ready and pod.number and not is_terminating(pod.latest)]
        able.sort(key=lambda pod: pod.number)
        return [pod for pod in able if ready(pod.latest)] or [
            pod for pod in able if failure(pod.latest, was_ready=True) is None
        ]

    @property
    def main(self) -> TrackedPod | None:
        """The pod that serves or will serve: the oldest that serves, else the oldest that has not ended."""
        return next(iter(self.serving or self.present), None)

    @property
    def present(self) -> list[TrackedPod]:
        """Pods that have not ended."""
        return [pod for pod in self.pods.values() if pod.present and not pod.proven]

    @property
    def decisive(self) -> TrackedPod | None:
        """The pod whose end is that of the instance while no pod serves: the one that served last, else the first."""
        return self.pods.get(self.last or "") or next(iter(self.pods.values()), None)

    @property
    def remaining(self) -> list[TrackedPod]:
        """Pods that may occupy devices, or that kube-scheduler may still bind."""
        return [pod for pod in self.pods.values() if pod.holds_devices or (pod.present and not pod.proven)]

    @property
    def lost(self) -> list[TrackedPod]:
        """Pods that may occupy devices and whose objects are deleted, so that no event will prove their end."""
        return [pod for pod in self.pods.values() if pod.holds_devices and not pod.present]

    @property
    def released(self) -> bool:
        """Whether no pods remain, and none will be created."""
        return self.stopping and self.no_more_pods and not self.remaining

    def stop(self, now: float, grace: float) -> None:
        """Begin to stop the instance; a later call may only shorten the time for its proof."""
        deadline = now + grace + PROOF_TIME
        self.proof_deadline = min(self.proof_deadline, deadline) if self.stopping else deadline
        self.suspect_at = self.suspect_at or now + SUSPECT_AFTER
        self.stopped_at = self.stopped_at if self.stopping else now
        self.stopping = True

    def step_by(self, when: float) -> None:
        """Request a step at this time at the latest."""
        self.next_step = when if self.next_step is None else min(self.next_step, when)

    def find_failure(self, now: float) -> PodFailure | None:
        """Return why the instance will not serve (any more), according to its pods; None if there is no failure."""
        pod = self.decisive
        if pod is None or self.serving:
            return None
        if not pod.present or pod.proven:  # it has ended, whether or not a ReplicaSet has created another
            return failure(pod.latest, was_ready=self.ready) or deleted(pod.latest)
        if is_terminating(pod.latest):
            return deleted(pod.latest)
        if found := failure(pod.latest, was_ready=self.ready):
            return found
        return self._not_pulled(pod, now)

    def _not_pulled(self, pod: TrackedPod, now: float) -> PodFailure | None:
        error = pull_error(pod.latest)
        if error is None:
            self.pull_error_since = None
            return None
        if self.pull_error_since is None:
            self.pull_error_since = now
        until = self.pull_error_since + PULL_TIMEOUT
        self.step_by(until)
        return error if now >= until else None

    def find_pending(self, now: float) -> str:
        """Return why kube-scheduler has found no node for the pod for some time; empty if there is no such reason."""
        main = self.main
        why = None if main is None or main.node else unschedulable(main.latest)
        if why is None:
            self.unschedulable_since = None
            return ""
        self.unschedulable_since = now if self.unschedulable_since is None else self.unschedulable_since
        until = self.unschedulable_since + UNSCHEDULABLE_AFTER
        if now < until:
            self.step_by(until)
            return ""
        return f"Unschedulable: {why}"

    def unproven_detail(self) -> str:
        """Return the pods that are not proven gone, for a message."""
        rows = [
            f"pod {pod.name} (uid {pod.uid}) on node {pod.node} "
            + ("has not ended" if pod.present else "was deleted before its containers were seen to end")
            for pod in self.pods.values()
            if pod.holds_devices
        ]
        return "; ".join([*([self.pending] if self.pending else []), *rows]) or "the Deployment may still create pods"


UNOWNED = ""  # owner of pods that had ended before they were first seen


class InstanceTable:
    """Instances by id (thread-safe), and the owners of pods by uid (for the worker thread only).

    A pod belongs to the instance that had its workload when the pod was first seen, until its
    object is gone. So a later instance of the same workload does not get the pods of an earlier
    one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instances: dict[str, PodInstance] = {}
        self._owner: dict[str, str] = {}

    def add(self, instance: PodInstance) -> None:
        """Add an instance. Raise ValueError if its id exists."""
        with self._lock:
            if instance.id in self._instances:
                raise ValueError(f"the instance {instance.id} exists")
            self._instances[instance.id] = instance
        for pod in instance.pods:
            self._owner[pod] = instance.id

    def remove(self, instance: PodInstance) -> None:
        """Remove an instance, and the owner of those of its pods whose objects are gone."""
        with self._lock:
            del self._instances[instance.id]
        for pod in instance.pods.values():
            if pod.present:
                self._owner[pod.uid] = instance.id
            else:
                self._owner.pop(pod.uid, None)

    def __contains__(self, instance: str) -> bool:
        return instance in self._instances

    def get(self, instance: str) -> PodInstance | None:
        """Return an instance by its id."""
        return self._instances.get(instance)

    def all(self) -> list[PodInstance]:
        """Return all instances, oldest first."""
        return list(self._instances.values())

    def of_workload(self, workload: str) -> PodInstance | None:
        """Return the instance for which a workload is, or was, scaled up."""
        return next((instance for instance in self.all() if instance.workload == workload), None)

    def has_owner(self, pod: Json) -> bool:
        """Whether the owner of a pod was determined."""
        return uid(pod) in self._owner

    def owner(self, pod: Json) -> PodInstance | None:
        """Return the instance of a pod; None if it has none, or a released one."""
        return self._instances.get(self._owner.get(uid(pod), UNOWNED))

    def assign(self, pod: Json, instance: str) -> None:
        """Set the owner of a pod."""
        self._owner[uid(pod)] = instance

    def remove_pod(self, pod: Json) -> None:
        """Remove the owner of a pod whose object is gone."""
        self._owner.pop(uid(pod), None)

    def forget_ended(self, instance: PodInstance) -> None:
        """Remove the pods of a serving instance that have ended, and whose objects are gone."""
        if instance.serving:
            for pod in [pod for pod in instance.pods.values() if pod.proven and not pod.present]:
                del instance.pods[pod.uid]
                self._owner.pop(pod.uid, None)


# Annotation of a Deployment, or of what scales it: pods that are not proven gone, as uid/name/node, separated by commas.
UNPROVEN = "hotseat.dev/unproven"


def holds_devices(pod: Json) -> bool:
    """Whether a pod may occupy devices of its node."""
    return pods.node(pod) is not None and not pods.terminal(pod)


def scaled_up(deployment: Json | None) -> bool:
    """Whether a Deployment requests pods."""
    return deployment is not None and int(deployment["spec"].get("replicas", 0)) > 0


def active_workloads(adapter: WorkloadAdapter) -> set[str]:
    """Return the names of the workloads of models that are scaled up, or have pods that may occupy devices."""
    informers = adapter.informers
    active = [pod for pod in informers.pods.objects if holds_devices(pod)]
    active += [
        item
        for item in informers.deployments.objects
        if scaled_up(item) or UNPROVEN in annotations(adapter.record(informers.workload_of(item)) or item)
    ]
    return {informers.workload_of(item) for item in active if adapter.is_model(item)}


def adopt(
    adapter: WorkloadAdapter, workload: str, now: float, *more: Json, suspended: bool = False
) -> PodInstance | None:
    """Return the instance of a workload; None if it has neither pods nor a Deployment.

    `more`: pods whose objects are gone already. `suspended`: its ReplicaSets are suspended, so its
    release had begun.
    """
    informers = adapter.informers
    deployment = informers.deployment(workload)
    found = sorted(
        (pod for pod in informers.pods_of(workload) if not pods.terminal(pod)),
        key=lambda pod: (pods.is_terminating(pod), pod["metadata"].get("creationTimestamp", "")),
    )
    record = adapter.record(workload)
    items = [*found, *more, *([deployment] if deployment else [])]
    if not items:
        return None
    noted_on = [*found, *more, *([record] if record else [])]
    noted = next((annotations(item) for item in noted_on if INSTANCE in annotations(item)), {})
    all_labels = [labels(item) for item in items]
    model = next((each[adapter.model_label] for each in all_labels if adapter.model_label in each), workload)
    all_labels.append(dict(adapter.labels_of(model)))
    workspace = next((each[WORKSPACE] for each in all_labels if WORKSPACE in each), "workspace")
    epoch = int(noted[EPOCH]) if noted.get(EPOCH, "").isdecimal() else 1  # other clients may write the annotation
    instance = PodInstance(
        model, noted.get(INSTANCE, instance_id(workspace, model, epoch)), epoch, now, workload, scaled=True
    )
    instance.replicas = int(noted[REPLICAS]) if noted.get(REPLICAS, "").isdecimal() else 1
    for pod in found:
        tracked = instance.update(pod)
        tracked.annotated = INSTANCE in annotations(pod)
        if instance.replicas > 1 and _NUMBER.fullmatch(cost := annotations(pod).get(DELETION_COST, "")):
            tracked.number = -int(cost)
    for pod in more:
        instance.update(pod, gone=True)
    for pod_uid, name, node_name in unproven_pods(record):
        instance.pods.setdefault(pod_uid, TrackedPod(pod_uid, name, node_name, present=False))
    main = instance.main
    if (
        not scaled_up(deployment)
        or not adapter.may_run(workload)
        or (main is None and (instance.pods or suspended))
        or (main is not None and pods.is_terminating(main.latest))
    ):
        instance.stop(now, adapter.time_to_end(main.latest if main else None, foreign=True))
    instance.ready = (
        main is not None and not instance.stopping and pods.ready(main.latest) and bool(adapter.address(main.latest))
    )
    return instance


def fingerprint_of(instance: PodInstance) -> str | None:
    """Return the fingerprint of the documents from which the pods were made."""
    return next(
        (annotations(pod.latest)[FINGERPRINT] for pod in instance.pods.values() if _has_fingerprint(pod.latest)), None
    )


def gpus_of(instance: PodInstance) -> int | None:
    """Return the number of GPUs that an instance claims; None if its pods do not say, so that its document counts."""
    each = next((count for pod in instance.pods.values() if pod.latest and (count := pods.gpus(pod.latest))), None)
    return None if each is None else instance.replicas * each


def unproven_pods(record: Json | None) -> list[tuple[str, str, str]]:
    """Return the pods (uid, name, node) that an earlier switcher could not prove gone."""
    rows = annotations(record).get(UNPROVEN, "").split(",") if record else []
    return [(uid, name, node) for uid, name, node in (row.split("/") for row in rows if row.count("/") == 2)]  # noqa: PLR2004


def unproven_annotation(instance: PodInstance) -> str | None:
    """Return the annotation for the pods of an instance that are not proven gone; None if there are none."""
    return ",".join(f"{pod.uid}/{pod.name}/{pod.node}" for pod in instance.pods.values() if pod.holds_devices) or None


def _has_fingerprint(pod: Json) -> bool:
    return bool(pod) and FINGERPRINT in annotations(pod)
