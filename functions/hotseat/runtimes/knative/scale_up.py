"""The beginning of an instance: the newest Revision of its ksvc is found and scaled to one, and its pod is watched for trouble."""

from hotseat.kube import pods
from hotseat.kube.client import Json
from hotseat.kube.pods import PodFailure
from hotseat.runtimes.knative.informers import EPOCH, INSTANCE, Informers
from hotseat.runtimes.knative.instance import MISSING_AFTER, PodInstance, TrackedPod
from hotseat.runtimes.knative.writes import FencedWriter

NODE_PAUSE = 2.0  # seconds between looks at the node of a pod that is not ready any more


class ScaleUp:
    """Steps towards a pod that serves, each repeatable. KubeError: try again later."""

    def __init__(self, hands: FencedWriter, watched: Informers) -> None:
        self._hands = hands
        self._watched = watched

    def step(self, holding: PodInstance, now: float) -> PodFailure | None:
        """Do what can be done now; gives the reason why it will not serve (any more), if there is one."""
        if not holding.scaled:
            return self._scale_up(holding, now)
        if found := holding.trouble(now):
            return found
        if holding.main is None:
            return self._no_pod(holding)
        return self._node_trouble(holding, holding.main, now)

    def mark(self, holding: PodInstance, pod: TrackedPod) -> None:
        """Write on its pod whose it is."""
        if pod.node and not pod.marked:
            self._hands.mark(pod.name, {INSTANCE: holding.id, EPOCH: str(holding.epoch)})
            pod.marked = True

    def _scale_up(self, holding: PodInstance, now: float) -> PodFailure | None:
        revision, why = _newest_revision(self._hands.service(holding.model), holding.model)
        deployment = self._watched.deployment(revision) if revision else None
        if deployment is None or "deletionTimestamp" in deployment["metadata"]:
            until = holding.began + MISSING_AFTER
            holding.look_again(until)
            return (
                PodFailure("ServiceNotReady", why or f"Revision {revision} has no Deployment") if now >= until else None
            )
        holding.revision = revision  # known before it is tried: the write may come to pass although its answer is lost
        marks = {INSTANCE: holding.id, EPOCH: str(holding.epoch)}
        holding.scaled = self._hands.scale(deployment, 1, marks) is not None
        return None

    def _no_pod(self, holding: PodInstance) -> PodFailure | None:
        deployment = self._watched.deployment(holding.revision or "")
        if deployment is None:
            return PodFailure("ServiceDeleted", f"the Deployment of Revision {holding.revision} is gone")
        for each in deployment.get("status", {}).get("conditions", []):
            if each["type"] == "ReplicaFailure" and each["status"] == "True":
                return PodFailure("PodRefused", str(each.get("message", "the pod could not be created")))
        return None

    def _node_trouble(self, holding: PodInstance, main: TrackedPod, now: float) -> PodFailure | None:
        """Tell a lost node from an engine that is too busy for its probe: by the node's own state."""
        if not holding.ready or main.node is None or pods.ready(main.last) or now < holding.node_look_at:
            return None
        holding.node_look_at = now + NODE_PAUSE
        holding.look_again(holding.node_look_at)
        lost = self._hands.node_is_lost(main.node)
        return PodFailure("NodeLost", f"node {main.node} does not report") if lost else None


def _newest_revision(service: Json | None, model: str) -> tuple[str | None, str]:
    """Name the newest Revision of a ksvc, or say why there is none."""
    if service is None or "deletionTimestamp" in service["metadata"]:
        return None, f"there is no Knative Service {model}"
    status: Json = service.get("status", {})
    if status.get("observedGeneration", 0) < service["metadata"].get("generation", 1):
        return None, f"Knative has not processed the Service {model} yet"
    for each in status.get("conditions", []):
        if each["type"] == "ConfigurationsReady" and each["status"] == "False" and each.get("message"):
            return status.get("latestCreatedRevisionName"), each["message"]
    return status.get("latestCreatedRevisionName"), f"the Knative Service {model} has no Revision"
