"""charts/hotseat renders what the kustomizations render, and rejects values that it does not know."""

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat import __version__
from hotseat.api.workspace import ClusterRuntime
from hotseat.kube.checks import KUBERNETES_FROM
from hotseat.manifests.loading import load
from tests.helm import CHART, helm, tool

ROOT = CHART.parents[1]
OF_HELM = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "managed-by")}
OF_HELM |= {"helm.sh/chart", "checksum/settings", "checksum/keys"}
MADE_BY_CHART_ONLY = {"Secret/hotseat-demand", "Workspace/default"}

Objects = dict[str, Any]


def render(values: Any = None) -> Objects:
    """Return what the chart makes of values, by kind and name."""
    return named(rendered(json.dumps(values or {})))


@functools.cache
def rendered(values: str) -> str:
    done = helm("template", "test", str(CHART), "-n", "ns", "-f", "-", given=values)
    assert "warning" not in done.stderr.lower(), done.stderr
    return done.stdout


def refused(values: Any) -> str:
    done = helm("template", "test", str(CHART), "-f", "-", given=yaml.safe_dump(values), check=False)
    assert done.returncode != 0
    return done.stderr


def named(text: str) -> Objects:
    objects = [each for each in yaml.safe_load_all(text) if each]
    found = {f"{each['kind']}/{each['metadata']['name']}": each for each in objects}
    assert len(found) == len(objects), "two objects with one name"
    return found


