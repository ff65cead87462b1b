"""Download one file: resumed after a kill at any byte, verified, moved into place when complete; and report progress."""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from hotseat.sources.base import SourceError

CHUNK = 1 << 20
MAX_FAILURES = 5  # attempts in a row without a single byte
MAX_SILENCE = 120.0  # seconds without a single byte, over all attempts, until the origin counts as hanging
PAUSE = 0.2  # seconds before the second attempt; doubled each time

Report = Callable[[int, int | None], None]


class Interrupted(Exception):
    """The attempt failed, and may be repeated. The message has no secret."""


class FileChanged(Interrupted):
    """The bytes that are here already do not belong to the file at the origin."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file from `offset` on. Its blocks raise Interrupted.

    `total`: size of the whole file, if it is known. `validator`: names the version of the file; None if
    nothing guarantees that a later request returns the same bytes.
    """

    offset: int
    blocks: Iterable[bytes]
    total: int | None = None
    validator: str | None = None


class Origin(Protocol):
    """A file somewhere else. `size` (in bytes) and `sha256` are None if they are not known before the download."""

    @property
    def name(self) -> str:
        """What messages call the file."""

    @property
    def size(self) -> int | None:
        """Its size in bytes."""

    @property
    def sha256(self) -> str | None:
        """Its digest, in hexadecimal digits."""

    def open(self, offset: int, validator: str | None) -> AbstractContextManager[Content]:
        """Return the bytes from `offset` on, or from 0 on. Raise Interrupted, or SourceError if a retry is of no use.

        `validator`: that of the version to which the bytes before `offset` belong.
        """


def is_size(value: object) -> bool:
    """Whether a JSON value is a number of bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _target(folder: Path, name: str) -> Path:
    """Return the path of a file below `folder`. Raise SourceError if `name`, which an origin chooses, is none."""
    parts = name.split("/")
    with suppress(ValueError):  # a lone surrogate
        name.encode()
        if ".." not in parts and parts[-1] not in {"", "."} and "\0" not in name:
            target = folder / name
            if folder.resolve() in target.resolve().parents:
                return target
    raise SourceError(f"the file {name!r} of the origin would be outside of its folder")


def download(origin: Origin, folder: Path, name: str, report: Report) -> Path:
    """Download a file to `name` below `folder`, and return its path; resume an earlier run.

    `report` gets the bytes that are done and the total. Raise SourceError if `name` is outside of `folder`.
    """
    target = _target(folder, name)
    if target.exists():
        report(target.stat().st_size, target.stat().st_size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(origin, target, report)
    failures, last_data = 0, time.monotonic()
    while not transfer.complete:
        before = transfer.done
        try:
            transfer.attempt()
        except Interrupted as error:
            if transfer.done > before:
                failures, last_data = 0, time.monotonic()
            failures += 1
            if (
                silence := time.monotonic() - last_data
            ) >= MAX_SILENCE:  # all attempts would take a quarter of an hour, in which requests wait
                raise SourceError(f"{origin.name}: no data for {silence:.0f} s: {error}") from None
            if failures >= MAX_FAILURES:
                raise SourceError(f"{origin.name}: {error}", retryable=True) from None
            time.sleep(PAUSE * 2 ** (failures - 1))
    transfer.finish()
    return target


class _Transfer:
    """The state of one download."""

    def __init__(self, origin: Origin, target: Path, report: Report) -> None:
        self.origin, self.target, self.report = origin, target, report
        self.partial = target.with_name(target.name + ".partial")
        self.validator = target.with_name(target.name + ".validator")
        self.total = origin.size
        self.done = 0
        self.complete = False
        self.digest = hashlib.sha256()
        self._resume()

    def _resume(self) -> None:
        # Bytes of an earlier run are kept only if it can be verified that they belong to the same
        # file.
        verifiable = self.origin.sha256 or self.validator.exists()
        longer = self.total is not None and self.partial.exists() and self.partial.stat().st_size > self.total
        if not verifiable or longer or not self.partial.exists():
            self._restart()
            return
        with self.partial.open("rb") as file:
            while block := file.read(CHUNK):
                self.digest.update(block)
                self.done += len(block)
        expected = self.origin.sha256
        self.complete = self.done == self.total or (expected or "").lower() == self.digest.hexdigest()

    def _restart(self) -> None:
        self.partial.write_bytes(b"")
        self.done, self.digest = 0, hashlib.sha256()

    def attempt(self) -> None:
        """Request the rest of the file, and write what arrives. Raise Interrupted if the file is not complete then."""
        validator = self.validator.read_text(errors="replace") if self.validator.exists() else None
        try:
            with self.origin.open(self.done, validator if self.done else None) as content:
                self._receive(content)
        except FileChanged:
            self._restart()
            raise

    def _receive(self, content: Content) -> None:
        if content.offset != self.done:
            self._restart()
        if content.total is not None:
            self.total = content.total
        if content.validator:
            self.validator.write_text(content.validator)
        else:
            self.validator.unlink(missing_ok=True)
        with self.partial.open("ab") as file:
            for block in content.blocks:
                file.write(block)
                self.digest.update(block)
                self.done += len(block)
                self.report(self.done, self.total)
        if self.total is not None and self.done < self.total:
            raise Interrupted(f"ended after {self.done} of {self.total} bytes")
        self.complete = True

    def finish(self) -> None:
        """Verify the digest and move the file into place."""
        actual, expected = self.digest.hexdigest(), self.origin.sha256
        if expected and actual != expected.lower():
            self.partial.unlink()
            raise SourceError(f"{self.origin.name} has sha256 {actual}, expected {expected}")
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        self.partial.replace(self.target)
        self.validator.unlink(missing_ok=True)
        self.report(self.done, self.done)


INTERVAL = 0.1  # seconds


class Progress:
    """The total progress of the files of one fetch, a line in each INTERVAL at most. The last one before a pause is written too."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._finished = 0  # bytes of all files so far
        self._last = float("-inf")
        self._lock = threading.Lock()  # over the next two, and the output
        self._pending: dict[str, Any] | None = None  # what was not written within the interval
        self._timer: threading.Timer | None = None
        self.total: int | None = None  # bytes of all files; None if the origin does not state them

    def file(self, name: str) -> Report:
        """Return the reporter of the next file. Earlier files must be complete."""
        before = self._finished

        def report(done: int, total: int | None) -> None:
            self._finished = before + done
            all_bytes = self.total if self.total is not None or total is None else before + total
            line = {"done": before + done, "total": all_bytes, "file": name}
            with self._lock:
                if done == total or time.monotonic() - self._last >= INTERVAL:
                    self._put(line)
                    return
                self._pending = line
                if self._timer is None:
                    self._timer = threading.Timer(INTERVAL, self._flush)
                    self._timer.daemon = True
                    self._timer.start()

        return report

    def write(self, line: dict[str, Any]) -> None:
        """Write one line at once."""
        with self._lock:
            self._put(line)

    def _put(self, line: dict[str, Any]) -> None:
        self._pending, self._last = None, time.monotonic()
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def _flush(self) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # the output is closed: nobody reads it
            self._timer = None
            if self._pending is not None:
                self._put(self._pending)
