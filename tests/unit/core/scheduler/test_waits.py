"""Why a model waits, and when it is expected: one story for each reason."""

import pytest

from hotseat.control.codec import waits_to_json
from hotseat.core.messages import CacheObserved, InstanceParked, InstanceReady, Wait, WaitReason
from hotseat.core.policy.api import Capacity, Claim, Decision, View
from hotseat.core.policy.strict import Fifo, Priority
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.messages import LoadOrdered, SchedulingSpec, UnloadOrdered
from hotseat.core.scheduler.stats import ArrivalRates
from tests.unit.core.scheduler.story import FETCHING, SERVER, Story

SPEC = SchedulingSpec()
ABC = dict.fromkeys("abc", SPEC)
SLEEPY = SchedulingSpec(park=True, can_park=True)


def waits(story: Story) -> dict[str, Wait]:
    return story.machine.wait_report(story.machine.queue()).waits()


def measured(story: Story) -> Story:
    """Have loads take 12 s, drains 2 s and stops 1 s, as far as it is known from now on."""
    durations = story.machine.parts.history.durations
    for model in story.terms:
        durations.load[model], durations.drain[model], durations.stop[model] = Estimate(12), Estimate(2), Estimate(1)
    return story


def test_who_does_not_wait_has_no_reason() -> None:
    story = Story()
    assert waits(story) == {}
    story.load(10.0)
    assert waits(story) == {}


# Its own load ---------------------------------------------------------------------------------------------------------


def test_it_is_loading() -> None:
    story = Story()
    story.demand(10.0, {"a": 1})
    assert waits(story) == {"a": Wait(WaitReason.LOADING, "a is loading")}
    story = measured(Story())
    story.demand(10.0, {"a": 1})
    assert waits(story) == {"a": Wait(WaitReason.LOADING, "a is loading; this took 12 s before", 22.0)}
    story.tick(30.0)  # it takes longer than ever
    assert waits(story)["a"].expected == 30.0


def test_a_load_that_is_ordered_waits_as_a_request_does() -> None:
    story = Story()
    story.machine.step(LoadOrdered(10.0, "a"))
    assert waits(story) == {"a": Wait(WaitReason.LOADING, "a is loading")}


def test_it_restores_its_prompt_cache() -> None:
    story = measured(Story(Capacity(1, prompts=1000), a=SchedulingSpec(prompt_timeout=2.0)))
    story.machine.parts.history.durations.record_prompts("a", "restore", 0.5)
    story.demand(10.0, {"a": 1})
    assert waits(story)["a"].expected == 22.5
    [of] = [instance.epoch for instance in story.machine.instances.values()]
    story.machine.step(InstanceReady(20.0, f"w/a@{of}", of, "http://a", prompts=500))
    assert waits(story) == {"a": Wait(WaitReason.LOADING, "a has loaded and restores its prompt cache", 20.5)}


def test_it_is_waking_after_another_was_parked_for_it() -> None:
    story = Story(a=SLEEPY, b=SLEEPY)

    def instance(model: str) -> tuple[str, int, int]:
        return next((h.id, h.epoch, h.turn) for h in story.machine.instances.values() if h.model == model)

    story.load(10.0)
    story.demand(20.0, {"b": 1})
    story.demand(20.0, {"b": 1})
    story.machine.step(InstanceParked(21.0, *instance("a"), None))
    id_, epoch, _ = instance("b")
    story.machine.step(InstanceReady(22.0, id_, epoch, "http://b"))
    story.demand(23.0, {"b": 1}, {id_: 1})
    story.demand(24.0, {"a": 1})
    story.demand(24.0, {"a": 1})
    story.machine.parts.history.durations.load.clear()
    assert waits(story) == {"a": Wait(WaitReason.RELEASING, "b is being parked for a", None, ("b",))}
    story.machine.parts.history.durations.record_wake("a", 0.5)
    story.machine.parts.history.durations.record_park("b", 0.25)
    assert waits(story)["a"] == Wait(
        WaitReason.RELEASING, "b is being parked for a; this took 0.2 s before", 24.75, ("b",)
    )
    story.machine.step(InstanceParked(25.0, *instance("b"), None))
    assert waits(story) == {"a": Wait(WaitReason.WAKING, "a is waking; this took 0.5 s before", 25.5)}


