"""Limits on the number of long requests, and on the size of their bodies.

Each request has a thread and file descriptors. Some are reserved for probes and for refusals, so requests
beyond the limits are refused immediately.
"""

import threading
from collections.abc import Callable

from hotseat.core.errors import QueueFull
from hotseat.gateway.shortage import no_more


def _always() -> bool:
    return True


class ConcurrencyLimit:
    """A counting limit.

    `with limit:` takes one slot. `spare` says whether threads are left for requests without a slot.
    """

    def __init__(self, count: int, spare: Callable[[], bool] = _always) -> None:
        self._count = count
        self._spare = spare
        self._lock = threading.Lock()
        self._taken = 0

    def resize(self, count: int) -> None:
        """Change the limit. Slots that are taken stay taken until `give_back`."""
        self._count = count

    def take(self) -> None:
        """Take a slot until `give_back`.

        Raise QueueFull if all are taken, and Unavailable if no thread can be created.
        """
        if not self._spare():
            raise no_more("threads")
        with self._lock:
            if self._taken >= self._count:
                message = f"too many requests are queued or in flight (limit: {self._count}); try again later"
                raise QueueFull(message, code="too_many_requests", retry_after=5.0)
            self._taken += 1

    def give_back(self) -> None:
        """Release a slot."""
        with self._lock:
            self._taken -= 1

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give_back()


class BodyBudget:
    """Limit on the bytes of request bodies, which are held until the answer has ended.

    At most `most` bytes. A single body can be larger.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept = 0

    def take(self, size: int) -> int:
        """Count a body of `size` bytes until `give_back`, and return the size.

        Raise QueueFull if there is no room.
        """
        with self._lock:
            if self._kept and self._kept + size > self._most:
                message = f"the bodies of all requests would exceed the memory limit ({self._kept} bytes held, limit {self._most})"
                raise QueueFull(message, code="too_many_bytes", retry_after=5.0)
            self._kept += size
            return size

    def give_back(self, size: int) -> None:
        """Release the bytes."""
        with self._lock:
            self._kept -= size
