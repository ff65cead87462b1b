"""keda/ on an empty namespace, with the real KEDA: turns, and what must never bring back a model that lost its place."""

import json
import os
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotseat.api.types import Json
from hotseat.kube.constants import CRDS, DEPLOYMENTS, PAUSED_REPLICAS, SCALED_BY, SCALED_OBJECTS

from .harness import CLAIM, GPU_RESOURCE, IMAGE, ROOT, Guard, Hotseat, apply_crds, destroy, model, wait_until, workspace
from .test_keda_autoscaling import serves_external_metrics
from .test_runtimes import move, served_by

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

LABEL = "hotseat.dev/deployment"
OPERATOR = ("-n", "keda", "deployment/keda-operator")
stops_keda = pytest.mark.skipif(not os.environ.get("HOTSEAT_TEST_OWN_CLUSTER"), reason="stops the cluster's KEDA")


class Keda(Hotseat):
    """A hotseat whose router is asked at the address of its pod: there is no gateway."""

    def ask(self, name: str, timeout: float = 60, **mock: Any) -> str:
        """Return the model of the answer. `mock` says what its engine does."""
        said = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "mock": mock}
        body = json.dumps({"model": name, **said}).encode()
        url = f"http://{self.component('router')['status']['podIP']}:8080/v1/chat/completions"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return str(json.load(answer)["model"])

    def ask_aside(self, name: str, **mock: Any) -> "Asked":
        return Asked(self, name, mock)

    def load(self, name: str) -> None:
        """Ask until it is served: a switcher that has just begun knows no Models for a moment."""

        def look() -> bool:
            try:
                return self.ask(name) == name
            except urllib.error.HTTPError:
                return False

        wait_until(look, 90, f"{name} is served")

    def scaled_object(self, name: str) -> Json:
        return self.kube.get(SCALED_OBJECTS.path(self.namespace, name))

    def paused(self, name: str) -> str | None:
        return (self.scaled_object(name)["metadata"].get("annotations") or {}).get(PAUSED_REPLICAS)

    def replicas(self, name: str) -> int:
        return int(self.kube.get(DEPLOYMENTS.path(self.namespace, name))["spec"]["replicas"])

    def engines(self, name: str) -> dict[str, str | None]:
        """Return the uids and nodes of a model's pods."""
        return {each["metadata"]["uid"]: each["spec"].get("nodeName") for each in self.pods(f"{LABEL}={name}")}

    def message(self, name: str) -> str:
        return str(self.condition("model", name, "Resident").get("message", ""))

    def operator(self, replicas: int) -> None:
        """Scale KEDA's operator."""
        self.kubectl("scale", *OPERATOR, f"--replicas={replicas}")
        if replicas:
            self.kubectl("rollout", "status", *OPERATOR, "--timeout=80s")
        else:
            pods = ("get", "-n", "keda", "pods", "-l", "app=keda-operator", "-o", "name")
            wait_until(lambda: self.kubectl(*pods) == "", 60, "the operator is gone")

    def restart_switcher(self, *variables: str) -> None:
        """Start the switcher anew, with these variables."""
        self.kubectl("set", "env", "deployment/hotseat-switcher", *variables)
        self.kubectl("rollout", "status", "deployment/hotseat-switcher", "--timeout=80s")


class Asked:
    """A request that a thread makes."""

    def __init__(self, home: Keda, name: str, mock: dict[str, Any]) -> None:
        self.answer: str | Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(home, name, mock), daemon=True)
        self._thread.start()

    def _run(self, home: Keda, name: str, mock: dict[str, Any]) -> None:
        try:
            self.answer = home.ask(name, 150, **mock)
        except OSError as error:
            self.answer = error

    def result(self) -> str | Exception | None:
        self._thread.join(150)
        return self.answer