# A switch that is decided ---------------------------------------------------------------------------------------------


def test_the_resident_drains_and_is_released() -> None:
    story = Story()
    of = story.load(10.0)
    flight = {f"w/a@{of}": 2}
    story.demand(20.0, {"b": 1}, flight)
    story.tick(50.0)  # the bound
    measured(story)
    drains = "a drains for b: it serves 2 requests in flight first"
    assert waits(story) == {"b": Wait(WaitReason.DRAINING, drains, 50.0 + 2 + 1 + 12, ("a",))}
    story.demand(51.0, {"b": 1}, {}, since=20.0)
    stops = "a is being stopped for b; this took 1 s before"
    assert waits(story) == {"b": Wait(WaitReason.RELEASING, stops, 51.0 + 1 + 12, ("a",))}
    story.released(52.0, "a", of)
    assert waits(story)["b"].reason is WaitReason.LOADING


def test_requests_that_come_too_late_for_the_turn_of_their_model_wait_for_its_next() -> None:
    story = Story()
    of = story.load(10.0)
    story.demand(20.0, {"b": 1}, {f"w/a@{of}": 2})
    story.tick(50.0)
    story.demand(51.0, {"a": 1, "b": 1}, {f"w/a@{of}": 2})
    next_turn = Wait(WaitReason.TURN, "a leaves for b; these requests are for its next turn", None, ("b",))
    assert waits(story)["a"] == next_turn
    story.demand(52.0, {"a": 1, "b": 1}, {}, since=51.0)
    assert story.states()["a"] == "releasing"
    assert waits(story)["a"] == next_turn
    story.tick(53.0)
    assert waits(story)["a"] == Wait(WaitReason.TURN, "b comes first", None, ("b",))


def test_an_engine_of_its_own_is_still_being_stopped() -> None:
    story = Story()
    of = story.load(10.0)
    story.machine.step(UnloadOrdered(20.0, "a"))
    story.demand(20.0, {}, {})
    story.demand(21.0, {"a": 1}, {})
    measured(story)
    assert story.machine.instances[f"w/a@{of}"].leaving == "unloaded"
    message = "an earlier engine of a is being stopped (unloaded)"
    assert waits(story) == {"a": Wait(WaitReason.RELEASING, message, 21.0 + 12)}


# What the policy says -------------------------------------------------------------------------------------------------


def test_the_resident_serves_what_was_queued_until_the_bound() -> None:
    story = Story()
    of = story.load(10.0)
    story.demand(20.0, {"a": 3, "b": 1}, {f"w/a@{of}": 1})
    message = (
        "a is resident and serves the 3 requests that were queued and 1 request in flight; "
        "it ends its turn at the latest when the bound of 30 s is reached"
    )
    assert waits(story)["b"] == Wait(WaitReason.BATCH, message, None, ("a",))
    measured(story)
    story.tick(20.0)  # each turn costs 13 s now, and a round more than the bound
    [wait] = [wait for model, wait in waits(story).items() if model == "b"]
    [until] = [story.machine.decision.wake_at]
    assert (wait.reason, wait.expected) == (WaitReason.BATCH, until + 2 + 1 + 12)


