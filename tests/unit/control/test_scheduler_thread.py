"""The scheduler's thread polls demand when it should, and ends every command whose caller waits."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hotseat.api.model import Model
from hotseat.control.scheduler_thread import SOON, SchedulerHost, SchedulerThread
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceAdopted,
    InstanceFailed,
    InstanceReleased,
    InstanceState,
    Residency,
    Start,
    Stop,
)
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.instance import TRANSITIONS, Edge, Trigger
from hotseat.core.scheduler.messages import (
    CachesObserved,
    ConfigChanged,
    DemandReported,
    LoadOrdered,
    ModelStatus,
    SchedulerCommand,
    SchedulerStimulus,
    SchedulingSpec,
    Tick,
)
from tests.fakes import FakeRuntime


class Looks:
    """Counts looks at demand."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.news = threading.Condition()

    def __call__(self) -> DemandReported:
        with self.news:
            self.times.append(time.monotonic())
            self.news.notify_all()
        return DemandReported(time.monotonic(), Demand("router", len(self.times), 0))

    def wait(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.times) >= count, 30)


class Host(SchedulerHost):
    """A scheduler's host that keeps nothing."""

    def __init__(
        self,
        demand: Callable[[], DemandReported],
        publish: Callable[[Residency], None] = lambda _: None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.demand, self.publish, self.give_up = demand, publish, give_up  # type: ignore[method-assign]


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def scheduler(looks: Looks) -> Iterator[SchedulerThread]:
    scheduler = SchedulerThread(
        "default", Batch(), FakeRuntime(), time.monotonic,
        Host(looks),
    )  # fmt: skip
    scheduler.start()
    yield scheduler
    scheduler.shut_down()
    assert scheduler.stop(5)


def test_urgent_demand_is_looked_at_at_once_and_the_rest_soon(scheduler: SchedulerThread, looks: Looks) -> None:
    began = time.monotonic()
    scheduler.demand_changed(urgent=True)
    looks.wait(1)
    assert looks.times[0] - began < SOON
    asked = time.monotonic()
    for _ in range(100):
        scheduler.demand_changed(urgent=False)
    looks.wait(2)
    assert SOON * 0.9 <= looks.times[1] - asked < 10 * SOON
    scheduler.demand_changed(urgent=False)
    looks.wait(3)
    assert len(looks.times) == 3, "a hundred changes cost one look"


def outcome_of(values: list[ModelStatus | None]) -> Callable[[], ModelStatus | None]:
    return lambda: values.pop(0)


def test_an_order_gets_the_first_outcome_from_its_own_step_on(scheduler: SchedulerThread) -> None:
    ready = ModelStatus("a", "ready")
    scheduler.send(Tick(time.monotonic()))
    values = [None, ready, None]
    thread_found: list[ModelStatus | None] = []
    order = Tick(time.monotonic())
    thread = threading.Thread(target=lambda: thread_found.append(scheduler.execute(order, outcome_of(values), 5)))
    thread.start()
    while len(values) > 1:
        scheduler.send(Tick(time.monotonic()))
    thread.join(5)
    assert (thread_found, values) == ([ready], [None])


def test_an_order_that_takes_too_long_is_let_go(scheduler: SchedulerThread) -> None:
    assert scheduler.execute(Tick(time.monotonic()), lambda: None, 0.01) is None


def test_what_was_sent_before_has_been_handled(scheduler: SchedulerThread) -> None:
    for count in range(1, 20):
        names = [f"m{number}" for number in range(count)]
        scheduler.send(ConfigChanged(time.monotonic(), dict.fromkeys(names, SchedulingSpec()), Capacity()))
        assert scheduler.wait_handled(5)
        assert [each.name for each in scheduler.status()] == names
    scheduler.send(ConfigChanged(time.monotonic(), {}, Capacity()))


def test_at_the_end_nobody_waits_any_longer(looks: Looks) -> None:
    scheduler = SchedulerThread(
        "default", Batch(), FakeRuntime(), time.monotonic,
        Host(looks),
    )  # fmt: skip
    scheduler.start()
    asked = threading.Event()

    def outcome() -> None:
        asked.set()

    found: list[ModelStatus | None] = []
    thread = threading.Thread(target=lambda: found.append(scheduler.execute(Tick(time.monotonic()), outcome, None)))
    thread.start()
    assert asked.wait(5)
    scheduler.shut_down()
    assert scheduler.stop(5)
    thread.join(5)
    assert found == [None]
    assert scheduler.execute(Tick(time.monotonic()), outcome, None) is None


def test_it_gives_up_when_step_after_step_fails(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    gave_up = threading.Event()

    def broken() -> DemandReported:
        raise ValueError("a bug")

    scheduler = SchedulerThread(
        "default", Batch(), FakeRuntime(), time.monotonic,
        Host(broken, give_up=gave_up.set),
    )  # fmt: skip
    scheduler.start()
    for _ in range(3):
        asked = time.monotonic()
        while not gave_up.is_set() and time.monotonic() - asked < 0.05:
            scheduler.demand_changed(urgent=True)
    assert gave_up.wait(5)
    scheduler.shut_down()
    assert scheduler.stop(5)
    assert "a step failed" in caplog.text


def test_routers_hear_of_a_stop_before_the_engine_does() -> None:
    """A bug once: an engine was told to stop first, so that requests in flight saw it break off before they were cut."""
    told: list[str] = []
    seen = [0]

    def publish(residency: Residency) -> None:
        told.extend(r.state.value for r in residency.residents)
        seen.append(residency.epoch)
        scheduler.demand_changed(urgent=True)

    def look() -> DemandReported:
        return DemandReported(time.monotonic(), Demand("router", len(seen), seen[-1]))

    runtime = FakeRuntime()
    stop = runtime.stop

    def stopping(order: Stop) -> None:
        told.append("stop")
        stop(order)

    start = runtime.start

    def starting(order: Start) -> None:
        told.append("start")
        start(order)

    runtime.stop, runtime.start = stopping, starting  # type: ignore[method-assign]
    scheduler = SchedulerThread(
        "default", Batch(), runtime, time.monotonic,
        Host(look, publish),
    )  # fmt: skip
    model = Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}})
    runtime.begin([model], scheduler.send)
    scheduler.start()
    scheduler.send(ConfigChanged(time.monotonic(), {"a": SchedulingSpec()}, Capacity(1)))
    scheduler.send(CacheObserved(time.monotonic(), "a", CacheState.CACHED))
    scheduler.send(LoadOrdered(time.monotonic(), "a"))
    assert scheduler.execute(Tick(time.monotonic()), lambda: ModelStatus("a", "ready") if "ready" in told else None, 5)
    scheduler.shut_down()
    assert scheduler.stop(5)
    assert told.index("releasing") < told.index("stop")
    assert told.index("start") < told.index("loading"), "a request waits for it"


