"""How many requests that may take long are served at once.

Each has a thread, and some threads must be left for probes and for saying no: what comes beyond is told so at once, where it
would otherwise stand in a line that nobody sees.
"""

import threading

from hotseat.core.errors import QueueFull


class Places:
    """A number of places; `with places:` takes one, or raises QueueFull."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.Semaphore(count)

    def take(self) -> None:
        """Take a place until `give_back`."""
        if not self._free.acquire(blocking=False):
            message = f"{self._count} requests are being served or waiting already"
            raise QueueFull(message, code="too_many_requests", retry_after=5.0)

    def give_back(self) -> None:
        """Make room for another."""
        self._free.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self._free.release()
