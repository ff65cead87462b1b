"""keda/autoscaling on the real KEDA: servers beside the GPU go from zero to several replicas and back, by hotseat's own numbers."""

import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hotseat.api.types import Json
from hotseat.kube.client import KubeError

from .harness import IMAGE, ROOT, Answer, Aside, Hotseat, apply_crds, deploy_without_knative, destroy, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest) -> Iterator[Hotseat]:
    before = request.session.testsfailed
    home = Hotseat(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    if home.kube.find("/apis/keda.sh/v1alpha1") is None:
        pytest.skip("there is no KEDA")
    apply_crds()
    home.kubectl("create", "namespace", home.namespace)
    deploy_without_knative(home)
    home.apply(*manifests(home))
    yield home
    destroy(home, failed=request.session.testsfailed > before)


def manifests(home: Hotseat) -> list[Json]:
    """The files as they are, in this namespace, with the mock engine in place of the real ones and shorter times."""
    text = home.kubectl("kustomize", str(ROOT / "keda/autoscaling")).replace(
        "namespace: default", f"namespace: {home.namespace}"
    )
    found = list(yaml.safe_load_all(text.replace("admin.default.svc", f"admin.{home.namespace}.svc")))
    for each in found:
        if each["kind"] == "Deployment":
            name, [engine] = each["metadata"]["name"], each["spec"]["template"]["spec"]["containers"]
            program = ["python", "-m", "hotseat.engines.mock_server", "--name", name]
            engine |= {"image": IMAGE, "command": [*program, "--host", "0.0.0.0", "--port", "8080"], "args": []}
            del engine["resources"]
        elif each["kind"] == "ScaledObject":
            each["spec"]["cooldownPeriod"] = 5
    return found


def ask(home: Hotseat, path: str, **body: Any) -> Answer:
    address = home.component("router")["status"]["podIP"]
    connection = http.client.HTTPConnection(address, 8080, timeout=180)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, json.loads(content or b"{}"), response.headers, 0.0)
    finally:
        connection.close()


def replicas(home: Hotseat, name: str) -> tuple[int, int]:
    """Replicas of a Deployment, wanted and ready."""
    found = home.get("deploy", name)
    return found["spec"]["replicas"], found["status"].get("readyReplicas", 0)


def await_scaler(home: Hotseat, name: str) -> None:
    wait_until(
        lambda: (
            home.condition("scaledobject", name, "Ready").get("status") == "True"
            and name in home.request("GET", "/api/queue").body["requests"]
        ),
        60,
        f"KEDA and the router know {name}",
    )


def await_zero(home: Hotseat, name: str) -> None:
    wait_until(lambda: replicas(home, name) == (0, 0), 60, f"KEDA has scaled {name} to zero")
    # A pod that ends answers for as long as no other one is ready.
    wait_until(lambda: not home.pods(f"app={name}"), 60, f"no pod of {name} is left")
    address = home.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
    wait_until(lambda: is_refused(address), 30, f"kube-proxy knows that {name} has no endpoint")


def is_refused(address: str) -> bool:
    """Whether kube-proxy refuses connections. Before that, something else may answer for the address."""
    try:
        socket.create_connection((address, 80), timeout=2).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def test_the_first_request_is_held_until_the_first_replica_is_ready(home: Hotseat) -> None:
    await_scaler(home, "bge-small")
    await_zero(home, "bge-small")
    answer = ask(home, "/v1/embeddings", model="text-embedding-3-small", input="hello")
    assert (answer.status, answer.body["object"]) == (200, "list"), answer
    assert replicas(home, "bge-small")[0] >= 1
    wait_until(lambda: replicas(home, "bge-small")[0] == 0, 120, "no replica without a request")


def serves_external_metrics(home: Hotseat) -> bool:
    try:
        return home.kube.find("/apis/external.metrics.k8s.io/v1beta1") is not None
    except KubeError:
        return False


def test_queue_depth_decides_how_many_replicas_there_are(home: Hotseat) -> None:
    try:  # they are away for a while after KEDA's operator was
        wait_until(lambda: serves_external_metrics(home), 90)
    except AssertionError:
        pytest.skip("the HorizontalPodAutoscaler cannot read KEDA's metrics: the API server does not serve them")
    await_scaler(home, "gemma-cpu")
    await_zero(home, "gemma-cpu")
    say = {"model": "gemma-cpu", "messages": [{"role": "user", "content": "x"}], "mock": {"hold": True}}
    calls = [Aside(lambda: ask(home, "/v1/chat/completions", **say)) for _ in range(6)]
    wait_until(lambda: home.request("GET", "/api/queue").body["requests"]["gemma-cpu"] == 6, 20, "all are counted")
    wait_until(lambda: replicas(home, "gemma-cpu") == (3, 3), 120, "two requests for each replica")
    home.release_held(home.pods("app=gemma-cpu"))
    assert [call.result(180).status for call in calls] == [200] * 6
    wait_until(lambda: replicas(home, "gemma-cpu")[0] == 0, 120, "no replica without a request")
