"""Bringing weights: a child process per source (hotseat.sources.fetch), its progress, and new attempts when they may help."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hotseat.core.messages import CacheObserved, CacheState
from hotseat.core.ports import Observe
from hotseat.sources.base import SourceError, fetch_command

ATTEMPTS = 3
FIRST_PAUSE = 2.0  # seconds before the second attempt; three times as long before each further one
PROGRESS_PAUSE = 1.0  # seconds between reports of progress, over all attempts

log = logging.getLogger(__name__)


class Fetching(threading.Thread):
    """One fetch, from the first attempt to CACHED or FAILED. No more is told once it is cancelled."""

    def __init__(
        self,
        model: str,
        source: str,
        cache_dir: Path,
        env: Mapping[str, str],
        observe: Observe,
        *,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name=f"fetch-{model}", daemon=True)
        self.model = model
        self.source = source
        self._cache_dir = cache_dir
        self._env = env
        self._observe = observe
        self._clock = clock
        self._lock = threading.Lock()  # a child is not started once it is cancelled
        self._cancelled = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._next_report = 0.0  # monotonic
        self.over = False  # set before the last word is said, so that whoever hears it may order another

    def cancel(self) -> None:
        """Kill the child; what it has is kept for the next fetch."""
        with self._lock:
            self._cancelled.set()
            if self._child is not None:
                self._kill(self._child)

    def run(self) -> None:
        """Fetch, and say how it ended, whatever happens."""
        self._tell(CacheState.FETCHING)
        state, message = CacheState.CACHED, ""
        try:
            self._bring()
        except SourceError as problem:
            state, message = CacheState.FAILED, str(problem)
        except Exception as problem:
            log.exception("fetch of %s", self.source)
            state, message = CacheState.FAILED, f"the fetch of {self.source} failed: {problem!r}"
        self.over = True
        self._tell(state, message)

    def _bring(self) -> None:
        """Try, and try again."""
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._attempt()
            except SourceError as problem:
                if self._cancelled.is_set() or not problem.retryable or attempt == ATTEMPTS:
                    raise
                log.warning("fetching %s failed: %s; starting attempt %d", self.source, problem, attempt + 1)
                self._cancelled.wait(pause)
                pause *= 3
            else:
                return

    def _attempt(self) -> None:
        """Run the child to its end. SourceError says what it said."""
        with self._start() as child:
            assert child.stdout is not None  # noqa: S101 - for mypy: PIPE gives it
            try:
                last = self._listen(child.stdout)
            except BaseException:
                self._kill(child)  # nobody listens any more, and leaving this block waits for it
                raise
        if child.returncode != 0 or "path" not in last:
            message = last.get("error", f"the fetch of {self.source} ended with code {child.returncode}")
            raise SourceError(str(message), retryable=bool(last.get("retryable", True)))

    def _listen(self, output: Iterable[bytes]) -> dict[str, Any]:
        """Pass the child's progress on, and give the last thing that it said."""
        last: dict[str, Any] = {}
        for line in output:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # not its answer: some library's chatter
            if not isinstance(said, dict):
                continue
            last = said
            done, total = said.get("done"), said.get("total")
            if isinstance(done, int) and time.monotonic() >= self._next_report:
                self._next_report = time.monotonic() + PROGRESS_PAUSE
                self._tell(CacheState.FETCHING, done=done, total=total if isinstance(total, int) else None)
        return last

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._cancelled.is_set():
                raise SourceError("cancelled")
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

    def _tell(self, state: CacheState, message: str = "", done: int | None = None, total: int | None = None) -> None:
        if not self._cancelled.is_set():
            self._observe(CacheObserved(self._clock(), self.model, state, message, done, total))
