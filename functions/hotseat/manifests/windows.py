"""When windows of a schedule are open: wall time, cron expressions and time zones. Pure, but for the tz database.

A window opens at each time of its expression and is open for its duration, of time that really passes: one of ten hours is that
on the day that the clocks change, too. An hour that is skipped or comes twice is dealt with as cron does: what was to start in
the one starts right after it, in the other once, the first time.
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
    """What a schedule says at one time, and until when it says so at the least (None: for ever)."""

    wanted: bool = False
    pinned: bool = False
    until: datetime | None = None


def look(schedule: Iterable[Window], now: datetime) -> Open:
    """Look which windows are open. ValueError: one of them has `problems`."""
    wanted = pinned = False
    changes: list[datetime] = []
    for window in schedule:
        is_open, change = _look(window, now)
        wanted, pinned = wanted or is_open, pinned or (is_open and window.pinned)
        changes += [change] if change is not None else []
    return Open(wanted, pinned, min(changes, default=None))


def problems(window: Window) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a window beyond its form: the field, and why."""
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
    """Whether it is open, and when to look again: one that has begun anew meanwhile goes on then."""
    zone, duration = _zone(window.time_zone), timedelta(seconds=window.duration)
    start = next(_starts(window.start, now - duration, zone), None)
    if start is None:
        return False, None
    return (True, start + duration) if start <= now else (False, start)


def _starts(expression: str, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield the times after one, in UTC, in order. ValueError: the expression is none."""
    try:
        times = CronSim(expression, after.astimezone(zone))
    except CronSimError as error:
        raise ValueError(f"is not a valid cron time: {error}") from error
    # In an hour that comes twice, cronsim may give what lies before.
    yield from (time for each in times if (time := each.astimezone(UTC)) > after)


@lru_cache(maxsize=100)
def _zone(name: str) -> tzinfo:
    """Find a time zone; ValueError if it is not known here."""
    if name == "UTC":
        return UTC  # which needs no database
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("is not a known time zone") from error
