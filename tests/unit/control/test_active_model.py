"""`spec.activeModel`: a load request for each change of it, and no more than that."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hotseat.control.active_model import ActiveModel, ActiveModelState
from hotseat.control.event_log import EventLog
from hotseat.control.local_workspaces import LocalWorkspaces
from hotseat.core.errors import Unavailable
from hotseat.core.messages import Start, Stop
from tests.fakes import FakeRuntime
from tests.unit.control.test_local_workspaces import eventually, model, workspace

MODELS = (model("a", names=["alpha"]), model("b"), model("x", engine="external", url="http://127.0.0.1:1"))
LOADING, LOADED = ActiveModelState(None, "Loading"), ActiveModelState(True, "Loaded")


class Requests:
    """The load requests that were made: of which Model, and for which a request was withdrawn."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str | None]] = []
        self.ends: list[Callable[[Unavailable | None], None]] = []

    def __call__(self, model: str, ended: Callable[[Unavailable | None], None], *, replaces: str | None = None) -> None:
        self.made.append((model, replaces))
        self.ends.append(ended)


@pytest.fixture
def requests() -> Requests:
    return Requests()


def active(requests: Requests, acted_on: str | None = None) -> tuple[ActiveModel, Callable[..., None]]:
    its = ActiveModel(acted_on, requests)
    return its, lambda value, models=MODELS: its.apply(workspace(activeModel=value), models)


def test_each_change_is_one_request_and_an_unchanged_field_is_none(requests: Requests) -> None:
    its, apply = active(requests)
    apply(None)
    assert (requests.made, its.state, its.acted_on) == ([], None, None)
    for value in ("a", "a", "b", "b", "alpha"):
        apply(value)
        requests.ends[-1](None)
        assert (its.state, its.acted_on) == (LOADED, value)
    assert requests.made == [("a", None), ("b", None), ("a", None)]
    apply(None)
    assert (its.state, its.acted_on) == (None, None)
    apply("alpha")
    assert len(requests.made) == 4, "it was removed and set again"


def test_what_an_earlier_run_has_acted_on_is_not_loaded_again(requests: Requests) -> None:
    its, apply = active(requests, "a")
    apply("a")
    assert (requests.made, its.state, its.acted_on) == ([], None, "a")
    apply("b")
    assert requests.made == [("b", None)]


def test_a_load_that_has_not_ended_is_not_remembered_as_done(requests: Requests) -> None:
    """The next switcher has to request it again: the request is in the memory of this one only."""
    its, apply = active(requests)
    apply("a")
    assert (its.state, its.acted_on) == (LOADING, None)


def test_the_last_change_wins_and_withdraws_the_request_before_it(requests: Requests) -> None:
    its, apply = active(requests)
    apply("a")
    apply("b")
    assert requests.made == [("a", None), ("b", "a")]
    requests.ends[0](Unavailable("a was unloaded before it was ready", code="unloaded"))
    assert (its.state, its.acted_on) == (LOADING, None), "that was another request's end"
    requests.ends[1](None)
    assert (its.state, its.acted_on) == (LOADED, "b")


def test_another_name_of_the_same_model_does_not_withdraw_its_request(requests: Requests) -> None:
    _, apply = active(requests)
    apply("a")
    apply("alpha")
    assert requests.made == [("a", None), ("a", None)]


def test_a_failure_is_acted_on_and_told(requests: Requests, caplog: pytest.LogCaptureFixture) -> None:
    its, apply = active(requests)
    apply("a")
    requests.ends[0](Unavailable("a claims more than its Workspace has", code="too_large"))
    assert its.state == ActiveModelState(False, "TooLarge", "a claims more than its Workspace has")
    assert its.acted_on == "a"
    assert "spec.activeModel a was not loaded: a claims more than its Workspace has" in caplog.text
    apply("a")
    assert len(requests.made) == 1


