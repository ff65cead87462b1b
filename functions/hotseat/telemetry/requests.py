"""The request log: one JSON line for each request that ended. Nothing of what was asked or answered, and no key, is in it.

`hotseat simulate --trace` reads what is written here; docs/simulate.md has a table of the fields.
"""

import atexit
import json
import logging
import os
import queue
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hotseat.api.units import format_time

log = logging.getLogger(__name__)

STDOUT = "-"
BACKLOG = 10_000  # lines that may wait for a slow disk
GOODBYE = 2.0  # seconds that close() waits for the last of them


@dataclass(frozen=True, slots=True)
class Ended:
    """One request for a Model that exists."""

    arrived: float  # seconds since 1970
    model: str
    route: str
    waited: float | None  # seconds from its arrival until it was sent to an engine; None: it never was
    seconds: float  # from its arrival until its end
    status: int  # that its client saw; 499: it left
    priority: int = 0
    tenant: str | None = None
    wanted: str | None = None  # the Model that was asked for, where another answered

    def line(self) -> str:
        """Write it as it stands in the log."""
        told = {
            "time": format_time(self.arrived),
            "model": self.model,
            "route": self.route,
            "waited": None if self.waited is None else round(self.waited, 4),
            "seconds": round(self.seconds, 4),
            "status": self.status,
            "priority": self.priority,
        }
        told |= {name: value for name, value in (("tenant", self.tenant), ("wanted", self.wanted)) if value is not None}
        return json.dumps(told, ensure_ascii=False) + "\n"


class RequestLog:
    """Appends to a file, or to the standard output (`-`). A thread of its own writes, so that a disk holds up no request.

    A file that was moved away is made anew, so tools that rotate logs need tell us nothing. What cannot be written is lost, and
    hotseat's own log says so.
    """

    def __init__(self, where: str | Path) -> None:
        self._where = str(where)
        self._queue: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._file: BinaryIO | None = None
        self._lost = 0

    def note(self, ended: Ended) -> None:
        """Queue a line; returns at once and never raises."""
        if self._queue.qsize() >= BACKLOG:
            self._lost += 1
            return
        self._queue.put(ended)
        if self._thread is None:
            with self._lock, suppress(RuntimeError):  # no thread to be had: the next line tries again
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="request-log", daemon=True)
                    thread.start()
                    self._thread = thread
                    atexit.register(self.close)

    def close(self) -> None:
        """Write what is queued, as far as that takes no longer than two seconds. Nothing is written afterwards."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._queue.put(None)
            thread.join(GOODBYE)
            if self._file is not None and not thread.is_alive():
                self._file.close()

    def _run(self) -> None:
        failed = over = False
        while not over:
            lines, over = self._next()
            try:
                self._open().write("".join(lines).encode())
                failed = False
            except OSError as error:
                self._lost += len(lines)
                if not failed:
                    log.warning("cannot write the request log %s, and lines are lost: %s", self._where, error)
                failed = True
        if self._lost:
            log.warning("the request log %s has lost %d lines", self._where, self._lost)

    def _next(self) -> tuple[list[str], bool]:
        """Wait for lines; all that are queued, and whether they are the last."""
        lines = []
        ended = self._queue.get()
        while ended is not None:
            lines.append(ended.line())
            if self._queue.empty():
                return lines, False
            ended = self._queue.get()
        return lines, True

    def _open(self) -> BinaryIO:
        """Give the file; anew where it is not there any longer."""
        if self._file is not None and self._where != STDOUT and not _is_at(self._file, self._where):
            self._file.close()
            self._file = None
        if self._file is None:
            where = os.dup(sys.stdout.fileno()) if self._where == STDOUT else self._where
            self._file = open(where, "ab", buffering=0)  # noqa: SIM115, PTH123 - it stays open
        return self._file


def _is_at(file: BinaryIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))  # noqa: PTH116 - the counterpart of fstat
    except FileNotFoundError:
        return False
