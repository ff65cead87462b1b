"""Download one file over HTTP: resumed after a cut, verified, moved into place when complete; and report progress."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError

from hotseat.sources.base import SourceError

CHUNK = 1 << 20
MAX_FAILURES = 5  # attempts in a row without a single byte
MAX_SILENCE = 120.0  # seconds without a single byte, over all attempts, until the origin counts as hanging
PAUSE = 0.2  # seconds before the second attempt; doubled each time
RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

Report = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at an origin. `size` (in bytes) and `sha256` are None if the origin does not state them."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None


def make_pool() -> urllib3.PoolManager:
    """Return the pool for one fetch. It follows redirects (without credentials to other hosts), and does not retry."""
    retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=10)
    return _Pool(retries=retries, timeout=urllib3.Timeout(connect=10, read=30))


class _Pool(urllib3.PoolManager):
    """Sends requests through the proxies of the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._settings = settings
        self._proxies: dict[str, urllib3.ProxyManager] = {}

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request. A redirect by a proxied host is followed through the same proxy."""
        proxy = proxy_of(url)
        if proxy is None:
            return super().urlopen(method, url, redirect, **more)
        if proxy not in self._proxies:
            user = urllib3.util.parse_url(proxy).auth
            headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
            self._proxies[proxy] = urllib3.ProxyManager(proxy, proxy_headers=headers, **self._settings)
        return self._proxies[proxy].urlopen(method, url, redirect, **more)


def proxy_of(url: str) -> str | None:
    """Return the URL of the proxy for a URL. None: the environment names none, or the host is this machine."""
    parts, proxies = urlsplit(url), getproxies()
    proxy, host = proxies.get(parts.scheme) or proxies.get("all"), parts.hostname or ""
    if not proxy or host == "localhost" or host.startswith("127.") or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def explain(error: Exception) -> str:
    """Return why a request failed. urllib3's own messages may have the whole URL, with its query."""
    if isinstance(error, MaxRetryError) and error.reason is not None:
        return explain(error.reason)
    hidden = isinstance(error, LocationParseError) or (
        isinstance(error, ValueError) and not isinstance(error, HTTPError)
    )
    return "its URL, a redirect or a header is not valid" if hidden else str(error)


