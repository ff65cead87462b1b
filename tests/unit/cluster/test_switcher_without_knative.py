"""A whole switcher over an API server in memory, in a Workspace whose Models are Deployments."""

from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.kube.client import KubeError
from hotseat.kube.constants import CORE_SERVICES, DEPLOYMENTS, ENDPOINT, SERVICES
from tests.fake_kube import NS

from .fake_switcher import Home

AT = DEPLOYMENTS.path(NS, "a")
DENIED = KubeError(403, "exceeded quota")


def spec(runtime: str) -> dict[str, Any]:
    return {"capacity": {"gpus": 1}, "runtime": runtime}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(monkeypatch)
    home.write_workspace(spec("Deployment"))
    home.start()
    yield home
    home.close()


def command(home: Home) -> str:
    engine = home.kube.objects[AT]["spec"]["template"]["spec"]["containers"][0]
    return str([engine.get("command"), engine.get("args"), engine.get("env")])


def test_what_is_refused_is_a_condition_of_the_model(home: Home) -> None:
    home.kube.refused["Deployment"] = DENIED
    home.write("a")
    assert home.condition("a", "ApplyFailed")["message"] == f"Deployment a: {DENIED}"
    home.ask("a")
    assert home.refusal("a")["code"] == "not_loadable"
    home.ask()
    home.kube.refused.clear()
    home.condition("a", "Unloaded")
    home.load("a")
    assert ENDPOINT not in home.kube.objects[AT]["metadata"]["annotations"], "it has no URL"


def test_what_is_somebody_elses_is_left_alone(home: Home) -> None:
    theirs = {"metadata": {"name": "a", "labels": {"app": "shop"}}, "spec": {"clusterIP": "10.0.0.1"}}
    home.kube.put(CORE_SERVICES.path(NS, "a"), theirs)
    home.write("a")
    assert home.condition("a", "NameConflict")["message"].startswith("Service a: it exists and is not of this Model")
    home.ask("a")
    assert home.refusal("a")["code"] == "not_loadable"
    assert home.kube.objects[CORE_SERVICES.path(NS, "a")]["spec"] == theirs["spec"]


@pytest.mark.parametrize("restart", [False, True])
def test_an_invalid_edit_leaves_the_last_valid_version_in_force(home: Home, restart: bool) -> None:
    home.write("a", names=["gpt"])
    home.load("a")
    if restart:
        home.stop()
    home.write("a", gpuCount=2)
    if restart:
        home.start()
    assert "; generation 1 is in force" in home.condition("a", "InvalidSpec")["message"]
    home.ask()
    assert home.residents() == [("a", "ready")]
    home.write("a", names=["gpt-2"])
    home.condition("a", "Ready")
    assert home.residents() == [("a", "ready")], "nothing but its names has changed"


def test_a_changed_source_is_fetched_before_the_running_model_leaves(home: Home) -> None:
    home.write("a", engine="vllm", source="hf://org/one")
    home.until(lambda: home.finish_jobs("/cache/one") or home.conditions("a").get("Cached", {}).get("status") == "True")
    home.load("a")
    home.write("a", engine="vllm", source="hf://org/two")
    home.condition("a", "Fetching", "Cached")
    home.until(lambda: "earlier version" in home.conditions("a")["Ready"]["message"])
    assert home.residents() == [("a", "ready")]
    assert "/cache/one" in command(home)
    home.until(lambda: home.finish_jobs("/cache/two") or home.ask() or "/cache/two" in command(home))
    home.until(lambda: home.ask() or home.residents() == [("a", "ready")])


def test_a_model_that_moves_is_never_refused(home: Home) -> None:
    """Knative has a core Service of the ksvc's name, which goes with it."""
    home.write_workspace(spec("Knative"))
    home.write("a")
    home.until(lambda: SERVICES.path(NS, "a") in home.kube.objects)
    home.load("a")
    at = CORE_SERVICES.path(NS, "a")
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Route", "name": "a", "uid": "uid-route"}
    meta = {"name": "a", "uid": "uid-s", "labels": {"hotseat.dev/model": "a"}, "ownerReferences": [owner]}
    home.kube.put(at, {"metadata": meta, "spec": {}})
    home.write_workspace(spec("Deployment"))
    home.until(lambda: home.ask("a") or SERVICES.path(NS, "a") not in home.kube.objects)
    assert not home.status().get("refusals")
    home.kube.remove(at)
    home.until(lambda: home.ask() or (AT in home.kube.objects and home.residents() == [("a", "ready")]))
    home.until(lambda: home.kube.objects.get(at, {}).get("spec", {}).get("clusterIP") == "None")
