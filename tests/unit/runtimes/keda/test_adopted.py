"""ScaledObjects that a person has made and labelled. Their triggers say nothing of a place, and their Deployments have no label."""

from collections.abc import Iterator

import pytest

from hotseat.core.messages import InstanceAdopted, InstanceReady, InstanceReleased
from hotseat.kube.constants import DEPLOYMENTS, PAUSED_REPLICAS, SCALED_OBJECTS, WORKSPACE
from hotseat.runtimes.keda.runtime import KedaRuntime
from tests.fake_keda import FakeKeda
from tests.fake_kube import NS, FakeCluster
from tests.unit.runtimes.knative.test_runtime import A, B, Home, await_true, never

SCALED_OBJECT = SCALED_OBJECTS.path(NS, "a-scaler")


class HandmadeHome(Home):
    """A cluster with KEDA, and the ScaledObjects of the Deployments a and b."""

    runtime_type = KedaRuntime
    runtime: KedaRuntime

    def __init__(self) -> None:
        super().__init__()
        self.kube.objects.clear()
        self.kube = FakeCluster()
        self.triggers: dict[str, bool] = {}  # what the trigger of a ScaledObject says
        self.keda = FakeKeda(self.kube, lambda name: self.triggers.get(name, False))
        self.fingerprints = {"a": "1", "b": "1"}
        for name in ("a", "b"):
            self.kube.add_handmade(name, workspace="")
            meta = {"name": f"{name}-scaler", "namespace": NS, "labels": {WORKSPACE: "default"}}
            self.kube.put(
                SCALED_OBJECTS.path(NS, meta["name"]), {"metadata": meta, "spec": {"scaleTargetRef": {"name": name}}}
            )
        self.keda.start()

    def scale(self) -> int:
        return int(self.kube.objects[DEPLOYMENTS.path(NS, "a")]["spec"]["replicas"])

    def pause(self, name: str = "a") -> str | None:
        notes = self.kube.objects[SCALED_OBJECTS.path(NS, f"{name}-scaler")]["metadata"].get("annotations") or {}
        return notes.get(PAUSED_REPLICAS)

    def relabel(self, workspace: str | None) -> None:
        self.kube.merge(SCALED_OBJECT, {"metadata": {"labels": {WORKSPACE: workspace}}})

    def adopted(self) -> list[InstanceAdopted]:
        return [each for each in self.told.seen if isinstance(each, InstanceAdopted)]

    def end(self) -> None:
        self.keda.stop()
        super().end()


@pytest.fixture
def home() -> Iterator[HandmadeHome]:
    home = HandmadeHome()
    home.begin()
    home.runtime.adopt_running()
    yield home
    home.end()


def test_two_take_turns_whatever_their_triggers_say(home: HandmadeHome) -> None:
    await_true(lambda: (home.pause("a"), home.pause("b")) == ("0", "0"))
    home.triggers = {"a-scaler": True, "b-scaler": True}
    never(lambda: home.kube.pods("a") + home.kube.pods("b"))
    for instance, name in ((A, "a"), (B, "b")):
        pod = home.resident(instance)
        assert home.pause(name) == "1"
        home.stop(instance)
        await_true(lambda name=name, pod=pod: home.pause(name) == "0" and home.going(pod))
        never(lambda instance=instance: "InstanceReleased" in home.told.of_instance(instance))
        home.kube.end(pod)
        home.told.await_one(InstanceReleased, instance)


def test_a_pause_that_somebody_removes_comes_back(home: HandmadeHome) -> None:
    await_true(lambda: home.pause() == "0")
    home.triggers = {"a-scaler": True}
    home.kube.merge(SCALED_OBJECT, {"metadata": {"annotations": {PAUSED_REPLICAS: None}}})
    await_true(lambda: home.pause() == "0" and home.scale() == 0)


def test_the_next_switcher_adopts_it(home: HandmadeHome) -> None:
    pod = home.resident()
    home.again()
    found = home.told.await_one(InstanceAdopted, A)
    assert (found.model, found.releasing, bool(found.address)) == ("a", False, True)
    home.stop()
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_one_that_is_labelled_while_it_runs_is_adopted_and_one_at_zero_is_paused() -> None:
    home = HandmadeHome()
    home.relabel(None)
    home.fingerprints.clear()
    home.triggers = {"a-scaler": True}
    home.begin()
    await_true(lambda: home.kube.pods("a"))
    home.kube.serve(home.kube.pods("a")[0])
    home.relabel("lab")
    never(lambda: home.adopted() or home.pause())
    home.fingerprints |= {"a": "1", "b": "1"}
    home.runtime.adopt_running()
    found = home.told.await_one(InstanceAdopted, model="a")
    assert (found.instance.startswith("lab/a@"), found.releasing) == (True, False)
    await_true(lambda: home.pause("b") == "0")
    assert home.scale() == 1
    home.end()


def test_one_whose_label_is_removed_is_released_and_given_back(home: HandmadeHome) -> None:
    pod = home.resident()
    home.told.await_one(InstanceReady, A)
    home.relabel(None)
    del home.fingerprints["a"]
    home.stop()
    await_true(lambda: home.going(pod))
    never(lambda: home.pause() is None)
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    await_true(lambda: not home.kube.objects[SCALED_OBJECT]["metadata"]["annotations"])
    home.triggers = {"a-scaler": True}
    await_true(lambda: home.scale() == 1)
    never(home.adopted)
