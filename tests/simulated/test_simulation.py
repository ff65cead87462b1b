"""The simulator: that nothing gets lost in it, that its figures are what happened, and that a seed brings it all again."""

import itertools
from collections import Counter
from collections.abc import Iterable
from math import factorial, sqrt

import pytest

from hotseat.core.admission.messages import Dispatch, RequestFinished
from hotseat.core.policy.api import Capacity, Claim, Policy
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.strict import Fifo, Priority
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.simulation.naive import Naive
from hotseat.simulation.results import Figures, Recording, ResidentInterval, Waits, figures, timeline
from hotseat.simulation.simulator import SimulatedEngine
from hotseat.simulation.workload import SHAPES, SimRequest, Stream, WorkloadPlan, hot_and_cold, poisson
from hotseat.simulation.world import World

POLICIES = {"batch": Batch(), "fifo": Fifo(), "priority": Priority()}
NAMES = ("a", "b", "c", "d")
PLAN = WorkloadPlan([Stream(name) for name in NAMES], 0.8, requests=600, seed=7)


def engines(*names: str, load: float = 3.0, stop: float = 0.5, slots: int = 8, **terms) -> dict[str, SimulatedEngine]:
    return dict.fromkeys(names or NAMES, SimulatedEngine(load, stop, slots, SchedulingSpec(**terms)))


def world(
    *names: str, policy: Policy | None = None, gpus: int = 1, routers: int = 1, spread: float = 0.0, **each
) -> World:
    mine = engines(*names, **each)
    return World(policy or Batch(), mine, capacity=Capacity(gpus), routers=routers, load_spread=spread)


def told(record: Recording, gpus: int = 1) -> Figures:
    return figures("some", record, gpus)


def at_once(names: Iterable[str], *, at: float = 0.0, seconds: float = 0.1) -> list[SimRequest]:
    return [SimRequest(at, name, seconds) for name in names]


# What happens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routers", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_answered_once(shape: str, policy: str, routers: int) -> None:
    it = world(policy=POLICIES[policy], routers=routers)
    dispatched, finished = Counter(), Counter()

    def watch(machine):
        step = machine.step

        def watched(stimulus):
            commands = step(stimulus)
            dispatched.update(command.request for command in commands if isinstance(command, Dispatch))
            finished.update([stimulus.request] if isinstance(stimulus, RequestFinished) else [])
            return commands

        machine.step = watched

    for router in it.routers:
        watch(router.machine)
    result = told(it.run(SHAPES[shape](PLAN)))
    once = dict.fromkeys(range(1, PLAN.requests + 1), 1)
    assert dispatched == once
    assert finished == once
    assert (result.requests, result.answered, result.unanswered) == (PLAN.requests, PLAN.requests, 0)
    assert result.waits.count == sum(each.waits.count for each in result.models.values()) == PLAN.requests


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("policy", [*POLICIES, "naive"])
def test_no_seat_ever_has_two_residents(policy: str, gpus: int) -> None:
    mine = engines(max_wait=10.0)
    it = Naive(mine, gpus=gpus) if policy == "naive" else World(POLICIES[policy], mine, capacity=Capacity(gpus))
    record = it.run(poisson(PLAN))
    changes = [(stay.started, 1) for stay in record.intervals] + [
        (s.released, -1) for s in record.intervals if s.released
    ]
    held = list(itertools.accumulate(change for _, change in sorted(changes)))
    assert len(record.intervals) > 5
    assert max(held) == gpus


def test_a_model_of_two_gpus_shares_with_models_of_one() -> None:
    mine = engines("a", "b") | engines("wide", claim=Claim(2))
    for it in (World(Batch(), mine, capacity=Capacity(2)), Naive(mine, gpus=2)):
        record = it.run([*at_once("ab" * 5), *at_once(["wide"] * 5, at=10.0), *at_once("a", at=20.0)])
        assert [(stay.model, stay.gpus) for stay in record.intervals] == [("a", 1), ("b", 1), ("wide", 2), ("a", 1)]
        assert told(record, 2).switching == 3.0 + 3.0 + 0.5 + 0.5 + 2 * 3.0 + 2 * 0.5 + 3.0
        assert told(record, 2).answered == 16


def test_a_look_before_each_load_costs_no_simulated_time() -> None:
    plain, looking = (world("a", "b", check_first=check) for check in (False, True))
    load = [SimRequest(0.0, "a", 0.1), SimRequest(20.0, "b", 0.1), SimRequest(40.0, "a", 0.1)]
    assert told(looking.run(load)).seconds == told(plain.run(load)).seconds


