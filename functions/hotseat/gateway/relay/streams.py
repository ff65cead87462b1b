"""The client's side of an exchange: a response, over any server."""

import contextlib
import errno
import math
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Protocol

from hotseat.gateway.relay.http1 import Headers, encode_head


class ClientGone(Exception):
    """The client has disconnected, or reads nothing any more."""


class ClientStream(Protocol):
    """One response. `begin`, `write` and `end` send immediately, or raise ClientGone.

    After `begun` errors can only be sent in the body, after `ended` not at all. `sent` counts bytes. The WSGI
    application returns `finish()` in any case.
    """

    begun: bool
    ended: bool
    sent: int

    def fileno(self) -> int:
        """Return the descriptor of the client's connection, to detect a disconnect. -1 if there is none."""

    def begin(self, status: str, headers: Headers, data: bytes = b"", *, last: bool = False) -> None:
        """Send the head and the first bytes of the body, or all of it with `last`. Raise ValueError for an invalid header."""

    def write(self, data: bytes) -> None:
        """Send more of the body. Empty data has no effect."""

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes, if any, and the end of the body."""

    def abort(self) -> None:
        """Reset the connection, so that the client does not take the answer for complete."""

    def hurry(self) -> None:
        """Limit a blocked write to one more second. Called from another thread."""

    def finish(self) -> Iterable[bytes]:
        """Return an empty iterable, or one that breaks the connection."""


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the client's socket, or None if the server does not expose it."""
    found = environ.get("gunicorn.socket")
    return found if isinstance(found, socket.socket) else None


def departed(sock: socket.socket) -> bool:
    """Whether the peer has closed or reset the connection, also if unread bytes are left."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


class PlainStream:
    """Response by WSGI's `write`: for HTTP/2, TLS, other servers, and test clients.

    Without a socket a disconnect shows at the next write.
    """

    def __init__(self, start_response: Callable[..., Any], watched: socket.socket | None = None) -> None:
        self.begun = False
        self.ended = False
        self.sent = 0
        self._start_response = start_response
        self._watched = watched
        self._send: Callable[[bytes], Any] = _nothing
        self._broken = False

    def fileno(self) -> int:
        """Return the descriptor of the connection, or -1 if the server does not expose it."""
        return -1 if self._watched is None else self._watched.fileno()

    def begin(self, status: str, headers: Headers, data: bytes = b"", *, last: bool = False) -> None:
        """Start the response. An empty write makes the server send the head."""
        if any(character in text for field in headers for text in field for character in "\r\n\0"):
            raise ValueError("a line break inside a header")
        self.begun = True
        self._send = self._start_response(status, headers)
        self._write(data)
        self.ended = last

    def write(self, data: bytes) -> None:
        """Send more of the body."""
        if data:
            self._write(data)

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes. The server ends the body when the application returns."""
        self.write(data)
        self.ended = True

    def abort(self) -> None:
        """Make the returned iterable fail, at which the server breaks the connection."""
        self._broken = self.ended = True

    def hurry(self) -> None:
        """Do nothing: the server limits writes."""

    def finish(self) -> Iterable[bytes]:
        """Return an empty iterable, or one that breaks the connection."""
        return _break_connection() if self._broken else ()

    def _write(self, data: bytes) -> None:
        try:
            self._send(data)
        except OSError as error:
            raise ClientGone from error
        self.sent += len(data)


def _nothing(_data: bytes) -> None:
    """Ignore data before the response has started."""


def _break_connection() -> Iterator[bytes]:
    """Raise the error of a reset by the client: the server closes the connection and logs no traceback."""
    raise ConnectionResetError(errno.ECONNRESET, "the answer broke off")
    yield b""


START_RESPONSE = "hotseat.start_response"  # environ key of WSGI's start_response, set by the application
_FLUSH_GRACE = 1.0  # seconds for a stalled client after its exchange is cancelled
_UNWOKEN = 0.5  # seconds between checks for a cancellation if there is no eventfd
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_RESPONSE_FIELDS = ("req", "status", "headers_sent", "chunked", "response_length", "must_close", "sent")


def _dead_socket() -> int:
    one, other = socket.socketpair()
    with other:
        return one.detach()


_DEAD = _dead_socket()  # created early: later there may be no descriptor left


def client_stream(environ: Mapping[str, Any]) -> ClientStream:
    """Return the fastest stream that the server of this request supports."""
    start_response = environ[START_RESPONSE]
    sock = client_socket(environ)
    response = getattr(start_response, "__self__", None)
    # Exactly these classes: their subclasses for TLS and HTTP/2 frame bytes themselves.
    kind = type(response)
    ours = kind.__module__ == "gunicorn.http.wsgi" and kind.__name__ == "Response" and type(sock) is socket.socket
    if ours and sock is not None and all(hasattr(response, name) for name in _RESPONSE_FIELDS):
        return TakeoverStream(
            sock, response, modern=environ["SERVER_PROTOCOL"] == "HTTP/1.1", head=environ["REQUEST_METHOD"] == "HEAD"
        )
    return PlainStream(start_response, sock)


