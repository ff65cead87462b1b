"""ReplicaSets of Revisions: what is prepared for a release while a model drains, and taken back if it stays."""

import time
from collections.abc import Iterator

import pytest

from hotseat.core.messages import InstanceAdopted, InstanceReleased, InstanceState, Residency, Resident
from hotseat.runtimes.knative.replica_sets import FINALIZER, ReplicaSetGuard
from tests.fake_kube import NS
from tests.unit.runtimes.knative.test_runtime import REPLICA_SET, A, B, Home, await_true, frozen, never


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    home.begin()
    yield home
    home.end()


def drains(home: Home, state: InstanceState = InstanceState.QUIESCING, instance: str = A) -> None:
    """Let the runtime know a residency with the instance in this state."""
    home.runtime.residency_changed(Residency(2, (Resident("a", instance, state, 1, 0.0),)))


def held(home: Home) -> bool:
    replica_set = home.kube.find(REPLICA_SET)
    return replica_set is not None and FINALIZER in replica_set["metadata"].get("finalizers", [])


def writes_of(home: Home, path: str) -> list[str]:
    return [verb for verb, at in home.kube.calls if at == path]


def test_while_a_model_drains_its_replica_set_gets_the_finalizer_and_works_as_before(home: Home) -> None:
    pod = home.resident()
    drains(home)
    await_true(lambda: held(home))
    assert not frozen(home)
    assert not home.going(pod)
    home.kube.force(pod)
    assert len(home.kube.pods("a")) == 1, "its controller still replaces what is lost"
    home.kube.end(home.kube.pods("a")[0])


def test_the_release_after_a_drain_takes_one_write_to_freeze(home: Home) -> None:
    pod = home.resident()
    drains(home)
    await_true(lambda: held(home))
    drains(home, InstanceState.DRAINING)
    home.stop()
    await_true(lambda: home.going(pod))
    assert writes_of(home, REPLICA_SET)[:2] == ["merge", "delete"]
    assert len(home.kube.pods("a")) == 1, "nothing was made in its place"
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert not held(home)
    assert home.resident("default/a@3"), "it can be loaded again"


def test_a_drain_that_is_called_off_leaves_no_finalizer(home: Home) -> None:
    pod = home.resident()
    for _ in range(2):
        drains(home)
        await_true(lambda: held(home))
        drains(home, InstanceState.READY)
        await_true(lambda: not held(home))
    assert not frozen(home)
    assert not home.going(pod)
    home.stop()
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_a_long_drain_does_not_hold_a_replica_set_all_the_time(home: Home) -> None:
    pod = home.resident()
    drains(home)
    await_true(lambda: held(home))
    home.pass_time(3)
    await_true(lambda: not held(home))
    drains(home, InstanceState.DRAINING)
    never(lambda: held(home))
    home.stop()
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_a_drain_of_another_model_concerns_no_other(home: Home) -> None:
    home.resident()
    drains(home, instance=B)
    never(lambda: held(home))


def test_somebody_removes_the_finalizer_of_a_model_that_drains(home: Home) -> None:
    pod = home.resident()
    drains(home)
    await_true(lambda: held(home))
    with home.kube.changed:  # so that the watch says nothing in between
        home.kube.merge(REPLICA_SET, {"metadata": {"finalizers": []}})
        home.stop()
        time.sleep(0.05)
    await_true(lambda: home.going(pod))
    writes = writes_of(home, REPLICA_SET)[1:4]
    assert writes == ["merge", "merge", "delete"], (
        "without the finalizer, its pods would be deleted with their own grace"
    )
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert not held(home)


def test_the_answer_to_the_finalizer_is_lost(home: Home) -> None:
    pod = home.resident()
    home.kube.lose_next_answer = True
    drains(home)
    await_true(lambda: held(home))
    home.stop()
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert not held(home)


def test_closing_while_a_model_drains_leaves_no_finalizer(home: Home) -> None:
    home.resident()
    drains(home)
    await_true(lambda: held(home))
    home.runtime.close()
    assert not held(home), "whoever removes hotseat now would meet it"


def test_killed_while_a_model_drains(home: Home) -> None:
    pod = home.resident()
    home.runtime.close()
    ReplicaSetGuard(home.kube, NS, home.runtime._informers).hold("a-00001")
    assert held(home)
    told = home.again()
    adopted = told.await_one(InstanceAdopted, A)
    assert (bool(adopted.address), adopted.releasing) == (True, False)
    await_true(lambda: not held(home))
    assert not home.going(pod)


def test_killed_while_a_model_drained_that_is_gone_since(home: Home) -> None:
    home.runtime.close()
    ReplicaSetGuard(home.kube, NS, home.runtime._informers).hold("a-00001")
    assert held(home)
    home.again()
    await_true(lambda: not held(home))
    home.resident()


def test_an_earlier_switcher_holds_nothing_any_more(home: Home) -> None:
    home.resident()
    first = home.runtime
    home.begin("second")
    drains_of_first = Residency(2, (Resident("a", A, InstanceState.QUIESCING, 1, 0.0),))
    first.residency_changed(drains_of_first)
    await_true(first.superseded.is_set)
    assert not held(home)
