"""The runtime of Deployments against an API server in memory: what is the same as with Knative, and what is not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hotseat.api.types import Json
from hotseat.core.messages import (
    InstanceAdopted,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Start,
)
from hotseat.kube.constants import DEPLOYMENTS, PODS, REPLICA_SETS
from hotseat.runtimes.deployment.adapter import DeploymentAdapter, probe_http
from hotseat.runtimes.deployment.runtime import DeploymentRuntime
from hotseat.runtimes.kubernetes.informers import SWITCHER, annotations
from tests.fake_kube import NS, FakeCluster, merged
from tests.unit.runtimes.knative.test_runtime import (  # noqa: F401 - pytest collects them here, with the home below
    A,
    Home,
    await_true,
    model,
    never,
    test_a_crash_is_told_with_the_last_words,
    test_a_pod_on_a_lost_node_holds_until_the_node_is_gone_for_good,
    test_a_pod_that_no_node_takes,
    test_a_pod_that_was_forced_out_holds_until_a_person_settles_it,
    test_a_resident_model_on_a_lost_node_has_failed,
    test_a_scale_whose_answer_was_lost_is_known_to_have_happened,
    test_a_second_stop_shortens_the_time_for_the_proof,
    test_a_stop_before_anything_was_scheduled_releases_at_once,
    test_a_switcher_that_was_taken_over_from_changes_nothing,
    test_closing_leaves_models_alone_and_the_next_adopts_them,
    test_it_goes_on_when_the_api_server_is_back,
    test_killed_when_all_was_over,
    test_killed_while_a_model_loads,
    test_killed_while_a_pod_ends,
    test_killed_while_a_pod_ends_on_a_node_that_is_gone_since,
    test_output_is_followed_over_the_lines_that_were_read,
    test_running_out_of_memory_while_loading,
    test_the_same_model_again_has_nothing_to_do_with_what_it_left,
    test_weights_are_the_fetchers_business,
)

DEPLOYMENT = DEPLOYMENTS.path(NS, "a")


class DeploymentHome(Home):
    """A cluster with the Deployments a and b, and one switcher's runtime after another."""

    runtime_type = DeploymentRuntime

    def __init__(self) -> None:
        super().__init__()
        self.kube.objects.clear()
        self.kube = FakeCluster()
        self.kube.add_deployment("a")
        self.kube.add_deployment("b")
        self.fingerprints = {"a": "1", "b": "1"}

    def scale(self) -> int:
        return int(self.kube.objects[DEPLOYMENT]["spec"]["replicas"])


@pytest.fixture
def home() -> Iterator[DeploymentHome]:
    home = DeploymentHome()
    home.begin()
    yield home
    home.end()


def at(pod: Json) -> str:
    return PODS.path(NS, pod["metadata"]["name"])


def test_a_model_comes_and_goes(home: DeploymentHome) -> None:
    pod = home.resident()
    address = home.told.await_one(InstanceReady, A).address
    assert address == f"http://{home.kube.find(at(pod))['status']['podIP']}:9000", "its own port: there is no sidecar"
    marks = home.kube.objects[DEPLOYMENT]["metadata"]["annotations"]
    assert (marks["hotseat.dev/instance"], marks["hotseat.dev/epoch"]) == (A, "1")
    home.kube.calls.clear()
    home.stop()
    await_true(lambda: ("delete", at(pod)) in home.kube.calls)
    assert home.kube.calls == [("merge", DEPLOYMENT), ("delete", at(pod))], "the scale is first: nobody replaces it"
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod, keep=True)
    home.told.await_one(InstanceReleased, A)
    assert home.told.of_instance(A) == ["InstanceReady", "InstanceReleased"]


def test_a_pod_is_deleted_with_its_own_grace(home: DeploymentHome) -> None:
    graces: list[int | None] = []
    end_of, home.kube.end_of = home.kube.end_of, lambda path, grace: (graces.append(grace), end_of(path, grace))[1]
    pod = home.resident()
    home.stop()
    await_true(lambda: ("delete", at(pod)) in home.kube.calls)
    assert graces[-1] is None


