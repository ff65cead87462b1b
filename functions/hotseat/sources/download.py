"""Bring one file over HTTP: resumed after a cut or a kill, checked, and in place only when it is whole."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import urllib3
from urllib3.exceptions import HTTPError

from hotseat.sources.base import SourceError

CHUNK = 1 << 20
FAILURES = 5  # in a row without a single byte
QUIET = 120.0  # seconds without a single byte, over all tries, after which the origin is said to hang
PAUSE = 0.2  # seconds before the first repetition; doubles each time
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

Report = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """A file over there. `size` in bytes and `sha256` where the origin states them."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None

    @property
    def shown(self) -> str:
        """URL without query: that is where signatures and keys are."""
        return self.url.partition("?")[0]


def make_pool() -> urllib3.PoolManager:
    """Pool for one fetch: it follows redirects (without credentials to other hosts); repeating is our own business."""
    retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=10)
    return urllib3.PoolManager(retries=retries, timeout=urllib3.Timeout(connect=10, read=30))


def download(pool: urllib3.PoolManager, remote: Remote, target: Path, report: Report) -> None:
    """Bring `remote` to `target`, going on where an earlier run stopped. `report` gets bytes here and in all."""
    if target.exists():
        report(target.stat().st_size, target.stat().st_size)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(pool, remote, target, report)
    failures, heard = 0, time.monotonic()
    while not transfer.whole:
        before = transfer.done
        try:
            transfer.attempt()
        except (HTTPError, _Interrupted) as error:
            if transfer.done > before:
                failures, heard = 0, time.monotonic()
            failures += 1
            if (
                quiet := time.monotonic() - heard
            ) >= QUIET:  # trying on would make those who wait do so for a quarter of an hour
                raise SourceError(f"{remote.shown}: no data for {quiet:.0f} s: {error}") from error
            if failures >= FAILURES:
                raise SourceError(f"{remote.shown}: {error}", retryable=True) from error
            time.sleep(PAUSE * 2 ** (failures - 1))
    transfer.finish()


class _Interrupted(Exception):
    """The server said to come again, or ended too early."""


class _Transfer:
    """One file on its way: what is here, what the origin said about it, and the digest of it so far."""

    def __init__(self, pool: urllib3.PoolManager, remote: Remote, target: Path, report: Report) -> None:
        self.pool, self.remote, self.target, self.report = pool, remote, target, report
        self.partial = target.with_name(target.name + ".partial")
        self.validator = target.with_name(target.name + ".validator")
        self.total = remote.size
        self.done = 0
        self.whole = False
        self.digest = hashlib.sha256()
        self._take_up()

    def _take_up(self) -> None:
        # Bytes of an earlier run count only if something will tell that they belong to the same file.
        known = self.remote.sha256 or self.validator.exists()
        if not known or not self.partial.exists():
            self._restart()
            return
        with self.partial.open("rb") as kept:
            while block := kept.read(CHUNK):
                self.digest.update(block)
                self.done += len(block)
        self.whole = self.done == self.total

    def _restart(self) -> None:
        self.partial.write_bytes(b"")
        self.done, self.digest = 0, hashlib.sha256()

    def attempt(self) -> None:
        headers = {"Accept-Encoding": "identity", **self.remote.headers}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self.validator.exists():
                headers["If-Range"] = self.validator.read_text()
        response = self.pool.request("GET", self.remote.url, headers=headers, preload_content=False)
        try:
            self._receive(response)
        finally:
            response.close()

    def _receive(self, response: urllib3.BaseHTTPResponse) -> None:
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.done:
            self._restart()  # what is here is longer than the file over there: another file
            raise _Interrupted("the partial file does not match the remote file")
        if response.status in _AGAIN:
            raise _Interrupted(f"answered {response.status}")
        if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise SourceError(f"{self.remote.shown} answered {response.status}{_hint(response.status)}")
        if response.status == HTTPStatus.OK or not response.headers.get("Content-Range", "").startswith(
            f"bytes {self.done}-"
        ):
            self._restart()
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                raise _Interrupted("answered with another range than requested")
        self._note(response.headers)
        with self.partial.open("ab") as file:
            self._copy(response, file)
        if self.total is not None and self.done < self.total:
            raise _Interrupted(f"ended after {self.done} of {self.total} bytes")
        self.whole = True

    def _note(self, headers: Mapping[str, str]) -> None:
        """Keep what the origin says about the file: its length, and what marks this version of it."""
        length = headers.get("Content-Length", "")
        if length.isdigit():
            self.total = self.done + int(length)
        tag = headers.get("ETag", "")
        mark = tag if tag.startswith('"') else headers.get("Last-Modified")  # a weak tag does not vouch for bytes
        if mark:
            self.validator.write_text(mark)
        else:
            self.validator.unlink(missing_ok=True)

    def _copy(self, response: urllib3.BaseHTTPResponse, file: BinaryIO) -> None:
        for block in response.stream(CHUNK, decode_content=False):
            file.write(block)
            self.digest.update(block)
            self.done += len(block)
            self.report(self.done, self.total)

    def finish(self) -> None:
        """Check the digest and put the file in its place."""
        found, wanted = self.digest.hexdigest(), self.remote.sha256
        if wanted and found != wanted.lower():
            self.partial.unlink()
            raise SourceError(f"{self.remote.shown} has sha256 {found}, expected {wanted}")
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        self.partial.replace(self.target)
        self.validator.unlink(missing_ok=True)
        self.report(self.done, self.done)


def _hint(status: int) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ": a token with access is required"
    return ": no such file" if status == HTTPStatus.NOT_FOUND else ""
