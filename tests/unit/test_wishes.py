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
from hotseat.core.scheduler.pins import apply_preferences, decide_with_preferences

from .test_switching import House

READY, CLOSING, LOADING = InstanceState.READY, InstanceState.CLOSING, InstanceState.LOADING


def started(commands: list[SchedulerCommand]) -> list[str]:
    return [command.model for command in commands if isinstance(command, Start)]


def stopped(commands: list[SchedulerCommand]) -> list[str]:
    return [command.model for command in commands if isinstance(command, Stop)]


def reasons(commands: list[SchedulerCommand]) -> list[str]:
    return [c.data["reason"] for c in commands if isinstance(c, Emit) and c.type == "switch.started"]


def pins(house: House) -> set[str]:
    return {status.name for status in house.machine.status() if status.pinned}


def refusals(house: House) -> dict[str, str]:
    return {model: refusal.code for model, refusal in house.machine.residency.refusals.items()}


def swap(house: House, now: float, out: str, into: str) -> None:
    """Let the resident go that was told to, and the other be ready."""
    house.demand(now)
    of = next(h.epoch for h in house.machine.holders.values() if h.model == out)
    house.released(now, out, of)
    house.ready(now, into, next(h.epoch for h in house.machine.holders.values() if h.model == into))
    house.demand(now)


# Pins -----------------------------------------------------------------------------------------------------------------


def test_a_pin_loads_a_model_as_an_order_does_and_then_it_makes_room_for_nobody() -> None:
    house = House()
    said = house.machine.step(PinOrdered(1.0, "a"))
    assert started(said) == ["a"]
    assert Emit("model.pinned", "a", {}) in said
    assert pins(house) == {"a"}
    house.ready(2.0, "a", 2)
    house.demand(2.0)
    assert stopped(house.demand(500.0, {"b": 1}, since=3.0)) == []
    assert house.states() == {"a": "ready", "b": "unloaded"}


@pytest.mark.parametrize("policy", [Fifo(), Priority()])
def test_every_policy_honours_a_pin(policy: Policy) -> None:
    house = House(a=SchedulingSpec(), b=SchedulingSpec(priority=9))
    house.machine.policy = policy
    house.load(1.0)
    house.demand(2.0)
    house.machine.step(PinOrdered(3.0, "a"))
    house.demand(500.0, {"b": 1}, since=4.0)
    assert house.states()["a"] == "ready"


def test_who_could_never_be_loaded_beside_the_pinned_is_sent_away_at_once_and_told_how_to_get_in() -> None:
    house = House()
    house.load(1.0)
    house.demand(2.0)
    house.machine.step(PinOrdered(3.0, "a"))
    house.demand(4.0, {"b": 1})
    refusal = house.machine.residency.refusals["b"]
    assert refusal.code == "pinned"
    assert refusal.message == "b does not fit beside the pinned models (a); to make room: hotseat unpin a"
    assert refusal.retry_at == 14.0
    house.demand(4.1)  # it has been told so
    said = house.machine.step(UnpinOrdered(5.0, "a"))
    assert Emit("model.unpinned", "a", {}) in said
    assert refusals(house) == {}
    house.demand(6.0, {"b": 1})
    assert house.states()["a"] == "closing"


def test_who_fits_beside_the_pinned_waits_for_the_others() -> None:
    house = House(Capacity(2), a=SchedulingSpec(), b=SchedulingSpec(), c=SchedulingSpec())
    house.load(1.0, "a")
    house.machine.step(PinOrdered(2.0, "a"))
    house.load(3.0, "b")
    house.demand(4.0)
    assert stopped(house.demand(5.0, {"c": 1})) == []
    assert stopped(house.demand(5.0, {"c": 1})) == ["b"]
    assert refusals(house) == {}


def test_a_pin_is_refused_where_the_seat_is_pinned_already() -> None:
    house = House()
    house.load(1.0, "a")
    house.machine.step(PinOrdered(2.0, "a"))
    house.machine.step(PinOrdered(3.0, "b"))
    assert pins(house) == {"a"}
    assert refusals(house) == {"b": "pinned"}
    assert not house.machine.prospects.orders


def test_a_model_that_is_leaving_for_another_stays_once_it_is_pinned() -> None:
    house = House()
    house.load(1.0)
    house.demand(40.0, {"b": 1}, {"w/a@2": 1}, since=2.0)
    assert house.states()["a"] == "closing"
    house.machine.step(PinOrdered(41.0, "a"))
    assert house.states()["a"] == "ready"
    assert refusals(house) == {"b": "pinned"}


