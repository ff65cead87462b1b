"""deployment/: hotseat without Knative asks for no right on Knative's objects, and for all that it uses."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOYMENT = Path(__file__).parents[3] / "deployment"
READ = ["get", "list", "watch"]
OF_DEPLOYMENTS = {
    "apps/deployments": [*READ, "create", "patch", "delete"],
    "apps/replicasets": ["list"],
    "autoscaling/horizontalpodautoscalers": ["list"],
    "/services": [*READ, "create", "patch", "delete"],
}


def rules(role: dict[str, Any]) -> dict[str, list[str]]:
    return {
        "/".join((group, resource, *rule.get("resourceNames", []))): rule["verbs"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def read(path: Path) -> dict[str, Any]:
    roles = [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "Role"]
    return next(each for each in roles if "router" not in each["metadata"]["name"])


# What the switcher may do where it has Knative, but for Knative's objects and those behind a Knative Service.
WITH_KNATIVE = rules(read(DEPLOYMENT.parent / "knative/base/roles.yaml"))
BASE = {name: verbs for name, verbs in WITH_KNATIVE.items() if "knative" not in name and not name.startswith("apps/")}


def test_the_switcher_has_the_rights_that_it_uses_and_none_on_knative() -> None:
    assert rules(read(DEPLOYMENT / "switcher-role.yaml")) == BASE
    assert rules(read(DEPLOYMENT / "role/role.yaml")) == OF_DEPLOYMENTS


ROLES = [
    path
    for folder in ("knative", "deployment", "keda")
    for path in sorted((DEPLOYMENT.parent / folder).rglob("*role*.yaml"))
]


@pytest.mark.parametrize("path", ROLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_rule_says_what_it_is_for(path: Path) -> None:
    """But for the first rule of a Role, which may be all that the Role is about."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if "- apiGroups:" in line and "rules:" not in lines[number - 1]:
            block = [lines[number - 1], *lines[number : number + 3]]
            assert any("#" in each for each in block), f"{path.name}:{number + 1} has no comment"


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    text = subprocess.run([kubectl, "kustomize", str(DEPLOYMENT)], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def test_what_is_applied_has_no_object_of_knative(rendered: list[dict[str, Any]]) -> None:
    kinds = sorted(f"{each['kind']}/{each['metadata']['name']}" for each in rendered)
    assert kinds == [
        "ConfigMap/hotseat-settings",
        "Deployment/hotseat-router",
        "Deployment/hotseat-switcher",
        "PodDisruptionBudget/hotseat-router",
        "PodDisruptionBudget/hotseat-switcher",
        "Role/hotseat-router",
        "Role/hotseat-switcher",
        "Role/hotseat-switcher-deployments",
        "RoleBinding/hotseat-router",
        "RoleBinding/hotseat-switcher",
        "RoleBinding/hotseat-switcher-deployments",
        "Service/hotseat-router",
        "Service/hotseat-router-admin",
        "Service/hotseat-switcher-direct",
        "ServiceAccount/hotseat-router",
        "ServiceAccount/hotseat-switcher",
    ]
    assert "knative" not in yaml.safe_dump(rendered)
    roles = {each["metadata"]["name"]: rules(each) for each in rendered if each["kind"] == "Role"}
    assert roles["hotseat-switcher"] == BASE
    assert roles["hotseat-switcher-deployments"] == OF_DEPLOYMENTS
    assert all("namespace" not in each["metadata"] for each in rendered)


def test_demand_goes_to_the_switcher_directly(rendered: list[dict[str, Any]]) -> None:
    for name in ("hotseat-router", "hotseat-switcher"):
        [made] = [each for each in rendered if each["kind"] == "Deployment" and each["metadata"]["name"] == name]
        container = made["spec"]["template"]["spec"]["containers"][0]
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert env["HOTSEAT_BROKER_URL"] == ""
        assert env.get("HOTSEAT_SWITCHER_URL", "http://hotseat-switcher-direct") == "http://hotseat-switcher-direct"
    [switcher] = [each for each in rendered if each["metadata"]["name"] == "hotseat-switcher-direct"]
    assert switcher["spec"]["ports"][0]["targetPort"] == 8080


def test_the_policy_lets_our_own_parts_reach_engines_and_nobody_else() -> None:
    policy, knative = (
        next(yaml.safe_load_all((DEPLOYMENT.parent / folder / "samples/networkpolicy.yaml").read_text()))["spec"]
        for folder in ("deployment", "knative")
    )
    [rule] = policy["ingress"]
    assert policy["podSelector"] == {"matchExpressions": [{"key": "hotseat.dev/deployment", "operator": "Exists"}]}
    assert rule == {"from": knative["ingress"][0]["from"]}, "at any port: it is the engine's own"
