"""Output of engines: bounded in memory, with positions to follow it by, and on disk, rotated."""

import logging
import logging.handlers
import sys
import threading
from collections import deque
from itertools import islice
from pathlib import Path

KEPT_LINES = 2000
LONGEST_LINE = 4000  # characters (and bytes while it is incomplete)
FILE_BYTES = 5_000_000
FILES = 3

log = logging.getLogger(__name__)


class Lines:
    """Cuts a stream of bytes into lines: long ones cut, undecodable bytes replaced, overwritten progress bars as last seen."""

    def __init__(self) -> None:
        self._open = b""
        self._skipping = False  # the rest of a line whose beginning was handed out

    def feed(self, data: bytes) -> list[str]:
        """Lines that are complete now."""
        *complete, self._open = (self._open + data).split(b"\n")
        lines = []
        for line in complete:
            if not self._skipping:
                lines.append(_text(line))
            self._skipping = False
        if len(self._open) > LONGEST_LINE:
            shown = self._open.rpartition(b"\r")[2]
            if len(shown) > LONGEST_LINE:
                if not self._skipping:
                    lines.append(_text(shown))
                self._skipping, shown = True, b""
            self._open = shown
        return lines

    def rest(self) -> list[str]:
        """Give the last line, if its end never came."""
        line, self._open = self._open, b""
        return [_text(line)] if line and not self._skipping else []


class ModelLog:
    """Output of one model's engine over its runs: a LogView. Positions count the lines ever written."""

    def __init__(self, file: Path | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._written = 0
        self._changed = threading.Condition()
        self._file = _RotatedFile(file) if file is not None else None

    @property
    def position(self) -> int:
        """Position behind the last line."""
        return self._written

    def write(self, lines: list[str]) -> None:
        """Append and wake the followers."""
        if not lines:
            return
        with self._changed:
            self._lines.extend(lines)
            self._written += len(lines)
            self._changed.notify_all()
        if self._file is not None:
            self._file.handle(logging.makeLogRecord({"msg": "\n".join(lines)}))

    def tail(self, lines: int) -> list[str]:
        """Last lines, oldest first, without line ends."""
        with self._changed:
            return list(islice(self._lines, max(0, len(self._lines) - lines), None))

    def read_after(self, position: int, timeout: float) -> tuple[int, list[str]]:
        """Lines after a position (0: from the oldest kept) and the new position; waits up to `timeout` seconds for some.

        A position that was never reached (it comes from before a restart) counts as 0.
        """
        with self._changed:
            if position > self._written:
                position = 0
            self._changed.wait_for(lambda: self._written > position, timeout)
            oldest = self._written - len(self._lines)
            return self._written, list(islice(self._lines, max(0, position - oldest), None))

    def close(self) -> None:
        """Close the file; memory stays readable."""
        if self._file is not None:
            self._file.close()


class _RotatedFile(logging.handlers.RotatingFileHandler):
    """A full disk costs lines, not the engine: the first error is logged, the others are not."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=FILE_BYTES, backupCount=FILES - 1, delay=True, encoding="utf-8", errors="replace"
        )
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the name is logging's
        if not self._failed:
            self._failed = True
            log.warning("cannot write %s: %s", self.baseFilename, sys.exc_info()[1])


def _text(line: bytes) -> str:
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]  # what a terminal would show of a line that was overwritten
    return shown[:LONGEST_LINE].decode("utf-8", "replace")
