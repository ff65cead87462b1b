"""Who is resident though nobody waits for it: pinned models, open windows, the default after a quiet time. As stories."""

import pytest

from hotseat.core.events import Emit
from hotseat.core.messages import InstanceAdopted, InstanceState, Start, Stop
from hotseat.core.policy.api import Capacity, Claim, Decision, ModelView, Policy, Preference, View
from hotseat.core.policy.strict import Fifo, Priority
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.lifecycle import ROUTER_SYNC_TIMEOUT
from hotseat.core.scheduler.messages import (
    LoadOrdered,
    PinOrdered,
    SchedulerCommand,
    SchedulingSpec,
    UnloadOrdered,
    UnpinOrdered,
)
from hotseat.core.scheduler.preferences import apply_preferences, decide_with_preferences
from tests.unit.core.scheduler.story import Story

READY, QUIESCING, LOADING = InstanceState.READY, InstanceState.QUIESCING, InstanceState.LOADING


def started(commands: list[SchedulerCommand]) -> list[str]:
    return [command.model for command in commands if isinstance(command, Start)]


def stopped(commands: list[SchedulerCommand]) -> list[str]:
    return [command.model for command in commands if isinstance(command, Stop)]


def reasons(commands: list[SchedulerCommand]) -> list[str]:
    return [c.data["reason"] for c in commands if isinstance(c, Emit) and c.type == "switch.started"]


def pins(story: Story) -> set[str]:
    return {status.name for status in story.machine.status() if status.pinned}


def refusals(story: Story) -> dict[str, str]:
    return {model: refusal.code for model, refusal in story.machine.residency.refusals.items()}


def swap(story: Story, now: float, out: str, into: str) -> None:
    """Let the resident go that was told to, and the other be ready."""
    story.demand(now)
    of = next(h.epoch for h in story.machine.instances.values() if h.model == out)
    story.released(now, out, of)
    story.ready(now, into, next(h.epoch for h in story.machine.instances.values() if h.model == into))
    story.demand(now)


# Pins -----------------------------------------------------------------------------------------------------------------


def test_a_pin_loads_a_model_as_an_order_does_and_then_it_makes_space_for_nobody() -> None:
    story = Story()
    said = story.machine.step(PinOrdered(1.0, "a"))
    assert started(said) == ["a"]
    assert Emit("model.pinned", "a", {}) in said
    assert pins(story) == {"a"}
    story.ready(2.0, "a", 2)
    story.demand(2.0)
    assert stopped(story.demand(500.0, {"b": 1}, since=3.0)) == []
    assert story.states() == {"a": "ready", "b": "unloaded"}


@pytest.mark.parametrize("policy", [Fifo(), Priority()])
def test_every_policy_honours_a_pin(policy: Policy) -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(priority=9))
    story.machine.policy = policy
    story.load(1.0)
    story.demand(2.0)
    story.machine.step(PinOrdered(3.0, "a"))
    story.demand(500.0, {"b": 1}, since=4.0)
    assert story.states()["a"] == "ready"


def test_who_could_never_be_loaded_beside_the_pinned_is_sent_away_at_once_and_told_how_to_get_in() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0)
    story.machine.step(PinOrdered(3.0, "a"))
    story.demand(4.0, {"b": 1})
    refusal = story.machine.residency.refusals["b"]
    assert refusal.code == "pinned"
    assert refusal.message == "b does not fit beside the pinned models (a); to make room: hotseat unpin a"
    assert refusal.retry_at == 14.0
    story.demand(4.1)  # it has been told so
    said = story.machine.step(UnpinOrdered(5.0, "a"))
    assert Emit("model.unpinned", "a", {}) in said
    assert refusals(story) == {}
    story.demand(6.0, {"b": 1})
    assert story.states()["a"] == "quiescing"


