"""A whole switcher over an API server and KEDA's operator in memory."""

from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.api.types import Json
from hotseat.kube.constants import DEPLOYMENTS, PAUSED_REPLICAS, SCALED_BY, SCALED_OBJECTS, SERVICES
from tests.fake_keda import FakeKeda
from tests.fake_kube import NS
from tests.unit.runtimes.knative.test_runtime import never

from .fake_switcher import Home

AT, SCALED_OBJECT = DEPLOYMENTS.path(NS, "a"), SCALED_OBJECTS.path(NS, "a")


def spec(runtime: str) -> dict[str, Any]:
    return {"capacity": {"gpus": 1}, "runtime": runtime}


class KedaHome(Home):
    """Its cluster has KEDA. `scales` are the writes of replicas of Deployments, and whether there was a ScaledObject."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.keda = FakeKeda(self.kube, self._has_place)
        self.scales: list[tuple[str, int, bool, bool]] = []
        merge = self.kube.merge

        def seen(path: str, body: Json) -> Json:
            if "replicas" in body.get("spec", {}) and path.startswith(DEPLOYMENTS.path(NS)):
                name = path.rpartition("/")[2]
                by_keda = "metadata" not in body
                there = SCALED_OBJECTS.path(NS, name) in self.kube.objects
                self.scales.append((name, body["spec"]["replicas"], by_keda, there))
            return merge(path, body)

        self.kube.merge = seen  # type: ignore[method-assign]
        self.write_workspace(spec("KEDA"))

    def _has_place(self, name: str) -> bool | None:
        return self.app._runtime._keda.has_place(name)  # of the switcher that runs now

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