def test_a_pin_takes_nobody_off_who_is_used_before_its_turn() -> None:
    house = House(a=SchedulingSpec(max_wait=30.0), b=SchedulingSpec())
    house.load(1.0, "b")
    house.machine.step(PinOrdered(2.0, "a"))
    assert house.states()["b"] == "ready"  # its batch goes on, as for any order
    house.tick(33.0)
    assert house.states()["b"] == "closing"


def test_nothing_goes_for_idleness_that_is_pinned_and_all_does_that_is_not_any_longer() -> None:
    house = House(a=SchedulingSpec(idle_timeout=10.0))
    house.load(1.0)
    house.demand(2.0)
    house.machine.step(PinOrdered(3.0, "a"))
    assert stopped(house.tick(100.0)) == []
    house.machine.step(UnpinOrdered(101.0, "a"))
    assert stopped(house.demand(101.0)) == ["a"]


def test_an_operator_unloads_what_is_pinned_and_it_comes_back_pinned_when_it_is_asked_for() -> None:
    house = House(a=SchedulingSpec(pinned=True), b=SchedulingSpec())
    house.ready(1.0, "a", 2)
    house.demand(1.0)
    house.machine.step(UnloadOrdered(2.0, "a"))
    house.demand(2.0)
    house.released(3.0, "a", 2)
    house.tick(100.0)
    assert house.states() == {"a": "unloaded", "b": "unloaded"}
    house.load(101.0, "a")
    assert pins(house) == {"a"}
    house.demand(102.0, {"b": 1})
    assert refusals(house) == {"b": "pinned"}


def test_a_document_pins_and_unpins_and_takes_over_what_an_operator_pinned() -> None:
    house = House(a=SchedulingSpec(pinned=True), b=SchedulingSpec())
    assert house.states()["a"] == "loading"
    house.machine.step(UnpinOrdered(1.0, "a"))
    assert pins(house) == set(), "the operator's word is the later one"
    house.change(2.0, b=SchedulingSpec(priority=1))
    assert pins(house) == set(), "another document does not change that"
    house.change(3.0, a=SchedulingSpec())
    house.change(4.0, a=SchedulingSpec(pinned=True))
    assert pins(house) == {"a"}
    house.machine.step(PinOrdered(5.0, "a"))
    house.change(6.0, a=SchedulingSpec())
    assert pins(house) == set(), "on a cluster the order has become an annotation, and this is its removal"


def test_an_operators_pin_outlasts_windows_that_open_and_close() -> None:
    house = House()
    house.machine.step(PinOrdered(1.0, "a"))
    house.change(2.0, a=SchedulingSpec(wanted=True, kept=True))
    house.change(3.0, a=SchedulingSpec())
    assert pins(house) == {"a"}


def test_what_is_pinned_comes_back_after_a_crash_without_pushing_out_what_is_used() -> None:
    house = House()
    house.load(1.0, "a")
    house.demand(2.0)
    house.machine.step(PinOrdered(2.0, "a"))
    house.failed(3.0, "a", 2)
    house.released(3.0, "a", 2)
    assert house.states()["a"] == "loading"


def test_a_pinned_model_that_is_adopted_is_not_loaded_again() -> None:
    house = House(a=SchedulingSpec(), b=SchedulingSpec())
    house.machine.step(InstanceAdopted(0.0, "a", "w/a@7", 7, "http://a7"))
    house.change(1.0, a=SchedulingSpec(pinned=True))
    assert not house.machine.prospects.orders
    house.demand(2.0, {"b": 1})
    assert refusals(house) == {"b": "pinned"}


def test_a_capacity_that_shrinks_takes_off_what_is_not_pinned_first() -> None:
    house = House(Capacity(2))
    house.load(1.0, "a")
    house.load(1.0, "b")
    house.machine.step(PinOrdered(2.0, "a"))
    house.demand(3.0)
    house.change(4.0, capacity=Capacity(1))
    assert {h.model: h.state for h in house.machine.holders.values()} == {"a": READY, "b": CLOSING}


def test_servers_outside_and_unknown_models_are_not_pinned() -> None:
    house = House(x=SchedulingSpec(external="http://outside", pinned=True, wanted=True, return_after=1.0))
    for model in ("x", "unheard-of"):
        assert house.machine.step(PinOrdered(1.0, model)) == []
        assert house.machine.step(UnpinOrdered(2.0, model)) == []
    assert pins(house) == set()


# Windows --------------------------------------------------------------------------------------------------------------

