"""Limits of the system on this process: file descriptors, processes and threads."""

import math
import os
import resource
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def allow_files(wanted: int) -> int:
    """Raise the soft limit on file descriptors as far as needed and permitted. Return the new limit."""
    soft, hard = (math.inf if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE))
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (int(soft), resource.RLIM_INFINITY if hard == math.inf else int(hard))
        )
    return int(min(soft, wanted))


def tasks_limit() -> float:
    """Return the limit on processes and threads of the container, unit or user. Infinite if there is none."""
    user = resource.getrlimit(resource.RLIMIT_NPROC)[0] if os.geteuid() else resource.RLIM_INFINITY
    limits = [math.inf if user == resource.RLIM_INFINITY else float(user)]
    for folder in _own_cgroups():
        for each in (folder, *folder.parents):
            if not each.is_relative_to(_CGROUPS):
                break
            try:
                limits.append(float((each / "pids.max").read_text()))
            except (OSError, ValueError):  # no such controller, no such folder, or max
                continue
    return min(limits)


def _own_cgroups() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "pids"}:  # version 2, and version 1
            found.append(_CGROUPS / controllers / path.strip("/"))
    return found
