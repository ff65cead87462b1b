"""`hotseat doctor` on a cluster with KEDA, or with neither: only what a Workspace needs is checked, and what is wrong is told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat.kube.runtime_checks import DEPLOYMENT as PLAIN
from hotseat.kube.runtime_checks import KEDA, KNATIVE, RIGHTS

from .fake_cluster import (
    CRD,
    DEPLOYMENT,
    FORBIDDEN,
    KSVC,
    NAMESPACE,
    REVIEWS,
    condition,
    deployment,
    good_cluster,
    items,
    model,
    switcher,
)
from .test_doctor import findings, without

ROOT = Path(__file__).parents[3]
OPERATORS = "/apis/apps/v1/deployments"
SCALER = f"/api/v1/namespaces/{NAMESPACE}/services/hotseat-scaler"
SCALER_SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/hotseat-scaler"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
METRICS = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io"
SCALED = f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects"
DOCUMENTS = "/apis/hotseat.dev/v1alpha1"
SETTINGS = f"/api/v1/namespaces/{NAMESPACE}/configmaps/hotseat-settings"
POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/hotseat-models"
Doctor = Callable[..., Any]


def workspace(runtime: str = "", wanted: str = "Auto", *conditions: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": "default"},
        "spec": {"capacity": {"gpus": 1}, "runtime": wanted},
        "status": {"runtime": runtime, "conditions": list(conditions)},
    }


def without_knative() -> dict[str, Any]:
    """Answers of a cluster without Knative, in which all is well: deployment/ with the runtime Deployment."""
    answers = {path: body for path, body in good_cluster().items() if "knative" not in path or "hotseat-" in path}
    del answers[f"GET {KSVC}/hotseat-router"]
    for name in ("hotseat-router", "hotseat-switcher"):
        body = switcher(HOTSEAT_BROKER_URL="")
        body["metadata"]["name"] = name
        body["spec"]["template"]["spec"]["serviceAccountName"] = name
        answers[f"GET {DEPLOYMENT}/{name}"] = body
    for scope in ("", f"/namespaces/{NAMESPACE}"):
        answers[f"GET {DOCUMENTS}{scope}/workspaces"] = items(workspace(PLAIN))
        answers[f"GET {DOCUMENTS}{scope}/models"] = items(model())
    return answers


def with_keda() -> dict[str, Any]:
    """Answers of a cluster with KEDA, in which all is well."""
    operator = deployment("keda-operator", "keda", "2.20.2")
    end = {"addresses": ["10.0.0.7"], "conditions": {"ready": True}}
    answers = {
        f"{CRD}/scaledobjects.keda.sh": {"metadata": {"name": "scaledobjects.keda.sh"}},
        f"{CRD}/triggerauthentications.keda.sh": {"metadata": {"name": "triggerauthentications.keda.sh"}},
        OPERATORS: items(operator),
        SCALER: {"metadata": {"name": "hotseat-scaler"}, "spec": {"ports": [{"port": 8090}]}},
        SLICES: items({"metadata": {"name": "hotseat-scaler-x"}, "endpoints": [end]}),
        METRICS: {"metadata": {"name": "external"}, **condition("Available")},
        SCALED: items({"metadata": {"name": "gemma"}, **condition("Ready")}),
        f"{DOCUMENTS}/workspaces": items(workspace(PLAIN), workspace(KEDA)),
        f"{DOCUMENTS}/namespaces/{NAMESPACE}/workspaces": items(workspace(KEDA)),
    }
    return without_knative() | {f"GET {path}": body for path, body in answers.items()}


@pytest.mark.parametrize("made", [without_knative, with_keda])
def test_what_no_workspace_uses_is_not_checked(api: Any, doctor: Doctor, made: Callable[[], Any]) -> None:
    api.answers = made()
    result = doctor("-o", "json")
    assert without(result) == {}
    found = findings(result)
    assert not [subject for subject in found if "nativ" in subject or subject.startswith("config-")]
    assert {"Broker", "Trigger"}.isdisjoint(found)
    assert found["events"]["seen"] == "no Broker: routers send demand to the switcher directly; no sink"
    expected = {"KEDA", "external scaler", "rights for KEDA"} if made is with_keda else {"rights for Deployment"}
    assert expected <= found.keys()
    assert ("KEDA" in found) == (made is with_keda)
    reviews = [request.json["spec"] for request in api.requests if request.path == REVIEWS]
    assert {each["user"] for each in reviews} == {f"system:serviceaccount:{NAMESPACE}:hotseat-switcher"}


@pytest.mark.parametrize(
    ("crds", "wanted", "runtimes"),
    [
        ((), "Auto", {PLAIN}),
        (("scaledobjects.keda.sh",), "Auto", {KEDA}),
        (("scaledobjects.keda.sh", "services.serving.knative.dev"), "Auto", {KNATIVE}),
        (("scaledobjects.keda.sh", "services.serving.knative.dev"), PLAIN, {PLAIN}),
    ],
)
def test_a_workspace_without_a_runtime_needs_what_auto_would_take(
    api: Any,
    doctor: Doctor,
    crds: tuple[str, ...],
    wanted: str,
    runtimes: set[str],
) -> None:
    api.answers = without_knative() | {f"GET {CRD}/{name}": {"metadata": {"name": name}} for name in crds}
    for scope in ("", f"/namespaces/{NAMESPACE}"):
        api.answers[f"GET {DOCUMENTS}{scope}/workspaces"] = items(workspace("", wanted))
    found = findings(doctor("-o", "json"))
    assert {name.removeprefix("rights for ") for name in found if name.startswith("rights for ")} == runtimes
    assert next(iter(runtimes)) in found["Workspace default"]["seen"]


def test_workspaces_of_other_namespaces_need_nothing_of_this_one(api: Any, doctor: Doctor) -> None:
    api.answers = without_knative() | {f"GET {DOCUMENTS}/workspaces": items(workspace(KEDA))}
    assert "KEDA" not in findings(doctor("-o", "json"))


def test_a_workspace_that_moves_needs_both(api: Any, doctor: Doctor) -> None:
    api.answers = with_keda()
    for scope in ("", f"/namespaces/{NAMESPACE}"):
        api.answers[f"GET {DOCUMENTS}{scope}/workspaces"] = items(workspace(PLAIN, KEDA))
    found = findings(doctor("-o", "json"))
    assert {"rights for KEDA", "rights for Deployment", "KEDA"} <= found.keys()
    assert found["Workspace default"]["seen"] == "runtime Deployment, moves to KEDA"


ILLS = [
    (f"{CRD}/triggerauthentications.keda.sh", None, "KEDA", "no CRD triggerauthentications.keda.sh", "install KEDA"),
    (OPERATORS, items(), "KEDA", "no keda-operator", "install KEDA"),
    (OPERATORS, items({**deployment("keda-operator", "keda", "2.20.2"), **condition("Available", "False")}),
     "KEDA", "not available", "kubectl -n keda describe deployment keda-operator"),
    (SCALER, None, "external scaler", "no Service hotseat-scaler", "kubectl apply -k keda/role -n models"),
    (SLICES, items(), "external scaler", "no ready endpoint", "describe service hotseat-scaler"),
    (SCALER_SECRET, {"data": {"tls.crt": "eA=="}}, "external scaler", "no tls.key", "create secret generic hotseat-scaler"),
    (SCALED, items({"metadata": {"name": "gemma"}, **condition("Ready", "False", reason="Failed", message="no scaler")}),
     "ScaledObject gemma", "no scaler", "describe scaledobject gemma"),
    (SETTINGS, {"data": {"HOTSEAT_IMAGE_PULL_SECRETS": "registry"}}, "pull secrets", "no Secret registry",
     "create secret docker-registry registry"),
    (f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": {"hotseat.dev/restrict-models": "true"}}},
     "policy for Models", "no ValidatingAdmissionPolicy", "kubectl apply -k knative/policy"),
    (f"{DOCUMENTS}/namespaces/{NAMESPACE}/workspaces",
     items(workspace(KEDA, "Auto", {"type": "Ready", "status": "False", "reason": "RuntimeUnavailable", "message": "no"})),
     "Workspace default", "RuntimeUnavailable: no", "spec.runtime"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "answer", "subject", "seen", "remedy"), ILLS, ids=lambda each: str(each)[:40])
def test_one_thing_that_is_wrong(  # noqa: PLR0917
    api: Any,
    doctor: Doctor,
    path: str,
    answer: Any,
    subject: str,
    seen: str,
    remedy: str,
) -> None:
    api.answers = with_keda() | {f"GET {path}": answer}
    result = doctor("-o", "json")
    ill = findings(result)[subject]
    assert (result.exit_code, ill["verdict"]) == (1, "wrong")
    assert seen in ill["seen"]
    assert remedy in ill["remedy"]
    assert ill["why"]


def test_an_old_keda_and_one_that_may_not_be_seen(api: Any, doctor: Doctor) -> None:
    api.answers = with_keda() | {f"GET {OPERATORS}": items(deployment("keda-operator", "keda", "2.14.0"))}
    assert without(doctor("-o", "json")) == {"KEDA": "advice"}
    api.answers[f"GET {OPERATORS}"] = api.answers[f"POST {REVIEWS}"] = FORBIDDEN
    assert without(doctor("-o", "json")) == {"KEDA": "unknown", "rights for KEDA": "unknown"}


@pytest.mark.parametrize("answer", [None, {"metadata": {}, **condition("Available", "False", message="403")}])
def test_metrics_that_an_autoscaler_cannot_read_are_told(api: Any, doctor: Doctor, answer: Any) -> None:
    api.answers = with_keda() | {f"GET {METRICS}": answer}
    assert without(doctor("-o", "json")) == {"external metrics": "advice"}


def test_what_the_switcher_may_not_do_is_named_with_the_role_that_lacks(api: Any, doctor: Doctor) -> None:
    def review(request: Any) -> dict[str, Any]:
        asked = request.json["spec"]["resourceAttributes"]
        return {"status": {"allowed": (asked["resource"], asked["verb"]) != ("scaledobjects", "patch")}}

    api.answers = with_keda() | {f"POST {REVIEWS}": review}
    ill = findings(doctor("-o", "json"))["rights for KEDA"]
    assert ill["seen"] == "the switcher may not patch keda.sh/scaledobjects"
    assert ill["remedy"].endswith("kubectl apply -k keda/role -n models")


@pytest.mark.parametrize(
    ("kind", "status", "reason", "verdict", "remedy"),
    [
        ("Ready", "False", "InvalidSpec", "wrong", "kubectl -n models describe model gemma"),
        ("Ready", "False", "ApplyFailed", "wrong", "correct what the message says"),
        ("Ready", "False", "NameConflict", "wrong", "rename the Model"),
        ("Ready", "False", "UnknownWorkspace", "wrong", "create the Workspace"),
        ("Ready", "False", "RuntimeUnavailable", "wrong", "spec.runtime"),
        ("Ready", "False", "Failed", "wrong", "kubectl hotseat -n models logs gemma"),
        ("Ready", "False", "ReleaseUnproven", "wrong", "annotate --overwrite workspace default hotseat.dev/settled"),
        ("Cached", "False", "Unschedulable", "wrong", "spec.placement"),
        ("Cached", "False", "ImagePull", "wrong", "HOTSEAT_IMAGE_PULL_SECRETS"),
        ("Cached", "False", "FailedCreate", "wrong", "message"),
        ("Cached", "False", "CreateContainerConfigError", "wrong", "credentials"),
        ("Cached", "False", "ProvisioningFailed", "wrong", "describe pvc"),
        ("Cached", "False", "SomethingNew", "wrong", "describe model gemma"),
        ("ClaimUpToDate", "False", "ClaimChange", "advice", "cache"),
        ("NamesConflict", "True", "NameClaimedTwice", "advice", "spec.names"),
    ],
)
def test_what_stops_a_model_is_told_with_what_to_do(  # noqa: PLR0917
    api: Any,
    doctor: Doctor,
    kind: str,
    status: str,
    reason: str,
    verdict: str,
    remedy: str,
) -> None:
    ill = {**model(), "status": {"conditions": [{"type": kind, "status": status, "reason": reason, "message": "why"}]}}
    api.answers = without_knative() | {f"GET {DOCUMENTS}/namespaces/{NAMESPACE}/models": items(ill)}
    found = findings(doctor("-o", "json"))["Model gemma"]
    assert (found["verdict"], found["seen"]) == (verdict, f"{kind} is {status}: {reason}: why")
    assert remedy in found["remedy"]


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("Ready", "False", "NotCached"),
        ("Ready", "True", "Ready"),
        ("Cached", "False", "Fetching"),
        ("Resident", "False", "Unloaded"),
    ],
)
def test_what_passes_by_itself_is_no_problem(api: Any, doctor: Doctor, kind: str, status: str, reason: str) -> None:
    fine = {**model(), "status": {"conditions": [{"type": kind, "status": status, "reason": reason}]}}
    api.answers = without_knative() | {f"GET {DOCUMENTS}/namespaces/{NAMESPACE}/models": items(fine)}
    assert without(doctor("-o", "json")) == {}


def test_a_sink_that_only_one_of_the_two_has_is_told(api: Any, doctor: Doctor) -> None:
    api.answers = without_knative() | {f"GET {SETTINGS}": {"data": {"K_SINK": "http://sink"}}}
    assert findings(doctor("-o", "json"))["events"]["seen"].endswith("sink: http://sink")
    api.answers[f"GET {DEPLOYMENT}/hotseat-switcher"] = switcher(HOTSEAT_BROKER_URL="", K_SINK="")
    assert without(doctor("-o", "json")) == {"events": "advice"}


def rules(path: str) -> dict[str, tuple[str, ...]]:
    """The rights of the switcher in a manifest."""
    roles = [each for each in yaml.safe_load_all((ROOT / path).read_text()) if each["kind"] == "Role"]
    return {
        f"{group}/{resource}": tuple(rule["verbs"])
        for role in roles
        if "switcher" in role["metadata"]["name"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_rights_that_it_asks_for_are_those_of_the_manifests() -> None:
    knative = {
        name: verbs for name, verbs in rules("knative/base/roles.yaml").items() if re.search("knative|apps", name)
    }
    assert RIGHTS[KNATIVE] == knative
    assert RIGHTS[PLAIN] == rules("deployment/role/role.yaml")
    assert RIGHTS[KEDA] == RIGHTS[PLAIN] | rules("keda/role/role.yaml")