def test_forty_alternating_requests_cost_two_loads() -> None:
    result = told(world("a", "b", load=1.0, stop=0.1).run(at_once("ab" * 20, seconds=0.05)))
    assert {name: each.loads for name, each in result.models.items()} == {"a": 1, "b": 1}
    assert result.answered == 40
    assert result.switches == 2
    assert result.seconds < 2.5


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_same_seed_gives_the_same_figures_and_another_gives_others(spread: float) -> None:
    def run(seed: int) -> Figures:
        plan = WorkloadPlan(PLAN.streams, PLAN.load, requests=600, spread=spread, seed=seed)
        return told(World(Batch(), engines(), load_spread=spread, seed=seed).run(poisson(plan)))

    assert run(7) == run(7)
    assert run(7).waits != run(8).waits


def test_a_bound_that_can_be_met_is_met_beside_a_hot_model() -> None:
    hot = hot_and_cold(WorkloadPlan(PLAN.streams[:2], 0.6, requests=2000))
    result = told(world("a", "b", max_wait=30.0).run(hot))
    drain, switch = 8 * 2.0, 3.5
    assert result.models["b"].turns.max <= 30.0 + drain + switch
    assert result.effective_max_wait == 30.0


@pytest.mark.parametrize("stop", [0.0, 2.0])
def test_what_the_drain_timeout_cuts_is_counted_and_not_answered(stop: float) -> None:
    load = [*at_once("a", seconds=60.0), *at_once("b", at=5.0)]
    result = told(world("a", "b", stop=stop, max_wait=1.0, drain_timeout=10.0).run(load))
    assert (result.answered, result.cut, result.unanswered) == (1, 1, 0)


def test_what_the_queue_does_not_hold_is_counted_as_refused() -> None:
    it = World(Batch(), engines("a"), max_waiting=3)
    result = told(it.run(at_once("aaaaa")))
    assert (result.requests, result.answered, result.refused, result.unanswered) == (5, 3, 2, 0)


def test_several_routers_close_and_drain_together() -> None:
    """What each router held when a batch closed is served; what comes later waits, wherever it comes in."""
    load = [*at_once("a" * 6, seconds=4.0), *at_once("b", at=0.1), *(SimRequest(1.0 + n, "a", 4.0) for n in range(20))]
    it = world("a", "b", routers=3, max_wait=5.0, load=1.0, stop=0.0)
    record = it.run(load)
    assert [stay.model for stay in record.intervals] == ["a", "b", "a"]
    closed = 0.1 + 5.0
    assert record.turns["b"][0] <= 5.0 + 4.0 + 1.0 + 0.1, "b waits for its bound, one drain and one load"
    assert min(s.stopped for s in record.intervals if s.stopped) >= closed
    assert told(record).answered == len(load)


def test_what_an_engine_gets_beyond_its_slots_waits_inside_of_it() -> None:
    mine = {"a": SimulatedEngine(0.0, 0.0, slots=2, spec=SchedulingSpec(), limit=0)}
    record = World(Batch(), mine, delay=0.0).run(at_once("a" * 6, seconds=1.0))
    assert [round(wait, 3) for wait in record.waits["a"]] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert told(record).seconds == pytest.approx(3.0)


def test_loads_vary_as_asked_and_the_same_under_every_policy() -> None:
    def loads(policy: Policy) -> list[float]:
        record = world(policy=policy, spread=0.5, load=10.0).run(poisson(PLAN))
        return [stay.ready - stay.started for stay in record.intervals if stay.model == "a"]

    mine, others = loads(Batch()), loads(Priority())
    both = min(len(mine), len(others))
    assert mine[:both] == pytest.approx(others[:both])
    assert len(set(mine)) == len(mine) > 2


# The baseline ---------------------------------------------------------------------------------------------------------


def test_a_naive_proxy_switches_at_each_change_of_the_model() -> None:
    record = Naive(engines("a", "b", load=3.0, stop=0.0)).run(at_once("ab" * 20, seconds=2.0))
    assert len(record.intervals) == 40
    assert told(record).seconds == 40 * (3.0 + 2.0)
    assert told(record).answered == 40


def test_neighbours_share_the_slots_of_a_naive_proxy_and_nobody_overtakes() -> None:
    record = Naive(engines("a", "b", load=3.0, stop=1.0, slots=2)).run(at_once("aaaba", seconds=2.0))
    assert record.waits == {"a": [3.0, 3.0, 5.0, 17.0], "b": [11.0]}
    assert [stay.model for stay in record.intervals] == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("models", "load", "expected"), [(2, 10.0, 2 / 12), (4, 30.0, (4 / 3) / 32), (4, 3.0, (4 / 3) / 5)]
)
def test_a_naive_proxy_serves_a_run_of_neighbours_a_switch(models: int, load: float, expected: float) -> None:
    """With equal shares a run of neighbours is 1 / (1 - 1/models) requests long, and costs one load and one answer."""
    names = NAMES[:models]
    plan = WorkloadPlan([Stream(name) for name in names], 0.8, requests=4000)
    result = told(Naive(engines(*names, load=load, stop=0.0)).run(poisson(plan)))
    assert result.throughput == pytest.approx(expected, rel=0.05)


