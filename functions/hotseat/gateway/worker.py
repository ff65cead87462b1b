"""gunicorn's threaded worker, with threads that stay with their connection for a moment.

gthread gives a kept-alive connection back to its main loop after each answer and takes a thread from the pool for the next
request: two hand-overs, each of which waits for the interpreter's lock. A client that sends one request after another is
served by one thread here, which is what makes the relay's added latency and its requests per second what they are.
"""

import select
import threading
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

LINGER = 5  # milliseconds that a thread waits for its connection's next request
# Threads that may do so at once. With many busy connections staying gains little, and those that do not get to stay would
# starve: at 64 connections the slowest percent of requests then takes ten times as long.
STAYING = 4


class Worker(ThreadWorker):  # type: ignore[misc]
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = threading.Semaphore(STAYING)

    def handle(self, conn: Any) -> Any:
        """Serve requests of one connection while they come quickly; then, or on any other end, as gthread does."""
        result = super().handle(conn)
        if result is not True or not self._places.acquire(blocking=False):
            return result
        try:
            waiting = select.poll()
            waiting.register(conn.sock, select.POLLIN)
            while result is True and self.alive and not conn.is_http2 and waiting.poll(LINGER):
                result = super().handle(conn)
        finally:
            self._places.release()
        return result
