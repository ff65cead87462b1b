"""`spec.activeModel` on a cluster: the status remembers what was acted on, and a condition says what became of it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import Workspace
from hotseat.cluster.switcher.workspace import ClusterWorkspace
from hotseat.control.event_log import EventLog
from hotseat.core.messages import Start
from tests.fakes import FakeRuntime


class Api:
    """The API server, as far as a status needs it: it merges."""

    def __init__(self, status: Json) -> None:
        self.status = status

    def merge(self, _path: str, body: Json) -> Json:
        self.status |= body["status"]
        self.status = {key: value for key, value in self.status.items() if value is not None}
        return body


def workspace(active: str | None) -> Workspace:
    return Workspace.model_validate({"metadata": {"name": "default"}, "spec": {"activeModel": active}})


def model(name: str, **spec: Any) -> Model:
    return Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "mock", **spec}})


MODELS = [model("a"), model("b"), model("big", resources={"gpus": 2})]


class Switcher:
    """A switcher that starts with what an earlier one has written."""

    def __init__(self, status: Json, active: str | None, *, slow: set[str], generation: int = 1) -> None:
        self.runtime, self.api = FakeRuntime(), Api(dict(status))
        self.runtime.slow |= slow
        self.workspace = ClusterWorkspace(
            workspace(active), status, runtime=self.runtime, events=EventLog(), kube=self.api, namespace="ns"
        )
        self.patch(active, generation)
        self.runtime.begin(MODELS, self.workspace.scheduler.send)
        self.workspace.start()

    def patch(self, active: str | None, generation: int) -> None:
        self.workspace.apply_config(workspace(active), generation, MODELS, {})

    def condition(self) -> tuple[str, str, int] | None:
        """Status, reason and generation."""
        for each in self.api.status.get("conditions", ()):
            if each["type"] == "ActiveModelLoaded":
                return each["status"], each["reason"], each["observedGeneration"]
        return None

    def message(self) -> str:
        return next(each["message"] for each in self.api.status["conditions"] if each["type"] == "ActiveModelLoaded")

    def starts(self) -> list[str]:
        return [each.model for each in self.runtime.commands if isinstance(each, Start)]

    def close(self) -> None:
        self.workspace.stop()
        self.workspace.scheduler.shut_down()
        self.workspace.scheduler.stop(0.0)


Begin = Callable[..., Switcher]


@pytest.fixture
def begin() -> Iterator[Begin]:
    switchers: list[Switcher] = []

    def begin(
        status: Json | None = None, active: str | None = None, slow: set[str] | None = None, **more: int
    ) -> Switcher:
        for earlier in switchers:
            earlier.close()
        switchers.append(Switcher(status or {}, active, slow=slow or set(), **more))
        return switchers[-1]

    yield begin
    for each in switchers:
        each.close()


def eventually(condition: Callable[[], Any], seen: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, f"it never came true: {seen()}"
        time.sleep(0.005)


def settled(switcher: Switcher, condition: tuple[str, str, int] | None, value: str | None) -> None:
    eventually(
        lambda: (switcher.condition(), switcher.api.status.get("activeModel")) == (condition, value),
        lambda: switcher.api.status,
    )


def test_a_patch_loads_the_model_and_says_so(begin: Begin) -> None:
    switcher = begin()
    settled(switcher, None, None)
    switcher.patch("a", 2)
    settled(switcher, ("True", "Loaded", 2), "a")
    assert switcher.api.status["resident"] == "a"
    switcher.patch("b", 3)
    settled(switcher, ("True", "Loaded", 3), "b")
    assert switcher.api.status["resident"] == "b"
    switcher.patch(None, 4)
    settled(switcher, None, None)
    assert switcher.starts() == ["a", "b"]


def test_no_status_calls_a_value_loaded_that_was_not_looked_at_yet(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kubectl wait` compares the generation of the condition with that of the document."""
    switcher, seen = begin(active="a"), list[Json]()
    settled(switcher, ("True", "Loaded", 1), "a")
    active = switcher.workspace._active_model
    apply = active.apply
    monkeypatch.setattr(active, "apply", lambda *of: (seen.append(switcher.workspace.build_status()), apply(*of)))
    switcher.patch("b", 2)
    assert {each["observedGeneration"] for status in seen for each in status["conditions"]} == {1}
    settled(switcher, ("True", "Loaded", 2), "b")


def test_a_workspace_that_is_applied_again_and_a_new_switcher_load_nothing_again(begin: Begin) -> None:
    first = begin(active="a")
    settled(first, ("True", "Loaded", 1), "a")
    first.workspace.load("b", 5)
    first.patch("a", 1)
    first.workspace.load("b", 5)
    assert first.starts() == ["a", "b"]
    second = begin(first.api.status, "a", generation=2)
    settled(second, ("True", "Loaded", 2), "a")
    second.workspace.load("b", 5)
    assert second.starts() == ["b"]
    since = [each["lastTransitionTime"] for each in first.api.status["conditions"]]
    assert [each["lastTransitionTime"] for each in second.api.status["conditions"]] == since


def test_a_switcher_that_ends_during_the_load_leaves_it_to_the_next(begin: Begin) -> None:
    first = begin(active="a", slow={"a"})
    settled(first, ("Unknown", "Loading", 1), None)
    second = begin(first.api.status, "a")
    settled(second, ("True", "Loaded", 1), "a")


def test_what_is_no_model_breaks_nothing(begin: Begin) -> None:
    switcher = begin(active="nobody")
    settled(switcher, ("False", "UnknownModel", 1), None)
    assert switcher.message() == "spec.activeModel names nobody, which is not a Model of this Workspace"
    assert [c["status"] for c in switcher.api.status["conditions"] if c["type"] == "Ready"] == ["True"]
    assert switcher.workspace.load("a", 5).state == "ready"


def test_what_cannot_be_loaded_is_told_as_a_failed_load_is(begin: Begin) -> None:
    switcher = begin()
    switcher.runtime.broken["a"] = "OutOfMemory"
    switcher.patch("a", 2)
    settled(switcher, ("False", "ModelFailed", 2), "a")
    assert "OutOfMemory" in switcher.message()
    switcher.patch("big", 3)
    settled(switcher, ("False", "TooLarge", 3), "big")
    assert switcher.message().startswith("big claims more than its Workspace has")
