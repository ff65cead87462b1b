"""The progress of a fetch for its parent process: JSON lines on stdout, at most ten per second."""

import json
import time
from typing import Any, TextIO

from hotseat.sources.download import Report

INTERVAL = 0.1  # seconds


class Progress:
    """The total progress of the files of one fetch."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._finished = 0  # bytes of all files so far
        self._last = float("-inf")
        self.total: int | None = None  # bytes of all files; None if the origin does not state them

    def file(self, name: str) -> Report:
        """Return the reporter of the next file. Earlier files must be complete."""
        before = self._finished

        def report(done: int, total: int | None) -> None:
            self._finished = before + done
            if done == total or time.monotonic() - self._last >= INTERVAL:
                self._last = time.monotonic()
                all_bytes = self.total if self.total is not None or total is None else before + total
                self.write({"done": before + done, "total": all_bytes, "file": name})

        return report

    def write(self, line: dict[str, Any]) -> None:
        """Write one line at once."""
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()
