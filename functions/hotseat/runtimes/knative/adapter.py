"""Knative Services: a workload is a Revision, and requests go to its queue-proxy."""

from collections.abc import Mapping

from hotseat.api.types import Json
from hotseat.kube import pods
from hotseat.kube.client import Change
from hotseat.kube.constants import (
    DEPLOYMENTS,
    FINGERPRINT,
    POD_AUTOSCALERS,
    PODS,
    QUEUE_PORT,
    REVISION,
    SERVERLESS_SERVICES,
    SERVICE,
    SERVICES,
    WORKSPACE,
    Resource,
)
from hotseat.runtimes.engine_http import get
from hotseat.runtimes.knative.autoscaler_status import PodAutoscalerReconciler
from hotseat.runtimes.knative.informers import KnativeInformers, has_our_class
from hotseat.runtimes.knative.replica_sets import ReplicaSetGuard
from hotseat.runtimes.kubernetes.adapter import WorkloadAdapter
from hotseat.runtimes.kubernetes.informers import INSTANCE, OnChange, annotations, labels
from hotseat.runtimes.kubernetes.scale_up import TIMEOUT
from hotseat.runtimes.kubernetes.writes import FencedWriter

POD_GRACE = 1  # seconds; queue-proxy would use up to 30 of a longer grace, and no requests are in flight any more
FOREIGN_GRACE = 40.0  # seconds for a pod that another client deleted: queue-proxy drains for 30 s
_HEADERS = {"User-Agent": "Knative-Activator-Probe", "K-Network-Probe": "queue"}
_READY = (200, b"queue")


def probe_queue_proxy(ip: str) -> bool:
    """Return whether the container behind a pod's queue-proxy is ready; False if the queue-proxy does not answer."""
    return get(f"{f'[{ip}]' if ':' in ip else ip}:{QUEUE_PORT}", "/", TIMEOUT, _HEADERS) == _READY


class KnativeAdapter(WorkloadAdapter):
    """Scales the Deployments of Revisions, and reports their scale to Knative."""

    name = "Knative"
    serves_as = "Service"
    label = REVISION
    model_label = SERVICE
    related = (POD_AUTOSCALERS,)
    default_probe = staticmethod(probe_queue_proxy)
    informers: KnativeInformers

    def open(self, on_change: OnChange) -> None:
        """Make the informers, and the reconciler of our autoscaling class."""
        self.informers = KnativeInformers(self._kube, self._namespace, on_change)
        self.replica_sets = ReplicaSetGuard(self._kube, self._namespace, self.informers)
        self._autoscaler_status = PodAutoscalerReconciler(self._kube, self._namespace, self.informers)

    def start(self) -> None:
        """Start the reconciler."""
        self._autoscaler_status.start()

    def stop(self) -> None:
        """Stop the reconciler."""
        self._autoscaler_status.stop()

    def handle_change(self, resource: Resource, change: Change, item: Json) -> None:  # noqa: ARG002
        """Reconcile the PodAutoscaler of the object."""
        if resource in (POD_AUTOSCALERS, SERVERLESS_SERVICES):
            self._autoscaler_status.enqueue(item["metadata"]["name"])
        elif resource in (DEPLOYMENTS, PODS):
            self._autoscaler_status.enqueue(self.informers.workload_of(item))

    def is_model(self, item: Json) -> bool:
        """Whether a Deployment or a pod belongs to a model: by annotation, label or autoscaling class."""
        if INSTANCE in annotations(item) or WORKSPACE in labels(item):
            return True
        autoscaler = self.informers.autoscalers.named(self.informers.workload_of(item))
        return autoscaler is not None and has_our_class(autoscaler)

    def labels_of(self, model: str) -> Mapping[str, str]:
        """Return the labels of a Knative Service. One that was made by hand may have the only label."""
        service = self.informers.services.named(model)
        return {} if service is None else labels(service)

    def find_workload(self, writer: FencedWriter, model: str) -> tuple[str | None, str]:
        """Return the name of the newest Revision of a Knative Service, and why there is none or it has failed."""
        service = self.informers.services.named(model)
        if service is None or annotations(service).get(FINGERPRINT, "") != self._fingerprint(model):
            service = writer.find(
                SERVICES, model
            )  # that of the watch may be older than the document that is to be started
        if service is None or "deletionTimestamp" in service["metadata"]:
            return None, f"there is no Knative Service {model}"
        status: Json = service.get("status", {})
        if status.get("observedGeneration", 0) < service["metadata"].get("generation", 1):
            return None, f"Knative has not processed the Service {model} yet"
        failure = pods.condition(service, "ConfigurationsReady")
        why = failure.get("message") if failure.get("status") == "False" else None
        return status.get("latestCreatedRevisionName"), why or f"the Knative Service {model} has no Revision"

    def describe(self, workload: str) -> str:
        """Return the Revision, for messages."""
        return f"Revision {workload}"

    def address(self, pod: Json) -> str | None:
        """Return the URL of a pod's queue-proxy; None while the pod has no IP."""
        ip = pods.ip(pod)
        return None if ip is None else f"http://{f'[{ip}]' if ':' in ip else ip}:{QUEUE_PORT}"

    def probe_target(self, pod: Json) -> str | None:
        """Return the IP of a pod."""
        return pods.ip(pod)

    def grace(self) -> int | None:
        """Return one second: no requests are in flight any more."""
        return POD_GRACE

    def time_to_end(self, pod: Json | None, *, foreign: bool) -> float:  # noqa: ARG002 - queue-proxy decides
        """Return the seconds that a deleted pod may take to end."""
        return FOREIGN_GRACE if foreign else 0.0
