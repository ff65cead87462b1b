"""A program in a terminal: what its screen shows, and keys that are pressed."""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyte

from .harness import PATIENCE, eventually

# The terminal becomes the controlling one, so that Ctrl-C and its end arrive as signals.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A `hotseat` in a terminal of its own."""

    def __init__(self, *args: str, env: Mapping[str, str] | None = None, columns: int = 100, lines: int = 30) -> None:
        self._terminal, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.modes = termios.tcgetattr(theirs)
        self._theirs = theirs  # else its settings could not be read at the end
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        command = [str(Path(sys.executable).with_name("hotseat")), *args]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **(env or {})},
        )
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._terminal, 65536):
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    @property
    def screen(self) -> str:
        """What is shown."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display).strip("\n")

    def shows(self, text: str) -> str:
        """Wait until the screen has this text; all of it then."""

        def found() -> str:
            shown = self.screen
            return shown if text in shown else ""

        try:
            return eventually(found)
        except AssertionError:
            raise AssertionError(f"{text!r} was never shown:\n{self.screen}") from None

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def ended(self) -> int:
        """Wait for its end, and look that the terminal is as it was before."""
        status = self.process.wait(PATIENCE)
        assert termios.tcgetattr(self._theirs) == self.modes
        eventually(lambda: self.raw.count(b"\x1b[?1049h") == self.raw.count(b"\x1b[?1049l"))
        eventually(lambda: self.raw.count(b"\x1b[?25l") == self.raw.count(b"\x1b[?25h"))
        return status

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._theirs)


@contextlib.contextmanager
def terminal(*args: str, **more: object) -> Iterator[Terminal]:
    shown = Terminal(*args, **more)
    try:
        yield shown
    finally:
        shown.close()
