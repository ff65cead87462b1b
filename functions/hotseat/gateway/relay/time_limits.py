"""Time limits of many exchanges: one timer of the loop for all that have the same limit.

Those with the same limit end in the order in which they began, so the timer is for the first of them. An exchange that begins or ends
costs an entry of a dictionary, where a timer of its own takes ten times as long.
"""

import asyncio
import time
from collections import defaultdict
from typing import Protocol


class Limited(Protocol):
    """What has a time limit."""

    def too_late(self) -> None:
        """Handle that its time is over."""


class TimeLimits:
    """Time limits in seconds. All methods are called on the loop."""

    def __init__(self) -> None:
        # By limit: when each is over, the first first. Documents have few different limits.
        self._rows: defaultdict[float, dict[Limited, float]] = defaultdict(dict)
        self._timers: set[float] = set()  # limits whose timer runs

    def add(self, limited: Limited, seconds: float) -> None:
        """Begin the time of something that has none yet."""
        self._rows[seconds][limited] = time.monotonic() + seconds
        if seconds not in self._timers:
            self._start(seconds, seconds)

    def remove(self, limited: Limited, seconds: float) -> None:
        """End the time. No effect if it is over."""
        self._rows[seconds].pop(limited, None)

    def _start(self, seconds: float, rest: float) -> None:
        self._timers.add(seconds)
        asyncio.get_running_loop().call_later(rest, self._look, seconds)

    def _look(self, seconds: float) -> None:
        self._timers.discard(seconds)
        row, now = self._rows[seconds], time.monotonic()
        while row:
            limited, due = next(iter(row.items()))
            if due > now:
                break
            del row[limited]
            limited.too_late()  # it may begin another
        if row and seconds not in self._timers:
            self._start(seconds, next(iter(row.values())) - now)
