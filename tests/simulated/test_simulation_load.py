"""Loads that are made for the simulator: as heavy, as uneven and as varied as asked."""

import itertools
from collections import Counter
from random import Random
from statistics import fmean, pstdev

import pytest

from hotseat.simulation.workload import (
    DAY,
    HOT_SHARE,
    SHAPES,
    SimRequest,
    Stream,
    WorkloadPlan,
    bursts,
    day,
    hot_and_cold,
    poisson,
    varied,
)

NAMES = ("a", "b", "c", "d")
PARTS = [Stream(name) for name in NAMES]
PLAN = WorkloadPlan(PARTS, 0.8, requests=1500, seed=7)


def seats(load: list[SimRequest], parts: list[Stream]) -> float:
    """GPU-seconds of all answers."""
    each = {part.model: part.gpus for part in parts}
    return sum(asked.seconds * each[asked.model] for asked in load)


@pytest.mark.parametrize("utilisation", [0.3, 0.9])
@pytest.mark.parametrize("shape", ["poisson", "bursts", "hot-cold"])
def test_a_load_is_as_heavy_as_asked(shape: str, utilisation: float) -> None:
    load = list(SHAPES[shape](WorkloadPlan(PARTS, utilisation, requests=40_000)))
    assert len(load) == 40_000
    assert seats(load, PARTS) / load[-1].at == pytest.approx(utilisation, rel=0.05)
    assert all(earlier.at <= later.at for earlier, later in itertools.pairwise(load))


def test_a_load_of_unlike_models_on_several_gpus_is_as_heavy_as_asked() -> None:
    parts = [Stream("small", weight=9.0, seconds=1.0, gpus=0.1), Stream("large", weight=1.0, seconds=20.0, gpus=2.0)]
    load = list(poisson(WorkloadPlan(parts, 0.5, gpus=4, requests=40_000)))
    assert seats(load, parts) / load[-1].at == pytest.approx(0.5 * 4, rel=0.05)


def test_a_duration_ends_a_load_as_a_number_of_requests_does() -> None:
    load = list(poisson(WorkloadPlan(PARTS, 0.8, duration=3600.0)))
    assert 3590.0 < load[-1].at < 3600.0
    assert len(load) == pytest.approx(3600 * 0.8 * 8 / 2.0, rel=0.05)


def test_a_day_has_the_load_as_its_mean_and_its_peak_in_the_afternoon() -> None:
    load = list(day(WorkloadPlan(PARTS, 0.5, duration=2 * DAY)))
    assert seats(load, PARTS) / (2 * DAY) == pytest.approx(0.5, rel=0.02)
    hours = Counter(int(asked.at // 3600) % 24 for asked in load)
    mean = len(load) / 24
    assert hours[16] / mean == pytest.approx(1.6, rel=0.06)
    assert hours[4] / mean == pytest.approx(0.4, rel=0.06)


def test_alternating_requests_come_all_at_once() -> None:
    load = list(SHAPES["alternate"](WorkloadPlan(PARTS[:2], 0.8, requests=5)))
    assert [(asked.at, asked.model) for asked in load] == [(0.0, name) for name in "ababa"]


def test_shares_are_as_their_weights_say() -> None:
    even = Counter(asked.model for asked in poisson(PLAN))
    assert all(count == pytest.approx(PLAN.requests / 4, rel=0.15) for count in even.values())
    uneven = Counter(it.model for it in poisson(WorkloadPlan([Stream("a", 3.0), Stream("b", 1.0)], 0.8, requests=1500)))
    assert uneven["a"] / uneven["b"] == pytest.approx(3.0, rel=0.15)
    hot = Counter(asked.model for asked in hot_and_cold(PLAN))
    assert hot["a"] / PLAN.requests == pytest.approx(HOT_SHARE, abs=0.01)
    assert set(hot) == set(NAMES)


def test_bursts_come_at_once_and_for_one_model() -> None:
    groups = [list(group) for _, group in itertools.groupby(bursts(PLAN), key=lambda asked: asked.at)]
    assert all(len({asked.model for asked in group}) == 1 for group in groups)
    assert sum(map(len, groups)) / len(groups) == pytest.approx(20, rel=0.25)


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_times_vary_around_their_mean_as_asked(spread: float) -> None:
    random = Random(1)
    times = [varied(random, 3.0, spread) for _ in range(40_000)]
    assert fmean(times) == pytest.approx(3.0, rel=0.03)
    assert pstdev(times) / fmean(times) == pytest.approx(spread, rel=0.08)
    assert varied(random, 3.0, 0.0) == 3.0
    assert varied(random, 0.0, spread) == 0.0


def test_a_spread_of_services_changes_no_arrival() -> None:
    plain, spread = list(poisson(PLAN)), list(poisson(WorkloadPlan(PARTS, 0.8, requests=1500, spread=1.0, seed=7)))
    assert [(it.at, it.model) for it in plain] == [(it.at, it.model) for it in spread]
    assert {it.seconds for it in plain} == {2.0}
    assert pstdev(it.seconds for it in spread) == pytest.approx(2.0, rel=0.3)
