"""Threads for short jobs that may hang."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class ReusedThreads:
    """Runs each job at once, on a thread of its own or on one that is idle. Thread-safe.

    A switch waits for such a job, and a new thread takes as long as many of them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def run(self, job: Job) -> None:
        """Run a job, which must not raise. Raise RuntimeError if no thread can be started."""
        if self._idle.acquire(blocking=False):
            self._jobs.put(job)
        else:
            threading.Thread(target=self._run, args=(job,), name=self._name, daemon=True).start()

    def _run(self, job: Job) -> None:
        while True:
            job()
            self._idle.release()
            job = self._jobs.get()
