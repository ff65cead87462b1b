"""Advisory locks on the GPUs of this machine, by which independent hotseats detect that they use the same GPU.

A lock does not keep another hotseat from a GPU, because two may share one on purpose.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

# All are used: the first may be writable for root only, the second private to a service. A lock in
# one of them is enough.
FOLDERS = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - all users must share it
MAX_OWNER = 4096  # bytes of the text that names an owner


class GpuLocks:
    """The locks that this hotseat holds. `owner`: the text by which other hotseats name it."""

    def __init__(self, owner: str, folders: Sequence[Path] = FOLDERS) -> None:
        self._owner, self._folders = owner, folders
        self._held: dict[str, list[int]] = {}  # descriptors by UUID

    def hold(self, uuids: Iterable[str]) -> dict[str, str]:
        """Hold the locks of these GPUs and no others. Return the owners of GPUs that other hotseats hold, by UUID."""
        wanted = set(uuids)
        for uuid in self._held.keys() - wanted:
            self._release(self._held.pop(uuid))
        others = {}
        for uuid in sorted(wanted - self._held.keys()):
            descriptors, owner = self._acquire(uuid)
            if owner is None:
                self._held[uuid] = descriptors
            else:
                self._release(descriptors)
                others[uuid] = owner
        return others

    def close(self) -> None:
        """Release all locks."""
        self.hold(())

    def _acquire(self, uuid: str) -> tuple[list[int], str | None]:
        """Lock a GPU in each folder that can be used.

        Return the descriptors, and the owner if another hotseat has it.
        """
        descriptors: list[int] = []
        for folder in self._folders:
            with contextlib.suppress(OSError):  # there is no such folder, or it cannot be written
                descriptor = _open(folder / f"hotseat-{uuid}.lock")
                descriptors.append(descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    owner = os.pread(descriptor, MAX_OWNER, 0).decode(errors="replace").strip()
                    return descriptors, owner or "unknown"
                with contextlib.suppress(OSError):  # another user's file, opened for reading only
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{self._owner}\n".encode(), 0)
        return descriptors, None

    @staticmethod
    def _release(descriptors: Iterable[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)


def _open(path: Path) -> int:
    """Open a lock file, which another user may have created; then the kernel may refuse O_CREAT."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        with contextlib.suppress(PermissionError, FileNotFoundError):
            return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)  # regardless of the umask: the next hotseat may be another user's
    return descriptor