def request(pool: urllib3.PoolManager, url: str, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
    """Return the response to a GET. Raise SourceError if there is none."""
    try:
        return pool.request("GET", url, headers=dict(headers or {}))
    except ValueError as error:
        raise SourceError(f"{url}: {explain(error)}") from None
    except HTTPError as error:
        raise SourceError(f"{url} cannot be reached: {explain(error)}", retryable=True) from None


def parse_json(response: urllib3.BaseHTTPResponse, url: str) -> Any:
    """Return the JSON of a response. Raise SourceError if it has none."""
    try:
        return json.loads(response.data)
    except (ValueError, RecursionError):
        raise SourceError(f"{url} does not answer with JSON") from None


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


def download(pool: urllib3.PoolManager, remote: RemoteFile, folder: Path, name: str, report: Report) -> Path:
    """Download `remote` to `name` below `folder`, and return its path; resume an earlier run.

    `report` gets the bytes that are done and the total. Raise SourceError if `name` is outside of `folder`.
    """
    target = _target(folder, name)
    if target.exists():
        report(target.stat().st_size, target.stat().st_size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(pool, remote, target, report)
    failures, last_data = 0, time.monotonic()
    while not transfer.complete:
        before = transfer.done
        try:
            transfer.attempt()
        except ValueError as error:
            raise SourceError(f"{remote.url}: {explain(error)}") from None
        except (HTTPError, _Interrupted) as error:
            if transfer.done > before:
                failures, last_data = 0, time.monotonic()
            failures += 1
            if (
                silence := time.monotonic() - last_data
            ) >= MAX_SILENCE:  # all attempts would take a quarter of an hour, in which requests wait
                raise SourceError(f"{remote.url}: no data for {silence:.0f} s: {explain(error)}") from None
            if failures >= MAX_FAILURES:
                raise SourceError(f"{remote.url}: {explain(error)}", retryable=True) from None
            time.sleep(PAUSE * 2 ** (failures - 1))
    transfer.finish()
    return target


class _Interrupted(Exception):
    """The attempt failed, and may be repeated."""


class _Transfer:
    """The state of one download."""

    def __init__(self, pool: urllib3.PoolManager, remote: RemoteFile, target: Path, report: Report) -> None:
        self.pool, self.remote, self.target, self.report = pool, remote, target, report
        self.partial = target.with_name(target.name + ".partial")
        self.validator = target.with_name(target.name + ".validator")
        self.total = remote.size
        self.done = 0
        self.complete = False
        self.digest = hashlib.sha256()
        self._resume()

    def _resume(self) -> None:
        # Bytes of an earlier run are kept only if it can be verified that they belong to the same
        # file.
        verifiable = self.remote.sha256 or self.validator.exists()
        if not verifiable or not self.partial.exists():
            self._restart()
            return
        with self.partial.open("rb") as file:
            while block := file.read(CHUNK):
                self.digest.update(block)
                self.done += len(block)
        self.complete = self.done == self.total

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
            self._restart()  # the partial file is longer than the remote file, so it is another file
            raise _Interrupted("the partial file does not match the remote file")
        if response.status in RETRYABLE_STATUS:
            raise _Interrupted(f"answered {response.status}")
        if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise SourceError(f"{self.remote.url} answered {response.status}{_hint(response.status)}")
        if response.status == HTTPStatus.OK or not response.headers.get("Content-Range", "").startswith(
            f"bytes {self.done}-"
        ):
            self._restart()
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                raise _Interrupted("answered with another range than requested")
        self._record_headers(response.headers)
        with self.partial.open("ab") as file:
            self._copy(response, file)
        if self.total is not None and self.done < self.total:
            raise _Interrupted(f"ended after {self.done} of {self.total} bytes")
        self.complete = True

    def _record_headers(self, headers: Mapping[str, str]) -> None:
        """Record the length of the file, and the validator of its version."""
        length = headers.get("Content-Length", "")
        if length.isdigit():
            self.total = self.done + int(length)
        tag = headers.get("ETag", "")
        # A weak ETag does not guarantee equal bytes.
        validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        if validator:
            self.validator.write_text(validator)
        else:
            self.validator.unlink(missing_ok=True)

    def _copy(self, response: urllib3.BaseHTTPResponse, file: BinaryIO) -> None:
        for block in response.stream(CHUNK, decode_content=False):
            file.write(block)
            self.digest.update(block)
            self.done += len(block)
            self.report(self.done, self.total)

    def finish(self) -> None:
        """Verify the digest and move the file into place."""
        actual, expected = self.digest.hexdigest(), self.remote.sha256
        if expected and actual != expected.lower():
            self.partial.unlink()
            raise SourceError(f"{self.remote.url} has sha256 {actual}, expected {expected}")
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        self.partial.replace(self.target)
        self.validator.unlink(missing_ok=True)
        self.report(self.done, self.done)


def _hint(status: int) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ": a token with access is required"
    return ": no such file" if status == HTTPStatus.NOT_FOUND else ""


INTERVAL = 0.1  # seconds


class Progress:
    """The total progress of the files of one fetch."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._finished = 0  # bytes of all files so far
        self._last = float("-inf")
        self.total: int | None = None  # bytes of all files; None if the origin does not state them

    def file(self, name: str) -> Report:
        """Return the reporter of the next file. Earlier files must be complete."""
        before = self._finished

        def report(done: int, total: int | None) -> None:
            self._finished = before + done
            if done == total or time.monotonic() - self._last >= INTERVAL:
                self._last = time.monotonic()
                all_bytes = self.total if self.total is not None or total is None else before + total
                self.write({"done": before + done, "total": all_bytes, "file": name})

        return report

    def write(self, line: dict[str, Any]) -> None:
        """Write one line at once."""
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()
