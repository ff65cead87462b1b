"""The Knative runtime against an API server in memory: every way in which a pod comes, goes, or fails to."""

import time
from collections.abc import Callable, Iterator

import pytest

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Fetch,
    InstanceAdopted,
    InstanceFailed,
    InstancePending,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Start,
    Stop,
)
from hotseat.kube.constants import DEPLOYMENTS, NODES, PODS, REPLICA_SETS, SERVICES
from hotseat.runtimes.knative.replica_sets import ReplicaSetGuard
from hotseat.runtimes.knative.runtime import KnativeRuntime
from hotseat.runtimes.kubernetes.runtime import PodRuntime
from tests.fake_kube import NS, Clock, FakeCluster, merged
from tests.fakes import Observations
from tests.knative_home import NoFetcher

A, B = "default/a@1", "default/b@2"
DEPLOYMENT = DEPLOYMENTS.path(NS, "a-00001-deployment")
REPLICA_SET = REPLICA_SETS.path(NS, "a-00001-rs")


def model(name: str) -> Model:
    return Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "mock"}})


class Home:
    """A cluster with the ksvcs a and b, and one switcher's runtime after another."""

    runtime_type: type[PodRuntime] = KnativeRuntime

    def __init__(self) -> None:
        self.kube, self.clock, self.fetcher = FakeCluster(), Clock(), NoFetcher()
        self.kube.add_service("a")
        self.kube.add_service("b")
        self.fingerprints: dict[str, str] = {}
        self.runtimes: list[PodRuntime] = []

    def begin(self, identity: str = "first") -> Observations:
        self.told = Observations()
        self.runtime = self.runtime_type(
            self.kube,
            NS,
            self.fetcher,
            identity=identity,
            fingerprint=self.fingerprints.get,
            clock=self.clock,
            probe=self.kube.ask,
        )
        self.runtimes.append(self.runtime)
        self.runtime.begin([model("a"), model("b")], self.told)
        return self.told

    def end(self) -> None:
        for runtime in self.runtimes:
            runtime.close()
        self.kube.close()

    def again(self) -> Observations:
        """Kill the switcher, and let another begin."""
        self.runtime.close()
        return self.begin(f"switcher-{len(self.runtimes)}")

    def start(self, instance: str = A) -> dict:
        """Start a model, and give its pod."""
        name = instance.partition("/")[2].partition("@")[0]
        self.runtime.start(Start(name, instance, int(instance[-1])))
        await_true(lambda: self.kube.pods(name))
        return self.kube.pods(name)[-1]

    def resident(self, instance: str = A) -> dict:
        """Start a model, and give its pod once it serves."""
        pod = self.kube.serve(self.start(instance))
        self.told.await_one(InstanceReady, instance)
        return pod

    def stop(self, instance: str = A, grace: float = 10.0) -> None:
        self.runtime.stop(Stop(instance.partition("/")[2].partition("@")[0], instance, int(instance[-1]), grace))

    def going(self, pod: dict) -> bool:
        newest = self.kube.find(PODS.path(NS, pod["metadata"]["name"]))
        return newest is None or "deletionTimestamp" in newest["metadata"]

    def scale(self) -> int:
        return int(self.kube.objects[DEPLOYMENT]["spec"]["replicas"])

    def pass_time(self, seconds: float) -> None:
        self.clock.ahead += seconds
        self.runtime.mark_gone([])  # it looks at the clock whenever something happens


def frozen(home: Home) -> bool:
    replica_set = home.kube.find(REPLICA_SET)
    return replica_set is not None and "deletionTimestamp" in replica_set["metadata"]


def await_true(question: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not question():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.005)


def never(question: Callable[[], object]) -> None:
    until = time.monotonic() + 0.15
    while time.monotonic() < until:
        assert not question()
        time.sleep(0.01)


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    home.begin()
    yield home
    home.end()


# Up and down ----------------------------------------------------------------------------------------------------------


