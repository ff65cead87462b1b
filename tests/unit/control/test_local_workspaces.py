"""Changed documents on one machine: queued requests stay queued, Workspaces fail alone, and nothing is left behind."""

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
from tests.fakes import FakeRuntime


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
def registry(runtime: FakeRuntime) -> Iterator[LocalWorkspaces]:
    registry = LocalWorkspaces(runtime, EventLog(), time.monotonic)
    yield registry
    registry.close(5)


def held(registry: LocalWorkspaces, name: str, *, asked: str | None = None) -> RoutedRequest:
    """A request that waits."""
    routed = RoutedRequest(registry, registry.find(name), asked or name, Capability.CHAT)
    routed.submit(WaitOptions())
    assert routed.pending_request.dispatched is None
    return routed


def followed(routed: RoutedRequest) -> None:
    """Do what the request's thread does when it is refused."""
    error = routed.pending_request.error
    assert error is not None
    assert routed.fail_over(error)


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
    registry: LocalWorkspaces, runtime: FakeRuntime, workspaces: list[str], models: list[Model]
) -> None:
    runtime.slow |= {"a", "other"}
    registry.apply([workspace()], [model("a")])
    routed = held(registry, "a")
    old = routed.route.handle
    registry.apply(map(workspace, workspaces), models)
    followed(routed)
    place = registry.find("a")
    assert (routed.route, old.gate.waiting()) == (place, 0) or old is place.handle
    ((waiting, _),) = place.handle.gate.queues([place.model.name]).values()
    assert waiting.oldest == pytest.approx(routed.began), "it has waited since it came"
    mine = f"{place.handle.name}/{place.model.name}@"
    eventually(lambda: any(instance.startswith(mine) for instance in runtime.instances))
    runtime.ready(next(instance for instance in runtime.instances if instance.startswith(mine)))
    eventually(lambda: routed.pending_request.dispatched is not None)
    routed.finish()


def test_a_request_for_a_model_that_is_gone_is_told_so(registry: LocalWorkspaces, runtime: FakeRuntime) -> None:
    runtime.slow.add("a")
    registry.apply([workspace()], [model("a"), model("b")])
    routed = held(registry, "a")
    registry.apply([workspace()], [model("b")])
    assert isinstance(routed.pending_request.error, UnknownModel)
    assert not routed.fail_over(routed.pending_request.error)
    routed.finish()


def test_a_request_that_looked_its_model_up_before_it_moved_finds_it_all_the_same(registry: LocalWorkspaces) -> None:
    registry.apply([workspace()], [model("a")])
    routed = RoutedRequest(registry, registry.find("a"), "a", Capability.CHAT)
    registry.apply([workspace("new")], [model("a", "new")])
    routed.submit(WaitOptions())
    assert routed.route == registry.find("a")
    routed.finish()


