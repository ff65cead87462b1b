"""Thread pool for connections. It grows while all threads are busy, and refuses jobs instead of queueing them.

Idle threads exit after a while, because engines also need threads.
"""

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

Job = Callable[[], object]
MIN_THREADS = 8  # idle threads that do not exit
IDLE_TIME = 10.0  # seconds after which other idle threads exit
BACKLOG = 64  # jobs that may wait for a thread if no more can be created


class Threads:
    """A pool of at most `most` threads. Idle threads exit after `idle_time` seconds. Thread-safe.

    At most `backlog` jobs wait for a thread.
    """

    def __init__(self, most: int, idle_time: float = IDLE_TIME, backlog: int = BACKLOG) -> None:
        self._most = most
        self._idle_time = idle_time
        self._backlog = backlog
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over the next two
        self._count = 0
        self._idle = 0  # idle threads, less queued jobs

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

    def shutdown(self, *, wait: bool = False) -> None:
        """Let each thread exit after its job. `wait` is ignored; gunicorn passes it."""
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
                log.exception("a job of a connection failed")
            with self._lock:
                self._idle += 1
