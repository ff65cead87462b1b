"""`hotseat doctor`: a cluster where all is well, one thing after another that is not, and what it may change."""

import json
import shlex

import pytest
from click.testing import CliRunner

from hotseat.cli.main import main
from tests.unit.cli.fake_cluster import (
    CRD,
    DEPLOYMENT,
    EVENTING,
    FORBIDDEN,
    KEYS,
    KSVC,
    REVIEWS,
    SECRET,
    SERVING,
    condition,
    config,
    copied,
    crd,
    deployment,
    good_cluster,
    items,
    ksvc,
    kubeconfig,
    model,
    node,
    refusal,
    switcher,
    trigger,
    workspace,
)


def findings(result):
    """Findings by subject."""
    return {each["subject"]: each for each in json.loads(result.stdout)["findings"]}


def without(result, verdict="ok"):
    return {name: each["verdict"] for name, each in findings(result).items() if each["verdict"] != verdict}


def test_where_all_is_well_it_says_so_and_ends_with_0(api, doctor):
    result = doctor()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-2])
    assert lines[-1] == f"{len(lines) - 2} ok"
    assert any("v1.35.4" in line for line in lines)
    assert any("Knative Serving" in line and "1.23.0" in line for line in lines)
    assert api.last.headers["Authorization"] == "Bearer of-ada"
    changing = {request.path for request in api.requests if request.method != "GET"}
    assert changing == {REVIEWS}, "a look changes nothing"


def not_ready(body, kind, message):
    return {**body, **condition(kind, "False", message=message)}


def old_schema():
    found = copied(crd("Model"))
    del found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["engine"]
    return found


def with_feature(name, value):
    found = copied(good_cluster()[f"GET {SERVING}/config-features"])
    found["data"] |= {f"kubernetes.podspec-{name}": value}
    return found