def test_a_model_comes_and_goes(home: Home) -> None:
    pod = home.resident()
    ready = home.told.await_one(InstanceReady, A)
    assert ready.address == f"http://{home.kube.find(PODS.path(NS, pod['metadata']['name']))['status']['podIP']}:8012"
    marks = home.kube.objects[DEPLOYMENT]["metadata"]["annotations"]
    assert (marks["hotseat.dev/instance"], marks["hotseat.dev/epoch"]) == (A, "1")
    home.kube.calls.clear()
    home.stop()
    await_true(lambda: home.scale() == 0)
    await_true(lambda: not frozen(home))
    replica_set, its_pod = REPLICA_SET, PODS.path(NS, pod["metadata"]["name"])
    assert home.kube.calls == [
        ("merge", replica_set),  # our finalizer: it stays
        ("delete", replica_set),  # frozen, so that nobody makes a replacement or gives the pod a longer time
        ("delete", its_pod),
        ("merge", DEPLOYMENT),
        ("merge", replica_set),  # and it may go: its Deployment wants nothing
    ]
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod, keep=True)  # its status is the proof; that its object goes later means nothing
    home.told.await_one(InstanceReleased, A)
    assert home.told.of_instance(A) == ["InstanceReady", "InstanceReleased"]


def test_it_is_ready_only_when_its_queue_proxy_says_so(home: Home) -> None:
    pod = home.kube.run(home.start())
    never(lambda: home.told.of_instance(A))
    home.kube.serving.add(pod["status"]["podIP"])
    home.told.await_one(InstanceReady, A)


def test_the_replacement_that_a_replica_set_makes_meanwhile_means_nothing(home: Home) -> None:
    pod = home.resident()
    home.kube.end_of(PODS.path(NS, pod["metadata"]["name"]), 300)  # somebody deletes it: at once there is another
    await_true(lambda: len(home.kube.pods("a")) == 1)  # and at once the runtime deletes that
    assert home.told.await_one(InstanceFailed, A).reason == "PodDeleted"
    assert home.going(pod)
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_a_replacement_that_got_a_gpu_is_waited_for_too(home: Home) -> None:
    pod = home.resident()
    home.kube.away = True
    home.kube.end_of(PODS.path(NS, pod["metadata"]["name"]), 300)
    replacement = home.kube.run(home.kube.pods("a")[-1])
    home.kube.away = False
    await_true(lambda: home.going(replacement))
    home.kube.end(pod)
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(replacement)
    home.told.await_one(InstanceReleased, A)


def test_a_stop_before_anything_was_scheduled_releases_at_once(home: Home) -> None:
    home.start()
    home.stop()
    home.told.await_one(InstanceReleased, A)
    assert home.kube.pods("a") == []
    assert home.told.of_instance(A) == ["InstanceReleased"]


def test_a_replica_set_that_has_not_come_to_rest_may_still_make_a_pod(home: Home) -> None:
    home.start()
    replicate, home.kube._replicate = home.kube._replicate, lambda at: None  # its controller sleeps
    home.stop()
    never(lambda: home.scale() == 0)
    home.pass_time(3)  # it goes on without it
    await_true(lambda: home.scale() == 0)
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    assert home.kube.objects[REPLICA_SET]["spec"]["replicas"] == 1
    home.kube._replicate = replicate
    home.kube._replicate_all()
    home.told.await_one(InstanceReleased, A)


def test_a_pod_that_gets_a_node_while_it_is_deleted_is_not_deleted_as_if_it_had_none(home: Home) -> None:
    pod = home.start()
    delete = home.kube.delete

    def bound_meanwhile(path: str, **options: object) -> None:
        if "/pods/" in path and not home.kube.find(path)["spec"].get("nodeName"):
            home.kube.run(pod)
        delete(path, **options)

    home.kube.delete = bound_meanwhile
    home.stop()
    await_true(lambda: home.going(pod))
    assert home.kube.find(PODS.path(NS, pod["metadata"]["name"])), "it ends in its own time, and says so"
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_the_same_model_again_has_nothing_to_do_with_what_it_left(home: Home) -> None:
    old = home.resident()
    home.stop()
    await_true(lambda: home.going(old))
    home.kube.end(old, keep=True)
    home.told.await_one(InstanceReleased, A)
    home.runtime.start(Start("a", "default/a@3", 3))
    await_true(lambda: len(home.kube.pods("a")) == 2)
    home.kube.remove(PODS.path(NS, old["metadata"]["name"]))
    home.kube.serve(home.kube.pods("a")[-1])
    home.told.await_one(InstanceReady, "default/a@3")
    assert home.told.of_instance("default/a@3") == ["InstanceReady"]


