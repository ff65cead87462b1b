"""A pool of threads for the routes in Flask."""

import logging
import queue
import threading
from collections.abc import Callable
from math import inf

log = logging.getLogger(__name__)

Job = Callable[[], object]
MIN_THREADS = 8  # idle threads that do not exit
MOST = 32  # threads for short requests
IDLE_TIME = 10.0  # seconds after which other idle threads exit
BACKLOG = 64  # jobs that may wait for a thread if no more can be created


class Threads:
    """A pool of at most `most` threads. Thread-safe.

    It grows while all threads are busy. Long jobs have threads of their own (`reserve`), up to `cap` in all. At most
    `backlog` jobs wait for a thread; more are refused. Idle threads exit after `idle_time` seconds, because engines also
    need threads.
    """

    def __init__(
        self, most: int = MOST, *, cap: float = inf, idle_time: float = IDLE_TIME, backlog: int = BACKLOG
    ) -> None:
        self._most = most
        self._cap = cap
        self._idle_time = idle_time
        self._backlog = backlog
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over the next two
        self._count = 0
        self._idle = 0  # idle threads, less queued jobs
        self._reserved = 0  # threads for long jobs, in addition to `most`

    def submit(self, job: Job) -> bool:
        """Run a job in a thread. Return False, without running it, if no thread can be created and the backlog is full."""
        with self._lock:
            if self._idle <= 0 and not self._grow() and (not self._count or self._idle <= -self._backlog):
                return False
            self._idle -= 1
        self._jobs.put(job)
        return True

    def spare(self, count: int) -> bool:
        """Whether `count` threads are idle. Missing threads are created, if possible."""
        with self._lock:
            while self._idle < count:
                if not self._grow():
                    return False
            return True

    def reserve(self, count: int) -> None:
        """Allow this many threads more, because jobs that run now will take long. Negative: they have ended."""
        with self._lock:
            self._reserved += count

    def shutdown(self) -> None:
        """Let each thread exit after its job."""
        with self._lock:
            for _ in range(self._count):
                self._jobs.put(None)

    def _grow(self) -> bool:
        if self._count >= min(self._most + self._reserved, self._cap):
            return False
        try:
            threading.Thread(target=self._run, name=f"request-{self._count}").start()
        except (RuntimeError, MemoryError):  # a limit on threads or processes, or no memory for its stack
            return False
        self._count += 1
        self._idle += 1
        return True

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_time)
            except queue.Empty:
                with self._lock:
                    if self._idle > MIN_THREADS:
                        self._idle -= 1
                        self._count -= 1
                        return
                continue
            if job is None:
                return
            try:
                job()
            except Exception:
                log.exception("a request failed")
            with self._lock:
                self._idle += 1
