"""What is in the cache of weights, who uses it, and how it is pruned.

Each fetched source has a directory with two locks. `lock` is held by the process that fetches it, and `used` is shared by
the processes that serve it. The kernel releases them when their process ends. Only what nobody holds is pruned.
"""

import fcntl
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from hotseat.sources.base import FILES, LOCK, MARKER, entry, redacted

USED = "used"
_ENTRY = re.compile(r"[^.].*-[0-9a-f]{12}")
_PRUNED = ".pruned-"  # first part of the names of directories that are being deleted


class EntryState(StrEnum):
    """State of the weights in an entry."""

    COMPLETE = "complete"
    FETCHING = "fetching"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A source in the cache. `used_at` is in seconds since 1970; `in_use`: a running hotseat serves it."""

    path: Path
    source: str
    state: EntryState
    size: int
    in_use: bool
    used_at: float


def default_cache_dir() -> Path:
    """Return the directory of the cache of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hotseat"


@contextmanager
def fetch_lock(source: str, cache_dir: Path) -> Iterator[Path]:
    """Hold the lock of a fetch, and return the directory of the source. Wait while another process fetches it."""
    folder = entry(source, cache_dir)
    with _lock(folder / LOCK, fcntl.LOCK_EX) as file:
        file.truncate(0)
        file.write(redacted(source))
        file.flush()
        yield folder


class UseLocks:
    """The sources that this process serves. Thread-safe."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._held: dict[str, TextIO] = {}
        self._lock = threading.Lock()

    def hold(self, sources: Iterable[str]) -> None:
        """Hold these sources and no others. A cache that cannot be written is not pruned either."""
        with self._lock:
            wanted = set(sources)  # under the lock, so that of two callers the last one's counts
            for source, file in list(self._held.items()):
                if source not in wanted or not _is_at(file, self._path(source)):  # somebody has deleted the directory
                    _release(self._held.pop(source))
            for source in wanted - self._held.keys():
                with suppress(OSError):
                    self._held[source] = _lock(self._path(source), fcntl.LOCK_SH)
                    os.utime(self._held[source].fileno())

    def close(self) -> None:
        """Hold no sources."""
        self.hold(())

    def _path(self, source: str) -> Path:
        return entry(source, self._cache_dir) / USED


def _release(file: TextIO) -> None:
    with suppress(OSError):
        os.utime(file.fileno())
    file.close()


def _lock(path: Path, operation: int) -> TextIO:
    """Open and lock a file. A directory that was pruned meanwhile is made again. Raise OSError if it cannot be locked."""
    while True:
        path.parent.parent.mkdir(0o700, parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        file = path.open("a")
        try:
            fcntl.flock(file, operation)
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def entries(cache_dir: Path) -> list[CacheEntry]:
    """Return what is in the cache, the largest first. Directories without bytes are left out."""
    found = [_entry_of(path) for path in _directories(cache_dir)]
    kept = (each for each in found if each.size or each.state is not EntryState.PARTIAL)
    return sorted(kept, key=lambda each: (-each.size, each.path))


def prune(cache_dir: Path, older_than: float = 0.0, *, dry_run: bool = False) -> list[CacheEntry]:
    """Delete entries that nobody uses or fetches and that were used last more than `older_than` seconds ago; return them.

    `dry_run`: delete nothing. Raise OSError if an entry cannot be deleted.
    """
    before = time.time() - older_than
    if not dry_run:
        for left in cache_dir.glob(f"{_PRUNED}*"):  # of a command that was killed
            shutil.rmtree(left, ignore_errors=True)
    pruned = []
    for path in _directories(cache_dir):
        found = _entry_of(path)
        if found.used_at > before:
            continue
        doomed = path.with_name(f"{_PRUNED}{path.name}")
        try:
            with _unused(path):
                if not dry_run:
                    path.rename(doomed)
        except BlockingIOError:
            continue
        if not dry_run:
            shutil.rmtree(doomed)
        if found.size or found.state is not EntryState.PARTIAL:
            pruned.append(found)
    return sorted(pruned, key=lambda each: (-each.size, each.path))


@contextmanager
def _unused(path: Path) -> Iterator[None]:
    """Hold both locks of an entry. Raise BlockingIOError if somebody else holds one."""
    with ExitStack() as stack:
        stack.enter_context(_lock(path / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB))
        if (path / USED).exists():  # who makes it now sees that the directory is gone, and makes that again
            stack.enter_context(_lock(path / USED, fcntl.LOCK_EX | fcntl.LOCK_NB))
        yield


def _directories(cache_dir: Path) -> list[Path]:
    try:
        paths = sorted(cache_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if _ENTRY.fullmatch(path.name) and (path / LOCK).is_file() and not path.is_symlink()]


def _entry_of(path: Path) -> CacheEntry:
    source, state = "", EntryState.PARTIAL
    with suppress(OSError, ValueError, KeyError, TypeError):
        source = (path / LOCK).read_text(errors="replace")
        source = redacted(str(json.loads((path / MARKER).read_bytes())["source"]))
        state = EntryState.COMPLETE
    if _is_locked(path / LOCK) and state is not EntryState.COMPLETE:
        state = EntryState.FETCHING
    times = [_modified(path / name) for name in (USED, MARKER, LOCK)]
    size = sum(_size(file) for file in (path / FILES).rglob("*"))
    return CacheEntry(path, source or path.name, state, size, _is_locked(path / USED), max(times))


def _is_locked(path: Path) -> bool:
    """Whether another open file holds a lock. A lock of this process counts too, since each opening has its own."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    except OSError:
        return 0
