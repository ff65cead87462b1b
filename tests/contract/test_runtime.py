"""What every Runtime must do: the docstrings of hotseat.core.ports, as tests. A new runtime adds a Home."""

import contextlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Fetch,
    InstanceFailed,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    LimitPrompts,
    Park,
    PromptsRestored,
    PromptsSaved,
    RestorePrompts,
    SavePrompts,
    SleepFailed,
    Start,
    Stop,
    Wake,
)
from hotseat.core.ports import Runtime
from hotseat.runtimes.local.runtime import LocalRuntime
from tests.fakes import FakeRuntime, Observations, small_model


def models(folder: Path) -> list[Model]:
    """quick loads at once; slow never finishes; broken fails while loading; stubborn ignores SIGTERM; lost has no weights.

    All can sleep but sleepless, which refuses to, and those whose runtime parks nothing.
    """
    life = {"release": "Park", "sleep": [{"path": "/sleep"}], "wake": [{"path": "/wake"}]}
    external = {"metadata": {"name": "external"}, "spec": {"engine": "external", "url": "http://127.0.0.1:9"}}
    return [
        small_model(folder, "quick", lifecycle=life),
        small_model(folder, "sleepless", "sleepless", lifecycle=life),
        small_model(folder, "slow", "load=600"),
        small_model(folder, "broken", "exit=3"),
        small_model(folder, "stubborn", "ignore-term"),
        small_model(folder, "lost", source="/missing/weights.gguf"),
        Model.model_validate(external),
    ]


class FakeHome:
    """FakeRuntime, told how the models behave."""

    def __init__(self, folder: Path) -> None:
        self.runtime = self.fake = FakeRuntime()
        self.fake.slow, self.fake.stubborn, self.fake.broken = {"slow"}, {"stubborn"}, {"broken": "ExitedWhileLoading"}
        self.fake.sleepless = {"sleepless"}

    def crash(self, ready: InstanceReady) -> None:
        self.fake.crash(ready.instance)


class LocalHome:
    """LocalRuntime with real processes."""

    def __init__(self, folder: Path) -> None:
        self.runtime = LocalRuntime(folder / "state", folder / "cache")

    def crash(self, ready: InstanceReady) -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{ready.address}/exit/7"):
            pass


Home = FakeHome | LocalHome


@pytest.fixture(params=[FakeHome, LocalHome])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    home = request.param(tmp_path)
    yield home
    home.runtime.close()


@pytest.fixture
def runtime(home: Home) -> Runtime:
    return home.runtime


@pytest.fixture
def told(runtime: Runtime, tmp_path: Path) -> Observations:
    """Observer of a runtime that has begun."""
    told = Observations()
    runtime.begin(models(tmp_path), told)
    return told


def test_begin_tells_where_the_weights_of_each_model_are(told: Observations) -> None:
    states = {each.model: each.state for each in told.seen if isinstance(each, CacheObserved)}
    assert states.pop("lost") is CacheState.FAILED
    assert set(states) == {"quick", "slow", "broken", "stubborn", "sleepless", "external"}
    assert set(states.values()) == {CacheState.CACHED}
    assert "/missing/weights.gguf" in told.await_one(CacheObserved, model="lost").message


def test_an_instance_gets_ready_and_is_released_by_a_stop(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("quick", "quick@7", 7))
    ready = told.await_one(InstanceReady, "quick@7")
    assert ready.epoch == 7
    assert ready.address.startswith("http://")
    runtime.stop(Stop("quick", "quick@7", 7, grace=5))
    assert told.await_one(InstanceReleased, "quick@7").epoch == 7
    assert told.of_instance("quick@7") == ["InstanceReady", "InstanceReleased"]


def test_a_stop_while_loading_releases_without_a_failure(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("slow", "slow@1", 1))
    runtime.stop(Stop("slow", "slow@1", 1, grace=5))
    told.await_one(InstanceReleased, "slow@1")
    assert told.of_instance("slow@1") == ["InstanceReleased"]


def test_a_failed_load_says_why_and_is_released(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("broken", "broken@1", 1))
    told.await_one(InstanceReleased, "broken@1")
    assert told.of_instance("broken@1") == ["InstanceFailed", "InstanceReleased"]
    failed = told.await_one(InstanceFailed, "broken@1")
    assert failed.reason == "ExitedWhileLoading"
    assert failed.message