OPEN = SchedulingSpec(wanted=True)


def test_a_window_loads_its_model_into_a_free_seat_and_forces_nothing_when_it_closes() -> None:
    house = House()
    said = house.change(1.0, a=OPEN)
    assert (started(said), reasons(said)) == (["a"], ["schedule"])
    house.ready(2.0, "a", 2)
    house.change(3.0, a=SchedulingSpec())
    assert house.states()["a"] == "ready"


def test_a_window_takes_the_seat_of_an_idle_model_and_waits_for_one_that_is_used() -> None:
    house = House()
    house.load(1.0, "b")
    house.change(2.0, a=OPEN)
    assert house.states() == {"a": "unloaded", "b": "ready"}
    house.demand(3.0)
    assert house.states()["b"] == "closing"
    swap(house, 10.0, "b", "a")
    assert house.states() == {"a": "ready", "b": "unloaded"}


def test_a_request_that_comes_while_its_model_makes_room_for_a_wish_is_served_where_it_is() -> None:
    house = House()
    of = house.load(1.0, "b")
    house.demand(2.0)
    house.change(10.0, a=OPEN)
    assert house.states()["b"] == "closing"
    house.demand(10.1, {"b": 1})
    assert house.states()["b"] == "ready"
    assert house.machine.holders[f"w/b@{of}"].leaving is None


def test_a_wish_waits_while_anybody_waits_for_a_seat() -> None:
    house = House(Capacity(2), a=OPEN, b=SchedulingSpec(), c=SchedulingSpec(Claim(2)))
    house.change(0.0, a=SchedulingSpec())
    house.machine.step(UnloadOrdered(0.0, "a"))
    of = next(h.epoch for h in house.machine.holders.values())
    house.released(0.5, "a", of)
    house.load(1.0, "b")
    house.demand(2.0, {"c": 1}, {f"w/b@{next(h.epoch for h in house.machine.holders.values())}": 1}, since=2.0)
    house.change(3.0, a=OPEN)
    assert house.states() == {"a": "unloaded", "b": "ready", "c": "unloaded"}, "the free seat is one of c's two"


def test_a_model_used_lately_stays_for_as_long_as_changing_it_and_back_would_cost() -> None:
    house = House()
    house.load(1.0, "a")
    house.demand(2.0)
    house.machine.step(UnloadOrdered(3.0, "a"))
    house.demand(3.0)
    house.released(4.0, "a", 2)
    house.load(5.0, "b")
    house.machine.ledger.costs.load.update(a=Estimate(20.0), b=Estimate(10.0))
    house.machine.ledger.costs.stop.update(a=Estimate(1.0), b=Estimate(2.0))
    house.demand(6.0)
    house.change(7.0, a=SchedulingSpec())
    house.change(8.0, a=OPEN)
    assert house.machine.wake_at == 6.0 + 33.0
    house.tick(38.9)
    assert house.states()["b"] == "ready"
    house.tick(39.0)
    assert house.states()["b"] == "closing"


def test_a_window_respects_the_minimum_residency_of_others() -> None:
    house = House(a=SchedulingSpec(), b=SchedulingSpec(min_residency=60.0))
    house.load(1.0, "b")
    house.demand(2.0)
    house.change(3.0, a=OPEN)
    assert house.states()["b"] == "ready"
    assert house.machine.wake_at == 61.0
    house.tick(61.0)
    assert house.states()["b"] == "closing"


def test_within_its_window_a_model_makes_room_for_demand_and_comes_back_when_that_is_over() -> None:
    house = House(a=OPEN, b=SchedulingSpec())
    house.ready(1.0, "a", 2)
    house.demand(1.0)
    house.demand(2.0, {"b": 1})
    house.demand(2.0, {"b": 1})
    house.released(3.0, "a", 2)
    house.ready(3.0, "b", next(h.epoch for h in house.machine.holders.values()))
    of = next(h.epoch for h in house.machine.holders.values())
    house.demand(4.0, {}, {f"w/b@{of}": 1})
    house.tick(1000.0)
    assert house.states() == {"a": "unloaded", "b": "ready"}, "it is used"
    house.demand(1000.0)
    house.tick(house.machine.wake_at)
    assert house.states()["b"] in ("closing", "releasing")
    swap(house, 1010.0, "b", "a")
    assert house.states()["a"] == "ready"


