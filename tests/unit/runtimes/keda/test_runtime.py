"""The runtime of KEDA against an API server and an operator in memory: who agrees to a pod, and what never brings one back."""

from collections.abc import Iterator

import pytest

from hotseat.api.types import Json
from hotseat.core.messages import (
    InstanceAdopted,
    InstanceFailed,
    InstancePending,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Start,
)
from hotseat.kube.constants import DEPLOYMENTS, PAUSED, PAUSED_REPLICAS, PODS, SCALED_BY, SCALED_OBJECTS
from hotseat.runtimes.keda import adapter
from hotseat.runtimes.keda.runtime import KedaRuntime
from tests.fake_keda import FakeKeda, add_scaled_deployment
from tests.fake_kube import NS, FakeCluster
from tests.unit.runtimes.knative.test_runtime import (  # noqa: F401 - pytest collects them here, with the home below
    A,
    B,
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

DEPLOYMENT, SCALED_OBJECT = DEPLOYMENTS.path(NS, "a"), SCALED_OBJECTS.path(NS, "a")


class KedaHome(Home):
    """A cluster with KEDA, the Models a and b, and one switcher's runtime after another."""

    runtime_type = KedaRuntime
    runtime: KedaRuntime

    def __init__(self) -> None:
        super().__init__()
        self.kube.objects.clear()
        self.kube = FakeCluster()
        self.scaler_is_there = True
        self.keda = FakeKeda(self.kube, lambda name: self.runtime.has_place(name) if self.scaler_is_there else None)
        for name in ("a", "b"):
            add_scaled_deployment(self.kube, name)
        self.keda.start()

    def end(self) -> None:
        self.keda.stop()
        super().end()

    def scale(self) -> int:
        return int(self.kube.objects[DEPLOYMENT]["spec"]["replicas"])

    def annotate(self, **more: str | None) -> None:
        """Annotate the ScaledObject of a, as a person does."""
        names = {"replicas": PAUSED_REPLICAS, "paused": PAUSED}
        self.kube.merge(SCALED_OBJECT, {"metadata": {"annotations": {names[key]: it for key, it in more.items()}}})

    def notes(self) -> dict[str, str]:
        return dict(self.kube.objects[SCALED_OBJECT]["metadata"]["annotations"])

    def scale_late(self) -> None:
        """Do what KEDA does with an answer from before the stop that it takes for a new one."""
        await_true(lambda: self.kube.objects[SCALED_OBJECT].get("status", {}).get("pausedReplicaCount") == 0)
        self.kube.merge(DEPLOYMENT, {"spec": {"replicas": 1}})

    def pass_time(self, seconds: float) -> None:
        super().pass_time(seconds)
        self.runtime._wake()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[KedaHome]:
    monkeypatch.setattr(adapter, "REPEAT", 0.02)
    home = KedaHome()
    home.begin()
    yield home
    home.end()


def at(pod: Json) -> str:
    return PODS.path(NS, pod["metadata"]["name"])


def released(home: KedaHome) -> None:
    """Let the pods of a end as a kubelet does, until it is released."""
    await_true(lambda: home.scale() == 0)
    for pod in home.kube.pods("a"):
        home.kube.end(pod)


def test_keda_alone_scales(home: KedaHome) -> None:
    home.kube.calls.clear()
    pod = home.resident()
    assert home.told.await_one(InstanceReady, A).address.endswith(":9000")
    assert (home.notes()["hotseat.dev/instance"], home.notes()["hotseat.dev/epoch"]) == (A, "1")
    assert PAUSED_REPLICAS not in home.notes()
    home.stop()
    await_true(lambda: home.going(pod))
    assert home.notes()[PAUSED_REPLICAS] == "0"
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod, keep=True)
    home.told.await_one(InstanceReleased, A)
    assert home.told.of_instance(A) == ["InstanceReady", "InstanceReleased"]
    ours = [path for _, path in home.kube.calls if path in (DEPLOYMENT, SCALED_OBJECT)]
    assert ours.count(DEPLOYMENT) == 2, "KEDA's two scales"


def test_an_answer_that_comes_too_late_brings_nothing_back(home: KedaHome) -> None:
    home.resident()
    home.stop()
    released(home)
    home.told.await_one(InstanceReleased, A)
    home.scale_late()
    adopted = home.told.await_one(InstanceAdopted, model="a")
    assert adopted.releasing, "its GPU counts until it is gone, and it is never ready"
    assert home.runtime.has_place("a") is False
    released(home)
    home.told.await_one(InstanceReleased, adopted.instance)
    assert home.scale() == 0


def test_an_answer_that_comes_while_its_pod_ends_brings_nothing_back(home: KedaHome) -> None:
    pod = home.resident()
    home.stop()
    await_true(lambda: home.going(pod))
    home.scale_late()
    await_true(lambda: home.scale() == 0)
    for each in home.kube.pods("a"):
        home.kube.end(each)
    home.told.await_one(InstanceReleased, A)
    assert not home.kube.pods("a")


def test_a_restarted_operator_brings_nothing_back(home: KedaHome) -> None:
    home.resident()
    home.keda.stop()
    home.stop()
    await_true(lambda: home.notes().get(PAUSED_REPLICAS) == "0")
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.keda.start()
    released(home)
    home.told.await_one(InstanceReleased, A)
    home.keda.stop()
    home.keda.start()
    never(lambda: home.scale() or home.kube.pods("a"))