MODELS = "/apis/hotseat.dev/v1alpha1/models"
WORKSPACES = "/apis/hotseat.dev/v1alpha1/workspaces"
CONTROLLER = "/apis/apps/v1/namespaces/knative-serving/deployments/controller"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
# What the API server says instead; which finding is wrong then; what it says; what is to be done.
ILLS = [
    ("/version", {"gitVersion": "v1.28.9"}, "Kubernetes", "v1.28.9", "1.29"),
    (f"{CRD}/services.serving.knative.dev", None, "Knative Serving", "services.serving", "install Knative Serving"),
    (f"{CRD}/triggers.eventing.knative.dev", None, "Knative Eventing", "triggers.eventing", "install Knative Eventing"),
    (CONTROLLER, not_ready(deployment("controller", "knative-serving", "1.23.0"), "Available", ""),
     "Knative Serving", "not available", "kubectl -n knative-serving describe deployment controller"),
    (f"{SERVING}/config-features", config("config-features"),
     "config-features kubernetes.podspec-tolerations", "disabled (default)", "patch configmap config-features"),
    (f"{SERVING}/config-features", with_feature("persistent-volume-write", "disabled"),
     "config-features kubernetes.podspec-persistent-volume-write", "disabled", "patch configmap config-features"),
    (f"{SERVING}/config-autoscaler", config("config-autoscaler"),
     "config-autoscaler allow-zero-initial-scale", "false (default)", '"allow-zero-initial-scale": "true"'),
    (f"{SERVING}/config-defaults", config("config-defaults"),
     "config-defaults max-revision-timeout-seconds", "600 (default)", "7200"),
    (f"{SERVING}/config-deployment", config("config-deployment"),
     "config-deployment pod-is-always-schedulable", "false (default)", "true"),
    (f"{SERVING}/config-deployment", config("config-deployment", **{"progress-deadline": "2m"}),
     "config-deployment progress-deadline", "2m", "600s"),
    (f"{SERVING}/config-deployment", config("config-deployment", **{"progress-deadline": "soon"}),
     "config-deployment progress-deadline", "soon (unreadable)", "600s"),
    (MODELS, items(model(image="registry.local/vllm:1")),
     "config-deployment registries-skipping-tag-resolving", "kind.local", "registry.local"),
    (f"{KSVC}/hotseat-router", ksvc("hotseat-router", image="localhost:5001/hotseat:dev"),
     "config-deployment registries-skipping-tag-resolving", "kind.local", "localhost:5001"),
    (f"{CRD}/models.hotseat.dev", None, "CRD models.hotseat.dev", "missing", "kubectl apply --server-side -f crds/"),
    (f"{CRD}/models.hotseat.dev", old_schema(), "CRD models.hotseat.dev", "another version", "-f crds/"),
    (f"{CRD}/workspaces.hotseat.dev", not_ready(crd("Workspace"), "Established", ""),
     "CRD workspaces.hotseat.dev", "not established", "kubectl describe crd"),
    (CLASSES, items(), "storage class", "none", "provisioner"),
    (MODELS, items(model(cache={"storageClass": "slow"})), "storage class", "slow", "fast"),
    ("/api/v1/nodes", items(), "GPUs", "0 nvidia.com/gpu", "device plugin"),
    ("/api/v1/nodes", items(node(unschedulable=True)), "GPUs", "on 0 of 1 nodes", "device plugin"),
    ("/api/v1/nodes", items(node(resource="amd.com/gpu")), "GPUs", "amd.com/gpu", "HOTSEAT_GPU_RESOURCE=amd.com/gpu"),
    (WORKSPACES, items(workspace(gpus=2), workspace(gpus=1)), "GPUs", "share out 3", "capacity.gpus"),
    (MODELS, items(model(resources={"gpus": 4})), "GPUs", "a Model takes 4", "kubectl get nodes"),
    (f"{EVENTING}/brokers", items(), "Broker", "none in namespace models", "kubectl apply"),
    (f"{EVENTING}/brokers", items({"metadata": {"name": "b"}, **condition("Ready", "False", message="no channel")}),
     "Broker", "b is not ready: no channel", "kubectl -n models describe broker b"),
    (f"{EVENTING}/triggers", items({**trigger(), "spec": {"broker": "default"}}), "Trigger", "none", "kubectl apply"),
    (f"{KSVC}/hotseat-router", None, "router", "not in namespace models", "kubectl apply -k knative/ -n models"),
    (f"{KSVC}/hotseat-router", not_ready(ksvc("hotseat-router"), "Ready", "no image"),
     "router", "no image", "kubectl -n models describe ksvc hotseat-router"),
    (f"{DEPLOYMENT}/hotseat-switcher", not_ready(switcher(), "Available", "0 of 1"),
     "switcher", "0 of 1", "kubectl -n models get pods -l app=switcher"),
    (f"{KSVC}/hotseat-router", ksvc("hotseat-router", HOTSEAT_DEMAND_KEY_FILE="/elsewhere/key"),
     "demand key", "the router mounts none", "HOTSEAT_DEMAND_KEY_FILE"),
    (SECRET, None, "demand key", "no Secret demand", "create secret generic demand"),
    (SECRET, {"metadata": {"name": "demand"}, "data": {}}, "demand key", "is empty", "create secret generic demand"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "answer", "subject", "seen", "remedy"), ILLS, ids=lambda each: str(each)[:40])
def test_one_thing_that_is_wrong(api, doctor, path, answer, subject, seen, remedy):  # noqa: PLR0917
    api.answers[f"GET {path}"] = answer
    result = doctor("-o", "json")
    listed = [each for each in json.loads(result.stdout)["findings"] if each["subject"] == subject]
    ill = next(each for each in listed if each["verdict"] == "wrong")
    assert result.exit_code == 1
    assert seen in ill["seen"]
    assert remedy in ill["remedy"]
    assert ill["why"]
    text = doctor().stdout
    assert f"do:  {ill['remedy']}" in text
    assert f"for: {ill['why']}" in text
    assert "WRONG" in text


