"""Who asks for what, and when: loads that are made, each the same for the same seed."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

HOT_SHARE = 0.98  # of all requests, for the one hot model
BURST = 20  # requests at once, on average
DAY = 86_400.0  # seconds
SWING = 0.6  # a day's busiest and quietest hour differ from its mean by so much of it
QUIETEST = 4 * 3600.0  # seconds after midnight; the busiest hour is twelve later


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One request: when it comes, for which model, and how many seconds its answer takes once it is begun."""

    at: float
    model: str
    seconds: float
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Impatience:
    """Clients that give up when the answer has not begun after `patience` seconds, and ask again after `pause`, until they are answered."""

    patience: float
    pause: float = 1.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One model of a load: its weight among the others, and its requests. `seats`: the GPUs that one of them takes up."""

    model: str
    weight: float = 1.0
    seconds: float = 2.0
    priority: int = 0
    seats: float = 0.125


@dataclass(frozen=True, slots=True)
class WorkloadPlan:
    """What a load is made from. It ends after so many requests or so many seconds, whichever comes first.

    `load`: the share of all GPUs that answering would keep busy if switching took no time. `spread`: how much the time that an
    answer takes varies, as a coefficient of variation; 0: not at all, so that what drains is known.
    """

    parts: Sequence[Stream]
    load: float
    gpus: int = 1
    requests: int | None = None
    duration: float | None = None
    spread: float = 0.0
    seed: int = 1


def varied(random: Random, mean: float, spread: float) -> float:
    """Draw a time of this mean and coefficient of variation: lognormal, as times of service are."""
    if not spread or not mean:
        return mean
    variance = math.log(1 + spread * spread)
    return random.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))


def rate(plan: WorkloadPlan, weights: Sequence[float]) -> float:
    """Give the requests a second that are this load; with more than 1 no switcher could keep up."""
    seats = sum(w * part.seconds * part.seats for w, part in zip(weights, plan.parts, strict=True))
    return plan.load * plan.gpus * sum(weights) / seats


def poisson(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield arrivals that know nothing of each other; each model's share is its weight's."""
    return _draw(plan, _weights(plan), _steady)


def bursts(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield groups of requests for one model at the same moment, of geometric size; the rate of requests is as planned."""
    return _draw(plan, _weights(plan), _steady, _geometric, BURST)


def hot_and_cold(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield nearly everything for the first model; the others share the rest."""
    others = len(plan.parts) - 1
    return _draw(plan, [HOT_SHARE, *[(1 - HOT_SHARE) / others] * others], _steady)


def day(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield what people ask for in a day from midnight, or in several: a sine around the planned load, least at four."""
    return _draw(plan, _weights(plan), _sine)


def alternate(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield one request for each model in turn, all at once: what a switcher should sort, and a plain proxy does not."""
    _, services = _randoms(plan)
    for part in itertools.islice(itertools.cycle(plan.parts), plan.requests):
        yield SimRequest(0.0, part.model, varied(services, part.seconds, plan.spread), part.priority)


SHAPES: Mapping[str, Callable[[WorkloadPlan], Iterator[SimRequest]]] = {
    "poisson": poisson,
    "bursts": bursts,
    "hot-cold": hot_and_cold,
    "day": day,
    "alternate": alternate,
}
UNWEIGHTED = ("hot-cold", "alternate")  # shapes that have shares of their own


def _draw(
    plan: WorkloadPlan,
    weights: Sequence[float],
    times: Callable[[Random, float], Iterator[float]],
    size: Callable[[Random], int] = lambda _: 1,
    mean_size: float = 1.0,
) -> Iterator[SimRequest]:
    arrivals, services = _randoms(plan)
    left = math.inf if plan.requests is None else plan.requests
    end = math.inf if plan.duration is None else plan.duration
    cumulated = list(itertools.accumulate(weights))
    for now in times(arrivals, rate(plan, weights) / mean_size):
        if now >= end or not left:
            return
        (part,) = arrivals.choices(plan.parts, cum_weights=cumulated)
        for _ in range(int(min(left, size(arrivals)))):
            left -= 1
            yield SimRequest(now, part.model, varied(services, part.seconds, plan.spread), part.priority)


def _weights(plan: WorkloadPlan) -> list[float]:
    return [part.weight for part in plan.parts]


def _randoms(plan: WorkloadPlan) -> tuple[Random, Random]:
    """One for arrivals and one for services: so the same requests come, however long their answers take."""
    return Random(plan.seed), Random(f"{plan.seed}/services")  # noqa: S311 - a load is no secret, and has to come again


def _steady(random: Random, per_second: float) -> Iterator[float]:
    now = 0.0
    while True:
        now += random.expovariate(per_second)
        yield now


def _sine(random: Random, per_second: float) -> Iterator[float]:
    """Thin out arrivals at the day's highest rate."""
    for now in _steady(random, per_second * (1 + SWING)):
        level = 1 - SWING * math.cos(math.tau * (now - QUIETEST) / DAY)
        if random.random() * (1 + SWING) < level:
            yield now


def _geometric(random: Random) -> int:
    size = 1
    while random.random() >= 1 / BURST:
        size += 1
    return size