def test_a_name_leads_to_where_its_model_is_known_at_every_moment_of_a_change(
    registry: LocalWorkspaces, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.apply([workspace("x"), workspace("y")], [model("a", "x"), model("b", "y")])
    asked = 0

    def ask(names: str) -> None:
        nonlocal asked
        for name in names:
            place = registry.find(name)
            place.handle.gate.finish(place.handle.gate.submit(place.model.name))
            asked += 1

    change, update = LocalWorkspace.apply_config, runtime.update
    monkeypatch.setattr(LocalWorkspace, "apply_config", lambda *args: (ask("abc"), change(*args), ask("abc")))
    monkeypatch.setattr(runtime, "update", lambda models: (ask("ab"), update(models), ask("ab")))
    registry.apply([workspace("x"), workspace("y")], [model("b", "x"), model("a", "y"), model("c", "x")])
    assert asked == 16


def test_a_hundred_renamed_workspaces_leave_nothing_behind(registry: LocalWorkspaces, runtime: FakeRuntime) -> None:
    registry.apply([workspace("w-0")], [model("a", "w-0")])
    threads = threading.active_count()
    for number in range(1, 101):
        registry.apply([workspace(f"w-{number}")], [model("a", f"w-{number}")])
    eventually(lambda: threading.active_count() <= threads)
    registry.apply([workspace("w-100")], [model("a", "w-100")])
    assert list(registry._handles) == ["w-100"]
    assert list(registry._by_model) == ["a"]


def test_a_workspace_that_comes_back_serves_whether_its_thread_has_ended_or_not(
    registry: LocalWorkspaces, runtime: FakeRuntime
) -> None:
    documents = [workspace("w")], [model("a", "w")]
    registry.apply(*documents)
    for wait in (False, True, False):
        handle = registry._handles["w"]
        registry.apply([workspace("other")], [])
        if wait:
            eventually(lambda handle=handle: handle.scheduler.ended)
        registry.apply(*documents)
        assert (registry._handles["w"] is handle) or handle.scheduler.ended
        assert registry.find("a").handle.load("a", 5).state == "ready"


def test_a_retired_workspace_ends_when_what_it_held_has_gone(registry: LocalWorkspaces, runtime: FakeRuntime) -> None:
    runtime.stubborn.add("a")
    registry.apply([workspace("w")], [model("a", "w")])
    registry.find("a").handle.load("a", 5)
    handle = registry._handles["w"]
    registry.apply([workspace("other")], [])
    eventually(lambda: handle.scheduler.instances("a"))
    time.sleep(0.1)
    assert not handle.scheduler.ended
    (instance,) = runtime.instances
    runtime.release(instance)
    eventually(lambda: handle.scheduler.ended)


def test_a_policy_that_cannot_be_loaded_changes_nothing(
    registry: LocalWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.apply([workspace()], [model("a")])
    with pytest.raises(KeyError):
        registry.apply([workspace(), workspace("new", policy={"name": "unheard-of"})], [model("b", "new")])
    assert (list(registry.routes()), list(registry._handles)) == (["a"], ["default"])
    threads = threading.active_count()
    monkeypatch.setattr(threading.Thread, "start", _no_thread)
    with pytest.raises(RuntimeError):
        registry.apply([workspace(), workspace("new")], [model("b", "new")])
    monkeypatch.undo()
    assert (list(registry.routes()), threading.active_count()) == (["a"], threads)
    registry.apply([workspace(), workspace("new")], [model("b", "new")])
    assert registry.find("b").handle.load("b", 5).state == "ready"


def _no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_workspace_that_cannot_be_changed_is_no_others_trouble(
    registry: LocalWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [workspace("x"), workspace("y")], [model("a", "x"), model("b", "y")]
    change = LocalWorkspace.apply_config

    def fail(self: LocalWorkspace, *args: Any) -> None:
        if self.name == "x":
            raise OSError("no")
        change(self, *args)

    monkeypatch.setattr(LocalWorkspace, "apply_config", fail)
    with pytest.raises(OSError, match="no"):
        registry.apply(*documents)
    assert registry.find("b").handle.scheduler.wait_for(lambda: registry.find("b").handle.scheduler.status() != (), 30)
    monkeypatch.undo()
    registry.apply(*documents)
    assert [registry.find(name).handle.load(name, 5).state for name in "ab"] == ["ready", "ready"]


def test_what_failed_is_tried_again_at_once_where_its_document_is_taken_in_again(
    registry: LocalWorkspaces, runtime: FakeRuntime
) -> None:
    documents = [workspace()], [model("a", source="/missing")]
    registry.apply(*documents)
    handle = registry.find("a").handle
    for _ in range(8):  # which makes for a long back-off
        with pytest.raises(Exception, match="does not exist"):
            handle.load("a", 5)
    assert handle.status("a").retry_at > time.monotonic() + 30
    assert handle.gate.residency.refusals
    registry.apply(*documents)
    eventually(lambda: not handle.gate.residency.refusals)
    runtime._models["a"] = model("a")  # the weights are there now
    routed = held(registry, "a")
    eventually(lambda: routed.pending_request.dispatched is not None)
    routed.finish()


def test_the_scheduler_takes_the_newest_demand_whichever_thread_saw_it(
    registry: LocalWorkspaces, runtime: FakeRuntime
) -> None:
    registry.apply([workspace()], [model("a"), model("b")])
    handle = registry.find("a").handle
    assert isinstance(handle, LocalWorkspace)
    for name in ("a", "b"):  # the second finds a snapshot of the first, or a poll that is pending
        held(registry, name)
    eventually(lambda: set(handle.scheduler.queue()) == {"a", "b"})


def test_a_deleted_workspace_is_not_said_to_name_a_model_that_it_lacks(
    registry: LocalWorkspaces, caplog: pytest.LogCaptureFixture
) -> None:
    registry.apply([workspace("w", activeModel="a")], [model("a", "w")])
    registry.apply([workspace("other")], [model("a", "other")])
    assert "activeModel" not in caplog.text
