"""Documents that change under a house: what waits goes on waiting, one Workspace's trouble is its own, nothing stays behind."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hotseat.api.model import Capability, Model
from hotseat.api.workspace import Workspace
from hotseat.control.event_log import EventLog
from hotseat.control.local_workspaces import LocalWorkspace, LocalWorkspaces
from hotseat.core.errors import UnknownModel
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.wait_headers import WaitOptions

from ..fakes import FakeRuntime  # noqa: TID252


def model(name: str, workspace: str = "default", **spec: Any) -> Model:
    return Model.model_validate(
        {"metadata": {"name": name}, "spec": {"engine": "mock", "workspace": workspace, **spec}}
    )


def workspace(name: str = "default", **spec: Any) -> Workspace:
    return Workspace.model_validate({"metadata": {"name": name}, "spec": spec})


def eventually(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def house(runtime: FakeRuntime) -> Iterator[LocalWorkspaces]:
    house = LocalWorkspaces(runtime, EventLog(), time.monotonic)
    yield house
    house.close(5)


def held(house: LocalWorkspaces, name: str, *, asked: str | None = None) -> RoutedRequest:
    """A request that waits."""
    course = RoutedRequest(house, house.find(name), asked or name, Capability.CHAT)
    course.submit(WaitOptions())
    assert course.ticket.dispatched is None
    return course


def followed(course: RoutedRequest) -> None:
    """Do what the request's thread does when it is refused."""
    error = course.ticket.error
    assert error is not None
    assert course.give_way(error)


@pytest.mark.parametrize(
    ("workspaces", "models"),
    [
        (["new"], [model("a", "new")]),
        (["default", "new"], [model("a", "new")]),
        (["new", "default"], [model("b", "default"), model("a", "new")]),
        (["default"], [model("other", names=["other", "a"])]),
    ],
    ids=["its Workspace renamed", "moved", "moved with others", "renamed, with its old name among its names"],
)
def test_a_request_that_waits_follows_its_model(
    house: LocalWorkspaces, runtime: FakeRuntime, workspaces: list[str], models: list[Model]
) -> None:
    runtime.slow |= {"a", "other"}
    house.apply([workspace()], [model("a")])
    course = held(house, "a")
    old = course.place.room
    house.apply(map(workspace, workspaces), models)
    followed(course)
    place = house.find("a")
    assert (course.place, old.desk.waiting()) == (place, 0) or old is place.room
    ((waiting, _),) = place.room.desk.lines([place.model.name]).values()
    assert waiting.oldest == pytest.approx(course.began), "it has waited since it came"
    mine = f"{place.room.name}/{place.model.name}@"
    eventually(lambda: any(holder.startswith(mine) for holder in runtime.holders))
    runtime.ready(next(holder for holder in runtime.holders if holder.startswith(mine)))
    eventually(lambda: course.ticket.dispatched is not None)
    course.finish()


def test_a_request_for_a_model_that_is_gone_is_told_so(house: LocalWorkspaces, runtime: FakeRuntime) -> None:
    runtime.slow.add("a")
    house.apply([workspace()], [model("a"), model("b")])
    course = held(house, "a")
    house.apply([workspace()], [model("b")])
    assert isinstance(course.ticket.error, UnknownModel)
    assert not course.give_way(course.ticket.error)
    course.finish()


def test_a_request_that_looked_its_model_up_before_it_moved_finds_it_all_the_same(house: LocalWorkspaces) -> None:
    house.apply([workspace()], [model("a")])
    course = RoutedRequest(house, house.find("a"), "a", Capability.CHAT)
    house.apply([workspace("new")], [model("a", "new")])
    course.submit(WaitOptions())
    assert course.place == house.find("a")
    course.finish()


