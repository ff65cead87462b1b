"""Loads that fail and engines that crash: back-off, refusals, and who is told."""

from hotseat.core.messages import CacheObserved, CacheState, InstanceFailed, InstancePending, Refusal, Start, Stop
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import ConfigChanged, LoadOrdered, ModelStatus, SchedulingSpec, UnloadOrdered
from tests.unit.core.scheduler.story import (
    CACHED,
    LOADING,
    READY,
    RELEASING,
    Story,
    broken,
    cancelled,
    crash,
    has_failed,
    is_released,
    publish,
    started,
    unready,
    who,
)

# Loading fails --------------------------------------------------------------------------------------------------------


def test_a_start_that_fails_is_told_to_those_who_wait_and_holds_the_seat_until_it_is_proven_free() -> None:
    story = Story()
    story.demand(1.0, {"a": 1, "b": 1})
    assert story.failed(2.0, "a", 2) == [
        has_failed("a", 2, "Exited", "exit code 1", 1.0),
        broken(1, "a", phase="load", code="Exited", message="exit code 1", load=1.0, total=1.0),
        started(2, "b", "a"),
        publish(3, unready("a", RELEASING, 2.0, 2, "failed"), refuse={"a": crash("a", 3, 3.0)}, bound=30.0),
    ]
    assert story.states() == {"a": "failed", "b": "unloaded"}
    assert story.failed(2.1, "a", 2) == []  # said twice
    assert story.released(2.5, "a", 2) == [
        is_released("a", 2, "failed", 0.5),
        Start("b", "w/b@4", 4),
        publish(4, who("b", LOADING, 2.5, 4), refuse={"a": crash("a", 3, 3.0)}, bound=30.0),
    ]


def test_who_comes_after_the_pause_gets_another_try_and_success_ends_the_refusal() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    assert story.released(2.0, "a", 2) == [
        is_released("a", 2, "failed", 0.0),
        publish(4, refuse={"a": crash("a", 3, 3.0)}),
    ]
    assert story.machine.status()[0] == ModelStatus(
        "a", "failed", None, "Exited: exit code 1", retry_at=3.0, exit_code=1
    )
    assert story.demand(2.5, {"a": 1}, seen=2) == []  # from before the refusal: answered with it
    assert story.machine.wake_at is None
    assert story.demand(4.0, {"a": 1})[:2] == [started(2, "a"), Start("a", "w/a@5", 5)]
    assert story.ready(5.0, "a", 5)[-1] == publish(6, who("a", READY, 5.0, 5))
    story.failed(6.0, "a", 5)  # and again, soon: the count goes on
    assert story.machine.parts.availability.failures["a"].retry_at == 7.0


def test_a_start_that_takes_too_long_is_stopped() -> None:
    story = Story(a=SchedulingSpec(start_timeout=20.0))
    story.demand(1.0, {"a": 1})
    assert story.machine.wake_at == 21.0
    message = "not ready within 20 s (lifecycle.startTimeout)"
    refusal = Refusal(3, "model_failed", f"a failed: StartTimeout: {message}", 22.0)
    assert story.tick(21.0) == [
        Stop("a", "w/a@2", 2, 10.0),
        has_failed("a", 2, "StartTimeout", message, 1.0),
        broken(1, "a", phase="load", code="StartTimeout", message=message, load=20.0, total=20.0),
        publish(3, unready("a", RELEASING, 21.0, 2, "failed"), refuse={"a": refusal}),
    ]
    assert story.ready(21.5, "a", 2) == []  # too late


def test_what_a_start_waits_for_is_shown_meanwhile_and_in_the_failure() -> None:
    story = Story(a=SchedulingSpec(start_timeout=20.0))
    story.demand(1.0, {"a": 1})
    story.machine.step(InstancePending(2.0, "w/a@2", 2, "Unschedulable: no GPU is free"))
    assert story.machine.status()[0] == ModelStatus("a", "loading", 1.0, "Unschedulable: no GPU is free")
    story.machine.step(InstancePending(3.0, "w/a@2", 2, ""))
    assert story.machine.status()[0] == ModelStatus("a", "loading", 1.0)
    story.machine.step(InstancePending(4.0, "w/a@2", 2, "Unschedulable: no GPU is free"))
    story.tick(21.0)
    message = "not ready within 20 s (lifecycle.startTimeout): Unschedulable: no GPU is free"
    assert story.machine.parts.availability.failures["a"].message == message


