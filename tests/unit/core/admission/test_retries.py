"""Requests that are not held while their model loads: they are refused, it is loaded, and their clients are expected again."""

import pytest

from hotseat.core.admission.messages import (
    Limits,
    LimitsChanged,
    Queued,
    Reject,
    RequestArrived,
    RequestFinished,
    RouterClosed,
)
from hotseat.core.admission.retries import ExpectedRetries
from hotseat.core.errors import ModelLoading, Unavailable
from hotseat.core.messages import Demand, InstanceState, Refusal, Residency
from hotseat.core.policy.api import Claim
from hotseat.core.scheduler.messages import DemandReported, SchedulerCommand, SchedulingSpec
from tests.unit.core.admission.test_machine import AT_ONCE, LATER, resident, router, seen, to
from tests.unit.core.admission.test_prewarm import resident_a, started, states
from tests.unit.core.scheduler.story import Story

LOADING, QUIESCING = InstanceState.LOADING, InstanceState.QUIESCING

# At a router ----------------------------------------------------------------------------------------------------------


def refused(request: int, seconds: float, model: str = "a") -> Reject:
    message = f"{model} is not ready, and its load is requested: send the request again in {seconds:.0f} s"
    return Reject(request, ModelLoading, "model_switching_in_progress", message, seconds)


def test_a_request_that_is_not_held_is_refused_and_its_model_is_wanted() -> None:
    gate = router()
    assert gate.step(RequestArrived(1.0, 1, "a", retry_after=30.0)) == [refused(1, 30.0), AT_ONCE]
    demand = gate.demand()
    assert (demand.waiting, demand.requested, demand.wanted, demand.retries) == ({}, ("a",), {"a": 1.0}, {"a": 46.0})
    assert gate.step(RequestArrived(3.0, 2, "a", retry_after=10.0)) == [refused(2, 10.0), LATER]
    assert (gate.demand().wanted, gate.demand().retries) == ({"a": 1.0}, {"a": 46.0}), (
        "the first is expected for longer"
    )
    assert gate.step(RequestArrived(31.0, 3, "a", retry_after=1.0)) == [refused(3, 1.0), LATER]
    gate.step(RequestArrived(45.0, 4, "a", retry_after=1.0))
    assert (gate.demand().requested, gate.demand().retries) == ((), {"a": 51.0})


def test_a_client_is_expected_until_a_request_is_dispatched() -> None:
    gate = router()
    gate.step(RequestArrived(1.0, 1, "a", retry_after=30.0))
    gate.step(seen(1, resident("a")))
    assert (gate.demand().wanted, gate.demand().retries) == ({}, {"a": 46.0}), "it is ready, and stays for the client"
    assert gate.step(RequestArrived(31.0, 2, "a", retry_after=30.0)) == [to(2, "a"), LATER]
    assert gate.demand().retries == {}
    assert gate.step(RequestFinished(32.0, 2)) == [LATER]


def test_one_that_leaves_is_not_ready_and_one_that_is_full_is() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a", retry_after=30.0))
    assert gate.step(RequestArrived(2.0, 2, "a", retry_after=30.0)) == [Queued(2), AT_ONCE]
    gate.step(seen(2, resident("a", QUIESCING)))
    assert gate.step(RequestArrived(3.0, 3, "a", retry_after=30.0))[0] == refused(3, 30.0)


def test_it_is_told_no_less_than_the_time_that_its_turn_takes() -> None:
    gate = router()
    gate.step(seen(1))
    gate.residency = Residency(2, outlook={"a": 50.0})
    assert gate.step(RequestArrived(1.0, 1, "a", retry_after=30.0))[0] == refused(1, 50.0)


def test_no_client_is_expected_for_one_that_is_refused_or_gone() -> None:
    for end in (
        seen(1, refuse={"a": Refusal(1, "model_failed", "no", retry_at=99.0)}),
        LimitsChanged(2.0, {}, 9),
        RouterClosed(2.0),
    ):
        gate = router()
        gate.step(RequestArrived(1.0, 1, "a", retry_after=30.0))
        gate.step(end)
        assert (gate.demand().wanted, gate.demand().retries) == ({}, {}), end
    gate = router()
    gate.step(seen(1, refuse={"a": Refusal(1, "model_failed", "no", retry_at=99.0)}))
    assert gate.step(RequestArrived(1.0, 1, "a", retry_after=30.0)) == [
        Reject(1, Unavailable, "model_failed", "no", 98.0)
    ]


