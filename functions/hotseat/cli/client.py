"""Talk to a running hotseat over HTTP: JSON, plain text and server-sent events, with errors that say what to do."""

import io
import json
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import click
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0  # for what the server answers from memory; loads and streams have no limit here: Ctrl-C is theirs
EXCERPT = 200  # characters quoted of an answer that is not hotseat's

Query = Mapping[str, str | int | bool | None]  # None: not sent


class ClientError(click.ClickException):
    """What a command cannot do, in words for the user; ends it with exit code 1."""


class ApiError(ClientError):
    """An answer that says no. `retry_after` is in seconds, as the server sent it."""

    def __init__(
        self, message: str, *, status: int | None = None, code: str = "", retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.hint = ""

    def format_message(self) -> str:
        """Add what the user can do about it."""
        hint = self.hint
        if self.status == 401:  # noqa: PLR2004
            hint = "give the key with --api-key or HOTSEAT_API_KEY"
        elif self.retry_after:
            hint = f"try again in {self.retry_after} s"
        between = "\n" if "\n" in self.message else "; "  # a message of many lines ends with an engine's own
        return f"{self.message.rstrip('.')}{between}{hint}" if hint else self.message


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of a stream, or one comment (`comment` is not None, the rest empty)."""

    data: str = ""
    event: str = "message"
    id: str = ""
    comment: str | None = None


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Read server-sent events and comments out of chunks that may be cut anywhere.

    As the standard says: any line end, data over several lines, the id stays until another comes, an unfinished event at
    the end is dropped.
    """
    decoder = io.IncrementalNewlineDecoder(getincrementaldecoder("utf-8-sig")("replace"), translate=True)
    data: list[str] = []
    rest, event, last_id = "", "", ""
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if data:
                    yield ServerSentEvent("\n".join(data), event or "message", last_id)
                data, event = [], ""
            elif not name:
                yield ServerSentEvent(comment=value)
            elif name == "data":
                data.append(value)
            elif name == "event":
                event = value
            elif name == "id":
                last_id = value


def base_url(text: str) -> str:
    """Make `localhost:8000` or `http://host:8000/v1/` the address that paths are added to; ValueError if it is none."""
    text = text if "://" in text else f"http://{text}"
    parts = urlsplit(text)
    _ = parts.port  # raises for one that is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text} is no http:// or https:// address")
    return text.rstrip("/").removesuffix("/v1")


class Client:
    """One hotseat at `url`. Safe to use from many threads. Whatever goes wrong is a ClientError."""

    def __init__(self, url: str, api_key: str | None = None, *, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self.url = base_url(url)
        self._headers = {"User-Agent": "hotseat"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._pool = urllib3.PoolManager(retries=False)
        self._answer_timeout = answer_timeout

    def get(self, path: str, part: str) -> dict[str, Any]:
        """JSON object that a GET answers, which has this part."""
        body = self._json("GET", path, self._answer_timeout)
        if not isinstance(body, dict) or part not in body:
            raise ClientError(f"what answers at {self.url}{path} is not a hotseat: no {part!r} in its answer")
        return body

    def act(self, path: str, *, wait: bool) -> Any:
        """Body of a POST that orders something; with `wait` it returns once that is done, however long it takes."""
        return self._json("POST", path, None if wait else self._answer_timeout, {"wait": wait})

    def load(self, model: str, *, wait: bool = True) -> Any:
        """Load a model."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/load", wait=wait)

    def unload(self, model: str, *, wait: bool = True) -> Any:
        """Unload a model."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/unload", wait=wait)

    def pin(self, model: str, *, wait: bool = True) -> Any:
        """Load a model and keep it loaded."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/pin", wait=wait)

    def unpin(self, model: str) -> Any:
        """Let others have its place again."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/unpin", wait=False)

    def log_lines(self, model: str, lines: int, *, follow: bool) -> Iterator[str]:
        """Last lines of an engine's output and, with `follow`, those to come."""
        path = f"/api/models/{_segment(model)}/logs"
        with self.near_miss(model):
            if follow:
                stream = self.stream(path, {"lines": lines, "follow": True})
                yield from (event.data for event in stream if event.comment is None)
                return
            with self._request("GET", path, self._answer_timeout, {"lines": lines}) as response, self._explained():
                text = response.data.decode("utf-8", "replace")
        yield from text.removesuffix("\n").split("\n") if text else ()

    def events(self, *, history: int = 0, follow: bool = True) -> Iterator[dict[str, Any]]:
        """CloudEvents: the last of the past, then, with `follow`, those to come."""
        for event in self.stream("/api/events", {"history": history, "follow": None if follow else False}):
            if event.comment is None:
                yield _parsed(event.data)

    def chat(self, body: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """Ask for a streamed chat completion, with the loading state as comments."""
        headers = {"X-Hotseat-Loading": "comments", "Accept": "text/event-stream"}
        with self.near_miss(str(body.get("model", ""))):
            yield from self.stream(
                "/v1/chat/completions", method="POST", body={**body, "stream": True}, headers=headers
            )

    def stream(
        self,
        path: str,
        query: Query | None = None,
        *,
        method: str = "GET",
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[ServerSentEvent]:
        """Events of a stream until the server ends it; the connection is closed when the iterator is."""
        with self._request(method, path, None, query, body=body, headers=headers) as response:
            yield from read_events(self._chunks(response))

    def names(self) -> list[str]:
        """All names that a request may give: of each model first the one that is shown."""
        models = self.get("/v1/models", "data")["data"]
        return [name for model in models for name in model.get("names") or (model["id"],)]

    @contextmanager
    def near_miss(self, name: str) -> Iterator[None]:
        """Add to the error about an unknown model which one may have been meant."""
        try:
            yield
        except ApiError as error:
            if error.code == "model_not_found":
                with suppress(ClientError):  # the error is worth more than the hint
                    error.hint = self._hint(name)
            raise

    def _hint(self, name: str) -> str:
        known = self.names()
        close = get_close_matches(name, known, n=1, cutoff=0.5)
        return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known) or 'none'}"

    def _json(self, method: str, path: str, timeout: float | None, query: Query | None = None) -> Any:
        with self._request(method, path, timeout, query) as response, self._explained():
            return _parsed(response.data)

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        timeout: float | None,
        query: Query | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Answer to a request, its body not yet read; ApiError for one that is not 2xx."""
        sent = urlencode({key: str(value).lower() for key, value in (query or {}).items() if value is not None})
        with self._explained():
            response = self._pool.request(
                method,
                self.url + path + (f"?{sent}" if sent else ""),
                headers={**self._headers, **(headers or {})},
                json=body,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=timeout),
                preload_content=False,
            )
        try:
            if not 200 <= response.status < 300:  # noqa: PLR2004
                with self._explained():
                    self._refused(response)
            yield response
        finally:
            response.close()

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        with self._explained():
            while chunk := response.read1():
                yield chunk

    def _refused(self, response: urllib3.BaseHTTPResponse) -> NoReturn:
        """Turn an answer into the error that it tells; another server's page is quoted, not parsed."""
        try:
            error = json.loads(response.data)["error"]
            message, code = str(error["message"]), str(error.get("code") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            said = " ".join(response.data.decode("utf-8", "replace").split())[:EXCERPT]
            message, code = f"{self.url} answered {response.status} {response.reason or ''}: {said}".rstrip(": "), ""
        raise ApiError(message, status=response.status, code=code, retry_after=response.headers.get("Retry-After"))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in the user's words why there is no answer."""
        try:
            yield
        except (NewConnectionError, ConnectTimeoutError, NameResolutionError) as error:
            raise ClientError(
                f"no hotseat answers at {self.url}; "
                "start one with `hotseat up -f models.yaml`, or name it with --url or HOTSEAT_URL"
            ) from error
        except HTTPError as error:
            raise ClientError(f"the connection to {self.url} ended early: {error}") from error


def _segment(name: str) -> str:
    """Write a name into a path. Where parts of it would be taken out of a path, as `..` is, slashes and dots are encoded, too."""
    if {"", ".", ".."}.isdisjoint(name.split("/")):
        return quote(name)
    return quote(name, safe="").replace(".", "%2E")


def _parsed(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ClientError(f"the answer is not JSON: {data[:EXCERPT]!r}; is that a hotseat?") from error


def stream_error(error: Any) -> ApiError:
    """Error that came inside a stream that had begun."""
    if isinstance(error, dict):
        return ApiError(str(error.get("message", error)), code=str(error.get("code") or ""))
    return ApiError(str(error))
