"""When files of documents are worth reading again: once they have changed, and whoever writes them seems to be done. Pure but for `look`.

They are looked at rather than watched. What the kernel tells of a folder says nothing of a link's target elsewhere, of a folder that
was replaced by another, or of a network file system, and a user has few watches to spend.
"""

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

from hotseat.manifests.files import expand
from hotseat.manifests.problems import Problem

QUIET = 0.7  # seconds without a change after which a file is taken for whole: it may be written in steps
PAUSE = 0.5  # seconds between looks
RESTLESS_PAUSE = 0.1  # seconds between looks while something has changed and is not quiet yet


def look(paths: Sequence[Path]) -> Hashable:
    """Return what differs whenever these files, or those in these folders, may hold something else: by their own content or by a link."""
    return tuple(_state(path) for given in paths for path in expand(given))


def _state(path: Path | Problem) -> Hashable:
    if isinstance(path, Problem):
        return path
    try:
        its = os.stat(path)  # noqa: PTH116 - of what a link leads to
    except (OSError, ValueError):
        return path
    return (path, its.st_dev, its.st_ino, its.st_size, its.st_mtime_ns, its.st_ctime_ns)


class Settling:
    """Looks in order, each with its time in seconds. The first look counts as a change: what was before it is not known."""

    def __init__(self, quiet: float = QUIET) -> None:
        self._quiet = quiet
        self._taken: Hashable = None
        self._last: Hashable = None
        self._since = 0.0

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return PAUSE if self._last == self._taken else RESTLESS_PAUSE

    def see(self, state: Hashable, now: float) -> bool:
        """Whether there is something new to be taken in that has been quiet for long enough. Said once for each change."""
        if state != self._last:
            self._last, self._since = state, now
        if state == self._taken or now - self._since < self._quiet:
            return False
        self._taken = state
        return True
