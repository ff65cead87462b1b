"""Terminal output: tables, ages, and a line that is rewritten in place."""

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO
from unicodedata import combining, east_asian_width

NOTHING = "-"
REDRAW = 0.1  # seconds between two drawings of a live line


def printable(text: str) -> str:
    """Escape control characters. Names of models can have any characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def escape_controls(text: str) -> str:
    """Escape control characters except line ends and tabs: they could rewrite what a terminal shows, and more.

    Carriage returns are dropped.
    """
    return _CONTROLS.sub(lambda found: "" if found[0] == "\r" else ascii(found[0])[1:-1], text)


def for_stdout(text: str) -> str:
    """Return what to print of a text that an engine wrote: all of it, but no control characters to a terminal."""
    return escape_controls(text) if sys.stdout.isatty() else text


def text_width(text: str) -> int:
    """Return the number of columns of a text: two for wide East Asian characters, none for combining marks."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int) -> str:
    """Return as much of a text as fits into so many columns. `…` ends a text that was cut."""
    if text_width(text) <= width:
        return text
    kept = text[: max(0, width - 1)]
    while kept and text_width(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…" if width > 0 else ""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as kubectl prints it: three spaces between columns, `-` for empty cells, no final line end."""
    lines = [[*headers], *([printable(cell) or NOTHING for cell in row] for row in rows)]
    widths = [max(text_width(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        "   ".join(cell + " " * (width - text_width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def age(seconds: float) -> str:
    """Return a duration in at most two units, rounded down, as in kubectl: `45s`, `3m12s`, `5h10m`, `4d`."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    return "".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"


def took(seconds: float | None) -> str:
    """Return a duration with at most two decimals: `0.12s`, `41.3s`, `2m5s`. `-` for None."""
    if seconds is None:
        return NOTHING
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.2f}s"
    return f"{seconds:.1f}s" if seconds < 100 else age(seconds)  # noqa: PLR2004


def share(done: int | None, total: int | None) -> str:
    """Return the progress of a download: `45%  1.2Gi of 2.7Gi`, or the known part of it."""
    from hotseat.api.units import format_bytes  # noqa: PLC0415 - its import takes longer than most commands

    if done is None:
        return ""
    if not total:
        return format_bytes(done)
    return f"{100 * done // total}%  {format_bytes(done)} of {format_bytes(total)}"


def transfer(progress: Mapping[str, Any]) -> str:
    """Return the progress of a download with its rate and the time left: `45%  1.2Gi of 2.7Gi  95Mi/s  16s left`."""
    from hotseat.api.units import format_bytes  # noqa: PLC0415

    parts = [share(progress.get("done"), progress.get("total"))]
    if (rate := progress.get("rate")) is not None:
        parts.append(f"{format_bytes(rate)}/s")
    if (left := progress.get("remaining")) is not None:
        parts.append(f"{age(left)} left")
    return "  ".join(part for part in parts if part)


def is_live(stream: TextIO) -> bool:
    """Whether a line can be rewritten in place on this stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class LiveLine:
    """The last line of a terminal, rewritten in place. Thread-safe. Raises what the stream raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._shown = ""

    def show(self, text: str) -> None:
        """Replace the line. It is cut to the width of the terminal, because a wrapped line cannot be erased."""
        text = text[: shutil.get_terminal_size().columns - 1]
        with self._lock:
            if text != self._shown:
                self._write("\r\x1b[2K" + text)
                self._shown = text

    def print(self, line: str) -> None:
        """Print a permanent line above the live line."""
        with self._lock:
            self._write(("\r\x1b[2K" if self._shown else "") + line + "\n" + self._shown)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@contextmanager
def live(stream: TextIO, text: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Show a line with the current `text()` until the body ends, or calls the function that it gets.

    If the stream is not a terminal, nothing is shown.
    """
    if not is_live(stream):
        yield lambda: None
        return
    line, over = LiveLine(stream), threading.Event()

    def draw() -> None:
        with suppress(OSError):
            while not over.wait(REDRAW):
                line.show(text())

    def stop() -> None:
        if not over.is_set():
            over.set()
            thread.join()
            line.show("")

    thread = threading.Thread(target=draw, name="progress", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop()