def test_who_fits_beside_the_pinned_waits_for_the_others() -> None:
    story = Story(Capacity(2), a=SchedulingSpec(), b=SchedulingSpec(), c=SchedulingSpec())
    story.load(1.0, "a")
    story.machine.step(PinOrdered(2.0, "a"))
    story.load(3.0, "b")
    story.demand(4.0)
    assert stopped(story.demand(5.0, {"c": 1})) == []
    assert stopped(story.demand(5.0, {"c": 1})) == ["b"]
    assert refusals(story) == {}


def test_a_pin_is_refused_where_the_seat_is_pinned_already() -> None:
    story = Story()
    story.load(1.0, "a")
    story.machine.step(PinOrdered(2.0, "a"))
    story.machine.step(PinOrdered(3.0, "b"))
    assert pins(story) == {"a"}
    assert refusals(story) == {"b": "pinned"}
    assert not story.machine.parts.availability.load_requests


def test_a_model_that_is_leaving_for_another_stays_once_it_is_pinned() -> None:
    story = Story()
    story.load(1.0)
    story.demand(40.0, {"b": 1}, {"w/a@2": 1}, since=2.0)
    assert story.states()["a"] == "quiescing"
    story.machine.step(PinOrdered(41.0, "a"))
    assert story.states()["a"] == "ready"
    assert refusals(story) == {"b": "pinned"}


def test_a_pin_takes_nobody_off_who_is_used_before_its_turn() -> None:
    story = Story(a=SchedulingSpec(max_wait=30.0), b=SchedulingSpec())
    story.load(1.0, "b")
    story.machine.step(PinOrdered(2.0, "a"))
    assert story.states()["b"] == "ready"  # its batch goes on, as for any order
    story.tick(33.0)
    assert story.states()["b"] == "quiescing"


def test_nothing_goes_for_idleness_that_is_pinned_and_all_does_that_is_not_any_longer() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    story.load(1.0)
    story.demand(2.0)
    story.machine.step(PinOrdered(3.0, "a"))
    assert stopped(story.tick(100.0)) == []
    story.machine.step(UnpinOrdered(101.0, "a"))
    assert stopped(story.demand(101.0)) == ["a"]


def test_an_operator_unloads_what_is_pinned_and_it_comes_back_pinned_when_it_is_asked_for() -> None:
    story = Story(a=SchedulingSpec(pinned=True), b=SchedulingSpec())
    story.ready(1.0, "a", 2)
    story.demand(1.0)
    story.machine.step(UnloadOrdered(2.0, "a"))
    story.demand(2.0)
    story.released(3.0, "a", 2)
    story.tick(100.0)
    assert story.states() == {"a": "unloaded", "b": "unloaded"}
    story.load(101.0, "a")
    assert pins(story) == {"a"}
    story.demand(102.0, {"b": 1})
    assert refusals(story) == {"b": "pinned"}


def test_a_document_pins_and_unpins_and_takes_over_what_an_operator_pinned() -> None:
    story = Story(a=SchedulingSpec(pinned=True), b=SchedulingSpec())
    assert story.states()["a"] == "loading"
    story.machine.step(UnpinOrdered(1.0, "a"))
    assert pins(story) == set(), "the operator's word is the later one"
    story.change(2.0, b=SchedulingSpec(priority=1))
    assert pins(story) == set(), "another document does not change that"
    story.change(3.0, a=SchedulingSpec())
    story.change(4.0, a=SchedulingSpec(pinned=True))
    assert pins(story) == {"a"}
    story.machine.step(PinOrdered(5.0, "a"))
    story.change(6.0, a=SchedulingSpec())
    assert pins(story) == set(), "on a cluster the order has become an annotation, and this is its removal"


def test_an_operators_pin_outlasts_windows_that_open_and_close() -> None:
    story = Story()
    story.machine.step(PinOrdered(1.0, "a"))
    story.change(2.0, a=SchedulingSpec(wanted=True, kept=True))
    story.change(3.0, a=SchedulingSpec())
    assert pins(story) == {"a"}