def test_advice_does_not_make_it_fail(api, doctor):
    api.answers[f"GET {SERVING}/config-kourier"] = config("config-kourier", **{"stream-idle-timeout": "30s"})
    api.answers[f"GET {SERVING}/config-features"] = with_feature("securitycontext", "disabled")
    api.answers[f"GET {CLASSES}"] = items({"metadata": {"name": "fast"}})
    api.answers[f"GET {CONTROLLER}"] = deployment("controller", "knative-serving", "1.12.3")
    result = doctor("-o", "json")
    assert result.exit_code == 0
    assert without(result) == {
        "Knative Serving": "advice",
        "config-features kubernetes.podspec-securitycontext": "advice",
        "config-kourier stream-idle-timeout": "advice",
        "storage class": "advice",
    }


def test_a_feature_that_a_model_uses_is_no_advice(api, doctor):
    api.answers[f"GET {SERVING}/config-features"] = with_feature("securitycontext", "disabled")
    api.answers[f"GET {MODELS}"] = items(model(podTemplate={"spec": {"securityContext": {"fsGroup": 1000}}}))
    assert without(doctor("-o", "json")) == {"config-features kubernetes.podspec-securitycontext": "wrong"}


@pytest.mark.parametrize("spec", [{"source": "hf://o/r"}, {"cache": {"size": "1Gi"}}])
def test_a_claim_needs_the_feature_that_makes_it_writable(api, doctor, spec):
    api.answers[f"GET {SERVING}/config-features"] = with_feature("securitycontext", "disabled")
    api.answers[f"GET {MODELS}"] = items(model(**spec))
    result = doctor("-o", "json")
    assert without(result)["config-features kubernetes.podspec-securitycontext"] == "wrong"
    assert "writable" in findings(result)["config-features kubernetes.podspec-securitycontext"]["why"]


def test_an_affinity_of_a_placement_needs_its_feature(api, doctor):
    api.answers[f"GET {SERVING}/config-features"] = with_feature("affinity", "disabled")
    assert without(doctor("-o", "json"))["config-features kubernetes.podspec-affinity"] == "advice"
    api.answers[f"GET {WORKSPACES}"] = items(placed(affinity={"nodeAffinity": {}}))
    assert without(doctor("-o", "json"))["config-features kubernetes.podspec-affinity"] == "wrong"


def placed(**placement):
    found = workspace()
    found["spec"]["placement"] = placement
    return found


def test_each_workspace_has_gpus_of_its_own_resource(api, doctor):
    slices = node("node-2", resource="nvidia.com/mig-3g.40gb", gpus=1)
    other = placed(resourceName="nvidia.com/mig-3g.40gb")
    other["metadata"]["name"] = "slices"
    api.answers["GET /api/v1/nodes"] = items(node(gpus=1), slices)
    api.answers[f"GET {WORKSPACES}"] = items(workspace(), other)
    api.answers[f"GET {MODELS}"] = items(model(workspace="default"), model(workspace="slices"))
    seen = [each["seen"] for each in json.loads(doctor("-o", "json").stdout)["findings"] if each["subject"] == "GPUs"]
    assert seen == [
        f"1 {resource} on 1 of 2 nodes; Workspaces share out 1"
        for resource in ("nvidia.com/gpu", "nvidia.com/mig-3g.40gb")
    ]


