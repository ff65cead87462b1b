"""Limits of the process and of the gateway: file descriptors, threads, long requests, bytes of bodies."""

import errno
import math
import os
import resource
import threading
from pathlib import Path

from hotseat.core.errors import HotseatError, QueueFull, Unavailable
from hotseat.gateway.threads import MIN_THREADS, Threads

MAX_BODY = 64 * 2**20  # bytes of a request body, where no other limit is set
MAX_FORM = 2**30  # bytes of a form in a file, where no other limit is set
OUR_TASKS = 2 / 3  # share of the limit on processes and threads
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


def thread_cap() -> float:
    """Return how many threads may serve requests. The rest of the limit is for engines."""
    return max(MIN_THREADS, tasks_limit() * OUR_TASKS)


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


RETRY_AFTER = 1.0
MOST_IN_THREADS = 900  # commands that wait, and followers of events and logs
_SHORT_OF = {
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
}


def shortage(error: BaseException) -> HotseatError | None:
    """Return the error for the client if `error` comes from a shortage, else None."""
    if isinstance(error, MemoryError):
        what = "memory"
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        what = "threads"
    elif isinstance(error, OSError) and error.errno in _SHORT_OF:
        what = _SHORT_OF[error.errno]
    else:
        return None
    return no_more(what)


def no_more(what: str) -> HotseatError:
    """Return the error that names the exhausted resource."""
    return Unavailable(f"hotseat is out of {what}", code="overloaded", retry_after=RETRY_AFTER)


class ConcurrencyLimit:
    """A limit on the number of long requests. Requests beyond the limit are refused immediately.

    Each has file descriptors. Some are reserved for probes and for refusals. `take` takes a slot, on the event loop only;
    `with limit.in_thread:` takes one in a thread of `threads`, which the request occupies.
    """

    def __init__(self, count: int, threads: Threads | None = None) -> None:
        self._count = count
        self._taken = 0
        self.in_thread = _InThread(self, threads)

    def resize(self, count: int) -> None:
        """Change the limit. Slots that are taken stay taken until `give_back`."""
        self._count = count

    def take(self) -> None:
        """Take a slot until `give_back`. Raise QueueFull if all are taken."""
        self.check()
        self._taken += 1

    def check(self) -> None:
        """Raise QueueFull if all slots are taken."""
        if self._taken + self.in_thread.taken >= self._count:
            raise _too_many("queued or in flight", self._count)

    def give_back(self) -> None:
        """Release a slot."""
        self._taken -= 1


class _InThread:
    """The limit for requests that occupy a thread. There are at most MOST_IN_THREADS of them."""

    def __init__(self, limit: ConcurrencyLimit, threads: Threads | None) -> None:
        self._limit = limit
        self._threads = threads
        self._lock = threading.Lock()
        self.taken = 0

    def take(self) -> None:
        """Take a slot until `give_back`.

        Raise QueueFull if all are taken, and Unavailable if no thread can be created.
        """
        if self._threads is not None and not self._threads.spare(MIN_THREADS):
            raise no_more("threads")
        with self._lock:
            if self.taken >= MOST_IN_THREADS:
                raise _too_many("commands that wait, or followers of events and logs", MOST_IN_THREADS)
            self._limit.check()
            self.taken += 1
        if self._threads is not None:
            self._threads.reserve(1)

    def give_back(self) -> None:
        """Release a slot."""
        if self._threads is not None:
            self._threads.reserve(-1)
        with self._lock:
            self.taken -= 1

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give_back()


def _too_many(what: str, limit: int) -> QueueFull:
    return QueueFull(f"too many requests are {what} (limit: {limit})", code="too_many_requests", retry_after=5.0)


class BodyBudget:
    """Limit on the bytes of request bodies, which are held until the answer has ended. It is used on the event loop only.

    At most `most` bytes. A single body can be larger. `what` is limited: memory, or space on a disk.
    """

    def __init__(self, most: int, what: str = "memory") -> None:
        self._most, self._what = most, what
        self._kept = 0

    def take(self, size: int) -> int:
        """Count a body of `size` bytes until `give_back`, and return the size.

        Raise QueueFull if there is no room.
        """
        if self._kept and self._kept + size > self._most:
            message = f"the bodies of all requests would exceed the {self._what} limit ({self._kept} bytes held, limit {self._most})"
            raise QueueFull(message, code="too_many_bytes", retry_after=5.0)
        self._kept += size
        return size

    def give_back(self, size: int) -> None:
        """Release the bytes."""
        self._kept -= size