def kustomize(folder: Path) -> Objects:
    command = [tool("kubectl", "KUBECTL"), "kustomize", str(folder)]
    return named(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def without_helm(made: Objects) -> Objects:
    """Leave out what only Helm needs: its labels, and the checksums that restart pods."""
    for each in made.values():
        template = each.get("spec", {}).get("template", {})
        for metadata in filter(None, (each["metadata"], template.get("metadata"))):
            for field in ("labels", "annotations"):
                left = {key: value for key, value in metadata.pop(field, {}).items() if key not in OF_HELM}
                if left:
                    metadata[field] = left
    return made


def plain(made: Objects) -> Objects:
    """Leave labels of hotseat itself out as well where the chart adds them: on objects that no selector looks for."""
    for name, each in made.items():
        if name.split("/")[0] in ("Role", "RoleBinding", "NetworkPolicy"):
            each["metadata"].pop("labels", None)
    return made


KNATIVE = {"runtime": "Knative", "services": "Knative", "broker": {"enabled": True}}
# A kustomization, and the values for the same. `image.tag` is that of the kustomization.
VARIANTS: dict[str, dict[str, Any]] = {
    "knative": KNATIVE | {"image": {"tag": "dev"}},
    "knative/overlays/cpu": KNATIVE | {"image": {"tag": "demo"}, "gpuResource": ""},
    "knative/overlays/deployments": {"runtime": "Knative", "broker": {"enabled": True}, "image": {"tag": "dev"}},
    "deployment": {"runtime": "Deployment", "image": {"tag": "dev"}},
    "keda": {"runtime": "KEDA", "image": {"tag": "dev"}},
}


@pytest.mark.parametrize("folder", VARIANTS)
def test_the_chart_makes_what_the_kustomization_makes(folder: str) -> None:
    made = render(VARIANTS[folder])
    assert made.keys() >= MADE_BY_CHART_ONLY
    assert made["Workspace/default"]["spec"]["runtime"] == VARIANTS[folder]["runtime"]
    mine = {name: each for name, each in made.items() if name not in MADE_BY_CHART_ONLY}
    assert plain(without_helm(mine)) == plain(kustomize(ROOT / folder))


def test_each_runtime_has_its_rights_and_auto_all_of_them() -> None:
    """A runtime that is new needs a line in `hotseat.roles` of _helpers.tpl, and in VARIANTS."""
    rules: dict[str, list[str]] = {}
    for runtime in ClusterRuntime:
        roles = [each for name, each in render({"runtime": runtime.value}).items() if name.startswith("Role/")]
        rules[runtime] = [json.dumps(rule, sort_keys=True) for role in roles for rule in role["rules"]]
        assert len(roles) > 1
    for runtime in set(ClusterRuntime) - {ClusterRuntime.AUTO}:
        assert set(rules[runtime]) <= set(rules[ClusterRuntime.AUTO])
        assert runtime in [variant["runtime"] for variant in VARIANTS.values()]


def test_policies_are_those_of_the_samples() -> None:
    made = render({"networkPolicy": {"enabled": True}})
    files = [ROOT / folder / "samples/networkpolicy.yaml" for folder in ("knative", "deployment")]
    samples = named("\n---\n".join(file.read_text() for file in files))
    mine = {name: each for name, each in made.items() if name.startswith("NetworkPolicy/")}
    assert plain(mine) == plain(samples)


def test_the_route_and_the_rights_on_nodes_are_those_of_the_kustomizations() -> None:
    gateway = {"parentRefs": [{"name": "gateway"}]}
    made = without_helm(render({"httpRoute": {"enabled": True} | gateway, "readNodes": True}))
    assert made["HTTPRoute/hotseat-router"] == kustomize(ROOT / "knative/httproute")["HTTPRoute/hotseat-router"]
    [role] = kustomize(ROOT / "knative/nodes").values()
    assert made["ClusterRole/hotseat-nodes-ns"]["rules"] == role["rules"]
    [subject] = made["ClusterRoleBinding/hotseat-nodes-ns"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "hotseat-switcher", "namespace": "ns"}


def test_what_is_copied_is_not_stale() -> None:
    command = [sys.executable, ROOT / "scripts/gen-chart", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_versions_are_those_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(-(dev|a|b|rc)\.\d+)?", chart["version"])
    assert re.sub("[-.]", "", chart["version"]) == re.sub("[-.]", "", __version__), "the same in SemVer's form"
    assert chart["kubeVersion"] == ">=" + ".".join(map(str, KUBERNETES_FROM)) + ".0-0"


# Values ---------------------------------------------------------------------------------------------------------------


def test_every_value_has_a_description_and_no_other_is_accepted() -> None:
    """scripts/gen-docs makes the table of README.md from them, and a test of it finds a stale one."""

    def check(path: str, default: Any, described: dict[str, Any]) -> None:
        assert described.get("description"), f"{path} has no description in values.schema.json"
        assert described["description"].endswith(".")
        if "properties" in described:
            assert described["additionalProperties"] is False, path
            unknown = set(default or {}) - set(described["properties"])
            assert not unknown, f"{path} has {sorted(unknown)}, which values.schema.json does not have"
            for name, property_ in described["properties"].items():
                check(f"{path}.{name}", (default or {}).get(name), property_)

    schema = json.loads((CHART / "values.schema.json").read_text())
    check("values", yaml.safe_load((CHART / "values.yaml").read_text()), schema | {"description": "All."})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"runtime": "Docker"}, "runtime Auto Knative"),
        ({"models": {"a": {"engine": "mock", "cach": {}}}}, "models a cach"),
        ({"models": {"a": {"engine": "mock", "resources": {"gpus": "1"}}}}, "models a resources gpus integer"),
        ({"models": {"a": {}}}, "models a engine"),
        ({"models": {"A": {"engine": "mock"}}}, "'A'"),
        ({"models": [{"engine": "mock"}]}, "models 0 name"),
        ({"models": [{"name": "a", "engine": "mock", "args": "x"}]}, "models 0 args array"),
        ({"workspace": {"capacity": {"gpu": 1}}}, "workspace capacity gpu"),
        ({"workspace": {"runtime": "Auto"}}, "workspace runtime"),
        ({"settings": {"HOTSEAT_STORAGECLASS": "x"}}, "settings HOTSEAT_STORAGECLASS"),
        ({"settings": {"OTEL_lower": "x"}}, "settings OTEL_lower"),
        ({"settings": {"HOTSEAT_IMAGE_PULL_SECRETS": "x"}}, "settings HOTSEAT_IMAGE_PULL_SECRETS"),
        ({"image": {"pullSecrets": "registry"}}, "image pullSecrets array"),
        ({"keys": {"values": ["two words"]}}, "keys values 0"),
        ({"keys": {"values": ["a"], "existingSecret": "b"}}, "keys existingSecret values not both"),
        (
            {"monitoring": {"serviceMonitor": {"bearerTokenSecret": {"name": "a"}}}},
            "monitoring serviceMonitor bearerTokenSecret key",
        ),
        ({"httpRoute": {"enabled": True}}, "httpRoute parentRefs is empty"),
        (
            {"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}, "services": "Knative"},
            "httpRoute enabled needs services Deployment",
        ),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_path(values: Any, words: str) -> None:
    """The words are in the message, in this order. How Helm writes a path has changed."""
    message = refused(values)
    assert re.search(r"\b.*\b".join(words.split()), message, re.DOTALL), message


ALL = {
    "image": {"repository": "registry.example.com/hotseat", "tag": "1.0", "pullSecrets": ["a", "b"]},
    "keys": {"values": ["one", "two"]},
    "readNodes": True,
    "networkPolicy": {"enabled": True},
    "monitoring": {
        "labels": {"release": "prometheus"},
        "serviceMonitor": {"enabled": True, "bearerTokenSecret": {"name": "a", "key": "b"}},
        "rules": {"enabled": True, "runbookBase": "https://example.com/"},
        "dashboards": {"enabled": True},
    },
    "models": {"a": {"engine": "mock"}},
}


@pytest.mark.parametrize(
    "values",
    [{}, ALL, ALL | KNATIVE, *VARIANTS.values(), {"workspace": None}],
    ids=lambda values: ",".join(values) or "defaults",
)
def test_lint_finds_nothing(values: Any) -> None:
    helm("lint", "--strict", str(CHART), "-f", "-", given=yaml.safe_dump(values))


@pytest.mark.parametrize("more", [{}, KNATIVE], ids=["Deployment", "Knative"])
def test_the_image_is_set_in_one_place(more: Any) -> None:
    made = render(ALL | more)
    images = re.findall(r'"image": "([^"]*)"', json.dumps(made))
    assert images == ["registry.example.com/hotseat:1.0"] * 2
    assert "dev.local" not in json.dumps(made)
    assert made["ConfigMap/hotseat-settings"]["data"]["HOTSEAT_IMAGE_PULL_SECRETS"] == "a,b"
    for component in ("router", "switcher"):
        account = made[f"ServiceAccount/hotseat-{component}"]
        assert account["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_the_image_is_that_of_the_version_by_default() -> None:
    pod = render()["Deployment/hotseat-router"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"dev.local/hotseat:{__version__}"


# Models and the Workspace ---------------------------------------------------------------------------------------------

MODELS = {
    "qwen3-8b": {
        "engine": "vllm",
        "source": "hf://Qwen/Qwen3-8B",
        "cache": {"size": "40Gi"},
        "resources": {"gpus": 1, "memory": "16Gi"},
        "args": ["--max-model-len", "16384"],
        "annotations": {"hotseat.dev/pinned": "true"},
    },
    "embed": {"engine": "mock", "names": ["text-embedding-3-small"], "labels": {"team": "search"}},
}


@pytest.mark.parametrize(
    "models", [MODELS, [{"name": name, **model} for name, model in MODELS.items()]], ids=["mapping", "list"]
)
def test_models_are_documents(models: Any, tmp_path: Path) -> None:
    made = render(
        {"models": models, "workspace": {"policy": {"maxWait": "1m"}, "queue": {"maxWaitingBytes": 2_000_000_000}}}
    )
    for name, model in MODELS.items():
        document = made[f"Model/{name}"]
        metadata = document["metadata"]
        assert document["spec"] == {key: model[key] for key in model if key not in ("labels", "annotations")}
        assert metadata.get("annotations", {}) == model.get("annotations", {})
        assert metadata["labels"].items() >= model.get("labels", {}).items()
    workspace = made["Workspace/default"]
    assert workspace["spec"] == {
        "runtime": "Auto",
        "capacity": {"gpus": 1},
        "policy": {"maxWait": "1m"},
        "queue": {"maxWaitingBytes": 2_000_000_000},
    }
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump_all([workspace, *(made[f"Model/{name}"] for name in MODELS)]))
    assert {model.name for model in load([file]).models} == set(MODELS)


def test_a_model_and_the_workspace_can_be_taken_out() -> None:
    made = render({"models": {"a": {"engine": "mock"}, "b": None}, "workspace": None})
    assert [name for name in made if name.split("/")[0] in ("Model", "Workspace")] == ["Model/a"]


def test_the_values_of_the_readme_are_accepted() -> None:
    [text] = re.findall(r"```yaml\n(# values.yaml\n.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    assert sum(name.startswith("Model/") for name in render(yaml.safe_load(text))) == 2


# Keys -----------------------------------------------------------------------------------------------------------------


def volume(made: Objects, component: str, name: str) -> dict[str, Any]:
    pod = made[f"Deployment/hotseat-{component}"]["spec"]["template"]["spec"]
    return next(each["secret"] for each in pod["volumes"] if each["name"] == name)


def test_the_demand_key_is_made_or_somebody_elses() -> None:
    made = render()
    assert len(made["Secret/hotseat-demand"]["data"]["key"]) > 64
    other = render({"demandKey": {"existingSecret": "mine"}})
    assert "Secret/hotseat-demand" not in other
    for component in ("router", "switcher"):
        assert volume(made, component, "demand") == {"secretName": "hotseat-demand"}
        assert volume(other, component, "demand") == {"secretName": "mine"}


def test_client_keys_are_made_or_somebody_elses_and_must_be_there_then() -> None:
    assert volume(render(), "router", "keys") == {"secretName": "hotseat-api-keys", "optional": True}
    made = render({"keys": {"values": ["one", "two"]}})
    assert made["Secret/hotseat-api-keys"]["stringData"] == {"keys": "one\ntwo"}
    assert volume(made, "router", "keys") == {"secretName": "hotseat-api-keys"}
    assert volume(render({"keys": {"existingSecret": "mine"}}), "router", "keys") == {"secretName": "mine"}


def test_secrets_of_upstreams_are_mounted_where_they_are_looked_for() -> None:
    made = render({"upstreamSecrets": ["openai", "team.keys"]})
    for component in ("router", "switcher"):
        pod = made[f"Deployment/hotseat-{component}"]["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert {"name": "HOTSEAT_SECRETS_DIR", "value": "/etc/hotseat/secrets"} in container["env"]
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        name = mounts["/etc/hotseat/secrets/team.keys"]
        assert volume(made, component, name) == {"secretName": "team.keys", "optional": True}


def test_pods_are_replaced_when_what_they_read_at_the_start_changes() -> None:
    def template(values: Any, component: str) -> Any:
        return render(values)[f"Deployment/hotseat-{component}"]["spec"]["template"]["metadata"]

    for component in ("router", "switcher"):
        assert template({}, component) == template({"models": MODELS}, component)
        assert template({}, component) != template({"settings": {"HOTSEAT_CACHE_SIZE": "1Gi"}}, component)
    assert template({}, "router") != template({"keys": {"values": ["one"]}}, "router")
    assert template({}, "switcher") == template({"keys": {"values": ["one"]}}, "switcher")


# The rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("component", "name"), [("router", "router-admin"), ("switcher", "switcher-direct")])
def test_prometheus_is_led_to_what_has_metrics(component: str, name: str) -> None:
    made = render(ALL)
    monitor = made[f"ServiceMonitor/hotseat-{component}"]
    service = made[f"Service/hotseat-{name}"]
    [endpoint] = monitor["spec"]["endpoints"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_prometheus_shows_the_router_a_key() -> None:
    made = render(ALL)
    [router], [switcher] = (
        made[f"ServiceMonitor/hotseat-{name}"]["spec"]["endpoints"] for name in ("router", "switcher")
    )
    assert router["authorization"] == {"credentials": {"name": "a", "key": "b"}}
    assert "authorization" not in switcher, "which has its own key for messages, and none for metrics"


MONITORING = {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboards")}


def test_monitoring_is_that_of_the_kustomization() -> None:
    before = render().keys()
    made = {name: each for name, each in render({"monitoring": MONITORING}).items() if name not in before}
    assert len(made) == 4
    assert without_helm(made) == without_helm(kustomize(ROOT / "monitoring"))


def test_each_part_of_monitoring_can_be_had_alone() -> None:
    kinds = {"serviceMonitor": "ServiceMonitor", "rules": "PrometheusRule", "dashboards": "ConfigMap"}
    before = render().keys()
    for part, kind in kinds.items():
        more = render({"monitoring": {part: {"enabled": True}}}).keys() - before
        assert {name.partition("/")[0] for name in more} == {kind}


def test_the_values_of_the_documentation_are_accepted() -> None:
    [text] = re.findall(r"```yaml\n(# values.yaml\n.*?)```", (ROOT / "docs/monitoring.md").read_text(), re.DOTALL)
    assert "PrometheusRule/hotseat" in render(yaml.safe_load(text))


def test_runbooks_are_where_the_values_say() -> None:
    made = render(ALL)["PrometheusRule/hotseat"]
    assert made["metadata"]["labels"]["release"] == "prometheus"
    for alert in made["spec"]["groups"][0]["rules"]:
        assert alert["annotations"]["runbook_url"] == f"https://example.com/docs/runbooks/{alert['alert']}.md"


def test_pods_and_service_of_the_router_can_be_adapted() -> None:
    pod = {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}}}
    service = {"type": "LoadBalancer", "annotations": {"a": "b"}}
    made = render({"router": {**pod, "service": service}, "switcher": {"resources": {"limits": {"cpu": 1}}}})
    spec = made["Deployment/hotseat-router"]["spec"]["template"]["spec"]
    lost = yaml.safe_load((CHART / "values.yaml").read_text())["lostNodeTolerations"]
    assert spec.items() >= {**pod, "tolerations": [*pod["tolerations"], *lost]}.items()
    assert made["Service/hotseat-router"]["spec"]["type"] == "LoadBalancer"
    assert made["Service/hotseat-router"]["metadata"]["annotations"] == {"a": "b"}
    container = made["Deployment/hotseat-switcher"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": 1, "memory": "1Gi"}


def test_what_is_packaged_is_the_chart_with_its_crds(tmp_path: Path) -> None:
    helm("package", str(CHART), "--destination", str(tmp_path))
    [archive] = tmp_path.glob("hotseat-*.tgz")
    shutil.unpack_archive(archive, tmp_path)
    files = {str(path.relative_to(tmp_path / "hotseat")) for path in tmp_path.rglob("hotseat/**/*") if path.is_file()}
    assert files == {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()} | files & {
        ".helmignore"
    }
    assert {"crds/models.yaml", "crds/workspaces.yaml", "values.schema.json", "README.md"} <= files
