"""What kubectl tells of switches: the columns of a Workspace, its waits, and the Events of Models and Workspaces."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.cluster.switcher.status_objects import story_columns
from hotseat.cluster.switcher.status_writer import ModelStatusWriter, StatusWriter
from hotseat.control.codec import to_rfc3339
from hotseat.core.messages import Demand, InstanceState, QueuedDemand, Residency, Resident, Wait, WaitReason
from hotseat.core.scheduler.history import Eviction, Switch
from hotseat.kube.constants import EVENTS, MODELS, WORKSPACES
from tests.fake_kube import NS, FakeKube

from .fake_switcher import Home

COLUMNS = ("resident", "switching", "waitingFor")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(monkeypatch)
    home.start()
    yield home
    home.close()


def test_a_workspace_tells_of_a_switch_from_the_request_until_it_is_served(home: Home) -> None:
    home.write("a")
    home.write("b", names=["bee"])
    home.load("a")
    assert [home.status().get(column) for column in COLUMNS] == ["a", None, None]
    (instance,) = [each["instance"] for each in home.status()["residents"]]
    oldest = time.monotonic()

    def wait(busy: bool = True) -> None:
        home.seq += 1
        flight = {instance: 1} if busy else {}
        home.send(Demand("router-1", home.seq, home.status()["epoch"], {"b": QueuedDemand(2, oldest, 0)}, flight))

    wait()
    home.until(lambda: home.status().get("waitingFor") == "2 b (Batch)")
    assert home.status()["since"] == home.status()["residents"][0]["since"]
    (told,) = home.status()["waits"]
    assert (told["model"], told["reason"], told["behind"]) == ("b", "Batch", ["a"])
    assert told["message"].startswith(
        "a is resident and serves 1 request in flight; it ends its turn at the latest when"
    )
    home.write_workspace({"capacity": {"gpus": 1}, "policy": {"maxWait": "1ms"}})
    home.until(lambda: home.status().get("switching") == "b: draining a")
    home.until(lambda: home.status().get("waitingFor") == "2 b (Draining)")
    assert home.status()["waits"][0]["message"] == "a drains for bee: it serves 1 request in flight first"
    home.until(lambda: wait(busy=False) or ("b", "ready") in home.residents())
    home.ask()
    home.until(lambda: [home.status().get(column) for column in COLUMNS] == ["b", None, None])
    assert home.status()["waits"] == []


def test_the_phases_of_a_switch_in_a_column() -> None:
    switch = Switch("w/1", "w", "b", "demand", 1.0, 1.0, 1, {"a": Eviction("a", draining=1.0), "c": Eviction("c")})

    def said() -> Any:
        return story_columns(Residency(), [switch], {}, {})["switching"]

    assert said() == "b: draining a, c"
    switch.leaving["a"].stopping = 2.0
    assert said() == "b: draining c"
    switch.leaving["c"].stopping = switch.leaving["c"].released = 2.0
    assert said() == "b: releasing a"
    switch.leaving["a"].released = 3.0
    assert said() == "b: starting"
    switch.started = 3.0
    assert said() == "b: loading"
    switch.woken = True
    assert said() == "b: waking"
    switch.restoring = 4.0
    assert said() == "b: restoring"
    switch.outcome = "completed"
    assert said() is None


def test_the_columns_name_a_few_models_that_wait() -> None:
    queue = {name: (count, 0.0, 0) for count, name in enumerate("abcdef")}
    waits = {"b": Wait(WaitReason.BATCH, "…")}
    residents = (
        Resident("a", "w/a@1", InstanceState.READY, 1, 5.0),
        Resident("x", "x@external", InstanceState.READY, 0, 0.0),
        Resident("p", "w/p@1", InstanceState.PARKED, 1, 9.0),
    )
    assert story_columns(Residency(1, residents), [], queue, waits) == {
        "switching": None,
        "waitingFor": "1 b (Batch), 2 c, 3 d, 4 e, 1 more",
        "since": to_rfc3339(5.0),
    }


def test_what_changes_with_time_alone_is_not_written() -> None:
    kube, status = FakeKube(), {"waitingFor": "1 b (Batch)", "waits": [{"model": "b", "expectedAt": "soon"}]}
    at = WORKSPACES.path(NS, "default")
    kube.put(at, {"metadata": {"name": "default"}})
    writer = StatusWriter(kube, f"{at}/status", lambda: dict(status), only_along=("waits",))  # type: ignore[arg-type]
    writer.write()
    kube.calls.clear()
    status["waits"] = [{"model": "b", "expectedAt": "later"}]
    writer.write()
    assert kube.calls == []
    status["waitingFor"] = "2 b (Batch)"
    writer.write()
    assert len(kube.calls) == 1
    assert kube.objects[at]["status"] == status


SWITCH = {"from": ["a"], "to": "b", "reason": "demand"}
PHASES = {"wait": 1.0, "drain": 0.5, "release": 0.25, "load": 0.0}


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("switch.started", {**SWITCH, "waiting": 3}, ("Normal", "SwitchStarted", "a → b (demand, 3 queued)")),
        (
            "switch.completed",
            {**SWITCH, "phases": {**PHASES, "load": 2.0, "total": 2.75}},
            ("Normal", "SwitchCompleted", "a → b in 2.75 s (drain 0.50 s, release 0.25 s, load 2.00 s)"),
        ),
        (
            "switch.failed",
            {**SWITCH, "from": [], "phases": PHASES, "message": "exit code 1"},
            ("Warning", "SwitchFailed", "nothing → b: exit code 1"),
        ),
        (
            "switch.cancelled",
            {**SWITCH, "phases": PHASES, "message": "no request is queued"},
            ("Normal", "SwitchCancelled", "a → b: no request is queued"),
        ),
        (
            "model.failed",
            {"reason": "OutOfMemory", "message": "killed"},
            ("Warning", "ModelFailed", "OutOfMemory: killed"),
        ),
    ],
)
def test_switches_and_failures_are_events_of_the_model_and_its_workspace(
    kind: str, data: dict[str, Any], said: tuple[str, str, str]
) -> None:
    kube = FakeKube()
    writer = ModelStatusWriter(kube, NS, lambda: ({}, {}))  # type: ignore[arg-type]
    objects = {
        (resource.kind, name): {
            "apiVersion": "hotseat.dev/v1alpha1",
            "kind": resource.kind,
            "metadata": {"name": name, "uid": f"uid-{name}"},
        }
        for resource, name in ((MODELS, "b"), (WORKSPACES, "default"))
    }
    event = {"type": f"dev.hotseat.{kind}.v1", "source": "/hotseat/test/default", "metadataname": "b", "data": data}
    writer.record(event, objects)
    writer.record({**event, "type": "dev.hotseat.model.ready.v1"}, objects)  # is none of them
    writer._write()
    written = [item for at, item in kube.objects.items() if at.startswith(EVENTS.path(NS))]
    assert [(each["type"], each["reason"], each["message"]) for each in written] == [said, said]
    assert [each["involvedObject"]["uid"] for each in written] == ["uid-b", "uid-default"]
