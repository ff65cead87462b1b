"""Weights are brought by a Job that lands where the GPU pod will, and says how it went."""

import json
from dataclasses import replace
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import CacheState
from hotseat.kube.constants import FINGERPRINT, ClusterSettings
from hotseat.kube.jobs import (
    FetchOutcome,
    FetchProgress,
    blocking_object,
    fetches,
    job_name,
    job_of,
    must_replace,
    outcome_of,
    parse_progress,
    problem_of,
)

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
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n"},
        "status": {"containerStatuses": [{"name": "fetch", "state": state}]},
    }


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
    for each in made["containers"]:
        assert each["securityContext"]["runAsUser"] == 0  # as the engine, who must read what it writes
        assert "limits" not in each["resources"]


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
    ],
)
def test_what_needs_no_fetch_has_no_container_for_it(spec: dict[str, Any]) -> None:
    made = job_of(model(**spec), SETTINGS, "1234")
    assert made is None or not fetches(made)


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": "mock"},
        {"engine": "external", "source": None, "url": "http://a"},
        {"engine": "llamacpp", "source": "/a"},
    ],
)
def test_what_has_nothing_to_fetch_or_pull_has_no_job(spec: dict[str, Any]) -> None:
    assert job_of(model(**spec), SETTINGS, "1234") is None


class TestPull:
    """The image of the engine is pulled before anything is evicted for it."""

    def test_beside_the_fetch(self) -> None:
        fetch, pull = job()["spec"]["template"]["spec"]["containers"]
        assert (fetch["name"], pull["name"]) == ("fetch", "pull")
        assert pull["image"].startswith("vllm/vllm-openai:")
        assert pull["command"] == ["true"]

    def test_where_there_is_nothing_to_fetch(self) -> None:
        made = job(engine="custom", image="any:1", source="pvc://models/a", command=["serve", "{port}"], podTemplate={
            "spec": {"initContainers": [{"name": "extra", "image": "more:1"}], "containers": [{"name": "engine", "image": "other:1"}]}
        })  # fmt: skip
        pod = made["spec"]["template"]["spec"]
        assert made["metadata"]["name"].startswith("qwen-pull-")
        assert [(each["name"], each["image"]) for each in pod["containers"]] == [
            ("pull", "more:1"),
            ("pull-1", "other:1"),
        ]
        claims = [
            each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each
        ]
        assert claims == ["models"], "it runs where the engine can"

    def test_not_of_hotseats_own_image_which_the_fetch_has_pulled(self) -> None:
        containers = job(engine="llamacpp", source="hf://o/r/a.gguf")["spec"]["template"]["spec"]["containers"]
        assert [each["name"] for each in containers] == ["fetch"]

    def test_an_image_without_a_program_called_true_is_pulled_all_the_same(self) -> None:
        made = job() | FAILED
        rules = made["spec"]["podFailurePolicy"]["rules"]
        assert rules[-1]["onExitCodes"] == {"containerName": "pull", "operator": "In", "values": [126, 127, 128]}
        not_run = {"name": "pull", "state": {"terminated": {"reason": "StartError", "exitCode": 128}}}
        fetched = pod('{"path": "/cache/x"}', code=0)
        fetched["status"]["containerStatuses"].append(not_run)
        assert outcome_of(made, [fetched]) == FetchOutcome(CacheState.CACHED, "", "/cache/x")
        failed = pod('{"error": "answered 404"}', code=2)
        failed["status"]["containerStatuses"].append(not_run)
        assert outcome_of(made, [failed]) == FetchOutcome(CacheState.FAILED, "answered 404")

    def test_so_it_is_where_the_container_is_never_created(self) -> None:
        found = pod('{"path": "/cache/x"}', code=0)
        waits = {"name": "pull", "state": {"waiting": {"reason": "CreateContainerError", "message": "no such file"}}}
        found["status"]["containerStatuses"].append(waits)
        assert outcome_of(job(), [found]) == FetchOutcome(CacheState.CACHED, "", "/cache/x")

    def test_an_image_that_is_still_being_pulled_is_waited_for(self) -> None:
        found = pod('{"path": "/cache/x"}', code=0)
        for reason, told in (("ContainerCreating", ""), ("ErrImagePull", "ImagePull")):
            waits = {"name": "pull", "state": {"waiting": {"reason": reason, "message": "429"}}}
            found["status"]["containerStatuses"] = [*found["status"]["containerStatuses"][:1], waits]
            assert (outcome_of(job(), [found]).state, outcome_of(job(), [found]).reason) == (CacheState.FETCHING, told)

    def test_a_pod_that_was_deleted_before_has_pulled_nothing(self) -> None:
        found = pod('{"path": "/cache/x"}', code=0)
        killed = {"name": "pull", "state": {"terminated": {"reason": "ContainerStatusUnknown", "exitCode": 137}}}
        found["status"]["containerStatuses"].append(killed)
        assert outcome_of(job(), [found]).state is CacheState.FETCHING