def test_a_start_that_hangs_ends_even_if_nobody_says_anything_more() -> None:
    """A bug once: the alarm for it was set by the next stimulus only."""
    machine = Scheduler("w", Batch())
    machine.step(CacheObserved(0.0, "p", CACHED))
    machine.step(ConfigChanged(0.0, {"p": SchedulingSpec(preload=True, start_timeout=5.0)}, Capacity(1)))
    assert machine.wake_at == 5.0


def test_a_loading_model_is_given_up_for_one_that_is_wanted_and_its_switch_ends_there() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.demand(2.0, {})  # its client has gone, after 1 s: it may come back within 1 s
    assert story.demand(2.5, {"b": 1}) == []
    message = "the load of a was cancelled after 2.0 s"
    assert story.tick(3.0) == [
        cancelled(1, "a", phase="load", code="Abandoned", message=message, load=2.0, total=2.0),
        Stop("a", "w/a@2", 2, 10.0),
        started(2, "b", "a"),
        publish(3, unready("a", RELEASING, 3.0, 2, "evicted"), bound=30.0),
    ]
    assert story.failed(3.1, "a", 2) == []  # it was told to go: no failure of its own


def test_a_loading_model_that_nobody_wants_any_longer_goes_on_where_nobody_else_does() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    assert story.demand(2.0, {}) == []


# Ready, and then not any more -----------------------------------------------------------------------------------------


def test_a_crash_frees_the_seat_and_the_first_one_costs_no_pause() -> None:
    story = Story()
    story.load(1.0)
    assert story.failed(2.0, "a", 2) == [
        has_failed("a", 2, "Exited", "exit code 1"),
        publish(4, who("a", RELEASING, 2.0, 2, "failed")),
    ]
    assert story.demand(2.0, {"a": 1}) == []
    assert story.released(3.0, "a", 2) == [
        is_released("a", 2, "failed", 1.0),
        started(2, "a"),
        Start("a", "w/a@5", 5),
        publish(5, who("a", LOADING, 3.0, 5), bound=30.0),
    ]


def test_one_that_hangs_is_stopped_once_nobody_is_sent_to_it_and_started_again() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"a": 1}, {"w/a@2": 1})
    hung = story.machine.step(InstanceFailed(3.0, "w/a@2", 2, "Unhealthy", "it hangs", lives=True))
    assert Stop("a", "w/a@2", 2, 10.0) in hung
    assert publish(4, who("a", RELEASING, 3.0, 2, leaving="failed"), bound=30.0) in hung
    assert has_failed("a", 2, "Unhealthy", "it hangs") in hung
    assert Start("a", "w/a@5", 5) in story.released(3.5, "a", 2)


def test_crashes_in_a_row_have_growing_pauses_up_to_a_bound() -> None:
    story = Story()
    pauses = []
    for count in range(12):
        now = 1000.0 * (count + 1)
        of = story.load(now)
        story.failed(now + 1, "a", of)
        story.released(now + 1, "a", of)
        pauses.append(story.machine.parts.availability.failures["a"].retry_at - now - 1)
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_thousand_failures_are_no_different() -> None:
    """A bug once: two to the power of their number."""
    story = Story()
    story.machine.step(LoadOrdered(0.0, "a"))
    story.machine.parts.availability.failures.clear()
    story.failed(1.0, "a", 2)
    story.machine.parts.availability.failures["a"].count = 5000
    story.released(2.0, "a", 2)
    story.demand(1000.0, {"a": 1})
    story.failed(1001.0, "a", story.machine.epoch)
    assert story.machine.parts.availability.failures["a"].retry_at == 1301.0


