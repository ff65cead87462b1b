"""The reconciler of our autoscaling class, against the contract that Knative has with a class."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from hotseat.kube.constants import DEPLOYMENTS, POD_AUTOSCALERS, SERVERLESS_SERVICES
from hotseat.runtimes.knative.autoscaler_status import PodAutoscalerReconciler, serverless_service, status
from hotseat.runtimes.knative.informers import KnativeInformers
from tests.fake_kube import NS, FakeCluster

REVISION = "a-00001"
AUTOSCALER, SERVERLESS = POD_AUTOSCALERS.path(NS, REVISION), SERVERLESS_SERVICES.path(NS, REVISION)
DEPLOYMENT = DEPLOYMENTS.path(NS, f"{REVISION}-deployment")
SERVICES = {"serviceName": "a", "privateServiceName": "a-private"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def kube() -> Iterator[FakeCluster]:
    kube = FakeCluster()
    kube.add_service("a")
    yield kube
    kube.close()


def reconcile(kube: FakeCluster) -> list[tuple[str, str]]:
    """Look once with fresh caches; gives what was written."""
    watched = KnativeInformers(kube, NS, lambda *_: None)
    watched.start()
    assert watched.wait_synced(5)
    kube.calls.clear()
    PodAutoscalerReconciler(kube, NS, watched).reconcile(REVISION)
    watched.stop()
    return kube.calls


def conditions(kube: FakeCluster) -> dict[str, str]:
    return {each["type"]: each["status"] for each in kube.objects[AUTOSCALER]["status"]["conditions"]}


def test_from_a_new_revision_to_serving_and_back(kube: FakeCluster) -> None:
    assert reconcile(kube) == [("create", SERVERLESS)]
    assert reconcile(kube) == []  # Knative has not given it services yet: to say less would fail the Revision
    kube.merge(f"{SERVERLESS}/status", {"status": SERVICES})

    assert reconcile(kube) == [("merge", f"{AUTOSCALER}/status")]
    assert conditions(kube) == {
        "Active": "False", "Ready": "False", "SKSReady": "Unknown", "ScaleTargetInitialized": "True",
    }  # fmt: skip
    assert reconcile(kube) == []

    kube.merge(DEPLOYMENT, {"spec": {"replicas": 1}})
    reconcile(kube)
    assert set(conditions(kube).values()) == {"Unknown", "True"}
    assert conditions(kube)["Active"] == "Unknown"
    assert (kube.objects[AUTOSCALER]["status"]["desiredScale"], kube.objects[AUTOSCALER]["status"]["actualScale"]) == (
        1,
        0,
    )

    kube.serve(kube.pods("a")[0])
    reconcile(kube)
    assert set(conditions(kube).values()) == {"True"}
    assert kube.objects[AUTOSCALER]["status"]["actualScale"] == 1

    kube.merge(DEPLOYMENT, {"spec": {"replicas": 0}})
    reconcile(kube)
    assert conditions(kube)["Active"] == "False"


def test_the_serverless_service_is_the_autoscalers_own(kube: FakeCluster) -> None:
    autoscaler = kube.objects[AUTOSCALER]
    built = serverless_service(autoscaler)
    assert built["metadata"]["labels"] == autoscaler["metadata"]["labels"]
    (owner,) = built["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (autoscaler["metadata"]["uid"], True)
    target = autoscaler["spec"]["scaleTargetRef"]
    assert built["spec"] == {"mode": "Serve", "objectRef": target, "protocolType": "http1"}


def test_drift_is_repaired(kube: FakeCluster) -> None:
    reconcile(kube)
    kube.merge(SERVERLESS, {"spec": {"mode": "Proxy"}})
    assert reconcile(kube) == [("merge", SERVERLESS)]
    assert kube.objects[SERVERLESS]["spec"]["mode"] == "Serve"


def test_autoscalers_of_other_classes_are_left_alone(kube: FakeCluster) -> None:
    kube.objects[AUTOSCALER]["metadata"]["annotations"] = {
        "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"
    }
    assert reconcile(kube) == []


def test_a_condition_keeps_its_time_while_it_keeps_its_state() -> None:
    autoscaler = {"metadata": {"name": "a", "generation": 4}, "spec": {}}
    first = status(autoscaler, {"status": SERVICES}, 0, 0, NOW)
    assert first is not None
    assert (first["observedGeneration"], first["serviceName"], first["metricsServiceName"]) == (4, "a", "a-private")
    later = status({**autoscaler, "status": first}, {"status": SERVICES}, 0, 0, datetime(2027, 1, 1, tzinfo=UTC))
    assert later == first
    loading = status({**autoscaler, "status": first}, {"status": SERVICES}, 1, 0, datetime(2027, 1, 1, tzinfo=UTC))
    assert loading is not None
    times = {each["type"]: each["lastTransitionTime"][:4] for each in loading["conditions"]}
    assert times == {"Active": "2027", "Ready": "2027", "SKSReady": "2026", "ScaleTargetInitialized": "2026"}
