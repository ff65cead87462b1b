"""gunicorn's threaded worker, with threads that stay with their connection for a moment, and a quick end.

gthread gives a kept-alive connection back to its main loop after each answer and takes a thread from the pool for the next
request: two hand-overs, each of which waits for the interpreter's lock. A client that sends one request after another is
served by one thread here, which is what makes the relay's added latency and its requests per second what they are.

gthread closes connections on its main loop, and gives each client two seconds to close its side: one that does not holds up
all others. Here a thread of the pool waits for that. And at its end gthread waits for connections on which nothing happens
until they time out; here they are closed at once.
"""

import os
import select
import signal
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
        self._orphaned = False

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

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Go on with a connection that is kept, or end it."""
        if not fs.cancelled() and fs.exception() is None and fs.result() and self.alive:
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1
            self.tpool.submit(conn.close, graceful=True)

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Take no more connections, and end with the last request. From any thread."""
        if self.alive:
            super().handle_exit(sig, frame)
            self.method_queue.defer(self._close_idle)

    def is_parent_alive(self) -> bool:
        """Whether the arbiter lives; if not, end as if it had said so, and look after the engines until then."""
        if not self._orphaned and self.ppid != os.getppid():
            self._orphaned = True
            signal.raise_signal(signal.SIGTERM)
        return True

    def _close_idle(self) -> None:
        for conn in (*self.keepalived_conns, *self.pending_conns):
            self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            conn.close()
        self.keepalived_conns.clear()
        self.pending_conns.clear()
