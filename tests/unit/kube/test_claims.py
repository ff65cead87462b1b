"""What a changed Model changes of a claim that exists."""

import copy

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.kube.claims import claim_changes
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.objects import claim_of

SETTINGS = ClusterSettings(image="hotseat:test", namespace="llm")
FOREIGN = {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"}


def claim(**cache: object) -> Json:
    spec = {"engine": "vllm", "source": "hf://o/r", "cache": {"size": "10Gi", **cache}}
    made = claim_of(Model.model_validate({"metadata": {"name": "qwen"}, "spec": spec}), SETTINGS, "m-1")
    assert made is not None
    return made


def found(*owners: Json, **cache: object) -> Json:
    made = copy.deepcopy(claim(**cache))
    made["metadata"]["resourceVersion"] = "7"
    if owners:
        made["metadata"]["ownerReferences"] = [*made["metadata"].get("ownerReferences", []), *owners]
    made["spec"] |= {"volumeName": "pv", "storageClassName": made["spec"].get("storageClassName", "standard")}
    return made


def patches(wanted: Json, there: Json) -> list[Json | None]:
    return [change.patch for change in claim_changes(wanted, there, sized=True)]


def test_the_same_changes_nothing() -> None:
    assert patches(claim(), found()) == []
    assert patches(claim(onDelete="Delete"), found(onDelete="Delete")) == []
    assert patches(claim(size="1024Mi"), found(size="1Gi")) == []


def test_retain_removes_the_owner_and_no_other() -> None:
    assert patches(claim(onDelete="Retain"), found(onDelete="Delete")) == [
        {"metadata": {"ownerReferences": None, "resourceVersion": "7"}}
    ]
    assert patches(claim(onDelete="Retain"), found(FOREIGN, onDelete="Delete")) == [
        {"metadata": {"ownerReferences": [FOREIGN], "resourceVersion": "7"}}
    ]


def test_delete_adds_the_owner() -> None:
    [patch] = patches(claim(onDelete="Delete"), found(FOREIGN))
    assert patch is not None
    assert [each["uid"] for each in patch["metadata"]["ownerReferences"]] == ["c", "m-1"]


def test_an_owner_that_was_deleted_and_created_again_is_the_new_one() -> None:
    old = found(onDelete="Delete")
    old["metadata"]["ownerReferences"][0]["uid"] = "m-0"
    [patch] = patches(claim(onDelete="Delete"), old)
    assert patch is not None
    assert [each["uid"] for each in patch["metadata"]["ownerReferences"]] == ["m-1"]


def test_a_larger_size_is_requested_and_a_smaller_one_is_impossible() -> None:
    assert patches(claim(size="20Gi"), found()) == [{"spec": {"resources": {"requests": {"storage": "20Gi"}}}}]
    [change] = claim_changes(claim(size="5Gi"), found(), sized=True)
    assert (change.patch, change.reason) == (None, "ClaimCannotShrink")
    assert "qwen-cache has 10Gi" in change.message


def test_a_size_that_the_model_does_not_state_is_left_as_it_is() -> None:
    for size in ("10Gi", "100Gi"):
        assert list(claim_changes(claim(size=None), found(size=size), sized=False)) == []


def test_what_is_immutable_is_said() -> None:
    mode, name = claim_changes(claim(accessMode="ReadWriteMany", storageClass="fast"), found(), sized=True)
    assert (mode.reason, name.reason, mode.patch, name.patch) == (
        "ClaimFieldImmutable",
        "ClaimFieldImmutable",
        None,
        None,
    )
    assert "cache.accessMode is ReadWriteMany, but the claim qwen-cache has ReadWriteOnce" in mode.message
    assert "cache.storageClass is fast, but the claim qwen-cache has standard" in name.message