def test_what_is_pinned_comes_back_after_a_crash_without_pushing_out_what_is_used() -> None:
    story = Story()
    story.load(1.0, "a")
    story.demand(2.0)
    story.machine.step(PinOrdered(2.0, "a"))
    story.failed(3.0, "a", 2)
    story.released(3.0, "a", 2)
    assert story.states()["a"] == "loading"


def test_a_pinned_model_that_is_adopted_is_not_loaded_again() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec())
    story.machine.step(InstanceAdopted(0.0, "a", "w/a@7", 7, "http://a7"))
    story.change(1.0, a=SchedulingSpec(pinned=True))
    assert not story.machine.parts.availability.load_requests
    story.demand(2.0, {"b": 1})
    assert refusals(story) == {"b": "pinned"}


def test_a_capacity_that_shrinks_takes_off_what_is_not_pinned_first() -> None:
    story = Story(Capacity(2))
    story.load(1.0, "a")
    story.load(1.0, "b")
    story.machine.step(PinOrdered(2.0, "a"))
    story.demand(3.0)
    story.change(4.0, capacity=Capacity(1))
    assert {h.model: h.state for h in story.machine.instances.values()} == {"a": READY, "b": QUIESCING}


def test_servers_outside_and_unknown_models_are_not_pinned() -> None:
    story = Story(x=SchedulingSpec(external="http://outside", pinned=True, wanted=True, return_after=1.0))
    for model in ("x", "unheard-of"):
        assert story.machine.step(PinOrdered(1.0, model)) == []
        assert story.machine.step(UnpinOrdered(2.0, model)) == []
    assert pins(story) == set()


# Windows --------------------------------------------------------------------------------------------------------------

OPEN = SchedulingSpec(wanted=True)


def test_a_window_loads_its_model_into_a_free_seat_and_forces_nothing_when_it_closes() -> None:
    story = Story()
    said = story.change(1.0, a=OPEN)
    assert (started(said), reasons(said)) == (["a"], ["schedule"])
    story.ready(2.0, "a", 2)
    story.change(3.0, a=SchedulingSpec())
    assert story.states()["a"] == "ready"


def test_a_window_takes_the_seat_of_an_idle_model_and_waits_for_one_that_is_used() -> None:
    story = Story()
    story.load(1.0, "b")
    story.change(2.0, a=OPEN)
    assert story.states() == {"a": "unloaded", "b": "ready"}
    story.demand(3.0)
    assert story.states()["b"] == "quiescing"
    swap(story, 10.0, "b", "a")
    assert story.states() == {"a": "ready", "b": "unloaded"}


def test_a_request_that_comes_while_its_model_makes_space_for_a_wish_is_served_where_it_is() -> None:
    story = Story()
    of = story.load(1.0, "b")
    story.demand(2.0)
    story.change(10.0, a=OPEN)
    assert story.states()["b"] == "quiescing"
    story.demand(10.1, {"b": 1})
    assert story.states()["b"] == "ready"
    assert story.machine.instances[f"w/b@{of}"].leaving is None


def test_a_wish_waits_while_anybody_waits_for_a_seat() -> None:
    story = Story(Capacity(2), a=OPEN, b=SchedulingSpec(), c=SchedulingSpec(Claim(2)))
    story.change(0.0, a=SchedulingSpec())
    story.machine.step(UnloadOrdered(0.0, "a"))
    of = next(h.epoch for h in story.machine.instances.values())
    story.released(0.5, "a", of)
    story.load(1.0, "b")
    story.demand(2.0, {"c": 1}, {f"w/b@{next(h.epoch for h in story.machine.instances.values())}": 1}, since=2.0)
    story.change(3.0, a=OPEN)
    assert story.states() == {"a": "unloaded", "b": "ready", "c": "unloaded"}, "the free seat is one of c's two"


