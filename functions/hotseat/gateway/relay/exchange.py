"""Relay one request to an engine and its answer back, in the thread that serves the client.

While it waits, the thread watches both sides. It reads no more from the engine than the client has taken, so
a slow client slows its engine down and fills no memory here.
"""

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hotseat.core.errors import HotseatError, UpstreamFailed, UpstreamTimeout
from hotseat.gateway.errors import error_body, error_event
from hotseat.gateway.relay.http1 import (
    MAX_HEAD,
    Call,
    Chunked,
    Counted,
    Framing,
    Garbled,
    ResponseHead,
    UntilClose,
    encode_request,
    parse_response,
    without_compression,
)
from hotseat.gateway.relay.pool import Connections, EngineConnection, Holding
from hotseat.gateway.relay.streams import ClientGone, ClientStream

_RECEIVE = 65536  # bytes at once
_TOGETHER = 65536  # bytes of a body that is sent with its head; a socket buffers this much
# A reused connection that the engine had closed fails within a round trip. If it fails later, the engine may have
# processed the request, which must not be sent again.
_RETRY_WITHIN = 1.0  # seconds
_MAX_ERROR_BODY = 65536  # bytes of an engine's error that become an event
_OK = 200
_SWITCHING = 101


class How(StrEnum):
    """How an exchange ended."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    UPSTREAM_FAILED = "upstream_failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an exchange."""

    how: How
    status: int | None  # the engine's; None if it never came to that
    sent: int  # bytes to the client
    error: HotseatError | None = None


class EngineRefusedError(UpstreamFailed):
    """The engine's own error, or another answer than a stream of events, for a client whose response has started.

    `given` is its body, if it is an error object.
    """

    def __init__(self, problem: str, given: Any) -> None:
        self.given = given if isinstance(given, dict) and "error" in given else None
        super().__init__(problem, code="upstream_error")


