"""The rate of a transfer of bytes, and the time that is left of it. Pure: the time comes with each report."""

from collections import deque

WINDOW = 30.0  # seconds that a rate is an average of


class TransferRate:
    """Bytes per second over the last reports of what is done. `rate` is None until there are two."""

    __slots__ = ("_reports", "rate")

    def __init__(self) -> None:
        self._reports: deque[tuple[float, int]] = deque()
        self.rate: int | None = None

    def update(self, now: float, done: int) -> int | None:
        """Add a report, and return the rate."""
        reports = self._reports
        if reports and done < reports[-1][1]:
            reports.clear()  # the transfer has begun anew
        reports.append((now, done))
        while len(reports) > 2 and reports[1][0] <= now - WINDOW:  # noqa: PLR2004 - the oldest is at least WINDOW old
            reports.popleft()
        elapsed, before = now - reports[0][0], reports[0][1]
        self.rate = int((done - before) / elapsed) if elapsed > 0 else None
        return self.rate


def seconds_left(done: int | None, total: int | None, rate: int | None) -> int | None:
    """Return how long the rest takes at a rate. None: the total or the rate is not known."""
    return None if done is None or total is None or not rate else max(0, round((total - done) / rate))