def test_who_is_answered_finds_the_status_that_the_answer_comes_of(looks: Looks) -> None:
    """A bug once: for a moment a model that had answered already was told to be loading, and its switch to be under way."""
    told: list[tuple[str, str, int]] = []

    def publish(residency: Residency) -> None:
        states = {status.name: status.state for status in scheduler.status()}
        told.extend((each.state.value, states[each.model], len(scheduler.switches())) for each in residency.residents)

    runtime = FakeRuntime()
    scheduler = SchedulerThread(
        "default", Batch(), runtime, time.monotonic,
        Host(looks, publish),
    )  # fmt: skip
    runtime.begin([Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}})], scheduler.send)
    scheduler.start()
    scheduler.send(ConfigChanged(time.monotonic(), {"a": SchedulingSpec()}, Capacity(1)))
    scheduler.send(CacheObserved(time.monotonic(), "a", CacheState.CACHED))
    ready = ModelStatus("a", "ready")
    assert scheduler.execute(
        LoadOrdered(time.monotonic(), "a"), lambda: ready if told and told[-1][0] == "ready" else None, 5
    )
    scheduler.shut_down()
    assert scheduler.stop(5)
    assert ("ready", "ready", 1) in told
    assert {published == listed for published, listed, _ in told} == {True}


def test_what_is_told_of_many_weights_at_once_is_one_step(looks: Looks) -> None:
    scheduler = SchedulerThread(
        "default", Batch(), FakeRuntime(), time.monotonic,
        Host(looks),
    )  # fmt: skip
    names, stimuli, step = [f"m-{number}" for number in range(1000)], list[object](), scheduler._machine.step

    def counted(stimulus: SchedulerStimulus) -> list[SchedulerCommand]:
        stimuli.append(stimulus)
        return step(stimulus)

    scheduler._machine.step = counted  # type: ignore[method-assign]
    for name in names:
        scheduler.send(CacheObserved(time.monotonic(), name, CacheState.FAILED, f"{name} is not there"))
    scheduler.send(ConfigChanged(time.monotonic(), dict.fromkeys(names, SchedulingSpec()), Capacity()))
    scheduler.send(CacheObserved(time.monotonic(), "m-1", CacheState.CACHED))
    scheduler.start()
    assert scheduler.wait_caught_up(5)
    assert [type(stimulus) for stimulus in stimuli] == [CachesObserved, ConfigChanged, CacheObserved]
    assert [each.state for each in scheduler.status()[:3]] == ["failed", "unloaded", "failed"]
    scheduler.shut_down()
    assert scheduler.stop(5)


