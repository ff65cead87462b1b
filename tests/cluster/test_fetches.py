"""Fetches that cannot run, images that are pulled ahead, and claims that follow their Models."""

from collections.abc import Iterator
from typing import Any

import pytest

from .harness import Hotseat, model, wait_until, workspace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SOURCE = "https://weights.invalid/a.gguf"


def cached(hotseat: Hotseat, name: str) -> tuple[str, str]:
    condition = hotseat.condition("model", name, "Cached")
    return condition.get("reason", ""), condition.get("message", "")


def fetched(name: str, **spec: Any) -> dict[str, Any]:
    """Make a Model whose weights come from nowhere."""
    made = model(name, **spec)
    made["spec"] |= {"engine": "llamacpp", "source": SOURCE, "args": [], "cache": {"size": "1Gi", "onDelete": "Delete"}}
    return made


@pytest.fixture
def placed(hotseat: Hotseat) -> Iterator[None]:
    """Give the Workspace a placement that no node has."""
    document = workspace("elsewhere")
    document["spec"]["placement"] = {"nodeSelector": {"hotseat.dev/test": "nowhere"}}
    hotseat.apply(document)
    yield
    hotseat.delete("workspace", "elsewhere")


def test_a_fetch_that_no_node_takes_says_so_and_a_corrected_placement_makes_it_anew(
    hotseat: Hotseat, placed: None
) -> None:
    hotseat.apply(fetched("lost", workspace="elsewhere"))
    wait_until(lambda: cached(hotseat, "lost")[0] == "Unschedulable", 30, "the scheduler's word")
    assert "node" in cached(hotseat, "lost")[1]
    refused = wait_until(lambda: (a := hotseat.chat("lost")).status == 503 and a, 30)
    assert "Unschedulable" in refused.body["error"]["message"]
    (job,) = hotseat.get("jobs", selector="hotseat.dev/model=lost")["items"]
    hotseat.apply(workspace("elsewhere"))

    def replaced() -> bool:
        found = hotseat.get("jobs", selector="hotseat.dev/model=lost")["items"]
        return [each["metadata"]["uid"] for each in found] not in ([], [job["metadata"]["uid"]])

    wait_until(replaced, 60, "another Job")
    wait_until(lambda: cached(hotseat, "lost")[0] != "Unschedulable", 60, "it runs")
    hotseat.delete("model", "lost")


def test_a_quota_that_allows_no_pod_is_told(hotseat: Hotseat) -> None:
    hotseat.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none"},
            "spec": {"hard": {"requests.cpu": "1m"}},
        }
    )
    try:
        hotseat.apply(fetched("poor"))
        wait_until(lambda: cached(hotseat, "poor")[0] == "FailedCreate", 30, "the quota's word")
        assert "exceeded quota" in cached(hotseat, "poor")[1]
    finally:
        hotseat.kubectl("delete", "resourcequota", "none")
        hotseat.delete("model", "poor")


def test_a_missing_secret_is_told_and_a_corrected_model_makes_its_job_anew(hotseat: Hotseat) -> None:
    hotseat.apply(fetched("secretive", credentials="misspelt"))
    wait_until(lambda: cached(hotseat, "secretive")[0] == "CreateContainerConfigError", 60, "the kubelet's word")
    assert "misspelt" in cached(hotseat, "secretive")[1]
    hotseat.apply(fetched("secretive"))
    wait_until(lambda: cached(hotseat, "secretive")[0] != "CreateContainerConfigError", 60, "another Job")
    hotseat.delete("model", "secretive")


def test_an_image_that_cannot_be_pulled_evicts_nobody(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"))
    hotseat.await_model("alpha")
    hotseat.served("alpha")
    hotseat.apply(model("imageless", image="dev.local/there-is-none:at-all"))
    wait_until(lambda: cached(hotseat, "imageless")[0] == "ImagePull", 60, "the kubelet's word")
    refused = hotseat.chat("imageless")
    assert (refused.status, refused.body["error"]["code"]) == (503, "weights_not_cached")
    assert hotseat.residents() == {"alpha": "ready"}
    hotseat.delete("model", "imageless")


def test_a_claim_follows_its_model(hotseat: Hotseat) -> None:
    def cache(policy: str, size: str = "1Gi") -> dict[str, Any]:
        return model("keeper", cache={"size": size, "onDelete": policy})

    hotseat.apply(cache("Delete"))
    wait_until(lambda: hotseat.get("pvc", "keeper-cache"), 30, "the claim")
    wait_until(lambda: hotseat.is_ready("keeper"), 60, "the service, whose pods have an fsGroup")
    assert hotseat.get("ksvc", "keeper")["spec"]["template"]["spec"]["securityContext"] == {"fsGroup": 65532}
    hotseat.apply(cache("Retain"))
    wait_until(lambda: not hotseat.get("pvc", "keeper-cache")["metadata"].get("ownerReferences"), 30, "nobody owns it")
    hotseat.apply(cache("Retain", "500Mi"))
    wait_until(lambda: hotseat.condition("model", "keeper", "ClaimUpToDate").get("reason") == "ClaimCannotShrink", 30)
    hotseat.delete("model", "keeper")
    wait_until(lambda: not hotseat.get("ksvc", "keeper"), 30, "its service goes")
    assert hotseat.get("pvc", "keeper-cache"), "it was retained"
