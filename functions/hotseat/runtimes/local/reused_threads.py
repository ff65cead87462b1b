"""Threads for short jobs that may hang."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class ReusedThreads:
    """Runs each job at once, on a thread of its own or on the one that is idle. Thread-safe.

    A switch waits for such a job, and the start of a thread would take as long as the job does.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = False  # a thread waits for a job

    def run(self, job: Job) -> None:
        """Run a job, which must not raise. Raise RuntimeError if no thread can be started."""
        with self._lock:
            idle, self._idle = self._idle, False
        if idle:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._run, args=(job,), name=self._name, daemon=True).start()

    def _run(self, job: Job) -> None:
        while True:
            job()
            with self._lock:
                if self._idle:
                    return
                self._idle = True
            job = self._jobs.get()
