"""Read files, folders of files, and standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
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
