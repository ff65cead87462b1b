"""Idle timeouts and minimum residency."""

import pytest

from hotseat.core.messages import Stop
from hotseat.core.scheduler.messages import RouterLeft, SchedulingSpec
from tests.unit.core.scheduler.story import QUIESCING, READY, RELEASING, Story, is_released, publish, who


def test_an_idle_model_is_unloaded_after_its_timeout_counted_from_its_last_request() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    story.load(1.0)
    assert story.machine.wake_at is None  # in use
    story.demand(5.0)
    assert story.machine.wake_at == 15.0
    story.demand(9.0, served={"w/a@2": 2})  # one so short that it was never seen in flight
    assert story.machine.wake_at == 19.0
    assert story.tick(18.9) == []
    assert story.tick(19.0) == [publish(4, who("a", QUIESCING, 19.0, 2))]
    assert story.demand(19.1) == [Stop("a", "w/a@2", 2, 10.0), publish(5, who("a", RELEASING, 19.1, 2, "idle"))]
    assert story.released(20.0, "a", 2) == [is_released("a", 2, "idle", 0.9), publish(6)]


@pytest.mark.parametrize(("idle_timeout", "last"), [(0.7, 0.1), (0.1, 0.7), (1.1, 2.2), (3.3, 0.1)])
def test_the_alarm_of_an_idle_timeout_is_never_a_moment_too_early(idle_timeout: float, last: float) -> None:
    """A bug once: by rounding, the time at which it woke could be too early, and there was no second alarm."""
    story = Story(a=SchedulingSpec(idle_timeout=idle_timeout))
    story.load(0.0)
    story.demand(last)
    assert story.machine.wake_at is not None
    story.tick(story.machine.wake_at)
    assert story.states()["a"] == "quiescing"


def test_a_request_that_comes_while_it_closes_for_idleness_keeps_it() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    story.load(1.0)
    story.demand(5.0)
    story.tick(15.0)
    assert story.demand(15.1, {}, {"w/a@2": 1}, seen=3) == [publish(5, who("a", READY, 15.1, 2))]


def test_a_minimum_residency_keeps_also_the_idle() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=5.0, min_residency=60.0))
    story.load(1.0)
    story.demand(2.0)
    assert story.machine.wake_at == 61.0
    assert story.tick(60.0) == []
    assert story.tick(61.0) == [publish(4, who("a", QUIESCING, 61.0, 2))]


def test_a_minimum_residency_does_not_begin_again_when_a_switch_is_taken_back() -> None:
    """A bug once: it counted from the last change of state."""
    story = Story(a=SchedulingSpec(min_residency=10.0), b=SchedulingSpec())
    story.load(1.0)
    story.demand(12.0)
    story.demand(12.0, {"b": 1}, seen=3)
    story.demand(13.0, {}, seen=3)
    assert story.states()["a"] == "ready"
    story.demand(14.0, {"b": 1})
    assert story.states()["a"] == "quiescing"


def test_a_router_that_leaves_is_no_use_of_what_it_did_not_use() -> None:
    """A bug once: the number of requests ever served went down with it, and that looked like one more."""
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    story.load(1.0)
    story.demand(2.0, served={"w/a@2": 1})
    story.demand(2.0, served={"w/a@2": 7}, router="other")
    story.machine.step(RouterLeft(5.0, "other"))
    story.demand(6.0, served={"w/a@2": 1})
    assert story.machine.wake_at == 12.0