def test_without_the_operator_a_release_waits_and_says_so(home: KedaHome) -> None:
    home.resident()
    home.keda.stop()
    home.stop(grace=1.0)
    await_true(lambda: home.notes().get(PAUSED_REPLICAS) == "0")
    home.pass_time(4.0)
    said = home.told.await_one(InstancePending, A)
    assert said.message.startswith("KEDA has not scaled the Deployment a to 0: check KEDA's operator")
    home.pass_time(40.0)
    reason = home.told.await_one(InstanceUnproven, A).reason
    assert said.message in reason
    assert "has not ended" in reason
    home.keda.start()
    released(home)
    home.told.await_one(InstanceReleased, A)


def test_without_the_scaler_nothing_starts_and_it_says_so(home: KedaHome) -> None:
    home.resident()
    home.scaler_is_there = False
    never(lambda: home.scale() == 0)
    home.kube.merge(
        SCALED_OBJECTS.path(NS, "b", "status"),
        {"status": {"conditions": [{"type": "Ready", "status": "False", "message": "connection refused"}]}},
    )
    home.stop()
    released(home)
    home.told.await_one(InstanceReleased, A)
    home.runtime.start(Start("b", B, 2))
    await_true(lambda: home.runtime.has_place("b"))
    home.pass_time(4.0)
    said = home.told.await_one(InstancePending, B).message
    assert said == "KEDA has not scaled the Deployment b to 1: ScaledObject b: connection refused"
    home.scaler_is_there = True
    await_true(lambda: home.kube.pods("b"))
    home.kube.serve(home.kube.pods("b")[0])
    home.told.await_one(InstanceReady, B)


def test_a_scale_that_keda_does_not_confirm_proves_nothing(home: KedaHome) -> None:
    """Somebody else has scaled it, and KEDA may still carry out an answer from before the stop."""
    home.resident()
    home.keda.stop()
    home.stop()
    home.kube.merge(DEPLOYMENT, {"spec": {"replicas": 0}})
    for pod in home.kube.pods("a"):
        home.kube.end(pod)
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.pass_time(4.0)
    message = home.told.await_one(InstancePending, A).message
    assert message.startswith("KEDA has not confirmed the scale of the Deployment a to 0")
    home.keda.start()
    home.told.await_one(InstanceReleased, A)


@pytest.mark.parametrize(
    ("remove", "why"),
    [("label", "is still scaled by the switcher"), ("scaled object", "there is no ScaledObject a")],
)
def test_what_is_not_keda_s_to_scale_is_not_started(home: KedaHome, remove: str, why: str) -> None:
    if remove == "label":
        home.kube.merge(DEPLOYMENT, {"metadata": {"labels": {SCALED_BY: None}}})
    else:
        home.kube.remove(SCALED_OBJECT)
    home.runtime.start(Start("a", A, 1))
    never(lambda: home.told.of_instance(A))
    home.pass_time(11)
    failed = home.told.await_one(InstanceFailed, A)
    assert failed.reason == "DeploymentNotReady"
    assert why in failed.message
    home.told.await_one(InstanceReleased, A)


@pytest.mark.parametrize("value", [None, "1"])
def test_a_pause_that_a_person_changes_is_put_back(home: KedaHome, value: str | None) -> None:
    home.annotate(replicas=value)
    await_true(lambda: home.notes().get(PAUSED_REPLICAS) == "0")
    await_true(lambda: not home.runtime._instances.all() and home.scale() == 0 and not home.kube.pods("a"))
    assert InstanceReady not in {type(each) for each in home.told.seen}


def test_a_pause_that_is_deleted_while_a_pod_ends_is_put_back(home: KedaHome) -> None:
    pod = home.resident()
    home.stop()
    await_true(lambda: home.going(pod))
    home.annotate(replicas=None)
    await_true(lambda: home.notes().get(PAUSED_REPLICAS) == "0")
    assert home.scale() == 0


def test_a_pause_of_a_resident_model_is_a_persons_business(home: KedaHome) -> None:
    home.resident()
    home.annotate(replicas="1")
    never(lambda: home.scale() != 1 or home.notes().get(PAUSED_REPLICAS) != "1")
    home.stop()
    released(home)
    home.told.await_one(InstanceReleased, A)


def test_nobody_has_a_place_before_it_is_known_what_runs(home: KedaHome) -> None:
    home.resident()
    home.runtime.close()
    other = KedaRuntime(home.kube, NS, home.fetcher, identity="second", probe=home.kube.ask)
    assert other.has_place("a") is None, "an answer of False would stop it"
    other.close()
    home.begin("third")
    assert home.told.await_one(InstanceAdopted, A).releasing is False
    assert home.runtime.has_place("a") is True
    never(lambda: home.scale() == 0)


def test_what_was_unpaused_while_no_switcher_ran_is_paused_by_the_next(home: KedaHome) -> None:
    home.runtime.close()
    home.keda.stop()
    home.annotate(replicas=None)
    home.begin("second")
    await_true(lambda: home.notes().get(PAUSED_REPLICAS) == "0")


def test_what_is_paused_and_scaled_up_at_the_start_is_taken_down(home: KedaHome) -> None:
    home.runtime.close()
    home.scale_late()
    home.begin("second")
    assert home.told.await_one(InstanceAdopted, model="a").releasing
    await_true(lambda: home.scale() == 0 and not home.kube.pods("a"))


def test_a_stop_pauses_at_once_without_a_read(home: KedaHome) -> None:
    home.resident()
    await_true(lambda: not adapter.is_paused(home.runtime._informers.more[SCALED_OBJECTS].named("a")))
    calls: list[tuple[str, str]] = []
    find, merge = home.kube.find, home.kube.merge
    home.kube.find = lambda path: (calls.append(("find", path)), find(path))[1]
    home.kube.merge = lambda path, body: (calls.append(("merge", path)), merge(path, body))[1]
    home.stop()
    await_true(lambda: ("merge", SCALED_OBJECT) in calls)
    assert calls[0] == ("merge", SCALED_OBJECT)
