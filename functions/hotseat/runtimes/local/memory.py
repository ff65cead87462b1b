"""Host memory: what a machine has, and what processes hold of it."""

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this is."""
    total: int = psutil.virtual_memory().total
    for limit in _LIMITS:
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # there is none, or it says max
            continue
    return total


def resident_memory(pids: Iterable[int]) -> int | None:
    """Bytes that these processes have in memory together, what they share counted each time; None where nothing tells.

    Memory that an accelerator's driver pinned for them may be missing: not every driver counts it as theirs.
    """
    seen = [pages for pid in pids if (pages := _pages(pid)) is not None]
    return sum(seen) * os.sysconf("SC_PAGE_SIZE") if seen else None


def _pages(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # it is gone, or this system has no /proc
        return None