class TestReplacement:
    def test_a_job_that_differs_is_replaced_while_it_is_not_done(self) -> None:
        assert not must_replace(job(), job(args=["--x"]), done=False)
        assert must_replace(job(), job(credentials="hub"), done=False)
        assert not must_replace(job(), job(credentials="hub"), done=True)

    def test_one_that_is_done_is_replaced_for_another_volume_or_image(self) -> None:
        assert must_replace(job(), job(image="vllm:2"), done=True)
        assert must_replace(job(), job(cache={"existingClaim": "shared"}), done=True)
        newer = job_of(model(), replace(SETTINGS, image="hotseat:2"), "1234")
        assert newer is not None
        assert not must_replace(job(), newer, done=True), "an upgrade of hotseat fetches nothing again"


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
        assert outcome_of(job() | COMPLETE, pods) == FetchOutcome(CacheState.CACHED, "", "/cache/x")
        assert outcome_of(job() | COMPLETE, []) == FetchOutcome(CacheState.CACHED, "", None)

    def test_failed_tells_the_last_reason(self) -> None:
        first = pod('{"error": "first", "retryable": true}', ended="2026-01-01T00:01:00Z")
        last = pod('{"error": "answered 404", "retryable": false}', ended="2026-01-01T00:02:00Z")
        assert outcome_of(job() | FAILED, [last, first]) == FetchOutcome(CacheState.FAILED, "answered 404")
        assert outcome_of(job() | FAILED, []) == FetchOutcome(CacheState.FAILED, "Job has reached the limit")
        killed = pod("", reason="OOMKilled", code=137)
        assert outcome_of(job() | FAILED, [killed]).message == "the fetch ended: OOMKilled (exit code 137)"

    def test_between_two_tries_it_goes_on_and_says_why_the_last_one_ended(self) -> None:
        assert outcome_of(job(), []) == FetchOutcome(CacheState.FETCHING)
        assert outcome_of(job() | {"status": {}}, [pod('{"error": "cut"}')]) == FetchOutcome(CacheState.FETCHING, "cut")
        suspended = {"status": {"conditions": [{"type": "Failed", "status": "False"}]}}
        assert outcome_of(job() | suspended, []).state == CacheState.FETCHING


def pending(*statuses: Json, node: str = "n", **status: Any) -> Json:
    return {
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": node,
            "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "qwen-cache"}}],
        },
        "status": {"phase": "Pending", "containerStatuses": list(statuses), **status},
    }


def waiting(reason: str, message: str = "", name: str = "fetch") -> Json:
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "pod has unbound immediate PersistentVolumeClaims",
}


class TestProblems:
    """A fetch that cannot run says why."""

    @pytest.mark.parametrize(
        ("found", "reason", "message"),
        [
            (pending(node="", conditions=[UNSCHEDULABLE]), "Unschedulable", UNSCHEDULABLE["message"]),
            (pending(waiting("ErrImagePull", "no such host")), "ImagePull", "fetch: no such host"),
            (pending(waiting("ImagePullBackOff", "Back-off", "pull")), "ImagePull", "pull: Back-off"),
            (pending(waiting("InvalidImageName")), "ImagePull", "fetch: InvalidImageName"),
            (
                pending(waiting("CreateContainerConfigError", 'secret "hub" not found')),
                "CreateContainerConfigError",
                'fetch: secret "hub" not found',
            ),
        ],
    )
    def test_by_its_pod(self, found: Json, reason: str, message: str) -> None:
        assert outcome_of(job(), [found]) == FetchOutcome(CacheState.FETCHING, message, None, reason)

    def test_not_while_it_fetches(self) -> None:
        runs = {"name": "fetch", "state": {"running": {}}}
        assert outcome_of(job(), [pending(runs, waiting("ErrImagePull", "429", "pull"))]).reason == ""
        assert blocking_object(job(), [pending(runs)]) is None

    def test_by_the_events_of_what_holds_it_up(self) -> None:
        assert blocking_object(job(), []) == ("Job", job()["metadata"]["name"])
        assert blocking_object(job(), [pending(node="")]) == ("PersistentVolumeClaim", "qwen-cache")
        assert blocking_object(job(), [pending(waiting("ContainerCreating"))]) == ("Pod", "p")

    def test_the_newest_event_that_is_a_problem_counts(self) -> None:
        def event(kind: str, reason: str, at: int) -> Json:
            return {"type": kind, "reason": reason, "message": "m", "lastTimestamp": f"2026-01-01T00:00:0{at}Z"}

        mounting, pulling = event("Warning", "FailedMount", 1), event("Normal", "Pulling", 2)
        assert problem_of("Pod", [mounting]) == ("FailedMount", "m")
        assert problem_of("Pod", [pulling, mounting]) is None, "the volume is mounted by now"
        assert problem_of("Job", [event("Warning", "FailedCreate", 1)]) == ("FailedCreate", "m")
        provisioning = event("Normal", "ExternalProvisioning", 3)
        assert (
            problem_of("PersistentVolumeClaim", [event("Warning", "ProvisioningFailed", 2), provisioning]) is not None
        )
        assert problem_of("PersistentVolumeClaim", [event("Normal", "FailedBinding", 2)]) == ("FailedBinding", "m")
        assert problem_of("PersistentVolumeClaim", [event("Normal", "WaitForFirstConsumer", 2)]) is None


def test_progress_is_read_from_the_log() -> None:
    assert parse_progress(json.dumps({"done": 5, "total": 10, "file": "a"})) == FetchProgress(5, 10)
    assert parse_progress('{"done": 5, "total": null}') == FetchProgress(5, None)
    for other in ("", "Traceback", "[]", '{"path": "/x"}', '{"done": "5"}'):
        assert parse_progress(other) is None
