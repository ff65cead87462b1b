"""A worker for which many changes in a short time are one change."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


Measured = Callable[[float], None]


def unmeasured(_seconds: float) -> None:
    """Ignore how long a call has taken."""


class CoalescingWorker:
    """Calls `work` on a thread of its own after `mark`. All marks until a call begins cause that one call.

    `work` returns the seconds until it is called again without a mark. None: not without one. If it raises, that is logged, and
    it is called again after `retry[0]` seconds, then after twice that, and so on up to `retry[1]` seconds. Errors of the type
    `expected` are logged without a traceback. The thread exists while a call is due. Thread-safe.
    `measured` is called with the seconds that each call has taken, failed or not.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], float | None],
        *,
        retry: tuple[float, float] = (1.0, 1.0),
        expected: type[Exception] = OSError,
        paused: bool = False,
        measured: Measured = unmeasured,
    ) -> None:
        """Create the worker. PAUSED: make no call before `start`."""
        self._name = name
        self._work = work
        self._retry = retry
        self._expected = expected
        self._measured = measured
        self._changed = threading.Condition()  # guards what follows
        self._due: float | None = None  # when the next call begins, on the monotonic clock
        self._paused = paused
        self._running = False  # there is a thread
        self._closed = False

    def start(self) -> None:
        """Make the calls that are due, if the worker was paused. Raise RuntimeError if no thread can be started."""
        with self._changed:
            self._paused = False
            self._ensure_thread()

    def mark(self, delay: float = 0.0) -> None:
        """Call `work` within DELAY seconds. If it runs now, call it again."""
        due = time.monotonic() + delay
        with self._changed:
            if not self._closed and (self._due is None or due < self._due):
                self._due = due
                self._changed.notify_all()
            try:
                self._ensure_thread()
            except RuntimeError as error:
                log.warning("%s: cannot start a thread: %s; it is tried again with the next change", self._name, error)

    def close(self, timeout: float = 0.0) -> None:
        """Begin no more calls. Wait up to TIMEOUT seconds for the call that runs; only from another thread."""
        with self._changed:
            self._closed, self._due = True, None
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running, timeout)

    def _ensure_thread(self) -> None:
        if self._due is None or self._running or self._paused:
            return
        threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._running = True

    def _run(self) -> None:
        pause, longest = self._retry
        while self._wait():
            begun = time.monotonic()
            try:
                delay = self._work()
                pause = self._retry[0]
            except Exception as error:
                bug = not isinstance(error, self._expected)
                log.log(logging.ERROR if bug else logging.WARNING, "%s: %s", self._name, error, exc_info=bug)
                delay, pause = pause, min(2 * pause, longest)
            self._measured(time.monotonic() - begun)
            if delay is not None:
                self.mark(delay)

    def _wait(self) -> bool:
        """Wait until a call is due. Return False if none is, and end the thread."""
        with self._changed:
            while self._due is not None:
                rest = self._due - time.monotonic()
                if rest <= 0:
                    self._due = None
                    return True
                self._changed.wait(rest)
            self._running = False
            self._changed.notify_all()
        return False
