"""Weights are brought by a Job that lands where the GPU pod will, and says how it went."""

import json
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import CacheState
from hotseat.kube.constants import FINGERPRINT, ClusterSettings
from hotseat.kube.jobs import FetchOutcome, FetchProgress, job_name, job_of, outcome_of, parse_progress

SETTINGS = ClusterSettings(image="hotseat:test", namespace="llm")


def model(name: str = "qwen", **spec: object) -> Model:
    spec = {"engine": "vllm", "source": "hf://o/r", **spec}
    return Model.model_validate({"metadata": {"name": name}, "spec": spec})


def job(**spec: object) -> Json:
    made = job_of(model(**spec), SETTINGS, "1234")
    assert made is not None
    return made


def pod(message: str, *, ended: str = "2026-01-01T00:00:00Z", reason: str = "Error", code: int = 1) -> Json:
    state = {"terminated": {"message": message, "finishedAt": ended, "reason": reason, "exitCode": code}}
    return {"status": {"containerStatuses": [{"name": "fetch", "state": state}]}}


def test_it_fetches_into_the_cache_without_a_gpu() -> None:
    made = job(credentials="hub", imagePullSecrets=["theirs", "registry"])
    pod = made["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"][:6] == ["python3", "-P", "-m", "hotseat.sources.fetch", "hf://o/r", "--cache"]
    assert "limits" not in container["resources"]
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert pod["imagePullSecrets"] == [{"name": "theirs"}, {"name": "registry"}]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "qwen-cache"}} in pod["volumes"]
    assert container["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["fsGroup"] == container["securityContext"]["runAsGroup"]
    assert made["metadata"]["ownerReferences"][0]["uid"] == "1234"


def test_it_lands_where_the_gpu_pod_will() -> None:
    over = {
        "nodeSelector": {"gpu": "a100"},
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
        "securityContext": {"fsGroup": 7},
        "containers": [{"name": "engine", "securityContext": {"runAsUser": 0}, "resources": {"limits": {"x": "1"}}}],
        "volumes": [{"name": "extra", "emptyDir": {}}],
    }
    made = job(podTemplate={"spec": over})["spec"]["template"]["spec"]
    for key in ("nodeSelector", "affinity", "runtimeClassName"):
        assert made[key] == over[key]
    assert [each["key"] for each in made["tolerations"]] == ["dedicated", "nvidia.com/gpu"]
    assert made["securityContext"] == {"fsGroup": 7, "fsGroupChangePolicy": "OnRootMismatch"}
    assert [each["name"] for each in made["volumes"]] == ["cache", "tmp"]
    assert len(made["containers"]) == 1
    assert made["containers"][0]["securityContext"]["runAsUser"] == 0  # as the engine, who must read what it writes
    assert "limits" not in made["containers"][0]["resources"]


def test_what_is_hopeless_is_not_tried_again() -> None:
    rules = job()["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "FailJob"
    assert rules[0]["onExitCodes"]["values"] == [2]
    assert job()["spec"]["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy needs


@pytest.mark.parametrize(
    "spec",
    [
        {"source": "pvc://claim/a"},
        {"source": "/models/a"},
        {"cache": {"fetchBy": "Engine"}},
        {"engine": "mock"},
        {"engine": "external", "source": None, "url": "http://a"},
    ],
)
def test_what_needs_no_fetch_has_no_job(spec: dict[str, Any]) -> None:
    assert job_of(model(**spec), SETTINGS, "1234") is None


def test_its_name_tells_sources_apart_and_fits() -> None:
    assert job_name(model()) == job_name(model(args=["--x"]))
    assert job_name(model()) != job_name(model(source="hf://o/r@v2"))
    assert job_name(model()).startswith("qwen-fetch-")
    long = "a" * 62
    assert len(job_name(model(long + "b"))) == 63
    assert job_name(model(long + "b")) != job_name(model(long + "c"))


def test_its_fingerprint_tells_when_it_must_be_made_again() -> None:
    def mark(**spec: object) -> str:
        return str(job(**spec)["metadata"]["annotations"][FINGERPRINT])

    assert mark() == mark(args=["--x"])
    assert mark() != mark(credentials="hub")


COMPLETE = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
FAILED = {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "Job has reached the limit"}]}}


class TestOutcome:
    def test_done_tells_the_path(self) -> None:
        pods = [pod('{"path": "/cache/x"}', ended="2026-01-01T00:02:00Z"), pod('{"error": "cut", "retryable": true}')]
        assert outcome_of(COMPLETE, pods) == FetchOutcome(CacheState.CACHED, "", "/cache/x")
        assert outcome_of(COMPLETE, []) == FetchOutcome(CacheState.CACHED, "", None)

    def test_failed_tells_the_last_reason(self) -> None:
        first = pod('{"error": "first", "retryable": true}', ended="2026-01-01T00:01:00Z")
        last = pod('{"error": "answered 404", "retryable": false}', ended="2026-01-01T00:02:00Z")
        assert outcome_of(FAILED, [last, first]) == FetchOutcome(CacheState.FAILED, "answered 404")
        assert outcome_of(FAILED, []) == FetchOutcome(CacheState.FAILED, "Job has reached the limit")
        killed = pod("", reason="OOMKilled", code=137)
        assert outcome_of(FAILED, [killed]).message == "the fetch ended: OOMKilled (exit code 137)"

    def test_between_two_tries_it_goes_on_and_says_why_the_last_one_ended(self) -> None:
        assert outcome_of({}, []) == FetchOutcome(CacheState.FETCHING)
        assert outcome_of({"status": {}}, [pod('{"error": "cut"}')]) == FetchOutcome(CacheState.FETCHING, "cut")
        suspended = {"status": {"conditions": [{"type": "Failed", "status": "False"}]}}
        assert outcome_of(suspended, []).state == CacheState.FETCHING


def test_progress_is_read_from_the_log() -> None:
    assert parse_progress(json.dumps({"done": 5, "total": 10, "file": "a"})) == FetchProgress(5, 10)
    assert parse_progress('{"done": 5, "total": null}') == FetchProgress(5, None)
    for other in ("", "Traceback", "[]", '{"path": "/x"}', '{"done": "5"}'):
        assert parse_progress(other) is None
