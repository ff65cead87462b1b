"""Requests to origins over HTTP, by the proxies of the environment; and a file that is downloaded by them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError

from hotseat.sources.base import SourceError
from hotseat.sources.download import CHUNK, Content, FileChanged, Interrupted

RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class HttpFile:
    """A file at a URL. `size` (in bytes) and `sha256` are None if they are not known before the download."""

    pool: urllib3.PoolManager
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The URL, for messages."""
        return self.url

    @contextmanager
    def open(self, offset: int, validator: str | None) -> Iterator[Content]:
        """Request the bytes from `offset` on."""
        headers = {"Accept-Encoding": "identity", **self.headers}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        try:
            response = self.pool.request("GET", self.url, headers=headers, preload_content=False)
        except ValueError as error:
            raise SourceError(f"{self.url}: {explain(error)}") from None
        except HTTPError as error:
            raise Interrupted(explain(error)) from None
        try:
            yield self._content(response, offset, validator)
        finally:
            response.close()

    def _content(self, response: urllib3.BaseHTTPResponse, offset: int, validator: str | None) -> Content:
        status = response.status
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            if validator and response.headers.get("Content-Range") == f"bytes */{offset}":
                return Content(offset, (), total=offset, validator=validator)  # all of that version is here
            raise FileChanged("the partial file does not match the remote file")
        if status in RETRYABLE_STATUS:
            raise Interrupted(f"answered {status}")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise SourceError(f"{self.url} answered {status}{_hint(status)}")
        if status == HTTPStatus.OK:
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            raise FileChanged("answered with another range than requested")
        length = response.headers.get("Content-Length", "")
        tag = response.headers.get("ETag", "")
        return Content(
            offset,
            _blocks(response),
            total=offset + int(length) if length.isdigit() else None,
            # A weak ETag does not guarantee equal bytes.
            validator=tag if tag.startswith('"') else response.headers.get("Last-Modified"),
        )


def _blocks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(CHUNK, decode_content=False)
    except HTTPError as error:
        raise Interrupted(explain(error)) from None


def _hint(status: int) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ": a token with access is required"
    return ": no such file" if status == HTTPStatus.NOT_FOUND else ""


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