class TakeoverStream:
    """Response on the socket of gunicorn. `modern`: the client uses HTTP/1.1. `head`: the request is HEAD.

    This relies on internals of gunicorn: `gunicorn.socket` in the environ, and the Response behind `start_response`, which
    is left as if a response with a length was sent. tests/embedded/test_relay_gunicorn.py tests it with the pinned version.
    """

    __slots__ = (
        "_chunked",
        "_deadline",
        "_head",
        "_lock",
        "_modern",
        "_response",
        "_sock",
        "_wake",
        "begun",
        "ended",
        "sent",
    )

    def __init__(self, sock: socket.socket, response: Any, *, modern: bool, head: bool) -> None:
        self.begun = False
        self.ended = False
        self.sent = 0
        self._sock = sock
        self._response = response
        self._modern = modern
        self._head = head
        self._chunked = False
        self._lock = threading.Lock()  # over the next two
        self._wake: int | None = None  # eventfd, while a write waits for the client
        self._deadline: float | None = None

    def fileno(self) -> int:
        """Descriptor of the client's connection."""
        return self._sock.fileno()

    def begin(self, status: str, headers: Headers, data: bytes = b"", *, last: bool = False) -> None:
        """Send the head and the first bytes of the body together."""
        response = self._response
        bodiless = self._head or status[:3] in ("204", "304")
        counted = bodiless or any(name.lower() == "content-length" for name, _ in headers)
        self._chunked = self._modern and not counted
        close = (
            response.must_close or response.req.should_close() or _pipelined(response) or not (counted or self._chunked)
        )
        lines = [f"HTTP/1.1 {status}\r\n", f"Date: {_http_date(int(time.time()))}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in headers]
        if self._chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        if close or not self._modern:
            lines.append("Connection: close\r\n" if close else "Connection: keep-alive\r\n")
        message = encode_head(lines)
        self._claim(status, close=close)
        self._send(message + self._framed(b"" if bodiless else data, last=last))
        self.ended = last

    def write(self, data: bytes) -> None:
        """Send more of the body, as one chunk if it is chunked."""
        if data:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes and the end of a chunked body together."""
        message = self._framed(data, last=True)
        if message:
            self._send(message)
        self.ended = True

    def abort(self) -> None:
        """Reset the connection, because HTTP/1.0 clients take a close for the end of the body.

        Only closing the last descriptor resets, and gunicorn holds it: replace it by a closed socket.
        """
        self._claim("499 Aborted", close=True)
        self.ended = True
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        os.dup2(_DEAD, self._sock.fileno(), inheritable=False)

    def hurry(self) -> None:
        """Set the deadline, and wake a blocked write."""
        with self._lock:
            self._deadline = self._deadline or time.monotonic() + _FLUSH_GRACE
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def finish(self) -> Iterable[bytes]:
        """Return an empty iterable: the response is sent."""
        self._response.sent = self.sent  # for its access log
        return ()

    def _claim(self, status: str, *, close: bool) -> None:
        response = self._response
        if not self.begun:
            response.status = status
            response.status_code = int(status[:3])
        response.headers_sent = True
        response.chunked = False
        response.response_length = 0
        if close:
            response.must_close = True
        self.begun = True

    def _framed(self, data: bytes, *, last: bool) -> bytes:
        if not self._chunked:
            return data
        end = b"0\r\n\r\n" if last else b""
        return b"%x\r\n%b\r\n%b" % (len(data), data, end) if data else end

    def _send(self, data: bytes) -> None:
        try:
            sent = self._sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientGone from error
        if sent < len(data):
            self._send_slowly(memoryview(data)[sent:])
        self.sent += len(data)

    def _send_slowly(self, rest: memoryview) -> None:
        """Wait for a client that reads slower than its engine writes. The relay does not read from the engine meanwhile."""
        watch = select.poll()
        watch.register(self._sock, select.POLLOUT | select.POLLRDHUP)
        with self._lock, contextlib.suppress(OSError):  # no descriptor: poll instead
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            watch.register(self._wake, select.POLLIN)
        try:
            while rest:
                rest = rest[self._send_some(watch, rest) :]
        finally:
            with self._lock:
                wake, self._wake = self._wake, None
            if wake is not None:
                os.close(wake)

    def _send_some(self, watch: select.poll, rest: memoryview) -> int:
        wake, deadline = self._wake, self._deadline
        limit = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
        pause = limit if wake is not None else min(limit, _UNWOKEN)
        events = dict(watch.poll(None if pause == math.inf else pause * 1000))
        if events.get(self._sock.fileno(), 0) & _GONE or (not events and pause == limit):
            raise ClientGone
        if not events:
            return 0
        if wake in events:
            watch.unregister(wake)
            return 0
        try:
            return self._sock.send(rest, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone from error


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _pipelined(response: Any) -> bool:
    """Whether gunicorn has read a part of the next request, which it would drop.

    `Connection: close` then makes the client send it again.
    """
    unreader = getattr(response.req, "unreader", None)
    return unreader is not None and unreader.buf.getbuffer().nbytes > 0