# What is measured -----------------------------------------------------------------------------------------------------


def test_the_figures_of_a_story_that_can_be_told_by_hand() -> None:
    load = [*at_once("a", seconds=2.0), *at_once("b", at=10.0, seconds=2.0), *at_once("b", at=10.5, seconds=2.0)]
    result = told(world("a", "b", load=3.0, stop=0.5).run(load))
    soon = pytest.approx  # it takes a few milliseconds until a machine hears of the other
    assert result.models["a"].waits.max == soon(3.0, abs=0.01)
    assert result.models["b"].waits.max == soon(3.5, abs=0.01)
    assert result.models["b"].waits.p50 == soon(3.0, abs=0.01)
    assert result.models["b"].turns == Waits(1, *[soon(3.5, abs=0.01)] * 4)
    assert result.switching == 3.0 + 0.5 + 3.0
    assert result.serving == soon(2.0 + 2.0)
    assert result.idle == soon(0.0, abs=0.02)
    assert result.spare == soon(10.0 - 5.0, abs=0.01)
    assert result.seconds == soon(15.5, abs=0.01)
    assert result.throughput == soon(3 / 15.5, rel=0.01)
    assert result.lost == soon(6.5 / 15.5, abs=0.001)


def test_a_seat_that_is_kept_unused_while_somebody_waits_is_idle() -> None:
    load = [*at_once("a", seconds=1.0), *at_once("b", at=5.0)]
    result = told(world("a", "b", load=3.0, min_residency=20.0).run(load))
    assert result.idle == pytest.approx(23.0 - 5.0, abs=0.01)  # ready at 3, kept until 23


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize("drain_timeout", [4.0, 120.0])
@pytest.mark.parametrize("policy", [*POLICIES, "naive"])
def test_the_time_of_the_gpus_adds_up(policy: str, drain_timeout: float, gpus: int) -> None:
    """Switching is counted from the stays, the rest as time passes: two ways that must meet."""
    plan = WorkloadPlan(PLAN.streams, 0.6, gpus, requests=400, spread=1.0)
    mine = engines(max_wait=10.0, drain_timeout=drain_timeout)
    it = Naive(mine, gpus=gpus) if policy == "naive" else World(POLICIES[policy], mine, capacity=Capacity(gpus))
    result = told(it.run(poisson(plan)), gpus)
    total = result.serving + result.switching + result.idle + result.spare
    assert total == pytest.approx(result.seconds * gpus, rel=1e-6)
    assert result.lost == pytest.approx((result.switching + result.idle) / total, abs=1e-4)
    assert result.unanswered == 0


@pytest.mark.parametrize(("load", "spread"), [(0.7, 0.0), (0.5, 1.0)])
def test_one_model_with_one_slot_is_the_queue_of_the_textbooks(load: float, spread: float) -> None:
    """Without switches the mean wait is Pollaczek and Khinchine's: load / (1 - load) * (1 + spread**2) / 2 services."""
    plan = WorkloadPlan([Stream("a", seconds=1.0, gpus=1.0)], load, requests=6000, spread=spread, seed=1)
    result = told(world("a", load=0.0, stop=0.0, slots=1).run(poisson(plan)))
    assert result.waits.mean == pytest.approx(load / (1 - load) * (1 + spread**2) / 2, rel=0.1)
    assert result.serving / result.seconds == pytest.approx(load, rel=0.03)


def test_one_model_with_eight_slots_is_the_queue_of_the_textbooks() -> None:
    """M/D/8 by Erlang's C and Cosmetatos' approximation."""
    slots, load, service = 8, 0.8, 2.0
    plan = WorkloadPlan([Stream("a", seconds=service, gpus=1 / slots)], load, requests=12_000, seed=1)
    result = told(world("a", load=0.0, stop=0.0, slots=slots).run(poisson(plan)))
    busy = slots * load
    terms = [busy**n / factorial(n) for n in range(slots + 1)]
    queued = terms[slots] / (1 - load) / (sum(terms[:slots]) + terms[slots] / (1 - load))
    exponential = queued * service / (slots * (1 - load))
    factor = (1 + (1 - load) * (slots - 1) * (sqrt(4 + 5 * slots) - 2) / (16 * load * slots)) / 2
    assert result.waits.mean == pytest.approx(factor * exponential, rel=0.12)


