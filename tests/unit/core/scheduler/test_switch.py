"""A switch from one model to another, and how long it may be put off."""

import pytest

from hotseat.core.messages import InstanceState, Start, Stop
from hotseat.core.policy.api import auto_max_wait
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.messages import RouterLeft, SchedulingSpec
from tests.unit.core.scheduler.story import (
    DRAINING,
    LOADING,
    QUIESCING,
    READY,
    RELEASING,
    Story,
    cancelled,
    completed,
    is_ready,
    is_released,
    learned,
    publish,
    started,
    who,
)

# A switch -------------------------------------------------------------------------------------------------------------


def test_a_switch_closes_drains_releases_and_loads() -> None:
    story = Story(a=SchedulingSpec(max_wait=5.0), b=SchedulingSpec(max_wait=5.0, stop_timeout=7.0))
    story.load(1.0)
    assert story.demand(2.0, {"b": 1}, {"w/a@2": 3}) == []  # a is busy: b waits
    assert story.machine.wake_at == 7.0
    assert story.tick(7.0) == [started(2, "b", "a"), publish(4, who("a", QUIESCING, 7.0, 2), bound=5.0)]
    assert story.demand(7.0, {"b": 1}, {"w/a@2": 3}, since=2.0, seen=3) == []  # it has not seen that yet
    assert story.demand(7.1, {"b": 1, "a": 2}, {"w/a@2": 3}, since=2.0, quiescing={"a": 2}) == []  # its batch
    assert story.demand(8.0, {"b": 1}, {"w/a@2": 2}, since=2.0) == [publish(5, who("a", DRAINING, 8.0, 2), bound=5.0)]
    assert story.machine.wake_at == 127.0  # the drain deadline counts from the decision
    assert story.demand(9.0, {"b": 1}, {"w/a@2": 1}, since=2.0, seen=4) == []
    assert story.demand(10.0, {"b": 1}, since=2.0, seen=4) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(6, who("a", RELEASING, 10.0, 2, "evicted"), bound=5.0),
    ]
    assert story.released(10.5, "a", 2) == [
        is_released("a", 2, "evicted", 0.5),
        Start("b", "w/b@7", 7),
        publish(7, who("b", LOADING, 10.5, 7), bound=5.0),
    ]
    assert story.ready(12.5, "b", 7) == [
        is_ready("b", 7, 2.0),
        completed(2, "b", "a", wait=5.0, drain=3.0, release=0.5, load=2.0, total=5.5),
        publish(8, who("b", READY, 12.5, 7)),
    ]


@pytest.mark.parametrize("ends_by_itself", [False, True])
def test_what_a_drain_takes_is_learned_unless_its_engine_ends_in_it(ends_by_itself: bool) -> None:
    story = Story()
    of = story.load(1.0)
    busy = {f"w/a@{of}": 1}
    story.demand(3.0, {"b": 1}, busy)
    story.tick(40.0)  # its turn is over
    story.demand(41.0, {"b": 1}, busy)
    assert story.states()["a"] == "draining"
    if ends_by_itself:
        story.failed(43.0, "a", of)
    else:
        story.demand(43.0, {"b": 1})
    assert story.machine.instances[f"w/a@{of}"].state is RELEASING
    drain = story.machine.parts.history.durations.drain
    assert drain == ({} if ends_by_itself else {"a": Estimate(2.0)})


def test_an_idle_model_goes_as_soon_as_every_router_has_seen_that_it_closes() -> None:
    story = Story()
    story.load(1.0)
    story.demand(1.0, router="other")
    assert story.demand(2.0, {"b": 1}) == [started(2, "b", "a"), publish(4, who("a", QUIESCING, 2.0, 2), bound=30.0)]
    assert story.demand(2.1, {"b": 1}) == []  # the other one has not
    assert story.demand(2.2, router="other") == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(5, who("a", RELEASING, 2.2, 2, "evicted"), bound=30.0),
    ]


@pytest.mark.parametrize("state", [QUIESCING, DRAINING])
def test_a_router_that_is_gone_is_awaited_no_longer(state: InstanceState) -> None:
    story = Story()
    story.load(1.0)
    story.demand(1.0, flight={"w/a@2": 1}, router="other")
    story.demand(2.0, {"b": 1}, since=-30.0)
    if state is DRAINING:
        story.demand(2.0, flight={"w/a@2": 1}, router="other")
        story.demand(2.0, {"b": 1}, since=-30.0)
    epoch = story.machine.epoch
    story.demand(2.1, {"b": 1}, since=-30.0)
    assert story.states()["a"] == state.value
    assert story.machine.step(RouterLeft(3.0, "other")) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(epoch + 1, who("a", RELEASING, 3.0, 2, "evicted"), bound=30.0),
    ]


