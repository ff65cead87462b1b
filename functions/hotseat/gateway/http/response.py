"""The response to one request, written to the client's connection."""

import json
import time
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from hotseat.core.errors import HotseatError
from hotseat.gateway.errors import OPENAI, ErrorShape, UpstreamRefused, api_kind, error_body, error_headers, shape_of

if TYPE_CHECKING:
    from hotseat.gateway.http.connection import ClientConnection
    from hotseat.gateway.http.interfaces import Tunnel
    from hotseat.gateway.http.request import Request


MAX_CAPTURE = 2**20  # bytes of a body


class ResponseWriter(Protocol):
    """Who writes a response, and is told about its client. The methods are called on the loop."""

    def client_gone(self) -> None:
        """Handle a client that has closed its connection before the end of the response."""

    def pause(self) -> None:
        """Write no more until `resume`: the client has not taken what was written."""

    def resume(self) -> None:
        """Write again."""


class ResponseSink(Protocol):
    """Where the answer of an engine is written: a Response, or what changes the answer and writes to one."""

    begun: bool
    writer: ResponseWriter | None

    @property
    def ended(self) -> bool:
        """Whether the whole response has been sent."""

    @property
    def gone(self) -> bool:
        """Whether the client has left."""

    @property
    def paused(self) -> bool:
        """Whether the client reads too slowly."""

    @property
    def sent(self) -> int:
        """Bytes of the body that have been sent."""

    def begin(self, status: str, fields: bytes, data: bytes = b"", *, counted: bool, last: bool = False) -> None:
        """Send the head and the first bytes of the body, or all of it with `last`."""

    def write(self, data: bytes) -> None:
        """Send more of the body."""

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes and the end of the body."""

    def end_with_error(self, error: HotseatError, *, within_event: bool = False) -> None:
        """End a stream of events with an error. `within_event`: what was sent last is not a whole event."""

    def abort(self) -> None:
        """Break off a response that cannot be completed."""


class ResponseFilter:
    """What changes an answer on its way to `response`. A subclass has `begin`, `write` and `end`, and overrides what else it needs."""

    def __init__(self, response: ResponseSink) -> None:
        self._response = response
        self.begun = response.begun

    @property
    def writer(self) -> ResponseWriter | None:
        """Who writes the response."""
        return self._response.writer

    @writer.setter
    def writer(self, writer: ResponseWriter | None) -> None:
        self._response.writer = writer

    @property
    def paused(self) -> bool:
        """Whether the client reads too slowly."""
        return self._response.paused

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._response.gone

    @property
    def ended(self) -> bool:
        """Whether the whole response has been sent."""
        return self._response.ended

    @property
    def sent(self) -> int:
        """Bytes of the body that have been sent."""
        return self._response.sent

    def abort(self) -> None:
        """Reset the connection."""
        self._response.abort()


_date = (0, b"")


def _date_line() -> bytes:
    """Return the Date header, which changes once a second."""
    global _date  # noqa: PLW0603 — a cache
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _date[1]


def status_line(code: int) -> str:
    """Return a status with its phrase, such as `200 OK`."""
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return f"{code} Unknown"


def encode_fields(fields: Sequence[tuple[str, str]]) -> bytes:
    """Return headers as bytes. Raise ValueError if one has a line break."""
    return _encode_cached(fields) if type(fields) is tuple else _encode(fields)


def _encode(fields: Sequence[tuple[str, str]]) -> bytes:
    if not fields:
        return b""
    text = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if not text.count("\r\n") == text.count("\n") == text.count("\r") == len(fields) or "\0" in text:
        raise ValueError("a line break inside a header")
    return text.encode("latin-1")


_encode_cached = lru_cache(maxsize=256)(_encode)  # most responses of a Model have the same


class ErrorPage:
    """An error as the body of a response."""

    def __init__(self, error: HotseatError, shape: ErrorShape = OPENAI) -> None:
        self.status = status_line(api_kind(error).status)
        self.body = json.dumps(error_body(error, shape)).encode() + b"\n"
        headers = error_headers(error).items()
        fields = [("Content-Type", "application/json"), *headers, ("Content-Length", str(len(self.body)))]
        self.fields = encode_fields(fields)

    def encode(self) -> bytes:
        """Return the whole response, after which the connection is closed."""
        return b"HTTP/1.1 %b\r\n%bConnection: close\r\n\r\n%b" % (self.status.encode(), self.fields, self.body)


class Response:
    """One response. `begin`, `write` and `end` never wait; a `writer` is told to pause while the client reads too slowly.

    After `begun`, errors can only be sent in the body, after `ended` not at all. `sent` counts bytes of the body. `capture`, if it is
    set, gets their first MAX_CAPTURE. `request_id` is a header, encoded, or empty.
    """

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_connection",
        "_extra",
        "_keep",
        "_modern",
        "_path",
        "begun",
        "capture",
        "ended",
        "request_id",
        "sent",
        "status",
        "writer",
    )

    def __init__(self, connection: "ClientConnection", request: "Request | None") -> None:
        self.begun = False
        self.ended = False
        self.sent = 0
        self.status = 0
        self.capture: bytearray | None = None
        self.request_id = b""
        self.writer: ResponseWriter | None = None
        self._connection = connection
        self._chunked = False
        self._bodiless = request is not None and request.method == "HEAD"
        self._modern = request is None or request.minor > 0
        self._keep = request is not None and request.keep_alive
        self._extra = () if request is None else request.extra
        self._path = "" if request is None else request.path

    @property
    def error_shape(self) -> ErrorShape:
        """How the API of the request reports errors."""
        return shape_of(self._path)

    @property
    def paused(self) -> bool:
        """Whether the client reads too slowly. Writes are buffered all the same."""
        return self._connection.paused

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._connection.gone

    def close_after(self) -> None:
        """Close the connection after this response."""
        self._keep = False

    def begin(self, status: str, fields: bytes, data: bytes = b"", *, counted: bool, last: bool = False) -> None:
        """Send the head and the first bytes of the body, or all of it with `last`.

        `fields` are encoded headers. `counted`: they have the length of the body.
        """
        code = int(status[:3])
        bodiless = self._bodiless or code in (204, 304)
        self._chunked = self._modern and not counted and not bodiless
        if self._connection.closes_next or not (counted or self._chunked or bodiless):
            self._keep = False
        head = [b"HTTP/1.1 ", status.encode("latin-1"), b"\r\n", _date_line(), fields, self.request_id]
        if self._extra:
            head.append(encode_fields(self._extra))
        if self._chunked:
            head.append(b"Transfer-Encoding: chunked\r\n")
        if not self._keep:
            head.append(b"Connection: close\r\n")
        elif not self._modern:
            head.append(b"Connection: keep-alive\r\n")
        head.append(b"\r\n")
        self._bodiless = bodiless
        self.begun, self.status = True, code
        self._send(head, data, last=last)

    def write(self, data: bytes) -> None:
        """Send more of the body, as one chunk if it is chunked."""
        if data:
            self._send([], data, last=False)

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes and the end of the body."""
        self._send([], data, last=True)

    def end_with_error(self, error: HotseatError, *, within_event: bool = False) -> None:
        """End a stream of events with an error. `within_event`: what was sent last is not a whole event."""
        shape = self.error_shape
        given = error.given if isinstance(error, UpstreamRefused) else None
        event = shape.event(given or error_body(error, shape))
        self.end(b"\n\n" + event if within_event else event)

    def abort(self) -> None:
        """Reset the connection, so that the client does not take the answer for complete."""
        self.begun = self.ended = True
        self.writer = None
        self._connection.abort()

    def fail(self, error: HotseatError) -> None:
        """Send an error as the whole response."""
        page = ErrorPage(error, self.error_shape)
        self.begin(page.status, page.fields, page.body, counted=True, last=True)

    def fail_or_abort(self, error: HotseatError) -> None:
        """Send an error as the whole response. If a part has been sent, reset the connection: a truncated answer must not look complete."""
        if not self.begun:
            self.fail(error)
        elif not self.ended:
            self.abort()

    # After an upgrade -------------------------------------------------------------------------------------------------

    def begin_tunnel(self, fields: bytes, tunnel: "Tunnel") -> None:
        """Switch protocols. The client's bytes go to `tunnel`."""
        extra = encode_fields(self._extra)
        self.begun, self.status = True, 101
        self._connection.send([b"HTTP/1.1 101 Switching Protocols\r\n", fields, self.request_id, extra, b"\r\n"])
        self._connection.open_tunnel(tunnel)

    def write_tunnel(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sent += len(data)
        self._connection.send([data])

    def read_tunnel(self, *, on: bool) -> None:
        """Read from the client, or stop reading."""
        self._connection.set_reading(on=on)

    def end_tunnel(self) -> None:
        """Close the connection, after all bytes are sent."""
        self.ended = True
        self.writer = None
        self._connection.finished(self, keep=False)

    def _send(self, pieces: list[bytes], data: bytes, *, last: bool) -> None:
        if data and not self._bodiless:
            self.sent += len(data)
            if self.capture is not None:
                self.capture += data[: MAX_CAPTURE - len(self.capture)]
            pieces += [b"%x\r\n" % len(data), data, b"\r\n"] if self._chunked else [data]
        if last and self._chunked and not self._bodiless:
            pieces.append(b"0\r\n\r\n")
        if pieces:
            self._connection.send(pieces)
        if last:
            self.ended = True
            self.writer = None
            self._connection.finished(self, keep=self._keep)
