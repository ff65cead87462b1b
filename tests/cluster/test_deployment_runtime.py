"""The runtime of Deployments against a real cluster, which needs no Knative: order of scale and delete, grace, applying."""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import (
    InstanceAdopted,
    InstanceFailed,
    InstancePending,
    InstanceReady,
    InstanceReleased,
    Start,
    Stop,
)
from hotseat.kube.client import CONFLICT, Kube, KubeError
from hotseat.kube.constants import DEPLOYMENT, DEPLOYMENTS, PODS, ClusterSettings, Resource
from hotseat.kube.objects import deployment_of, headless_service_of, is_outdated, replacement
from hotseat.runtimes.deployment.runtime import DeploymentRuntime
from tests.fakes import Observations
from tests.knative_home import NoFetcher

pytestmark = pytest.mark.cluster

IMAGE = os.environ.get("HOTSEAT_TEST_IMAGE", "dev.local/hotseat:dev")
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
ENGINE = """
import http.server, os, signal, sys, time
linger = float(os.environ.get("LINGER", "0"))
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(linger), os._exit(0)))
if os.environ.get("BROKEN"): print("cannot go on", flush=True); sys.exit(3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
MODELS = {
    "one": {},
    "two": {},
    "slow": {"env": [{"name": "LINGER", "value": "60"}], "lifecycle": {"stopTimeout": "3s"}},
    "broken": {"env": [{"name": "BROKEN", "value": "1"}]},
    "greedy": {"resources": {"gpus": 64}},
}


def model(name: str, **spec: object) -> Model:
    spec = {
        "engine": "custom",
        "command": ["python3", "-c", ENGINE],
        "port": 8080,
        "image": IMAGE,
        "health": {"path": "/"},
        **MODELS[name],
        **spec,
    }
    return Model.model_validate({"metadata": {"name": name}, "spec": spec})


@pytest.fixture(scope="module")
def kube() -> Kube:
    return Kube.connect(Path(os.environ["HOTSEAT_TEST_KUBECONFIG"]))


@pytest.fixture(scope="module")
def namespace(kube: Kube) -> Iterator[str]:
    name = f"hotseat-deployment-{uuid.uuid4().hex[:6]}"
    kube.create(NAMESPACES.path(), {"metadata": {"name": name}})
    yield name
    kube.delete(NAMESPACES.path(name=name))


@pytest.fixture(scope="module")
def owner(kube: Kube, namespace: str) -> Json:
    """Stand for the Models: it owns what is made of them, so that nothing is deleted for want of an owner."""
    made = kube.create(CONFIG_MAPS.path(namespace), {"metadata": {"name": "owner"}})
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": made["metadata"]["uid"]}


def objects(namespace: str, owner: Json, wanted: Model) -> list[Json]:
    settings = ClusterSettings(IMAGE, namespace)
    made = [deployment_of(wanted, settings, owner["uid"]), headless_service_of(wanted, settings, owner["uid"])]
    for each in made:
        each["metadata"]["ownerReferences"] = [owner]
    return made


@pytest.fixture(scope="module")
def applied(kube: Kube, namespace: str, owner: Json) -> None:
    for name in MODELS:
        for each in objects(namespace, owner, model(name)):
            plural = "deployments" if each["kind"] == "Deployment" else "services"
            kube.apply(Resource(each["apiVersion"], each["kind"], plural).path(namespace, name), each)


class Home:
    """A switcher's runtime, what it tells, and all pods that there ever were."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube, self.namespace, self.told = kube, namespace, Observations()
        self.uids: dict[str, set[str]] = {}
        self._over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()
        self.runtime = DeploymentRuntime(kube, namespace, NoFetcher(), identity=uuid.uuid4().hex)
        self.runtime.begin([model(each) for each in MODELS], self.told)

    def _look(self) -> None:
        version = self.kube.get(PODS.path(self.namespace))["metadata"]["resourceVersion"]
        while not self._over.is_set():
            for event in self.kube.watch(PODS.path(self.namespace), version, seconds=2):
                meta = event["object"]["metadata"]
                version = meta["resourceVersion"]
                if DEPLOYMENT in meta.get("labels", {}):
                    self.uids.setdefault(meta["labels"][DEPLOYMENT], set()).add(meta["uid"])

    def close(self) -> None:
        self._over.set()
        self.runtime.close()

    def load(self, name: str, epoch: int) -> str:
        instance = f"default/{name}@{epoch}"
        self.runtime.start(Start(name, instance, epoch))
        self.told.await_one(InstanceReady, instance, timeout=60)
        return instance

    def release(self, instance: str) -> float:
        began = time.monotonic()
        name, epoch = instance.partition("/")[2].split("@")
        self.runtime.stop(Stop(name, instance, int(epoch), 10))
        self.told.await_one(InstanceReleased, instance, timeout=60)
        return time.monotonic() - began


@pytest.fixture
def home(kube: Kube, namespace: str, applied: None) -> Iterator[Home]:
    home = Home(kube, namespace)
    yield home
    for instance in list(home.runtime._instances.all()):
        home.release(instance.id)
    home.close()


