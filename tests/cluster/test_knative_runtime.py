"""The runtime of a cluster against real Knative: two models, one after the other, and everything that goes wrong with pods."""

import os
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.core.messages import (
    InstanceAdopted,
    InstanceFailed,
    InstancePending,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Start,
    Stop,
)
from hotseat.kube.client import Kube
from hotseat.kube.constants import (
    AUTOSCALING_CLASS,
    CLASS_ANNOTATION,
    DEPLOYMENTS,
    PODS,
    SERVICE,
    SERVICES,
    WORKSPACE,
    Resource,
)
from hotseat.runtimes.knative.runtime import KnativeRuntime
from hotseat.runtimes.kubernetes import instance as runtime_instance
from tests.fakes import Observations
from tests.knative_home import NoFetcher

from .harness import wait_until

pytestmark = pytest.mark.cluster

IMAGE = os.environ.get("HOTSEAT_TEST_IMAGE", "dev.local/hotseat:dev")
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
ENGINE = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if len(sys.argv) > 1: print("cannot go on", flush=True); sys.exit(int(sys.argv[1]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/exit": os._exit(7)
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ["K_SERVICE"].encode())
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


def service(name: str, namespace: str, *arguments: str, image: str = IMAGE, gpus: str = "1") -> dict:
    template = {
        "metadata": {
            "annotations": {CLASS_ANNOTATION: AUTOSCALING_CLASS, "autoscaling.knative.dev/initial-scale": "0"}
        },
        "spec": {
            "timeoutSeconds": 3600,
            "containers": [
                {
                    "image": image,
                    "command": ["python3", "-c", ENGINE, *arguments],
                    "ports": [{"containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/"}, "periodSeconds": 1},
                    "resources": {"limits": {"nvidia.com/gpu": gpus, "memory": "200Mi"}},
                }
            ],
        },
    }
    meta = {"name": name, "namespace": namespace, "labels": {WORKSPACE: "default"}}
    return {"apiVersion": SERVICES.api, "kind": "Service", "metadata": meta, "spec": {"template": template}}


def model(name: str) -> Model:
    return Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "custom", "command": ["python3"]}})


@pytest.fixture(scope="module")
def kube() -> Kube:
    return Kube.connect(Path(os.environ["HOTSEAT_TEST_KUBECONFIG"]))


@pytest.fixture(scope="module")
def namespace(kube: Kube) -> Iterator[str]:
    name = f"hotseat-runtime-{uuid.uuid4().hex[:6]}"
    kube.create(NAMESPACES.path(), {"metadata": {"name": name}})
    for each in (
        service("one", name),
        service("two", name),
        service("broken", name, "3"),
        service("imageless", name, image="dev.local/there-is-none:at-all"),
        service("greedy", name, gpus="64"),
    ):
        kube.create(SERVICES.path(name), each)
    yield name
    kube.delete(NAMESPACES.path(name=name))


