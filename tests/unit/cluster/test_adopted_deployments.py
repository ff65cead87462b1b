"""A whole switcher over an API server in memory: Deployments and ScaledObjects with our label take turns without a Model."""

import time
from collections.abc import Callable, Iterator

import pytest

from hotseat.api.types import Json
from hotseat.cluster.switcher.http_api import PinAnnotations
from hotseat.core.errors import Unavailable
from hotseat.kube.client import KubeError
from hotseat.kube.constants import (
    AUTOSCALERS,
    DEPLOYMENTS,
    EVENTS,
    PAUSED_REPLICAS,
    PODS,
    REPLICA_SETS,
    SCALED_OBJECTS,
    STATE,
)
from tests.fake_keda import FakeKeda
from tests.fake_kube import NS, _in, merged

from .fake_switcher import Home

A, B = (DEPLOYMENTS.path(NS, name) for name in "ab")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(monkeypatch)
    home.kube.add_handmade("a")
    home.start()
    yield home
    home.close()


def load(home: Home, model: str) -> None:
    home.until(lambda: any(row["name"] == model for row in home.status().get("models") or ()))
    reported(home, lambda: (model, "ready") in home.residents(), model)


def reported(home: Home, found: Callable[[], bool], *models: str) -> None:
    """Report requests for these models, as a router does all the time, until something is found."""
    until = time.monotonic() + 5
    while not found():
        assert time.monotonic() < until, home.status()
        home.ask(*models)
        time.sleep(0.02)


def events(home: Home, name: str) -> list[Json]:
    found = [each for at, each in home.kube.objects.items() if _in(at, EVENTS.path(NS))]
    return [each for each in found if each["involvedObject"]["name"] == name]


def told(home: Home, words: str, name: str = "a") -> Json:
    """Wait for a Warning about an object."""
    event = home.until(lambda: next((each for each in events(home, name) if words in each["message"]), None))
    assert (event["type"], event["reason"]) == ("Warning", "Misconfigured")
    return dict(event["involvedObject"])


def change(home: Home, at: str, body: Json) -> None:
    home.kube.merge(at, body)


def test_it_takes_turns_with_a_model_whatever_runtime_that_has(home: Home) -> None:
    home.write("b")
    load(home, "a")
    assert home.residents() == [("a", "ready")]
    assert home.until(lambda: home.kube.objects[A]["metadata"]["labels"].get(STATE) == "ready")
    load(home, "b")
    assert home.residents() == [("b", "ready")]
    assert home.kube.objects[A]["spec"]["replicas"] == 0
    reasons = home.until(lambda: (found := {each["reason"] for each in events(home, "a")}) and found)
    assert "SwitchCompleted" in reasons, "they are on the Deployment itself"
    assert "Misconfigured" not in reasons


def test_what_runs_when_it_is_labelled_is_resident_and_what_is_unlabelled_is_let_go(home: Home) -> None:
    at = home.kube.add_handmade("late", workspace="", replicas=1)
    change(home, at, {"metadata": {"labels": {"hotseat.dev/workspace": "default"}}})
    home.until(lambda: home.residents() == [("late", "ready")])
    pod = home.kube.pods("late")[0]
    change(home, at, {"metadata": {"labels": {"hotseat.dev/workspace": None}}})
    reported(home, lambda: home.residents() == [] and home.kube.objects[at]["spec"]["replicas"] == 0)
    assert pod["metadata"]["name"] not in [each["metadata"]["name"] for each in home.kube.pods("late")]


def test_a_changed_template_is_loaded_anew_and_a_scale_changes_nothing(home: Home) -> None:
    load(home, "a")

    def instance() -> str:
        return next((each["instance"] for each in home.status()["residents"] if each["state"] == "ready"), "")

    before = instance()
    change(home, A, {"metadata": {"annotations": {"hotseat.dev/names": "gpt"}}})
    home.until(lambda: any("gpt" in row["spec"].get("names", ()) for row in home.status()["models"]))
    assert instance() == before
    template = home.kube.objects[A]["spec"]["template"]
    change(home, A, {"spec": {"template": merged(template, {"metadata": {"annotations": {"at": "now"}}})}})
    reported(home, lambda: instance() not in ("", before))


def test_its_problems_are_told_once_on_the_deployment(home: Home) -> None:
    home.kube.add_handmade("b", strategy={"type": "RollingUpdate"})
    involved = told(home, "spec.strategy is RollingUpdate", "b")
    assert (involved["apiVersion"], involved["kind"]) == ("apps/v1", "Deployment")
    change(home, B, {"metadata": {"annotations": {"hotseat.dev/description": "x"}}})
    change(home, B, {"metadata": {"annotations": {"hotseat.dev/priority": "high"}}})
    told(home, "hotseat.dev/priority is 'high'", "b")
    assert len(events(home, "b")) == 2


def test_a_workspace_that_is_not_there_is_told(home: Home) -> None:
    change(home, A, {"metadata": {"labels": {"hotseat.dev/workspace": "typo"}}})
    told(home, "Workspace typo does not exist")


def test_a_label_that_cannot_be_a_name_is_told(home: Home) -> None:
    change(home, A, {"metadata": {"labels": {"hotseat.dev/workspace": "My_WS"}}})
    told(home, "Workspace My_WS does not exist; spec.workspace")


