"""A whole switcher over an API server in memory: documents that are invalid, objects that are refused, weights that change."""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hotseat.cluster.switcher.app import SwitcherApp
from hotseat.core.messages import Demand, QueuedDemand
from hotseat.kube.client import KubeError
from hotseat.kube.constants import CLAIMS, JOBS, SERVICES, WORKSPACES
from hotseat.kube.jobs import job_name
from tests.fake_kube import NS

from .fake_switcher import SETTINGS, Home


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(monkeypatch)
    home.start()
    yield home
    home.close()


DENIED = KubeError(400, 'admission webhook "validation.webhook.serving.knative.dev" denied the request: no hostIPC')


def test_what_a_webhook_refuses_is_a_condition_of_the_model_and_told_to_its_clients(home: Home) -> None:
    home.kube.refused["Service"] = DENIED
    home.write("a")
    said = home.condition("a", "ApplyFailed")
    assert (said["status"], said["message"]) == ("False", f"Service a: {DENIED}")
    home.ask("a")
    refusal = home.refusal("a")
    assert refusal["code"] == "not_loadable"
    assert str(DENIED) in refusal["message"]
    home.ask()
    home.kube.refused.clear()
    assert home.condition("a", "Unloaded")["status"] == "True"
    home.load("a")


def test_a_refused_change_leaves_the_running_model_where_it_is(home: Home) -> None:
    home.write("a")
    home.load("a")
    home.kube.refused["Service"] = DENIED
    home.write("a", env=[{"name": "X", "value": "1"}])
    home.condition("a", "ApplyFailed")
    assert home.residents() == [("a", "ready")]
    home.kube.refused.clear()
    home.until(
        lambda: (
            len(home.kube.pods("a")) == 1
            and home.kube.pods("a")[0]["metadata"]["labels"]["serving.knative.dev/revision"] == "a-00002"
        )
    )


