"""Windows of schedules: cron expressions, time zones and durations. Pure, except for the time zone database.

A window opens at each time of its expression, for its duration in elapsed time, also on days when the clocks change. As
in cron, a start in a skipped hour happens right after it, and a start in a repeated hour happens once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from hotseat.api.types import Window

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Open:
    """State of a schedule, and the time until which it holds at least (None: forever)."""

    wanted: bool = False
    pinned: bool = False
    until: datetime | None = None


def look(schedule: Iterable[Window], now: datetime) -> Open:
    """Return the state of a schedule. Raise ValueError if a window is invalid (see `problems`)."""
    wanted = pinned = False
    changes: list[datetime] = []
    for window in schedule:
        is_open, change = _look(window, now)
        wanted, pinned = wanted or is_open, pinned or (is_open and window.pinned)
        changes += [change] if change is not None else []
    return Open(wanted, pinned, min(changes, default=None))


def problems(window: Window) -> Iterator[tuple[str, str]]:
    """Yield the invalid fields of a window, with the reasons."""
    try:
        _zone(window.time_zone)
    except ValueError as error:
        yield "timeZone", str(error)
    try:
        if next(_starts(window.start, _LONG_AGO, UTC), None) is None:
            yield "start", "never comes"
    except ValueError as error:
        yield "start", str(error)


def _look(window: Window, now: datetime) -> tuple[bool, datetime | None]:
    """Return whether a window is open, and the time of the next check. A window can start again while it is open."""
    zone, duration = _zone(window.time_zone), timedelta(seconds=window.duration)
    start = next(_starts(window.start, now - duration, zone), None)
    if start is None:
        return False, None
    return (True, start + duration) if start <= now else (False, start)


def _starts(expression: str, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield the start times after `after`, in UTC, in order. Raise ValueError if the expression is invalid."""
    try:
        times = CronSim(expression, after.astimezone(zone))
    except CronSimError as error:
        raise ValueError(f"is not a valid cron time: {error}") from error
    # In a repeated hour cronsim may return earlier times.
    yield from (time for each in times if (time := each.astimezone(UTC)) > after)


@lru_cache(maxsize=100)
def _zone(name: str) -> tzinfo:
    """Return a time zone. Raise ValueError if it is unknown."""
    if name == "UTC":
        return UTC  # needs no database
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("is not a known time zone") from error