def test_two_models_take_turns_and_no_pod_is_ever_replaced(home: Home) -> None:
    for epoch, name in enumerate(("one", "two", "one", "two"), 10):
        instance = home.load(name, epoch)
        time.sleep(6)  # the kubelet is slow to stop what has become ready a moment ago
        assert home.told.await_one(InstanceReady, instance).address.endswith(":8080")
        took = home.release(instance)
        print(f"{name}: released {took:.2f} s after the stop")  # noqa: T201
        assert home.told.of_instance(instance) == ["InstanceReady", "InstanceReleased"]
    time.sleep(1)
    assert {name: len(uids) for name, uids in home.uids.items()} == {"one": 2, "two": 2}


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.4, 0.8])
def test_a_stop_at_any_moment_of_loading(home: Home, delay: float) -> None:
    instance = f"default/one@{20 + int(delay * 10)}"
    home.runtime.start(Start("one", instance, 20))
    time.sleep(delay)
    home.runtime.stop(Stop("one", instance, 20, 10))
    home.told.await_one(InstanceReleased, instance, timeout=60)
    assert not [each for each in home.told.of_instance(instance) if each == "InstanceUnproven"]


def test_an_engine_that_does_not_end_is_killed_after_its_stop_timeout(home: Home) -> None:
    took = home.release(home.load("slow", 30))
    assert 2.5 < took < 8


def test_a_failure_says_why(home: Home) -> None:
    home.runtime.start(Start("broken", "default/broken@40", 40))
    failed = home.told.await_one(InstanceFailed, "default/broken@40", timeout=30)
    assert failed.reason == "ExitedWhileLoading"
    assert "cannot go on" in failed.message
    home.told.await_one(InstanceReleased, "default/broken@40", timeout=60)


def test_a_pod_that_fits_on_no_node_says_so(home: Home) -> None:
    home.runtime.start(Start("greedy", "default/greedy@50", 50))
    assert "nvidia.com/gpu" in home.told.await_one(InstancePending, "default/greedy@50", timeout=20).message
    assert home.release("default/greedy@50") < 5


def test_a_deleted_pod_frees_nothing_before_its_replacement_has_ended_too(home: Home) -> None:
    instance = home.load("one", 60)
    [pod] = home.kube.get(PODS.path(home.namespace), labelSelector=f"{DEPLOYMENT}=one")["items"]
    home.kube.delete(PODS.path(home.namespace, pod["metadata"]["name"]))
    assert home.told.await_one(InstanceFailed, instance, timeout=30).reason == "PodDeleted"
    home.told.await_one(InstanceReleased, instance, timeout=60)
    assert home.kube.get(DEPLOYMENTS.path(home.namespace, "one"))["spec"]["replicas"] == 0
    assert not [
        each
        for each in home.kube.get(PODS.path(home.namespace), labelSelector=f"{DEPLOYMENT}=one")["items"]
        if each["status"]["phase"] == "Running" and "deletionTimestamp" not in each["metadata"]
    ]


def test_the_next_switcher_adopts_it(home: Home) -> None:
    instance = home.load("one", 70)
    time.sleep(1.5)  # the kubelet's own readiness
    home.runtime.close()
    second = Home(home.kube, home.namespace)
    adopted = second.told.await_one(InstanceAdopted, instance)
    assert (adopted.epoch, adopted.gpus, adopted.releasing) == (70, 1, False)
    second.release(instance)
    second.close()
    home.runtime._instances.remove(home.runtime._instances.all()[0])  # it is not the first one's any more


def apply_at_rest(kube: Kube, at: str, wanted: Json, owner: Json) -> Json:
    """Apply it at the newest version, as the switcher does once its watch has that; the controller writes statuses."""
    for _ in range(20):
        try:
            return kube.apply(at, replacement(wanted, kube.get(at), owner["uid"]))
        except KubeError as error:
            if error.status != CONFLICT:
                raise
            time.sleep(0.1)
    raise AssertionError("it changes all the time")


def test_a_changed_template_is_applied_at_zero_only(home: Home, owner: Json) -> None:
    at = DEPLOYMENTS.path(home.namespace, "two")
    wanted, _ = objects(home.namespace, owner, model("two", env=[{"name": "A", "value": "1"}]))
    before = home.kube.get(at)
    assert is_outdated(wanted, before)
    instance = home.load("two", 80)
    assert not is_outdated(wanted, home.kube.get(at)), "it is scaled up"
    with pytest.raises(KubeError) as caught:
        home.kube.apply(at, replacement(wanted, before, owner["uid"]))
    assert caught.value.status == CONFLICT
    assert home.kube.get(at)["spec"]["replicas"] == 1
    home.release(instance)
    after = apply_at_rest(home.kube, at, wanted, owner)
    assert after["spec"]["replicas"] == 0
    assert not is_outdated(wanted, after)
    original, _ = objects(home.namespace, owner, model("two"))
    after = apply_at_rest(home.kube, at, original, owner)
    assert not is_outdated(original, after), "what an earlier apply set is gone"
    home.release(home.load("two", 81))
