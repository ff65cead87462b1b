"""The first policy: who should be resident, by what is wanted, what is there and what a switch costs."""

from dataclasses import replace

import pytest

from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import NOTHING, Capacity, Claim, Decision, ModelView, Policy, View
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.placement import residents
from hotseat.core.policy.strict import Fifo, Priority

READY, LOADING, QUIESCING, DRAINING = (
    InstanceState.READY,
    InstanceState.LOADING,
    InstanceState.QUIESCING,
    InstanceState.DRAINING,
)
RELEASING, UNPROVEN = InstanceState.RELEASING, InstanceState.UNPROVEN


def decide(
    *models: ModelView, now: float = 100.0, gpus: int = 1, memory: int | None = None, policy: Policy | None = None
) -> Decision:
    return (policy or Batch()).decide(View(now, Capacity(gpus, memory), models))


def wants(name: str, *, since: float = 90.0, count: int = 1, **more: object) -> ModelView:
    """A model that holds nothing and for which requests wait."""
    return replace(ModelView(name, waiting=count, oldest=since), **more)


def idle(name: str, *, last_used: float = 50.0, **more: object) -> ModelView:
    """A resident that nobody uses."""
    return replace(ModelView(name, state=READY, ready_since=10.0, last_used=last_used), **more)


def busy(name: str, **more: object) -> ModelView:
    """A resident that is answering requests."""
    return replace(ModelView(name, state=READY, ready_since=10.0, last_used=99.0, in_flight=1), **more)


# One seat -------------------------------------------------------------------------------------------------------------


def test_a_free_seat_goes_to_whoever_waits_and_nobody_waiting_changes_nothing() -> None:
    assert decide(wants("a")) == Decision(("a",), None, 30.0)
    assert decide(idle("a")) == Decision(("a",))
    assert decide() == Decision()


def test_an_idle_resident_makes_space_at_once() -> None:
    assert decide(idle("a"), wants("b")) == Decision(("b",), None, 30.0)


def test_a_busy_resident_stays_until_the_wait_has_reached_its_bound() -> None:
    assert decide(busy("a"), wants("b", since=90.0)) == Decision(("a",), 120.0, 30.0)
    assert decide(busy("a"), wants("b", since=90.0), now=120.0) == Decision(("b",), None, 30.0)


def test_a_resident_for_which_requests_wait_is_busy_too() -> None:
    assert decide(idle("a", waiting=3), wants("b")).resident == ("a",)


@pytest.mark.parametrize("resident", [idle("a"), busy("a")], ids=["idle", "busy"])
def test_a_minimum_residency_holds_whether_it_is_used_or_not(resident: ModelView) -> None:
    resident = replace(resident, ready_since=80.0, min_residency=60.0)
    assert decide(resident, wants("b", since=70.0)) == Decision(("a",), 140.0, 70.0)
    assert decide(resident, wants("b", since=70.0), now=140.0).resident == ("b",)


def test_the_oldest_waiter_is_next_and_a_higher_priority_goes_before_it() -> None:
    old, young = wants("old", since=80.0), wants("young", since=85.0)
    assert decide(young, old).resident == ("old",)
    assert decide(replace(young, priority=1), old).resident == ("young",)


def test_no_priority_goes_before_one_that_has_waited_too_long() -> None:
    late = wants("late", since=60.0)
    assert decide(wants("vip", since=99.0, priority=9), late).resident == ("late",)
    assert decide(wants("vip", since=55.0, priority=9), late).resident == ("vip",)  # so has this one, and for longer


def test_somebody_of_low_priority_who_comes_to_the_bound_first_sets_the_alarm() -> None:
    """A bug once: only the first in the queue did."""
    vip, other = wants("vip", since=95.0, priority=9), wants("other", since=80.0)
    assert decide(busy("a"), vip, other) == Decision(("a",), 110.0, 30.0)
    assert decide(busy("a"), vip, other, now=110.0).resident == ("other",)


def test_a_loading_model_that_somebody_wants_is_left_to_load() -> None:
    loading = ModelView("a", state=LOADING, waiting=1, oldest=95.0)
    assert decide(loading, wants("b", since=10.0), now=95.5) == Decision(("a",), None, 85.5)  # so long it has waited