def test_a_model_of_its_name_goes_first_and_leaves_it_alone(home: Home) -> None:
    home.write_workspace({"capacity": {"gpus": 1}, "runtime": "Deployment"})
    home.write("a")
    assert "Deployment a: it exists and is not of this Model" in home.condition("a", "NameConflict")["message"]
    told(home, "a is the name of another Model")
    assert home.kube.objects[A]["spec"]["selector"] == {"matchLabels": {"app": "a"}}


def test_a_name_that_two_claim_is_told(home: Home) -> None:
    home.write("b", names=["gpt"], created="2026-01-01T00:00:00Z")
    annotations = {"hotseat.dev/names": "gpt"}
    change(home, A, {"metadata": {"creationTimestamp": "2026-02-01T00:00:00Z", "annotations": annotations}})
    told(home, "Model b claims the name gpt too; Model b has it")


def test_an_autoscaler_of_it_is_told(home: Home) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "b"}
    home.kube.put(AUTOSCALERS.path(NS, "cpu"), {"metadata": {"name": "cpu"}, "spec": {"scaleTargetRef": target}})
    home.app._autoscalers._due = 0.0
    home.kube.add_handmade("b")
    told(home, "HorizontalPodAutoscaler cpu scales it as well", "b")


def test_a_pin_is_kept_on_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    load(home, "a")
    writer = PinAnnotations(home.kube, NS, lambda: home.app._documents)
    writer.write("a", pinned=True)
    assert home.kube.objects[A]["metadata"]["annotations"]["hotseat.dev/pinned"] == "true"
    home.until(lambda: next(row for row in home.status()["models"] if row["name"] == "a").get("pinned"))
    monkeypatch.setattr(home.kube, "merge", lambda *_: (_ for _ in ()).throw(KubeError(403, "no")))
    with pytest.raises(Unavailable):
        writer.write("a", pinned=False)


class TestScaledObjects:
    """A ScaledObject that carries the label stands for its Deployment."""

    @pytest.fixture
    def home(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
        home = Home(monkeypatch)
        keda = FakeKeda(home.kube, lambda _name: False)
        home.kube.add_handmade("a", workspace="")
        self.add(home, "a-scaler", "a")
        keda.start()
        home.start()
        yield home
        keda.stop()
        home.close()

    def add(self, home: Home, name: str, target: str, **annotations: str) -> str:
        at = SCALED_OBJECTS.path(NS, name)
        meta = {"name": name, "labels": {"hotseat.dev/workspace": "default"}, "annotations": annotations}
        home.kube.put(at, {"metadata": meta, "spec": {"scaleTargetRef": {"name": target}}})
        return at

    def test_it_takes_turns_with_a_model(self, home: Home) -> None:
        home.write("b")
        load(home, "a")
        at = SCALED_OBJECTS.path(NS, "a-scaler")
        assert home.kube.objects[at]["metadata"]["annotations"][PAUSED_REPLICAS] == "1"
        home.until(lambda: home.kube.objects[at]["metadata"]["labels"].get(STATE) == "ready")
        load(home, "b")
        assert home.kube.objects[A]["spec"]["replicas"] == 0
        reasons = home.until(lambda: (found := {each["reason"] for each in events(home, "a-scaler")}) and found)
        assert "SwitchCompleted" in reasons
        assert STATE not in home.kube.objects[A]["metadata"]["labels"], "the Deployment is its own"

    def test_a_deployment_with_the_label_is_none_of_kedas(self, home: Home) -> None:
        home.kube.add_handmade("b")
        load(home, "b")
        home.kube.say(home.kube.pods("b")[0], phase="Running")
        time.sleep(0.3)
        assert home.residents() == [("b", "ready")]
        load(home, "a")
        assert home.kube.objects[B]["spec"]["replicas"] == 0
        assert home.residents() == [("a", "ready")]
        load(home, "b")
        for at in (B, REPLICA_SETS.path(NS, "b-rs")):  # as the garbage collector does
            home.kube.remove(at)
        home.kube.end_of(PODS.path(NS, home.kube.pods("b")[0]["metadata"]["name"]), 300)
        reported(home, lambda: home.residents() == [])
        assert not [each for each in home.status()["switches"] if each["outcome"] == "running"]

    def test_its_problems_are_told_on_it(self, home: Home) -> None:
        self.add(home, "nothing", "gone")
        assert (
            told(home, "its scaleTargetRef is gone; name a Deployment that exists", "nothing")["kind"] == "ScaledObject"
        )
        change(home, SCALED_OBJECTS.path(NS, "a-scaler"), {"metadata": {"annotations": {"hotseat.dev/priority": "x"}}})
        told(home, "hotseat.dev/priority is 'x'", "a-scaler")

    def test_its_deployment_need_not_have_the_label_too(self, home: Home) -> None:
        change(home, A, {"metadata": {"labels": {"hotseat.dev/workspace": "default"}}})
        told(home, "a is the name of another Model", "a")
        load(home, "a")
        assert "hotseat.dev/instance" not in (home.kube.objects[A]["metadata"].get("annotations") or {})

    def test_a_pin_is_kept_on_it(self, home: Home) -> None:
        load(home, "a")
        PinAnnotations(home.kube, NS, lambda: home.app._documents).write("a", pinned=True)
        item = home.kube.objects[SCALED_OBJECTS.path(NS, "a-scaler")]
        assert item["metadata"]["annotations"]["hotseat.dev/pinned"] == "true"