def test_a_window_that_pins_keeps_its_model_until_it_closes() -> None:
    house = House(a=SchedulingSpec(wanted=True, kept=True), b=SchedulingSpec())
    house.ready(1.0, "a", 2)
    house.demand(2.0, {"b": 1})
    assert refusals(house) == {"b": "pinned"}
    house.demand(2.1)
    house.change(3.0, a=SchedulingSpec())
    house.demand(4.0, {"b": 1})
    assert house.states()["a"] == "closing"


def test_two_windows_that_cannot_both_have_the_seat_do_not_take_it_from_each_other() -> None:
    house = House(a=OPEN, b=OPEN)
    house.ready(1.0, "a", 2)
    house.demand(1.0)
    house.tick(10_000.0)
    assert house.states() == {"a": "ready", "b": "unloaded"}


def test_what_an_operator_unloads_is_wished_for_no_longer_until_somebody_asks_for_it() -> None:
    house = House(a=OPEN, b=SchedulingSpec())
    house.ready(1.0, "a", 2)
    house.machine.step(UnloadOrdered(2.0, "a"))
    house.demand(2.0)
    house.released(3.0, "a", 2)
    house.tick(1000.0)
    assert house.states()["a"] == "unloaded"
    house.change(1001.0, a=SchedulingSpec())
    assert started(house.change(1002.0, a=OPEN)) == ["a"], "the next window is another wish"


def test_a_wish_goes_before_a_preload_that_has_not_begun() -> None:
    house = House(a=SchedulingSpec(), p=SchedulingSpec(preload=True), b=SchedulingSpec())
    house.machine.step(UnloadOrdered(0.0, "p"))
    house.released(0.0, "p", 2)
    house.load(1.0, "b")
    house.demand(2.0)
    house.change(3.0, p=None)
    house.change(3.0, p=SchedulingSpec(preload=True), a=OPEN)
    house.demand(4.0)
    of = next(h.epoch for h in house.machine.holders.values())
    assert started(house.released(5.0, "b", of)) == ["a"]


# The default ----------------------------------------------------------------------------------------------------------


def test_the_default_returns_after_a_quiet_time_and_every_request_begins_it_anew() -> None:
    house = House(a=SchedulingSpec(return_after=60.0), b=SchedulingSpec())
    house.load(1.0, "b")
    of = next(h.epoch for h in house.machine.holders.values())
    house.demand(50.0, {}, served={f"w/b@{of}": 1})
    house.demand(100.0, {}, served={f"w/b@{of}": 2})  # one so short that no snapshot shows it in flight
    assert house.machine.wake_at == 160.0
    house.tick(159.9)
    assert house.states() == {"a": "unloaded", "b": "ready"}
    house.tick(160.0)
    assert house.states()["b"] == "closing"
    house.demand(160.1)
    said = house.released(160.2, "b", of)
    assert started(said) == ["a"]
    assert [switch.reason for switch in house.machine.switches][-1] == "default"


def test_a_workspace_is_not_quiet_while_somebody_is_answered_or_waits() -> None:
    house = House(Capacity(2), a=SchedulingSpec(Claim(2), return_after=60.0), b=SchedulingSpec())
    house.load(1.0, "b")
    house.tick(1000.0)
    assert house.states() == {"a": "unloaded", "b": "ready"}


def test_without_the_field_nothing_returns() -> None:
    house = House()
    house.load(1.0, "b")
    house.demand(2.0)
    house.tick(100_000.0)
    assert house.states() == {"a": "unloaded", "b": "ready"}


def test_the_default_returns_to_an_empty_accelerator_and_stays_there_although_it_is_idle() -> None:
    house = House(a=SchedulingSpec(return_after=60.0, idle_timeout=10.0))
    assert started(house.tick(59.0)) == []
    assert started(house.tick(60.0)) == ["a"]
    house.ready(61.0, "a", 2)
    house.demand(61.0)
    assert stopped(house.tick(10_000.0)) == []


def test_the_default_takes_the_seat_of_no_model_whose_window_is_open() -> None:
    house = House(a=SchedulingSpec(return_after=60.0), b=OPEN)
    house.ready(1.0, "b", 2)
    house.demand(1.0)
    house.tick(10_000.0)
    assert house.states() == {"a": "unloaded", "b": "ready"}


def test_a_wish_that_fails_is_tried_again_after_its_pause() -> None:
    house = House(a=OPEN)
    house.failed(1.0, "a", 2)
    house.released(1.0, "a", 2)
    assert house.states()["a"] == "failed"
    assert house.machine.wake_at is not None
    assert started(house.tick(house.machine.wake_at)) == ["a"]


