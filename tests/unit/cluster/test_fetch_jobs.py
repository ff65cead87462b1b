"""Jobs that fetch weights and pull images, on an API server in memory: what they are told to say, and when they are replaced."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.cluster.switcher.fetch_jobs import CONTROLLER, JOB, STUCK_TIMEOUT, JobFetcher
from hotseat.core.messages import CacheObserved, CacheState
from hotseat.kube.client import NOT_FOUND, KubeError
from hotseat.kube.constants import EVENTS, JOBS, PODS, ClusterSettings
from hotseat.kube.jobs import job_name
from tests.fake_kube import NS, Clock, FakeKube, merged


def model(**spec: Any) -> Model:
    spec = {"engine": "llamacpp", "source": "hf://o/r/a.gguf", **spec}
    return Model.model_validate({"metadata": {"name": "qwen"}, "spec": spec})


def await_true(question: Callable[[], object]) -> None:
    until = time.monotonic() + 8
    while not question():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.005)


def never(question: Callable[[], object]) -> None:
    until = time.monotonic() + 0.15
    while time.monotonic() < until:
        assert not question()
        time.sleep(0.01)


class Home:
    """A fetcher, and what it has told."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.clock = Clock()
        self.told: list[CacheObserved] = []
        self.settings = ClusterSettings("hotseat:1", NS)
        self.uid: str | None = "m-1"
        self.fetcher = JobFetcher(
            self.kube,  # type: ignore[arg-type]
            NS,
            lambda _: self.settings,
            lambda _: self.uid,
            lambda _: None,
            clock=self.clock,
        )
        self.fetcher.begin(self.told.append)

    def fetch(self, wanted: Model) -> Json:
        self.fetcher.tell(wanted)
        self.fetcher.fetch(wanted)
        path = JOBS.path(NS, job_name(wanted))
        await_true(lambda: self.kube.find(path))
        await_true(lambda: self.state is CacheState.FETCHING)
        job = self.kube.find(path)
        assert job is not None
        return job

    def pod(self, job: Json, **parts: Any) -> Json:
        labels = {**job["metadata"]["labels"], JOB: job["metadata"]["name"], CONTROLLER: job["metadata"]["uid"]}
        meta = {"name": "p", "namespace": NS, "uid": "p", "labels": labels}
        volumes = job["spec"]["template"]["spec"]["volumes"]
        return self.kube.put(
            PODS.path(NS, "p"),
            merged({"metadata": meta, "spec": {"volumes": volumes}, "status": {"phase": "Pending"}}, parts),
        )

    def event(self, kind: str, name: str, reason: str, message: str, uid: str = "") -> None:
        of = {"kind": kind, "name": name, "uid": uid}
        event = {"metadata": {"name": reason.lower()}, "involvedObject": of, "type": "Warning", "reason": reason}
        self.kube.put(
            EVENTS.path(NS, reason.lower()), {**event, "message": message, "lastTimestamp": "2026-01-01T00:00:00Z"}
        )

    def complete(self, job: Json) -> None:
        ended = {"name": "fetch", "state": {"terminated": {"exitCode": 0, "message": '{"path": "/cache/x"}'}}}
        self.pod(job, status={"phase": "Succeeded", "containerStatuses": [ended]})
        status = {"conditions": [{"type": "Complete", "status": "True"}]}
        self.kube.put(JOBS.path(NS, job["metadata"]["name"]), merged(job, {"status": status}))
        await_true(lambda: self.state is CacheState.CACHED)

    def deletions(self) -> int:
        return sum(verb == "delete" for verb, _ in self.kube.calls)

    @property
    def state(self) -> CacheState | None:
        return self.told[-1].state if self.told else None

    @property
    def last(self) -> tuple[str, str]:
        return self.told[-1].reason, self.told[-1].message


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    yield home
    home.fetcher.close()
    home.kube.close()


def unschedulable(message: str) -> Json:
    return {
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
        "phase": "Pending",
    }


def test_a_pod_that_no_node_takes_is_told_at_once(home: Home) -> None:
    home.pod(home.fetch(model()), status=unschedulable("0/3 nodes are available: 3 Insufficient cpu."))
    await_true(lambda: home.last == ("Unschedulable", "0/3 nodes are available: 3 Insufficient cpu."))
    assert home.state is CacheState.FETCHING, "an autoscaler may add a node"


def test_a_claim_that_is_not_bound_is_told_with_the_reason(home: Home) -> None:
    job = home.fetch(model())
    home.pod(job, status=unschedulable("pod has unbound immediate PersistentVolumeClaims"))
    home.event("PersistentVolumeClaim", "qwen-cache", "FailedBinding", "no storage class is set")
    home.event("PersistentVolumeClaim", "another", "ProvisioningFailed", "of another")
    said = "pod has unbound immediate PersistentVolumeClaims; PersistentVolumeClaim qwen-cache: no storage class is set"
    await_true(lambda: home.last == ("Unschedulable", said))


def test_a_job_that_may_create_no_pod_is_told(home: Home) -> None:
    job = home.fetch(model())
    home.event("Job", job["metadata"]["name"], "FailedCreate", "exceeded quota: pods", job["metadata"]["uid"])
    home.event("Job", job["metadata"]["name"], "Old", "of an earlier Job", "other")
    await_true(lambda: home.last[0] == "FailedCreate")
    assert home.last[1] == f"Job {job['metadata']['name']}: exceeded quota: pods"