def test_a_loading_model_that_nobody_wants_any_longer_is_given_up_for_one_that_is_wanted() -> None:
    assert decide(ModelView("a", state=LOADING), wants("b")).resident == ("b",)
    assert decide(ModelView("a", state=LOADING)).resident == ("a",)


# No flapping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [QUIESCING, DRAINING])
def test_a_decided_switch_is_taken_back_only_when_nobody_waits_for_it_any_longer(state: InstanceState) -> None:
    going = busy("a", state=state, waiting=5, oldest=99.0)
    assert decide(going, wants("b", since=99.0, promised=True)).resident == ("b",)
    assert decide(going).resident == ("a",)


def test_a_decided_switch_goes_before_the_model_that_has_just_left_for_it() -> None:
    """A bug once: what was left of the old model's batch had waited longer, so that it was loaded again, and again."""
    left = ModelView("a", state=RELEASING, leaving=True, waiting=9, oldest=10.0)
    promised = wants("b", since=60.0, promised=True)
    assert decide(left, promised).resident == ("b",)
    assert decide(wants("a", since=10.0), promised).resident == ("b",)


def test_a_model_whose_capacity_is_gone_does_not_come_back_in_the_same_breath() -> None:
    """A bug once: a model that had to go, because there was less capacity, took the seat of the other as one that waits."""
    one = busy("a", waiting=3, oldest=10.0, last_used=1.0)
    other = busy("b", waiting=3, oldest=20.0)
    assert decide(one, other).resident == ("b",)
    assert decide(replace(one, state=QUIESCING), other).resident == ("b",)


# The bound on waiting -------------------------------------------------------------------------------------------------


def test_a_bound_that_cannot_be_met_is_widened_and_said_so() -> None:
    a, b = busy("a", switch_cost=20.0), wants("b", since=60.0, switch_cost=20.0, max_wait=30.0)
    assert decide(a, b) == Decision(("a",), pytest.approx(120.0), 60.0)  # 1.5 times what one round of switches costs
    assert decide(a, b, now=120.001).resident == ("b",)


def test_models_that_nobody_wants_do_not_widen_it() -> None:
    b = wants("b", since=80.0, switch_cost=10.0)
    assert decide(busy("a", switch_cost=5.0), b, idle("c", switch_cost=99.0), gpus=2).effective_max_wait == 30.0


def test_the_measured_load_widens_it_too() -> None:
    a = busy("a", switch_cost=20.0, arrivals=1.2, pace=4.0)
    b = wants("b", since=60.0, switch_cost=20.0, arrivals=1.2, pace=4.0)
    assert decide(a, b).effective_max_wait == pytest.approx(40.0 / (1 - 0.6))
    swamped = replace(b, arrivals=9.0)  # no load above 0.85 is believed
    assert decide(a, swamped).effective_max_wait == pytest.approx(40.0 / 0.1, abs=0.001)


def test_a_turn_ends_early_enough_for_the_second_in_line() -> None:
    b, c = wants("b", since=90.0, switch_cost=5.0, waiting=8, pace=2.0), wants("c", since=91.0)
    alone, both = decide(busy("a"), b), decide(busy("a"), b, c)
    assert alone.wake_at == 120.0
    ahead = 5.0 + (8 + 8**0.5) / 2.0  # the switch to b and its batch, and what chance may add to that
    assert both.wake_at == pytest.approx(121.0 - ahead)
    assert decide(busy("a"), b, c, now=both.wake_at or 0.0).resident == ("b",)


def test_what_waits_ahead_of_the_bound_is_said_before_it_is_missed() -> None:
    b, c = wants("b", since=99.0, switch_cost=5.0, waiting=100, pace=2.0), wants("c", since=99.5, max_wait=20.0)
    assert decide(busy("a"), b, c).effective_max_wait == pytest.approx(0.5 + 5.0 + (100 + 10) / 2.0)


# Batches --------------------------------------------------------------------------------------------------------------


