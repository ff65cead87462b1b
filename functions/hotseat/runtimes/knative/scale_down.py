"""The end of an instance: its pods go, then its scale; it is released once all of them are proven gone and none will follow."""

import logging

from hotseat.kube.client import KubeError
from hotseat.runtimes.knative.adoption import UNPROVEN, scaled_up, unproven_mark
from hotseat.runtimes.knative.informers import Informers
from hotseat.runtimes.knative.instance import PodInstance, TrackedPod
from hotseat.runtimes.knative.replicaset_guard import ReplicaSetGuard
from hotseat.runtimes.knative.writes import FencedWriter

FREEZE_PAUSE = (
    0.01  # seconds between questions whether a ReplicaSet's controller knows that it goes; some 15 ms are usual
)
FREEZE_TIME = 2.0  # seconds that it has for that
QUIET_PAUSE = 0.1  # seconds between questions whether a ReplicaSet has come to rest
UNPROVEN_PAUSE = 2.0  # seconds between looks at the node of a pod that is not proven gone

log = logging.getLogger(__name__)


class ScaleDown:
    """Steps towards a release, each repeatable. KubeError: try again later."""

    def __init__(self, hands: FencedWriter, freezer: ReplicaSetGuard, watched: Informers) -> None:
        self._hands = hands
        self._freezer = freezer
        self._watched = watched

    def step(self, holding: PodInstance, now: float) -> None:
        """Do whatever can be done now."""
        if holding.revision is None:  # it was never scaled up
            holding.quiet = True
        self._begin_anew(holding)
        if not holding.quiet and not self._freeze(holding, now):
            return
        self._delete_pods(holding)
        if not holding.quiet:
            self._scale_down(holding)
            self._await_quiet(holding, now)
        self._look_at_nodes(holding, now)

    def overdue(self, holding: PodInstance, now: float) -> bool:
        """Whether it is time to say that it cannot be proven gone: its time is over, or nothing more will be heard."""
        if holding.unproven or holding.released:
            return False
        left = holding.left
        return now >= holding.prove_by or (holding.quiet and bool(left) and left == holding.lost)

    def remember(self, holding: PodInstance) -> None:
        """Write on its Deployment, where there is one, what is left, so that the next switcher knows."""
        deployment = self._watched.deployment(holding.revision) if holding.revision else None
        try:
            if deployment is not None:
                self._hands.scale(deployment, 0, {UNPROVEN: unproven_mark(holding)})
            holding.remembered = True
        except KubeError as error:
            log.warning("%s: %s", holding.id, error)

    def _freeze(self, holding: PodInstance, now: float) -> bool:
        """See to it that nobody makes another pod, or ends the one that there is in its own way. True: it is time to act.

        Where no controller answers, nobody makes another pod either, for the time being.
        """
        revision = holding.revision or ""
        if holding.frozen or (holding.freeze_by is not None and now >= holding.freeze_by):
            return True
        self._hands.check(self._watched.deployment(revision))
        holding.frozen = self._freezer.freeze(revision)
        if not holding.frozen:
            holding.freeze_by = holding.freeze_by or now + FREEZE_TIME
            holding.look_again(now + FREEZE_PAUSE)
        return holding.frozen

    def _delete_pods(self, holding: PodInstance) -> None:
        """Give each pod one second: nothing is in flight any more."""
        for pod in holding.pods.values():
            if pod.present and not pod.proven and not pod.deleted:
                pod.deleted = self._hands.delete(pod.last)

    def _begin_anew(self, holding: PodInstance) -> None:
        """Do all of it again where somebody else has scaled it up again."""
        deployment = self._watched.deployment(holding.revision or "")
        if holding.down_generation is not None and deployment is not None:
            later = deployment["metadata"].get("generation", 0) > holding.down_generation
            if later and scaled_up(deployment):
                holding.down_generation, holding.frozen, holding.freeze_by, holding.quiet = None, False, None, False

    def _scale_down(self, holding: PodInstance) -> None:
        if holding.down_generation is None:
            deployment = self._watched.deployment(holding.revision or "")
            written = self._hands.scale(deployment, 0) if deployment is not None else None
            holding.down_generation = 0 if written is None else int(written["metadata"].get("generation", 0))

    def _await_quiet(self, holding: PodInstance, now: float) -> None:
        """Let the ReplicaSets go as soon as none of them, and none that the Deployment makes after them, will make a pod."""
        revision = holding.revision or ""
        deployment = self._watched.deployment(revision)
        if deployment is not None:
            seen = min(
                deployment["metadata"].get("generation", 0), deployment.get("status", {}).get("observedGeneration", 0)
            )
            if seen < (holding.down_generation or 0):
                return  # the watch will tell
        if not self._freezer.thaw(revision):
            holding.look_again(now + QUIET_PAUSE)
            return
        for item in self._freezer.pods(revision):
            holding.see(item)
        holding.quiet = True
        self._delete_pods(holding)

    def _look_at_nodes(self, holding: PodInstance, now: float) -> None:
        """Where the pods themselves say nothing more, a node that is gone for good is the proof."""
        silent: list[TrackedPod] = holding.lost if now < holding.suspect_at else [p for p in holding.left if p.holds]
        if not silent or now < holding.node_look_at:
            return
        holding.node_look_at = now + UNPROVEN_PAUSE
        for name in {pod.node for pod in silent if pod.node}:
            if self._hands.node_is_gone(name):
                for pod in silent:
                    if pod.node == name:
                        holding.settle(pod.uid)
