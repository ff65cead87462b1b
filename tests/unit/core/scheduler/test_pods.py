"""An instance with several pods: what it claims, where it answers, and which of its pods are in use."""

from dataclasses import replace

from hotseat.core.messages import Demand, EndpointsChanged, InstanceState, Start
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.scheduler.messages import ConfigChanged, DemandReported, Publish, SchedulingSpec
from tests.unit.core.scheduler.story import Story

WIDE = SchedulingSpec(Claim(2), pods=2)
X, Y, Z = "http://x", "http://y", "http://z"


def resident(capacity: int = 2) -> Story:
    """A story in which a is ready, and b needs one GPU."""
    story = Story(Capacity(capacity), a=WIDE, b=SchedulingSpec())
    story.demand(1.0, {"a": 1})
    story.ready(2.0, "a", 2)
    story.demand(2.1)
    return story


def endpoints(story: Story, now: float, *addresses: str) -> tuple[str, ...] | None:
    """Tell where a answers. Return what routers are told; None: nothing."""
    published = [
        each for each in story.machine.step(EndpointsChanged(now, "w/a@2", 2, addresses)) if isinstance(each, Publish)
    ]
    return published[-1].residency.residents[0].addresses if published else None


def test_it_is_started_with_the_number_that_it_claims_for() -> None:
    story = Story(Capacity(2), a=WIDE)
    assert Start("a", "w/a@2", 2, (), 2) in story.demand(1.0, {"a": 1})


def test_routers_are_told_of_each_pod() -> None:
    story = resident()
    assert endpoints(story, 3.0, X, Y) == (X, Y)
    assert endpoints(story, 4.0, Y, Z) == (Y, Z)
    assert story.machine.instances["w/a@2"].address == Y


def test_pods_of_one_that_is_stopped_or_unknown_change_nothing() -> None:
    story = resident()
    story.machine.instances["w/a@2"].state = InstanceState.RELEASING
    assert endpoints(story, 3.0, X, Y) is None
    assert story.machine.step(EndpointsChanged(3.0, "w/c@9", 9, (X,))) == []
    assert story.machine.step(EndpointsChanged(3.0, "w/a@2", 1, (X,))) == []


def test_another_model_waits_until_all_of_it_is_gone() -> None:
    story = resident()
    endpoints(story, 3.0, X, Y)
    assert not [each for each in story.demand(4.0, {"b": 1}) if isinstance(each, Start)]
    story.demand(5.0, {"b": 1})
    assert story.machine.instances["w/a@2"].state is InstanceState.RELEASING
    assert [each.model for each in story.released(6.0, "a", 2) if isinstance(each, Start)] == ["b"]


def test_a_changed_number_is_for_the_next_load() -> None:
    story = resident(capacity=4)
    for changed in (replace(WIDE, claim=Claim(4), pods=4), replace(WIDE, claim=Claim(1), pods=1)):
        story.machine.step(ConfigChanged(3.0, {"a": changed, "b": SchedulingSpec()}, Capacity(4)))
        spec = story.machine.instances["w/a@2"].spec
        assert (spec.claim, spec.pods) == (Claim(2), 2)


def test_pods_in_use_are_those_of_the_router_that_uses_most() -> None:
    story = resident()
    assert story.machine.busy_pods() == {"a": 0}
    for seq, router, flight, busy in ((9, "r", 2, {"w/a@2": 2}), (1, "s", 1, {})):
        demand = Demand(router, seq, story.machine.epoch, in_flight={"w/a@2": flight}, busy_pods=busy)
        story.machine.step(DemandReported(3.0, demand))
    assert story.machine.busy_pods() == {"a": 2}
    story.machine.step(DemandReported(4.0, Demand("r", 10, story.machine.epoch, busy_pods={"w/a@2": 0})))
    assert story.machine.busy_pods() == {"a": 1}, "the other has one in flight, and knows of one pod"
