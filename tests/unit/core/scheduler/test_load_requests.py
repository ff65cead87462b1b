"""Load and unload requests of operators."""

import pytest

from hotseat.core.messages import Refusal, Start, Stop
from hotseat.core.scheduler.messages import LoadOrdered, SchedulingSpec, UnloadOrdered
from tests.unit.core.scheduler.story import (
    DRAINING,
    LOADING,
    QUIESCING,
    RELEASING,
    SERVER,
    Story,
    cancelled,
    is_released,
    publish,
    started,
    unready,
    who,
)


def test_an_operator_loads_a_model_that_nobody_waits_for() -> None:
    story = Story()
    assert story.machine.step(LoadOrdered(1.0, "a")) == [
        started(1, "a", waiting=0, reason="ordered"),
        Start("a", "w/a@2", 2),
        publish(2, who("a", LOADING, 1.0, 2), bound=30.0),
    ]
    assert story.machine.step(LoadOrdered(1.5, "a")) == []
    story.ready(2.0, "a", 2)
    assert story.machine.step(LoadOrdered(3.0, "a")) == []
    assert story.tick(4.0) == []


def test_an_ordered_model_is_not_given_up_while_it_loads() -> None:
    """A bug once: traffic for another made it start over again and again."""
    story = Story()
    story.machine.step(LoadOrdered(1.0, "a"))
    assert story.demand(2.0, {"b": 1}) == []
    story.ready(3.0, "a", 2)
    assert story.demand(3.0, {"b": 1})[0] == started(2, "b", "a")  # but then it is like any other


def test_a_request_that_another_replaces_is_withdrawn() -> None:
    story = Story()
    story.machine.step(LoadOrdered(1.0, "a"))
    commands = story.machine.step(LoadOrdered(2.0, "b", replaces="a"))
    assert Stop("a", "w/a@2", 2, 10.0) in commands
    assert list(story.machine.parts.availability.load_requests) == ["b"]


def test_a_replaced_request_leaves_a_model_to_those_who_wait_for_it() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.machine.step(LoadOrdered(1.5, "a"))
    assert not any(isinstance(each, Stop) for each in story.machine.step(LoadOrdered(2.0, "b", replaces="a")))


def test_an_operator_may_try_a_failed_model_before_its_pause_is_over() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    story.released(2.0, "a", 2)
    story.demand(2.1)
    assert story.machine.step(LoadOrdered(2.2, "a")) == [
        started(2, "a", waiting=0, reason="ordered"),
        Start("a", "w/a@5", 5),
        publish(5, who("a", LOADING, 2.2, 5), bound=30.0),
    ]


def test_an_operator_unloads_a_model_gently_and_sends_away_who_waits() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"a": 1}, {"w/a@2": 1})
    message = "a was unloaded while this request was queued; send it again to load the model"
    refuse = {"a": Refusal(4, "unloaded", message)}
    assert story.machine.step(UnloadOrdered(2.0, "a")) == [
        publish(4, who("a", QUIESCING, 2.0, 2, "unloaded"), refuse=refuse)
    ]
    assert story.demand(3.0, {}, {"w/a@2": 1}) == [publish(5, who("a", DRAINING, 3.0, 2, "unloaded"), refuse=refuse)]
    assert story.demand(4.0) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(6, who("a", RELEASING, 4.0, 2, "unloaded"), refuse=refuse),
    ]
    assert story.demand(4.5, {"a": 1}) == []
    assert story.released(5.0, "a", 2)[2] == Start("a", "w/a@7", 7)  # who comes later gets it loaded again


def test_unloading_stops_a_load_and_takes_back_an_order() -> None:
    story = Story()
    story.machine.step(LoadOrdered(1.0, "a"))
    message = "the load of a was cancelled after 1.0 s"
    failed = cancelled(1, "a", phase="load", code="Unloaded", message=message, reason="ordered", load=1.0, total=1.0)
    assert story.machine.step(UnloadOrdered(2.0, "a")) == [
        failed,
        Stop("a", "w/a@2", 2, 10.0),
        publish(3, unready("a", RELEASING, 2.0, 2, "unloaded")),
    ]
    assert story.released(2.5, "a", 2) == [is_released("a", 2, "unloaded", 0.5), publish(4)]


@pytest.mark.parametrize("model", ["x", "unknown"])
def test_servers_outside_and_unknown_models_are_neither_loaded_nor_unloaded(model: str) -> None:
    story = Story(x=SchedulingSpec(external=SERVER))
    story.demand(1.0, {"x": 1})
    assert story.machine.step(LoadOrdered(2.0, model)) == []
    assert story.machine.step(UnloadOrdered(2.0, model)) == []
    assert story.machine.parts.availability.load_requests == {}
