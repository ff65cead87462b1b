"""A token bucket: a limit on how often something happens. Pure: times come with the calls."""


class TokenBucket:
    """At most `per_minute` tokens, which flow in evenly. It begins full, so a burst may take all of them at once."""

    __slots__ = ("_at", "_tokens", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._tokens, self._at = float(per_minute), now

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one. `now` is on a monotonic clock."""
        self._flow(now)
        if self._tokens < 1:
            return (1 - self._tokens) * self._seconds
        self._tokens -= 1
        return 0.0

    @property
    def left(self) -> int:
        """Return the whole tokens that are left."""
        return int(self._tokens)

    @property
    def full_after(self) -> float:
        """Return the seconds from the last `take` until all tokens are there again."""
        return (self.per_minute - self._tokens) * self._seconds

    @property
    def _seconds(self) -> float:
        """The time for one token."""
        return 60 / self.per_minute

    def _flow(self, now: float) -> None:
        passed = max(0.0, now - self._at)
        self._tokens, self._at = min(float(self.per_minute), self._tokens + passed / self._seconds), max(self._at, now)