def test_no_pod_is_deleted_while_a_replica_set_may_replace_it(home: DeploymentHome) -> None:
    pod = home.resident()
    replicate, home.kube._replicate = home.kube._replicate, lambda at: None  # its controller sleeps
    home.stop()
    await_true(lambda: home.scale() == 0)
    never(lambda: home.going(pod))
    home.kube._replicate = replicate
    home.kube._replicate_all()
    await_true(lambda: home.going(pod))
    assert [each["metadata"]["name"] for each in home.kube.pods("a")] == [pod["metadata"]["name"]]
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_a_replacement_of_a_pod_that_somebody_deleted_is_waited_for_too(home: DeploymentHome) -> None:
    pod = home.resident()
    home.kube.away = True
    home.kube.end_of(at(pod), 300)
    replacement = home.kube.run(home.kube.pods("a")[-1])
    home.kube.away = False
    assert home.told.await_one(InstanceFailed, A).reason == "PodDeleted"
    await_true(lambda: home.going(replacement))
    home.kube.end(pod)
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(replacement)
    home.told.await_one(InstanceReleased, A)


def test_what_is_scaled_up_again_while_it_ends_is_scaled_down_again(home: DeploymentHome) -> None:
    pod = home.resident()
    home.stop()
    await_true(lambda: ("delete", at(pod)) in home.kube.calls)
    home.kube.merge(DEPLOYMENT, {"spec": {"replicas": 1}})
    await_true(lambda: home.scale() == 0)
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert home.kube.pods("a") == []


def test_what_somebody_else_scales_up_is_an_instance(home: DeploymentHome) -> None:
    home.kube.merge(DEPLOYMENT, {"spec": {"replicas": 1}})
    adopted = home.told.await_one(InstanceAdopted, model="a")
    home.kube.serve(home.kube.pods("a")[0])
    home.told.await_one(InstanceReady, adopted.instance)


def test_a_changed_document_is_applied_before_it_is_started(home: DeploymentHome) -> None:
    home.fingerprints["a"] = "2"
    home.runtime.start(Start("a", A, 1))
    never(lambda: home.scale() == 1)
    home.kube.merge(DEPLOYMENT, {"metadata": {"annotations": {"hotseat.dev/fingerprint": "2"}}})
    await_true(lambda: home.scale() == 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "there is no Deployment a"),
        ({"labels": {"hotseat.dev/deployment": None}}, "was not made by hotseat"),
        ({"labels": {"hotseat.dev/scaled-by": "KEDA"}}, "is still scaled by KEDA"),
        ({"annotations": {"hotseat.dev/fingerprint": "0"}}, "is not updated to the Model's newest document yet"),
    ],
)
def test_a_deployment_that_cannot_be_scaled_up_says_why(home: DeploymentHome, change: Json | None, why: str) -> None:
    before = home.runtime._informers.deployment("a")
    if change is None:
        home.kube.remove(DEPLOYMENT)
    else:
        home.kube.merge(DEPLOYMENT, {"metadata": change})
    await_true(lambda: home.runtime._informers.deployment("a") is not before)
    home.runtime.start(Start("a", A, 1))
    never(lambda: home.told.of_instance(A))  # it may be about to be made
    home.pass_time(11)
    failed = home.told.await_one(InstanceFailed, A)
    assert failed.reason == "DeploymentNotReady"
    assert why in failed.message
    home.told.await_one(InstanceReleased, A)


def test_a_start_reads_nothing_that_the_watch_has(home: DeploymentHome) -> None:
    informers = home.runtime._adapter.informers

    def up_to_date() -> bool:
        known, newest = informers.deployment("a"), home.kube.objects[DEPLOYMENT]
        versions = {each["metadata"]["resourceVersion"] for each in (known, newest) if each}
        return known is not None and SWITCHER in annotations(known) and len(versions) == 1

    await_true(up_to_date)  # it was taken over, which is a change too
    read: list[str] = []
    home.kube.find, find = lambda path: (read.append(path), find(path))[1], home.kube.find
    home.start()
    assert DEPLOYMENT not in read


