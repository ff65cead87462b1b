"""A circuit breaker: it keeps requests from a server that fails, and tries after a time whether it still does. Pure."""

from enum import StrEnum
from math import inf


class CircuitState(StrEnum):
    """The state of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after `failure_threshold` failures in a row, for `open_duration` seconds. inf: it never opens.

    After that time it is half-open: one request at a time is let through, as a trial. The outcome of a trial closes the breaker or
    opens it again. All times are seconds of one clock.
    """

    __slots__ = ("_failure_threshold", "_on_trial", "_open_duration", "failures", "open_until")

    def __init__(self, failure_threshold: float, open_duration: float) -> None:
        self._failure_threshold, self._open_duration = failure_threshold, open_duration
        self._on_trial = False
        self.failures = 0  # in a row
        self.open_until: float | None = None  # None: it is closed

    def state(self, now: float) -> CircuitState:
        """Return the state."""
        if self.open_until is None:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if now >= self.open_until else CircuitState.OPEN

    def allows_at(self, now: float) -> float:
        """Return when a request can be sent at the soonest, by what is known now. inf: a trial is under way."""
        if self.open_until is None:
            return now
        return inf if self._on_trial else max(now, self.open_until)

    def begin(self) -> bool:
        """Count a request that is sent. Return whether it is a trial, whose outcome must be told."""
        self._on_trial = self.open_until is not None
        return self._on_trial

    def succeeded(self) -> None:
        """Close the breaker: the server has answered a request, be it an earlier one."""
        self.failures, self.open_until, self._on_trial = 0, None, False

    def failed(self, now: float, *, trial: bool) -> None:
        """Count a failure. It opens the breaker at the threshold, or if it was that of a trial."""
        self.failures += 1
        if self.open_until is not None and not trial:
            return  # it was sent before the breaker opened
        if trial or self.failures >= self._failure_threshold:
            self.open_until, self._on_trial = now + self._open_duration, False

    def abandoned(self) -> None:
        """End a trial without an outcome, such as that of a client who has left."""
        self._on_trial = False
