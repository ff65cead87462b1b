"""A first load, and the weights that it needs."""

from hotseat.core.events import Emit
from hotseat.core.messages import CacheObserved, Fetch, Refusal, Start
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.availability import CHECK_TIME
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import ConfigChanged, FetchOrdered, ModelStatus, SchedulingSpec, Tick
from tests.unit.core.scheduler.story import (
    ABSENT,
    CACHED,
    EXTERNAL,
    FAILED,
    FETCHING,
    LOADING,
    QUIESCING,
    READY,
    SERVER,
    Story,
    completed,
    has_failed,
    is_ready,
    publish,
    started,
    who,
)

# The first load -------------------------------------------------------------------------------------------------------


def test_documents_alone_load_nothing_and_show_servers_outside_at_once() -> None:
    machine = Scheduler("w", Batch())
    terms = {"a": SchedulingSpec(), "x": SchedulingSpec(external=SERVER)}
    assert machine.step(ConfigChanged(0.0, terms, Capacity(1))) == [publish(1, EXTERNAL)]
    assert machine.step(CacheObserved(0.0, "a", CACHED)) == []
    assert machine.status() == [ModelStatus("a", "unloaded"), ModelStatus("x", "ready")]
    assert machine.wake_at is None


def test_the_first_request_loads_its_model_which_is_then_shown_as_ready() -> None:
    story = Story()
    requested = Emit("switch.requested", "a", {"model": "a", "workspace": "w", "waiting": 2, "router": "r"})
    assert story.demand(1.0, {"a": 2}, since=0.5, requested=("a",)) == [
        requested,
        started(1, "a", waiting=2),
        Start("a", "w/a@2", 2),
        publish(2, who("a", LOADING, 1.0, 2), bound=30.0),
    ]
    assert story.machine.wake_at == 301.0  # its start timeout
    assert story.states() == {"a": "loading", "b": "unloaded"}
    assert story.ready(4.0, "a", 2) == [
        is_ready("a", 2, 3.0),
        completed(1, "a", wait=0.5, load=3.0, total=3.0),
        publish(3, who("a", READY, 4.0, 2)),
    ]
    assert story.demand(4.0, {}, {"w/a@2": 2}) == []
    assert story.states() == {"a": "ready", "b": "unloaded"}
    assert story.machine.wake_at is None


def test_a_request_for_a_ready_model_or_a_server_outside_is_no_request_for_a_switch() -> None:
    story = Story(a=SchedulingSpec(), x=SchedulingSpec(external=SERVER))
    story.load(1.0)
    assert story.demand(2.0, {"a": 1, "x": 1}, requested=("a", "x", "unknown")) == []


# Weights --------------------------------------------------------------------------------------------------------------


def test_weights_are_fetched_before_anything_makes_space_for_them() -> None:
    story = Story()
    story.load(1.0)
    story.machine.step(CacheObserved(1.0, "b", ABSENT))
    assert story.demand(2.0, {"b": 1}) == [Fetch("b")]
    assert story.demand(3.0, {"b": 1}) == []  # once
    progress = Emit("model.fetching", "b", {"done": 5, "total": 10, "rate": None, "remaining": None, "message": "half"})
    assert story.machine.step(CacheObserved(4.0, "b", FETCHING, "half", 5, 10)) == [progress]
    assert story.machine.status()[1] == ModelStatus("b", "fetching", 4.0, "half", 5, 10)
    faster = {"done": 7, "total": 10, "rate": 4, "remaining": 1, "message": "more"}
    assert story.machine.step(CacheObserved(4.5, "b", FETCHING, "more", 7, 10)) == [Emit("model.fetching", "b", faster)]
    status = story.machine.status()[1]
    assert status.progress() == {"done": 7, "total": 10, "rate": 4, "remaining": 1}
    assert story.states()["a"] == "ready"
    there = story.machine.step(CacheObserved(5.0, "b", CACHED))
    assert there[0] == Emit("model.cached", "b", {})
    assert there[1:] == [
        started(2, "b", "a"),
        publish(4, who("a", QUIESCING, 5.0, 2), bound=30.0),
    ]


