"""Bringing weights: a child process per source (hotseat.sources.fetch), its progress, and new attempts when they may help."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hotseat.core.messages import CacheObserved, CacheState
from hotseat.core.ports import Observe
from hotseat.sources.base import SourceError, fetch_command

ATTEMPTS = 3
FIRST_PAUSE = 2.0  # seconds before the second attempt; three times as long before each further one
PROGRESS_PAUSE = 0.2  # seconds between reports

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
        self.over = False  # set before the last word is said, so that whoever hears it may order another

    def cancel(self) -> None:
        """Kill the child; what it has is kept for the next fetch."""
        with self._lock:
            self._cancelled.set()
            if self._child is not None and self._child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGKILL)

    def run(self) -> None:
        """Try, and try again."""
        pause = FIRST_PAUSE
        self._tell(CacheState.FETCHING)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._attempt()
            except SourceError as problem:
                if self._cancelled.is_set():
                    return
                if not problem.retryable or attempt == ATTEMPTS:
                    self.over = True
                    self._tell(CacheState.FAILED, str(problem))
                    return
                log.warning("fetching %s: %s; attempt %d follows", self.source, problem, attempt + 1)
                self._cancelled.wait(pause)
                pause *= 3
            else:
                self.over = True
                self._tell(CacheState.CACHED)
                return

    def _attempt(self) -> None:
        """Run the child to its end. SourceError says what it said."""
        last: dict[str, Any] = {}
        next_report = 0.0
        with self._start() as child:
            assert child.stdout is not None  # noqa: S101 - for mypy: PIPE gives it
            for line in child.stdout:
                with contextlib.suppress(ValueError):  # not its answer
                    last = json.loads(line)
                if "done" in last and time.monotonic() >= next_report:
                    next_report = time.monotonic() + PROGRESS_PAUSE
                    self._tell(CacheState.FETCHING, done=last["done"], total=last.get("total"))
        if child.returncode != 0 or "path" not in last:
            message = last.get("error", f"the fetch of {self.source} ended with code {child.returncode}")
            raise SourceError(message, retryable=last.get("retryable", True))

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

    def _tell(self, state: CacheState, message: str = "", done: int | None = None, total: int | None = None) -> None:
        if not self._cancelled.is_set():
            self._observe(CacheObserved(self._clock(), self.model, state, message, done, total))
