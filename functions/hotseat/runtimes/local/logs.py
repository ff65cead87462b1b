"""Output of engines: bounded in memory, with positions to continue from, and on disk with rotation."""

import logging
import logging.handlers
import sys
import threading
from collections import deque
from io import TextIOWrapper
from itertools import islice
from pathlib import Path

from hotseat.private_files import opener

KEPT_LINES = 2000
MAX_LINE = 4000  # characters (and bytes while the line is incomplete)
FILE_BYTES = 5_000_000
FILES = 3

log = logging.getLogger(__name__)


class Lines:
    """Splits a stream of bytes into lines.

    Long lines are cut, undecodable bytes replaced, progress bars shown as last written.
    """

    def __init__(self) -> None:
        self._open = b""
        self._skipping = False  # the rest of a line whose beginning was returned

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete now."""
        *complete, self._open = (self._open + data).split(b"\n")
        lines = []
        for line in complete:
            if not self._skipping:
                lines.append(_text(line))
            self._skipping = False
        if len(self._open) > MAX_LINE:
            shown = self._open.rpartition(b"\r")[2]
            if len(shown) > MAX_LINE:
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
        """Position after the last line."""
        return self._written

    def write(self, lines: list[str]) -> None:
        """Append lines and wake waiting readers."""
        if not lines:
            return
        with self._changed:
            self._lines.extend(lines)
            self._written += len(lines)
            self._changed.notify_all()
        if self._file is not None:
            self._file.handle(logging.makeLogRecord({"msg": "\n".join(lines)}))

    def tail(self, lines: int) -> list[str]:
        """Return the last lines, oldest first, without line ends."""
        with self._changed:
            return list(islice(self._lines, max(0, len(self._lines) - lines), None))

    def read_after(self, position: int, timeout: float) -> tuple[int, list[str]]:
        """Return the new position, and the lines after `position` (0: from the oldest kept).

        Wait up to `timeout` seconds for lines. A position that was not reached yet comes from
        before a restart, and counts as 0.
        """
        with self._changed:
            if position > self._written:
                position = 0
            self._changed.wait_for(lambda: self._written > position, timeout)
            oldest = self._written - len(self._lines)
            return self._written, list(islice(self._lines, max(0, position - oldest), None))

    def close(self) -> None:
        """Close the file; the lines in memory remain readable."""
        if self._file is not None:
            self._file.close()


class _RotatedFile(logging.handlers.RotatingFileHandler):
    """A log file. A full disk loses lines, and only the first error is logged."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=FILE_BYTES, backupCount=FILES - 1, delay=True, encoding="utf-8", errors="replace"
        )
        self._failed = False

    def _open(self) -> TextIOWrapper:
        """Open the file. A new one has mode 0600, because engines may log prompts."""
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=opener)  # type: ignore[return-value]

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the name is logging's
        if not self._failed:
            self._failed = True
            log.warning("cannot write %s: %s", self.baseFilename, sys.exc_info()[1])


def _text(line: bytes) -> str:
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]  # what a terminal would show of an overwritten line
    return shown[:MAX_LINE].decode("utf-8", "replace")
