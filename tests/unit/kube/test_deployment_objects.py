"""What a Model becomes without Knative: a Deployment at zero replicas, and a headless Service."""

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.objects import claim_of, deployment_of, headless_service_of

SETTINGS = ClusterSettings(image="registry/hotseat:1", namespace="llm")


def model(engine: str = "mock", **spec: object) -> Model:
    return Model.model_validate({"metadata": {"name": "m"}, "spec": {"engine": engine, **spec}})


def deployment(engine: str = "mock", **spec: object) -> Json:
    made = deployment_of(model(engine, **spec), SETTINGS, "uid-1")
    assert made is not None
    return made


def pod(engine: str = "mock", **spec: object) -> Json:
    return deployment(engine, **spec)["spec"]["template"]["spec"]


def test_it_begins_at_zero_and_never_has_two_pods() -> None:
    made = deployment()
    assert (made["spec"]["replicas"], made["spec"]["strategy"]) == (0, {"type": "Recreate"})
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    selector = made["spec"]["selector"]["matchLabels"]
    assert selector == {"hotseat.dev/deployment": "m"}
    assert made["metadata"]["labels"] == {
        **selector,
        "hotseat.dev/model": "m",
        "hotseat.dev/workspace": "default",
    }
    assert made["spec"]["template"]["metadata"]["labels"] == made["metadata"]["labels"]


def test_its_pod_gets_the_models_stop_timeout_and_its_own_port() -> None:
    made = pod(lifecycle={"stopTimeout": "42.5s"}, port=9000)
    assert made["terminationGracePeriodSeconds"] == 43
    [container] = made["containers"]
    assert container["ports"] == [{"containerPort": 9000}]
    assert container["readinessProbe"]["httpGet"]["port"] == 9000
    assert pod(lifecycle={"stopTimeout": "0s"})["terminationGracePeriodSeconds"] == 1, "0 would take the object first"
    assert pod(port=8012)["containers"], "there is no sidecar that would use this port"


def test_a_claim_is_writable_by_the_engine_on_any_volume() -> None:
    context = {"fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"}
    assert "securityContext" not in pod()
    for cache in ({"size": "1Gi"}, {"existingClaim": "mine"}):
        assert pod(cache=cache)["securityContext"] == context
    assert claim_of(model(cache={"size": "1Gi"}), SETTINGS, "uid-1") is not None


def test_any_field_of_a_pod_can_be_set() -> None:
    template = {
        "metadata": {"annotations": {"k": "v"}, "labels": {"hotseat.dev/deployment": "other", "team": "a"}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "schedulerName": "volcano",
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
            "containers": [{"name": "engine", "resources": {"claims": [{"name": "gpu"}]}}],
        },
    }
    made = deployment(podTemplate=template)["spec"]["template"]
    assert made["metadata"]["labels"]["hotseat.dev/deployment"] == "m"
    assert (made["metadata"]["labels"]["team"], made["metadata"]["annotations"]["k"]) == ("a", "v")
    spec = made["spec"]
    assert (spec["terminationGracePeriodSeconds"], spec["schedulerName"]) == (5, "volcano")
    assert spec["resourceClaims"] == template["spec"]["resourceClaims"]
    assert spec["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]


@pytest.mark.parametrize(("start_timeout", "seconds"), [("60s", 600), ("20m", 1260)])
def test_a_long_load_is_not_given_up_by_kubernetes(start_timeout: str, seconds: int) -> None:
    assert deployment(lifecycle={"startTimeout": start_timeout})["spec"]["progressDeadlineSeconds"] == seconds


def test_the_fingerprint_follows_the_pod_template() -> None:
    def mark(**spec: object) -> str:
        return str(deployment(**spec)["metadata"]["annotations"]["hotseat.dev/fingerprint"])

    assert mark() == mark(names=["n"]) != mark(env=[{"name": "A", "value": "1"}])


def test_its_pod_has_a_name_in_the_cluster() -> None:
    service = headless_service_of(model(port=9000), SETTINGS, "uid-1")
    assert service is not None
    assert service["spec"] == {
        "clusterIP": "None",
        "selector": {"hotseat.dev/deployment": "m"},
        "ports": [{"name": "http", "port": 9000}],
    }


def test_a_server_elsewhere_has_no_objects() -> None:
    there = model("external", url="http://10.0.0.1:8000")
    assert (deployment_of(there, SETTINGS, "u"), headless_service_of(there, SETTINGS, "u")) == (None, None)
