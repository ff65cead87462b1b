"""Generated workloads. The same seed gives the same workload."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

HOT_SHARE = 0.98  # of all requests, for the hot model
BURST = 20  # requests at once, on average
DAY = 86_400.0  # seconds
SWING = 0.6  # amplitude of the rate over a day, as a share of its mean
QUIETEST = 4 * 3600.0  # seconds after midnight; the busiest time is twelve hours later


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One request: its arrival time, its model, and its service time from dispatch, in seconds."""

    at: float
    model: str
    seconds: float
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Impatience:
    """Clients give up if their answer has not started after `patience` seconds, and retry after `pause` seconds."""

    patience: float
    pause: float = 1.0


@dataclass(frozen=True, slots=True)
class Stream:
    """The requests for one model. `weight` is its share. `gpus` is the part of the GPUs that one request occupies."""

    model: str
    weight: float = 1.0
    seconds: float = 2.0
    priority: int = 0
    gpus: float = 0.125


@dataclass(frozen=True, slots=True)
class WorkloadPlan:
    """Parameters of a workload. It ends after `requests` or `duration` seconds, whichever comes first.

    `load` is the utilisation of all GPUs if switching took no time. `spread` is the coefficient of variation of
    service times; with 0 they are constant.
    """

    streams: Sequence[Stream]
    load: float
    gpus: int = 1
    requests: int | None = None
    duration: float | None = None
    spread: float = 0.0
    seed: int = 1


def varied(random: Random, mean: float, spread: float) -> float:
    """Return a lognormal time with this mean and coefficient of variation."""
    if not spread or not mean:
        return mean
    variance = math.log(1 + spread * spread)
    return random.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))


def rate(plan: WorkloadPlan, weights: Sequence[float]) -> float:
    """Return the requests per second of this load. A load above 1 cannot be served."""
    gpus = sum(w * stream.seconds * stream.gpus for w, stream in zip(weights, plan.streams, strict=True))
    return plan.load * plan.gpus * sum(weights) / gpus


def poisson(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield a Poisson process. Models are drawn by weight."""
    return _draw(plan, _weights(plan), _steady)


def bursts(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield groups of simultaneous requests for one model, of geometric size, at the planned rate of requests."""
    return _draw(plan, _weights(plan), _steady, _geometric, BURST)


def hot_and_cold(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield most requests for the first model. The others share the rest."""
    others = len(plan.streams) - 1
    return _draw(plan, [HOT_SHARE, *[(1 - HOT_SHARE) / others] * others], _steady)


def day(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield one day or more from midnight: the rate is a sine around the planned load, lowest at 04:00."""
    return _draw(plan, _weights(plan), _sine)


def alternate(plan: WorkloadPlan) -> Iterator[SimRequest]:
    """Yield requests for each model in turn, all at time 0. A scheduler should sort them by model."""
    _, services = _randoms(plan)
    for stream in itertools.islice(itertools.cycle(plan.streams), plan.requests):
        yield SimRequest(0.0, stream.model, varied(services, stream.seconds, plan.spread), stream.priority)


SHAPES: Mapping[str, Callable[[WorkloadPlan], Iterator[SimRequest]]] = {
    "poisson": poisson,
    "bursts": bursts,
    "hot-cold": hot_and_cold,
    "day": day,
    "alternate": alternate,
}
UNWEIGHTED = ("hot-cold", "alternate")  # shapes that ignore weights


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
        (stream,) = arrivals.choices(plan.streams, cum_weights=cumulated)
        for _ in range(int(min(left, size(arrivals)))):
            left -= 1
            yield SimRequest(now, stream.model, varied(services, stream.seconds, plan.spread), stream.priority)


def _weights(plan: WorkloadPlan) -> list[float]:
    return [stream.weight for stream in plan.streams]


def _randoms(plan: WorkloadPlan) -> tuple[Random, Random]:
    """Return generators for arrivals and for service times. Arrivals do not depend on service times."""
    return Random(plan.seed), Random(f"{plan.seed}/services")  # noqa: S311 - it must be reproducible


def _steady(random: Random, per_second: float) -> Iterator[float]:
    now = 0.0
    while True:
        now += random.expovariate(per_second)
        yield now


def _sine(random: Random, per_second: float) -> Iterator[float]:
    """Yield a non-homogeneous Poisson process, by thinning."""
    for now in _steady(random, per_second * (1 + SWING)):
        level = 1 - SWING * math.cos(math.tau * (now - QUIETEST) / DAY)
        if random.random() * (1 + SWING) < level:
            yield now


def _geometric(random: Random) -> int:
    size = 1
    while random.random() >= 1 / BURST:
        size += 1
    return size
