"""Locks on the GPUs of this machine, by which hotseats that do not know of each other learn that they use the same one.

A lock says no more than that: nobody is kept from a GPU, as two may share one on purpose.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

# Each is tried: the first may be root's, the second a service's own. Who holds a GPU in one of them holds it.
FOLDERS = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - that all users share it is the point
LONGEST = 4096  # bytes of what an instance says of itself


class GpuLocks:
    """Those that this hotseat holds until it ends. `owner` is what another one is told."""

    def __init__(self, owner: str, folders: Sequence[Path] = FOLDERS) -> None:
        self._owner, self._folders = owner, folders
        self._held: dict[str, list[int]] = {}  # descriptors by UUID

    def hold(self, uuids: Iterable[str]) -> dict[str, str]:
        """Hold these and no others. Returns the owners of those that another hotseat holds, by UUID."""
        wanted = set(uuids)
        for uuid in self._held.keys() - wanted:
            self._release(self._held.pop(uuid))
        others = {}
        for uuid in sorted(wanted - self._held.keys()):
            taken, owner = self._take(uuid)
            if owner is None:
                self._held[uuid] = taken
            else:
                self._release(taken)
                others[uuid] = owner
        return others

    def close(self) -> None:
        """Give all of them back."""
        self.hold(())

    def _take(self, uuid: str) -> tuple[list[int], str | None]:
        """Lock it in each folder where that can be; the owner, where another has it."""
        taken: list[int] = []
        for folder in self._folders:
            with contextlib.suppress(OSError):  # no such folder, or not ours to use
                descriptor = _open(folder / f"hotseat-{uuid}.lock")
                taken.append(descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return taken, os.pread(descriptor, LONGEST, 0).decode(errors="replace").strip() or "unknown"
                with contextlib.suppress(OSError):  # another user's file, opened for reading only
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{self._owner}\n".encode(), 0)
        return taken, None

    @staticmethod
    def _release(descriptors: Iterable[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)


def _open(path: Path) -> int:
    """Open a file that anybody may have made. The kernel may refuse O_CREAT for one that is there and another user's."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        with contextlib.suppress(PermissionError, FileNotFoundError):
            return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)  # whatever the umask says: the next one may be another user's
    return descriptor
