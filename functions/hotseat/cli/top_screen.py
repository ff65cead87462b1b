"""A terminal for a picture that changes: its own screen, keys without Enter, and the size as it is."""

import os
import re
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

import click

from hotseat.cli.top_picture import BAD, BOLD, BUSY, CHOSEN, DIM, GOOD, HEAD, Line

_STYLES: dict[str, dict[str, Any]] = {
    HEAD: {"bold": True},
    BOLD: {"bold": True},
    DIM: {"dim": True},
    GOOD: {"fg": "green"},
    BUSY: {"fg": "yellow"},
    BAD: {"fg": "red"},
    CHOSEN: {"reverse": True, "bold": True},
}
_ENTER = "\x1b[?1049h\x1b[?25l"  # another screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|.", re.DOTALL)
_NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b": "esc", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x03": "q", "\x04": "q",
}  # fmt: skip


def styled(line: Line) -> str:
    """Return a line with the codes that terminals understand."""
    return "".join(click.style(text, **_STYLES[style]) if style in _STYLES and text else text for text, style in line)


def keys_of(data: bytes) -> list[str]:
    """Return the keys that a terminal has sent: characters, and names such as `up` and `esc`. Unknown ones are left out."""
    found = _KEY.findall(data.decode(errors="ignore"))
    return [_NAMES.get(key, key) for key in found if key in _NAMES or (len(key) == 1 and key.isprintable())]


class Screen:
    """The terminal of this process, as long as the `with` block lasts. Only the main thread uses it, except for `wake`."""

    def __init__(self) -> None:
        self._input, self._output = sys.stdin.fileno(), sys.stdout
        self._before: list[Any] = []
        self._drawn = ""
        self._awake, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._input)
        signal.signal(signal.SIGWINCH, lambda *_: self._redraw())
        signal.signal(signal.SIGTSTP, lambda *_: self._suspend())
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGWINCH, signal.SIGTSTP):
            signal.signal(number, signal.SIG_DFL)
        with suppress(OSError, termios.error):  # the terminal may be gone
            self._give_back()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are: COLUMNS and LINES of the environment do not change with the window."""
        try:
            return os.get_terminal_size(self._output.fileno())
        except OSError:
            return shutil.get_terminal_size()

    def wake(self) -> None:
        """Let `keys` return."""
        with suppress(BlockingIOError):
            os.write(self._wake, b".")

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines, and nothing else."""
        text = "\x1b[K\r\n".join(map(styled, lines))
        if text != self._drawn:
            # Terminals that know the mode 2026 show all of it at once.
            self._output.write(f"\x1b[?2026h\x1b[H{text}\x1b[K\x1b[J\x1b[?2026l")
            self._output.flush()
            self._drawn = text

    def keys(self, timeout: float) -> Iterator[str]:
        """Yield the keys that are pressed in so many seconds, or until `wake`. Raise EOFError if the terminal is gone."""
        ready, _, _ = select.select([self._input, self._awake], [], [], timeout)
        if self._awake in ready:
            os.read(self._awake, 4096)
        if self._input in ready:
            try:
                data = os.read(self._input, 4096)
            except OSError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            yield from keys_of(data)

    def _take(self) -> None:
        tty.setcbreak(self._input, termios.TCSANOW)
        self._output.write(_ENTER)
        self._redraw()

    def _give_back(self) -> None:
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)
        self._output.write(_LEAVE)
        self._output.flush()

    def _redraw(self) -> None:
        self._drawn = ""
        self.wake()

    def _suspend(self) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