def test_a_model_used_lately_stays_for_as_long_as_changing_it_and_back_would_cost() -> None:
    story = Story()
    story.load(1.0, "a")
    story.demand(2.0)
    story.machine.step(UnloadOrdered(3.0, "a"))
    story.demand(3.0)
    story.released(4.0, "a", 2)
    story.load(5.0, "b")
    story.machine.parts.history.durations.load.update(a=Estimate(20.0), b=Estimate(10.0))
    story.machine.parts.history.durations.stop.update(a=Estimate(1.0), b=Estimate(2.0))
    story.demand(6.0)
    story.change(7.0, a=SchedulingSpec())
    story.change(8.0, a=OPEN)
    assert story.machine.wake_at == 6.0 + 33.0
    story.tick(38.9)
    assert story.states()["b"] == "ready"
    story.tick(39.0)
    assert story.states()["b"] == "quiescing"


def test_a_window_respects_the_minimum_residency_of_others() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(min_residency=60.0))
    story.load(1.0, "b")
    story.demand(2.0)
    story.change(3.0, a=OPEN)
    assert story.states()["b"] == "ready"
    assert story.machine.wake_at == 61.0
    story.tick(61.0)
    assert story.states()["b"] == "quiescing"


def test_within_its_window_a_model_makes_space_for_demand_and_comes_back_when_that_is_over() -> None:
    story = Story(a=OPEN, b=SchedulingSpec())
    story.ready(1.0, "a", 2)
    story.demand(1.0)
    story.demand(2.0, {"b": 1})
    story.demand(2.0, {"b": 1})
    story.released(3.0, "a", 2)
    story.ready(3.0, "b", next(h.epoch for h in story.machine.instances.values()))
    of = next(h.epoch for h in story.machine.instances.values())
    story.demand(4.0, {}, {f"w/b@{of}": 1})
    story.tick(1000.0)
    assert story.states() == {"a": "unloaded", "b": "ready"}, "it is used"
    story.demand(1000.0)
    story.tick(story.machine.wake_at)
    assert story.states()["b"] in ("quiescing", "releasing")
    swap(story, 1010.0, "b", "a")
    assert story.states()["a"] == "ready"


def test_a_window_that_pins_keeps_its_model_until_it_closes() -> None:
    story = Story(a=SchedulingSpec(wanted=True, kept=True), b=SchedulingSpec())
    story.ready(1.0, "a", 2)
    story.demand(2.0, {"b": 1})
    assert refusals(story) == {"b": "pinned"}
    story.demand(2.1)
    story.change(3.0, a=SchedulingSpec())
    story.demand(4.0, {"b": 1})
    assert story.states()["a"] == "quiescing"


def test_two_windows_that_cannot_both_have_the_seat_do_not_take_it_from_each_other() -> None:
    story = Story(a=OPEN, b=OPEN)
    story.ready(1.0, "a", 2)
    story.demand(1.0)
    story.tick(10_000.0)
    assert story.states() == {"a": "ready", "b": "unloaded"}


def test_what_an_operator_unloads_is_wished_for_no_longer_until_somebody_asks_for_it() -> None:
    story = Story(a=OPEN, b=SchedulingSpec())
    story.ready(1.0, "a", 2)
    story.machine.step(UnloadOrdered(2.0, "a"))
    story.demand(2.0)
    story.released(3.0, "a", 2)
    story.tick(1000.0)
    assert story.states()["a"] == "unloaded"
    story.change(1001.0, a=SchedulingSpec())
    assert started(story.change(1002.0, a=OPEN)) == ["a"], "the next window is another wish"


def test_a_wish_goes_before_a_preload_that_has_not_begun() -> None:
    story = Story(a=SchedulingSpec(), p=SchedulingSpec(preload=True), b=SchedulingSpec())
    story.machine.step(UnloadOrdered(0.0, "p"))
    story.released(0.0, "p", 2)
    story.load(1.0, "b")
    story.demand(2.0)
    story.change(3.0, p=None)
    story.change(3.0, p=SchedulingSpec(preload=True), a=OPEN)
    story.demand(4.0)
    of = next(h.epoch for h in story.machine.instances.values())
    assert started(story.released(5.0, "b", of)) == ["a"]


