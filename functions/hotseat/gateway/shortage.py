"""Shortages of this machine, and the errors that clients get: they can retry."""

import errno

from hotseat.core.errors import HotseatError, Unavailable

RETRY_AFTER = 1.0
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
    return Unavailable(f"hotseat is out of {what}; try again later", code="overloaded", retry_after=RETRY_AFTER)