def test_a_resident_that_answers_fast_is_expected_to_end_its_turn_early(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story()
    of = story.load(10.0)
    measured(story)
    monkeypatch.setattr(ArrivalRates, "pace", lambda _, model: 2.0 if model == "a" else 0.0)
    story.demand(20.0, {"a": 3, "b": 1}, {f"w/a@{of}": 1})
    arrivals = story.machine.parts.demand.rates.arrivals("a", 20.0)
    assert waits(story)["b"].expected == pytest.approx(20.0 + 4 / (2.0 - arrivals) + 2 + 1 + 12)


def test_a_minimum_residency_holds() -> None:
    story = measured(Story(a=SchedulingSpec(min_residency=60.0), b=SPEC))
    story.load(10.0)
    story.demand(20.0, {"b": 1}, {})
    message = "a stays for at least 60 s after its load (minimum residency)"
    assert waits(story) == {"b": Wait(WaitReason.MIN_RESIDENCY, message, 70.0 + 2 + 1 + 12, ("a",))}


def test_an_idle_resident_is_kept_for_its_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story()
    of = story.load(10.0)
    measured(story)
    monkeypatch.setattr(ArrivalRates, "gaps", lambda _, model: (0.1,) * 8 if model == "a" else ())
    story.demand(20.0, {"b": 1}, {}, served={f"w/a@{of}": 1})
    message = "a is idle and is kept for its next request, which is expected soon"
    assert waits(story) == {"b": Wait(WaitReason.LINGERING, message, pytest.approx(20.0 + 2.6 + 2 + 1 + 12), ("a",))}


def test_another_is_loading_and_serves_its_batch_first() -> None:
    story = measured(Story())
    story.demand(10.0, {"a": 2})
    story.demand(11.0, {"a": 2, "b": 1}, since=11.0)
    message = "a is loading, and serves the 2 requests that were queued first"
    assert waits(story)["b"] == Wait(WaitReason.TURN, message, 22.0 + 2 + 1 + 12, ("a",))


def test_others_come_first() -> None:
    story = Story(**ABC)
    of = story.load(10.0)
    measured(story)
    flight = {f"w/a@{of}": 1}
    story.demand(20.0, {"b": 1}, flight)
    story.demand(21.0, {"b": 1, "c": 1}, flight, router="r2")
    found = waits(story)
    assert found["b"].reason is WaitReason.BATCH
    # b has to load, to drain and to stop before.
    assert found["b"].expected is not None
    assert found["c"] == Wait(
        WaitReason.TURN, "a and b come first", pytest.approx(found["b"].expected + 12 + 2 + 1), ("a", "b")
    )


def test_many_others_are_counted() -> None:
    names = "abcdefgh"
    story = Story(**dict.fromkeys(names, SPEC))
    of = story.load(10.0)
    for number, name in enumerate(names[1:]):
        story.demand(20.0 + number, {name: 1}, {f"w/a@{of}": 1} if not number else {}, router=name)
    assert waits(story)["h"].message == "a, b, c and 4 more come first"
    assert waits(story)["h"].behind == tuple("abcdefg")


def test_a_higher_priority_comes_first() -> None:
    story = Story(a=SPEC, b=SchedulingSpec(priority=10), c=SPEC)
    of = story.load(10.0)
    story.demand(20.0, {"c": 1}, {f"w/a@{of}": 1})
    story.demand(21.0, {"b": 1}, router="r2")
    message = "b comes first: priority 10 is higher than that of c, 0"
    assert waits(story)["c"] == Wait(WaitReason.PRIORITY, message, None, ("a", "b"))


def test_with_the_policy_priority_a_busy_resident_of_a_higher_one_is_not_evicted() -> None:
    story = Story(a=SchedulingSpec(priority=10), b=SPEC)
    story.machine.policy = Priority()
    of = story.load(10.0)
    story.demand(20.0, {"b": 1}, {f"w/a@{of}": 2})
    message = "a comes first: priority 10 is higher than that of b, 0, and it serves 2 requests in flight"
    assert waits(story) == {"b": Wait(WaitReason.PRIORITY, message, None, ("a",))}


def test_with_the_policy_fifo_the_resident_serves_what_came_first() -> None:
    story = Story()
    story.machine.policy = Fifo()
    of = story.load(10.0)
    story.demand(20.0, {"a": 1}, {f"w/a@{of}": 1})
    story.demand(21.0, {"b": 1}, router="r2")
    message = "a is resident and serves the 1 request that was queued and 1 request in flight"
    assert waits(story)["b"] == Wait(WaitReason.BATCH, message, None, ("a",))


def test_a_preload_does_not_fit_and_evicts_nothing() -> None:
    story = Story()
    story.load(10.0)
    story.change(11.0, c=SchedulingSpec(preload=True))
    story.machine.step(CacheObserved(11.0, "c", story.machine.parts.availability.cache["a"].state))
    message = "c does not fit beside a, and is loaded only where it fits"
    assert waits(story) == {"c": Wait(WaitReason.CAPACITY, message, None, ("a",))}


class Idle:
    """A policy of somebody else, which loads nothing and gives no reasons."""

    def decide(self, view: View) -> Decision:
        return Decision(tuple(m.name for m in view.models if m.state))


def test_a_policy_without_reasons_gets_a_neutral_one() -> None:
    story = Story()
    story.load(10.0)
    story.machine.policy = Idle()
    story.demand(20.0, {"b": 1})
    assert waits(story) == {"b": Wait(WaitReason.TURN, "a comes first", None, ("a",))}


# Ready, or not to be loaded -------------------------------------------------------------------------------------------


def test_it_is_ready_and_serves_as_many_as_it_may() -> None:
    story = Story()
    of = story.load(10.0)
    story.demand(20.0, {"a": 2}, {f"w/a@{of}": 4})
    message = "a is ready and serves 4 requests; its limit of concurrent requests is reached"
    assert waits(story) == {"a": Wait(WaitReason.CONCURRENCY, message)}
    story.demand(21.0, {"a": 2}, {})
    assert waits(story) == {"a": Wait(WaitReason.DISPATCHING, "a is ready; its requests are being dispatched", 21.0)}


def test_an_external_server_is_always_ready() -> None:
    story = Story(x=SchedulingSpec(external=SERVER, claim=Claim(0)))
    story.demand(20.0, {"x": 2}, {"x@external": 1})
    assert waits(story)["x"] == Wait(
        WaitReason.CONCURRENCY, "x is an external server; its limit of concurrent requests is reached"
    )


def test_its_weights_are_fetched() -> None:
    story = measured(Story())
    story.machine.step(CacheObserved(0.0, "b", FETCHING, done=0, total=8 * 2**30))
    story.machine.step(CacheObserved(10.0, "b", FETCHING, done=2 * 2**30, total=8 * 2**30))
    story.demand(10.0, {"b": 1})
    assert waits(story)["b"] == Wait(
        WaitReason.FETCHING, "the weights of b are being fetched: 2Gi of 8Gi", pytest.approx(40.0 + 12, abs=5)
    )


def test_a_fetch_that_hardly_goes_on_has_no_expected_time() -> None:
    story = measured(Story())
    for moment in (0.0, 10.0):
        story.machine.step(CacheObserved(moment, "b", FETCHING, done=int(moment), total=2**40))
    story.demand(10.0, {"b": 1})
    (wait,) = waits_to_json(waits(story))
    assert (wait["reason"], "expectedAt" in wait) == ("Fetching", False)


def test_its_weights_are_checked_before_anything_is_evicted_for_it() -> None:
    story = Story(a=SPEC, b=SchedulingSpec(check_first=True))
    story.demand(10.0, {"b": 1})
    assert waits(story) == {"b": Wait(WaitReason.FETCHING, "the weights of b are being checked before its load")}


def test_it_crashed_and_is_tried_again() -> None:
    story = measured(Story())
    for moment in (10.0, 20.0, 30.0):  # the first crash has no back-off
        story.demand(moment, {"a": 1})
        [of] = [instance.epoch for instance in story.machine.instances.values()]
        story.ready(moment + 1, "a", of)
        story.demand(moment + 1, {"a": 1}, {})
        story.failed(moment + 2, "a", of)
        story.released(moment + 2, "a", of)
    failure = story.machine.parts.availability.failures["a"]
    measured(story)
    story.demand(32.0, {"a": 1}, since=30.0)
    message = "a failed: Exited: exit code 1; it is tried again"
    assert waits(story) == {"a": Wait(WaitReason.BACKOFF, message, failure.retry_at + 12)}