class Home:
    """A switcher's runtime, and what it tells."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.told = Observations()
        self.runtime = KnativeRuntime(kube, namespace, NoFetcher(), identity=uuid.uuid4().hex)
        self.runtime.begin([model(each) for each in ("one", "two", "broken", "imageless", "greedy")], self.told)


@pytest.fixture
def home(kube: Kube, namespace: str) -> Iterator[Home]:
    home = Home(kube, namespace)
    yield home
    for instance in list(home.runtime._instances.all()):
        home.runtime.stop(Stop(instance.model, instance.id, instance.epoch, 0))
        home.told.await_one(InstanceReleased, instance.id, timeout=60)
    home.runtime.close()


def pods_of(kube: Kube, namespace: str, name: str) -> list[dict]:
    return kube.get(PODS.path(namespace), labelSelector=f"{SERVICE}={name}")["items"]


def is_ready(kube: Kube, namespace: str, name: str) -> bool:
    conditions = kube.get(SERVICES.path(namespace, name)).get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def await_true(question, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.05)


def test_models_take_turns_while_their_services_stay_ready(kube: Kube, namespace: str, home: Home) -> None:
    told, runtime = home.told, home.runtime
    await_true(lambda: is_ready(kube, namespace, "one") and is_ready(kube, namespace, "two"), 30)
    times = []
    for epoch, name in enumerate(["one", "two", "one"], 1):
        instance, began = f"default/{name}@{epoch}", time.monotonic()
        runtime.start(Start(name, instance, epoch))
        ready = told.await_one(InstanceReady, instance, timeout=30)
        loaded = time.monotonic()
        with urllib.request.urlopen(f"{ready.address}/", timeout=5) as answer:
            assert answer.read() == name.encode()
        assert is_ready(kube, namespace, name)
        time.sleep(7)  # younger pods take longer to end
        assert is_ready(kube, namespace, name)
        stopped = time.monotonic()
        runtime.stop(Stop(name, instance, epoch, 10))
        told.await_one(InstanceReleased, instance, timeout=30)
        times.append((name, round(loaded - began, 2), round(time.monotonic() - stopped, 2)))
        # It is pending while pods of another namespace that is being deleted hold the GPUs.
        reported = [each for each in told.of_instance(instance) if each != "InstancePending"]
        assert reported == ["InstanceReady", "InstanceReleased"]
        assert is_ready(kube, namespace, name)
    print("model, seconds to ready, seconds to released:", times)  # noqa: T201 - figures, shown by -s


def test_the_next_switcher_adopts_what_runs(kube: Kube, namespace: str, home: Home) -> None:
    home.runtime.start(Start("one", "default/one@10", 10))
    ready = home.told.await_one(InstanceReady, "default/one@10", timeout=30)
    await_true(
        lambda: home.runtime._informers.pods.objects and "InstanceReady" in home.told.of_instance("default/one@10"), 5
    )
    time.sleep(1.5)  # the kubelet's own readiness
    home.runtime.close()
    second = Home(kube, namespace)
    adopted = second.told.await_one(InstanceAdopted, "default/one@10")
    assert (adopted.address, adopted.epoch, adopted.gpus, adopted.releasing) == (ready.address, 10, 1, False)
    second.runtime.stop(Stop("one", "default/one@10", 10, 10))
    second.told.await_one(InstanceReleased, "default/one@10", timeout=30)
    second.runtime.close()
    home.runtime._instances.remove(home.runtime._instances.all()[0])  # it is not the first one's any more


def test_failures_are_found_within_seconds_and_leave_the_seat(
    kube: Kube, namespace: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_instance, "PULL_TIMEOUT", 5.0)
    for name, reason in (("broken", "ExitedWhileLoading"), ("imageless", "ImagePull")):
        began = time.monotonic()
        home.runtime.start(Start(name, f"default/{name}@20", 20))
        failed = home.told.await_one(InstanceFailed, f"default/{name}@20", timeout=20)
        found = time.monotonic() - began
        home.told.await_one(InstanceReleased, f"default/{name}@20", timeout=30)
        print(  # noqa: T201
            f"{name}: {failed.reason} after {found:.2f} s, released after {time.monotonic() - began:.2f} s: {failed.message!r}"
        )
        assert failed.reason == reason
        assert found < 15


def test_a_pod_that_fits_on_no_node_says_so_and_is_left_to_an_autoscaler(home: Home) -> None:
    home.runtime.start(Start("greedy", "default/greedy@25", 25))
    assert "nvidia.com/gpu" in home.told.await_one(InstancePending, "default/greedy@25", timeout=20).message
    time.sleep(12)
    assert home.told.of_instance("default/greedy@25") == ["InstancePending"]
    home.runtime.stop(Stop("greedy", "default/greedy@25", 25, 10))
    home.told.await_one(InstanceReleased, "default/greedy@25", timeout=30)


def test_a_crash_of_a_resident_model(kube: Kube, namespace: str, home: Home) -> None:
    home.runtime.start(Start("one", "default/one@30", 30))
    ready = home.told.await_one(InstanceReady, "default/one@30", timeout=30)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{ready.address}/exit", timeout=5)
    assert home.told.await_one(InstanceFailed, "default/one@30", timeout=20).reason == "Exited"
    home.told.await_one(InstanceReleased, "default/one@30", timeout=30)
    assert home.told.of_instance("default/one@30") == ["InstanceReady", "InstanceFailed", "InstanceReleased"]


@pytest.mark.parametrize("delay", [0.2, 0.5, 0.9])
def test_a_stop_at_any_moment_of_loading(kube: Kube, namespace: str, home: Home, delay: float) -> None:
    instance = f"default/two@4{int(delay * 10)}"
    home.runtime.start(Start("two", instance, 40))
    time.sleep(delay)
    began = time.monotonic()
    home.runtime.stop(Stop("two", instance, 40, 10))
    home.told.await_one(InstanceReleased, instance, timeout=40)
    print(f"stopped {delay} s after its start, released {time.monotonic() - began:.2f} s later")  # noqa: T201
    assert "InstanceUnproven" not in home.told.of_instance(instance)


def test_a_pod_that_was_forced_out_holds_until_a_person_settles_it(kube: Kube, namespace: str, home: Home) -> None:
    home.runtime.start(Start("two", "default/two@50", 50))
    home.told.await_one(InstanceReady, "default/two@50", timeout=30)
    pod = wait_until(lambda: len(found := pods_of(kube, namespace, "two")) == 1 and found, 20, "one pod")[0]
    kube.delete(PODS.path(namespace, pod["metadata"]["name"]), grace=0)
    unproven = home.told.await_one(InstanceUnproven, "default/two@50", timeout=40)
    assert pod["metadata"]["uid"] in unproven.reason
    assert "InstanceReleased" not in home.told.of_instance("default/two@50")
    home.runtime.mark_gone([pod["metadata"]["uid"]])
    home.told.await_one(InstanceReleased, "default/two@50")


def test_a_service_deleted_by_hand_holds_until_its_pod_has_ended(kube: Kube, namespace: str, home: Home) -> None:
    home.runtime.start(Start("two", "default/two@60", 60))
    home.told.await_one(InstanceReady, "default/two@60", timeout=30)
    pod = wait_until(lambda: len(found := pods_of(kube, namespace, "two")) == 1 and found, 20, "one pod")[0]
    kube.delete(SERVICES.path(namespace, "two"))
    assert home.told.await_one(InstanceFailed, "default/two@60", timeout=20).reason == "PodDeleted"
    home.told.await_one(InstanceReleased, "default/two@60", timeout=90)
    left = [each for each in pods_of(kube, namespace, "two") if each["metadata"]["uid"] == pod["metadata"]["uid"]]
    assert all(each["status"]["phase"] in ("Succeeded", "Failed") for each in left)
    assert kube.get(DEPLOYMENTS.path(namespace), labelSelector=f"{SERVICE}=two")["items"] == []