def test_the_newest_revision_is_started(home: Home) -> None:
    home.kube.add_service("a", revision="00002")
    pod = home.start()
    assert pod["metadata"]["name"].startswith("a-00002-")


# Without proof --------------------------------------------------------------------------------------------------------


def test_what_is_scaled_up_again_while_it_ends_is_scaled_down_again(home: Home) -> None:
    pod = home.resident()
    home.stop()
    await_true(lambda: home.scale() == 0 and not frozen(home))
    home.kube.merge(DEPLOYMENT, {"spec": {"replicas": 1}})
    home.kube.control(DEPLOYMENT)
    await_true(lambda: home.scale() == 0)
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert home.kube.pods("a") == []


def test_a_pod_that_was_forced_out_holds_until_a_person_settles_it(home: Home) -> None:
    pod = home.resident()
    home.kube.force(pod)
    assert home.told.await_one(InstanceFailed, A).reason == "PodDeleted"
    assert pod["metadata"]["uid"] in home.told.await_one(InstanceUnproven, A).reason
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.runtime.mark_gone(["another", pod["metadata"]["uid"]])
    home.told.await_one(InstanceReleased, A)


def test_the_next_switcher_knows_what_was_unproven(home: Home) -> None:
    pod = home.resident()
    home.kube.force(pod)
    home.told.await_one(InstanceUnproven, A)
    await_true(lambda: "hotseat.dev/unproven" in home.kube.objects[DEPLOYMENT]["metadata"]["annotations"])
    told = home.again()
    assert told.await_one(InstanceAdopted, A).releasing
    told.await_one(InstanceUnproven, A)
    home.runtime.mark_gone([pod["metadata"]["uid"]])
    told.await_one(InstanceReleased, A)
    await_true(lambda: "hotseat.dev/unproven" not in home.kube.objects[DEPLOYMENT]["metadata"]["annotations"])


@pytest.mark.parametrize("how", ["deleted", "out of service"])
def test_a_pod_on_a_lost_node_holds_until_the_node_is_gone_for_good(home: Home, how: str) -> None:
    home.resident()
    home.stop()
    await_true(lambda: home.scale() == 0)
    home.pass_time(39)
    never(lambda: "InstanceUnproven" in home.told.of_instance(A))
    home.pass_time(2)  # the grace and 30 s are over
    assert "on node node has not ended" in home.told.await_one(InstanceUnproven, A).reason
    at = NODES.path(name="node")
    if how == "deleted":
        home.kube.remove(at)
    else:
        taint = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
        home.kube.put(at, merged(home.kube.objects[at], {"spec": {"taints": [taint]}}))
    home.pass_time(3)
    home.told.await_one(InstanceReleased, A)
    assert home.told.of_instance(A) == ["InstanceReady", "InstanceUnproven", "InstanceReleased"]