def test_weights_that_may_land_where_no_gpu_is_are_advised_a_placement(api, doctor):
    api.answers["GET /api/v1/nodes"] = items(node(), node("node-2", gpus=0))
    api.answers[f"GET {MODELS}"] = items(model(source="hf://o/r"))
    assert without(doctor("-o", "json")) == {"placement": "advice"}
    for good in (
        {"cache": {"accessMode": "ReadWriteMany"}},
        {"podTemplate": {"spec": {"nodeSelector": {"gpu": "yes"}}}},
    ):
        api.answers[f"GET {MODELS}"] = items(model(source="hf://o/r", **good))
        assert without(doctor("-o", "json")) == {}
    api.answers[f"GET {MODELS}"] = items(model(source="hf://o/r"))
    api.answers[f"GET {WORKSPACES}"] = items(placed(nodeSelector={"gpu": "yes"}))
    assert without(doctor("-o", "json")) == {}


def test_an_engine_that_reserves_gpus_and_computes_on_the_cpu_is_told(api, doctor):
    api.answers[f"GET {MODELS}"] = items(model(engine="llamacpp", source="/a.gguf"))
    result = doctor("-o", "json")
    assert result.exit_code == 0
    assert without(result) == {"Model gemma": "advice"}
    assert "computes on the CPU" in findings(result)["Model gemma"]["seen"]
    assert "server-cuda" in findings(result)["Model gemma"]["remedy"]
    api.answers[f"GET {DEPLOYMENT}/hotseat-switcher"] = switcher(HOTSEAT_GPU_RESOURCE="")
    assert without(doctor("-o", "json")) == {}


def test_two_secrets_for_one_key_are_wrong(api, doctor):
    other = switcher()
    other["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"] = "another"
    api.answers[f"GET {DEPLOYMENT}/hotseat-switcher"] = other
    result = doctor()
    assert "the router uses demand, the switcher uses another" in result.stdout
    assert result.exit_code == 1


def test_the_key_itself_is_never_shown(doctor):
    assert "c2VjcmV0" not in doctor().output + doctor("-o", "json").output


NO_DEFAULT = [{"metadata": {"name": "fast"}}]


@pytest.mark.parametrize(("configured", "verdict"), [("fast", None), ("slow", "wrong"), ("", "advice")])
def test_a_storage_class_of_the_switcher_needs_no_default(api, doctor, configured, verdict):
    api.answers[f"GET {CLASSES}"] = items(*NO_DEFAULT)
    settings = {"metadata": {"name": "hotseat-settings"}, "data": {"HOTSEAT_STORAGE_CLASS": configured}}
    api.answers["GET /api/v1/namespaces/models/configmaps/hotseat-settings"] = settings
    result = doctor("-o", "json")
    assert without(result) == ({"storage class": verdict} if verdict else {})
    if not verdict:
        assert findings(result)["storage class"]["seen"] == "fast (HOTSEAT_STORAGE_CLASS)"


PUBLIC = "http://hotseat-router.models.example.com"
INSIDE = "http://hotseat-router.models.svc.cluster.local"
WITH_KEYS = {"HOTSEAT_API_KEY_FILE": "/etc/hotseat/keys/keys"}
NO_KEYS = {"metadata": {"name": "clients"}, "data": {"keys": ""}}


@pytest.mark.parametrize(
    ("router", "secret", "remedy"),
    [
        (ksvc("hotseat-router", url=PUBLIC, **WITH_KEYS), None, "create secret generic clients"),
        (ksvc("hotseat-router", url=PUBLIC, **WITH_KEYS), NO_KEYS, "create secret generic clients"),
        (ksvc("hotseat-router", url=PUBLIC), NO_KEYS, "set HOTSEAT_API_KEY_FILE"),
    ],
)
def test_a_public_router_without_keys_is_told(api, doctor, router, secret, remedy):
    api.answers[f"GET {KSVC}/hotseat-router"] = router
    del api.answers[f"GET {KEYS}"]
    if secret:
        api.answers[f"GET {KEYS}"] = secret
    result = doctor("-o", "json")
    assert without(result) == {"client keys": "advice"}
    finding = findings(result)["client keys"]
    assert PUBLIC in finding["seen"]
    assert remedy in finding["remedy"]
    assert "networking.knative.dev/visibility=cluster-local" in finding["remedy"]


