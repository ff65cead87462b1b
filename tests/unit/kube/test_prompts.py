"""Which pods keep prompt caches on the claim of their Model."""

from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.kube import pods
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.objects import deployment_of, service_of, unkept_prompts
from hotseat.kube.placement import in_workspace

CLAIM = {"size": "1Gi"}
SLOTS = ["--slots", "2"]


def settings(**stated: str) -> ClusterSettings:
    workspace = Workspace.model_validate({"metadata": {"name": "w"}, "spec": {"promptCache": stated}})
    return in_workspace(ClusterSettings(image="hotseat:1", namespace="llm"), workspace)


def model(engine: str = "mock", **spec: Any) -> Model:
    return Model.model_validate({"metadata": {"name": "m"}, "spec": {"engine": engine, "cache": CLAIM, **spec}})


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (model(args=SLOTS), ""),
        (model(args=SLOTS, cache={"existingClaim": "mine"}), ""),
        (model(args=SLOTS, cache={}), "it has no claim for its cache (set cache.size)"),
        (model(), None),
        (model("llamacpp", source="hf://o/r/a.gguf", cache={}), ""),
        (model("llamacpp", source="hf://o/r/a.gguf", capabilities=["embedding"]), None),
        (
            model("llamacpp", source="hf://o/r/a.gguf", image="llama.cpp:server-cuda"),
            "its image llama.cpp:server-cuda is not hotseat's, whose entry point prepares the directory for them",
        ),
        (model("vllm", source="hf://o/r"), None),
        (model("external", url="http://there", cache={}), None),
    ],
)
def test_a_model_keeps_them_with_a_claim_and_hotseats_image(of: Model, why: str | None) -> None:
    assert unkept_prompts(of, settings(storage="Disk")) == why
    for other in ({}, {"storage": "Memory"}, {"storage": "Off"}):
        assert unkept_prompts(of, settings(**other)) is None


@pytest.mark.parametrize("make", [service_of, deployment_of])
def test_its_pod_says_for_how_long(make: Any) -> None:
    def keep(of: Model, **stated: str) -> float | None:
        return pods.keeps_prompts(make(of, settings(**stated), "1")["spec"]["template"])

    assert keep(model(args=SLOTS), storage="Disk", keep="2h") == 7200.0
    assert keep(model(args=SLOTS), storage="Memory") is None
    assert keep(model(args=SLOTS)) is None
    assert keep(model(args=SLOTS, cache={}), storage="Disk") is None
    overwritten = model(args=SLOTS, env=[{"name": "HOTSEAT_PROMPTS", "value": "x"}])
    assert keep(overwritten, storage="Disk") is None
    unchanged = [make(model(args=SLOTS), settings(**stated), "1") for stated in ({}, {"storage": "Memory"})]
    assert unchanged[0] == unchanged[1]