def test_an_api_server_that_is_away_refuses_nothing(home: Home) -> None:
    home.kube.refused["Service"] = KubeError(0, "connection refused")
    home.write("a")
    assert home.condition("a", "Unloaded")["status"] == "True"


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        ({"engine": "mock", "gpuCount": 2}, "spec.gpuCount is not a field that this version knows"),
        ({"engine": "mock", "podTemplate": {"spec": {"volumes": [{"emptyDir": {}}]}}}, "volumes[0] has no name"),
        ({"engine": "mock", "port": 8012}, "port is 8012"),
        ({"engine": "mock", "podTemplate": {"spec": {"serviceAccountName": "admin"}}}, "serviceAccountName is admin"),
        ({"engine": "nobody-has-this"}, "nobody-has-this"),
        (
            {
                "engine": "mock",
                "lifecycle": {"schedule": [{"start": "0 8 * * *", "duration": "1h", "timeZone": "Mars/X"}]},
            },
            "lifecycle.schedule[0].timeZone",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("restart", [False, True])
def test_an_invalid_edit_leaves_the_last_valid_version_in_force(
    home: Home, edit: dict[str, object], problem: str, restart: bool
) -> None:
    home.write("a", names=["gpt"])
    home.load("a")
    home.write("b")
    if restart:
        home.until(lambda: len(home.status().get("models", ())) == 2)
        home.stop()
    home.write("a", **edit)
    if restart:
        home.start()
    said = home.condition("a", "InvalidSpec")
    assert problem in said["message"]
    assert "; generation 1 is in force" in said["message"]
    assert said["observedGeneration"] == 2
    assert home.kube.objects["/apis/hotseat.dev/v1alpha1/namespaces/test/models/a"]["status"]["phase"] == "Ready"
    home.ask()
    assert ("a", "ready") in home.residents()
    assert not [call for call in home.kube.calls if call[0] == "delete"]
    (row,) = [row for row in home.status()["models"] if row["name"] == "a"]
    assert row["spec"]["names"] == ["gpt"]
    home.load("b")
    home.load("a")  # it can be loaded again, too
    home.write("a", names=["gpt-2"])
    home.condition("a", "Ready")
    assert home.residents() == [("a", "ready")], "nothing but its names has changed"


def test_a_model_that_was_never_valid_says_so(home: Home) -> None:
    home.write("a", gpuCount=2)
    said = home.condition("a", "InvalidSpec")
    assert said["message"] == "spec.gpuCount is not a field that this version knows"


@pytest.mark.parametrize("restart", [False, True])
def test_an_invalid_workspace_keeps_what_it_has_and_says_so(home: Home, restart: bool) -> None:
    home.write("a")
    home.load("a")
    if restart:
        home.stop()
    home.write_workspace({"capacity": {"gpus": 1}, "colour": "red"})
    if restart:
        home.start()
    said = home.condition("default", "InvalidSpec", resource=WORKSPACES)
    assert "spec.colour is not a field that this version knows" in said["message"]
    home.write("b")
    home.load("b")
    home.write_workspace({"capacity": {"gpus": 2}})
    home.condition("default", "Switching", resource=WORKSPACES)


def test_a_workspace_that_never_was_valid_says_so(home: Home) -> None:
    home.stop()
    home.write_workspace({"capacity": {"gpus": "many"}})
    home.write("a")
    home.start()
    home.condition("default", "InvalidSpec", resource=WORKSPACES)
    assert home.condition("a", "UnknownWorkspace")["message"] == "Workspace default is invalid"


def test_a_changed_source_is_fetched_before_the_running_model_leaves(home: Home) -> None:
    home.write("a", engine="vllm", source="hf://org/one")
    home.until(lambda: home.finish_jobs("/cache/one") or home.conditions("a").get("Cached", {}).get("status") == "True")
    home.load("a")
    (old,) = home.kube.pods("a")
    assert "/cache/one" in home.kube.arguments(old)
    home.write("a", engine="vllm", source="hf://org/two")
    home.condition("a", "Fetching", "Cached")
    home.until(lambda: "earlier version" in home.conditions("a")["Ready"]["message"])
    assert home.conditions("a")["Ready"]["status"] == "True"
    assert home.residents() == [("a", "ready")]
    assert home.kube.pods("a")[0]["metadata"]["uid"] == old["metadata"]["uid"]

    def replaced() -> bool:
        home.finish_jobs("/cache/two")
        home.ask()
        pods = home.kube.pods("a")
        return bool(pods) and pods[0]["metadata"]["uid"] != old["metadata"]["uid"]

    home.until(replaced)
    assert "/cache/two" in home.kube.arguments(home.kube.pods("a")[0])
    home.until(lambda: home.ask() or home.residents() == [("a", "ready")])


FOREIGN = {"metadata": {"name": "a", "labels": {"app": "shop"}}, "spec": {"template": {"spec": {"containers": []}}}}


def test_a_model_does_not_take_over_a_service_of_somebody_else(home: Home) -> None:
    at = SERVICES.path(NS, "a")
    home.kube.put(at, FOREIGN)
    home.write("a")
    said = home.condition("a", "NameConflict")
    assert said["message"].startswith("Service a: it exists and is not of this Model")
    home.ask("a")
    assert home.refusal("a")["code"] == "not_loadable"
    assert home.kube.objects[at]["metadata"]["labels"] == {"app": "shop"}
    home.ask()
    home.kube.remove(at)
    home.condition("a", "Unloaded")
    assert home.kube.objects[at]["metadata"]["labels"]["hotseat.dev/model"] == "a"


def test_a_model_does_not_take_over_a_claim_or_a_job_of_somebody_else(home: Home) -> None:
    claim = {"metadata": {"name": "a-cache", "labels": {"app": "shop"}}, "spec": {}}
    home.kube.put(CLAIMS.path(NS, "a-cache"), claim)
    home.write("a", engine="vllm", source="hf://org/one")
    assert home.condition("a", "NameConflict")["message"].startswith("PersistentVolumeClaim a-cache: it exists")
    assert home.kube.objects[CLAIMS.path(NS, "a-cache")]["metadata"]["labels"] == {"app": "shop"}
    home.write("b", engine="vllm", source="hf://org/one")
    name = home.until(lambda: home.app._documents.models.get("b")) and job_name(home.app._documents.models["b"].model)
    home.kube.remove(JOBS.path(NS, name)) if JOBS.path(NS, name) in home.kube.objects else None
    theirs = {"metadata": {"name": name}, "status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    home.kube.put(JOBS.path(NS, name), theirs)
    home.app._fetcher.fetch(home.app._documents.models["b"].model)
    home.until(lambda: (found := home.app._fetcher.states().get("b")) and "is not of this Model" in found.message)
    assert JOBS.path(NS, name) in home.kube.objects


def test_two_models_that_claim_one_name_are_told_and_the_older_one_has_it(home: Home) -> None:
    home.write("a", created="2026-01-02T00:00:00Z", names=["gpt", "mine"])
    home.write("b", created="2026-01-01T00:00:00Z", names=["gpt"])
    younger, older = (home.condition(name, "NameClaimedTwice", "NamesConflict") for name in "ab")
    assert younger["message"] == "Model b claims the name gpt too; Model b has it, because it is older"
    assert older["message"] == "Model a claims the name gpt too; Model b has it, because it is older"
    home.until(lambda: len(home.status().get("models", ())) == 2)
    rows = {row["name"]: row["spec"].get("names") for row in home.status()["models"]}
    assert rows == {"a": ["mine"], "b": ["gpt"]}
    home.write(
        "a", created="2026-01-02T00:00:00Z", names=["mine"], filters={"byName": {"gpt": {}, "mine": {"strip": ["x"]}}}
    )
    home.until(
        lambda: (
            [row["spec"]["filters"] for row in home.status()["models"] if "filters" in row["spec"]]
            == [{"byName": {"mine": {"strip": ["x"]}}}]
        )
    )
    home.write("a", created="2026-01-02T00:00:00Z", names=["gpt", "mine"])
    home.write("b")
    home.until(lambda: not any("NamesConflict" in home.conditions(name) for name in "ab"))
    home.until(lambda: ["gpt", "mine"] in [row["spec"].get("names") for row in home.status()["models"]])


def test_a_service_says_that_its_url_is_not_the_way_in(home: Home) -> None:
    home.write("a")
    note = home.until(
        lambda: (
            home.kube.objects.get(SERVICES.path(NS, "a"), {})
            .get("metadata", {})
            .get("annotations", {})
            .get("hotseat.dev/endpoint")
        )
    )
    assert "router" in note


def test_a_model_that_drains_is_prepared_for_its_release(home: Home) -> None:
    def held() -> list[str]:
        found = [item for at, item in home.kube.objects.items() if "/replicasets/" in at]
        return [each["metadata"]["name"] for each in found if each["metadata"].get("finalizers")]

    home.write("a")
    home.write("b")
    home.load("a")
    (instance,) = [each["instance"] for each in home.status()["residents"]]
    home.seq += 1
    home.send(Demand("router-1", home.seq, home.status()["epoch"], {"b": QueuedDemand(1, 0.0, 0)}, {instance: 1}))
    home.until(lambda: held() == ["a-00001-rs"])
    assert home.residents() == [("a", "quiescing")], "a request is in flight"
    home.until(lambda: home.ask("b") or ("b", "ready") in home.residents())
    assert not held()


def test_prompts_are_kept_of_models_with_a_claim(home: Home) -> None:
    home.write_workspace({"capacity": {"gpus": 1}, "promptCache": {"storage": "Memory"}})
    home.condition("default", "MemoryOfPods", "PromptCacheKept", WORKSPACES)
    home.write_workspace({"capacity": {"gpus": 1}, "promptCache": {"storage": "Disk"}})
    home.condition("default", "NoModel", "PromptCacheKept", WORKSPACES)
    home.write("a", args=["--slots", "2"], cache={"size": "1Gi"})
    home.write("c")
    home.condition("default", "OnClaims", "PromptCacheKept", WORKSPACES)
    home.write("b", args=["--slots", "2"])
    said = home.condition("default", "NotOfAllModels", "PromptCacheKept", WORKSPACES)
    assert said["message"] == "b: it has no claim for its cache (set cache.size)"

    def variables(model: str) -> set[str]:
        (engine,) = home.kube.objects[SERVICES.path(NS, model)]["spec"]["template"]["spec"]["containers"]
        return {each["name"] for each in engine["env"]}

    home.until(lambda: home.kube.objects.get(SERVICES.path(NS, "b")))
    assert ["HOTSEAT_PROMPTS" in variables(model) for model in "abc"] == [True, False, False]


def test_a_switcher_tells_whether_it_leads_and_how_long_it_reconciles(home: Home) -> None:
    home.write("a")
    home.load("a")
    client = home.app.gateway.test_client()

    def samples() -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}

    home.until(lambda: samples().get(("hotseat_loads_total", "a", "completed")))
    kinds = {"documents", "workspace_status", "model_status"}
    home.until(lambda: all(samples().get(("hotseat_reconcile_duration_seconds_count", kind)) for kind in kinds))
    told = samples()
    assert {key[1] for key in told if key[0] == "hotseat_reconcile_duration_seconds_count"} == kinds
    assert told["hotseat_leader",] == 1
    assert told["hotseat_resident_seconds_total", "a", "default"] > 0
    assert told["hotseat_switching_gpu_seconds_total", "default"] > 0
    home.stop()
    assert samples()["hotseat_leader",] == 0


def test_a_switcher_that_does_not_lead_says_so(home: Home) -> None:
    standby = SwitcherApp(SETTINGS)
    text = standby.gateway.test_client().get("/metrics").text
    assert "hotseat_leader 0.0" in text.splitlines()
    standby.close()
