"""Who was resident over time and how many waited, for pictures: a record cut into equal slices."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from hotseat.simulation.results import Recording, ResidentInterval

LOOKS = 4  # at a queue in each slice


@dataclass(frozen=True, slots=True)
class Lane:
    """One model, slice by slice."""

    ready: tuple[float, ...]  # share of the slice in which it was ready
    switching: tuple[float, ...]  # share in which it loaded or stopped
    waiting: tuple[int, ...]  # the most that were seen to wait


@dataclass(frozen=True, slots=True)
class Timeline:
    """All models, over the seconds from the first arrival's clock until the last answer."""

    seconds: float
    lanes: dict[str, Lane]


def timeline(record: Recording, slices: int) -> Timeline:
    """Cut a run into slices. Requests that were refused, or were never begun, are not among those that wait."""
    seconds = record.last_answer
    width = seconds / slices
    lanes = {}
    for model, waits in record.waits.items():
        stays = [stay for stay in record.stays if stay.model == model]
        arrived = record.arrivals[model]
        begun = [at + waited for at, waited in zip(arrived, waits, strict=True)]
        ready, switching = _shares(stays, slices, width, seconds)
        lanes[model] = Lane(ready, switching, _peaks(sorted(arrived), sorted(begun), slices, width))
    return Timeline(seconds, lanes)


def phases(stay: ResidentInterval, end: float) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """From when until when it was ready (for no time where it never was), and the times before and after that."""
    times = (stay.started, stay.ready, stay.stopped, stay.released)
    started, ready, stopped, released = (end if at is None else min(at, end) for at in times)
    if stay.ready is None:
        ready = stopped
    return (ready, stopped), [(started, ready), (stopped, released)]


def _shares(
    stays: Sequence[ResidentInterval], slices: int, width: float, seconds: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    ready, switching = [0.0] * slices, [0.0] * slices
    for stay in stays:
        served, moved = phases(stay, seconds)
        for target, spans in ((ready, [served]), (switching, moved)):
            for begin, end in spans:
                _spread(target, begin, end, width)
    return tuple(ready), tuple(switching)


def _spread(target: list[float], begin: float, end: float, width: float) -> None:
    """Add the time from `begin` to `end` to the slices that it touches, as shares of them."""
    index = int(begin / width) if width else len(target)
    while index < len(target) and index * width < end:
        overlap = min(end, (index + 1) * width) - max(begin, index * width)
        target[index] = min(1.0, target[index] + max(0.0, overlap) / width)
        index += 1


def _peaks(arrived: Sequence[float], begun: Sequence[float], slices: int, width: float) -> tuple[int, ...]:
    def waiting(time: float) -> int:
        return bisect_right(arrived, time) - bisect_right(begun, time)

    return tuple(max(waiting((index + look / LOOKS) * width) for look in range(LOOKS)) for index in range(slices))
