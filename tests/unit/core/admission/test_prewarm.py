"""Models that are wanted though nobody waits for them: how long, and when somebody has to go for that."""

from math import inf

import pytest

from hotseat.core.admission.fallback import PrewarmRequests
from hotseat.core.admission.messages import (
    LimitsChanged,
    PrewarmRequested,
    Queued,
    Reject,
    ReportDemand,
    RequestArrived,
    RouterClosed,
    ServedByFallback,
)
from hotseat.core.errors import NotResident
from hotseat.core.messages import Demand, InstanceState, Refusal, Start
from hotseat.core.policy.api import NOTHING
from hotseat.core.scheduler.history import StepDurations
from hotseat.core.scheduler.instance import Instance
from hotseat.core.scheduler.messages import DemandReported, SchedulerCommand, SchedulingSpec, UnloadOrdered
from hotseat.core.scheduler.prewarm import may_evict_at
from tests.unit.core.admission.test_machine import AT_ONCE, LATER, READY, resident, router, seen, to
from tests.unit.core.scheduler.story import Story

QUIESCING, LOADING = InstanceState.QUIESCING, InstanceState.LOADING


# At a router ----------------------------------------------------------------------------------------------------------


def test_a_diverted_request_waits_no_longer_and_leaves_its_wish() -> None:
    gate = router()
    assert gate.step(RequestArrived(1.0, 1, "a")) == [Queued(1), AT_ONCE]
    assert gate.step(ServedByFallback(3.0, 1)) == [LATER, LATER]
    demand = gate.demand()
    assert (gate.waiting(), demand.waiting, demand.wanted) == (0, {}, {"a": 1.0})
    assert demand.requested == ("a",), "it is what sets everything in motion"


def test_a_model_that_is_wanted_already_makes_no_haste() -> None:
    gate = router()
    gate.step(PrewarmRequested(1.0, "a"))
    gate.demand()
    assert gate.step(RequestArrived(2.0, 1, "a")) == [Queued(1), LATER]
    assert gate.step(ServedByFallback(3.0, 1)) == [LATER]
    assert (gate.demand().wanted, gate.demand().requested) == ({"a": 1.0}, ())


def test_a_wish_is_over_when_its_model_is_ready_or_refused_or_gone() -> None:
    for end in (
        seen(1, resident("a")),
        seen(1, refuse={"a": Refusal(1, "unloaded", "")}),
        LimitsChanged(2.0, {}, 9),
        RouterClosed(2.0),
    ):
        gate = router()
        assert gate.step(PrewarmRequested(1.0, "a")) == [ReportDemand(urgent=True)]
        assert gate.step(seen(0, resident("a", LOADING))) == [AT_ONCE]
        assert gate.demand().wanted == {"a": 1.0}
        gate.step(end)
        assert gate.demand().wanted == {}, end


def test_nothing_is_wanted_that_is_there_or_refused_or_unknown() -> None:
    gate = router()
    gate.step(seen(1, resident("a"), refuse={"b": Refusal(1, "model_failed", "", retry_at=9.0)}))
    for model in ("a", "b", "z"):
        assert gate.step(PrewarmRequested(5.0, model)) == []
    assert gate.demand().wanted == {}
    assert gate.step(PrewarmRequested(9.5, "b")) == [ReportDemand(urgent=True)], "its back-off is over"


def test_a_dispatched_request_is_not_diverted() -> None:
    gate = router()
    gate.step(seen(1, resident("a")))
    assert gate.step(RequestArrived(1.0, 1, "a")) == [to(1, "a"), LATER]
    assert gate.step(ServedByFallback(2.0, 1)) == []
    assert (gate.in_flight("a@1"), gate.demand().wanted) == (1, {})


def test_a_request_that_is_not_to_wait_is_dispatched_or_rejected() -> None:
    gate = router()
    message = "a cannot serve this request without waiting"
    assert gate.step(RequestArrived(1.0, 1, "a", at_once=True)) == [Reject(1, NotResident, "not_resident", message)]
    assert (gate.waiting(), gate.demand().requested) == (0, ())
    gate.step(seen(1, resident("a")))
    assert gate.step(RequestArrived(1.0, 2, "a", at_once=True)) == [to(2, "a"), LATER]


def test_the_first_wish_counts() -> None:
    wants = PrewarmRequests()
    assert [wants.add("a", 5.0), wants.add("a", 3.0), wants.add("a", 7.0)] == [True, False, False]
    assert wants.snapshot() == {"a": 3.0}


# At the switcher ------------------------------------------------------------------------------------------------------


def wanted(
    story: Story, now: float, *, flight: dict[str, int] | None = None, **models: float
) -> list[SchedulerCommand]:
    story.seq += 1
    demand = Demand("r", story.seq, story.machine.epoch, in_flight=flight or {}, wanted=models)
    return story.machine.step(DemandReported(now, demand))


def started(commands: list[SchedulerCommand]) -> list[str]:
    return [command.model for command in commands if isinstance(command, Start)]


def states(story: Story) -> dict[str, str]:
    return {name: state for name, state in story.states().items() if state != "unloaded"}


def resident_a(load: float = 10.0, **terms: float) -> Story:
    """A house in which a is ready after a load of so many seconds, and nobody uses it."""
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(**terms))
    story.demand(0.0, {"a": 1})
    story.ready(load, "a", 2)
    story.demand(load, {})
    return story


