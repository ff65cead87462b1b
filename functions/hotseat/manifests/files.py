"""Paths to texts: files, folders and the standard input; and whether files that are watched have settled."""

import os
import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotseat.manifests.problems import Problem

STDIN = Path("-")
SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 2**20  # of one file: enough for hundreds of Models


@dataclass(frozen=True, slots=True)
class Text:
    """One file. `name` is for messages. Relative paths in it are relative to `folder`."""

    name: str
    path: Path
    folder: Path
    content: str


def read(paths: Sequence[Path]) -> Iterator[Text | Problem]:
    """Yield each file once, or a Problem if it cannot be read."""
    seen: set[Path] = set()
    for given in paths:
        for path in expand(given):
            if isinstance(path, Problem):
                yield path
            elif (absolute := Path(os.path.abspath(path))) not in seen:  # noqa: PTH100 - resolve() follows links
                seen.add(absolute)
                yield _read_file(path, absolute)


def name_of(path: Path) -> str:
    """Return a path for messages. Invalid UTF-8 is replaced."""
    return "<stdin>" if path == STDIN else os.fsencode(path).decode("utf-8", "replace")


def expand(path: Path) -> list[Path | Problem]:
    """Return the files of a folder without hidden files, or the file itself."""
    try:
        if path == STDIN or not path.is_dir():
            return [path]
        found = sorted(
            child for child in path.iterdir() if child.suffix in SUFFIXES and child.name[0] != "." and child.is_file()
        )
    except (OSError, ValueError) as error:
        return [_unreadable(path, error)]
    return [*found] or [Problem(name_of(path), "no documents here", allowed=f"files that end in {', '.join(SUFFIXES)}")]


def _read_file(path: Path, absolute: Path) -> Text | Problem:
    try:
        if path == STDIN:
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            return Problem(name_of(path), f"is longer than {MAX_BYTES // 2**10} KiB: not a file of documents")
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Problem(name_of(path), "is not UTF-8 text", line=line, found=f"byte 0x{raw[error.start]:02x}")
    except (OSError, ValueError) as error:
        return _unreadable(path, error)
    if path.suffix == ".json" or (path == STDIN and content.lstrip().startswith("{")):
        content = content.replace("\t", " ")  # in JSON a tab can only be white space, where YAML does not allow it
    folder = Path.cwd() if path == STDIN else absolute.parent
    return Text(name_of(path), absolute, folder, content)


def _unreadable(path: Path, error: OSError | ValueError) -> Problem:
    return Problem(name_of(path), f"cannot be read: {getattr(error, 'strerror', None) or error}")


QUIET = 0.7  # seconds without a change after which files are read: a file may be written in steps
PAUSE = 0.5  # seconds between snapshots
UNSETTLED_PAUSE = 0.1  # seconds between snapshots while a change is not quiet yet


def snapshot(paths: Sequence[Path]) -> Hashable:
    """Return a value that differs whenever these files, or files in these folders, may have changed. Links are followed.

    Callers poll it. inotify does not see changes of a link's target elsewhere, of a folder that was replaced, or on a network
    file system, and the number of its watches is limited.
    """
    return tuple(_state(path) for given in paths for path in expand(given))


def _state(path: Path | Problem) -> Hashable:
    if isinstance(path, Problem):
        return path
    try:
        its = os.stat(path)  # noqa: PTH116 - follows links
    except (OSError, ValueError):
        return path
    return (path, its.st_dev, its.st_ino, its.st_size, its.st_mtime_ns, its.st_ctime_ns)


class Debouncer:
    """Reports a change once snapshots have been equal for `quiet` seconds. The first snapshot counts as a change."""

    def __init__(self, quiet: float = QUIET) -> None:
        self._quiet = quiet
        self._reported: Hashable = None
        self._last: Hashable = None
        self._since = 0.0

    @property
    def pause(self) -> float:
        """Seconds until the next snapshot."""
        return PAUSE if self._last == self._reported else UNSETTLED_PAUSE

    def update(self, state: Hashable, now: float) -> bool:
        """Add a snapshot, taken at NOW in seconds. Return whether the files should be read: once for each change."""
        if state != self._last:
            self._last, self._since = state, now
        if state == self._reported or now - self._since < self._quiet:
            return False
        self._reported = state
        return True