def test_a_crash_is_told_without_being_asked(home: Home, runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("quick", "quick@1", 1))
    home.crash(told.await_one(InstanceReady, "quick@1"))
    told.await_one(InstanceReleased, "quick@1")
    assert told.of_instance("quick@1") == ["InstanceReady", "InstanceFailed", "InstanceReleased"]
    assert told.await_one(InstanceFailed, "quick@1").reason == "Exited"


def test_a_stop_for_an_instance_that_never_was_is_answered(runtime: Runtime, told: Observations) -> None:
    runtime.stop(Stop("quick", "quick@99", 99, grace=5))
    assert told.await_one(InstanceReleased, "quick@99").epoch == 99


def test_a_stop_for_an_instance_that_is_gone_is_answered_again(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("broken", "broken@1", 1))
    told.await_one(InstanceReleased, "broken@1")
    runtime.stop(Stop("broken", "broken@1", 1, grace=5))
    assert told.of_instance("broken@1").count("InstanceReleased") == 2


def test_a_second_stop_shortens_the_grace(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("stubborn", "stubborn@1", 1))
    told.await_one(InstanceReady, "stubborn@1")
    runtime.stop(Stop("stubborn", "stubborn@1", 1, grace=600))
    runtime.stop(Stop("stubborn", "stubborn@1", 1, grace=0))
    told.await_one(InstanceReleased, "stubborn@1")


def test_a_parked_instance_is_proven_asleep_and_wakes(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("quick", "quick@1", 1))
    address = told.await_one(InstanceReady, "quick@1").address
    for turn in (1, 3):
        runtime.park(Park("quick", "quick@1", 1, turn))
        assert told.await_one(InstanceParked, "quick@1", turn=turn).epoch == 1
        runtime.wake(Wake("quick", "quick@1", 1, turn + 1))
        assert told.await_one(InstanceReady, "quick@1", turn=turn + 1).address == address
    assert told.of_instance("quick@1") == ["InstanceReady", *["InstanceParked", "InstanceReady"] * 2]


def test_a_parked_instance_is_released_by_a_stop(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("quick", "quick@1", 1))
    told.await_one(InstanceReady, "quick@1")
    runtime.park(Park("quick", "quick@1", 1, 1))
    told.await_one(InstanceParked, "quick@1")
    runtime.stop(Stop("quick", "quick@1", 1, grace=5))
    told.await_one(InstanceReleased, "quick@1")
    assert told.of_instance("quick@1") == ["InstanceReady", "InstanceParked", "InstanceReleased"]


def test_an_instance_answers_that_it_has_saved_or_restored_if_there_is_nothing(
    runtime: Runtime, told: Observations
) -> None:
    runtime.handle_prompts(LimitPrompts("w", 1000))
    runtime.start(Start("quick", "quick@1", 1))
    told.await_one(InstanceReady, "quick@1")
    runtime.handle_prompts(RestorePrompts("quick", "quick@1", 1, 5.0))
    assert told.await_one(PromptsRestored, "quick@1").epoch == 1
    runtime.handle_prompts(SavePrompts("quick", "quick@1", 1, 5.0))
    assert told.await_one(PromptsSaved, "quick@1").epoch == 1
    runtime.stop(Stop("quick", "quick@1", 1, grace=5))
    told.await_one(InstanceReleased, "quick@1")
    runtime.handle_prompts(SavePrompts("quick", "unheard-of@1", 1, 5.0))
    told.await_one(InstanceReleased, "unheard-of@1")


def test_one_that_does_not_fall_asleep_says_so_and_is_still_there(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("sleepless", "sleepless@1", 1))
    told.await_one(InstanceReady, "sleepless@1")
    runtime.park(Park("sleepless", "sleepless@1", 1, 1))
    failed = told.await_one(SleepFailed, "sleepless@1")
    assert (failed.epoch, failed.turn) == (1, 1)
    assert failed.message
    runtime.stop(Stop("sleepless", "sleepless@1", 1, grace=5))
    told.await_one(InstanceReleased, "sleepless@1")
    assert told.of_instance("sleepless@1") == ["InstanceReady", "SleepFailed", "InstanceReleased"]