def test_a_percentile_is_a_wait_that_somebody_had() -> None:
    assert Waits.of([float(n) for n in range(100, 0, -1)]) == Waits(100, 50.5, 50.0, 99.0, 100.0)
    assert Waits.of([4.0]) == Waits(1, 4.0, 4.0, 4.0, 4.0)
    assert Waits.of([]) == Waits(0)


def test_a_load_that_was_given_up_counts_as_switching() -> None:
    assert ResidentInterval("a", 1.0, None, 3.0, 4.0).switching(9.0) == 3.0
    assert ResidentInterval("a", 1.0, 3.0, 7.0, 8.0).switching(9.0) == 3.0
    assert ResidentInterval("a", 1.0, 3.0).switching(9.0) == 2.0
    assert ResidentInterval("a", 1.0, 3.0, 7.0, 8.0, gpus=2).switching(7.5) == 2 * 2.5


def test_a_timeline_shows_who_was_resident_and_how_many_waited() -> None:
    load = [*at_once("aaa", seconds=4.0), *at_once("b", at=6.0, seconds=2.0)]
    record = world("a", "b", load=2.0, stop=1.0, slots=2).run(
        load
    )  # a serves 2 to 10, b loads 11 to 13, and ends at 15
    line = timeline(record, 15)
    near = pytest.approx
    assert line.seconds == near(15.0, abs=0.02)
    assert line.models["a"].ready == near((0, 0, *[1] * 8, *[0] * 5), abs=0.02)
    assert line.models["a"].switching == near((1, 1, *[0] * 8, 1, *[0] * 4), abs=0.02)
    assert line.models["b"].ready == near((*[0] * 13, 1, 1), abs=0.02)
    assert line.models["a"].waiting == (3, 3, 3, 1, 1, 1, *[0] * 9)  # a slice that begins as the wait ends has seen it
    assert line.models["b"].waiting == (*[0] * 6, *[1] * 8, 0)


# Models that sleep ----------------------------------------------------------------------------------------------------


def sleepers(*names: str, **terms) -> dict[str, SimulatedEngine]:
    return dict.fromkeys(names, SimulatedEngine(3.0, 0.5, spec=SchedulingSpec(park=True, **terms), park=0.2, wake=0.3))


def test_models_that_park_come_back_by_a_wake() -> None:
    it = World(Fifo(), sleepers("a", "b"))
    record = it.run([SimRequest(10.0 * n, "ab"[n % 2], 0.1) for n in range(6)])
    assert record.answered == 6
    assert record.loads == {"a": 1, "b": 1}
    coming = [stay.ready - stay.started for stay in record.intervals]
    assert coming == pytest.approx([3.0, 3.0, 0.3, 0.3, 0.3, 0.3])
    going = [stay.released - stay.stopped for stay in record.intervals if stay.released is not None]
    assert going == pytest.approx([0.2] * 5)


def test_a_budget_of_host_memory_stops_sleepers_in_the_simulation_too() -> None:
    it = World(Fifo(), sleepers("a", "b", "c", host_memory=2), capacity=Capacity(1, host_memory=2))
    record = it.run([SimRequest(20.0 * n, "abcabc"[n], 0.1) for n in range(6)])
    assert record.answered == 6
    assert record.loads == {"a": 2, "b": 2, "c": 2}  # each was stopped for the next


# Prompt caches --------------------------------------------------------------------------------------------------------


def keeping(share: float) -> World:
    spec = SchedulingSpec(prompt_timeout=10.0)
    engine = SimulatedEngine(3.0, 0.5, 1, spec, prompt_share=share, save=0.2, restore=0.1)
    return World(Batch(), dict.fromkeys("ab", engine), capacity=Capacity(1, prompts=1))


def test_a_share_of_the_service_is_spared_after_a_switch_back() -> None:
    record = keeping(0.75).run([SimRequest(at, name, 4.0) for at, name in ((0.0, "a"), (10.0, "b"), (20.0, "a"))])
    assert [interval.model for interval in record.intervals] == ["a", "b", "a"]
    assert record.intervals[0].stopped == pytest.approx(10.2, abs=0.1)  # it is saved before
    assert record.last_answer == pytest.approx(20.0 + 0.2 + 0.5 + 3.0 + 0.1 + 1.0, abs=0.1)
    assert record.waits["a"][1] == pytest.approx(3.8, abs=0.1)


def test_with_prompts_kept_policies_can_be_compared() -> None:
    plan = WorkloadPlan([Stream(name, seconds=1.0) for name in "ab"], 0.7, requests=400, seed=3)
    kept, cold = (told(keeping(share).run(poisson(plan))) for share in (0.75, 0.0))
    assert kept.answered == cold.answered == 400
    assert kept.waits.mean < cold.waits.mean
