"""Who asks for what, and when: loads that are made, each the same for the same seed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

HOT_SHARE = 0.98  # of all requests, for the one hot model
BURST = 20  # requests at once, on average


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it comes, for which model, and how many seconds its answer takes."""

    at: float
    model: str
    seconds: float
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load is made from. All answers take `service` seconds, so that what drains is known."""

    models: Sequence[str]
    rate: float  # requests a second, of all models together
    requests: int
    service: float
    seed: int = 1


def rate(utilisation: float, slots: int, service: float, gpus: int = 1) -> float:
    """Give the requests a second that keep this share of all slots busy; more than 1 could not be served by any switcher."""
    return utilisation * slots * gpus / service


def poisson(plan: Plan, weights: Mapping[str, float] | None = None) -> Iterator[Asked]:
    """Yield arrivals that know nothing of each other; each model's share is its weight's, without weights an equal one."""
    return _draw(plan, weights, lambda _: 1, 1.0)


def bursts(plan: Plan, weights: Mapping[str, float] | None = None) -> Iterator[Asked]:
    """Yield groups of requests for one model at the same moment, of geometric size; the rate of requests is as planned."""
    return _draw(plan, weights, _geometric, BURST)


def hot_and_cold(plan: Plan) -> Iterator[Asked]:
    """Yield nearly everything for the first model; the others share the rest."""
    hot, *cold = plan.models
    return poisson(plan, {hot: HOT_SHARE} | {name: (1 - HOT_SHARE) / len(cold) for name in cold})


SHAPES: Mapping[str, Callable[[Plan], Iterator[Asked]]] = {
    "poisson": poisson,
    "bursts": bursts,
    "hot-cold": hot_and_cold,
}


def _draw(
    plan: Plan, weights: Mapping[str, float] | None, size: Callable[[Random], int], mean_size: float
) -> Iterator[Asked]:
    random = Random(plan.seed)  # noqa: S311 - a load is no secret, and has to come again
    names = list(weights or plan.models)
    shares = list(weights.values()) if weights else [1.0] * len(names)
    now, left = 0.0, plan.requests
    while left:
        now += random.expovariate(plan.rate / mean_size)
        (name,) = random.choices(names, shares)
        for _ in range(min(left, size(random))):
            left -= 1
            yield Asked(now, name, plan.service)


def _geometric(random: Random) -> int:
    size = 1
    while random.random() >= 1 / BURST:
        size += 1
    return size