def test_what_a_load_needs_is_looked_at_before_anybody_makes_space_for_it() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(check_first=True))
    story.load(1.0)
    assert story.demand(2.0, {"b": 1}) == [Fetch("b")], "weights that were there may have vanished"
    assert story.demand(2.1, {"b": 1}) == [], "once for each load"
    assert story.machine.step(CacheObserved(2.2, "b", ABSENT)) == [Fetch("b")]
    assert story.machine.step(CacheObserved(2.3, "b", FETCHING)) != []
    assert story.states()["a"] == "ready"
    there = story.machine.step(CacheObserved(5.0, "b", CACHED))
    assert there[1:] == [started(2, "b", "a"), publish(4, who("a", QUIESCING, 5.0, 2), bound=30.0)]


def test_a_load_that_cannot_begin_evicts_nobody_and_says_why() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(check_first=True))
    story.load(1.0)
    assert story.demand(2.0, {"b": 1}) == [Fetch("b")]
    failed = story.machine.step(CacheObserved(2.1, "b", FAILED, "serve: not found", reason="CommandNotFound"))
    refusal = Refusal(4, "model_failed", "b failed: CommandNotFound: serve: not found", 3.1)
    assert failed == [
        has_failed("b", None, "CommandNotFound", "serve: not found", 1.0),
        publish(4, who("a", READY, 1.0, 2), refuse={"b": refusal}),
    ]


def test_a_look_that_is_not_answered_holds_a_load_up_for_a_moment_only() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(check_first=True))
    story.load(1.0)
    story.demand(2.0, {"b": 1})
    assert story.machine.wake_at == 2.0 + CHECK_TIME
    assert started(2, "b", "a") in story.tick(2.0 + CHECK_TIME)


def test_a_wish_for_what_cannot_be_loaded_is_tried_again_after_a_pause_too() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(wanted=True)}, Capacity(1)))
    assert machine.step(CacheObserved(1.0, "a", FAILED, "no such file")) == [Fetch("a")]
    answer = machine.step(CacheObserved(1.1, "a", FAILED, "no such file"))
    assert answer[0] == has_failed("a", None, "FetchFailed", "no such file", 1.0)
    assert machine.step(Tick(1.2)) == []
    assert machine.step(Tick(2.2)) == [Fetch("a")]


def test_a_fetch_that_fails_is_told_to_those_who_wait_and_tried_again_after_a_growing_pause() -> None:
    story = Story()
    story.machine.step(CacheObserved(0.0, "a", ABSENT))
    story.demand(1.0, {"a": 1})
    for count, pause in enumerate((1.0, 2.0, 4.0)):
        now = 10.0 * (count + 1)
        refusal = Refusal(2 + count, "model_failed", "a failed: FetchFailed: no such file", now + pause)
        assert story.machine.step(CacheObserved(now, "a", FAILED, "no such file")) == [
            has_failed("a", None, "FetchFailed", "no such file", pause),
            publish(2 + count, refuse={"a": refusal}),
        ]
        assert story.machine.status()[0] == ModelStatus(
            "a", "failed", None, "FetchFailed: no such file", retry_at=now + pause
        )
        assert story.demand(now, {"a": 1}) == []  # somebody came in that moment: not yet
        assert story.machine.wake_at == now + pause
        assert story.tick(now + pause) == [Fetch("a")]


def test_weights_are_fetched_on_request_without_a_load() -> None:
    story = Story()
    story.machine.step(CacheObserved(1.0, "b", ABSENT))
    assert story.machine.step(FetchOrdered(2.0, "b")) == [Fetch("b")]
    assert story.states()["b"] == "fetching"
    assert story.machine.step(FetchOrdered(3.0, "b")) == []
    assert story.machine.step(CacheObserved(4.0, "b", CACHED)) == [Emit("model.cached", "b", {})]
    assert story.states() == {"a": "unloaded", "b": "unloaded"}
    assert story.machine.step(FetchOrdered(5.0, "b")) == []


