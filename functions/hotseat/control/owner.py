"""State that one thread owns, so that it needs no lock: the thread of the gateway's event loop."""

import logging
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class LoopOwner:
    """Runs functions on the thread of an event loop, which owns the state that they use.

    Before `begin` and after `end` there is no such thread. Functions then run in the thread of the caller, one at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # over the next two, and held by functions while there is no loop
        self._loop: AbstractEventLoop | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._thread: int | None = None

    def begin(self, loop: AbstractEventLoop) -> None:
        """Let the calling thread, which runs `loop`, own the state."""
        with self._lock:
            self._loop = loop
            self._thread = threading.get_ident()

    def end(self) -> None:
        """End the ownership, on the loop's thread. Functions that still wait are run."""
        with self._lock:
            self._loop = None
            self._thread = None
            self._run_jobs()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the owning thread. Return its result, or raise its exception."""
        if threading.get_ident() == self._thread:
            return function()
        result = Future[T]()
        with self._lock:
            if self._loop is None:
                return function()
            self._post(self._loop, partial(_fulfil, result, function))
        return result.result()

    def post(self, function: Callable[[], None]) -> None:
        """Run a function on the owning thread, soon. Do not wait for it."""
        with self._lock:
            if self._loop is not None:
                self._post(self._loop, function)
                return
            function()

    def _post(self, loop: AbstractEventLoop, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            loop.call_soon_threadsafe(self._run_jobs)

    def _run_jobs(self) -> None:
        with self._lock:
            jobs = list(self._jobs)
            self._jobs.clear()
        for job in jobs:
            try:
                job()
            except Exception:
                log.exception("a function for the event loop failed")


def _fulfil(result: "Future[T]", function: Callable[[], T]) -> None:
    try:
        result.set_result(function())
    except BaseException as error:
        result.set_exception(error)
