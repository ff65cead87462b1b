"""The reconciler of our autoscaling class: what Knative asks of a class, so that ksvcs are and stay Ready at zero pods.

It makes the ServerlessService of each PodAutoscaler of the class and writes its status. It never scales: the runtime does,
and this says what came of it. Level-triggered: everything is compared with the watches' newest state, then written if it differs.
"""

import logging
from datetime import UTC, datetime

from hotseat.coalesce import CoalescingWorker
from hotseat.kube import pods
from hotseat.kube.client import CONFLICT, NOT_FOUND, Json, Kube, KubeError
from hotseat.kube.constants import AUTOSCALING_CLASS, CLASS_ANNOTATION, POD_AUTOSCALERS, SERVERLESS_SERVICES
from hotseat.runtimes.knative.informers import Informers, is_ours

PAUSE = 0.5  # seconds before what failed is tried again
GATHER = 0.1  # seconds in which changes gather: nothing waits for a status, and a switch needs the API server more

# States as (Active, its reason, SKSReady, Ready), see the class's contract: a Revision at zero is Ready, its autoscaler is not.
IDLE = ("False", "NoTraffic", "Unknown", "False")
LOADING = ("Unknown", "Queued", "Unknown", "Unknown")
SERVING = ("True", "", "True", "True")
_MESSAGES = {"NoTraffic": "The model is not resident.", "Queued": "The model is loading."}

log = logging.getLogger(__name__)


class PodAutoscalerReconciler:
    """One thread; `touch` whatever may have changed. It ends with `stop`."""

    def __init__(self, kube: Kube, namespace: str, watched: Informers) -> None:
        self._kube = kube
        self._namespace = namespace
        self._watched = watched
        self._touched: set[str] = set()
        self._worker = CoalescingWorker("PodAutoscalers", self._reconcile_touched, paused=True)

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def touch(self, revision: str) -> None:
        """Look at a Revision's PodAutoscaler (it has the same name) soon."""
        self._touched.add(revision)
        self._worker.mark(GATHER)

    def stop(self) -> None:
        """End."""
        self._worker.close(1.0)

    def _reconcile_touched(self) -> float | None:
        names = set[str]()
        while self._touched:
            names.add(self._touched.pop())
        failed = {name for name in names if not self._try(name)}
        self._touched.update(failed)
        return PAUSE if failed else None

    def _try(self, name: str) -> bool:
        try:
            self.reconcile(name)
        except KubeError as error:
            if error.status in (CONFLICT, NOT_FOUND):
                return True  # it changed or went meanwhile, of which the watch will tell
            log.warning("PodAutoscaler %s: %s", name, error)
            return False
        except Exception:
            log.exception("PodAutoscaler %s", name)
        return True

    def reconcile(self, name: str) -> None:
        """Bring one PodAutoscaler and its SKS to what they should be. KubeError: try again."""
        autoscaler = self._watched.autoscalers.named(name)
        if autoscaler is None or not is_ours(autoscaler) or "deletionTimestamp" in autoscaler["metadata"]:
            return
        found, wanted = self._watched.serverless.named(name), serverless_service(autoscaler)
        if found is None:
            self._kube.create(SERVERLESS_SERVICES.path(self._namespace), wanted)
            return  # its status comes by the watch
        if differences := {key: value for key, value in wanted["spec"].items() if found["spec"].get(key) != value}:
            self._kube.merge(SERVERLESS_SERVICES.path(self._namespace, name), {"spec": differences})
        deployment = self._watched.deployment(name) or {"spec": {"replicas": 0}}
        ready = sum(pods.ready(pod) for pod in self._watched.pods_of(name))
        before = autoscaler.get("status") or {}
        after = status(autoscaler, found, int(deployment["spec"].get("replicas", 0)), ready, datetime.now(UTC))
        if after is not None and any(before.get(key) != value for key, value in after.items()):
            self._kube.merge(POD_AUTOSCALERS.path(self._namespace, name, "status"), {"status": after})


def serverless_service(autoscaler: Json) -> Json:
    """Build the SKS of a PodAutoscaler. Its mode stays Serve: without ready pods it proxies by itself."""
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
    """Build a PodAutoscaler's status; None before the SKS has its services: to say less would fail the Revision."""
    services = serverless.get("status") or {}
    if not services.get("serviceName") or not services.get("privateServiceName"):
        return None
    active, reason, serving, whole = SERVING if wanted and ready else LOADING if wanted else IDLE
    old = {each["type"]: each for each in (autoscaler.get("status") or {}).get("conditions", [])}

    def condition(kind: str, state: str, why: str = "") -> Json:
        built = {"type": kind, "status": state}
        if why:
            built |= {"reason": why, "message": _MESSAGES[why]}
        since = old.get(kind, {})
        same = since.get("status") == state
        built["lastTransitionTime"] = since["lastTransitionTime"] if same else now.strftime("%Y-%m-%dT%H:%M:%SZ")
        return built

    return {
        "observedGeneration": autoscaler["metadata"].get("generation", 1),
        "serviceName": services["serviceName"],
        "metricsServiceName": services["privateServiceName"],
        "desiredScale": wanted,
        "actualScale": ready,
        "conditions": [
            condition("Active", active, reason),
            condition("Ready", whole, reason),
            condition("SKSReady", serving),
            condition("ScaleTargetInitialized", "True"),
        ],
    }
