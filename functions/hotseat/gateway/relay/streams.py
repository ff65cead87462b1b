"""The client's side of an exchange: a response that is begun, written and ended, whatever carries it."""

import errno
import select
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from hotseat.gateway.relay.heads import Headers


class ClientGone(Exception):
    """The client left, or takes nothing any more; there is nobody to tell."""


class ClientStream(Protocol):
    """One response to one client. Each of begin, write and end gets its bytes to the client at once, or raises ClientGone.

    `begun` says that a status has gone out, so that what goes wrong later can only be told in the body. `ended` says that
    nothing more can be. `sent` counts bytes. `finish()` is what the WSGI application returns in the end, in any case.
    """

    begun: bool
    ended: bool
    sent: int

    def fileno(self) -> int:
        """Descriptor of the client's connection, to watch for its departure; -1 where there is none to watch."""

    def begin(self, status: str, headers: Headers, data: bytes = b"", *, last: bool = False) -> None:
        """Send the head and the body's first bytes, or with `last` all of it. ValueError: a header that would break the head."""

    def write(self, data: bytes) -> None:
        """Send more of the body; no data, no effect."""

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes, if any, and the end of the body."""

    def abort(self) -> None:
        """Break the connection, so that nobody takes what was sent for a whole answer."""

    def hurry(self) -> None:
        """From another thread: a client that takes nothing has one more second."""

    def finish(self) -> Iterable[bytes]:
        """Hand over to the server what it still wants: an empty iterable, or one that breaks the connection."""


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """Find the client's connection, where the server shows it."""
    found = environ.get("gunicorn.socket")
    return found if isinstance(found, socket.socket) else None


def departed(sock: socket.socket) -> bool:
    """Whether the other side has closed or reset the connection. Bytes that wait to be read are no departure."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


class PlainStream:
    """Response by way of WSGI's own `write`: for HTTP/2, TLS, other servers, a framework's test client.

    A server that shows no socket lets us notice a client's departure only when writing.
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
        """Descriptor of the connection below, if the server shows it."""
        return -1 if self._watched is None else self._watched.fileno()

    def begin(self, status: str, headers: Headers, data: bytes = b"", *, last: bool = False) -> None:
        """Start the response; an empty write makes a server send the head alone."""
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
        """Send the last bytes; the server ends the body when the application returns."""
        self.write(data)
        self.ended = True

    def abort(self) -> None:
        """Make the iterable that is returned fail, at which a server breaks the connection."""
        self._broken = self.ended = True

    def hurry(self) -> None:
        """Do nothing: how long a write may last is the server's to say here."""

    def finish(self) -> Iterable[bytes]:
        """Return nothing more, or what breaks the connection."""
        return _break_connection() if self._broken else ()

    def _write(self, data: bytes) -> None:
        try:
            self._send(data)
        except OSError as error:
            raise ClientGone from error
        self.sent += len(data)


def _nothing(_data: bytes) -> None:
    """Stand for a response that has not begun."""


def _break_connection() -> Iterator[bytes]:
    """Fail in the way that servers take for a client's own reset: the connection closes and no traceback is logged."""
    raise ConnectionResetError(errno.ECONNRESET, "the answer broke off")
    yield b""