def test_a_name_of_no_model_is_told_once_and_acted_on_when_a_model_has_it(
    requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    its, apply = active(requests, "a")
    for _ in range(2):
        apply("c")
    assert its.state == ActiveModelState(
        False, "UnknownModel", "spec.activeModel names c, which is not a Model of this Workspace"
    )
    assert (requests.made, its.acted_on) == ([], None)
    assert caplog.text.count("names c") == 1
    apply("c", (*MODELS, model("c")))
    assert requests.made == [("c", None)]
    requests.ends[0](None)
    apply("typo")
    apply("c", (*MODELS, model("c")))
    assert len(requests.made) == 2, "the value has changed twice"


def test_a_model_that_vanishes_for_a_while_is_not_loaded_again(requests: Requests) -> None:
    """Such as one whose document is invalid until it is corrected."""
    its, apply = active(requests)
    apply("a")
    requests.ends[0](None)
    apply("a", ())
    apply("a")
    assert (len(requests.made), its.state) == (1, LOADED)


def test_a_model_that_vanishes_while_it_loads_is_loaded_when_it_is_back(requests: Requests) -> None:
    its, apply = active(requests)
    apply("a")
    apply("a", ())
    requests.ends[0](Unavailable("a was unloaded before it was ready", code="unloaded"))
    assert its.state is not None
    assert (its.state.reason, its.acted_on) == ("UnknownModel", None)
    apply("a")
    assert len(requests.made) == 2


def test_an_external_server_cannot_be_loaded(requests: Requests) -> None:
    its, apply = active(requests)
    apply("x")
    assert its.state is not None
    assert (its.state.loaded, its.state.reason, requests.made) == (False, "ExternalEngine", [])
    assert its.state.message.endswith("names x, which cannot be loaded by hotseat: its engine is external")


# With a scheduler -------------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def registry(runtime: FakeRuntime) -> Iterator[LocalWorkspaces]:
    registry = LocalWorkspaces(runtime, EventLog(), time.monotonic)
    yield registry
    registry.close(5)


def resident(registry: LocalWorkspaces) -> list[str]:
    return [r.model for r in registry.handles[0].gate.residency.residents if r.address]


def starts(runtime: FakeRuntime) -> list[str]:
    return [each.model for each in runtime.commands if isinstance(each, Start)]


def test_an_edit_switches_once_and_holds_nothing(registry: LocalWorkspaces, runtime: FakeRuntime) -> None:
    def edit(**spec: Any) -> None:
        registry.apply([workspace(**spec)], [model("a"), model("b")])

    edit(activeModel="a")
    eventually(lambda: resident(registry) == ["a"])
    edit(activeModel="b")
    eventually(lambda: resident(registry) == ["b"])
    assert registry.find("a").handle.load("a", 5).state == "ready"
    edit(activeModel="b", queue={"maxWaiting": 5})
    assert registry.find("a").handle.load("a", 5).state == "ready"
    assert (resident(registry), starts(runtime)) == (["a"], ["a", "b", "a"])


def test_a_load_that_was_replaced_is_given_up(registry: LocalWorkspaces, runtime: FakeRuntime) -> None:
    runtime.slow.add("a")
    registry.apply([workspace(activeModel="a")], [model("a"), model("b")])
    eventually(lambda: starts(runtime) == ["a"])
    registry.apply([workspace(activeModel="b")], [model("a"), model("b")])
    eventually(lambda: resident(registry) == ["b"])
    done = [(type(each), each.model) for each in runtime.commands if isinstance(each, Start | Stop)]
    assert done == [(Start, "a"), (Stop, "a"), (Start, "b")]


def test_what_cannot_be_loaded_is_logged_with_the_reason(
    registry: LocalWorkspaces, runtime: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    runtime.broken["a"] = "OutOfMemory"
    registry.apply([workspace(activeModel="a")], [model("a"), model("big", resources={"gpus": 2})])
    eventually(lambda: "spec.activeModel a was not loaded: a failed: " in caplog.text)
    registry.apply([workspace(activeModel="big")], [model("a"), model("big", resources={"gpus": 2})])
    eventually(lambda: "spec.activeModel big was not loaded: big claims more than its Workspace has" in caplog.text)
