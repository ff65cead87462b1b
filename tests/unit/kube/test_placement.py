"""The placement of a Workspace holds for the engine and for the Job that fetches its weights, so that they meet."""

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import Workspace
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.jobs import job_of
from hotseat.kube.objects import claim_of, service_of
from hotseat.kube.placement import in_workspace

SETTINGS = ClusterSettings(image="hotseat:test", namespace="llm")
PLACEMENT = {
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
    "runtimeClassName": "nvidia",
}
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def pods(placement: Json | None = None, **spec: object) -> tuple[Json, Json]:
    """Give the pods of the engine and of the fetch."""
    workspace = Workspace.model_validate({"metadata": {"name": "default"}, "spec": {"placement": placement or {}}})
    spec = {"engine": "vllm", "source": "hf://o/r", **spec}
    model = Model.model_validate({"metadata": {"name": "qwen"}, "spec": spec})
    settings = in_workspace(SETTINGS, workspace)
    service, job = service_of(model, settings, "1"), job_of(model, settings, "1")
    assert service is not None
    assert job is not None
    return service["spec"]["template"]["spec"], job["spec"]["template"]["spec"]


def test_it_holds_for_both() -> None:
    for pod in pods(PLACEMENT):
        for field in ("nodeSelector", "affinity", "runtimeClassName"):
            assert pod[field] == PLACEMENT[field]
        assert pod["tolerations"] == [*PLACEMENT["tolerations"], GPU_TAINT]


def test_a_pod_template_goes_over_it() -> None:
    over = {"nodeSelector": {"zone": "a"}, "tolerations": [{"key": "mine"}], "runtimeClassName": None}
    for pod in pods(PLACEMENT, podTemplate={"spec": over}):
        assert pod["nodeSelector"] == {"pool": "gpu", "zone": "a"}
        assert pod["tolerations"] == [{"key": "mine"}, GPU_TAINT]
        assert "runtimeClassName" not in pod


def test_nodes_with_gpus_take_the_engine_as_they_take_its_fetch() -> None:
    engine, fetch = pods()
    assert engine["tolerations"] == fetch["tolerations"] == [GPU_TAINT]
    for pod in pods(resources={"gpus": 0}):
        assert "tolerations" not in pod
    for pod in pods(podTemplate={"spec": {"tolerations": [GPU_TAINT]}}):
        assert pod["tolerations"] == [GPU_TAINT]


def test_a_workspace_may_have_a_gpu_resource_of_its_own() -> None:
    engine, fetch = pods({"resourceName": "nvidia.com/mig-3g.40gb"})
    assert engine["containers"][0]["resources"]["limits"] == {"nvidia.com/mig-3g.40gb": "1"}
    assert [each["key"] for each in fetch["tolerations"]] == ["nvidia.com/mig-3g.40gb"]


def test_a_model_of_no_workspace_has_the_settings_of_the_switcher() -> None:
    assert in_workspace(SETTINGS, None) == SETTINGS


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"])
def test_a_claim_has_the_access_mode_of_its_model(mode: str) -> None:
    spec = {"engine": "vllm", "source": "hf://o/r", "cache": {"accessMode": mode}}
    claim = claim_of(Model.model_validate({"metadata": {"name": "qwen"}, "spec": spec}), SETTINGS, "1")
    assert claim is not None
    assert claim["spec"]["accessModes"] == [mode]


class TestWritableClaims:
    """A new volume belongs to root, and the engine does not run as root."""

    def test_a_claim_is_writable_by_the_engine(self) -> None:
        for spec in ({}, {"cache": {"fetchBy": "Engine"}}, {"cache": {"existingClaim": "shared"}}):
            engine, _ = pods(**spec)
            assert engine["securityContext"] == {"fsGroup": 65532}, "Knative refuses fsGroupChangePolicy"

    def test_a_pod_template_may_set_another_group(self) -> None:
        engine, fetch = pods(podTemplate={"spec": {"securityContext": {"fsGroup": 7}}})
        assert engine["securityContext"]["fsGroup"] == fetch["securityContext"]["fsGroup"] == 7

    def test_without_a_claim_the_feature_of_knative_is_not_needed(self) -> None:
        model = Model.model_validate({"metadata": {"name": "m"}, "spec": {"engine": "mock"}})
        service = service_of(model, SETTINGS, "1")
        assert service is not None
        assert "securityContext" not in service["spec"]["template"]["spec"]
