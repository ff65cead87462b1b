"""What fits: models that are too large, that fit side by side, and a capacity that shrinks."""

from hotseat.core.messages import Refusal, Start, Stop
from hotseat.core.policy.api import NOTHING, Capacity, Claim
from hotseat.core.scheduler.messages import LoadOrdered, SchedulingSpec
from tests.unit.core.scheduler.story import LOADING, QUIESCING, READY, Story, publish, started, who


def test_a_model_that_is_too_large_for_the_workspace_says_so() -> None:
    """A bug once: it spoke of a seat that could not be proven free."""
    story = Story(Capacity(1, 10), a=SchedulingSpec(Claim(2)), b=SchedulingSpec(Claim(1, 11)))
    told = "claims more than its Workspace has"
    refusals = {
        "a": Refusal(2, "too_large", f"a {told}: 2 GPUs (available: 1 GPU with 10 of memory)"),
        "b": Refusal(2, "too_large", f"b {told}: 1 GPU with 11 of memory (available: 1 GPU with 10 of memory)"),
    }
    assert story.demand(1.0, {"a": 1, "b": 1}) == [publish(2, refuse=refusals)]
    story.demand(1.5)
    assert story.change(2.0, capacity=Capacity(2, 20)) == [publish(3)]
    assert story.demand(3.0, {"a": 1})[1] == Start("a", "w/a@4", 4)


def test_an_order_that_no_switch_can_carry_out_ends_with_the_reason() -> None:
    """A bug once: whoever had given it waited for ever, since only waiting requests were told."""
    story = Story(a=SchedulingSpec(Claim(2)))
    refusal = Refusal(2, "too_large", "a claims more than its Workspace has: 2 GPUs (available: 1 GPU)")
    assert story.machine.step(LoadOrdered(1.0, "a")) == [publish(2, refuse={"a": refusal})]
    assert not story.machine.parts.availability.load_requests
    assert story.tick(2.0) == []


def test_one_whose_pods_together_are_too_large_is_told_of_its_replicas() -> None:
    story = Story(Capacity(2), a=SchedulingSpec(Claim(3), pods=3))
    message = "a claims more than its Workspace has: 3 GPUs (available: 2 GPUs); lower scheduling.replicas, which is 3"
    assert story.demand(1.0, {"a": 1}) == [publish(2, refuse={"a": Refusal(2, "too_large", message)})]


def test_models_that_fit_beside_each_other_are_loaded_at_once_each_with_an_epoch_of_its_own() -> None:
    story = Story(Capacity(2))
    assert story.demand(1.0, {"a": 1, "b": 1}) == [
        started(1, "a"),
        Start("a", "w/a@2", 2),
        publish(2, who("a", LOADING, 1.0, 2), bound=30.0),
        started(2, "b"),
        Start("b", "w/b@3", 3),
        publish(3, who("a", LOADING, 1.0, 2), who("b", LOADING, 1.0, 3), bound=30.0),
    ]


def test_a_capacity_that_shrinks_drains_what_is_too_much_whatever_its_minimum_residency() -> None:
    """A bug once: both stayed."""
    story = Story(Capacity(2), a=SchedulingSpec(min_residency=999.0), b=SchedulingSpec())
    story.load(1.0, "a")
    story.load(2.0, "b")
    story.demand(2.5, {}, {"w/b@4": 1})
    assert story.change(3.0, capacity=Capacity(1)) == [publish(6, who("a", QUIESCING, 3.0, 2), who("b", READY, 2.0, 4))]
    assert story.demand(3.0, {}, {"w/b@4": 1})[0] == Stop("a", "w/a@2", 2, 10.0)


def test_a_model_that_claims_nothing_needs_no_seat() -> None:
    story = Story(Capacity(1), a=SchedulingSpec(), cpu=SchedulingSpec(NOTHING))
    story.load(1.0)
    assert story.demand(2.0, {"cpu": 1}, {"w/a@2": 1})[1] == Start("cpu", "w/cpu@4", 4)