def test_a_missing_secret_and_a_missing_image_are_told(home: Home) -> None:
    job = home.fetch(model())
    for reason, told in (
        ("CreateContainerConfigError", "CreateContainerConfigError"),
        ("ImagePullBackOff", "ImagePull"),
    ):
        waiting = {"name": "fetch", "state": {"waiting": {"reason": reason, "message": "it is missing"}}}
        home.pod(job, spec={"nodeName": "node"}, status={"containerStatuses": [waiting]})
        await_true(lambda told=told: home.last == (told, "fetch: it is missing"))


def test_a_problem_that_has_passed_is_told_no_more(home: Home) -> None:
    job = home.fetch(model())
    home.pod(job, status=unschedulable("0/3 nodes"))
    await_true(lambda: home.last[0] == "Unschedulable")
    running = {"name": "fetch", "state": {"running": {}}}
    home.pod(job, spec={"nodeName": "node"}, status={"phase": "Running", "containerStatuses": [running]})
    await_true(lambda: home.last == ("FetchFailed", ""))
    home.kube.texts[PODS.path(NS, "p", "log")] = '{"done": 5, "total": 10}'
    await_true(lambda: home.told[-1].done == 5)


def test_one_that_stays_stuck_has_failed_and_is_made_anew(home: Home) -> None:
    job = home.fetch(model())
    home.pod(job, status=unschedulable("0/3 nodes"))
    await_true(lambda: home.last[0] == "Unschedulable")
    home.clock.ahead += STUCK_TIMEOUT
    home.fetcher.look(model())
    assert (home.state, *home.last) == (CacheState.FAILED, "Unschedulable", "0/3 nodes")
    home.fetcher.fetch(model())
    await_true(lambda: home.deletions() == 1 and home.state is CacheState.FETCHING)
    found = home.kube.find(JOBS.path(NS, job["metadata"]["name"]))
    assert found is not None
    assert found["metadata"]["uid"] != job["metadata"]["uid"]


def test_a_corrected_model_replaces_its_job(home: Home) -> None:
    job = home.fetch(model(credentials="misspelt"))
    home.fetcher.reconcile()
    never(home.deletions)
    home.fetcher.tell(model(credentials="hub"))
    home.fetcher.reconcile()
    path = JOBS.path(NS, job["metadata"]["name"])
    await_true(lambda: (found := home.kube.find(path)) and found["metadata"]["uid"] != job["metadata"]["uid"])
    found = home.kube.find(path)
    assert found is not None
    [container] = found["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]


def test_so_does_another_placement_of_its_workspace(home: Home) -> None:
    home.fetch(model())
    placement = home.settings.placement.model_copy(update={"node_selector": {"pool": "gpu"}})
    home.settings = replace(home.settings, placement=placement)
    home.fetcher.reconcile()
    path = JOBS.path(NS, job_name(model()))
    selector = {"pool": "gpu"}
    await_true(
        lambda: (found := home.kube.find(path)) and found["spec"]["template"]["spec"].get("nodeSelector") == selector
    )


def test_one_that_is_done_stays_and_is_told_again(home: Home) -> None:
    home.complete(home.fetch(model()))
    home.fetcher.tell(model(credentials="hub"))
    home.fetcher.reconcile()
    count = len(home.told)
    home.fetcher.fetch(model(credentials="hub"))
    await_true(lambda: len(home.told) > count)
    assert home.state is CacheState.CACHED
    assert not home.deletions()
    assert home.fetcher.path(model()) == "/cache/x"


def test_another_image_is_pulled_though_the_weights_are_there(home: Home) -> None:
    home.complete(home.fetch(model(image="llama:1")))
    home.fetcher.tell(model(image="llama:2"))
    assert home.state is CacheState.ABSENT, "it does not count as ready to load"
    home.fetcher.reconcile()
    await_true(lambda: home.deletions() == 1)
    await_true(lambda: home.state is CacheState.FETCHING)


def test_images_are_pulled_where_nothing_is_fetched(home: Home) -> None:
    wanted = model(image="llama:1", source="pvc://models/a.gguf")
    assert home.fetcher.needs_fetch(wanted)
    assert not home.fetcher.needs_fetch(model(source="pvc://models/a.gguf"))
    job = home.fetch(wanted)
    pulled = {"name": "pull", "state": {"terminated": {"exitCode": 128, "reason": "StartError"}}}
    home.pod(job, status={"phase": "Failed", "containerStatuses": [pulled]})
    failed = {"conditions": [{"type": "Failed", "status": "True", "message": "exit code"}]}
    home.kube.put(JOBS.path(NS, job["metadata"]["name"]), merged(job, {"status": failed}))
    await_true(lambda: home.state is CacheState.CACHED)
    home.fetcher.fetch(wanted)
    never(home.deletions)
    assert home.fetcher.path(wanted) is None


def test_what_the_api_server_refuses_is_a_failure(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Json:
        raise KubeError(422, 'spec.template.spec.tolerations[0].operator: must be "Exists"')

    monkeypatch.setattr(home.kube, "create", refuse)
    home.fetcher.tell(model())
    home.fetcher.fetch(model())
    await_true(lambda: home.state is CacheState.FAILED)
    assert "tolerations[0]" in home.last[1]
    monkeypatch.undo()
    home.fetcher.reconcile()
    never(lambda: home.kube.find(JOBS.path(NS, job_name(model()))))
    home.settings = replace(home.settings, image="hotseat:2")
    home.fetcher.reconcile()
    await_true(lambda: home.state is CacheState.FETCHING)


def test_events_that_may_not_be_read_stop_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    job = home.fetch(model())

    def forbid(*_: object, **__: object) -> Json:
        raise KubeError(NOT_FOUND, "forbidden")

    monkeypatch.setattr(home.kube, "get", forbid)
    home.fetcher.look(model())
    home.complete(job)