# The default ----------------------------------------------------------------------------------------------------------


def test_the_default_returns_after_a_quiet_time_and_every_request_begins_it_anew() -> None:
    story = Story(a=SchedulingSpec(return_after=60.0), b=SchedulingSpec())
    story.load(1.0, "b")
    of = next(h.epoch for h in story.machine.instances.values())
    story.demand(50.0, {}, served={f"w/b@{of}": 1})
    story.demand(100.0, {}, served={f"w/b@{of}": 2})  # one so short that no snapshot shows it in flight
    assert story.machine.wake_at == 160.0
    story.tick(159.9)
    assert story.states() == {"a": "unloaded", "b": "ready"}
    story.tick(160.0)
    assert story.states()["b"] == "quiescing"
    story.demand(160.1)
    said = story.released(160.2, "b", of)
    assert started(said) == ["a"]
    assert [switch.reason for switch in story.machine.switches][-1] == "default"


def test_a_workspace_is_not_quiet_while_somebody_is_answered_or_waits() -> None:
    story = Story(Capacity(2), a=SchedulingSpec(Claim(2), return_after=60.0), b=SchedulingSpec())
    story.load(1.0, "b")
    story.tick(1000.0)
    assert story.states() == {"a": "unloaded", "b": "ready"}


def test_without_the_field_nothing_returns() -> None:
    story = Story()
    story.load(1.0, "b")
    story.demand(2.0)
    story.tick(100_000.0)
    assert story.states() == {"a": "unloaded", "b": "ready"}


def test_the_default_returns_to_an_empty_accelerator_and_stays_there_although_it_is_idle() -> None:
    story = Story(a=SchedulingSpec(return_after=60.0, idle_timeout=10.0))
    assert started(story.tick(59.0)) == []
    assert started(story.tick(60.0)) == ["a"]
    story.ready(61.0, "a", 2)
    story.demand(61.0)
    assert stopped(story.tick(10_000.0)) == []


def test_the_default_takes_the_seat_of_no_model_whose_window_is_open() -> None:
    story = Story(a=SchedulingSpec(return_after=60.0), b=OPEN)
    story.ready(1.0, "b", 2)
    story.demand(1.0)
    story.tick(10_000.0)
    assert story.states() == {"a": "unloaded", "b": "ready"}


def test_a_wish_that_fails_is_tried_again_after_its_pause() -> None:
    story = Story(a=OPEN)
    story.failed(1.0, "a", 2)
    story.released(1.0, "a", 2)
    assert story.states()["a"] == "failed"
    assert story.machine.wake_at is not None
    assert started(story.tick(story.machine.wake_at)) == ["a"]


# Idle stops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drain_timeout", [120.0, 0.0])
def test_an_idle_stop_that_races_a_request_loses(drain_timeout: float) -> None:
    """The router dispatched it before it saw that the model closes; the switcher had not heard of that."""
    story = Story(a=SchedulingSpec(idle_timeout=10.0, drain_timeout=drain_timeout))
    of = story.load(1.0)
    story.demand(2.0)
    seen = story.machine.epoch
    assert stopped(story.tick(12.0)) == []
    assert story.states()["a"] == "quiescing"
    assert stopped(story.demand(12.1, {}, {f"w/a@{of}": 1}, served={f"w/a@{of}": 2}, seen=seen)) == []
    assert story.states()["a"] == "ready"


def test_an_idle_model_is_stopped_all_the_same_where_a_router_is_silent() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=10.0, drain_timeout=0.0))
    story.load(1.0)
    story.demand(2.0)
    story.tick(12.0)
    assert story.machine.wake_at == 12.0 + ROUTER_SYNC_TIMEOUT
    assert stopped(story.tick(12.0 + ROUTER_SYNC_TIMEOUT)) == ["a"]


