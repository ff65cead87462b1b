"""Deployments: a workload is the Deployment of a Model, and requests go to its pod's own port.

A pod is released by the scale, before it is deleted. Once the ReplicaSet controller has seen that it
is scaled to zero, it deletes the pod and creates no other. So nothing has to be suspended, and no
replacement can get the GPU. The strategy Recreate has no surge pods: a changed template would
stop the pod before there is another. The switcher changes a template at zero replicas only.

A Deployment that was made by hand is adopted by its label, and only its scale is changed. It has the
annotations of an instance while it is scaled up. So a Deployment whose label is removed is
released, and then nobody's business.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from hotseat.api.types import Json
from hotseat.kube import pods
from hotseat.kube.adoption import is_adopted
from hotseat.kube.constants import (
    DEPLOYMENT,
    DEPLOYMENTS,
    FINGERPRINT,
    MODEL,
    NOT_OF_KNATIVE,
    PORT,
    SCALED_BY,
    Resource,
)
from hotseat.runtimes.deployment.informers import DeploymentInformers, DeploymentReplicaSets
from hotseat.runtimes.engine_http import get
from hotseat.runtimes.kubernetes.adapter import WorkloadAdapter
from hotseat.runtimes.kubernetes.informers import EPOCH, INSTANCE, OnChange, annotations, labels
from hotseat.runtimes.kubernetes.scale_up import TIMEOUT
from hotseat.runtimes.kubernetes.writes import FencedWriter

DEFAULT_GRACE = 30  # seconds; of Kubernetes, for pods that state none


def probe_http(url: str) -> bool:
    """Return whether a GET is answered as the kubelet expects of a ready container."""
    parts = urlsplit(url)
    answer = get(parts.netloc, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", TIMEOUT)
    return answer is not None and 200 <= answer[0] < 400  # noqa: PLR2004


class DeploymentAdapter(WorkloadAdapter):
    """Scales the Deployments that the switcher makes of Models, and those with its label."""

    name = "Deployment"
    serves_as = "Deployment"
    label = DEPLOYMENT
    model_label = MODEL
    default_probe = staticmethod(probe_http)
    scaled_by = ""  # value of that label of its Deployments
    selector = f"{NOT_OF_KNATIVE},!{SCALED_BY}"  # of its Deployments and pods: all but what Knative and KEDA scale
    watched: tuple[Resource, ...] = ()  # other kinds that it needs

    def open(self, on_change: OnChange) -> None:
        """Make the informers."""
        informers = DeploymentInformers(self._kube, self._namespace, on_change, *self.watched, selector=self.selector)
        self.informers = informers
        self.replica_sets = DeploymentReplicaSets(self._kube, self._namespace, informers)

    def is_model(self, item: Json) -> bool:
        """Whether a Deployment or a pod belongs to a Model: by its label, or label and annotations of its record.

        A Deployment that is labelled while it runs counts once the scheduler may know its Model.
        """
        workload = self.informers.workload_of(item)
        if DEPLOYMENT in labels(item):
            return True
        record = self.record(workload) if workload else None
        if record is None:  # it was deleted, and its pods may run
            return bool(workload) and INSTANCE in annotations(item)
        known = is_handmade(record) and self._fingerprint(workload) is not None
        return known or INSTANCE in annotations(record)

    def find_workload(self, writer: FencedWriter, model: str) -> tuple[str | None, str]:
        """Return the Deployment of a Model, and why there is none or it is not made from the newest document yet."""
        deployment = self.informers.deployment(model)
        if deployment is None or annotations(deployment).get(FINGERPRINT, "") != self._fingerprint(model):
            deployment = writer.find(DEPLOYMENTS, model)  # that of the watch may be older than the newest document
        if deployment is None or "deletionTimestamp" in deployment["metadata"]:
            return None, f"there is no Deployment {model}"
        if is_handmade(deployment):
            return model, ""
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

    def scale(
        self, writer: FencedWriter, deployment: Json, replicas: int, annotations: Mapping[str, str | None]
    ) -> Json | None:
        """Scale a Deployment, and remove the annotations of an instance from one that was made by hand once it is at zero."""
        if not replicas and MODEL not in labels(deployment):
            annotations = {INSTANCE: None, EPOCH: None, **annotations}
        return writer.scale(deployment, replicas, annotations)

    def address(self, pod: Json) -> str | None:
        """Return the URL of the engine's port, the one named http if there are several; None while the pod has no IP."""
        ip = pods.ip(pod)
        ports = pods.engine_of(pod).get("ports") or [{}]
        port = next((each for each in ports if each.get("name") == "http"), ports[0])
        return None if ip is None else f"http://{_host(ip)}:{port.get('containerPort', PORT)}"

    def probe_target(self, pod: Json) -> str | None:
        """Return the URL of the readiness probe; None if a plain GET cannot do what it does."""
        engine, ip = pods.engine_of(pod), pods.ip(pod)
        probe = (engine.get("readinessProbe") or {}).get("httpGet") or {}
        named = {each["name"]: each["containerPort"] for each in engine.get("ports") or () if "name" in each}
        port = named.get(probe.get("port"), probe.get("port"))
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


def is_handmade(item: Json) -> bool:
    """Whether a Deployment or a ScaledObject was made by hand, and is adopted by its label."""
    return is_adopted(item) and MODEL not in labels(item)


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
