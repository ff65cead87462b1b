"""Threads for connections: more are made while all are busy, and what cannot have one is refused instead of queued.

Those that have nothing to do end after a while: where threads are scarce, engines need them, too.
"""

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

Job = Callable[[], object]
KEPT = 8  # threads that do not end
REST = 10.0  # seconds without a job after which others do
BACKLOG = 64  # jobs that may wait for a thread where no more can be made: some are kept free for what is quick


class Threads:
    """A pool of at most `most` threads, which are made when needed and end after `rest` seconds without a job. Thread-safe.

    At most `backlog` jobs wait for a thread.
    """

    def __init__(self, most: int, rest: float = REST, backlog: int = BACKLOG) -> None:
        self._most = most
        self._rest = rest
        self._backlog = backlog
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over the next two
        self._count = 0
        self._idle = 0  # those that wait for a job, less the jobs that wait for them

    def submit(self, job: Job) -> bool:
        """Run a job in a thread of its own; False if there is none, none can be made, and too many wait: nothing was done then."""
        with self._lock:
            if self._idle <= 0 and not self._grow() and (not self._count or self._idle <= -self._backlog):
                return False
            self._idle -= 1
        self._jobs.put(job)
        return True

    def spare(self, count: int) -> bool:
        """Whether `count` threads have nothing to do; those that are missing are made, if they can be."""
        with self._lock:
            while self._idle < count:
                if not self._grow():
                    return False
            return True

    def shutdown(self, *, wait: bool = False) -> None:
        """Let each thread end when its job has. `wait` is what gunicorn says; nothing is waited for."""
        del wait
        with self._lock:
            for _ in range(self._count):
                self._jobs.put(None)

    def _grow(self) -> bool:
        if self._count >= self._most:
            return False
        try:
            threading.Thread(target=self._run, name=f"connection-{self._count}").start()
        except (RuntimeError, MemoryError):  # a limit on threads or processes, or no memory for its stack
            return False
        self._count += 1
        self._idle += 1
        return True

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._rest)
            except queue.Empty:
                with self._lock:
                    if self._idle > KEPT:
                        self._idle -= 1
                        self._count -= 1
                        return
                continue
            if job is None:
                return
            try:
                job()
            except Exception:
                log.exception("a connection")
            with self._lock:
                self._idle += 1
