"""Nodes that are drained or lost, and an API server that is away."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .harness import GPU_RESOURCE, ROOT, Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

GHOST = {"hotseat.dev/test": "ghost"}


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"), model("beta"))
    wait_until(lambda: hotseat.is_ready("alpha") and hotseat.is_ready("beta"), 60, "services of the models")


def test_a_pod_that_is_evicted_is_waited_for_and_its_model_comes_back(hotseat: Hotseat) -> None:
    """Without the guard: its ReplicaSet makes a replacement at once, which may start on the other GPU before it is deleted."""
    assert hotseat.chat("alpha").status == 200
    pod = hotseat.pod_of("alpha")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod["metadata"]["name"], "namespace": hotseat.namespace},
    }
    path = f"/api/v1/namespaces/{hotseat.namespace}/pods/{pod['metadata']['name']}/eviction"
    hotseat.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))  # what `kubectl drain` does
    wait_until(lambda: hotseat.residents().get("alpha") != "ready", 10, "it is seen to go")
    answer = hotseat.served("alpha", 90)
    assert answer.body["model"] == "alpha"
    uid = pod["metadata"]["uid"]
    wait_until(lambda: uid not in [each["metadata"]["uid"] for each in hotseat.pods_of("alpha")], 30, "its end")


@contextmanager
def cut_off(hotseat: Hotseat) -> Iterator[None]:
    """Let router and switcher reach the API server no longer; everything else goes on."""
    addresses = [hotseat.component(each)["status"]["podIP"] for each in ("router", "switcher")]
    endpoints = json.loads(hotseat.kubectl("get", "--raw", "/api/v1/namespaces/default/endpoints/kubernetes"))
    port = str(endpoints["subsets"][0]["ports"][0]["port"])
    rules = [
        (chain, "-s", each, "-p", "tcp", "--dport", port, "-j", "DROP")
        for each in addresses
        for chain in ("INPUT", "FORWARD")
    ]
    for rule in rules:
        subprocess.run(["iptables", "-I", *rule], check=True)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-D", *rule], check=True)


@pytest.mark.skipif(
    not os.environ.get("HOTSEAT_TEST_OWN_CLUSTER"), reason="meddles with the network of the cluster's node"
)
def test_what_is_resident_is_served_while_the_api_server_is_away(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    pod = hotseat.pod_of("alpha")
    with cut_off(hotseat):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            answer = hotseat.chat("alpha", timeout=20)  # less than the outage: it does not wait for its end
            assert (answer.status, answer.body.get("model")) == (200, "alpha"), answer.error
            time.sleep(0.25)
    for name in ("beta", "alpha"):
        answer = wait_until(
            lambda name=name: (a := hotseat.chat(name)).status == 200 and a, 60, f"{name}, with it back"
        )
        assert answer.body["model"] == name
    uid = pod["metadata"]["uid"]
    wait_until(lambda: uid not in [each["metadata"]["uid"] for each in hotseat.pods_of("alpha")], 30, "its end")


# The last, for what is left of it stays for a while: the garbage collector of pods is in no hurry.
@pytest.fixture
def ghost(hotseat: Hotseat) -> Iterator[str]:
    """A node without a kubelet: pods are bound to it, and nobody ever says what became of them."""
    name = f"ghost-{hotseat.namespace}"
    labels = {**GHOST, "kubernetes.io/os": "linux"}
    taints = [{"key": next(iter(GHOST)), "value": "ghost", "effect": "NoSchedule"}]  # no pod of another test
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
    }
    binding = f"{hotseat.namespace}-nodes"
    account = f"{hotseat.namespace}:hotseat-switcher"
    hotseat.kubectl("apply", "-k", str(ROOT / "knative/nodes"))
    hotseat.kubectl(
        "create", "clusterrolebinding", binding, "--clusterrole=hotseat-nodes", f"--serviceaccount={account}"
    )
    hotseat.apply(node)
    resources = {"cpu": "4", "memory": "8Gi", "pods": "20", **({GPU_RESOURCE: "1"} if GPU_RESOURCE else {})}
    status = {"capacity": resources, "allocatable": resources, "conditions": [_ready()]}
    hotseat.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    yield name
    hotseat.delete("node", name)
    hotseat.delete("clusterrolebinding", binding)


def test_a_pod_on_a_lost_node_holds_its_seat_until_the_node_is_gone_for_good(
    hotseat: Hotseat, guard: Guard, ghost: str
) -> None:
    hotseat.apply(
        model(
            "stray",
            podTemplate={"spec": {"nodeSelector": GHOST, "tolerations": [{"operator": "Exists"}]}},
            lifecycle={"startTimeout": "10s", "stopTimeout": "1s"},
        )
    )
    hotseat.await_model("stray")
    hotseat.served("alpha")
    answer = hotseat.chat("stray")
    assert answer.status == 503
    pods = [each for each in hotseat.pods_of("stray") if each["spec"].get("nodeName")]
    assert [each["spec"]["nodeName"] for each in pods] == [ghost]
    wait_until(lambda: hotseat.residents().get("stray") == "unproven", 90, "the seat is not free")
    refused = hotseat.chat("beta")
    assert (refused.status, refused.body["error"]["code"]) == (503, "release_unproven")
    wait_until(lambda: hotseat.status("model", "stray")["phase"] == "ReleaseUnproven", 10, "its phase")
    wait_until(
        lambda: pods[0]["metadata"]["uid"] in json.dumps(hotseat.status("model", "stray")), 10, "which pod it is"
    )
    assert not hotseat.pods_of("beta"), "and nobody gets it"
    hotseat.delete("node", ghost)
    answer = hotseat.served("beta")
    assert answer.body["model"] == "beta"
    hotseat.delete("model", "stray")


def _ready() -> dict[str, str]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now, "lastTransitionTime": now}
