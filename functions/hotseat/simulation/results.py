"""What a simulation measures. Times are seconds of simulated time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil


@dataclass(frozen=True, slots=True)
class Waits:
    """How long some have waited; without any there are no times."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Waits":
        """Sum them up. A percentile is the least of them that so many do not exceed."""
        if not seconds:
            return cls(0)
        ordered = sorted(seconds)
        p50, p99 = (ordered[ceil(share * len(ordered)) - 1] for share in (0.50, 0.99))
        return cls(len(ordered), *(round(s, 4) for s in (sum(ordered) / len(ordered), p50, p99, ordered[-1])))


@dataclass(slots=True)
class ResidentInterval:
    """One model on the accelerator. Times are None until they come; `ready` stays so where it was stopped while loading."""

    model: str
    started: float
    ready: float | None = None
    stopped: float | None = None
    released: float | None = None
    gpus: int = 1

    def switching(self, end: float) -> float:
        """GPU-seconds until `end` in which it held seats without being able to serve."""
        times = (self.started, self.ready, self.stopped, self.released)
        started, ready, stopped, released = (end if at is None else min(at, end) for at in times)
        return ((stopped if self.ready is None else ready) - started + released - stopped) * self.gpus


@dataclass(slots=True)
class GpuTime:
    """GPU-seconds of seats that were not being switched."""

    serving: float = 0.0  # answered somebody
    idle: float = 0.0  # answered nobody, while somebody waited
    spare: float = 0.0  # nobody waited for anything

    def copy(self) -> "GpuTime":
        """Keep what it is now."""
        return replace(self)


@dataclass(slots=True)
class Recording:
    """Everything that happened and is counted, as it happens."""

    waits: dict[str, list[float]]  # by model: from a request's arrival until its answer was begun
    arrivals: dict[str, list[float]]  # by model: when those arrived, in the same order
    turns: dict[str, list[float]]  # by model: at each time that it got ready, for how long somebody had waited for that
    loads: dict[str, int]  # by model
    stays: list[ResidentInterval] = field(default_factory=list)
    used: GpuTime = field(default_factory=GpuTime)
    until_answer: GpuTime = field(default_factory=GpuTime)  # the same, until the last answer
    requests: int = 0
    answered: int = 0
    refused: int = 0
    cut: int = 0  # ended with an error, because the drain deadline was over
    given_up: int = 0  # tries, of clients that give up
    last_arrival: float = 0.0
    last_answer: float = 0.0
    widest: float | None = None  # the longest bound on waiting that was in force

    @classmethod
    def of(cls, models: Iterable[str]) -> "Recording":
        """Begin one in which nothing has happened."""
        names = list(models)

        def empty() -> dict[str, list[float]]:
            return {name: [] for name in names}

        return cls(empty(), empty(), empty(), dict.fromkeys(names, 0))


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model's part."""

    loads: int
    waits: Waits
    turns: Waits


@dataclass(frozen=True, slots=True)
class Figures:
    """What is told of a run. Every request of it ends up in `answered`, `refused`, `cut` or `unanswered`.

    The GPU time until the last answer is the sum of `serving`, `switching`, `idle` and `spare`, in GPU-seconds.
    """

    policy: str
    requests: int
    answered: int
    refused: int
    cut: int
    given_up: int  # tries: who gave up asked again
    unanswered: int  # when nothing more would have happened
    seconds: float  # until the last answer
    offered: float  # requests a second that came
    throughput: float  # requests a second that were answered
    switches: int  # loads; each but the first comes with a stop
    serving: float  # somebody was answered
    switching: float  # loading and stopping
    idle: float  # nobody was answered, while somebody waited
    spare: float  # nobody was answered, and nobody waited
    lost: float  # share of all GPU time that was switching or idle
    effective_max_wait: float | None
    waits: Waits
    turns: Waits
    models: Mapping[str, ModelFigures]


def figures(policy: str, record: Recording, gpus: int) -> Figures:
    """Sum up a run that is over."""
    seconds, used = record.last_answer, record.until_answer
    switching = sum(stay.switching(seconds) for stay in record.stays if stay.started <= seconds)
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
        switches=len(record.stays),
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