@pytest.mark.parametrize(("seconds", "until"), [(1.0, 6.0), (10.0, 15.0), (30.0, 45.0)])
def test_a_client_may_come_late(seconds: float, until: float) -> None:
    retries = ExpectedRetries()
    retries.add("a", 0.0, seconds)
    assert retries.snapshot() == {"a": until}


# At the switcher ------------------------------------------------------------------------------------------------------


def report(story: Story, now: float, *, served: dict[str, int] | None = None, **until: float) -> list[SchedulerCommand]:
    """A router's snapshot: of each model, until when its refused clients are expected."""
    story.seq += 1
    ready = {h.model for h in story.machine.instances.values() if h.state is InstanceState.READY}
    wanted = {model: now for model in until if model not in ready}
    demand = Demand("r", story.seq, story.machine.epoch, served=served or {}, wanted=wanted, retries=until)
    return story.machine.step(DemandReported(now, demand))


def test_a_refused_request_evicts_what_a_queued_one_would() -> None:
    story = resident_a(load=10.0)
    report(story, 12.0, b=57.0)
    assert states(story) == {"a": "quiescing"}, "a prewarm request alone would wait until 20.0"


def test_a_load_whose_client_comes_no_more_is_still_finished() -> None:
    story = Story()
    assert started(report(story, 1.0, a=46.0)) == ["a"]
    assert story.machine.switches[0].reason == "demand"
    story.demand(60.0, {"b": 1})
    assert states(story) == {"a": "releasing"}, "the router says that nobody wants it"
    story = Story()
    report(story, 1.0, a=46.0)
    report(story, 60.0, a=46.0)
    story.seq += 1
    story.machine.step(DemandReported(60.0, Demand("s", 1, story.machine.epoch, wanted={"b": 60.0})))
    assert states(story) == {"a": "loading"}


def test_a_model_that_got_ready_stays_until_its_client_has_come() -> None:
    story = Story()
    report(story, 1.0, a=46.0)
    story.ready(5.0, "a", 2)
    report(story, 5.1, a=46.0)
    other = {"b": 6.0}

    def both(now: float, **more: dict[str, int]) -> None:
        story.seq += 1
        story.machine.step(
            DemandReported(now, Demand("s", story.seq, story.machine.epoch, wanted=other, retries={"b": 90.0}, **more))
        )

    both(6.0)
    assert (states(story), story.machine.wake_at) == ({"a": "ready"}, 36.0), "b waits no longer than its bound"
    report(story, 30.0, served={"w/a@2": 1})
    assert states(story)["a"] == "quiescing", "its client came, and was answered"


def test_nobody_waits_longer_than_the_bound_for_a_client_to_come() -> None:
    story = Story()
    report(story, 1.0, a=500.0)
    story.ready(5.0, "a", 2)
    report(story, 5.1, a=500.0)
    story.seq += 1
    story.machine.step(DemandReported(6.0, Demand("s", 1, story.machine.epoch, wanted={"b": 6.0}, retries={"b": 99.0})))
    story.tick(36.0)
    assert states(story)["a"] == "quiescing"


def test_an_idle_timeout_waits_for_the_client() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=2.0))
    report(story, 1.0, a=46.0)
    story.ready(5.0, "a", 2)
    report(story, 5.1, a=46.0)
    assert story.machine.wake_at == 46.0
    story.tick(46.0)
    assert states(story) == {"a": "quiescing"}


@pytest.mark.parametrize(
    ("terms", "code"),
    [(SchedulingSpec(claim=Claim(2)), "too_large"), (SchedulingSpec(problem="a quota"), "not_loadable")],
)
def test_one_that_cannot_be_loaded_is_refused_with_the_reason(terms: SchedulingSpec, code: str) -> None:
    story = Story(a=terms)
    report(story, 1.0, a=46.0)
    assert story.machine.residency.refusals["a"].code == code