@pytest.mark.parametrize("state", [QUIESCING, DRAINING])
def test_the_drain_deadline_ends_the_waiting_for_requests_and_for_routers(state: InstanceState) -> None:
    story = Story(a=SchedulingSpec(drain_timeout=20.0), b=SchedulingSpec())
    story.load(1.0)
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    if state is DRAINING:
        story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    assert story.states()["a"] == state.value
    epoch = story.machine.epoch
    assert story.machine.wake_at == 22.0
    assert story.tick(21.9) == []
    assert story.tick(22.0) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(epoch + 1, who("a", RELEASING, 22.0, 2, "evicted"), bound=30.0),
    ]


def test_a_switch_is_taken_back_when_nobody_waits_for_it_any_longer() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    gone = "the load was cancelled: no request is queued for the model, or another model goes first"
    assert story.demand(4.0, {}, {"w/a@2": 1}) == [
        cancelled(2, "b", phase="drain", code="Abandoned", message=gone, wait=32.0, total=2.0),
        publish(5, who("a", READY, 4.0, 2)),
    ]
    assert story.demand(100.0, {"b": 1}, {"w/a@2": 1}) == []  # another client, much later: it gets its bound again


def test_a_switch_is_not_taken_back_while_somebody_waits_for_it() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    assert story.demand(3.0, {"b": 1, "a": 4}, {"w/a@2": 1}, seen=3) == []  # another waiter for b, and some for a
    assert story.states()["a"] == "quiescing"


def test_what_is_left_of_a_batch_at_the_deadline_does_not_bring_the_old_model_back() -> None:
    """A bug once: the old model's rest had waited longer than the new one's waiters, which then waited for ever."""
    story = Story(a=SchedulingSpec(drain_timeout=20.0), b=SchedulingSpec())
    story.load(1.0)
    story.demand(40.0, {"b": 1, "a": 9}, {"w/a@2": 1}, since=2.0, quiescing={"a": 9})
    assert story.states()["a"] == "quiescing"
    story.tick(60.0)
    assert story.states()["a"] == "releasing"
    story.demand(60.0, {"b": 1, "a": 9}, {}, since=1.5)
    assert story.released(61.0, "a", 2)[1] == Start("b", "w/b@6", 6)


def test_a_model_that_is_ready_is_not_closed_before_every_router_has_heard_of_it() -> None:
    """A bug once: with an overdue waiter elsewhere and no time to drain, it was stopped in the moment it was ready."""
    story = Story(a=SchedulingSpec(max_wait=0.0, drain_timeout=0.0), b=SchedulingSpec(max_wait=0.0, drain_timeout=0.0))
    story.demand(1.0, {"a": 1, "b": 1}, since=-9.0)
    assert story.ready(2.0, "a", 2)[-1] == publish(3, who("a", READY, 2.0, 2), bound=11.0)
    assert story.machine.wake_at == 7.0  # if a router does not hear at all
    assert story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-9.0, seen=3) == [
        Stop("a", "w/a@2", 2, 10.0),
        started(2, "b", "a"),
        publish(4, who("a", RELEASING, 2.0, 2, "evicted"), bound=11.0, outlook={"a": 0.5}),
    ]


# maxWait: Auto --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "bound"),
    [((), 30.0), ((0.2,), 5.0), ((1.0,), 10.0), ((5.0, 1.0), 30.0), ((6.0,), 60.0), ((20.0,), 60.0), ((40.0,), 120.0)],
)
def test_the_bound_fits_what_switches_cost(costs: tuple[float, ...], bound: float) -> None:
    assert auto_max_wait(costs) == bound


def test_the_bound_of_a_model_without_one_is_what_auto_stood_for_last() -> None:
    story = Story(a=SchedulingSpec(max_wait=None), b=SchedulingSpec(max_wait=7.0))
    learned(story, 4.0)
    story.demand(1.0, {"a": 1})
    bounds = {name: story.machine.parts.state.max_wait(spec) for name, spec in story.terms.items()}
    assert bounds == {"a": auto_max_wait([4.0]), "b": 7.0}


def test_the_bound_follows_the_models_that_take_turns_and_is_shown() -> None:
    auto = SchedulingSpec(max_wait=None)
    story = Story(a=auto, b=auto, c=auto)
    story.machine.parts.history.durations.record_load("c", 100.0)  # takes no part
    assert story.machine.effective_max_wait == 30.0
    story.demand(1.0, {"a": 1})
    story.ready(2.0, "a", 2)
    assert story.machine.effective_max_wait == 10.0
    story.demand(3.0, {"b": 1}, {"w/a@2": 1}, served={"w/a@2": 1})
    assert story.machine.wake_at == 13.0
    story.tick(13.0)
    assert story.states()["a"] == "quiescing"
