"""Claims that exist follow their Models, on an API server in memory."""

from typing import Any

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.cluster.switcher import status_objects as statuses
from hotseat.cluster.switcher.applied_objects import ObjectApplier
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.kube.client import KubeError
from hotseat.kube.constants import CLAIMS, ClusterSettings
from hotseat.kube.objects import claim_of
from tests.fake_kube import NS, FakeKube

PATH = CLAIMS.path(NS, "qwen-cache")


def model(**cache: Any) -> Model:
    spec = {"engine": "vllm", "source": "hf://o/r", "cache": cache}
    return Model.model_validate({"metadata": {"name": "qwen"}, "spec": spec})


def claim(**cache: Any) -> Json:
    made = claim_of(model(**cache), ClusterSettings("h", NS), "m-1")
    assert made is not None
    return made


def applier_of(kube: Any) -> tuple[ObjectApplier, list[float]]:
    retries: list[float] = []
    unused: Any = None
    return ObjectApplier(kube, NS, runtime=unused, claims=unused, retry=retries.append), retries


def apply(kube: FakeKube, **cache: Any) -> tuple[list[tuple[str, str]], int]:
    """Apply a claim as the switcher does; give the problems of the Model, and how often it tries again."""
    applier, retries = applier_of(kube)
    applier._update_claim(claim(**cache), kube.get(PATH), model(**cache))
    return applier.claim_problems["qwen"], len(retries)


def test_retain_keeps_the_weights_of_a_model_that_is_deleted_later() -> None:
    kube = FakeKube()
    kube.put(PATH, claim(onDelete="Delete"))
    assert kube.get(PATH)["metadata"]["ownerReferences"]
    assert apply(kube, onDelete="Retain") == ([], 0)
    assert "ownerReferences" not in kube.get(PATH)["metadata"]
    apply(kube, onDelete="Delete")
    assert [each["uid"] for each in kube.get(PATH)["metadata"]["ownerReferences"]] == ["m-1"]
    calls = len(kube.calls)
    apply(kube, onDelete="Delete")
    assert len(kube.calls) == calls, "nothing has changed"


def test_a_larger_size_is_requested() -> None:
    kube = FakeKube()
    kube.put(PATH, claim(size="10Gi"))
    assert apply(kube, size="20Gi") == ([], 0)
    assert kube.get(PATH)["spec"]["resources"]["requests"]["storage"] == "20Gi"


def test_what_is_refused_is_a_condition_and_keeps_nothing_else_back() -> None:
    kube = FakeKube()
    kube.put(PATH, claim(size="10Gi", onDelete="Delete"))
    refusal = KubeError(403, "the storageclass that provisions the pvc must support resize")
    merge = kube.merge

    def refuse_size(path: str, body: Json) -> Json:
        if "spec" in body:
            raise refusal
        return merge(path, body)

    kube.merge = refuse_size  # type: ignore[method-assign]
    problems, retries = apply(kube, size="20Gi")
    assert "ownerReferences" not in kube.get(PATH)["metadata"]
    assert retries == 0, "it is tried again when something changes, or with the next resync"
    [(reason, message)] = problems
    assert reason == "ExpansionRefused"
    assert message == f"cache.size cannot be applied to the claim qwen-cache: {refusal}"
    made = statuses.model_status(
        ModelStatus("qwen", "ready"),
        model=Model.model_validate({"metadata": {"name": "qwen"}, "spec": {"engine": "mock"}}),
        generation=1,
        resident=None,
        cache=None,
        switches=(),
        problem="",
        claim_problems=problems,
    )
    [shown] = [each for each in made["conditions"] if each["type"] == "ClaimUpToDate"]
    assert (shown["status"], shown["reason"], shown["message"]) == ("False", reason, message)


def test_an_api_server_that_is_away_is_asked_again() -> None:
    kube = FakeKube()
    kube.put(PATH, claim(onDelete="Delete"))
    there = kube.get(PATH)
    kube.away = True
    applier, retries = applier_of(kube)
    applier._update_claim(claim(), there, model())
    assert len(retries) == 1
