"""Requests of a simulation: made loads, the same for the same seed, and request logs."""

import csv
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from statistics import median
from typing import Any

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


# Requests that were rejected before dispatch, but would have been served: timeout, full queue, client disconnected.
WANTED = (408, 429, 499)
SERVER_ERROR = 500
ROUNDING = 0.002  # seconds by which `waited` may exceed `seconds`


class BadTrace(ValueError):
    """A line of a request log is invalid. The message says where, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a log. Times are in seconds. `waited` is None if the request was not dispatched."""

    arrived: float  # Unix time
    model: str
    waited: float | None
    seconds: float  # from its arrival until its end
    status: int = 200
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """The workload of a request log: the same requests, times and service times.

    docs/simulate.md says how rejected and failed requests are treated.
    """

    requests: tuple[SimRequest, ...]
    models: tuple[str, ...]  # in the order of their first request
    assumed: int  # requests without a service time of their own: the median of their model is used
    left_out: int  # invalid requests, which were not dispatched


def read(rows: Iterable[str], file: str, *, otherwise: float) -> Trace:
    """Read a log: CSV if the name of the file ends with .csv, else JSON lines. Raise BadTrace if it is invalid.

    `otherwise` is the service time in seconds for models without a dispatched request.
    """
    kind = _csv_rows if file.lower().endswith(".csv") else _json_rows
    lines = sorted((_line(row, f"{file}:{number}") for number, row in kind(rows, file)), key=lambda it: it.arrived)
    if not lines:
        raise BadTrace(f"{file}: has no requests; `hotseat up --request-log FILE` writes such logs")
    wanted = [line for line in lines if _was_wanted(line)]
    usual = _usual(wanted)
    begin = wanted[0].arrived if wanted else 0.0

    def seconds(line: Line) -> float:
        if line.waited is None:
            return usual.get(line.model, otherwise)
        return max(0.0, line.seconds - line.waited)

    requests = tuple(SimRequest(line.arrived - begin, line.model, seconds(line), line.priority) for line in wanted)
    assumed = sum(line.waited is None for line in wanted)
    return Trace(requests, tuple(dict.fromkeys(it.model for it in requests)), assumed, len(lines) - len(wanted))


def _was_wanted(line: Line) -> bool:
    """Whether the request was dispatched, or would have been under another load. False for invalid requests."""
    return line.waited is not None or line.status in WANTED or line.status >= SERVER_ERROR


def _usual(lines: Iterable[Line]) -> dict[str, float]:
    took = defaultdict(list)
    for line in lines:
        if line.waited is not None:
            took[line.model].append(max(0.0, line.seconds - line.waited))
    return {model: median(times) for model, times in took.items()}


# Rows -----------------------------------------------------------------------------------------------------------------


def _json_rows(rows: Iterable[str], file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except ValueError as error:
            raise BadTrace(f"{file}:{number}: is not JSON ({error}); allowed: one JSON object per line") from None
        if not isinstance(value, dict):
            raise BadTrace(f"{file}:{number}: is {_shown(value)}; allowed: one JSON object per line")
        yield number, value


def _csv_rows(rows: Iterable[str], file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(rows)
    missing = [name for name in ("time", "model", "waited", "seconds") if name not in (reader.fieldnames or ())]
    if missing:
        raise BadTrace(f"{file}:1: has no column {missing[0]}; allowed: time,model,waited,seconds[,status,priority]")
    for row in reader:
        filled = {name: value for name, value in row.items() if name is not None and value}
        numbers = {name: _number(filled[name]) for name in _NUMBERS if name in filled}
        yield reader.line_num, {"waited": None} | filled | numbers


_NUMBERS = ("waited", "seconds", "status", "priority")


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _line(row: Mapping[str, Any], where: str) -> Line:
    def field(name: str, right: Callable[[Any], bool], allowed: str, *default: Any) -> Any:
        if name not in row and default:
            return default[0]
        if name not in row:
            raise BadTrace(f"{where}: has no `{name}`; allowed: {allowed}")
        if not right(row[name]):
            raise BadTrace(f"{where}: `{name}` is {_shown(row[name])}; allowed: {allowed}")
        return row[name]

    arrived = _when(field("time", lambda it: _when(it) is not None, "a time such as 2026-01-31T12:00:00.000Z"))
    seconds = field("seconds", _is_time, "a number of seconds from arrival to end, at least 0")
    return Line(
        arrived or 0.0,
        field("model", lambda it: isinstance(it, str) and bool(it), "the name of a model"),
        field(
            "waited",
            lambda it: it is None or (_is_time(it) and it <= seconds + ROUNDING),
            "a number of seconds up to `seconds`, or null if the request was not dispatched",
        ),
        seconds,
        field("status", lambda it: _is_whole(it) and 100 <= it < 600, "an HTTP status", 200),  # noqa: PLR2004
        field("priority", _is_whole, "an integer", 0),
    )


def _when(value: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < float("inf")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - a line of a terminal
