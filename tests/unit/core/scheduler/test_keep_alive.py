"""How long a request says that its model stays, instead of the idle timeout."""

from math import inf

import pytest

from hotseat.core.messages import Demand
from hotseat.core.scheduler.messages import DemandReported, PinOrdered, SchedulingSpec
from tests.unit.core.scheduler.story import Story

A = "w/a@2"


def loaded(**spec: float) -> Story:
    story = Story(a=SchedulingSpec(**spec), b=SchedulingSpec())  # type: ignore[arg-type]
    story.load(1.0)
    return story


@pytest.mark.parametrize(("idle_timeout", "seconds"), [(0.0, 20.0), (10.0, 20.0), (60.0, 20.0)])
def test_it_replaces_the_idle_timeout(idle_timeout: float, seconds: float) -> None:
    story = loaded(idle_timeout=idle_timeout)
    story.demand(5.0, keep_alive={A: (seconds, 1.0)})
    assert story.machine.wake_at == 25.0
    story.tick(25.0)
    assert story.states()["a"] == "quiescing"


def test_zero_unloads_as_soon_as_nothing_is_in_flight() -> None:
    story = loaded()
    story.demand(2.0, {}, {A: 2}, keep_alive={A: (0.0, 1.0)})
    assert story.states()["a"] == "ready"
    story.demand(5.0, keep_alive={A: (0.0, 1.0)})
    assert story.states()["a"] == "quiescing"


def test_for_ever_outlasts_the_idle_timeout_but_evicts_nobody_and_gives_way() -> None:
    story = loaded(idle_timeout=10.0)
    story.demand(5.0, keep_alive={A: (inf, 1.0)})
    assert story.machine.wake_at is None
    story.demand(99.0, {"b": 1}, keep_alive={A: (inf, 1.0)})
    assert story.states()["a"] == "quiescing"


def test_the_newest_request_of_all_routers_counts() -> None:
    story = loaded()
    story.demand(4.5)
    story.demand(5.0, router="r1", keep_alive={A: (inf, 4.0)})
    story.demand(6.0, router="r2", keep_alive={A: (30.0, 3.0)})  # an earlier request, reported later
    assert story.machine.wake_at is None
    story.demand(7.0, router="r2", keep_alive={A: (30.0, 7.0)})
    assert story.machine.wake_at is not None


def test_of_two_at_the_same_time_the_longer_counts_however_often_they_are_reported() -> None:
    """A bug once: each report of a router replaced what the other had said, and the model went and came for ever."""
    story = loaded()
    story.demand(4.5)
    for number in range(3):
        story.demand(5.0 + number, router="r1", keep_alive={A: (inf, 4.0)})
        story.demand(5.5 + number, router="r2", keep_alive={A: (0.0, 4.0)})
        assert (story.states()["a"], story.machine.wake_at) == ("ready", None)


def test_it_ends_with_the_instance() -> None:
    story = loaded(idle_timeout=100.0)
    story.demand(5.0, keep_alive={A: (0.0, 1.0)})
    story.demand(5.0, keep_alive={A: (0.0, 1.0)})
    story.released(6.0, "a", 2)
    of = story.load(10.0)
    story.demand(11.0, {}, {f"w/a@{of}": 1}, keep_alive={A: (0.0, 1.0)})
    story.demand(12.0)
    assert story.machine.wake_at == 112.0


def test_a_pinned_model_stays_as_with_an_idle_timeout() -> None:
    story = loaded()
    story.machine.step(PinOrdered(2.0, "a"))
    story.demand(5.0, keep_alive={A: (0.0, 1.0)})
    story.tick(60.0)
    assert story.states()["a"] == "ready"


def test_an_unknown_instance_is_ignored() -> None:
    story = loaded()
    story.machine.step(DemandReported(2.0, Demand("r", 99, 3, keep_alive={"w/x@7": (0.0, 1.0)})))
    assert story.states()["a"] == "ready"