def test_a_turn_that_ends_still_serves_what_waited_when_the_others_wait_began() -> None:
    a = busy("a", waiting=40, oldest=55.0)
    decision = decide(a, wants("b", since=60.0))
    assert (decision.resident, decision.cut_off) == (("b",), frozenset())
    later = decide(replace(a, oldest=61.0), wants("b", since=60.0))
    assert (later.resident, later.cut_off) == (("b",), frozenset({"a"}))


def test_a_turn_serves_at_least_what_waited_when_it_began() -> None:
    a = busy("a", waiting=40, oldest=98.0, ready_since=99.0)
    decision = decide(a, wants("b", since=20.0))
    assert (decision.resident, decision.cut_off) == (("b",), frozenset())
    assert decide(replace(a, oldest=99.5), wants("b", since=20.0)).cut_off == {"a"}


def test_a_turn_ends_by_so_much_earlier_as_its_batch_takes() -> None:
    a = busy("a", waiting=40, oldest=55.0, pace=4.0)
    assert decide(a, wants("b", since=90.0)).wake_at == 110.0


# Lingering ------------------------------------------------------------------------------------------------------------


def test_an_idle_resident_stays_a_moment_where_its_next_request_mostly_came_at_once() -> None:
    a = idle("a", last_used=99.9, switch_cost=10.0, gaps=(0.2,) * 7 + (60.0,))
    b = wants("b", switch_cost=10.0)
    assert decide(a, b) == Decision(("a",), pytest.approx(101.9), 30.0)
    assert decide(a, b, now=101.9).resident == ("b",)


@pytest.mark.parametrize(
    ("gaps", "waiting", "since"),
    [
        ((), 1, 90.0),  # nothing is known of it
        ((0.2,) * 4 + (60.0,) * 4, 1, 90.0),  # as often it did not come
        ((0.2,) * 8, 11, 90.0),  # too many wait for that
        ((0.2,) * 8, 1, 69.0),  # their time has come
    ],
)
def test_it_does_not_where_that_does_not_pay(gaps: tuple[float, ...], waiting: int, since: float) -> None:
    a = idle("a", last_used=99.9, switch_cost=10.0, gaps=gaps)
    assert decide(a, wants("b", switch_cost=10.0, count=waiting, since=since)).resident == ("b",)


# Several GPUs, and memory ---------------------------------------------------------------------------------------------


def test_models_that_fit_beside_each_other_stay_together() -> None:
    assert decide(busy("a"), wants("b"), wants("c"), gpus=3).resident == ("a", "b", "c")


def test_the_least_recently_used_idle_resident_goes_first() -> None:
    assert decide(idle("a", last_used=60.0), idle("b", last_used=40.0), wants("c"), gpus=2).resident == ("a", "c")


def test_an_idle_resident_goes_before_a_busy_one_of_lower_priority() -> None:
    one, other = idle("a", last_used=99.0, priority=9), busy("b", last_used=1.0)
    view = View(100.0, Capacity(1), (one, other))
    assert residents(view)[0].keys() == {"b"}, "one of them has to leave, where the capacity has shrunk"


def test_of_the_idle_the_less_important_goes_first() -> None:
    first, second = idle("a", last_used=60.0), idle("b", last_used=40.0, priority=1)
    assert decide(first, second, wants("c"), gpus=2).resident == ("b", "c")


def test_of_the_idle_the_one_that_is_cheap_to_bring_back_goes_first() -> None:
    slow = idle("slow", last_used=20.0, switch_cost=60.0, arrivals=0.01)
    quick = idle("quick", last_used=90.0, switch_cost=3.0, arrivals=0.01)
    assert decide(slow, quick, wants("c"), gpus=2).resident == ("slow", "c")
    # Nobody has asked for it for long: bringing it back will not be needed soon.
    assert decide(replace(slow, arrivals=0.0), quick, wants("c"), gpus=2).resident == ("quick", "c")


def test_one_that_is_enough_goes_rather_than_two_that_cost_more_together() -> None:
    small = [idle(name, switch_cost=30.0, arrivals=0.01) for name in ("a", "b")]
    big = idle("big", switch_cost=40.0, arrivals=0.01, claim=Claim(2))
    new = wants("new", claim=Claim(2))
    assert decide(*small, big, new, gpus=4).resident == ("a", "b", "new")
    assert decide(*small, replace(big, switch_cost=80.0), new, gpus=4).resident == ("big", "new")


