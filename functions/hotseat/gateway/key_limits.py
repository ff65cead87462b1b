"""How much one API key may use: requests per minute, and requests at once. Used on the event loop only."""

import time

from hotseat.core.errors import RateLimited
from hotseat.core.token_bucket import TokenBucket

RETRY_AFTER = 1.0  # seconds, for a key with too many requests at once
Headers = tuple[tuple[str, str], ...]


class KeyLimits:
    """The limits of the key `name`, and what is used of them. None: no such limit."""

    def __init__(self, name: str, requests_per_minute: int | None, concurrency: int | None) -> None:
        self.limits = requests_per_minute, concurrency
        self._name, self._concurrency = name, concurrency
        self._bucket = None if requests_per_minute is None else TokenBucket(requests_per_minute, time.monotonic())
        self._requests = 0  # queued and in flight

    def take(self) -> None:
        """Count a request until `give_back`. Raise RateLimited if it is one too many."""
        if self._concurrency is not None and self._requests >= self._concurrency:
            raise RateLimited(
                f"The API key {self._name} has {self._requests} requests queued or in flight (limit: {self._concurrency}). Wait until "
                "one has ended.",
                code="concurrency_limit_exceeded",
                retry_after=RETRY_AFTER,
            )
        if self._bucket is not None and (wait := self._bucket.take(time.monotonic())):
            raise RateLimited(
                f"The API key {self._name} has sent too many requests (limit: {self._bucket.per_minute} per minute). Try again in "
                f"{wait:.1f} s.",
                retry_after=wait,
            )
        self._requests += 1

    def give_back(self) -> None:
        """Handle that a request has ended."""
        self._requests -= 1

    @property
    def headers(self) -> Headers:
        """Return the headers by which OpenAI's API tells clients what is left."""
        if self._bucket is None:
            return ()
        return (
            ("x-ratelimit-limit-requests", str(self._bucket.per_minute)),
            ("x-ratelimit-remaining-requests", str(self._bucket.left)),
            ("x-ratelimit-reset-requests", f"{self._bucket.full_after:.3f}s"),
        )