def test_one_that_is_retired_ends_once_it_has_nothing_left(scheduler: SchedulerThread) -> None:
    scheduler.send(ConfigChanged(time.monotonic(), {"a": SchedulingSpec()}, Capacity()))
    assert scheduler.wait_for(lambda: scheduler.status() != (), 30)
    scheduler.retire()
    scheduler.send(Tick(time.monotonic()))
    assert scheduler.recall(), "it has a model still"
    scheduler.retire()
    scheduler.send(ConfigChanged(time.monotonic(), {}, Capacity()))
    scheduler._thread.join(5)
    assert scheduler.ended
    assert not scheduler.recall()
    assert scheduler.execute(LoadOrdered(time.monotonic(), "a"), lambda: None, 5) is None


def test_the_log_of_a_failure_has_the_story_of_its_engine(
    scheduler: SchedulerThread, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now = time.monotonic()
    scheduler.send(ConfigChanged(now, {"a": SchedulingSpec()}, Capacity(1)))
    scheduler.send(InstanceAdopted(now, "a", "default/a@7", 7, "http://a"))
    scheduler.send(InstanceFailed(now, "default/a@7", 7, "Exited", "exit code 1"))
    assert scheduler.wait_for(lambda: "last transitions" in caplog.text, 30)
    assert "default/a@7 failed (Exited); its last transitions: " in caplog.text
    assert "new → ready (found ready)" in caplog.text
    assert "ready → releasing (failed: Exited)" in caplog.text
    scheduler.send(InstanceReleased(time.monotonic(), "default/a@7", 7))


def test_a_transition_that_there_is_not_is_logged_and_the_machine_goes_on(
    scheduler: SchedulerThread, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRANSITIONS, Trigger.FAILED, Edge(InstanceState.RELEASING, (), "a table with a hole"))
    now = time.monotonic()
    scheduler.send(ConfigChanged(now, {"a": SchedulingSpec()}, Capacity(1)))
    scheduler.send(InstanceAdopted(now, "a", "default/a@7", 7, "http://a"))
    scheduler.send(InstanceFailed(now, "default/a@7", 7, "Exited", "exit code 1"))
    assert scheduler.wait_for(lambda: "releasing" in scheduler.instances("a").values(), 30)
    assert "default/a@7: no transition of an instance is" in caplog.text
    assert "a step failed" not in caplog.text
    scheduler.send(InstanceReleased(time.monotonic(), "default/a@7", 7))