def test_no_more_than_needed_have_to_go() -> None:
    """A bug once: those that were in the way of the search went, too."""
    small, large = idle("small", last_used=1.0), idle("large", last_used=2.0, claim=Claim(2))
    assert decide(small, large, wants("new", claim=Claim(2)), gpus=3).resident == ("small", "new")
    assert decide(small, large, wants("new", claim=Claim(3)), gpus=3).resident == ("new",)


def test_memory_counts_where_the_workspace_states_its_own() -> None:
    resident, new = idle("a", claim=Claim(1, 6)), wants("b", claim=Claim(1, 6))
    assert decide(resident, new, gpus=2, memory=10).resident == ("b",)
    assert decide(resident, new, gpus=2).resident == ("a", "b")


def test_nobody_overtakes_by_needing_less() -> None:
    big, small = wants("big", since=80.0, claim=Claim(2)), wants("small", since=90.0)
    assert decide(busy("a"), big, small, gpus=2) == Decision(("a",), 110.0, 30.0)
    assert decide(busy("a"), replace(small, oldest=70.0), big, gpus=2).resident == ("a", "small")


def test_a_model_that_claims_nothing_runs_beside_anything_even_where_the_others_hold_too_much() -> None:
    free = wants("cpu", claim=NOTHING)
    assert decide(busy("a"), wants("b"), free).resident == ("a", "cpu")
    stuck = ModelView("x", state=UNPROVEN, leaving=True, claim=Claim(2))
    assert decide(stuck, free).resident == ("cpu",)
    assert decide(stuck, idle("cpu", claim=NOTHING)).resident == ("cpu",)  # and is not stopped for that


def test_what_could_not_be_proven_gone_takes_its_seat() -> None:
    stuck = ModelView("a", state=UNPROVEN, leaving=True)
    assert decide(stuck, idle("b"), wants("c"), gpus=2).resident == ("c",)


def test_what_leaves_anyway_holds_up_nobody() -> None:
    assert decide(ModelView("a", state=READY, leaving=True, in_flight=3), wants("b")).resident == ("b",)


def test_a_capacity_that_has_shrunk_takes_off_the_least_needed_at_once() -> None:
    keep, drop = busy("a"), idle("b", min_residency=1000.0)
    assert decide(keep, drop, gpus=1).resident == ("a",)
    assert decide(keep, drop, idle("cpu", claim=NOTHING), gpus=0).resident == ("cpu",)


# Preload --------------------------------------------------------------------------------------------------------------


def test_a_preload_takes_a_free_seat_only() -> None:
    preload = wants("p", since=1.0, may_evict=False)
    assert decide(preload).resident == ("p",)
    assert decide(idle("a"), preload) == Decision(("a",))
    assert decide(idle("a"), preload, gpus=2).resident == ("a", "p")


def test_who_waits_goes_before_a_preload() -> None:
    assert decide(wants("p", since=1.0, may_evict=False), wants("a")).resident == ("a",)


def test_a_preload_without_a_seat_ends_nobodys_turn() -> None:
    """A bug once: its own bound, long over, was the last call for all, so that residents left at the first wait of another."""
    preload = wants("p", since=1.0, may_evict=False)
    assert decide(busy("a"), wants("b", since=90.0), preload) == decide(busy("a"), wants("b", since=90.0))
    assert decide(busy("a"), wants("b", since=70.0), preload) == decide(busy("a"), wants("b", since=70.0))


def test_a_preload_does_not_hold_up_those_behind_it() -> None:
    big = wants("p", since=1.0, may_evict=False, claim=Claim(2))
    assert decide(big, wants("q", since=2.0, may_evict=False), busy("a"), gpus=2).resident == ("a", "q")


# The policies `fifo` and `priority` -----------------------------------------------------------------------------------

STRICT = pytest.mark.parametrize("policy", [Fifo(), Priority()], ids=["fifo", "priority"])


