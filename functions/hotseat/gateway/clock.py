"""From the monotonic clock that everything runs on to the time of day that people read."""

import time
from datetime import UTC, datetime


def rfc3339(monotonic: float) -> str:
    """Time of day of a moment on the monotonic clock, in UTC to the millisecond."""
    at = datetime.fromtimestamp(time.time() - time.monotonic() + monotonic, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
