"""What a fetch tells its parent: JSON lines on stdout, at most ten a second."""

import json
import time
from typing import Any, TextIO

from hotseat.sources.download import Report

INTERVAL = 0.1  # seconds


class Progress:
    """Adds up the files of one fetch."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._before = 0  # bytes of the files that are whole
        self._last = float("-inf")
        self.total: int | None = None  # of all files, where the origin states it

    def file(self, name: str) -> Report:
        """Make the reporter of the next file; earlier ones are whole by then."""
        before = self._before

        def report(done: int, total: int | None) -> None:
            self._before = before + done
            if done == total or time.monotonic() - self._last >= INTERVAL:
                self._last = time.monotonic()
                whole = self.total if self.total is not None or total is None else before + total
                self.say({"done": before + done, "total": whole, "file": name})

        return report

    def say(self, line: dict[str, Any]) -> None:
        """Write one line at once."""
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()
