"""The simulator: that nothing gets lost in it, that its figures are what happened, and that a seed brings it all again."""

import itertools
from collections import Counter
from collections.abc import Iterable

import pytest

from hotseat.core.admission import Dispatch, Finish
from hotseat.core.batch import Batch
from hotseat.core.orders import Fifo, Priority
from hotseat.core.policy import Policy
from hotseat.core.seats import Terms
from hotseat.simulation.figures import Figures, Record, Stay, Waits, figures
from hotseat.simulation.load import SHAPES, Asked, Plan, bursts, hot_and_cold, poisson, rate
from hotseat.simulation.world import Engine, World

POLICIES = {"batch": Batch(), "fifo": Fifo(), "priority": Priority()}
NAMES = ("a", "b", "c", "d")
PLAN = Plan(NAMES, rate(0.8, 8, 2.0), 1500, 2.0, seed=7)


def world(
    *names: str,
    policy: Policy | None = None,
    load: float = 3.0,
    stop: float = 0.5,
    gpus: int = 1,
    slots: int = 8,
    **terms,
) -> World:
    engine = Engine(load, stop, slots, Terms(**terms))
    return World(policy or Batch(), dict.fromkeys(names or NAMES, engine), gpus=gpus)


def told(record: Record, gpus: int = 1) -> Figures:
    return figures("some", record, gpus)


def at_once(names: Iterable[str], *, at: float = 0.0, seconds: float = 0.1) -> list[Asked]:
    return [Asked(at, name, seconds) for name in names]


# What happens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_answered_once(shape: str, policy: str) -> None:
    it = world(policy=POLICIES[policy])
    step, dispatched, finished = it.router.step, Counter(), Counter()

    def watched(stimulus):
        commands = step(stimulus)
        dispatched.update(command.request for command in commands if isinstance(command, Dispatch))
        finished.update([stimulus.request] if isinstance(stimulus, Finish) else [])
        return commands

    it.router.step = watched
    result = told(it.run(SHAPES[shape](PLAN)))
    once = dict.fromkeys(range(1, PLAN.requests + 1), 1)
    assert dispatched == once
    assert finished == once
    assert (result.requests, result.answered, result.unanswered) == (PLAN.requests, PLAN.requests, 0)
    assert result.waits.count == sum(each.waits.count for each in result.models.values()) == PLAN.requests


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_seat_ever_has_two_residents(policy: str, gpus: int) -> None:
    record = world(policy=POLICIES[policy], gpus=gpus, max_wait=10.0).run(poisson(PLAN))
    changes = [(stay.started, 1) for stay in record.stays] + [(s.released, -1) for s in record.stays if s.released]
    held = list(itertools.accumulate(change for _, change in sorted(changes)))
    assert len(record.stays) > 10
    assert max(held) == gpus


def test_forty_alternating_requests_cost_two_loads() -> None:
    result = told(world("a", "b", load=1.0, stop=0.1).run(at_once("ab" * 20, seconds=0.05)))
    assert {name: each.loads for name, each in result.models.items()} == {"a": 1, "b": 1}
    assert result.answered == 40
    assert result.switches == 2
    assert result.seconds < 2.5


def test_the_same_seed_gives_the_same_figures_and_another_gives_others() -> None:
    first, again = (told(world().run(poisson(PLAN))) for _ in range(2))
    other = told(world().run(poisson(Plan(NAMES, PLAN.rate, PLAN.requests, PLAN.service, seed=8))))
    assert first == again
    assert first.waits != other.waits


def test_a_bound_that_can_be_met_is_met_beside_a_hot_model() -> None:
    hot = hot_and_cold(Plan(NAMES[:2], rate(0.6, 8, 2.0), 2000, 2.0))
    result = told(world("a", "b", max_wait=30.0).run(hot))
    drain, switch = 8 * 2.0, 3.5
    assert result.models["b"].turns.max <= 30.0 + drain + switch
    assert result.effective_max_wait == 30.0


def test_what_the_drain_timeout_cuts_is_counted_and_not_answered() -> None:
    load = [*at_once("a", seconds=60.0), *at_once("b", at=5.0)]
    result = told(world("a", "b", max_wait=1.0, drain_timeout=10.0).run(load))
    assert (result.answered, result.cut, result.unanswered) == (1, 1, 0)


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
    assert result.idle == soon(0.0, abs=0.01)
    assert result.seconds == soon(15.5, abs=0.01)
    assert result.throughput == soon(3 / 15.5, rel=0.01)
    assert result.lost == soon(6.5 / 15.5, abs=0.001)


def test_a_seat_that_is_kept_unused_while_somebody_waits_is_idle() -> None:
    load = [*at_once("a", seconds=1.0), *at_once("b", at=5.0)]
    result = told(world("a", "b", load=3.0, min_residency=20.0).run(load))
    assert result.idle == pytest.approx(23.0 - 5.0, abs=0.01)  # ready at 3, kept until 23


def test_a_percentile_is_a_wait_that_somebody_had() -> None:
    assert Waits.of([float(n) for n in range(100, 0, -1)]) == Waits(100, 50.5, 50.0, 99.0, 100.0)
    assert Waits.of([4.0]) == Waits(1, 4.0, 4.0, 4.0, 4.0)
    assert Waits.of([]) == Waits(0)


def test_a_load_that_was_given_up_counts_as_switching() -> None:
    assert Stay("a", 1.0, None, 3.0, 4.0).switching(9.0) == 3.0
    assert Stay("a", 1.0, 3.0, 7.0, 8.0).switching(9.0) == 3.0
    assert Stay("a", 1.0, 3.0).switching(9.0) == 2.0


# The load -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("utilisation", [0.3, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_load_is_as_heavy_as_asked(shape: str, utilisation: float) -> None:
    slots, service = 4, 0.5
    load = list(SHAPES[shape](Plan(NAMES, rate(utilisation, slots, service), 40_000, service)))
    assert len(load) == 40_000
    assert sum(asked.seconds for asked in load) / (slots * load[-1].at) == pytest.approx(utilisation, rel=0.05)
    assert all(earlier.at <= later.at for earlier, later in itertools.pairwise(load))


def test_shares_are_as_their_weights_say() -> None:
    even = Counter(asked.model for asked in poisson(PLAN))
    assert all(count == pytest.approx(PLAN.requests / 4, rel=0.15) for count in even.values())
    uneven = Counter(asked.model for asked in poisson(PLAN, {"a": 3.0, "b": 1.0}))
    assert uneven["a"] / uneven["b"] == pytest.approx(3.0, rel=0.15)
    hot = Counter(asked.model for asked in hot_and_cold(PLAN))
    assert hot["a"] / PLAN.requests == pytest.approx(0.98, abs=0.01)
    assert set(hot) == set(NAMES)


def test_bursts_come_at_once_and_for_one_model() -> None:
    groups = [list(group) for _, group in itertools.groupby(bursts(PLAN), key=lambda asked: asked.at)]
    assert all(len({asked.model for asked in group}) == 1 for group in groups)
    assert sum(map(len, groups)) / len(groups) == pytest.approx(20, rel=0.25)