def test_a_name_leads_to_where_its_model_is_known_at_every_moment_of_a_change(
    house: LocalWorkspaces, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.apply([workspace("x"), workspace("y")], [model("a", "x"), model("b", "y")])
    asked = 0

    def ask(names: str) -> None:
        nonlocal asked
        for name in names:
            place = house.find(name)
            place.room.desk.finish(place.room.desk.submit(place.model.name))
            asked += 1

    change, update = LocalWorkspace.change, runtime.update
    monkeypatch.setattr(LocalWorkspace, "change", lambda *args: (ask("abc"), change(*args), ask("abc")))
    monkeypatch.setattr(runtime, "update", lambda models: (ask("ab"), update(models), ask("ab")))
    house.apply([workspace("x"), workspace("y")], [model("b", "x"), model("a", "y"), model("c", "x")])
    assert asked == 16


def test_a_hundred_renamed_workspaces_leave_nothing_behind(house: LocalWorkspaces, runtime: FakeRuntime) -> None:
    house.apply([workspace("w-0")], [model("a", "w-0")])
    threads = threading.active_count()
    for number in range(1, 101):
        house.apply([workspace(f"w-{number}")], [model("a", f"w-{number}")])
    eventually(lambda: threading.active_count() <= threads)
    house.apply([workspace("w-100")], [model("a", "w-100")])
    assert list(house._rooms) == ["w-100"]
    assert list(house._homes) == ["a"]


def test_a_workspace_that_comes_back_serves_whether_its_thread_has_ended_or_not(
    house: LocalWorkspaces, runtime: FakeRuntime
) -> None:
    documents = [workspace("w")], [model("a", "w")]
    house.apply(*documents)
    for wait in (False, True, False):
        room = house._rooms["w"]
        house.apply([workspace("other")], [])
        if wait:
            eventually(lambda room=room: room.switcher.ended)
        house.apply(*documents)
        assert (house._rooms["w"] is room) or room.switcher.ended
        assert house.find("a").room.load("a", 5).state == "ready"


def test_a_retired_workspace_ends_when_what_it_held_has_gone(house: LocalWorkspaces, runtime: FakeRuntime) -> None:
    runtime.stubborn.add("a")
    house.apply([workspace("w")], [model("a", "w")])
    house.find("a").room.load("a", 5)
    room = house._rooms["w"]
    house.apply([workspace("other")], [])
    eventually(lambda: room.switcher.holders("a"))
    time.sleep(0.1)
    assert not room.switcher.ended
    (holder,) = runtime.holders
    runtime.release(holder)
    eventually(lambda: room.switcher.ended)


def test_a_policy_that_cannot_be_loaded_changes_nothing(
    house: LocalWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.apply([workspace()], [model("a")])
    with pytest.raises(KeyError):
        house.apply([workspace(), workspace("new", policy={"name": "unheard-of"})], [model("b", "new")])
    assert (list(house.places()), list(house._rooms)) == (["a"], ["default"])
    threads = threading.active_count()
    monkeypatch.setattr(threading.Thread, "start", _no_thread)
    with pytest.raises(RuntimeError):
        house.apply([workspace(), workspace("new")], [model("b", "new")])
    monkeypatch.undo()
    assert (list(house.places()), threading.active_count()) == (["a"], threads)
    house.apply([workspace(), workspace("new")], [model("b", "new")])
    assert house.find("b").room.load("b", 5).state == "ready"


def _no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_workspace_that_cannot_be_changed_is_no_others_trouble(
    house: LocalWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [workspace("x"), workspace("y")], [model("a", "x"), model("b", "y")]
    change = LocalWorkspace.change

    def fail(self: LocalWorkspace, *args: Any) -> None:
        if self.name == "x":
            raise OSError("no")
        change(self, *args)

    monkeypatch.setattr(LocalWorkspace, "change", fail)
    with pytest.raises(OSError, match="no"):
        house.apply(*documents)
    assert house.find("b").room.switcher.wait_for(lambda: house.find("b").room.switcher.status() != (), 5)
    monkeypatch.undo()
    house.apply(*documents)
    assert [house.find(name).room.load(name, 5).state for name in "ab"] == ["ready", "ready"]


def test_what_failed_is_tried_again_at_once_where_its_document_is_taken_in_again(
    house: LocalWorkspaces, runtime: FakeRuntime
) -> None:
    documents = [workspace()], [model("a", source="/missing")]
    house.apply(*documents)
    room = house.find("a").room
    for _ in range(8):  # which makes for a long back-off
        with pytest.raises(Exception, match="does not exist"):
            room.load("a", 5)
    assert room.status("a").retry_at > time.monotonic() + 30
    assert room.desk.residency.refusals
    house.apply(*documents)
    eventually(lambda: not room.desk.residency.refusals)
    runtime._models["a"] = model("a")  # the weights are there now
    course = held(house, "a")
    eventually(lambda: course.ticket.dispatched is not None)
    course.finish()
