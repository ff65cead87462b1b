"""HTTP client for a running hotseat: JSON, text and server-sent events."""

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
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, SSLError

from hotseat.cli.terminal import escape_controls

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0  # seconds; loads and streams have no limit
EXCERPT = 200  # characters that are quoted of an unexpected answer

Query = Mapping[str, str | int | bool | None]  # None: not sent


class ClientError(click.ClickException):
    """An error for the user. The command exits with code 1. The message may have output of an engine."""

    def __init__(self, message: str) -> None:
        super().__init__(escape_controls(message))


class ServerUnreachable(ClientError):
    """No hotseat answers at the URL."""


class ApiError(ClientError):
    """An error response. `retry_after` is in seconds, as in the header."""

    def __init__(
        self, message: str, *, status: int | None = None, code: str = "", retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.hint = ""

    def format_message(self) -> str:
        """Return the message with a hint."""
        hint = self.hint
        if self.status == 401:  # noqa: PLR2004
            hint = "give the key with --api-key or HOTSEAT_API_KEY"
        elif self.retry_after:
            hint = f"try again in {self.retry_after} s"
        between = "\n" if "\n" in self.message else "; "  # a message of several lines ends with output of an engine
        return f"{self.message.rstrip('.')}{between}{hint}" if hint else self.message


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of a stream. For a comment `comment` is not None."""

    data: str = ""
    event: str = "message"
    id: str = ""
    comment: str | None = None


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Yield server-sent events and comments of a stream, according to the standard.

    Line ends can be of any kind, data can have several lines, an ID stays until the next one, and an incomplete
    last event is dropped.
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
    """Return the base URL for `localhost:8000` or `http://host:8000/v1/`. Raise ValueError if it is invalid."""
    text = text if "://" in text else f"http://{text}"
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError if it is not a number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text} is not an http:// or https:// URL")
    return text.rstrip("/").removesuffix("/v1")


class Client:
    """Client of the hotseat at `url`. Thread-safe. All errors are ClientError."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        ca_file: str | None = None,
        answer_timeout: float = ANSWER_TIMEOUT,
        fingerprint: str | None = None,
    ) -> None:
        """`fingerprint`: the SHA-256 of the only certificate to trust. None: the system, or `ca_file`, says which."""
        self.url = base_url(url)
        self._headers = {"User-Agent": "hotseat"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._pool = urllib3.PoolManager(
            retries=False,
            ca_certs=ca_file,
            assert_fingerprint=fingerprint,
            cert_reqs="CERT_REQUIRED" if fingerprint is None else "CERT_NONE",
        )
        self._answer_timeout = answer_timeout

    def get(self, path: str, part: str, query: Query | None = None) -> dict[str, Any]:
        """Return the JSON object that a GET returns. Raise ClientError if it has no field `part`."""
        body = self._json("GET", path, self._answer_timeout, query)
        if not isinstance(body, dict) or part not in body:
            raise ClientError(f"the server at {self.url} is not hotseat: {path} has no {part!r}")
        return body

    def act(self, path: str, *, wait: bool) -> Any:
        """Send a command by POST, and return the response. With `wait` it returns when the command is done."""
        return self._json("POST", path, None if wait else self._answer_timeout, {"wait": wait})

    def clear_prompts(self, model: str | None) -> Any:
        """Delete the saved prompt caches of a model, or of all models."""
        query = {} if model is None else {"model": model}
        with self.near_miss(model or ""):
            return self._json("POST", "/api/cache/clear", self._answer_timeout, query)

    def switch_profile(self, profile: str | None, workspace: str | None = None) -> Any:
        """Make a profile active. None: none is. Without WORKSPACE: in each that has it."""
        body = {"name": profile} | ({} if workspace is None else {"workspace": workspace})
        return self._json("PUT", "/api/profiles/active", self._answer_timeout, body=body)

    def prune(self, older_than: str, *, dry_run: bool) -> Any:
        """Delete cached weights that nobody uses."""
        return self._json("POST", "/api/cache/prune", None, {"older_than": older_than, "dry_run": dry_run})

    def pull(self, model: str) -> Any:
        """Fetch the weights of a model, and return when they are there."""
        with self.near_miss(model):
            return self._json("POST", "/api/pull", None, body={"model": model, "stream": False})

    def cancel(self, request: str) -> Any:
        """Cancel a request by its id."""
        return self._json("POST", f"/api/requests/{quote(request, safe='')}/cancel", self._answer_timeout)

    def load(self, model: str, *, wait: bool = True) -> Any:
        """Load a model."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/load", wait=wait)

    def unload(self, model: str, *, wait: bool = True) -> Any:
        """Unload a model."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/unload", wait=wait)

    def park(self, model: str, *, wait: bool = True) -> Any:
        """Put a model to sleep."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/park", wait=wait)

    def pin(self, model: str, *, wait: bool = True) -> Any:
        """Load a model and keep it loaded."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/pin", wait=wait)

    def unpin(self, model: str) -> Any:
        """Allow a pinned model to be evicted again."""
        with self.near_miss(model):
            return self.act(f"/api/models/{_segment(model)}/unpin", wait=False)

    def log_lines(self, model: str, lines: int, *, follow: bool) -> Iterator[str]:
        """Yield the last lines of an engine's output and, with `follow`, new lines."""
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
        """Yield the last CloudEvents and, with `follow`, new ones."""
        for event in self.stream("/api/events", {"history": history, "follow": None if follow else False}):
            if event.comment is None:
                yield _parsed(event.data)

    def chat(self, body: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """Request a streamed chat completion, with the loading state as comments."""
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
        """Yield the events of a stream. Closing the iterator closes the connection."""
        with self._request(method, path, None, query, body=body, headers=headers) as response:
            yield from read_events(self._chunks(response))

    def names(self) -> list[str]:
        """Return all names of models, the displayed name of each model first."""
        models = self.get("/v1/models", "data")["data"]
        return [name for model in models for name in model.get("names") or (model["id"],)]

    @contextmanager
    def near_miss(self, name: str) -> Iterator[None]:
        """Add a hint with a similar name to errors about an unknown model."""
        try:
            yield
        except ApiError as error:
            if error.code == "model_not_found":
                with suppress(ClientError):  # the hint is optional
                    error.hint = self._hint(name)
            raise

    def _hint(self, name: str) -> str:
        known = self.names()
        close = get_close_matches(name, known, n=1, cutoff=0.5)
        return f"did you mean {close[0]}?" if close else f"available: {', '.join(known) or 'none'}"

    def _json(
        self,
        method: str,
        path: str,
        timeout: float | None,
        query: Query | None = None,
        *,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        with self._request(method, path, timeout, query, body=body) as response, self._explained():
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
        """Send a request, and yield the response without its body. Raise ApiError unless it is 2xx."""
        sent = urlencode(
            {
                key: str(value).lower() if isinstance(value, bool) else value
                for key, value in (query or {}).items()
                if value is not None
            }
        )
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
        """Raise the error of a response. A body that is not an API error is quoted."""
        try:
            error = json.loads(response.data)["error"]
            message, code = str(error["message"]), str(error.get("code") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            excerpt = " ".join(response.data.decode("utf-8", "replace").split())[:EXCERPT]
            message, code = f"{self.url} returned {response.status} {response.reason or ''}: {excerpt}".rstrip(": "), ""
        raise ApiError(message, status=response.status, code=code, retry_after=response.headers.get("Retry-After"))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert errors of urllib3 to ClientError."""
        try:
            yield
        except SSLError as error:
            raise ClientError(
                f"no trusted connection to {self.url}: {error}; use --ca-file or HOTSEAT_CA_FILE with the server's certificate"
            ) from error
        except OSError as error:  # of the file of certificates
            raise ClientError(f"--ca-file or HOTSEAT_CA_FILE: {error.strerror or error}") from error
        except (NewConnectionError, ConnectTimeoutError, NameResolutionError) as error:
            raise ServerUnreachable(
                f"no hotseat answers at {self.url}; "
                "start one with `hotseat up -f models.yaml`, or use --url or HOTSEAT_URL"
            ) from error
        except HTTPError as error:
            raise ClientError(f"the connection to {self.url} ended early: {error}") from error


def _segment(name: str) -> str:
    """Return a name for a path. Slashes and dots are encoded if clients would normalise them, such as `..`."""
    if {"", ".", ".."}.isdisjoint(name.split("/")):
        return quote(name)
    return quote(name, safe="").replace(".", "%2E")


def _parsed(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ClientError(f"the answer is not JSON: {data[:EXCERPT]!r}; is the server hotseat?") from error


def stream_error(error: Any) -> ApiError:
    """Return the error of an error event in a stream."""
    if isinstance(error, dict):
        return ApiError(str(error.get("message", error)), code=str(error.get("code") or ""))
    return ApiError(str(error))