def test_a_wish_loads_what_fits() -> None:
    story = Story()
    commands = wanted(story, 1.0, a=0.5)
    assert started(commands) == ["a"]
    assert story.machine.switches[0].reason == "demand"
    story.ready(2.0, "a", 2)
    wanted(story, 3.0)
    assert states(story) == {"a": "ready"}


def test_a_wish_takes_nothing_off_before_that_has_rested_for_what_it_costs() -> None:
    story = resident_a(load=10.0)
    wanted(story, 12.0, b=12.0)
    assert (states(story), story.machine.wake_at) == ({"a": "ready"}, 20.0)
    story.tick(19.9)
    assert states(story) == {"a": "ready"}
    story.tick(20.0)
    assert states(story) == {"a": "quiescing"}


def test_what_is_used_has_its_turn_first() -> None:
    story = resident_a(load=10.0, max_wait=15.0)
    for now in range(12, 25):
        wanted(story, float(now), b=12.0, flight={"w/a@2": 1})
        assert states(story) == {"a": "ready"}
    wanted(story, 27.0, b=12.0, flight={"w/a@2": 1})
    assert states(story) == {"a": "quiescing"}, "15 s are over since it was wanted"


def test_a_resident_that_has_rested_goes_at_once() -> None:
    story = resident_a(load=1.0)
    wanted(story, 60.0, b=60.0)
    assert states(story) == {"a": "quiescing"}


def test_who_waits_is_not_held_up_by_that() -> None:
    story = resident_a(load=10.0)
    story.demand(12.0, {"b": 1})
    assert states(story)["a"] != "ready"


def test_a_load_for_a_wish_is_finished_though_others_wait() -> None:
    story = Story()
    wanted(story, 1.0, a=1.0)
    story.seq += 1
    assert states(story) == {"a": "loading"}
    wanted(story, 1.5, a=1.0, b=1.5)
    assert states(story) == {"a": "loading"}


def test_an_unload_ends_a_wish() -> None:
    story = Story()
    wanted(story, 1.0, a=1.0)
    story.machine.step(UnloadOrdered(2.0, "a"))
    assert story.machine.residency.refusals["a"].code == "unloaded"
    commands = story.released(3.0, "a", 2)
    assert (started(commands), states(story)) == ([], {})


def test_a_wish_that_was_there_when_its_model_failed_brings_it_no_more() -> None:
    story = Story()
    seen_epoch = story.machine.epoch
    wanted(story, 1.0, a=1.0)
    story.failed(2.0, "a", 2)
    assert started(story.released(3.0, "a", 2)) == []
    assert started(story.tick(500.0)) == [], "its back-off is over, but the router has not said so since"
    assert seen_epoch < story.machine.residency.refusals["a"].epoch


@pytest.mark.parametrize(
    ("state", "used", "idle", "at"),
    [
        (READY, 50.0, True, 60.0),  # it has rested
        (READY, 50.0, False, 140.0),  # in use: a turn, since it was wanted
        (READY, 200.0, True, 140.0),  # not unused for long enough before that
        (LOADING, 50.0, True, inf),
        (InstanceState.UNPROVEN, 50.0, True, inf),
        (QUIESCING, 50.0, False, -inf),
    ],
)
def test_when_a_resident_goes_for_a_wish(state: InstanceState, used: float, idle: bool, at: float) -> None:
    costs = StepDurations()
    costs.record_load("a", 8.0)
    costs.record_stop("a", 2.0)
    instance = Instance("a", "w/a@1", 1, state, 20.0, SchedulingSpec(), ready_since=20.0, last_used=used)
    assert may_evict_at(110.0, 30.0, [instance], costs, lambda _: idle) == at
    seatless = Instance("c", "w/c@2", 2, READY, 20.0, SchedulingSpec(claim=NOTHING), ready_since=20.0, last_used=500.0)
    assert may_evict_at(110.0, 30.0, [seatless], costs, lambda _: True) == -inf
    assert may_evict_at(110.0, 30.0, [instance, seatless], costs, lambda _: idle) == at


def test_two_models_that_are_only_ever_wanted_take_turns_that_are_worth_their_loads() -> None:
    """A load takes 10 s; requests for both come every second, and what is not resident is answered by a fallback."""
    story, since, loads, ready_seconds = Story(), {}, [], 0
    began: dict[str, float] = {}
    served: dict[str, int] = {}
    for second in range(1, 1001):
        now = float(second)
        resident = next(iter(story.machine.instances.values()), None)
        if resident and resident.state is LOADING and now - began[resident.model] >= 10:
            story.ready(now, resident.model, resident.epoch)
        if resident and resident.state is InstanceState.RELEASING:
            story.released(now, resident.model, resident.epoch)
        there = {h.model: h.id for h in story.machine.instances.values() if h.state is READY}
        for model in ("a", "b"):
            if model in there:
                since.pop(model, None)
                served[there[model]] = served.get(there[model], 0) + 1  # one that came and was answered
                ready_seconds += 1
            else:
                since.setdefault(model, now)
        story.seq += 1
        demand = Demand("r", story.seq, story.machine.epoch, served=dict(served), wanted=dict(since))
        story.machine.step(DemandReported(now, demand))
        for instance in story.machine.instances.values():
            if instance.state is LOADING and instance.id not in loads:
                loads.append(instance.id)
                began[instance.model] = now
    assert {load.partition("@")[0] for load in loads} == {"w/a", "w/b"}
    assert len(loads) <= 26, "a turn is 30 s"
    assert ready_seconds >= 650
