"""Pins on a cluster: orders become annotations, and annotations are followed."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import Workspace
from hotseat.cluster.switcher.http_api import PinAnnotations, RemoteCommands
from hotseat.cluster.switcher.model_objects import ModelObjects, read
from hotseat.cluster.switcher.workspace import ClusterWorkspace
from hotseat.control.event_log import EventLog
from hotseat.control.scheduling_spec import scheduling_spec_of
from hotseat.core.errors import BadRequest, Unavailable
from hotseat.core.messages import InstanceAdopted
from hotseat.kube.client import KubeError
from hotseat.kube.constants import ClusterSettings
from tests.fakes import FakeRuntime
from tests.unit.cluster.test_model_objects import adopted, model, workspace

SETTINGS = ClusterSettings("hotseat:1", "ns")
PINNED = "hotseat.dev/pinned"


class Api:
    """The API server: keeps annotations, or refuses them."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, Any]] = []
        self.refuses = False

    def merge(self, path: str, body: Json) -> Json:
        if path.endswith("/status"):
            return body
        if self.refuses:
            raise KubeError(403, "Forbidden", "models is forbidden")
        self.patches.append(
            (path.rsplit("/", 2)[-2] + "/" + path.rsplit("/", 1)[-1], body["metadata"]["annotations"][PINNED])
        )
        return body


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def controller(api: Api) -> Iterator[ClusterWorkspace]:
    home = Workspace.model_validate({"metadata": {"name": "default"}})
    controller = ClusterWorkspace(home, {}, runtime=FakeRuntime(), events=EventLog(), kube=api, namespace="ns")
    documents = read([workspace()], [model("a"), model("b")], [], SETTINGS, {})
    controller.apply_config(home, 1, [r.model for r in documents.models.values()], {})
    controller.scheduler.send(InstanceAdopted(time.monotonic(), "a", "default/a@7", 7, "http://10.0.0.1:8012"))
    controller.start()
    yield controller
    controller.stop()
    controller.scheduler.shut_down()
    controller.scheduler.stop(0.0)


@pytest.fixture
def orders(api: Api, controller: ClusterWorkspace) -> RemoteCommands:
    documents = read([workspace()], [model("a"), model("b")], [], SETTINGS, {})
    return RemoteCommands({"default": controller}, PinAnnotations(api, "ns", lambda: documents))


def order(what: str, name: str = "a", wait: float | None = 0) -> Json:
    return {"order": what, "workspace": "default", "model": name, "wait": wait}


def pinned(controller: ClusterWorkspace) -> list[str]:
    return [row["name"] for row in controller.build_status()["models"] if row.get("pinned")]


def test_a_pin_holds_at_once_and_is_written_on_the_model(
    orders: RemoteCommands, controller: ClusterWorkspace, api: Api
) -> None:
    assert orders.execute(order("pin")) == {"state": "ready", "message": "", "pinned": True}
    assert api.patches == [("models/a", "true")]
    assert pinned(controller) == ["a"]
    assert orders.execute(order("unpin"))["pinned"] is False
    assert api.patches[1:] == [("models/a", None)]
    assert pinned(controller) == []


def test_a_pin_that_waits_answers_when_the_model_is_there(orders: RemoteCommands) -> None:
    assert orders.execute(order("pin", wait=5.0))["state"] == "ready"


def test_weights_can_be_fetched_without_a_load(orders: RemoteCommands) -> None:
    assert orders.execute(order("fetch", "b")) == {"state": "unloaded", "message": "", "pinned": False}


def test_a_pin_that_cannot_be_kept_is_none(orders: RemoteCommands, controller: ClusterWorkspace, api: Api) -> None:
    api.refuses = True
    with pytest.raises(Unavailable, match=r"cannot write the annotation hotseat\.dev/pinned of a") as told:
        orders.execute(order("pin"))
    assert told.value.code == "pin_not_kept"
    assert pinned(controller) == []


def test_a_pin_without_space_is_refused_before_anything_is_written(orders: RemoteCommands, api: Api) -> None:
    orders.execute(order("pin", "a"))
    with pytest.raises(Unavailable, match="hotseat unpin a") as told:
        orders.execute(order("pin", "b"))
    assert told.value.code == "pinned"
    assert api.patches == [("models/a", "true")]


def test_an_order_that_an_older_switcher_would_not_know_is_named(orders: RemoteCommands) -> None:
    with pytest.raises(BadRequest, match="allowed: load, fetch, unload, pin, unpin, goodbye"):
        orders.execute(order("park"))


def is_pinned(found: ModelObjects, name: str) -> bool:
    return scheduling_spec_of(found.models[name].model, found.workspaces["default"][0]).pinned


@pytest.mark.parametrize(("value", "holds"), [("true", True), ("false", False), ("yes", False)])
def test_the_next_switcher_reads_the_annotation(value: str, holds: bool) -> None:
    document = model("a")
    document["metadata"]["annotations"] = {PINNED: value, "somebody/else": "x"}
    found = read([workspace()], [document], [], SETTINGS, {})
    assert is_pinned(found, "a") is holds
    assert found.models["a"].problem == ""


def test_a_ksvc_is_pinned_on_itself_against_its_template(api: Api) -> None:
    service = adopted("k")
    service["spec"]["template"]["metadata"]["annotations"][PINNED] = "true"
    found = read([workspace()], [], [service], SETTINGS, {})
    assert is_pinned(found, "k")
    PinAnnotations(api, "ns", lambda: found).write("k", pinned=False)
    assert api.patches == [("services/k", "false")]
    service["metadata"]["annotations"] = {PINNED: "false"}
    assert not is_pinned(read([workspace()], [], [service], SETTINGS, {}), "k")
    service["metadata"]["annotations"] = {PINNED: "on"}
    assert "hotseat.dev/pinned is 'on'; allowed" in read([workspace()], [], [service], SETTINGS, {}).models["k"].problem


def test_a_schedule_that_no_api_server_can_judge_is_the_models_problem() -> None:
    bad = model("a", lifecycle={"schedule": [{"start": "0 8 * * 5-1", "duration": "1h", "timeZone": "Europe/Berlni"}]})
    _, problem = read([workspace()], [bad], [], SETTINGS, {}).invalid["a"]
    assert problem == (
        "lifecycle.schedule[0].timeZone is not a known time zone; "
        "lifecycle.schedule[0].start is not a valid cron time: Bad day-of-week"
    )


def test_the_default_model_may_be_given_by_any_name() -> None:
    home = Workspace.model_validate(
        {"metadata": {"name": "w"}, "spec": {"defaultModel": "gpt", "returnToDefault": "5m"}}
    )
    named, other = (
        Model.model_validate({"metadata": {"name": n}, "spec": {"engine": "mock", "names": names}})
        for n, names in (("a", ["gpt"]), ("b", []))
    )
    assert (scheduling_spec_of(named, home).return_after, scheduling_spec_of(other, home).return_after) == (300.0, 0.0)
