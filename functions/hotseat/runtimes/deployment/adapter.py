"""Deployments: a workload is the Deployment of a Model, and requests go to its pod's own port.

A pod is released by the scale, before it is deleted. Once the ReplicaSet controller has seen that it
is scaled to zero, it deletes the pod and creates no other. So nothing has to be suspended, and no
replacement can get the GPU. The strategy Recreate has no surge pods: a changed template would
stop the pod before there is another. The switcher changes a template at zero replicas only.
"""

from collections.abc import Callable
from urllib.parse import urlsplit

from hotseat.api.types import Json
from hotseat.kube import pods
from hotseat.kube.client import Kube
from hotseat.kube.constants import DEPLOYMENT, DEPLOYMENTS, FINGERPRINT, MODEL, PORT, SCALED_BY
from hotseat.runtimes.engine_http import get
from hotseat.runtimes.kubernetes.adapter import Probe, WorkloadAdapter
from hotseat.runtimes.kubernetes.informers import Informers, OnChange, annotations, labels
from hotseat.runtimes.kubernetes.replica_sets import ReplicaSets
from hotseat.runtimes.kubernetes.scale_up import TIMEOUT
from hotseat.runtimes.kubernetes.writes import FencedWriter

DEFAULT_GRACE = 30  # seconds; of Kubernetes, for pods that state none

Fingerprint = Callable[[str], str | None]  # of the objects for a Model's newest document; None: it is not known


def probe_http(url: str) -> bool:
    """Return whether a GET is answered as the kubelet expects of a ready container."""
    parts = urlsplit(url)
    answer = get(parts.netloc, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", TIMEOUT)
    return answer is not None and 200 <= answer[0] < 400  # noqa: PLR2004


class DeploymentAdapter(WorkloadAdapter):
    """Scales the Deployments that the switcher makes of Models."""

    name = "Deployment"
    serves_as = "Deployment"
    label = DEPLOYMENT
    model_label = MODEL
    scaled_by = ""  # value of that label of its Deployments

    def __init__(self, kube: Kube, namespace: str, probe: Probe, fingerprint: Fingerprint) -> None:
        super().__init__(kube, namespace, probe)
        self.replica_sets = ReplicaSets(kube, namespace, DEPLOYMENT)
        self._fingerprint = fingerprint

    def open(self, on_change: OnChange) -> None:
        """Make the informers, of what the switcher scales itself."""
        self.informers = Informers(
            self._kube, self._namespace, DEPLOYMENT, on_change, selector=f"{DEPLOYMENT},!{SCALED_BY}"
        )

    def is_model(self, item: Json) -> bool:
        """Whether a Deployment or a pod belongs to a Model: by its label."""
        return DEPLOYMENT in labels(item)

    def find_workload(self, writer: FencedWriter, model: str) -> tuple[str | None, str]:
        """Return the Deployment of a Model, and why there is none or it is not made from the newest document yet."""
        deployment = writer.find(DEPLOYMENTS, model)
        if deployment is None or "deletionTimestamp" in deployment["metadata"]:
            return None, f"there is no Deployment {model}"
        if labels(deployment).get(DEPLOYMENT) != model:
            return None, f"the Deployment {model} was not made by hotseat: it has no label {DEPLOYMENT}: {model}"
        if (scaler := labels(deployment).get(SCALED_BY, "")) != self.scaled_by:
            return None, f"the Deployment {model} is still scaled by {scaler or 'the switcher'}"
        wanted = self._fingerprint(model)
        if wanted is not None and annotations(deployment).get(FINGERPRINT) != wanted:
            return None, f"the Deployment {model} is not updated to the Model's newest document yet"
        return model, ""

    def describe(self, workload: str) -> str:
        """Return the Model, for messages."""
        return f"Model {workload}"

    def address(self, pod: Json) -> str | None:
        """Return the URL of the engine's port; None while the pod has no IP."""
        ip = pods.ip(pod)
        ports = _engine(pod).get("ports") or [{}]
        return None if ip is None else f"http://{_host(ip)}:{ports[0].get('containerPort', PORT)}"

    def probe_target(self, pod: Json) -> str | None:
        """Return the URL of the readiness probe; None if a plain GET cannot do what it does."""
        ip, probe = pods.ip(pod), (_engine(pod).get("readinessProbe") or {}).get("httpGet") or {}
        port = probe.get("port")
        if ip is None or not isinstance(port, int) or probe.get("scheme", "HTTP") != "HTTP":
            return None
        if probe.get("host") or probe.get("httpHeaders"):
            return None
        return f"http://{_host(ip)}:{port}{probe.get('path', '/')}"

    def grace(self) -> int | None:
        """Return None: the Model's lifecycle.stopTimeout is the grace of its pods."""
        return None

    def time_to_end(self, pod: Json | None, *, foreign: bool) -> float:  # noqa: ARG002 - the kubelet keeps to the grace
        """Return the grace of a pod; the remaining one if it was deleted."""
        if pod is None or not pod:
            return 0.0
        own = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE)
        return float(pod["metadata"].get("deletionGracePeriodSeconds", own))


def _engine(pod: Json) -> Json:
    """Return the container of the engine."""
    name = pods.engine_container(pod)
    return next((each for each in pod["spec"].get("containers", []) if each["name"] == name), {})


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
