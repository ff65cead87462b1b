"""gunicorn's threaded worker, with threads that stay with their connection for a moment.

gthread gives a kept-alive connection back to its main loop after each answer and takes a thread from the pool for the next
request: two hand-overs, each of which waits for the interpreter's lock. A client that sends one request after another is
served by one thread here, which is what makes the relay's added latency and its requests per second what they are.
"""

import select
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

LINGER = 5  # milliseconds that a thread waits for its connection's next request


class Worker(ThreadWorker):  # type: ignore[misc]
    """See the module."""

    def handle(self, conn: Any) -> Any:
        """Serve requests of one connection while they come quickly; then, or on any other end, as gthread does."""
        while True:
            result = super().handle(conn)
            if result is not True or not self.alive or conn.is_http2:
                return result
            waiting = select.poll()
            waiting.register(conn.sock, select.POLLIN)
            if not waiting.poll(LINGER):
                return result