# Idle stops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drain_timeout", [120.0, 0.0])
def test_an_idle_stop_that_races_a_request_loses(drain_timeout: float) -> None:
    """The router dispatched it before it saw that the model closes; the switcher had not heard of that."""
    house = House(a=SchedulingSpec(idle_timeout=10.0, drain_timeout=drain_timeout))
    of = house.load(1.0)
    house.demand(2.0)
    seen = house.machine.epoch
    assert stopped(house.tick(12.0)) == []
    assert house.states()["a"] == "closing"
    assert stopped(house.demand(12.1, {}, {f"w/a@{of}": 1}, served={f"w/a@{of}": 2}, seen=seen)) == []
    assert house.states()["a"] == "ready"


def test_an_idle_model_is_stopped_all_the_same_where_a_router_is_silent() -> None:
    house = House(a=SchedulingSpec(idle_timeout=10.0, drain_timeout=0.0))
    house.load(1.0)
    house.demand(2.0)
    house.tick(12.0)
    assert house.machine.wake_at == 12.0 + ROUTER_SYNC_TIMEOUT
    assert stopped(house.tick(12.0 + ROUTER_SYNC_TIMEOUT)) == ["a"]


def test_a_request_that_waits_while_its_idle_model_stops_gets_it_loaded_again() -> None:
    house = House(a=SchedulingSpec(idle_timeout=10.0))
    of = house.load(1.0)
    house.demand(2.0)
    house.tick(12.0)
    assert stopped(house.demand(12.0)) == ["a"]
    house.demand(12.1, {"a": 1})
    assert refusals(house) == {}
    assert started(house.released(12.2, "a", of)) == ["a"]


# Grants, over any policy ----------------------------------------------------------------------------------------------


class Heedless:
    """A policy of another package, which never heard of pins: whoever waits gets the seat."""

    def decide(self, view: View) -> Decision:
        return Decision(tuple(m.name for m in view.models if m.waiting))


def test_a_policy_that_knows_no_pins_breaks_none() -> None:
    view = View(9.0, Capacity(1), (ModelView("a", seat=READY, pinned=True), ModelView("b", waiting=1, oldest=1.0)))
    assert decide_with_preferences(Heedless(), view).resident == ("a",)
    roomy = View(9.0, Capacity(2), view.models)
    assert set(decide_with_preferences(Heedless(), roomy).resident) == {"a", "b"}


def test_no_more_make_room_than_have_to_and_the_least_recently_used_first() -> None:
    models = (
        ModelView("small", Claim(1), seat=READY, last_used=1.0),
        ModelView("big", Claim(2), seat=READY, last_used=2.0),
        ModelView("late", Claim(1), seat=READY, last_used=3.0),
        ModelView("wish", Claim(2), wish=Preference.SCHEDULED),
    )
    everybody = Decision(("small", "big", "late"))
    resident, _ = apply_preferences(View(9.0, Capacity(4), models), everybody)
    assert set(resident) == {"small", "late", "wish"}
    resident, look_again = apply_preferences(View(1.5, Capacity(4), models), everybody)
    assert (set(resident), look_again) == ({"small", "big", "late"}, 2.0)


def test_what_loads_is_not_given_up_for_a_wish() -> None:
    models = (ModelView("a", seat=LOADING), ModelView("b", wish=Preference.PINNED))
    assert apply_preferences(View(9.0, Capacity(1), models), Decision(("a",))) == (("a",), None)


def test_loading_by_order_ends_a_dismissal() -> None:
    house = House(a=SchedulingSpec(return_after=5.0), b=SchedulingSpec())
    house.machine.step(UnloadOrdered(1.0, "a"))
    house.tick(100.0)
    assert house.states()["a"] == "unloaded"
    house.machine.step(LoadOrdered(101.0, "a"))
    assert house.states()["a"] == "loading"


def test_no_lesser_wish_takes_what_was_granted_to_a_greater_one() -> None:
    """A bug once: a pinned model that was to come made an idle one leave, and the seat went to somebody's window instead, for ever."""
    pinned = ModelView("a", wish=Preference.PINNED, waiting=1, oldest=1.0, may_evict=False)
    idle = ModelView("c", seat=InstanceState.READY, wish=Preference.SCHEDULED)
    window = ModelView("e", wish=Preference.SCHEDULED)
    view = View(100.0, Capacity(1), (pinned, idle, window))
    assert apply_preferences(view, Decision(("c",)))[0] == ("a",)
    empty = View(100.0, Capacity(1), (pinned, window))
    assert apply_preferences(empty, Decision(("a",)))[0] == ("a",)