@STRICT
def test_the_oldest_of_all_is_next_without_any_bound(policy: Policy) -> None:
    assert decide(wants("young", since=99.0), wants("old", since=98.0), policy=policy) == Decision(("old",))
    assert decide(busy("a"), wants("b", since=99.9), policy=policy) == Decision(("b",))
    assert decide(idle("a"), wants("b", since=99.9), policy=policy) == Decision(("b",))
    assert decide(policy=policy) == Decision()


@STRICT
def test_a_resident_whose_own_oldest_is_older_goes_on(policy: Policy) -> None:
    resident = busy("a", waiting=2, oldest=90.0)
    assert decide(resident, wants("b", since=91.0), policy=policy) == Decision(("a",))
    assert decide(resident, wants("b", since=89.0), policy=policy) == Decision(("b",))


@STRICT
@pytest.mark.parametrize("resident", [idle("a"), busy("a")], ids=["idle", "busy"])
def test_a_minimum_residency_holds_under_them_too(policy: Policy, resident: ModelView) -> None:
    resident = replace(resident, ready_since=80.0, min_residency=60.0)
    assert decide(resident, wants("b", since=70.0), policy=policy) == Decision(("a",), 140.0)
    assert decide(resident, wants("b", since=70.0), now=140.0, policy=policy).resident == ("b",)


@STRICT
def test_what_is_loading_or_draining_is_left_to_it_under_them_too(policy: Policy) -> None:
    loading = ModelView("a", state=LOADING, waiting=1, oldest=95.0)
    assert decide(loading, wants("b", since=10.0), policy=policy).resident == ("a",)
    draining = busy("a", state=DRAINING, waiting=5, oldest=10.0, priority=9)
    assert decide(draining, wants("b", since=99.0, promised=True), policy=policy).resident == ("b",)
    assert decide(draining, policy=policy).resident == ("a",)


def test_fifo_knows_no_priorities_and_takes_no_decided_switch_back() -> None:
    old, vip = wants("old", since=80.0), wants("vip", since=90.0, priority=9)
    assert decide(old, vip, policy=Fifo()).resident == ("old",)
    assert decide(old, replace(vip, promised=True), policy=Fifo()).resident == ("vip",)


def test_priority_goes_before_any_age_and_before_what_is_served() -> None:
    vip, late = wants("vip", since=99.0, priority=1), wants("late", since=1.0)
    assert decide(late, vip, policy=Priority()).resident == ("vip",)
    assert decide(busy("a", waiting=5, oldest=1.0), vip, policy=Priority()).resident == ("vip",)
    assert decide(busy("a", priority=1), late, policy=Priority()) == Decision(("a",))
    assert decide(idle("a", priority=1), late, policy=Priority()).resident == ("late",)


def test_who_has_waited_for_long_is_more_important_than_its_priority_says() -> None:
    low, high = wants("low", since=10.0, ageing=30.0), wants("high", since=99.0, priority=2, ageing=30.0)
    for policy in (Batch(), Priority()):
        late = replace(low, max_wait=1e9)
        assert decide(late, high, policy=policy).resident == ("low",)  # 3 by its age
        assert decide(replace(late, oldest=70.0), replace(high, priority=4), policy=policy).resident == ("high",)
        assert decide(replace(late, ageing=0.0), high, policy=policy).resident == ("high",)


def test_under_priority_a_busy_resident_makes_space_for_one_that_has_aged_past_it() -> None:
    top, low = busy("top", priority=2), wants("low", since=90.0, ageing=30.0)
    assert decide(top, low, policy=Priority()) == Decision(("top",), 150.0)
    assert decide(top, low, policy=Priority(), now=150.5).resident == ("low",)
    assert decide(top, replace(low, ageing=0.0), policy=Priority()) == Decision(("top",))


@STRICT
def test_a_preload_evicts_nobody_under_them_either(policy: Policy) -> None:
    preload = wants("p", since=1.0, may_evict=False)
    assert decide(idle("a"), preload, policy=policy).resident == ("a",)
    assert decide(preload, wants("a"), policy=policy).resident == ("a",)


# Size -----------------------------------------------------------------------------------------------------------------


def test_a_hundred_models_are_no_problem() -> None:
    models = [busy("m0"), *(wants(f"m{n}", since=100.0 - n) for n in range(1, 100))]
    assert decide(*models).resident == ("m99",)
