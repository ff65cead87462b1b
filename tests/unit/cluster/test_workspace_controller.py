"""The controller of a Workspace on a cluster, and the status that it writes."""

import threading
import time
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.cluster.switcher.workspace import PUBLISH_DELAY, ClusterWorkspace
from hotseat.control.event_log import EventLog
from hotseat.core.messages import Demand, InstanceAdopted, InstanceState, QueuedDemand, Refusal, Residency, Resident
from hotseat.core.scheduler.stats import ModelStats
from tests.fakes import FakeRuntime


class Writes:
    """The API server, as far as a status needs it."""

    def __init__(self) -> None:
        self.statuses: list[dict[str, Any]] = []
        self.written = threading.Event()

    def merge(self, _path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.statuses.append(body["status"])
        self.written.set()
        return body


def test_the_next_switcher_says_nothing_of_a_workspace_before_it_knows_its_residents() -> None:
    kube, workspace = (
        Writes(),
        Workspace.model_validate({"metadata": {"name": "default"}, "spec": {"capacity": {"gpus": 1}}}),
    )
    model = Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}})
    begun = {"id": "default/6", "from": [], "to": "a", "outcome": "running", "startedAt": "2026-01-01T00:00:00Z"}
    before = {"epoch": 7, "residents": [], "routers": [{"id": "r", "pod": "r-1", "seq": 3}], "switches": [begun]}
    controller = ClusterWorkspace(
        workspace, before, runtime=FakeRuntime(), events=EventLog(), kube=kube, namespace="test"
    )
    controller.apply_config(workspace, 1, [model], {})
    controller.scheduler.send(InstanceAdopted(0.0, "a", "default/a@7", 7, "http://10.0.0.1:8012"))
    assert not kube.statuses
    controller.start()
    assert kube.written.wait(5)
    assert [(each["model"], each["state"]) for each in kube.statuses[0]["residents"]] == [("a", "ready")]
    assert kube.statuses[0]["epoch"] >= 7
    (row,) = kube.statuses[0]["switches"]
    assert (row["id"], row["outcome"]) == ("default/6", "failed"), "nobody else would end it"
    controller.stop()


def open_controller(policy: str = "batch") -> ClusterWorkspace:
    return ClusterWorkspace(
        following(policy), {}, runtime=FakeRuntime(), events=EventLog(), kube=Writes(), namespace="test"
    )


def following(policy: str) -> Workspace:
    return Workspace.model_validate({"metadata": {"name": "default"}, "spec": {"policy": {"name": policy}}})


def routers(controller: ClusterWorkspace) -> list[str]:
    return [router.id for router in controller.routers]


def test_a_late_word_of_a_router_that_has_left_does_not_deafen_the_one_that_lives_in_its_pod_now() -> None:
    controller = open_controller()
    controller.report_demand(Demand("old", 1, 0), "router-0", through_broker=True)
    controller.report_demand(Demand("new", 1, 0), "router-0", through_broker=False)
    assert routers(controller) == ["new"], "a pod has one router"
    controller.report_demand(Demand("old", 2, 0), "router-0", through_broker=True)
    assert routers(controller) == ["new"]


def test_a_router_whose_goodbye_is_faster_than_its_first_word_is_not_enrolled() -> None:
    controller = open_controller()
    controller.remove_router("brief")
    controller.report_demand(Demand("brief", 1, 0), "router-0", through_broker=True)
    assert routers(controller) == []


def test_a_broker_that_was_slow_once_delivers_again() -> None:
    controller = open_controller()
    waiting = {"a": QueuedDemand(1, 0.0)}

    def delivered() -> str:
        (found,) = [each for each in controller.build_status()["conditions"] if each["type"] == "EventsDelivered"]
        return str(found["status"])

    controller.report_demand(Demand("r", 1, 0), "r-0", through_broker=True)
    assert delivered() == "Unknown", "nobody waited"
    controller.report_demand(Demand("r", 2, 0, waiting), "r-0", through_broker=False)
    assert delivered() == "False"
    controller.report_demand(Demand("r", 3, 0), "r-0", through_broker=False)
    assert delivered() == "False"
    controller.report_demand(Demand("r", 4, 0), "r-0", through_broker=True)
    assert delivered() == "True"


def resident(model: str, state: InstanceState, address: str | None = "http://10.0.0.1:8012") -> Resident:
    return Resident(model, f"default/{model}@1", state, 1, 0.0, address)


A_READY, A_DRAINING, A_RELEASING = (
    resident("a", state) for state in (InstanceState.READY, InstanceState.DRAINING, InstanceState.RELEASING)
)
B_LOADING = resident("b", InstanceState.LOADING, None)


@pytest.mark.parametrize(
    ("before", "after", "at_once"),
    [
        ((), (B_LOADING,), False),
        ((A_RELEASING,), (), False),
        ((A_DRAINING,), (A_RELEASING,), False),
        ((A_READY,), (A_READY, B_LOADING), False),
        ((A_READY,), (A_DRAINING,), True),
        ((A_DRAINING,), (A_READY,), True),
        ((B_LOADING,), (resident("b", InstanceState.READY),), True),
        ((A_READY,), (resident("a", InstanceState.READY, "http://10.0.0.2:8012"),), True),
    ],
)
def test_a_residency_that_changes_nothing_for_requests_is_written_after_what_the_runtime_writes(
    monkeypatch: pytest.MonkeyPatch, before: tuple[Resident, ...], after: tuple[Resident, ...], at_once: bool
) -> None:
    controller, delays = open_controller(), list[float]()
    controller.publish(Residency(1, before))
    monkeypatch.setattr(controller._status_writer, "mark", delays.append)
    controller.publish(Residency(2, after))
    assert delays == [0.0 if at_once else PUBLISH_DELAY]
    controller.publish(Residency(3, after, {"c": Refusal(3, "no_fit", "it does not fit")}))
    assert delays[1] == 0.0, "requests that wait are answered"


