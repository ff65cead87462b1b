"""From the monotonic clock that everything runs on to the time of day that people read."""

import time

from hotseat.core.units import format_time


def rfc3339(monotonic: float) -> str:
    """Time of day of a moment on the monotonic clock, by today's difference: that clock stands still while a machine sleeps."""
    return format_time(time.time() - time.monotonic() + monotonic)