def test_a_fetch_on_request_is_tried_again_on_request() -> None:
    story = Story()
    story.machine.step(CacheObserved(1.0, "b", ABSENT))
    story.machine.step(FetchOrdered(2.0, "b"))
    story.machine.step(CacheObserved(3.0, "b", FAILED, "no space left"))
    assert story.machine.status()[1].message == "FetchFailed: no space left"
    assert Fetch("b") in story.machine.step(FetchOrdered(4.0, "b"))
    assert story.states()["b"] == "fetching"


def test_what_has_no_weights_of_ours_is_not_fetched() -> None:
    story = Story(x=SchedulingSpec(external=SERVER))
    assert story.machine.step(FetchOrdered(2.0, "x")) == []
    assert story.machine.step(FetchOrdered(2.0, "unheard-of")) == []


def test_a_fetch_that_fails_unasked_is_no_failure_yet() -> None:
    story = Story()
    assert story.machine.step(CacheObserved(1.0, "a", FAILED, "offline")) == []
    assert story.machine.status()[0] == ModelStatus("a", "failed", None, "offline")
    assert story.demand(2.0, {"a": 1}) == [Fetch("a")]


def test_weights_that_come_ahead_make_nobody_wait_for_them() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(fetch_ahead=True, refuse_uncached=True))
    story.load(1.0)
    assert story.machine.step(CacheObserved(1.0, "b", ABSENT)) == [Fetch("b")]  # nobody has asked
    said = "the weights of b are still being fetched"
    refusal = Refusal(4, "weights_not_cached", said, 7.0)
    assert story.demand(2.0, {"b": 1}) == [publish(4, who("a", READY, 1.0, 2), refuse={"b": refusal})]
    assert story.demand(3.0, {"b": 1}, seen=3) == []  # the router has not seen that yet
    story.machine.step(CacheObserved(4.0, "b", FETCHING, "", 5_000_000, 20_000_000))
    later = Refusal(5, "weights_not_cached", f"{said}: 5 MB of 20 MB (25%)", 13.0)
    assert story.demand(8.0, {"b": 1}, seen=4) == [publish(5, who("a", READY, 1.0, 2), refuse={"b": later})]
    assert story.demand(8.5, {}, seen=5) == []  # it has been sent away
    there = story.machine.step(CacheObserved(9.0, "b", CACHED))
    assert there == [Emit("model.cached", "b", {}), publish(6, who("a", READY, 1.0, 2))]


def test_weights_that_cannot_be_fetched_at_present_are_refused_with_the_reason() -> None:
    story = Story(a=SchedulingSpec(fetch_ahead=True, refuse_uncached=True))
    story.machine.step(CacheObserved(1.0, "a", ABSENT))
    story.machine.step(CacheObserved(2.0, "a", FETCHING, "no node has a GPU", None, None, "Unschedulable"))
    said = "the weights of a cannot be fetched at present: Unschedulable: no node has a GPU"
    assert story.demand(3.0, {"a": 1})[-1].residency.refusals["a"] == Refusal(2, "weights_not_cached", said, 8.0)


def test_weights_that_cannot_come_ahead_are_a_failure_though_nobody_waits() -> None:
    story = Story(a=SchedulingSpec(fetch_ahead=True, refuse_uncached=True))
    story.machine.step(CacheObserved(1.0, "a", ABSENT))
    failed = story.machine.step(CacheObserved(2.0, "a", FAILED, "sha256 is another"))
    refusal = Refusal(2, "model_failed", "a failed: FetchFailed: sha256 is another", 3.0)
    assert failed == [has_failed("a", None, "FetchFailed", "sha256 is another", 1.0), publish(2, refuse={"a": refusal})]
    assert story.tick(4.0) == [], "it is tried again when somebody asks"
    assert story.demand(5.0, {"a": 1}, seen=2)[0] == Fetch("a")
