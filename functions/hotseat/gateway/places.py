"""How many requests that may take long are served at once, and how many bytes their bodies have together.

Each has a thread and descriptors, and some must be left for probes and for saying no: what comes beyond is told so at once,
where it would otherwise stand in a line that nobody sees.
"""

import threading
from collections.abc import Callable

from hotseat.core.errors import QueueFull
from hotseat.gateway.shortage import no_more


def _always() -> bool:
    return True


class Places:
    """A number of places; `with places:` takes one. `spare` says whether threads are left for what takes no place."""

    def __init__(self, count: int, spare: Callable[[], bool] = _always) -> None:
        self._count = count
        self._spare = spare
        self._lock = threading.Lock()
        self._taken = 0

    def resize(self, count: int) -> None:
        """Have more places, or fewer: those that are taken stay so until they are given back."""
        self._count = count

    def take(self) -> None:
        """Take a place until `give_back`. QueueFull: all are taken; Unavailable: no thread can be made."""
        if not self._spare():
            raise no_more("threads")
        with self._lock:
            if self._taken >= self._count:
                message = f"hotseat already holds as many requests as it can ({self._count}, queued and in flight)"
                raise QueueFull(message, code="too_many_requests", retry_after=5.0)
            self._taken += 1

    def give_back(self) -> None:
        """Make room for another."""
        with self._lock:
            self._taken -= 1

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give_back()


class Bodies:
    """Bytes of requests that are kept, each until its answer has ended: at most `most`, and one of any size where there is none."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept = 0

    def take(self, size: int) -> int:
        """Count a body of so many bytes until `give_back`; returns them. QueueFull: there is no room for it."""
        with self._lock:
            if self._kept and self._kept + size > self._most:
                message = f"the bodies of all requests would exceed the memory limit ({self._kept} bytes held, limit {self._most})"
                raise QueueFull(message, code="too_many_bytes", retry_after=5.0)
            self._kept += size
            return size

    def give_back(self, size: int) -> None:
        """Make room again."""
        with self._lock:
            self._kept -= size