def test_a_crash_while_parked_is_told_without_being_asked(home: Home, runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("quick", "quick@1", 1))
    ready = told.await_one(InstanceReady, "quick@1")
    runtime.park(Park("quick", "quick@1", 1, 1))
    told.await_one(InstanceParked, "quick@1")
    home.crash(ready)
    told.await_one(InstanceReleased, "quick@1")
    assert told.of_instance("quick@1") == ["InstanceReady", "InstanceParked", "InstanceFailed", "InstanceReleased"]


def test_who_is_gone_neither_sleeps_nor_wakes(runtime: Runtime, told: Observations) -> None:
    runtime.park(Park("quick", "quick@7", 7, 1))
    assert told.await_one(InstanceReleased, "quick@7").epoch == 7
    runtime.wake(Wake("quick", "quick@8", 8, 2))
    assert told.await_one(InstanceReleased, "quick@8").epoch == 8


def test_callers_mistakes_are_errors(runtime: Runtime, told: Observations) -> None:
    with pytest.raises(ValueError):
        runtime.start(Start("nobody", "nobody@1", 1))
    with pytest.raises(ValueError):
        runtime.fetch(Fetch("nobody"))
    with pytest.raises(ValueError):
        runtime.start(Start("external", "external@1", 1))
    with pytest.raises(ValueError):
        runtime.stop(Stop("external", "external@1", 1, grace=0))
    runtime.start(Start("slow", "slow@1", 1))
    with pytest.raises(ValueError):
        runtime.start(Start("slow", "slow@1", 1))


def test_an_update_tells_of_what_changed_and_leaves_instances_alone(
    runtime: Runtime, told: Observations, tmp_path: Path
) -> None:
    runtime.start(Start("quick", "quick@1", 1))
    told.await_one(InstanceReady, "quick@1")
    told.seen.clear()
    changed = small_model(tmp_path, "slow", "load=300")
    runtime.update([*(model for model in models(tmp_path) if model.name not in ("slow", "quick")), changed])
    again = {each.model for each in told.seen if isinstance(each, CacheObserved)}
    assert again - {"lost"} == {"slow"}, "and perhaps what could not be had before, but nothing else"
    assert told.of_instance("quick@1") == []
    with pytest.raises(ValueError):
        runtime.start(Start("quick", "quick@2", 2))
    runtime.stop(Stop("quick", "quick@1", 1, grace=5))
    told.await_one(InstanceReleased, "quick@1")


def test_what_runs_is_stopped_although_its_document_says_external_since(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("quick", "quick@1", 1))
    told.await_one(InstanceReady, "quick@1")
    spec = {"engine": "external", "url": "http://127.0.0.1:9"}
    runtime.update([Model.model_validate({"metadata": {"name": "quick"}, "spec": spec})])
    runtime.stop(Stop("quick", "quick@1", 1, grace=5))
    told.await_one(InstanceReleased, "quick@1")
    assert told.of_instance("quick@1") == ["InstanceReady", "InstanceReleased"]


def test_a_fetch_of_what_is_there_says_so(runtime: Runtime, told: Observations) -> None:
    told.seen.clear()
    runtime.fetch(Fetch("quick"))
    assert told.await_one(CacheObserved, model="quick").state is CacheState.CACHED


def test_logs_have_positions_and_outlive_the_run(runtime: Runtime, told: Observations) -> None:
    assert runtime.logs("nobody") is None
    log = runtime.logs("broken")
    assert log is not None
    assert log.read_after(0, timeout=0) == (0, [])
    runtime.start(Start("broken", "broken@1", 1))
    told.await_one(InstanceReleased, "broken@1")
    position, lines = log.read_after(0, timeout=5)
    assert "broken@1 started" in lines[0]
    assert position == len(lines)
    assert log.tail(1) == lines[-1:]
    assert log.read_after(position, timeout=0) == (position, [])


def test_close_stops_whatever_runs(runtime: Runtime, told: Observations) -> None:
    runtime.start(Start("quick", "quick@1", 1))
    runtime.start(Start("slow", "slow@2", 2))
    told.await_one(InstanceReady, "quick@1")
    runtime.close()
    assert told.of_instance("quick@1")[-1] == "InstanceReleased"
    assert told.of_instance("slow@2") == ["InstanceReleased"]
    with pytest.raises(ValueError):
        runtime.start(Start("quick", "quick@3", 3))
