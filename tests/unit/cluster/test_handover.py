"""Pods that run before their Workspace is created count once it is."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.functions import FunctionSettings
from hotseat.cluster.switcher.app import SwitcherApp
from hotseat.cluster.switcher.model_objects import read
from hotseat.cluster.switcher.observations import PendingObservations
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    InstanceAdopted,
    InstanceReady,
    InstanceReleased,
    Observation,
)
from hotseat.kube.client import Kube
from hotseat.kube.constants import ClusterSettings

WORKSPACE = {"metadata": {"name": "default", "generation": 1}, "spec": {"capacity": {"gpus": 1}}}
INSTANCE = "default/a@7"
NOW = 5.0
ADOPTED = InstanceAdopted(NOW, "a", INSTANCE, 7, None)
READY = InstanceReady(NOW, INSTANCE, 7, "http://10.0.0.1:8012")
RELEASED = InstanceReleased(NOW, INSTANCE, 7)
CACHED = CacheObserved(NOW, "a", CacheState.CACHED)


class Statuses:
    """The API server, as far as a Workspace's status needs it."""

    namespace = "test"

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}
        self.written = threading.Event()

    def merge(self, _path: str, body: dict[str, Any]) -> None:
        self.status |= body["status"]
        self.written.set()


@pytest.fixture
def kube() -> Statuses:
    return Statuses()


@pytest.fixture
def app(kube: Statuses, monkeypatch: pytest.MonkeyPatch) -> SwitcherApp:
    monkeypatch.setattr(Kube, "connect", lambda: kube)
    return SwitcherApp(
        FunctionSettings(
            namespace="test", broker="", switcher="", key=DemandKeys(b"k" * 16), objects=ClusterSettings("hotseat", "", "gpu"),
            port=0, admin_port=None, pod="switcher-0", log_level="info", max_requests=1,
        )
    )  # fmt: skip


def residents(app: SwitcherApp, kube: Statuses, seen: list[Observation]) -> list[tuple[str, str]]:
    """Let the runtime see this, and only then make the Workspace; what its first status says."""
    model = {"metadata": {"name": "a", "uid": "m", "generation": 1}, "spec": {"engine": "mock"}}
    app._workspace_by_model = {"a": "default"}
    app._leading = True
    for observation in seen:
        app._observe(replace(observation, now=time.monotonic()))  # the module may have been read long ago
    app._documents = read([WORKSPACE], [model], [], ClusterSettings("hotseat", "test"), {})
    app._apply_workspaces()
    assert kube.written.wait(5)
    app._controllers["default"].stop()
    return [(each["instance"], each["state"]) for each in kube.status["residents"]]


def test_a_pod_that_ran_before_its_workspace_was_made_is_counted(app: SwitcherApp, kube: Statuses) -> None:
    assert residents(app, kube, [CACHED, ADOPTED]) == [(INSTANCE, "loading")]


def test_what_became_of_it_meanwhile_is_known_too(app: SwitcherApp, kube: Statuses) -> None:
    assert residents(app, kube, [ADOPTED, READY]) == [(INSTANCE, "ready")]


def test_what_has_gone_meanwhile_takes_no_seat(app: SwitcherApp, kube: Statuses) -> None:
    assert residents(app, kube, [ADOPTED, READY, RELEASED]) == []


def test_what_was_adopted_again_is_not_taken_for_gone(app: SwitcherApp, kube: Statuses) -> None:
    assert residents(app, kube, [ADOPTED, RELEASED, ADOPTED]) == [(INSTANCE, "loading")]


def test_instances_are_told_first_so_that_nothing_is_started_on_their_seats() -> None:
    told: list[Observation] = []
    controller: Any = SimpleNamespace(name="default", scheduler=SimpleNamespace(send=told.append))
    handover = PendingObservations({})
    for observation in (CACHED, ADOPTED):
        handover.send("default", observation)
    handover.attach(controller)
    handover.send("default", READY)
    assert told == [ADOPTED, CACHED, READY]
