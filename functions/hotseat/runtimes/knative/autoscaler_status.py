"""The reconciler of our autoscaling class.

It does what Knative requires, so that Services are Ready at zero pods. It creates the
ServerlessService (SKS) of each PodAutoscaler of the class, and writes the status of the
PodAutoscaler. It does not scale, which the runtime does. It is level-triggered: it compares the
newest state of the informers, and writes differences.
"""

import logging
from datetime import UTC, datetime

from hotseat.api.types import Json
from hotseat.coalesce import CoalescingWorker
from hotseat.kube import pods
from hotseat.kube.client import CONFLICT, NOT_FOUND, Kube, KubeError
from hotseat.kube.constants import AUTOSCALING_CLASS, CLASS_ANNOTATION, POD_AUTOSCALERS, SERVERLESS_SERVICES
from hotseat.runtimes.knative.informers import KnativeInformers, has_our_class

RETRY = 0.5  # seconds before a failed reconciliation is repeated
COALESCE = 0.1  # seconds in which changes are collected: a status is not urgent, and a switch needs the API server more

# States as (Active, its reason, SKSReady, Ready). At zero pods a Revision is Ready, but its
# PodAutoscaler is not.
IDLE = ("False", "NoTraffic", "Unknown", "False")
LOADING = ("Unknown", "Queued", "Unknown", "Unknown")
SERVING = ("True", "", "True", "True")
_MESSAGES = {
    "NoTraffic": "The model is not resident. Requests to hotseat's router load it, requests to this URL do not.",
    "Queued": "The model is loading.",
}

log = logging.getLogger(__name__)


class PodAutoscalerReconciler:
    """Reconciles the PodAutoscalers that were enqueued, on one thread."""

    def __init__(self, kube: Kube, namespace: str, informers: KnativeInformers) -> None:
        self._kube = kube
        self._namespace = namespace
        self._informers = informers
        self._queue: set[str] = set()
        self._worker = CoalescingWorker("PodAutoscalers", self._reconcile_queue, paused=True)

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def enqueue(self, revision: str) -> None:
        """Reconcile the PodAutoscaler of a Revision (it has the same name) soon."""
        self._queue.add(revision)
        self._worker.mark(COALESCE)

    def stop(self) -> None:
        """Stop the thread."""
        self._worker.close(1.0)

    def _reconcile_queue(self) -> float | None:
        names = set[str]()
        while self._queue:
            names.add(self._queue.pop())
        failed = {name for name in names if not self._try(name)}
        self._queue.update(failed)
        return RETRY if failed else None

    def _try(self, name: str) -> bool:
        try:
            self.reconcile(name)
        except KubeError as error:
            if error.status in (CONFLICT, NOT_FOUND):
                return True  # it has changed or was deleted, which the watch will report
            log.warning("cannot reconcile the PodAutoscaler %s: %s", name, error)
            return False
        except Exception:
            log.exception("cannot reconcile the PodAutoscaler %s", name)
        return True

    def reconcile(self, name: str) -> None:
        """Write the differences of one PodAutoscaler and its SKS. Raise KubeError if it must be repeated."""
        autoscaler = self._informers.autoscalers.named(name)
        if autoscaler is None or not has_our_class(autoscaler) or "deletionTimestamp" in autoscaler["metadata"]:
            return
        found, wanted = self._informers.serverless.named(name), serverless_service(autoscaler)
        if found is None:
            self._kube.create(SERVERLESS_SERVICES.path(self._namespace), wanted)
            return  # until the watch reports the SKS
        if differences := {key: value for key, value in wanted["spec"].items() if found["spec"].get(key) != value}:
            self._kube.merge(SERVERLESS_SERVICES.path(self._namespace, name), {"spec": differences})
        deployment = self._informers.deployment(name) or {"spec": {"replicas": 0}}
        ready = sum(pods.ready(pod) for pod in self._informers.pods_of(name))
        before = autoscaler.get("status") or {}
        after = status(autoscaler, found, int(deployment["spec"].get("replicas", 0)), ready, datetime.now(UTC))
        if after is not None and any(before.get(key) != value for key, value in after.items()):
            self._kube.merge(POD_AUTOSCALERS.path(self._namespace, name, "status"), {"status": after})


def serverless_service(autoscaler: Json) -> Json:
    """Return the SKS for a PodAutoscaler. Its mode is always Serve: without ready pods Knative proxies anyway."""
    meta, spec = autoscaler["metadata"], autoscaler["spec"]
    owner = {
        "apiVersion": POD_AUTOSCALERS.api,
        "kind": POD_AUTOSCALERS.kind,
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": SERVERLESS_SERVICES.api,
        "kind": SERVERLESS_SERVICES.kind,
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": dict(meta.get("labels") or {}),
            "annotations": {CLASS_ANNOTATION: AUTOSCALING_CLASS},
            "ownerReferences": [owner],
        },
        "spec": {
            "mode": "Serve",
            "objectRef": spec["scaleTargetRef"],
            "protocolType": spec["protocolType"],  # numActivators is 0, which the API server leaves out
        },
    }


def status(autoscaler: Json, serverless: Json, wanted: int, ready: int, now: datetime) -> Json | None:
    """Return the status for a PodAutoscaler; None until the SKS has its services."""
    # An incomplete status would fail the Revision.
    services = serverless.get("status") or {}
    if not services.get("serviceName") or not services.get("privateServiceName"):
        return None
    active, reason, serving, overall = SERVING if wanted and ready else LOADING if wanted else IDLE

    def condition(kind: str, state: str, why: str = "") -> Json:
        built = {"type": kind, "status": state}
        if why:
            built |= {"reason": why, "message": _MESSAGES[why]}
        before = pods.condition(autoscaler, kind)
        same = before.get("status") == state
        built["lastTransitionTime"] = before["lastTransitionTime"] if same else now.strftime("%Y-%m-%dT%H:%M:%SZ")
        return built

    return {
        "observedGeneration": autoscaler["metadata"].get("generation", 1),
        "serviceName": services["serviceName"],
        "metricsServiceName": services["privateServiceName"],
        "desiredScale": wanted,
        "actualScale": ready,
        "conditions": [
            condition("Active", active, reason),
            condition("Ready", overall, reason),
            condition("SKSReady", serving),
            condition("ScaleTargetInitialized", "True"),
        ],
    }