def test_a_router_inside_the_cluster_needs_no_keys(api, doctor):
    api.answers[f"GET {KSVC}/hotseat-router"] = ksvc("hotseat-router", url=INSIDE)
    assert without(doctor("-o", "json")) == {}


@pytest.mark.parametrize("type_", ["ClusterIP", "LoadBalancer", "NodePort"])
def test_a_service_that_opens_the_router_or_its_admin_routes_is_told(api, doctor, type_):
    router = switcher()
    router["metadata"]["name"] = "hotseat-router"
    router["status"].pop("url", None)
    del api.answers[f"GET {KSVC}/hotseat-router"]
    api.answers[f"GET {DEPLOYMENT}/hotseat-router"] = router
    for name in ("hotseat-router", "hotseat-router-admin"):
        service = {"metadata": {"name": name}, "spec": {"type": type_}}
        api.answers[f"GET /api/v1/namespaces/models/services/{name}"] = service
    expected = {} if type_ == "ClusterIP" else {"client keys": "advice", "admin routes": "advice"}
    result = doctor("-o", "json")
    assert without(result) == expected
    if expected:
        assert "Service hotseat-router-admin" in findings(result)["admin routes"]["seen"]


def test_admin_routes_on_a_public_port_are_told(api, doctor):
    api.answers[f"GET {KSVC}/hotseat-router"] = ksvc("hotseat-router", url=PUBLIC, HOTSEAT_ADMIN_PORT="", **WITH_KEYS)
    result = doctor("-o", "json")
    assert without(result) == {"admin routes": "advice"}
    assert "HOTSEAT_ADMIN_PORT" in findings(result)["admin routes"]["remedy"]


def test_a_cluster_that_hides_its_gpus_on_purpose_is_not_asked_for_any(api, doctor):
    api.answers["GET /api/v1/nodes"] = items(node(gpus=0))
    api.answers[f"GET {DEPLOYMENT}/hotseat-switcher"] = switcher(HOTSEAT_GPU_RESOURCE="")
    result = doctor("-o", "json")
    assert "GPUs" not in findings(result)
    assert result.exit_code == 0


def test_what_may_not_be_read_is_unknown(api, doctor):
    for path in (SECRET, "/api/v1/nodes", f"{SERVING}/config-features", f"{CRD}/models.hotseat.dev", CLASSES):
        api.answers[f"GET {path}"] = FORBIDDEN
    result = doctor("-o", "json")
    assert result.exit_code == 0
    assert without(result) == dict.fromkeys(
        ["settings of Knative", "our CRDs", "storage class", "demand key", "GPUs"], "unknown"
    )
    assert "may not do that" in findings(result)["GPUs"]["seen"]


def test_who_sees_one_namespace_only_hears_about_that(api, doctor):
    for kind in ("models", "workspaces"):
        api.answers[f"GET /apis/hotseat.dev/v1alpha1/{kind}"] = FORBIDDEN
    base = "/apis/hotseat.dev/v1alpha1/namespaces/models"
    api.answers |= {f"GET {base}/models": items(), f"GET {base}/workspaces": items(workspace(gpus=9))}
    assert "share out 9" in findings(doctor("-o", "json"))["GPUs"]["seen"]


def test_an_empty_cluster_is_told_what_to_install(api, doctor):
    api.answers = {"GET /version": {"gitVersion": "v1.35.4"}}
    result = doctor("-o", "json")
    assert result.exit_code == 1
    wrong = {name for name, each in findings(result).items() if each["verdict"] == "wrong"}
    assert {"CRD models.hotseat.dev", "router", "switcher", "demand key"} <= wrong
    assert not wrong & {"Knative Serving", "Knative Eventing", "Broker", "KEDA"}, "it runs without them"
    assert "kubectl apply -k deployment/ -n models" in findings(result)["router"]["remedy"]


