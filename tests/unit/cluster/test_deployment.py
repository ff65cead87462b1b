"""What is deployed to a cluster: manifests, functions and samples say the same, and ask for no more than they need."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat.cluster.functions import VARIABLES
from hotseat.core.events import event_type
from hotseat.kube.checks import MAX_REQUEST_TIME, Verdict, judge, settings
from hotseat.kube.constants import ADMIN_PORT
from hotseat.manifests.loading import load

ROOT = Path(__file__).parents[3]
KNATIVE = ROOT / "knative"
PARTS = ("router", "switcher")
READ = ["get", "list", "watch"]
WATCH = ["list", "watch"]


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(KNATIVE.rglob("*.yaml")):
        for document in documents(path):
            if "kind" in document and document["kind"] != "Kustomization":
                yield path, document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, document in manifests():
        template = document.get("spec", {}).get("template")
        if template:
            yield f"{path.relative_to(KNATIVE)}", template["spec"]


def service(part: str) -> dict[str, Any]:
    return documents(KNATIVE / "services" / f"{part}.yaml")[0]


def deployment(part: str) -> dict[str, Any]:
    return documents(KNATIVE / "overlays/deployments" / f"{part}.yaml")[0]


def test_there_are_two_pods_of_either_kind():
    assert sorted(name for name, _ in pods()) == [
        "overlays/deployments/router.yaml",
        "overlays/deployments/switcher.yaml",
        "services/router.yaml",
        "services/switcher.yaml",
    ]


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=[name for name, _ in pods()])
def test_containers_give_up_what_they_can(name, pod):
    """They run as the user of the image: OpenShift assigns another one."""
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {"name": mounts["/tmp"], "emptyDir": {}} in pod["volumes"]
        assert {each["name"] for each in container["env"]} <= set(VARIABLES)


def test_nothing_names_a_namespace():
    """Else `kubectl apply -k knative/ -n NAMESPACE` would fail."""
    for path, document in manifests():
        assert "namespace" not in document["metadata"], path
        assert not any("namespace" in subject for subject in document.get("subjects", ())), path
    for path in KNATIVE.rglob("kustomization.yaml"):
        assert "namespace" not in documents(path)[0], path


def test_every_manifest_is_in_a_kustomization():
    named = set()
    for path in KNATIVE.rglob("kustomization.yaml"):
        kustomization = documents(path)[0]
        named |= {(path.parent / each).resolve() for each in kustomization["resources"]}
    for path in KNATIVE.rglob("*.yaml"):
        if path.name != "kustomization.yaml" and path.parent.name != "samples":
            assert path in named, f"{path} is in no kustomization"
    assert all(path.exists() for path in named)


def rules(name: str) -> dict[str, list[str]]:
    """Give what a role may do: verbs by group/resource."""
    role = next(
        each for _, each in manifests() if each["kind"] in ("Role", "ClusterRole") and each["metadata"]["name"] == name
    )
    found: dict[str, list[str]] = {}
    for rule in role["rules"]:
        assert set(rule) - {"resourceNames"} == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                what = "/".join((group, resource, *rule.get("resourceNames", ())))
                assert what not in found
                found[what] = rule["verbs"]
    return found


def test_the_router_reads_workspaces_and_no_more():
    assert rules("hotseat-router") == {"hotseat.dev/workspaces": WATCH}


def test_the_switcher_has_the_rights_that_it_uses():
    assert rules("hotseat-switcher") == {
        "hotseat.dev/models": [*WATCH, "patch"],
        "hotseat.dev/workspaces": WATCH,
        "hotseat.dev/models/status": ["patch"],
        "hotseat.dev/workspaces/status": ["patch"],
        "hotseat.dev/models/finalizers": ["update"],
        "autoscaling.internal.knative.dev/podautoscalers": WATCH,
        "autoscaling.internal.knative.dev/podautoscalers/status": ["patch"],
        "autoscaling.internal.knative.dev/podautoscalers/finalizers": ["update"],
        "serving.knative.dev/services": [*READ, "create", "patch", "delete"],
        "networking.internal.knative.dev/serverlessservices": [*WATCH, "create", "patch"],
        "apps/deployments": [*READ, "patch"],
        "apps/replicasets": ["list", "watch", "patch", "delete"],
        "/pods": [*READ, "patch", "delete"],
        "/pods/log": ["get"],
        "/persistentvolumeclaims": [*READ, "create", "patch"],
        "batch/jobs": [*READ, "create", "patch", "delete"],
        "/events": ["list", "create"],
        "coordination.k8s.io/leases/hotseat-switcher": ["get", "patch"],
        "coordination.k8s.io/leases": ["create"],
    }
    assert rules("hotseat-nodes") == {"/nodes": ["get"]}


def test_no_right_is_a_wildcard_or_a_secret():
    for path, document in manifests():
        for rule in document.get("rules", ()):
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not any("*" in word for word in words), path
            assert "secrets" not in rule["resources"], path


@pytest.mark.parametrize("part", PARTS)
def test_each_account_is_bound_to_its_role(part):
    bindings = [each for _, each in manifests() if each["kind"] == "RoleBinding"]
    binding = next(each for each in bindings if each["metadata"]["name"] == f"hotseat-{part}")
    assert binding["roleRef"]["name"] == f"hotseat-{part}"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": f"hotseat-{part}"}]
    for made in (service(part), deployment(part)):
        assert made["spec"]["template"]["spec"]["serviceAccountName"] == f"hotseat-{part}"


@pytest.mark.parametrize("part", PARTS)
def test_a_deployment_runs_what_the_knative_service_runs(part):
    one, other = (made["spec"]["template"]["spec"] for made in (service(part), deployment(part)))
    for probe in ("readinessProbe", "livenessProbe"):
        other["containers"][0][probe]["httpGet"].pop("port")
    env = other["containers"][0]["env"]
    env[:] = [each for each in env if "valueFrom" not in each]  # Knative allows no fieldRef by default
    assert one["containers"] == other["containers"]
    assert one["volumes"] == other["volumes"]


@pytest.mark.parametrize("part", PARTS)
def test_a_knative_service_stays_and_cuts_no_request(part):
    made = service(part)
    annotations = made["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "autoscaling.knative.dev/min-scale": "1",
        "autoscaling.knative.dev/max-scale": "1",
        "autoscaling.knative.dev/target-burst-capacity": "0",
    }
    pod = made["spec"]["template"]["spec"]
    assert pod["timeoutSeconds"] == pod["responseStartTimeoutSeconds"] == MAX_REQUEST_TIME
    assert pod["containerConcurrency"] == 0
    local = made["metadata"]["labels"].get("networking.knative.dev/visibility") == "cluster-local"
    assert local == (part == "switcher")


@pytest.mark.parametrize("folder", ["services", "overlays/deployments"])
def test_demand_goes_to_the_switcher(folder):
    broker = documents(KNATIVE / "base/broker.yaml")[0]["metadata"]["name"]
    trigger = documents(KNATIVE / folder / "trigger.yaml")[0]["spec"]
    assert trigger["broker"] == broker
    assert trigger["filter"] == {"attributes": {"type": event_type("demand.reported")}}
    direct = documents(KNATIVE / "base/direct.yaml")[0]
    refs = {
        "services": ("serving.knative.dev/v1", "hotseat-switcher"),
        "overlays/deployments": ("v1", direct["metadata"]["name"]),
    }
    ref = trigger["subscriber"]["ref"]
    assert (ref["apiVersion"], ref["name"]) == refs[folder]
    for part in PARTS:
        env = {
            each["name"]: each["value"] for each in service(part)["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        assert env["HOTSEAT_BROKER_URL"].endswith(f"/{{namespace}}/{broker}")
    labels = service("switcher")["spec"]["template"]["metadata"]["labels"]
    assert direct["spec"]["selector"].items() <= labels.items()


def test_admin_routes_have_a_service_inside_the_cluster():
    """A Knative Service has one port, so it goes to the pods of the router, however they are run."""
    service_ = documents(KNATIVE / "base/admin.yaml")[0]
    [port] = service_["spec"]["ports"]
    assert service_["spec"]["type"] == "ClusterIP"
    for made in (service("router"), deployment("router")):
        assert service_["spec"]["selector"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
        [container] = made["spec"]["template"]["spec"]["containers"]
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["HOTSEAT_ADMIN_PORT"] == str(port["targetPort"]) == str(ADMIN_PORT)
        assert ADMIN_PORT not in [each["containerPort"] for each in container["ports"]], "the public one"
    exposed = documents(KNATIVE / "overlays/deployments/router.yaml")[1]
    assert [each["targetPort"] for each in exposed["spec"]["ports"]] == [8080]


def test_the_overlay_without_gpus_patches_what_it_means():
    kustomization = documents(KNATIVE / "overlays/cpu/kustomization.yaml")[0]
    operations = yaml.safe_load(kustomization["patches"][0]["patch"])
    env = service("switcher")["spec"]["template"]["spec"]["containers"][0]["env"]
    for operation in operations:
        index, field = re.search(r"/env/(\d+)/(\w+)$", operation["path"]).groups()
        if operation["op"] == "test":
            assert env[int(index)][field] == operation["value"]
    assert [operation["value"] for operation in operations if operation["op"] == "replace"] == [""]


def rendered(folder: Path) -> list[dict[str, Any]]:
    """Render a kustomization, as `kubectl apply -k` does."""
    kubectl = shutil.which(os.environ.get("KUBECTL", "kubectl"))
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.mark.parametrize("base", ["knative", "knative/overlays/cpu", "knative/overlays/deployments"])
def test_an_image_that_is_set_from_outside_is_the_only_one(base, tmp_path):
    """As Argo CD, Flux and remote bases do: `images:` in a kustomization around ours."""
    shutil.copytree(KNATIVE, tmp_path / "knative")
    (tmp_path / "outer").mkdir()
    images = [{"name": "dev.local/hotseat", "newName": "registry.example.com/hotseat", "newTag": "1.0"}]
    outer = {"resources": [f"../{base}"], "images": images}
    (tmp_path / "outer/kustomization.yaml").write_text(yaml.safe_dump(outer))
    made = rendered(tmp_path / "outer")
    specs = [each["spec"]["template"]["spec"] for each in made if "template" in each.get("spec", {})]
    assert [container["image"] for pod in specs for container in pod["containers"]] == [
        "registry.example.com/hotseat:1.0"
    ] * 2
    assert "dev.local" not in yaml.safe_dump(made)


@pytest.mark.parametrize("part", PARTS)
def test_a_function_is_the_knative_service_in_other_words(part):
    folder = ROOT / "functions" / part
    function = documents(folder / "func.yaml")[0]
    made = service(part)
    container = made["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert function["name"] == function["deploy"]["serviceAccountName"] == made["metadata"]["name"]
    assert {each["key"]: each["value"] for each in function["deploy"]["labels"]} == made["metadata"]["labels"]
    assert function["run"]["envs"][0] == {"value": "{{ configMap:hotseat-settings }}"}
    assert container["envFrom"] == [{"configMapRef": {"name": "hotseat-settings", "optional": True}}]
    for each in function["run"]["envs"][1:]:
        assert each["name"] == "HOTSEAT_IMAGE" or each["value"] == env[each["name"]]
    assert function["deploy"]["healthEndpoints"]["readiness"] == container["readinessProbe"]["httpGet"]["path"]
    assert (folder / "Procfile").read_text() == "web: python app.py\n"
    assert (folder / "requirements.txt").read_text() == "hotseat\n"
    assert container["command"] == ["python", f"/app/{part}/app.py"]
    assert f"from hotseat.cluster.{part}.app import main" in (folder / "app.py").read_text()


@pytest.mark.parametrize("path", sorted((KNATIVE / "samples").glob("*.yaml")), ids=lambda path: path.stem)
def test_samples_are_documents(path):
    if path.stem == "networkpolicy":
        return
    assert load([path]).models


def test_the_policy_lets_our_own_parts_reach_models_and_nobody_else():
    policy = documents(KNATIVE / "samples/networkpolicy.yaml")[0]["spec"]
    [rule] = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"] == {"matchExpressions": [{"key": "hotseat.dev/model", "operator": "Exists"}]}
    assert rule["ports"] == [{"protocol": "TCP", "port": 8012}]
    allowed = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
    assert allowed == [service(part)["spec"]["template"]["metadata"]["labels"] for part in PARTS]


def test_the_policy_lets_only_the_namespace_reach_admin_routes():
    policy = documents(KNATIVE / "samples/networkpolicy.yaml")[1]["spec"]
    labels = service("router")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"] == {"matchLabels": labels}
    anybody, namespace = policy["ingress"]
    open_ports = {p for each in anybody["ports"] for p in range(each["port"], each["endPort"] + 1)}
    assert set(range(1, 65536)) - open_ports == {ADMIN_PORT}
    assert "from" not in anybody
    assert namespace == {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": ADMIN_PORT}]}


def test_the_cluster_of_the_tests_has_what_the_doctor_asks_for():
    given = {each["metadata"]["name"]: each for each in documents(ROOT / "scripts/cluster/knative-settings.yaml")}
    for setting in settings([]):
        config = given.get(setting.config, {"metadata": {"name": setting.config}})
        assert judge(setting, config).verdict is Verdict.OK, setting.key


def test_the_image_gets_every_file_that_it_copies():
    """An ignored file would be missing only in a build, which takes a minute."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignore if line.startswith("!")]
    text = (ROOT / "Containerfile").read_text()
    copied = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(source == each or source.startswith(f"{each}/") for each in kept), source
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["65532:65532"]


def test_the_policy_of_models_names_a_parameter_that_each_namespace_has_for_itself():
    policy, binding = documents(KNATIVE / "policy/policy.yaml")
    spec = policy["spec"]
    assert spec["paramKind"] == {"apiVersion": "v1", "kind": "ConfigMap"}
    assert spec["matchConstraints"]["resourceRules"][0]["resources"] == ["models"]
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert set(binding["spec"]["paramRef"]) == {"name", "parameterNotFoundAction"}
    known = {each["name"] for each in spec["variables"]}
    for each in (*spec["variables"], *spec["validations"]):
        assert set(re.findall(r"variables\.(\w+)", each["expression"])) <= known
