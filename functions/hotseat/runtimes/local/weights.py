"""Fetches of weights: a child process per source (hotseat.sources.fetch), its progress, and retries."""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from hotseat.core.messages import CacheObserved, CacheState
from hotseat.core.ports import Observe
from hotseat.private_files import make_directory
from hotseat.sources.base import SourceError, fetch_command, redacted

ATTEMPTS = 3
FIRST_PAUSE = 2.0  # seconds before the second attempt; three times as long before each further attempt
PROGRESS_INTERVAL = 1.0  # seconds between reports of progress, over all attempts

log = logging.getLogger(__name__)


class WeightsFetch(threading.Thread):
    """One fetch, from the first attempt to CACHED or FAILED. Nothing is reported once it is cancelled.

    `more`: sources that are fetched after the first one, such as those of LoRA adapters.
    """

    def __init__(
        self,
        model: str,
        source: str,
        cache_dir: Path,
        env: Mapping[str, str],
        observe: Observe,
        *,
        clock: Callable[[], float],
        more: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name=f"fetch-{model}", daemon=True)
        self.model = model
        self.sources = (source, *more)
        self.source = source  # that is being fetched
        self._cache_dir = cache_dir
        self._env = env
        self._observe = observe
        self._clock = clock
        self._lock = threading.Lock()  # so that no child is started once the fetch is cancelled
        self._cancelled = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._next_report = 0.0  # monotonic seconds
        self.ended = False  # set before the last report, so that its observer may start another fetch

    def cancel(self) -> None:
        """Kill the child; the bytes that it has fetched are kept for the next fetch."""
        with self._lock:
            self._cancelled.set()
            if self._child is not None:
                self._kill(self._child)

    def run(self) -> None:
        """Fetch, and always report the result."""
        self._report(CacheState.FETCHING)
        state, message = CacheState.CACHED, ""
        try:
            for source in self.sources:
                self.source = source
                self._fetch()
        except SourceError as problem:
            state, message = CacheState.FAILED, str(problem)
        except Exception as problem:
            log.exception("the fetch of %s failed", redacted(self.source))
            state, message = CacheState.FAILED, f"the fetch of {redacted(self.source)} failed: {problem!r}"
        self.ended = True
        self._report(state, message)

    def _fetch(self) -> None:
        """Fetch in several attempts. Raise SourceError if all fail."""
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._attempt()
            except SourceError as problem:
                if self._cancelled.is_set() or not problem.retryable or attempt == ATTEMPTS:
                    raise
                log.warning("fetching %s failed: %s; starting attempt %d", redacted(self.source), problem, attempt + 1)
                self._cancelled.wait(pause)
                pause *= 3
            else:
                return

    def _attempt(self) -> None:
        """Run a child to its end. Raise SourceError with the child's error if it failed."""
        with self._start() as child:
            assert child.stdout is not None  # noqa: S101 - for mypy: PIPE gives it
            try:
                last = self._read_progress(child.stdout)
            except BaseException:
                self._kill(child)  # its output is not read any more, and leaving this block waits for it
                raise
        if child.returncode != 0 or "path" not in last:
            message = last.get("error", f"the fetch of {self.source} ended with code {child.returncode}")
            raise SourceError(str(message), retryable=bool(last.get("retryable", True)))

    def _read_progress(self, output: IO[bytes]) -> dict[str, Any]:
        """Report the child's progress, and return its last message. What came within an interval is reported at its end."""
        last: dict[str, Any] = {}
        poll, rest = select.poll(), b""
        poll.register(output, select.POLLIN | select.POLLHUP)
        unreported = False
        while True:
            if unreported and not poll.poll(1000 * max(0.0, self._next_report - time.monotonic())):
                self._report_progress(last)
                unreported = False
                continue
            if not (data := os.read(output.fileno(), 65536)):
                return last
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # the output of a library
                if not isinstance(message, dict):
                    continue
                last = message
                unreported = isinstance(message.get("done"), int)
                if unreported and time.monotonic() >= self._next_report:
                    self._report_progress(message)
                    unreported = False

    def _report_progress(self, message: dict[str, Any]) -> None:
        self._next_report = time.monotonic() + PROGRESS_INTERVAL
        total = message.get("total")
        self._report(CacheState.FETCHING, done=message["done"], total=total if isinstance(total, int) else None)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._cancelled.is_set():
                raise SourceError("cancelled")
            with contextlib.suppress(OSError):  # the child says what is wrong
                make_directory(self._cache_dir)
            try:
                command = fetch_command(self.source, self._cache_dir)
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    env=dict(self._env),
                    start_new_session=True,
                )
            except OSError as problem:
                raise SourceError(f"cannot run {command[0]}: {problem}") from problem
            return self._child

    @staticmethod
    def _kill(child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def _report(self, state: CacheState, message: str = "", done: int | None = None, total: int | None = None) -> None:
        if not self._cancelled.is_set():
            self._observe(CacheObserved(self._clock(), self.model, state, message, done, total))