class Exchange:
    """Relays one request. Call `run` once, in the client's thread, and `cancel` from any thread."""

    def __init__(self, connections: Connections, call: Call) -> None:
        self._connections = connections
        self._call = call
        self._lock = threading.Lock()  # over the next four
        self._gone = False  # the client, while its answer was being passed on
        self._connection: EngineConnection | None = None
        self._stream: ClientStream | None = None
        self._error: HotseatError | None = None
        self._status: int | None = None
        self._in_events = False  # an error can be told as an event
        self._last = b""  # what the client got last
        self._begin_by: float | None = None  # monotonic: when the engine must have said something
        # Set for as long as there is a connection:
        self._poll = select.poll()
        self._fd = -1
        self._recv: Callable[[int], bytes] = _no_bytes
        self._holding = Holding()

    def cancel(self, error: HotseatError) -> None:
        """Abort the exchange. The client gets `error`. No effect once the answer is complete."""
        with self._lock:
            self._error = self._error or error
            if self._connection is not None:
                _shut_down(self._connection.sock)
            if self._stream is not None:
                self._stream.hurry()

    def run(self, stream: ClientStream, *, extra: Iterable[tuple[str, str]] = ()) -> Outcome:
        """Send the request and relay the answer. `extra` headers go to the client.

        HotseatError is raised only if nothing has been sent to the client. Later errors are sent in the body.
        A stream that has already started must be a stream of events: it continues, and the engine's own
        headers are dropped.
        """
        self._stream = stream
        self._in_events = stream.begun
        if stream.begun:
            self._call.headers = without_compression(self._call.headers)
        error = None
        try:
            head, rest = self._ask(stream.fileno())
            self._answer(stream, head, rest, extra)
            how = How.COMPLETED
        except ClientGone:
            stream.abort()
            how = How.CLIENT_GONE if self._error is None else How.CANCELLED
        except HotseatError as failure:
            error = self._error or failure
            self._drop()
            if not stream.begun:
                if error is failure:
                    raise
                raise error from failure
            how = How.UPSTREAM_FAILED if self._error is None else How.CANCELLED
            self._send_error(stream, error)
        finally:
            self._drop()
            with self._lock:
                self._stream = None
        return Outcome(how, self._status, stream.sent, error)

    def _ask(self, client: int) -> tuple[ResponseHead, bytes]:
        """Send the request. Return the head of the answer, and the part of the body that came with it."""
        connection = self._connections.take(self._call.address)
        while True:
            self._hold(connection, client)
            sent_at = time.monotonic()
            self._begin_by = None if self._call.patience is None else sent_at + self._call.patience
            self._put_request(connection)
            data = self._receive()
            elapsed = time.monotonic() - sent_at
            self._begin_by = None
            if data:
                return self._read_head(data)
            if not connection.reused or elapsed > _RETRY_WITHIN:
                raise UpstreamFailed("The engine closed the connection without a response.")
            self._drop()
            connection = self._connections.connect(self._call.address)

    def _put_request(self, connection: EngineConnection) -> None:
        body = self._call.body
        try:
            head = encode_request(self._call, connection.host)
            if len(body) <= _TOGETHER:
                connection.sock.sendall(head + body)
            else:
                connection.sock.sendall(head)
                self._upload(connection.sock, memoryview(body))
        except OSError:
            connection.keep = False  # the engine may have answered before it closed: that is read next

    def _upload(self, sock: socket.socket, rest: memoryview) -> None:
        """Send a large body, and watch for a client that disconnects and an engine that answers early."""
        self._poll.modify(self._fd, select.POLLIN | select.POLLOUT)
        try:
            while rest:
                if self._wait() & ~select.POLLOUT:
                    raise BrokenPipeError
                with contextlib.suppress(BlockingIOError):
                    rest = rest[sock.send(rest, socket.MSG_DONTWAIT) :]
        finally:
            self._poll.modify(self._fd, select.POLLIN)

    def _read_head(self, data: bytes) -> tuple[ResponseHead, bytes]:
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if max(end, len(data) if end < 4 else 0) > MAX_HEAD:  # noqa: PLR2004
                raise UpstreamFailed("The headers of the engine's response are too large.")
            if end >= 4:  # noqa: PLR2004
                head = parse_response(data[:end], self._call.method)
                data = data[end:]
                if head.code >= _OK:
                    self._status = head.code
                    return head, data
                if head.code == _SWITCHING:
                    raise UpstreamFailed("The engine switched protocols, but the request did not ask for an upgrade.")
            else:
                more = self._receive()
                if not more:
                    raise UpstreamFailed("The engine closed the connection within the headers of its response.")
                data += more

    def _answer(self, stream: ClientStream, head: ResponseHead, rest: bytes, extra: Iterable[tuple[str, str]]) -> None:
        framing: Framing = Chunked() if head.chunked else UntilClose() if head.length is None else Counted(head.length)
        try:
            if stream.begun and (problem := head.problem()):
                raise EngineRefusedError(problem, self._error_body(framing, rest))
            piece = framing.feed(rest) if rest else b""
            if piece:
                self._last = piece
            if framing.done:
                self._settle(keep=framing.clean and head.keep_alive)
            if not stream.begun:
                self._in_events = head.event_stream and not head.encoded and head.length is None
                stream.begin(head.status, [*head.headers, *extra], piece, last=framing.done)
            elif framing.done:
                stream.end(piece)
            else:
                stream.write(piece)
            if not framing.done:
                self._pump(stream, framing, keep=head.keep_alive)
        except Garbled as error:
            raise UpstreamFailed(f"The engine's response is malformed: {error}.") from error

    def _pump(self, stream: ClientStream, framing: Framing, *, keep: bool) -> None:
        """Relay each piece as it arrives, with one recv and one send."""
        with self._connections.departures.watching(stream.fileno(), self._client_left):
            self._pass_on(stream, framing, keep=keep)

    def _pass_on(self, stream: ClientStream, framing: Framing, *, keep: bool) -> None:
        while True:
            data = self._take()
            if data:
                piece = framing.feed(data)
            elif framing.closed():
                piece = b""
            else:
                raise UpstreamFailed("The engine closed the connection before the end of its response.")
            if piece:
                self._last = piece
            if framing.done:
                # Before the client hears of it: its next request may then have this connection.
                self._settle(keep=keep and framing.clean)
                stream.end(piece)
                return
            stream.write(piece)

    def _error_body(self, framing: Framing, rest: bytes) -> Any:
        body = framing.feed(rest) if rest else b""
        while not framing.done and len(body) < _MAX_ERROR_BODY:
            data = self._receive()
            if not data:
                break
            body += framing.feed(data)
        try:
            return json.loads(body)
        except ValueError:
            return None

    def _send_error(self, stream: ClientStream, error: HotseatError) -> None:
        """Send the error as an event. If that is not possible, break the connection."""
        if not self._in_events:
            stream.abort()
            return
        given = error.given if isinstance(error, EngineRefusedError) else None
        event = error_event(given or error_body(error))
        whole = not self._last or self._last.endswith((b"\n\n", b"\r\n\r\n"))
        try:
            stream.end(event if whole else b"\n\n" + event)
        except ClientGone:
            stream.abort()

    def _receive(self) -> bytes:
        """Wait for the engine's next bytes. Empty if the engine closed the connection."""
        self._wait()
        return self._take()

    def _take(self) -> bytes:
        """Receive without watching the client."""
        holding = self._holding
        holding.discard(self)
        try:
            data = self._recv(_RECEIVE)
        except OSError:
            data = b""
        if data:
            holding.add(self)
        if self._error is not None:
            raise self._error
        if self._gone:
            raise ClientGone
        return data

    def _client_left(self) -> None:
        with self._lock:
            self._gone = True
            if self._connection is not None:
                _shut_down(self._connection.sock)

    def _wait(self) -> int:
        self._holding.discard(self)
        events = self._poll.poll(self._rest())
        if not events:
            raise UpstreamTimeout(
                f"The engine did not start its response within {self._call.patience:g} s (lifecycle.responseStartTimeout)."
            )
        if len(events) > 1 or events[0][0] != self._fd:
            raise ClientGone
        return events[0][1]

    def _rest(self) -> float | None:
        """Return the milliseconds left for the engine to start its answer. None: no limit."""
        return None if self._begin_by is None else max(0.0, self._begin_by - time.monotonic()) * 1000

    def _hold(self, connection: EngineConnection, client: int) -> None:
        with self._lock:
            if self._error is not None:
                connection.sock.close()
                raise self._error
            self._connection = connection
        self._fd = connection.sock.fileno()
        self._recv = connection.sock.recv
        self._holding = connection.home.holding
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        if client >= 0:
            # A departure only: bytes that a client sends ahead are its next request.
            self._poll.register(client, select.POLLRDHUP)

    def _settle(self, *, keep: bool) -> None:
        """Return the connection to the pool, or close it."""
        with self._lock:
            connection, self._connection = self._connection, None
            keep = keep and self._error is None and not self._gone  # else it has been shut down
        self._holding.discard(self)
        if connection is None:
            return
        if keep and connection.keep:
            self._connections.put(connection)
        else:
            connection.sock.close()

    def _drop(self) -> None:
        self._settle(keep=False)


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the engine was faster
        sock.shutdown(socket.SHUT_RDWR)


def _no_bytes(_limit: int) -> bytes:
    return b""
