"""One instance: the pods that ever were of it, and what is still owed before its seat is free. Pure: no I/O, time is passed in."""

import threading
from dataclasses import dataclass, field

from hotseat.kube.client import Json
from hotseat.kube.pods import PodFailure, deleted, failure, going, node, terminal, uid, unschedulable

UNSCHEDULABLE_AFTER = 10.0  # seconds: the scheduler needs a moment to see that the last instance's GPU is free
MISSING_AFTER = 10.0  # seconds within which the ksvc, its Revision and Deployment are there
FOREIGN_GRACE = 40.0  # seconds that a pod takes which somebody else deleted: queue-proxy drains for 30, and no later grace shortens that
SUSPECT_AFTER = 5.0  # seconds; a pod that has not ended by then may be on a node that is gone
PROOF_TIME = 30.0  # seconds after the grace; what is not proven gone then will hardly prove itself


@dataclass(slots=True)
class TrackedPod:
    """A pod, by uid. `proven` never turns back."""

    uid: str
    name: str
    node: str | None = None
    proven: bool = False  # nothing of it runs
    present: bool = True  # its object is there
    deleted: bool = False  # we have asked for its end
    marked: bool = False  # it says whose it is
    last: Json = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it may occupy a device."""
        return self.node is not None and not self.proven


@dataclass(slots=True)
class PodInstance:
    """An instance of a seat. `revision` is known before its Deployment is scaled up, `scaled` says that it has been."""

    model: str
    id: str
    epoch: int
    began: float
    revision: str | None = None
    pods: dict[str, TrackedPod] = field(default_factory=dict)
    scaled: bool = False
    ready: bool = False
    stopping: bool = False
    unproven: bool = False
    remembered: bool = False  # that it is unproven is written where the next switcher finds it
    frozen: bool = False  # nothing makes another pod before we let it
    quiet: bool = False  # nothing will make another pod
    down_generation: int | None = None  # of the Deployment, once its scale is 0; 0: there is no Deployment
    freeze_by: float | None = None  # when its pods are deleted with or without that
    prove_by: float = 0.0
    suspect_at: float = 0.0
    unschedulable_since: float | None = None
    retry_at: float = 0.0  # the API server refused; not before then again
    look_at: float | None = None  # a next look that no event will cause
    node_look_at: float = 0.0

    def see(self, pod: Json, *, gone: bool = False) -> TrackedPod:
        """Take in the newest of a pod; `gone`: its object was deleted."""
        held = self.pods.setdefault(uid(pod), TrackedPod(uid(pod), pod["metadata"]["name"]))
        held.node = node(pod) or held.node
        held.proven = held.proven or terminal(pod)
        held.present = held.present and not gone
        held.last = pod
        return held

    def settle(self, which: str) -> None:
        """Take a person's word, or a lost node's, for the proof that the pod of this uid is gone."""
        if which in self.pods:
            self.pods[which].proven = True
            self.pods[which].present = False

    @property
    def main(self) -> TrackedPod | None:
        """The pod that serves or will: the oldest that is not over."""
        return next((pod for pod in self.pods.values() if pod.present and not pod.proven), None)

    @property
    def left(self) -> list[TrackedPod]:
        """Pods that hold, or that the scheduler may still bind."""
        return [pod for pod in self.pods.values() if pod.holds or (pod.present and not pod.proven)]

    @property
    def lost(self) -> list[TrackedPod]:
        """Pods that hold, and of which nothing more will be heard."""
        return [pod for pod in self.pods.values() if pod.holds and not pod.present]

    @property
    def released(self) -> bool:
        """Whether nothing is left, and nothing comes."""
        return self.stopping and self.quiet and not self.left

    def stop(self, now: float, grace: float) -> None:
        """Have it end; a second call may only shorten the time for its proof."""
        prove_by = now + grace + PROOF_TIME
        self.prove_by = min(self.prove_by, prove_by) if self.stopping else prove_by
        self.suspect_at = self.suspect_at or now + SUSPECT_AFTER
        self.stopping = True

    def look_again(self, when: float) -> None:
        """Have it looked at, at that time at the latest."""
        self.look_at = when if self.look_at is None else min(self.look_at, when)

    def trouble(self, now: float) -> PodFailure | None:
        """Say why it will not serve (any more), as far as its pods tell; None while all is well."""
        if (main := self.main) is None:
            for pod in self.pods.values():  # all are over
                return failure(pod.last, was_ready=self.ready) or deleted(pod.last)
            return None
        first = next(iter(self.pods.values()))
        if first is not main:  # the first ended, and a ReplicaSet made another
            return failure(first.last, was_ready=self.ready) or deleted(first.last)
        if going(main.last):
            return deleted(main.last)
        if found := failure(main.last, was_ready=self.ready):
            return found
        return self._unscheduled(main, now)

    def _unscheduled(self, main: TrackedPod, now: float) -> PodFailure | None:
        why = None if main.node else unschedulable(main.last)
        if why is None:
            self.unschedulable_since = None
            return None
        if self.unschedulable_since is None:
            self.unschedulable_since = now
        until = self.unschedulable_since + UNSCHEDULABLE_AFTER
        self.look_again(until)
        return PodFailure("Unschedulable", why) if now >= until else None

    def unproven_because(self) -> str:
        """Name what is left, for a person."""
        rows = [
            f"pod {pod.name} (uid {pod.uid}) on node {pod.node} "
            + ("has not ended" if pod.present else "was deleted before its containers were seen to end")
            for pod in self.pods.values()
            if pod.holds
        ]
        return "; ".join(rows) or "the Deployment may still create pods"


UNOWNED = ""  # owner of pods that were over before anybody asked


class InstanceTable:
    """Instances by id, thread-safe; pods by uid, for the worker's thread alone.

    A pod belongs to whoever had its Revision when it was first seen, until its object is gone: a later instance of the same
    Revision has nothing to do with what an earlier one left behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holdings: dict[str, PodInstance] = {}
        self._owner: dict[str, str] = {}

    def add(self, holding: PodInstance) -> None:
        """Take in an instance. ValueError: one of that name is there."""
        with self._lock:
            if holding.id in self._holdings:
                raise ValueError(f"the instance {holding.id} exists")
            self._holdings[holding.id] = holding
        for pod in holding.pods:
            self._owner[pod] = holding.id

    def remove(self, holding: PodInstance) -> None:
        """Forget an instance, and those of its pods that nothing more will be heard of."""
        with self._lock:
            del self._holdings[holding.id]
        for pod in holding.pods.values():
            if pod.present:
                self._owner[pod.uid] = holding.id
            else:
                self._owner.pop(pod.uid, None)

    def __contains__(self, instance: str) -> bool:
        return instance in self._holdings

    def get(self, instance: str) -> PodInstance | None:
        """Give an instance by its id."""
        return self._holdings.get(instance)

    def all(self) -> list[PodInstance]:
        """Give all, oldest first."""
        return list(self._holdings.values())

    def of_revision(self, revision: str) -> PodInstance | None:
        """Give the instance that a Revision is scaled up for, or was."""
        return next((each for each in self.all() if each.revision == revision), None)

    def knows(self, pod: Json) -> bool:
        """Whether it is settled whose a pod is."""
        return uid(pod) in self._owner

    def owner(self, pod: Json) -> PodInstance | None:
        """Give the instance of a pod, if it is not released yet."""
        return self._holdings.get(self._owner.get(uid(pod), UNOWNED))

    def assign(self, pod: Json, instance: str) -> None:
        """Settle whose a pod is."""
        self._owner[uid(pod)] = instance

    def forget(self, pod: Json) -> None:
        """Nothing more will be heard of a pod."""
        self._owner.pop(uid(pod), None)