def test_without_an_api_server_it_says_just_that(tmp_path):
    file = kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9")
    result = CliRunner().invoke(main, ["doctor", "--kubeconfig", str(file)])
    assert result.exit_code == 1
    assert result.stdout.startswith("WRONG    API server")
    assert result.stdout.endswith("1 wrong\n")


def test_without_a_kubeconfig_it_asks_for_one(tmp_path):
    result = CliRunner().invoke(main, ["doctor", "--kubeconfig", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "use --kubeconfig" in result.stderr


# What it may change ---------------------------------------------------------------------------------------------------


@pytest.fixture
def writable(api):
    """ConfigMaps that take patches, two of them with a wrong key each, and a router that is not there."""
    api.answers[f"GET {SERVING}/config-features"] = with_feature("tolerations", "disabled")
    api.answers[f"GET {SERVING}/config-autoscaler"] = config("config-autoscaler")
    del api.answers[f"GET {KSVC}/hotseat-router"]

    def patch(request):
        found = copied(api.answers[f"GET {request.path}"])
        found["data"] |= request.json["data"]
        api.answers[f"GET {request.path}"] = found
        return found

    for name in ("config-features", "config-autoscaler"):
        api.answers[f"PATCH {SERVING}/{name}"] = patch
    return api


def patches(api):
    return [(request.path.rsplit("/", 1)[1], request.json) for request in api.requests if request.method == "PATCH"]


def test_fix_asks_for_each_key_and_changes_no_more(writable, doctor):
    result = doctor("--fix", input="n\ny\n")
    assert patches(writable) == [("config-autoscaler", {"data": {"allow-zero-initial-scale": "true"}})]
    assert result.exit_code == 1
    assert "kubernetes.podspec-tolerations: disabled -> enabled" in result.stderr
    assert result.stdout.count("WRONG") == 3 + 2  # before, and what is left


def test_fix_with_yes_asks_nothing(writable, doctor):
    result = doctor("--fix", "--yes", "-o", "json")
    assert len(patches(writable)) == 2
    assert without(result) == {"router": "wrong"}, "what is no key of Knative's stays for a person"


def test_a_fix_that_is_refused_is_told(writable, doctor):
    writable.answers[f"PATCH {SERVING}/config-features"] = FORBIDDEN
    writable.answers[f"PATCH {SERVING}/config-autoscaler"] = refusal(400, "BadRequest", "the webhook says no")
    result = doctor("--fix", "--yes")
    assert "not changed: the webhook says no" in result.stderr
    assert result.exit_code == 1


def test_nobody_at_the_terminal_is_no_consent(writable, doctor):
    result = doctor("--fix", input="")
    assert patches(writable) == []
    assert result.exit_code == 1


def test_what_the_operator_owns_is_changed_in_its_own_object(writable, doctor):
    owned = config("config-autoscaler")
    owned["metadata"]["ownerReferences"] = [{"kind": "KnativeServing", "name": "serving"}]
    writable.answers[f"GET {SERVING}/config-autoscaler"] = owned
    result = doctor("--fix", "--yes", "-o", "json")
    assert [name for name, _ in patches(writable)] == ["config-features"]
    command = shlex.split(findings(result)["config-autoscaler allow-zero-initial-scale"]["remedy"])
    assert command[:6] == ["kubectl", "-n", "knative-serving", "patch", "knativeserving", "serving"]
    assert json.loads(command[-1]) == {"spec": {"config": {"autoscaler": {"allow-zero-initial-scale": "true"}}}}


def test_the_command_that_it_prints_does_what_fix_does(writable, doctor):
    remedy = findings(doctor("-o", "json"))["config-autoscaler allow-zero-initial-scale"]["remedy"]
    doctor("--fix", "--yes")
    assert ("config-autoscaler", json.loads(shlex.split(remedy)[-1])) in patches(writable)


def test_yes_alone_is_a_mistake(doctor):
    assert doctor("--yes").exit_code == 2
