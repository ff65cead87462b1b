"""The end of a holder: its scale goes, its pods at once after it; it is released once all of them are proven gone and none will follow."""

from hotseat.kube.client import KubeError
from hotseat.runtimes.knative.acting import Hands
from hotseat.runtimes.knative.adopting import UNPROVEN, scaled_up, unproven_mark
from hotseat.runtimes.knative.holding import HeldPod, Holding
from hotseat.runtimes.knative.watched import Watched

QUIET_PAUSE = 0.1  # seconds between questions whether a ReplicaSet has come to rest
UNPROVEN_PAUSE = 2.0  # seconds between looks at the node of a pod that is not proven gone


class Releases:
    """Steps towards a release, each repeatable. KubeError: try again later."""

    def __init__(self, hands: Hands, watched: Watched) -> None:
        self._hands = hands
        self._watched = watched

    def step(self, holding: Holding, now: float) -> None:
        """Do whatever can be done now."""
        self._scale_down(holding)
        self._delete_pods(holding)
        if not holding.quiet:
            self._await_quiet(holding, now)
        self._look_at_nodes(holding, now)

    def overdue(self, holding: Holding, now: float) -> bool:
        """Whether it is time to say that it cannot be proven gone: its time is over, or nothing more will be heard."""
        if holding.unproven or holding.released:
            return False
        left = holding.left
        return now >= holding.prove_by or (holding.quiet and bool(left) and left == holding.lost)

    def remember_unproven(self, holding: Holding) -> None:
        """Write on the Deployment what is left, so that the next switcher knows; nothing where that cannot be."""
        deployment = self._watched.deployment(holding.revision) if holding.revision else None
        if deployment is not None:
            self._hands.scale(deployment, 0, {UNPROVEN: unproven_mark(holding)})

    def _delete_pods(self, holding: Holding) -> None:
        """Give each pod one second, right after the scale and before it has come by two controllers to the ReplicaSet.

        After: that would give its pods the long grace, and a preStop that runs is not shortened. Before: it would make a
        replacement, which may get a node of its own and start; and one that goes before its kubelet said anything about it
        leaves no proof that it is gone.
        """
        for pod in holding.pods.values():
            if pod.present and not pod.proven and not pod.deleted:
                self._hands.delete(pod.name, pod.uid)
                pod.deleted = True

    def _scale_down(self, holding: Holding) -> None:
        if holding.revision is None:  # it was never scaled up
            holding.down_generation, holding.quiet = 0, True
            return
        deployment = self._watched.deployment(holding.revision)
        if holding.down_generation is not None and deployment is not None:
            later = deployment["metadata"].get("generation", 0) > holding.down_generation
            if later and scaled_up(deployment):  # somebody else scaled it up again
                holding.down_generation, holding.quiet = None, False
        if holding.down_generation is None:
            written = self._hands.scale(deployment, 0) if deployment is not None else None
            holding.down_generation = 0 if written is None else int(written["metadata"].get("generation", 0))

    def _await_quiet(self, holding: Holding, now: float) -> None:
        """See to it that every pod is known, and that there will be no other."""
        deployment = self._watched.deployment(holding.revision or "")
        if deployment is not None:
            seen = min(
                deployment["metadata"].get("generation", 0), deployment.get("status", {}).get("observedGeneration", 0)
            )
            if seen < (holding.down_generation or 0):
                return  # the watch will tell
        items = self._hands.last_pods(holding.revision or "")
        if items is None:
            holding.look_again(now + QUIET_PAUSE)
            return
        for item in items:
            holding.see(item)
        holding.quiet = True
        self._delete_pods(holding)

    def _look_at_nodes(self, holding: Holding, now: float) -> None:
        """Where the pods themselves say nothing more, a node that is gone for good is the proof."""
        silent: list[HeldPod] = holding.lost if now < holding.prove_by else [p for p in holding.left if p.holds]
        if not silent or now < holding.node_look_at:
            return
        holding.node_look_at = now + UNPROVEN_PAUSE
        for name in {pod.node for pod in silent if pod.node}:
            if self._hands.node_is_gone(name):
                for pod in silent:
                    if pod.node == name:
                        holding.settle(pod.uid)


def try_to_remember(releases: Releases, holding: Holding) -> KubeError | None:
    """Remember what is unproven; gives the error that kept it from that."""
    try:
        releases.remember_unproven(holding)
    except KubeError as error:
        return error
    return None