def skip_without_keda(home: Hotseat) -> None:
    if home.kube.find(CRDS.path(name="scaledobjects.keda.sh")) is None:
        pytest.skip("the cluster has no KEDA: there is no CRD scaledobjects.keda.sh")


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest) -> Iterator[Keda]:
    before = request.session.testsfailed
    home = Keda(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    skip_without_keda(home)
    apply_crds()
    home.kubectl("create", "namespace", home.namespace)
    home.kubectl("create", "secret", "generic", "hotseat-demand", f"--from-literal=key={home.key}")
    manifests = home.kubectl("kustomize", str(ROOT / "keda"))
    manifests = manifests.replace("value: nvidia.com/gpu", f'value: "{GPU_RESOURCE}"')
    document = workspace()
    document["spec"]["runtime"] = "KEDA"
    home.apply(manifests.replace("dev.local/hotseat:dev", IMAGE), CLAIM, document, model("a"), model("b"))
    for part in ("hotseat-router", "hotseat-switcher"):
        home.kubectl("wait", f"deploy/{part}", "--for=condition=Available", "--timeout=80s")
    wait_until(lambda: home.status("model", "b").get("phase"), 60, "the Models")
    yield home
    destroy(home, failed=request.session.testsfailed > before)


@pytest.fixture(autouse=True)
def guarded(home: Keda) -> Iterator[Guard]:
    with Guard(home) as guard:
        yield guard
    assert guard.found == []


def test_models_take_turns_and_only_keda_scales(home: Keda) -> None:
    assert [home.ask(name) for name in ("a", "b", "a")] == ["a", "b", "a"]
    assert home.status("workspace", "default")["runtime"] == "KEDA"
    assert (home.paused("a"), home.paused("b")) == (None, "0")

    def states() -> list[str]:
        rows = home.kubectl("get", "scaledobject", "-L", "hotseat.dev/state", "--no-headers").splitlines()
        return [row.split()[-1] for row in rows]

    wait_until(lambda: states() == ["ready", "unloaded"], 30, "labels that say so")
    shown = home.kubectl("get", "deployments", "a", "b", "-o", "json", "--show-managed-fields")
    rows = [row for each in json.loads(shown)["items"] for row in each["metadata"]["managedFields"]]
    ours = [row for row in rows if "f:replicas" in row["fieldsV1"].get("f:spec", {}) and row["manager"] == "hotseat"]
    assert not ours, "KEDA has scaled both since"


def test_the_phases_of_switches(home: Keda) -> None:
    for name in "bababa":
        time.sleep(2)
        home.ask(name)

    def completed() -> list[Json]:
        rows = home.status("workspace", "default")["switches"]
        return [row for row in rows if row["outcome"] == "completed" and row.get("from")]

    rows = wait_until(lambda: len(completed()) >= 8 and completed()[-6:], 10, "six more switches")
    for phase in rows[0]["phases"]:
        times = [row["phases"][phase] for row in rows]
        print(f"{phase}: median {statistics.median(times):.3f} s of {times}")  # noqa: T201


def served(address: str) -> int:
    """Return how many requests a mock engine has had."""
    with urllib.request.urlopen(f"{address}/stats", timeout=10) as answer:
        return int(json.load(answer)["requests"])


def test_a_model_with_replicas_is_sized_by_demand_and_wholly_gone_before_another(home: Keda) -> None:
    """Each pod of `wide` locks one of two seats, and `whole` locks both: it would crash beside a pod that is left."""
    try:  # they are away for a while after KEDA's operator was
        wait_until(lambda: serves_external_metrics(home), 90)
    except AssertionError:
        pytest.skip("the HorizontalPodAutoscaler cannot read KEDA's metrics: the API server does not serve them")
    two = workspace("wide")
    two["spec"] |= {"runtime": "KEDA", "capacity": {"gpus": 2}}
    seats = {"HOTSEAT_MOCK_SEAT": "/cache/seat-wide-1:/cache/seat-wide-2"}
    wide = {"concurrency": 1, "scheduling": {"replicas": 2}}
    home.apply(two, model("wide", workspace="wide", env=seats, **wide))
    home.apply(model("whole", "--gpus", "2", workspace="wide", env=seats))
    home.load("wide")

    def addresses() -> list[str]:
        found = [each for each in home.status("workspace", "wide")["residents"] if each["model"] == "wide"]
        return [address for each in found for address in (each["address"], *each.get("moreAddresses", ()))]

    assert len(addresses()) == 1
    asked = [home.ask_aside("wide", hold=True) for _ in range(4)]
    oldest, newest = wait_until(lambda: len(found := addresses()) == 2 and found, 60, "a second pod serves")
    wait_until(lambda: served(newest) == 1, 10, "it gets a request")
    home.release_held(home.pods(f"{LABEL}=wide"))
    assert [each.result() for each in asked] == ["wide"] * 4
    assert served(oldest) + served(newest) == 5

    wait_until(lambda: home.status("model", "wide").get("readyReplicas") == 2, 10, "the Model's status")
    kept = home.ask_aside("wide", first_token=5)
    wait_until(lambda: served(oldest) + served(newest) == 6, 10, "it is in flight")
    home.kubectl("scale", "deployment", "wide", "--replicas=1")
    wait_until(lambda: addresses() == [oldest], 20, "the newest pod gets nothing more")
    assert kept.result() == "wide", "the oldest has it, and goes on"

    home.kubectl("scale", "deployment", "wide", "--replicas=2")
    wait_until(lambda: len(addresses()) == 2, 30, "both serve")
    assert home.ask("whole") == "whole"
    assert not [node for node in home.engines("wide").values() if node]
    assert (home.replicas("wide"), home.paused("wide")) == (0, "0")
    for name in ("wide", "whole"):
        home.delete("model", name)
    home.delete("workspace", "wide")


def test_a_pause_that_somebody_removes_is_put_back(home: Keda) -> None:
    home.load("a")
    home.kubectl("annotate", "scaledobject", "b", f"{PAUSED_REPLICAS}-")
    wait_until(lambda: home.paused("b") == "0", 10, "the pause")
    time.sleep(2)
    assert (home.replicas("b"), home.engines("b")) == (0, {})
    assert home.residents() == {"a": "ready"}


def test_what_is_scaled_up_without_a_place_is_taken_down(home: Keda) -> None:
    """As KEDA would with an answer from before the stop. Its pod gets another GPU of the node, so it has a seat of its own."""
    home.apply(model("late", env={"HOTSEAT_MOCK_SEAT": "/cache/seat-late"}))
    home.load("a")
    kept = home.engines("a")
    wait_until(lambda: home.kube.find(SCALED_OBJECTS.path(home.namespace, "late")), 30, "its ScaledObject")
    wait_until(lambda: home.scaled_object("late").get("status", {}).get("pausedReplicaCount") == 0, 30, "it is paused")
    home.kubectl("scale", "deployment", "late", "--replicas=1")
    asked = home.ask_aside("b")
    wait_until(lambda: home.replicas("late") == 0, 20, "KEDA has carried out the pause again")
    assert asked.result() == "b"
    assert not [node for node in home.engines("late").values() if node], "b came after it was gone"
    assert not kept.keys() & home.engines("a").keys()
    assert home.paused("late") == "0"
    home.delete("model", "late")


@stops_keda
def test_a_restarted_operator_brings_nothing_back(home: Keda) -> None:
    home.load("a")
    kept = home.engines("a")
    home.kubectl("delete", "pod", "-n", "keda", "-l", "app=keda-operator")
    home.kubectl("rollout", "status", *OPERATOR, "--timeout=80s")
    time.sleep(5)
    assert (home.engines("a"), home.replicas("b"), home.engines("b")) == (kept, 0, {})
    assert home.ask("b") == "b"


@stops_keda
def test_without_the_operator_no_switch_completes_and_it_says_so(home: Keda) -> None:
    home.load("a")
    kept = home.engines("a")
    home.operator(0)
    try:
        asked = home.ask_aside("b")
        wait_until(lambda: "KEDA has not scaled the Deployment a to 0" in home.message("a"), 30, "the condition")
        assert (home.engines("a"), home.engines("b"), asked.answer) == (kept, {}, None)
    finally:
        home.operator(1)
    assert asked.result() == "b"
    wait_until(lambda: home.residents() == {"b": "ready"}, 10)


def test_a_killed_scaler_stops_nothing_and_starts_nothing(home: Keda) -> None:
    home.load("a")
    kept = home.engines("a")
    home.kubectl("scale", "deployment", "hotseat-switcher", "--replicas=0")
    label = "app.kubernetes.io/component=switcher"
    wait_until(lambda: not home.pods(label), 60, "the switcher is gone")
    home.kubectl("annotate", "scaledobject", "b", f"{PAUSED_REPLICAS}-")
    time.sleep(5)
    assert (home.engines("a"), home.replicas("b"), home.engines("b")) == (kept, 0, {})
    home.kubectl("scale", "deployment", "hotseat-switcher", "--replicas=1")
    wait_until(lambda: home.paused("b") == "0", 60, "the next switcher has paused b again")
    home.load("a")
    assert home.engines("a") == kept, "it was adopted"
    assert home.ask("b") == "b"


def test_with_the_scaler_out_of_reach_no_switch_completes_and_it_says_so(home: Keda) -> None:
    home.load("a")
    home.restart_switcher("HOTSEAT_SCALER_ADDRESS=hotseat-scaler.{namespace}.svc:9")

    def address() -> str:
        return str(home.scaled_object("b")["spec"]["triggers"][0]["metadata"]["scalerAddress"])

    wait_until(lambda: address().endswith(":9"), 60, "the ScaledObjects name it")
    try:
        asked = home.ask_aside("b")
        wait_until(lambda: "KEDA has not scaled the Deployment b to 1" in home.message("b"), 60, "the condition")
        print(home.message("b"))  # noqa: T201
        assert (home.engines("b"), asked.answer) == ({}, None)
    finally:
        home.restart_switcher("HOTSEAT_SCALER_ADDRESS-")
    home.load("b")


def test_keda_and_the_scaler_know_each_other_by_certificates(home: Keda, tmp_path: Path) -> None:
    name = f"hotseat-scaler.{home.namespace}.svc"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    files = ["-keyout", "tls.key", "-out", "tls.crt"]
    names = ["-subj", "/CN=hotseat-scaler", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(["openssl", "req", "-x509", *curve, *names, *files], check=True, cwd=tmp_path, capture_output=True)
    home.load("a")
    keys = [("tls.crt", "tls.crt"), ("tls.key", "tls.key"), ("ca.crt", "tls.crt")]
    home.kubectl(
        "create", "secret", "generic", "hotseat-scaler", *(f"--from-file={key}={tmp_path / file}" for key, file in keys)
    )
    parameters = (("caCert", "ca.crt"), ("tlsClientCert", "tls.crt"), ("tlsClientKey", "tls.key"))
    targets = [{"parameter": it, "name": "hotseat-scaler", "key": key} for it, key in parameters]
    authentication = {"apiVersion": "keda.sh/v1alpha1", "kind": "TriggerAuthentication", "metadata": {"name": "scaler"}}
    home.apply({**authentication, "spec": {"secretTargetRef": targets}})
    home.restart_switcher("HOTSEAT_SCALER_AUTHENTICATION=scaler")

    def trigger() -> Json:
        return dict(home.scaled_object("b")["spec"]["triggers"][0])

    wait_until(lambda: trigger().get("authenticationRef") == {"name": "scaler"}, 60, "the ScaledObjects name it")
    assert trigger()["metadata"]["enableTLS"] == "true"
    home.load("b")
    assert home.residents() == {"b": "ready"}


def test_a_workspace_moves_to_keda_and_on_to_deployments(hotseat: Hotseat) -> None:
    """A Deployment of the same name is KEDA's to scale first, and then the switcher's."""
    skip_without_keda(hotseat)
    for folder in ("deployment", "keda"):
        hotseat.kubectl("apply", "-k", str(ROOT / folder / "role"))
    hotseat.apply(model("c"))
    hotseat.served("c")
    assert hotseat.status("workspace", "default")["runtime"] == "Knative", "Auto, where Knative is"

    move(hotseat, "KEDA")
    [by_keda] = served_by(hotseat, "c", f"{LABEL}=c,{SCALED_BY}=KEDA")
    wait_until(lambda: not hotseat.get("ksvc", "c"), 60, "the ksvc is gone")
    assert "keda" in hotseat.kubectl("get", "hpa", "-o", "name"), "it is not paused"

    move(hotseat, "Deployment")
    [by_switcher] = served_by(hotseat, "c", f"{LABEL}=c,!{SCALED_BY}")
    assert by_keda["metadata"]["uid"] != by_switcher["metadata"]["uid"]
    assert hotseat.kubectl("get", "scaledobject,hpa", "-o", "name") == "", "KEDA has let go"
    claims = [each["spec"]["volumes"][0]["persistentVolumeClaim"] for each in (by_keda, by_switcher)]
    assert claims[0] == claims[1]

    move(hotseat, "Knative")
    served_by(hotseat, "c", "serving.knative.dev/service=c")
    hotseat.delete("model", "c")
    wait_until(lambda: not hotseat.residents(), 60, "c is gone")
