"""The client's side of an exchange: a response, over any server."""

import errno
import select
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from hotseat.gateway.relay.heads import Headers


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
