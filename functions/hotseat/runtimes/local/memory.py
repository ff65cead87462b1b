"""Host memory: the memory of the machine, and the memory that processes use."""

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Return the bytes of memory of this machine or container."""
    total: int = psutil.virtual_memory().total
    for limit in _LIMITS:
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # there is no limit, or it is `max`
            continue
    return total


def resident_memory(pids: Iterable[int]) -> int | None:
    """Return the resident bytes of these processes together, shared pages counted each time; None if unknown.

    Memory that an accelerator's driver pinned may be missing: not every driver counts it as the
    process's.
    """
    pages = [count for pid in pids if (count := _pages(pid)) is not None]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") if pages else None


def _pages(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # the process is gone, or this system has no /proc
        return None