def test_a_request_that_waits_while_its_idle_model_stops_gets_it_loaded_again() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    of = story.load(1.0)
    story.demand(2.0)
    story.tick(12.0)
    assert stopped(story.demand(12.0)) == ["a"]
    story.demand(12.1, {"a": 1})
    assert refusals(story) == {}
    assert started(story.released(12.2, "a", of)) == ["a"]


# Grants, over any policy ----------------------------------------------------------------------------------------------


class Heedless:
    """A policy of another package, which never heard of pins: whoever waits gets the seat."""

    def decide(self, view: View) -> Decision:
        return Decision(tuple(m.name for m in view.models if m.waiting))


def test_a_policy_that_knows_no_pins_breaks_none() -> None:
    view = View(9.0, Capacity(1), (ModelView("a", state=READY, pinned=True), ModelView("b", waiting=1, oldest=1.0)))
    assert decide_with_preferences(Heedless(), view).resident == ("a",)
    roomy = View(9.0, Capacity(2), view.models)
    assert set(decide_with_preferences(Heedless(), roomy).resident) == {"a", "b"}


def test_no_more_make_space_than_have_to_and_the_least_recently_used_first() -> None:
    models = (
        ModelView("small", Claim(1), state=READY, last_used=1.0),
        ModelView("big", Claim(2), state=READY, last_used=2.0),
        ModelView("late", Claim(1), state=READY, last_used=3.0),
        ModelView("wish", Claim(2), preference=Preference.SCHEDULED),
    )
    everybody = Decision(("small", "big", "late"))
    resident, _ = apply_preferences(View(9.0, Capacity(4), models), everybody)
    assert set(resident) == {"small", "late", "wish"}
    resident, wake_at = apply_preferences(View(1.5, Capacity(4), models), everybody)
    assert (set(resident), wake_at) == ({"small", "big", "late"}, 2.0)


def test_priorities_do_not_count_among_those_that_leave_for_a_wish() -> None:
    models = (
        ModelView("important", state=READY, last_used=1.0, priority=9),
        ModelView("late", state=READY, last_used=3.0),
        ModelView("wish", preference=Preference.SCHEDULED),
    )
    resident, _ = apply_preferences(View(9.0, Capacity(2), models), Decision(("important", "late")))
    assert set(resident) == {"late", "wish"}


def test_what_loads_is_not_given_up_for_a_wish() -> None:
    models = (ModelView("a", state=LOADING), ModelView("b", preference=Preference.PINNED))
    assert apply_preferences(View(9.0, Capacity(1), models), Decision(("a",))) == (("a",), None)


def test_loading_by_order_ends_a_dismissal() -> None:
    story = Story(a=SchedulingSpec(return_after=5.0), b=SchedulingSpec())
    story.machine.step(UnloadOrdered(1.0, "a"))
    story.tick(100.0)
    assert story.states()["a"] == "unloaded"
    story.machine.step(LoadOrdered(101.0, "a"))
    assert story.states()["a"] == "loading"


def test_no_lesser_wish_takes_what_was_granted_to_a_greater_one() -> None:
    """A bug once: a pinned model that was to come made an idle one leave, and the seat went to somebody's window instead, for ever."""
    pinned = ModelView("a", preference=Preference.PINNED, waiting=1, oldest=1.0, may_evict=False)
    idle = ModelView("c", state=InstanceState.READY, preference=Preference.SCHEDULED)
    window = ModelView("e", preference=Preference.SCHEDULED)
    view = View(100.0, Capacity(1), (pinned, idle, window))
    assert apply_preferences(view, Decision(("c",)))[0] == ("a",)
    empty = View(100.0, Capacity(1), (pinned, window))
    assert apply_preferences(empty, Decision(("a",)))[0] == ("a",)