def test_a_resident_model_on_a_lost_node_has_failed(home: Home) -> None:
    pod = home.resident()
    at = NODES.path(name="node")
    home.kube.put(at, {**home.kube.objects[at], "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    home.kube.say(pod, conditions=[{"type": "Ready", "status": "False"}])  # busy, as far as anybody can tell
    never(lambda: "InstanceFailed" in home.told.of_instance(A))
    home.kube.put(at, {**home.kube.objects[at], "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    home.pass_time(3)
    assert home.told.await_one(InstanceFailed, A).reason == "NodeLost"


def test_a_second_stop_shortens_the_time_for_the_proof(home: Home) -> None:
    home.resident()
    home.stop(grace=600)
    home.stop(grace=0)
    home.pass_time(31)
    home.told.await_one(InstanceUnproven, A)


def test_a_service_deleted_by_hand_holds_until_its_pod_has_ended(home: Home) -> None:
    pod = home.resident()
    home.kube.delete_service("a")
    assert home.told.await_one(InstanceFailed, A).reason == "PodDeleted"
    await_true(lambda: ("delete", PODS.path(NS, pod["metadata"]["name"])) in home.kube.calls)  # its grace was an hour
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_new_switcher_finds_the_ending_pod_of_a_deleted_service(home: Home, labelled: bool) -> None:
    if not labelled:  # made by kn: its pods carry no label of ours, but the runtime's mark
        home.kube.add_service("kn", labelled=False)
        home.runtime.start(Start("a", "default/a@9", 9))
    name = "a" if labelled else "kn"
    home.runtime.update([model("a"), model("b"), model("kn")])
    instance = f"default/{name}@1"
    pod = home.resident(instance)
    await_true(lambda: "annotations" in home.kube.objects[PODS.path(NS, pod["metadata"]["name"])]["metadata"])
    home.runtime.close()
    home.kube.delete_service(name)
    told = home.again()
    assert told.await_one(InstanceAdopted, instance).releasing
    home.kube.end(pod)
    told.await_one(InstanceReleased, instance)


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_crash_is_told_with_the_last_words(home: Home) -> None:
    pod = home.resident()
    home.kube.texts[PODS.path(NS, pod["metadata"]["name"], "log")] = "2026-01-01T00:00:00.000000001Z out of luck\n"
    home.kube.crash(pod, 7)
    failed = home.told.await_one(InstanceFailed, A)
    assert failed.reason == "Exited"
    assert "code 7" in failed.message
    assert "out of luck" in failed.message
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert home.told.of_instance(A) == ["InstanceReady", "InstanceFailed", "InstanceReleased"]


def test_running_out_of_memory_while_loading(home: Home) -> None:
    pod = home.kube.run(home.start())
    home.kube.crash(pod, 137, "OOMKilled", restarts=1)
    assert home.told.await_one(InstanceFailed, A).reason == "OutOfMemory"
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert home.told.of_instance(A) == ["InstanceFailed", "InstanceReleased"]


def test_an_image_that_is_pulled_at_the_second_attempt(home: Home) -> None:
    pod = home.kube.bind(home.start())
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "429 Too Many Requests"}}
    home.kube.say(pod, containerStatuses=[{"name": "user-container", "state": waiting}])
    await_true(lambda: home.runtime._instances.get(A).pull_error_since)
    home.pass_time(60)
    home.kube.serve(pod)
    home.told.await_one(InstanceReady, A)
    home.pass_time(120)
    never(lambda: "InstanceFailed" in home.told.of_instance(A))


def test_an_image_that_cannot_be_pulled(home: Home) -> None:
    pod = home.kube.bind(home.start())
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    home.kube.say(pod, containerStatuses=[{"name": "user-container", "state": waiting}])
    await_true(lambda: home.runtime._instances.get(A).pull_error_since)
    home.pass_time(110)
    never(lambda: home.told.of_instance(A))  # the kubelet tries again
    home.pass_time(11)
    failed = home.told.await_one(InstanceFailed, A)
    assert (failed.reason, failed.message) == ("ImagePull", "user-container: no such image")


def test_a_pod_that_no_node_takes(home: Home) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU is free"}
    pod = home.kube.say(home.start(), conditions=[condition])
    never(lambda: home.told.of_instance(A))  # the scheduler may just not know yet that one is
    home.pass_time(1)
    assert home.told.await_one(InstancePending, A).message == "Unschedulable: no GPU is free"
    home.pass_time(600)  # an autoscaler may need minutes: the bound is startTimeout, which the core enforces
    never(lambda: "InstanceFailed" in home.told.of_instance(A))
    home.kube.serve(pod)
    home.told.await_one(InstancePending, A, message="")
    home.told.await_one(InstanceReady, A)


def test_a_model_without_a_service(home: Home) -> None:
    home.kube.delete_service("a")
    home.runtime.start(Start("a", A, 1))
    never(lambda: home.told.of_instance(A))  # it may be about to be made
    home.pass_time(11)
    failed = home.told.await_one(InstanceFailed, A)
    assert (failed.reason, failed.message) == ("ServiceNotReady", "there is no Knative Service a")
    home.told.await_one(InstanceReleased, A)


def test_a_quota_that_forbids_its_pod(home: Home) -> None:
    home.kube._replicate = lambda at: None
    home.runtime.start(Start("a", A, 1))
    await_true(lambda: home.scale() == 1)
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    home.kube.put(DEPLOYMENT, merged(home.kube.objects[DEPLOYMENT], {"status": {"conditions": [condition]}}))
    assert home.told.await_one(InstanceFailed, A).message == "exceeded quota"


# A switcher ends, and another begins ----------------------------------------------------------------------------------


def test_closing_leaves_models_alone_and_the_next_adopts_them(home: Home) -> None:
    pod = home.resident()
    told = home.again()
    adopted = told.await_one(InstanceAdopted, A)
    assert (adopted.model, adopted.epoch, adopted.releasing, adopted.gpus) == ("a", 1, False, 1)
    assert adopted.address == home.runtimes[0]._observe.await_one(InstanceReady, A).address
    assert not home.going(pod)
    home.stop()
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    told.await_one(InstanceReleased, A)


def test_killed_while_a_model_loads(home: Home) -> None:
    pod = home.start()
    told = home.again()
    adopted = told.await_one(InstanceAdopted, A)
    assert (adopted.address, adopted.releasing) == (None, False)
    home.kube.serve(pod)
    told.await_one(InstanceReady, A)


def test_killed_when_a_replica_set_was_frozen_and_no_more(home: Home) -> None:
    pod = home.resident()
    home.runtime.close()
    ReplicaSetGuard(home.kube, NS, home.runtime._informers).suspend("a-00001")
    told = home.again()
    assert told.await_one(InstanceAdopted, A).address, "it serves"
    assert frozen(home)
    home.stop()
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    told.await_one(InstanceReleased, A)
    assert not frozen(home)


def test_killed_when_the_pod_was_gone_and_the_scale_was_not(home: Home) -> None:
    pod = home.resident()
    home.runtime.close()
    ReplicaSetGuard(home.kube, NS, home.runtime._informers).suspend("a-00001")
    home.kube.end_of(PODS.path(NS, pod["metadata"]["name"]), 1)
    home.kube.end(pod)
    assert (home.scale(), home.kube.pods("a")) == (1, [])
    told = home.again()
    assert told.await_one(InstanceAdopted, A).releasing, "nobody makes the pod that it would wait for"
    told.await_one(InstanceReleased, A)
    assert home.scale() == 0
    assert not frozen(home)


def test_killed_before_a_replica_set_was_let_go(home: Home) -> None:
    guard = ReplicaSetGuard(home.kube, NS, home.runtime._informers)
    await_true(lambda: guard.hold("a-00001") or guard.is_held("a-00001"))  # then the watch has it
    home.runtime.close()
    guard.suspend("a-00001")
    assert frozen(home)
    home.again()
    assert not frozen(home)
    home.resident()


def test_killed_between_the_delete_and_the_scale(home: Home) -> None:
    pod = home.resident()
    home.runtime.close()
    home.kube.end_of(PODS.path(NS, pod["metadata"]["name"]), 1)
    replacement = home.kube.pods("a")[-1]
    assert replacement["metadata"]["uid"] != pod["metadata"]["uid"]
    told = home.again()
    told.await_one(InstanceAdopted, A)
    home.stop()
    await_true(lambda: home.scale() == 0)
    never(lambda: "InstanceReleased" in told.of_instance(A))
    home.kube.end(pod)
    told.await_one(InstanceReleased, A)


def test_killed_while_a_pod_ends(home: Home) -> None:
    pod = home.resident()
    home.stop()
    await_true(lambda: home.scale() == 0)
    told = home.again()
    assert told.await_one(InstanceAdopted, A).releasing
    never(lambda: "InstanceReleased" in told.of_instance(A))
    home.kube.end(pod)
    told.await_one(InstanceReleased, A)


def test_killed_while_a_pod_ends_on_a_node_that_is_gone_since(home: Home) -> None:
    pod = home.resident()
    home.stop()
    await_true(lambda: home.scale() == 0 and home.going(pod))
    home.runtime.close()
    home.kube.remove(NODES.path(name="node"))  # its pod's object stays for a while
    told = home.again()
    assert told.await_one(InstanceAdopted, A).releasing
    home.pass_time(6)
    told.await_one(InstanceReleased, A)


def test_killed_when_all_was_over(home: Home) -> None:
    pod = home.resident()
    home.stop()
    await_true(lambda: home.scale() == 0)
    home.kube.end(pod, keep=True)
    home.told.await_one(InstanceReleased, A)
    told = home.again()
    assert not [each for each in told.seen if isinstance(each, InstanceAdopted)]


def test_pods_of_an_older_revision_count(home: Home) -> None:
    home.resident()
    home.kube.add_service("a", revision="00002")
    told = home.again()
    assert told.await_one(InstanceAdopted, A).model == "a"


def test_what_somebody_else_scales_up_is_an_instance(home: Home) -> None:
    home.kube.add_service("wild", replicas=1, labelled=False)
    adopted = home.told.await_one(InstanceAdopted, model="wild")
    assert adopted.address is None
    home.kube.serve(home.kube.pods("wild")[0])
    home.told.await_one(InstanceReady, adopted.instance)


def test_a_service_made_by_hand_may_have_its_label_at_itself_only(home: Home) -> None:
    home.runtime.close()
    home.kube.add_service("wild", replicas=1, labelled=False)
    assert home.again().await_one(InstanceAdopted, model="wild").instance.startswith("default/wild@")


def test_a_switcher_that_was_taken_over_from_changes_nothing(home: Home) -> None:
    home.resident()
    first = home.runtime
    told = home.begin("second")  # the first lives on, and does not know that it leads no more
    told.await_one(InstanceAdopted, A)
    home.kube.calls.clear()
    first.start(Start("b", B, 2))
    await_true(first.superseded.is_set)
    first.stop(Stop("a", A, 1, 0))
    never(lambda: [path for _, path in home.kube.calls if "/apps/" in path or "/pods/" in path])


# The API server -------------------------------------------------------------------------------------------------------


def test_it_goes_on_when_the_api_server_is_back(home: Home) -> None:
    pod = home.resident()
    home.kube.away = True
    home.stop()
    never(lambda: home.scale() == 0)
    home.kube.away = False
    await_true(lambda: home.scale() == 0)
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_a_scale_whose_answer_was_lost_is_known_to_have_happened(home: Home) -> None:
    home.kube.lose_next_answer = True
    pod = home.kube.run(home.start())
    home.stop()
    await_true(lambda: home.going(pod))
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


# Weights and output ---------------------------------------------------------------------------------------------------


def test_weights_are_the_fetchers_business(home: Home) -> None:
    home.fetcher.absent = {"b"}
    told = home.again()
    assert told.await_one(CacheObserved, model="a").state is CacheState.CACHED
    assert told.await_one(CacheObserved, model="b").state is CacheState.ABSENT
    home.runtime.fetch(Fetch("b"))
    assert home.fetcher.fetched == ["b"]
    home.runtime.close()
    assert home.fetcher.closed


def test_output_is_followed_over_the_lines_that_were_read(home: Home) -> None:
    pod = home.resident()
    at, output = PODS.path(NS, pod["metadata"]["name"], "log"), home.runtime.logs("a")
    home.kube.texts[at] = "2026-01-01T00:00:00.000000001Z one\n2026-01-01T00:00:00.000000002Z two\n"
    assert output.tail(1) == ["two"]
    position, _ = output.read_after(0, 0)
    home.kube.texts[at] += "2026-01-01T00:00:00.000000002Z three\n"
    assert output.read_after(position, 0) == (position + 1, ["three"])
    assert home.runtime.logs("nobody") is None


def test_what_the_path_of_a_switch_needs_is_read_from_watches(home: Home) -> None:
    home.fingerprints["a"] = "1"
    home.kube.merge(SERVICES.path(NS, "a"), {"metadata": {"annotations": {"hotseat.dev/fingerprint": "1"}}})
    await_true(lambda: home.runtime._informers.services.named("a")["metadata"].get("annotations"))
    pod = home.resident()
    read: list[str] = []
    home.kube.find, found = lambda path: (read.append(path), found(path))[1], home.kube.find
    home.kube.get, got = lambda path, **query: (read.append(path), got(path, **query))[1], home.kube.get
    before = len(home.kube.calls)
    home.stop()
    await_true(lambda: ("delete", PODS.path(NS, pod["metadata"]["name"])) in home.kube.calls)
    assert home.kube.calls[before:][:3] == [
        ("merge", REPLICA_SET),
        ("delete", REPLICA_SET),
        ("delete", PODS.path(NS, pod["metadata"]["name"])),
    ]
    await_true(lambda: home.scale() == 0 and not frozen(home))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    read.clear()
    home.start("default/a@2")
    assert SERVICES.path(NS, "a") not in read


def test_a_service_that_the_watch_has_in_an_older_version_is_read(home: Home) -> None:
    home.fingerprints["a"] = "2"  # of the document that was applied a moment ago
    home.kube.add_service("a", revision="00002")
    home.start()
    assert home.kube.objects[DEPLOYMENTS.path(NS, "a-00002-deployment")]["spec"]["replicas"] == 1
