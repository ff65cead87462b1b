"""A Model with several pods under KEDA: when it serves, when it has failed, and what proves that all of it is gone."""

from collections.abc import Iterator

import pytest

from hotseat.core.messages import (
    EndpointsChanged,
    InstanceAdopted,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Start,
)
from hotseat.kube.constants import PODS
from hotseat.runtimes.keda import adapter
from tests.fake_kube import NS
from tests.unit.runtimes.keda.test_runtime import KedaHome
from tests.unit.runtimes.knative.test_runtime import A, await_true, never

COST = "controller.kubernetes.io/pod-deletion-cost"


class ReplicasHome(KedaHome):
    """The Model a claims GPUs for two pods. `wanted` is how many the HorizontalPodAutoscaler would have."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = 1
        self.keda.ask = lambda name: None if (place := self.runtime.has_place(name)) is None else place * self.wanted

    def start(self, instance: str = A) -> dict:
        self.runtime.start(Start("a", instance, int(instance[-1]), pods=2))
        await_true(lambda: self.kube.pods("a"))
        return self.kube.pods("a")[-1]

    def second(self) -> dict:
        """Let KEDA scale up to two pods. Return the newest, which has no node yet."""
        self.wanted = 2
        await_true(lambda: len(self.kube.pods("a")) == 2)
        return self.kube.pods("a")[-1]

    def both(self) -> tuple[dict, dict]:
        """Let two pods serve."""
        first = self.resident()
        second = self.kube.serve(self.second())
        await_true(lambda: self.endpoints() == (ip(self.now(first)), ip(second)))
        return self.now(first), self.now(second)

    def release(self, *pods: dict) -> None:
        """Stop it, and let its pods end once they are told to."""
        self.stop()
        await_true(lambda: all(self.going(pod) for pod in pods))
        for pod in pods:
            self.kube.end(pod)
        self.told.await_one(InstanceReleased, A)

    def still_holds(self) -> None:
        never(lambda: "InstanceReleased" in self.told.of_instance(A))

    def now(self, pod: dict) -> dict:
        return self.kube.objects[PODS.path(NS, pod["metadata"]["name"])]

    def is_there(self, pod: dict) -> bool:
        return PODS.path(NS, pod["metadata"]["name"]) in self.kube.objects

    def endpoints(self) -> tuple[str, ...]:
        """Return the hosts that were told last."""
        told = [each.addresses for each in self.told.seen if isinstance(each, EndpointsChanged)]
        return tuple(address.partition("//")[2].partition(":")[0] for address in told[-1]) if told else ()

    def crash(self, pod: dict, code: int) -> None:
        self.kube.crash(self.now(pod), code)
        self.kube.say(self.now(pod), conditions=[{"type": "Ready", "status": "False"}])

    def ready_again(self, pod: dict) -> None:
        running = [{"name": "engine", "state": {"running": {}}, "restartCount": 1}]
        self.kube.say(self.now(pod), containerStatuses=running, conditions=[{"type": "Ready", "status": "True"}])

    def failed(self) -> bool:
        return any(isinstance(each, InstanceFailed) for each in self.told.seen)


def ip(pod: dict) -> str:
    return str(pod["status"]["podIP"])


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplicasHome]:
    monkeypatch.setattr(adapter, "REPEAT", 0.02)
    home = ReplicasHome()
    home.begin()
    yield home
    home.end()


def test_it_is_ready_with_one_pod_and_answers_at_each_that_serves(home: ReplicasHome) -> None:
    assert home.runtime.replicas_of("a") == 0, "it has no place"
    first, second = home.both()
    assert home.told.of_instance(A) == ["InstanceReady", "EndpointsChanged"]
    assert [pod["metadata"]["annotations"][COST] for pod in (first, second)] == ["-1", "-2"], "the newest goes first"
    assert second["metadata"]["annotations"]["hotseat.dev/instance"] == A
    assert home.notes()["hotseat.dev/instance-replicas"] == "2"
    assert home.runtime.replicas_of("a") == 2
    home.stop()
    await_true(lambda: home.runtime.replicas_of("a") == 0)


def test_it_is_released_when_each_pod_is_proven_gone(home: ReplicasHome) -> None:
    first, second = home.both()
    home.stop()
    await_true(lambda: home.going(first) and home.going(second))
    home.kube.end(second)
    home.still_holds()
    home.kube.end(first)
    home.told.await_one(InstanceReleased, A)
    assert home.notes()["hotseat.dev/instance"] == A
    home.resident("default/a@2")
    assert not home.failed()


def test_a_pod_that_comes_while_it_is_released_holds_its_gpu(home: ReplicasHome) -> None:
    """The HorizontalPodAutoscaler may have written just before the pause."""
    first = home.resident()
    second = home.kube.run(home.second())
    home.stop()
    await_true(lambda: home.going(first) and home.going(second))
    home.kube.end(first)
    home.still_holds()
    home.kube.end(second)
    home.told.await_one(InstanceReleased, A)


def test_fewer_replicas_take_the_newest_pod_which_gets_nothing_more(home: ReplicasHome) -> None:
    first, second = home.both()
    home.wanted = 1
    await_true(lambda: home.going(second))
    await_true(lambda: home.endpoints() == (ip(first),))
    home.kube.end(home.now(second))
    await_true(lambda: len(home.runtime._instances.get(A).pods) == 1)  # type: ignore[union-attr]
    third = home.kube.serve(home.second())
    await_true(lambda: home.endpoints() == (ip(first), ip(third)))
    assert not home.failed()
    home.release(first, third)


def test_a_crash_of_one_fails_nothing_and_it_serves_again_when_it_is_ready(home: ReplicasHome) -> None:
    first, second = home.both()
    home.crash(first, 139)
    await_true(lambda: home.endpoints() == (ip(second),))
    never(home.failed)
    home.ready_again(first)
    await_true(lambda: home.endpoints() == (ip(first), ip(second)))


def test_an_engine_that_is_too_busy_for_its_probe_gets_nothing_while_another_is_ready(home: ReplicasHome) -> None:
    first, second = home.both()
    unready = [{"type": "Ready", "status": "False"}]
    home.kube.say(home.now(first), conditions=unready)
    await_true(lambda: home.endpoints() == (ip(second),))
    home.kube.say(home.now(second), conditions=unready)
    await_true(lambda: home.endpoints() == (ip(first), ip(second)))
    never(home.failed)


@pytest.mark.parametrize("how", ["deleted", "evicted"])
def test_a_pod_that_is_taken_away_is_replaced(home: ReplicasHome, how: str) -> None:
    first, second = home.both()
    if how == "deleted":
        home.kube.delete(PODS.path(NS, first["metadata"]["name"]))
        await_true(lambda: home.endpoints() == (ip(second),))
        home.kube.end(home.now(first))
    else:  # its object stays
        home.kube.say(home.now(first), reason="Evicted", message="the node was low on memory")
        home.kube.end(home.now(first), keep=True)
        home.kube._replicate_all()
    await_true(lambda: home.endpoints() == (ip(second),))
    home.kube.serve([each for each in home.kube.pods("a") if not each["spec"].get("nodeName")][-1])
    third = home.kube.pods("a")[-1]
    await_true(lambda: home.endpoints() == (ip(second), ip(third)))
    assert home.now(third)["metadata"]["annotations"][COST] == "-3"
    assert not home.failed()
    home.release(second, third)


def test_when_no_pod_serves_it_has_failed_and_all_pods_end(home: ReplicasHome) -> None:
    first, second = home.both()
    home.crash(first, 1)
    await_true(lambda: home.endpoints() == (ip(second),))
    home.crash(second, 139)
    failed = home.told.await_one(InstanceFailed, A)
    assert (failed.reason, failed.exit_code) == ("Exited", 139), "that of the one that served last"
    await_true(lambda: home.going(first) and home.going(second))
    home.kube.end(first)
    home.still_holds()
    home.kube.end(second)
    home.told.await_one(InstanceReleased, A)


def test_a_load_fails_with_its_first_pod(home: ReplicasHome) -> None:
    home.start()
    home.second()
    first, second = (home.kube.run(pod) for pod in home.kube.pods("a"))
    home.kube.crash(first, 3)
    assert home.told.await_one(InstanceFailed, A).reason == "ExitedWhileLoading"
    await_true(lambda: home.going(first) and home.going(second))
    for pod in (first, second):
        home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_whichever_pod_is_ready_first_makes_it_ready(home: ReplicasHome) -> None:
    first = home.kube.run(home.start())
    second = home.kube.serve(home.second())
    assert ip(second) in home.told.await_one(InstanceReady, A).address
    home.kube.serve(first)
    await_true(lambda: len(home.endpoints()) == 2)
    assert not home.failed()


def test_a_pod_that_was_forced_out_holds_until_a_person_settles_it(home: ReplicasHome) -> None:
    first, second = home.both()
    home.kube.force(second)
    await_true(lambda: home.endpoints() == (ip(first),))
    never(home.failed)
    home.stop()
    await_true(lambda: home.scale() == 0)
    for pod in home.kube.pods("a"):
        home.kube.end(pod)
    assert second["metadata"]["uid"] in home.told.await_one(InstanceUnproven, A).reason
    home.runtime.mark_gone([second["metadata"]["uid"]])
    home.told.await_one(InstanceReleased, A)


def test_the_next_switcher_adopts_all_pods_and_the_claim(home: ReplicasHome) -> None:
    first, second = home.both()
    home.again()
    adopted = home.told.await_one(InstanceAdopted, A)
    assert (adopted.gpus, adopted.releasing) == (2, False)
    assert ip(first) in (adopted.address or "")
    await_true(lambda: home.endpoints() == (ip(first), ip(second)))
    assert home.runtime.replicas_of("a") == 2
    home.kube.delete(PODS.path(NS, first["metadata"]["name"]))
    await_true(lambda: home.endpoints() == (ip(second),))
    assert not home.failed()
    home.stop()
    await_true(lambda: home.scale() == 0)
    home.kube.end(home.now(first))
    home.still_holds()
    for pod in home.kube.pods("a"):
        home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_a_claim_for_several_pods_is_adopted_with_one(home: ReplicasHome) -> None:
    home.resident()
    home.again()
    assert home.told.await_one(InstanceAdopted, A).gpus == 2, "KEDA may scale it up at any time"


def test_killed_while_its_pods_end(home: ReplicasHome) -> None:
    first, second = home.both()
    home.stop()
    await_true(lambda: home.going(first) and home.going(second))
    home.again()
    assert home.told.await_one(InstanceAdopted, A).releasing
    home.kube.end(first)
    home.still_holds()
    home.kube.end(second)
    home.told.await_one(InstanceReleased, A)