def test_a_stop_at_the_drain_deadline_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, delays = open_controller(), list[float]()
    controller.publish(Residency(1, (A_DRAINING,)))
    monkeypatch.setattr(controller._status_writer, "mark", delays.append)
    monkeypatch.setattr(controller.scheduler, "queue", lambda: {"a": (0, 0.0, 1)})
    controller.publish(Residency(2, (A_RELEASING,)))
    assert delays == [0.0], "the router ends its request with our error"


def ready(controller: ClusterWorkspace) -> tuple[str, str, str]:
    (found,) = [each for each in controller.build_status()["conditions"] if each["type"] == "Ready"]
    return found["status"], found["reason"], found["message"]


def test_a_policy_that_nobody_has_costs_a_workspace_its_readiness_and_not_its_work() -> None:
    controller = open_controller("fairest")
    state, reason, message = ready(controller)
    assert (state, reason) == ("False", "UnknownPolicy")
    assert "fairest" in message
    assert "available: batch" in message
    controller.apply_config(following("batch"), 2, (), {})
    assert ready(controller)[:2] == ("True", "Switching")
    controller.apply_config(following("nicest"), 3, (), {})
    assert ready(controller)[1] == "UnknownPolicy"


def test_what_it_learned_goes_with_what_is_written_anyway_and_the_next_switcher_begins_with_it() -> None:
    models = [Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "mock"}}) for name in "ab"]
    workspace, marks = following("batch"), {"a": "mark-a", "b": "mark-b"}

    def begin(status: dict[str, Any], **marks: str) -> tuple[ClusterWorkspace, Writes]:
        kube, runtime = Writes(), FakeRuntime()
        controller = ClusterWorkspace(
            workspace, status, runtime=runtime, events=EventLog(), kube=kube, namespace="test"
        )
        controller.apply_config(workspace, 1, models, marks)
        runtime.begin(models, controller.scheduler.send)
        controller.start()
        return controller, kube

    first, kube = begin({}, **marks)
    for name in "aba":
        assert first.load(name, 5).state == "ready"
    assert first.scheduler.wait_for(lambda: "stop" in first.scheduler.stats().get("b", ModelStats("")).times, 30)
    deadline = time.monotonic() + 5
    while not (status := merged(kube))["learned"] or status["learned"] != first.build_status()["learned"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.stop()
    assert not [each for each in kube.statuses if each.keys() <= {"learned", "outlook", "outlookAt"}], (
        "no write of its own"
    )
    assert {row["model"]: set(row) for row in status["learned"]} == {
        name: {"model", "mark", "load", "stop"} for name in "ab"
    }

    second, kube = begin(status, **{**marks, "b": "another"})
    assert kube.written.wait(5)
    assert [row["model"] for row in kube.statuses[0]["learned"]] == ["a"], "b has changed meanwhile"
    assert kube.statuses[0]["learned"][0] == next(row for row in status["learned"] if row["model"] == "a")
    second.stop()


def test_what_nobody_can_read_of_what_was_learned_costs_no_more_than_that(caplog: pytest.LogCaptureFixture) -> None:
    status = {"epoch": 7, "learned": [{"model": "a", "load": "long"}]}
    controller = ClusterWorkspace(
        following("batch"), status, runtime=FakeRuntime(), events=EventLog(), kube=Writes(), namespace="test"
    )
    assert (controller.scheduler.residency.epoch, controller.build_status()["learned"]) == (7, [])
    assert "cannot read the learned statistics" in caplog.text


def merged(kube: Writes) -> dict[str, Any]:
    """The status as all that was written makes it."""
    whole: dict[str, Any] = {"learned": []}
    for each in kube.statuses:
        whole |= each
    return whole


def test_prompts_are_kept_on_disk_only_and_of_models_that_can() -> None:
    runtime = FakeRuntime()
    models = [Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "mock"}}) for name in "abc"]

    def keeping(storage: str) -> Workspace:
        spec = {"promptCache": {"storage": storage, "budget": "1Ki", "timeout": "3s"}}
        return Workspace.model_validate({"metadata": {"name": "default"}, "spec": spec})

    controller = ClusterWorkspace(
        keeping("Disk"), {}, runtime=runtime, events=EventLog(), kube=Writes(), namespace="test"
    )
    applied: list[Any] = []
    controller._timer.configure = lambda _models, specs, *_, **__: applied.append(specs)
    controller.apply_config(keeping("Disk"), 1, models, {}, prompts={"a": "", "b": "it has no claim"})
    assert [applied[-1][name].prompt_timeout for name in "abc"] == [3.0, 0.0, 0.0]
    assert (controller.capacity.prompts, controller.capacity.prompts_in_memory) == (1024, False)
    conditions = {each["type"]: each for each in controller.build_status()["conditions"]}
    assert conditions["PromptCacheKept"]["message"] == "b: it has no claim"
    controller.apply_config(keeping("Memory"), 2, models, {})
    assert controller.capacity.prompts == 0
