"""Results of a simulation: figures, and residency over time cut into slices. Times are simulated seconds."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil


@dataclass(frozen=True, slots=True)
class Waits:
    """Summary of wait times in seconds. None if there are none."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Waits":
        """Summarise wait times. Percentiles use the nearest-rank method."""
        if not seconds:
            return cls(0)
        ordered = sorted(seconds)
        p50, p99 = (ordered[ceil(share * len(ordered)) - 1] for share in (0.50, 0.99))
        return cls(len(ordered), *(round(s, 4) for s in (sum(ordered) / len(ordered), p50, p99, ordered[-1])))


@dataclass(slots=True)
class ResidentInterval:
    """One stay of a model on the accelerator.

    Times are None until they are known. `ready` stays None if the model was stopped while it loaded.
    """

    model: str
    started: float
    ready: float | None = None
    stopped: float | None = None
    released: float | None = None
    gpus: int = 1

    def switching(self, end: float) -> float:
        """Return the GPU-seconds until `end` in which the model occupied GPUs but could not serve."""
        times = (self.started, self.ready, self.stopped, self.released)
        started, ready, stopped, released = (end if at is None else min(at, end) for at in times)
        return ((stopped if self.ready is None else ready) - started + released - stopped) * self.gpus


@dataclass(slots=True)
class GpuTime:
    """GPU-seconds outside of switches."""

    serving: float = 0.0  # requests in flight
    idle: float = 0.0  # no requests in flight, but queued requests
    spare: float = 0.0  # no requests at all

    def copy(self) -> "GpuTime":
        """Return a copy."""
        return replace(self)


@dataclass(slots=True)
class Recording:
    """What happened in a run so far."""

    waits: dict[str, list[float]]  # by model: from arrival to dispatch, per request
    arrivals: dict[str, list[float]]  # by model: arrival times, in the same order
    turns: dict[str, list[float]]  # by model: age of the oldest queued request, each time that it became ready
    loads: dict[str, int]  # by model
    intervals: list[ResidentInterval] = field(default_factory=list)
    used: GpuTime = field(default_factory=GpuTime)
    until_answer: GpuTime = field(default_factory=GpuTime)  # `used` at the last answer
    requests: int = 0
    answered: int = 0
    refused: int = 0
    cut: int = 0  # aborted at the drain deadline
    given_up: int = 0  # attempts that clients gave up
    last_arrival: float = 0.0
    last_answer: float = 0.0
    widest: float | None = None  # the largest bound on waiting during the run

    @classmethod
    def of(cls, models: Iterable[str]) -> "Recording":
        """Return an empty recording."""
        names = list(models)

        def empty() -> dict[str, list[float]]:
            return {name: [] for name in names}

        return cls(empty(), empty(), empty(), dict.fromkeys(names, 0))


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """Results of one model."""

    loads: int
    waits: Waits
    turns: Waits


@dataclass(frozen=True, slots=True)
class Figures:
    """Results of a run.

    `requests` is the sum of `answered`, `refused`, `cut` and `unanswered`. The GPU time until the last answer
    is the sum of `serving`, `switching`, `idle` and `spare`, in GPU-seconds.
    """

    policy: str
    requests: int
    answered: int
    refused: int
    cut: int
    given_up: int  # attempts; clients that give up retry
    unanswered: int  # at the end of the run
    seconds: float  # until the last answer
    offered: float  # requests per second that arrived
    throughput: float  # requests per second that were answered
    switches: int  # loads
    serving: float  # requests in flight
    switching: float  # loading and stopping
    idle: float  # no requests in flight, but queued requests
    spare: float  # no requests at all
    lost: float  # share of all GPU time that was switching or idle
    effective_max_wait: float | None
    waits: Waits
    turns: Waits
    models: Mapping[str, ModelFigures]


def figures(policy: str, record: Recording, gpus: int) -> Figures:
    """Summarise a finished run."""
    seconds, used = record.last_answer, record.until_answer
    switching = sum(interval.switching(seconds) for interval in record.intervals if interval.started <= seconds)
    return Figures(
        policy=policy,
        requests=record.requests,
        answered=record.answered,
        refused=record.refused,
        cut=record.cut,
        given_up=record.given_up,
        unanswered=record.requests - record.answered - record.refused - record.cut,
        seconds=round(seconds, 4),
        offered=_ratio(record.requests, record.last_arrival),
        throughput=_ratio(record.answered, seconds),
        switches=len(record.intervals),
        serving=round(used.serving, 4),
        switching=round(switching, 4),
        idle=round(used.idle, 4),
        spare=round(used.spare, 4),
        lost=_ratio(switching + used.idle, seconds * gpus),
        effective_max_wait=record.widest,
        waits=Waits.of([each for some in record.waits.values() for each in some]),
        turns=Waits.of([each for some in record.turns.values() for each in some]),
        models={
            name: ModelFigures(record.loads[name], Waits.of(waits), Waits.of(record.turns[name]))
            for name, waits in record.waits.items()
        },
    )


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


SAMPLES = 4  # of a queue in each slice


@dataclass(frozen=True, slots=True)
class ModelTimeline:
    """One model, by slice."""

    ready: tuple[float, ...]  # share of the slice
    switching: tuple[float, ...]  # share of the slice
    waiting: tuple[int, ...]  # maximum of the samples


@dataclass(frozen=True, slots=True)
class Timeline:
    """All models. `seconds` is the time of the last answer."""

    seconds: float
    models: dict[str, ModelTimeline]


def timeline(record: Recording, slices: int) -> Timeline:
    """Return the timeline of a run. Requests that were rejected or never dispatched do not count as queued."""
    seconds = record.last_answer
    width = seconds / slices
    models = {}
    for model, waits in record.waits.items():
        intervals = [interval for interval in record.intervals if interval.model == model]
        arrived = record.arrivals[model]
        begun = [at + waited for at, waited in zip(arrived, waits, strict=True)]
        ready, switching = _shares(intervals, slices, width, seconds)
        models[model] = ModelTimeline(ready, switching, _peaks(sorted(arrived), sorted(begun), slices, width))
    return Timeline(seconds, models)


def phases(interval: ResidentInterval, end: float) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """Return the time span in which the model was ready (empty if it never was), and the spans before and after."""
    times = (interval.started, interval.ready, interval.stopped, interval.released)
    started, ready, stopped, released = (end if at is None else min(at, end) for at in times)
    if interval.ready is None:
        ready = stopped
    return (ready, stopped), [(started, ready), (stopped, released)]


def _shares(
    intervals: Sequence[ResidentInterval], slices: int, width: float, seconds: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    ready, switching = [0.0] * slices, [0.0] * slices
    for interval in intervals:
        served, moved = phases(interval, seconds)
        for target, spans in ((ready, [served]), (switching, moved)):
            for begin, end in spans:
                _spread(target, begin, end, width)
    return tuple(ready), tuple(switching)


def _spread(target: list[float], begin: float, end: float, width: float) -> None:
    """Add the time from `begin` to `end` to the slices that it overlaps, as shares of a slice."""
    index = int(begin / width) if width else len(target)
    while index < len(target) and index * width < end:
        overlap = min(end, (index + 1) * width) - max(begin, index * width)
        target[index] = min(1.0, target[index] + max(0.0, overlap) / width)
        index += 1


def _peaks(arrived: Sequence[float], begun: Sequence[float], slices: int, width: float) -> tuple[int, ...]:
    def waiting(time: float) -> int:
        return bisect_right(arrived, time) - bisect_right(begun, time)

    return tuple(
        max(waiting((index + sample / SAMPLES) * width) for sample in range(SAMPLES)) for index in range(slices)
    )
