"""The ScaledObject of a Model, and what its Deployment says of its scale."""

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.kube.constants import KEDA, SCALED_BY, ClusterSettings
from hotseat.kube.objects import deployment_of, is_outdated, replacement, scaled_object_of

SETTINGS = ClusterSettings("hotseat:1", "models")


def model(**spec: object) -> Model:
    return Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock", **spec}})


def scaled_object(settings: ClusterSettings = SETTINGS) -> Json:
    made = scaled_object_of(model(), settings, "uid-a")
    assert made is not None
    return made


def deployment(**fields: object) -> Json:
    made = deployment_of(model(), SETTINGS, "uid-a", scaled_by=KEDA)
    assert made is not None
    return {**made, **fields}


def test_keda_asks_the_switcher_of_the_namespace() -> None:
    made = scaled_object()
    assert made["spec"]["scaleTargetRef"] == {"name": "a"}
    [trigger] = made["spec"]["triggers"]
    assert trigger == {
        "type": "external-push",
        "metadata": {"scalerAddress": "hotseat-scaler.models.svc:8090", "model": "a"},
    }
    spec = made["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 1)
    assert (spec["pollingInterval"], spec["cooldownPeriod"], spec["initialCooldownPeriod"]) == (1, 0, 0)
    assert "annotations" not in made["metadata"], "its pause is the runtime's"
    assert scaled_object_of(model(engine="external", url="http://e/v1"), SETTINGS, "uid-a") is None


def test_a_model_with_replicas_has_as_many_at_most_and_a_target_for_each() -> None:
    made = scaled_object_of(model(concurrency=4, scheduling={"replicas": 3}), SETTINGS, "uid-a")
    assert made is not None
    assert (made["spec"]["minReplicaCount"], made["spec"]["maxReplicaCount"]) == (0, 3)
    assert made["spec"]["triggers"][0]["metadata"]["concurrency"] == "4"
    down = made["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down == {"stabilizationWindowSeconds": 300}


def test_with_tls_and_certificates_of_its_own() -> None:
    settings = ClusterSettings("hotseat:1", "models", scaler_tls=True, scaler_authentication="hotseat")
    [trigger] = scaled_object(settings)["spec"]["triggers"]
    assert trigger["metadata"]["enableTLS"] == "true"
    assert trigger["authenticationRef"] == {"name": "hotseat"}


def test_its_deployment_and_pods_say_that_keda_scales_them() -> None:
    made = deployment()
    assert made["metadata"]["labels"][SCALED_BY] == KEDA
    assert made["spec"]["template"]["metadata"]["labels"][SCALED_BY] == KEDA
    assert SCALED_BY not in made["spec"]["selector"]["matchLabels"], "it cannot be changed"
    plain = deployment_of(model(podTemplate={"metadata": {"labels": {SCALED_BY: "x"}}}), SETTINGS, "uid-a")
    assert plain is not None
    assert SCALED_BY not in plain["spec"]["template"]["metadata"]["labels"], "a podTemplate cannot say so"
    assert is_outdated(plain, made)
    assert is_outdated(made, plain)
    running = {**made, "spec": {**made["spec"], "replicas": 1}}
    assert not is_outdated(plain, running), "it moves once it is released"


@pytest.mark.parametrize(
    ("managers", "states"),
    [
        ([("hotseat", "Apply")], True),  # if it were left out, its default of 1 would be set
        ([("hotseat", "Update")], False),
        ([("keda", "Update")], False),
        ([], False),
    ],
)
def test_replicas_are_applied_only_until_somebody_has_scaled(managers: list[tuple[str, str]], states: bool) -> None:
    rows = [{"manager": name, "operation": how, "fieldsV1": {"f:spec": {"f:replicas": {}}}} for name, how in managers]
    wanted = deployment()
    found = {**wanted, "metadata": {**wanted["metadata"], "resourceVersion": "7", "managedFields": rows}}
    made = replacement(wanted, found, "uid-a")
    assert ("replicas" in made["spec"]) is states
    assert made["metadata"]["resourceVersion"] == "7"
