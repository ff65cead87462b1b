"""Resident models and queue lengths over time, in equal slices, for plots."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from hotseat.simulation.results import Recording, ResidentInterval

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
