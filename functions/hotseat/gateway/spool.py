"""Large forms in files, so that they are not held in memory while they wait for their turn.

The files have no names, so they are gone when they are closed, also if the process is killed. A disk can be slow, so it is
read and written by threads.
"""

import errno
import logging
import os
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, TypeVar

from hotseat.core.errors import HotseatError, Unavailable
from hotseat.gateway.errors import internal_error
from hotseat.gateway.form import Edit, Form, FormScanner
from hotseat.gateway.limits import RETRY_AFTER, BodyBudget, shortage

if TYPE_CHECKING:
    from io import FileIO

log = logging.getLogger(__name__)

PIECE = 262_144  # bytes that are written or read at once
FORMS = 4  # forms of the maximum size that there is room for
THREADS = 2

T = TypeVar("T")


class Spool:
    """Keeps forms of at most `max_size` bytes in `folder`."""

    def __init__(self, folder: Path, max_size: int) -> None:
        self.folder, self.max_size = folder, max_size
        self.budget = BodyBudget(FORMS * max_size, "disk")
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="spool")


class SpooledForm:
    """A form that is written to a file and parsed while it arrives. All methods are called on the loop, and return at once.

    `drained` is called whenever the form takes more.
    """

    def __init__(self, spool: Spool, boundary: bytes, drained: Callable[[], None]) -> None:
        self._spool, self._drained = spool, drained
        self._scanner = FormScanner(boundary)
        self._file: FileIO | None = None
        self._pieces: list[bytes] = []  # that have not been written
        self._waiting = 0  # bytes of them
        self._writing = self._closed = False
        self._users = 0  # threads that have the file
        self._failure: Exception | None = None
        self._then: Callable[[], None] | None = None
        self.size = 0

    # While it arrives ---------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the disk is slower than the client."""
        return self._waiting >= PIECE and self._writing

    def write(self, data: bytes) -> None:
        """Take a piece. After a failure it is dropped."""
        if self._failure is not None or self._closed:
            return
        self._pieces.append(data)
        self._waiting += len(data)
        self.size += len(data)
        if self._waiting >= PIECE and not self._writing:
            self._store()

    def finish(self, then: Callable[[], None]) -> None:
        """Call `then`, now or later, when all is written. There are no more pieces."""
        if self._writing or self._pieces:
            self._then = then
            if not self._writing:
                self._store()
        else:
            then()

    def form(self) -> Form:
        """Return what is known of the form, which has been written. Raise the HotseatError for the client if that has failed."""
        if self._failure is not None:
            raise _error(self._failure)
        return self._scanner.form()

    def _store(self) -> None:
        pieces, self._pieces, self._waiting, self._writing = self._pieces, [], 0, True
        self._run(lambda: self._append(pieces), self._stored)

    def _append(self, pieces: list[bytes]) -> None:
        """Write pieces, in a thread."""
        if self._file is None:
            self._file = TemporaryFile(dir=self._spool.folder, buffering=0)  # noqa: SIM115 — `close` closes it
        for piece in pieces:
            self._scanner.feed(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]

    def _stored(self, _: None, failure: Exception | None) -> None:
        self._writing = False
        if self._closed:
            return
        if failure is not None:
            self._failure, self._pieces, self._waiting = failure, [], 0
            self._release()
        if self._waiting >= PIECE or (self._then is not None and self._pieces):
            self._store()
        elif self._then is not None:
            then, self._then = self._then, None
            then()
        self._drained()

    # Afterwards ---------------------------------------------------------------------------------------------------------

    def upload(self, edits: Sequence[Edit]) -> "SpooledUpload":
        """Return the form with these changes, in order of position."""
        return SpooledUpload(self, edits)

    def read(self, parts: list[tuple[int, int] | bytes], then: Callable[[bytes, HotseatError | None], None]) -> None:
        """Read parts of the file (position and size), and join them with bytes. `then` is called with the result or an error."""

        def read() -> bytes:
            return b"".join(each if isinstance(each, bytes) else self._read(*each) for each in parts)

        def done(data: bytes | None, failure: Exception | None) -> None:
            then(data or b"", None if failure is None else _error(failure))

        self._run(read, done)

    def _read(self, at: int, size: int) -> bytes:
        assert self._file is not None  # noqa: S101
        data = os.pread(self._file.fileno(), size, at)
        if len(data) < size:
            raise OSError(errno.EIO, "the file is shorter than it was")
        return data

    def close(self) -> None:
        """Delete the file."""
        if not self._closed:
            self._closed = True
            self._pieces, self._then = [], None
            self._release()

    # Threads ------------------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[], T], then: Callable[[T | None, Exception | None], None]) -> None:
        """Do work with the file in a thread, and call `then` with the result or an error."""
        loop = get_running_loop()
        self._users += 1

        def done(result: T | None, failure: Exception | None) -> None:
            self._users -= 1
            then(result, failure)
            if self._closed:
                self._release()

        def run() -> None:
            try:
                result = work()
            except Exception as error:  # the client is told
                loop.call_soon_threadsafe(done, None, error)
            else:
                loop.call_soon_threadsafe(done, result, None)

        self._submit(run)

    def _release(self) -> None:
        """Close the file, unless a thread has it. That frees the disk, which takes a while."""
        if self._file is not None and not self._users:
            file, self._file = self._file, None
            self._submit(file.close)

    def _submit(self, work: Callable[[], None]) -> None:
        try:
            self._spool.executor.submit(work)
        except RuntimeError:  # no thread can be started
            work()


class SpooledUpload:
    """A form as its engine gets it."""

    def __init__(self, form: SpooledForm, edits: Sequence[Edit]) -> None:
        self._form = form
        self._pieces: list[
            tuple[int, int] | bytes
        ] = []  # of the file (position and size), and what stands between them
        last = 0
        for start, end, value in edits:
            self._pieces += [(last, start - last), value]
            last = end
        self._pieces.append((last, form.size - last))
        self._size = sum(map(_size, self._pieces))

    def __len__(self) -> int:
        """Return its size in bytes."""
        return self._size

    def read(self, at: int, then: Callable[[bytes, HotseatError | None], None]) -> None:
        """Read a piece that begins at `at`."""
        parts: list[tuple[int, int] | bytes] = []
        stop, begin = at + PIECE, 0
        for piece in self._pieces:
            size = _size(piece)
            low, high = max(at - begin, 0), min(stop - begin, size)
            if low < high:
                parts.append(piece[low:high] if isinstance(piece, bytes) else (piece[0] + low, high - low))
            begin += size
        self._form.read(parts, then)


def _size(piece: tuple[int, int] | bytes) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1]


def _error(failure: Exception) -> HotseatError:
    """Return the error for the client."""
    if isinstance(failure, HotseatError):
        return failure
    if (short := shortage(failure)) is not None:
        return short
    if isinstance(failure, OSError):
        text = f"hotseat cannot keep the form in a file: {failure.strerror or failure}"
        return Unavailable(text, code="overloaded", retry_after=RETRY_AFTER)
    log.error("internal error (a bug in hotseat)", exc_info=failure)
    return internal_error()