def test_a_minute_of_health_wipes_out_earlier_failures() -> None:
    story = Story()
    for now in (0.0, 1000.0):
        of = story.load(now)
        story.failed(now + 60.0, "a", of)
        story.released(now + 60.0, "a", of)
        assert story.machine.parts.availability.failures["a"].count == 1


def test_health_counts_from_readiness_also_for_one_that_was_told_to_close() -> None:
    """A bug once: it counted from the last change of state."""
    story = Story()
    story.failed(1.0, "a", story.load(0.0))
    story.released(1.0, "a", 2)
    of = story.load(10.0)
    story.demand(100.0, {"b": 1}, {f"w/a@{of}": 1}, since=60.0)
    assert story.states()["a"] == "quiescing"
    story.failed(101.0, "a", of)
    assert story.machine.parts.availability.failures["a"].count == 1


def test_a_model_that_was_ready_after_its_failure_is_just_unloaded_later() -> None:
    """A bug once: an old failure was shown for ever."""
    story = Story()
    story.failed(1.0, "a", story.load(0.0))
    story.released(1.0, "a", 2)
    of = story.load(2.0)
    story.demand(3.0)
    story.machine.step(UnloadOrdered(3.0, "a"))
    story.demand(3.0)
    story.released(4.0, "a", of)
    assert story.machine.status()[0] == ModelStatus("a", "unloaded")


def test_one_that_vanishes_without_a_word_has_crashed() -> None:
    story = Story()
    story.load(1.0)
    assert story.released(2.0, "a", 2) == [
        has_failed("a", 2, "Vanished", "the engine ended without a reason"),
        is_released("a", 2, "failed", 0.0),
        publish(4),
    ]


# A crash is not a refusal ---------------------------------------------------------------------------------------------


def crash_twice(story: Story, now: float = 1.0) -> int:
    """Two crashes in a row of a model that was ready, each after one answer; returns the epoch of the last refusal."""
    for when in (now, now + 2.0):
        of = story.load(when)
        story.failed(when + 1, "a", of)
        story.released(when + 1, "a", of)
    return story.machine.residency.refusals["a"].epoch


def test_after_a_second_crash_requests_wait_out_a_back_off_that_is_shorter_than_their_bound() -> None:
    """A bug once: each of them was sent away in 0 ms."""
    story = Story()
    epoch = crash_twice(story)
    refusal = story.machine.residency.refusals["a"]
    assert refusal == Refusal(epoch, "model_failed", "a failed: Exited: exit code 1", 5.0, waits=True)
    story.demand(4.2, {"a": 1})
    assert story.machine.wake_at == 5.0
    assert [c.model for c in story.tick(5.0) if isinstance(c, Start)] == ["a"]


def test_a_back_off_that_is_longer_than_the_bound_sends_requests_away() -> None:
    story = Story(a=SchedulingSpec(max_wait=0.5))
    crash_twice(story)
    assert not story.machine.residency.refusals["a"].waits


def test_answers_end_a_row_of_crashes_and_readiness_does_not() -> None:
    story = Story()
    crash_twice(story)
    of = story.load(10.0)
    story.demand(11.0, {}, {f"w/a@{of}": 1}, served={f"w/a@{of}": 21})
    story.failed(12.0, "a", of)
    assert story.machine.parts.availability.failures["a"].count == 1
    assert "a" not in story.machine.residency.refusals


def test_weights_that_vanish_under_a_ready_model_refuse_no_request() -> None:
    """A bug once: with an edit that changes nothing for the engine, requests got 503 though it was ready."""
    story = Story()
    of = story.load(1.0)
    story.demand(2.0, {"a": 1}, {f"w/a@{of}": 1})
    story.machine.step(CacheObserved(3.0, "a", CacheState.FAILED, "source /w.gguf does not exist"))
    assert story.machine.residency.refusals == {}
    assert story.states()["a"] == "ready"
