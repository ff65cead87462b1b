"""Detects changes of document files by polling. Pure, but for `snapshot`.

inotify does not see changes of a link's target elsewhere, of a folder that was replaced, or on a network file system, and the
number of its watches is limited.
"""

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

from hotseat.manifests.files import expand
from hotseat.manifests.problems import Problem

QUIET = 0.7  # seconds without a change after which files are read: a file may be written in steps
PAUSE = 0.5  # seconds between snapshots
UNSETTLED_PAUSE = 0.1  # seconds between snapshots while a change is not quiet yet


def snapshot(paths: Sequence[Path]) -> Hashable:
    """Return a value that differs whenever these files, or files in these folders, may have changed. Links are followed."""
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
