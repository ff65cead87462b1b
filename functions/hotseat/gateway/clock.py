"""Convert times of the monotonic clock, which hotseat uses internally, to the time of day."""

import time

from hotseat.api.units import format_time


def rfc3339(monotonic: float) -> str:
    """Return the time of day of a time on the monotonic clock, by the current difference of the two clocks."""
    return format_time(time.time() - time.monotonic() + monotonic)
