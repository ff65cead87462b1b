"""Instances whose release cannot be proven."""

from hotseat.core.messages import Refusal, Start
from hotseat.core.policy.api import Capacity
from hotseat.core.scheduler.messages import UnloadOrdered
from tests.unit.core.scheduler.story import (
    LOADING,
    SHORT,
    UNPROVEN,
    Story,
    broken,
    has_failed,
    is_released,
    publish,
    started,
    who,
)


def test_without_proof_the_seat_stays_taken_and_who_waits_is_told() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0)
    story.demand(2.0, {"b": 1})
    story.demand(2.0, {"b": 1})
    refusal = {"b": Refusal(6, "release_unproven", SHORT, 22.0)}
    assert story.unproven(12.0, "a", 2) == [
        has_failed("a", 2, "ReleaseUnproven", "pid 7 is still there"),
        broken(2, "b", "a", phase="release", code="ReleaseUnproven", message="pid 7 is still there", total=10.0),
        publish(6, who("a", UNPROVEN, 12.0, 2, "evicted"), refuse=refusal),
    ]
    assert story.states() == {"a": "unproven", "b": "unloaded"}
    assert story.machine.status()[0].message == "pid 7 is still there", "what a person has to look at"
    assert story.unproven(12.5, "a", 2) == []
    again = refusal | {"a": Refusal(7, "release_unproven", SHORT, 23.0)}
    assert story.demand(13.0, {"a": 1}) == [publish(7, who("a", UNPROVEN, 12.0, 2, "evicted"), refuse=again)]


def test_proof_that_comes_later_frees_the_seat_and_ends_the_refusals() -> None:
    """A bug once: clients were sent away for some more seconds."""
    story = Story()
    story.load(1.0)
    story.machine.step(UnloadOrdered(1.0, "a"))
    story.demand(1.0)
    story.unproven(2.0, "a", 2)
    story.demand(3.0, {"b": 1})
    assert "b" in story.machine.residency.refusals
    story.demand(4.0)
    assert story.released(5.0, "a", 2) == [is_released("a", 2, "unloaded", 4.0), publish(8)]


def test_with_another_seat_free_the_rest_goes_on_but_a_stuck_model_does_not_load_beside_itself() -> None:
    """A bug once: those who waited for the stuck model were neither served nor sent away."""
    story = Story(Capacity(3))
    story.load(1.0)
    story.machine.step(UnloadOrdered(1.0, "a"))
    story.demand(1.0)
    story.unproven(2.0, "a", 2)
    assert story.demand(3.0, {"b": 1})[:2] == [started(2, "b"), Start("b", "w/b@7", 7)]
    assert story.demand(4.0, {"a": 1}) == [
        publish(
            8,
            who("a", UNPROVEN, 2.0, 2, "unloaded"),
            who("b", LOADING, 3.0, 7),
            refuse={"a": Refusal(8, "release_unproven", SHORT, 14.0)},
        )
    ]


def test_one_that_cannot_be_proven_gone_though_nobody_told_it_to_go_has_crashed_as_well() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    said = story.unproven(2.0, "a", 2)
    assert said[0] == has_failed("a", 2, "ReleaseUnproven", "pid 7 is still there", 1.0)
    assert said[1].type == "switch.failed"
    assert story.states()["a"] == "unproven"
