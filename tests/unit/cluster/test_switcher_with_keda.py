"""A whole switcher over an API server and KEDA's operator in memory."""

from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.api.types import Json
from hotseat.control.codec import residency_from_status
from hotseat.core.messages import Demand, QueuedDemand
from hotseat.kube.constants import DEPLOYMENTS, MODELS, PAUSED_REPLICAS, SCALED_BY, SCALED_OBJECTS, SERVICES
from tests.fake_keda import FakeKeda
from tests.fake_kube import NS
from tests.unit.runtimes.knative.test_runtime import never

from .fake_switcher import Home

AT, SCALED_OBJECT = DEPLOYMENTS.path(NS, "a"), SCALED_OBJECTS.path(NS, "a")


def spec(runtime: str, gpus: int = 1) -> dict[str, Any]:
    return {"capacity": {"gpus": gpus}, "runtime": runtime}


class KedaHome(Home):
    """Its cluster has KEDA. `scales` are the writes of replicas of Deployments, and whether there was a ScaledObject."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.keda = FakeKeda(self.kube, self._has_place)
        self.autoscaled = False  # by demand, as KEDA's HorizontalPodAutoscaler does
        self.scales: list[tuple[str, int, bool, bool]] = []
        merge = self.kube.merge

        def seen(path: str, body: Json) -> Json:
            entry = None
            if "replicas" in body.get("spec", {}) and path.startswith(DEPLOYMENTS.path(NS)):
                name = path.rpartition("/")[2]
                by_keda = "metadata" not in body
                there = SCALED_OBJECTS.path(NS, name) in self.kube.objects
                entry = (name, body["spec"]["replicas"], by_keda, there)
            changed = merge(path, body)
            if entry:  # it was not refused as a change of an old version
                self.scales.append(entry)
            return changed

        self.kube.merge = seen  # type: ignore[method-assign]
        self.write_workspace(spec("KEDA"))

    def _has_place(self, name: str) -> int | None:
        runtime = self.app._runtime  # of the switcher that runs now
        place = runtime._keda.has_place(name)
        if not place or not self.autoscaled:
            return place
        trigger = self.kube.objects[SCALED_OBJECTS.path(NS, name)]["spec"]["triggers"][0]["metadata"]
        target = int(trigger["concurrency"])
        return min(self.most(), max(1, -(-runtime._demanded(name, target) // target)))  # as the autoscaler computes

    def most(self) -> int:
        return int(self.kube.objects[SCALED_OBJECT]["spec"]["maxReplicaCount"])

    def report(self, waiting: int = 0, in_flight: int = 0, busy: int = 0) -> None:
        """Report requests of a, and how many of its pods are in use."""
        self.seq += 1
        residency = residency_from_status(self.status())
        instance = next((each.instance for each in residency.residents), "")
        queued = {"a": QueuedDemand(waiting, 0.0)} if waiting else {}
        flight, pods = ({instance: in_flight}, {instance: busy}) if in_flight else ({}, {})
        demand = Demand("router-1", self.seq, residency.epoch, queued, flight, busy_pods=pods)
        self.send(demand)

    def load_both_pods(self) -> None:
        """Let a have two pods, which are all that the Workspace has GPUs for. The Model b is not loaded."""
        self.autoscaled = True
        self.write_workspace(spec("KEDA", 2))
        self.write("a", scheduling={"replicas": 2}, concurrency=1)
        self.write("b", concurrency=1)
        self.load("a")
        self.report(waiting=1, in_flight=1, busy=1)
        self.until(lambda: self.addresses() == 2)

    def replicas(self) -> int:
        return int(self.kube.objects[AT]["spec"]["replicas"])

    def addresses(self) -> int:
        """Return at how many addresses a answers."""
        return sum(len(each.addresses) for each in residency_from_status(self.status()).residents)

    def start(self) -> None:
        super().start()
        self.keda.start()

    def stop(self) -> None:
        self.keda.stop()
        super().stop()

    def is_served(self, scaled_by: str) -> bool:
        """Whether a is resident under a runtime. The status alone may be that of a moment ago."""
        deployment = self.kube.objects.get(AT, {"metadata": {}, "spec": {}})
        labels = deployment["metadata"].get("labels") or {}
        scaled = labels.get(SCALED_BY, "") == scaled_by and deployment["spec"].get("replicas") == 1
        return scaled and self.residents() == [("a", "ready")]

    def paused(self) -> str | None:
        notes: dict[str, str] = self.kube.objects[SCALED_OBJECT]["metadata"].get("annotations") or {}
        return notes.get(PAUSED_REPLICAS)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[KedaHome]:
    home = KedaHome(monkeypatch)
    home.start()
    yield home
    home.close()


def test_models_take_turns_and_only_keda_scales(home: KedaHome) -> None:
    home.write("a")
    home.write("b")
    home.load("a")
    assert home.paused() is None
    home.load("b")
    home.until(lambda: home.residents() == [("b", "ready")])
    assert home.paused() == "0"
    assert home.status()["runtime"] == "KEDA"
    assert [each[:2] for each in home.scales if each[2]] == [("a", 1), ("a", 0), ("b", 1)]
    assert all(by_keda for _, replicas, by_keda, _ in home.scales if replicas), "an apply at zero states zero"
    home.until(lambda: home.kube.objects[SCALED_OBJECT]["metadata"]["labels"].get("hotseat.dev/state") == "unloaded")
    home.until(lambda: "READY" not in str(home.kube.objects[AT]["metadata"]["labels"]))


def test_a_scaled_object_that_somebody_deletes_is_made_anew_as_it_was(home: KedaHome) -> None:
    home.write("a")
    home.load("a")
    home.kube.remove(SCALED_OBJECT)
    home.until(lambda: SCALED_OBJECT in home.kube.objects)
    assert home.paused() is None, "it is resident"
    never(lambda: home.residents() != [("a", "ready")])


def test_a_changed_scaled_object_is_put_right_without_its_pause(home: KedaHome) -> None:
    home.write("a")
    home.until(lambda: SCALED_OBJECT in home.kube.objects)
    home.kube.merge(SCALED_OBJECT, {"spec": {"maxReplicaCount": 5}})
    home.until(lambda: home.kube.objects[SCALED_OBJECT]["spec"]["maxReplicaCount"] == 1)
    assert home.paused() == "0"


def test_a_workspace_moves_and_a_deployment_never_has_two_that_scale_it(home: KedaHome) -> None:
    home.write_workspace(spec("Deployment"))
    home.write("a")
    home.load("a")
    assert SCALED_OBJECT not in home.kube.objects
    home.write_workspace(spec("KEDA"))
    home.until(lambda: home.ask("a") or home.is_served("KEDA"))
    assert SCALED_OBJECT in home.kube.objects
    home.kube.annotate_pods("a")
    home.write_workspace(spec("Deployment"))
    home.until(lambda: home.ask("a") or home.is_served(""))
    assert SCALED_OBJECT not in home.kube.objects
    ups = [each[2:] for each in home.scales if each[1]]
    assert ups == [(False, False), (True, True), (False, False)]


def test_a_move_from_keda_waits_until_keda_has_let_go(home: KedaHome) -> None:
    home.write("a")
    home.load("a")
    home.kube.merge(SCALED_OBJECT, {"metadata": {"finalizers": ["finalizer.keda.sh"]}})
    home.keda.finalizes = False
    home.write_workspace(spec("Deployment"))
    home.until(lambda: home.ask("a") or "deletionTimestamp" in home.kube.objects[SCALED_OBJECT]["metadata"])
    never(lambda: home.ask("a") or SCALED_BY not in home.kube.objects[AT]["metadata"]["labels"])
    assert home.kube.objects[AT]["spec"]["replicas"] == 0
    home.keda.finalizes = True
    home.until(lambda: home.ask("a") or home.is_served(""))


def test_a_move_from_knative(home: KedaHome) -> None:
    home.write_workspace(spec("Knative"))
    home.write("a")
    home.load("a")
    home.write_workspace(spec("KEDA"))
    home.until(lambda: home.ask("a") or (home.is_served("KEDA") and SERVICES.path(NS, "a") not in home.kube.objects))


def test_the_next_switcher_goes_on(home: KedaHome) -> None:
    home.write("a")
    home.load("a")
    home.stop()
    home.start()
    home.until(lambda: home.ask() or home.residents() == [("a", "ready")])
    never(lambda: home.kube.objects[AT]["spec"]["replicas"] != 1)


WIDE: dict[str, Any] = {"scheduling": {"replicas": 3}, "concurrency": 2}


def test_keda_sizes_a_model_by_demand_within_what_it_has_claimed(home: KedaHome) -> None:
    home.autoscaled = True
    home.write_workspace(spec("KEDA", 3))
    home.write("a", **WIDE)
    home.load("a")
    assert (home.replicas(), home.addresses()) == (1, 1)
    home.report(waiting=2, in_flight=2, busy=1)
    home.until(lambda: home.addresses() == 2)
    home.report(waiting=20, in_flight=4, busy=2)
    home.until(lambda: home.replicas() == home.addresses() == 3)
    status = home.until(lambda: (it := home.kube.objects[MODELS.path(NS, "a")]["status"]) and it)
    assert "Replicated" not in {each["type"] for each in status["conditions"]}
    home.report(in_flight=1, busy=2)
    home.until(lambda: home.replicas() == home.addresses() == 2)
    home.report()
    home.until(lambda: home.replicas() == home.addresses() == 1)


def test_all_pods_are_gone_before_another_model_starts(home: KedaHome) -> None:
    home.load_both_pods()
    home.kube.lively = False  # pods end when told
    pods = home.kube.pods("a")
    home.report()
    home.ask("b")
    home.until(lambda: home.ask("b") or all("deletionTimestamp" in each["metadata"] for each in home.kube.pods("a")))
    home.kube.end(pods[0])
    never(lambda: home.kube.pods("b"))
    home.kube.lively = True
    home.kube.end(pods[1])
    home.until(lambda: home.ask("b") or home.residents() == [("b", "ready")])


def test_a_changed_number_of_replicas_is_for_the_next_load(home: KedaHome) -> None:
    home.write_workspace(spec("KEDA", 3))
    home.write("a", **WIDE)
    home.load("a")
    home.write("a", scheduling={"replicas": 2}, concurrency=4)
    home.until(lambda: home.kube.objects[SCALED_OBJECT]["spec"]["triggers"][0]["metadata"]["concurrency"] == "4")
    assert home.most() == 3
    assert home.app._runtime._demanded("a", 4) == 0
    home.app._controllers["default"].unload("a", 0)
    home.until(lambda: home.ask() or home.most() == 2)


def test_more_replicas_than_the_workspace_has_gpus_are_refused_with_a_condition(home: KedaHome) -> None:
    home.write("a", **WIDE)
    home.ask("a")
    assert "3 GPUs (available: 1 GPU); lower scheduling.replicas" in home.refusal("a")["message"]
    assert "needs 3 GPUs" in home.condition("a", "ExceedsCapacity", "Replicated")["message"]


def test_a_model_with_replicas_moves_to_a_runtime_with_one_pod_and_back(home: KedaHome) -> None:
    home.autoscaled = True
    home.write_workspace(spec("KEDA", 3))
    home.write("a", **WIDE)
    home.write("b")
    home.load("a")
    home.report(waiting=6)
    home.until(lambda: home.addresses() == 3)
    home.kube.annotate_pods("a")
    home.report()
    home.write_workspace(spec("Deployment", 3))
    home.until(lambda: home.ask("a") or home.is_served(""))
    assert len(home.kube.pods("a")) == 1
    assert home.condition("a", "OnePodOnly", "Replicated")["status"] == "False"
    home.load("b")
    assert sorted(home.residents()) == [("a", "ready"), ("b", "ready")], "it claims one GPU"
    home.app._controllers["default"].unload("b", 0)
    home.kube.annotate_pods("a")
    home.write_workspace(spec("KEDA", 3))
    home.until(lambda: home.ask("a") or home.is_served("KEDA"))
    home.report(waiting=6)
    home.until(lambda: home.addresses() == 3)


def test_the_next_switcher_goes_on_with_all_pods_and_their_claim(home: KedaHome) -> None:
    home.load_both_pods()
    home.kube.annotate_pods("a")
    pods = {each["metadata"]["uid"] for each in home.kube.pods("a")}
    home.stop()
    Home.start(home)
    home.report(in_flight=2, busy=2)
    home.keda.start()  # this one scales down without delay
    home.until(lambda: home.app._runtime.replicas_of("a") == 2 and home.addresses() == 2)
    never(lambda: {each["metadata"]["uid"] for each in home.kube.pods("a")} != pods)
    home.report()
    home.until(lambda: home.ask("b") or home.residents() == [("b", "ready")])
    assert not home.kube.pods("a")