def test_a_quota_that_forbids_its_pod(home: DeploymentHome) -> None:
    home.kube._replicate = lambda at: None
    home.runtime.start(Start("a", A, 1))
    await_true(lambda: home.scale() == 1)
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    home.kube.put(DEPLOYMENT, merged(home.kube.objects[DEPLOYMENT], {"status": {"conditions": [condition]}}))
    assert home.told.await_one(InstanceFailed, A).message == "exceeded quota"


def test_a_deployment_that_somebody_deletes_holds_until_its_pod_has_ended(home: DeploymentHome) -> None:
    pod = home.resident()
    home.kube.remove(REPLICA_SETS.path(NS, "a-rs"))
    home.kube.remove(DEPLOYMENT)
    home.kube.end_of(at(pod), 300)  # the garbage collector
    assert home.told.await_one(InstanceFailed, A).reason == "PodDeleted"
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_an_engine_gets_its_grace_before_its_end_is_unproven(home: DeploymentHome) -> None:
    pod = home.resident()
    home.kube.crash(pod, 1)
    home.told.await_one(InstanceFailed, A)
    home.pass_time(36)
    never(lambda: "InstanceUnproven" in home.told.of_instance(A))
    home.pass_time(2)  # its grace of 7 s and 30 s are over
    home.told.await_one(InstanceUnproven, A)


def test_a_probe_that_no_plain_get_can_do_is_left_to_the_kubelet(home: DeploymentHome) -> None:
    pod = home.start()
    engine = {**pod["spec"]["containers"][0], "readinessProbe": {"tcpSocket": {"port": 9000}}}
    home.kube.put(at(pod), merged(home.kube.objects[at(pod)], {"spec": {"containers": [engine]}}))
    pod = home.kube.run(pod)
    home.kube.serving.add(pod["status"]["podIP"])
    never(lambda: home.told.of_instance(A))
    home.kube.say(pod, conditions=[{"type": "Ready", "status": "True"}])
    home.told.await_one(InstanceReady, A)


# The adapter ----------------------------------------------------------------------------------------------------------


def pod(ip: str, **container: object) -> Json:
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "engine", **container}, {"name": "sidecar"}]},
        "status": {"podIP": ip},
    }


def adapter() -> DeploymentAdapter:
    return DeploymentAdapter(FakeCluster(), NS, probe_http, {}.get)


@pytest.mark.parametrize(
    ("probe", "target"),
    [
        ({"httpGet": {"path": "/health", "port": 8000}}, "http://10.0.0.1:8000/health"),
        ({"httpGet": {"path": "/health", "port": "http"}}, None),
        ({"httpGet": {"path": "/health", "port": 8000, "scheme": "HTTPS"}}, None),
        ({"httpGet": {"port": 8000, "httpHeaders": [{"name": "Authorization", "value": "x"}]}}, None),
        ({"exec": {"command": ["true"]}}, None),
        (None, None),
    ],
)
def test_the_probe_is_the_readiness_probe_of_the_engine(probe: Json | None, target: str | None) -> None:
    assert adapter().probe_target(pod("10.0.0.1", readinessProbe=probe)) == target


def test_requests_go_to_the_engines_port() -> None:
    assert adapter().address(pod("fd00::1", ports=[{"containerPort": 8000}])) == "http://[fd00::1]:8000"
    assert adapter().address(pod("10.0.0.1")) == "http://10.0.0.1:8080"
    assert adapter().address(pod("")) is None


class Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.rpartition("/")[2]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_an_engine_is_ready_as_the_kubelet_sees_it() -> None:
    with HTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert [probe_http(f"{url}/{code}") for code in (200, 204, 302, 404, 503)] == [True, True, True, False, False]
        server.shutdown()
    assert not probe_http(url)
