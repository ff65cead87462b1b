"""One connection of a client: requests are parsed, one at a time, and answered in order."""

import contextlib
import logging
import socket
import struct
from asyncio import Protocol, Transport, WriteTransport
from collections import deque
from enum import Enum
from typing import cast

import httptools

from hotseat.core.errors import BadRequest, HeadTooLarge, HotseatError, TooLarge, TooSlow, Unavailable
from hotseat.gateway.errors import api_kind, internal_error
from hotseat.gateway.http.interfaces import BodySink, ConnectionOwner, Handler, StreamsBody, Tunnel
from hotseat.gateway.http.request import Listener, Request, is_http_1
from hotseat.gateway.http.response import Response
from hotseat.gateway.limits import no_more

log = logging.getLogger(__name__)

MAX_FIELDS = 128  # headers of a request, as of an engine's response
DRAINED = 65536  # bytes of the body of a refused request that are read, so that the connection can be kept
JOINED = (
    262_144  # bytes of a body that are joined at its end; a larger one grows, which takes no moment that others notice
)
EARLY = 65536  # bytes that are received while a request is served: the next one, sent ahead
PIECE = 8192  # bytes of them that are parsed at once
LINGER = 262_144  # bytes that are dropped after a refusal
TURN = 65536  # bytes of a chunked body after which others have their turn
OVERHEAD = 65536, 16  # bytes of a chunked body that are no data: so many, and this many for each byte of data
WRITE_BUFFER = 262_144  # bytes that a client may leave unread until its response is paused
_HEAD_END = b"\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A client that vanishes sends no FIN. Without these, its request would be served forever.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),
)


class _Refused:
    """Reads the body of a request that has been refused, and answers then."""

    max_body = DRAINED

    def __init__(self, error: HotseatError) -> None:
        self._error = error

    def received(self, size: int) -> None:
        pass

    def serve(self, response: Response) -> None:
        response.fail(self._error)

    def abandon(self, status: int) -> None:
        pass


class _State(Enum):
    HEAD = 1  # the head of a request is awaited
    BODY = 2
    SERVED = 3
    REFUSED = 4  # nothing more is read
    TUNNEL = 5  # bytes are passed on as they are, after an upgrade


class ClientConnection(Protocol):
    """The protocol of one connection. All methods are called on the loop."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_early",
        "_error",
        "_fields",
        "_handler",
        "_head_done",
        "_known",
        "_large",
        "_listener",
        "_message_done",
        "_overhead",
        "_owner",
        "_parser",
        "_pieces",
        "_reading_paused",
        "_request",
        "_response",
        "_sink",
        "_size",
        "_sock",
        "_state",
        "_tail",
        "_target",
        "_transport",
        "_tunnel",
        "due",
        "gone",
        "paused",
    )

    def __init__(self, owner: ConnectionOwner, sock: socket.socket, listener: Listener) -> None:
        self._owner = owner
        self._sock = sock
        self._listener = listener
        self.due = 0.0  # time of `expire`, while the connection waits; else 0
        self.gone = False
        self.paused = False
        self._reading_paused = False
        self._transport: WriteTransport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._state = _State.HEAD
        self._buffer = bytearray()  # of a head that is not complete
        self._early: deque[bytes] | None = None  # pieces that came before the end of the response
        self._tunnel: Tunnel | None = None
        self._response: Response | None = None
        self._reset()

    def _reset(self) -> None:
        self._fields: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._pieces: list[bytes] = []
        self._large: bytearray | None = None
        self._sink: BodySink | None = None  # takes a body that is not held here
        self._size = self._overhead = 0
        self._tail = b""
        self._head_done = self._message_done = False
        self._known = False  # the head was known: the parser has no part in this request
        self._error: HotseatError | None = None
        self._request: Request | None = None
        self._handler: Handler | None = None

    # asyncio.Protocol -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: object) -> None:
        """Start to wait for a request."""
        self._transport = cast("Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        for level, option, value in _OPTIONS:
            try:
                self._sock.setsockopt(level, option, value)
            except OSError:  # not TCP
                break
        self._owner.waits(self, self._owner.limits.head_time)

    def data_received(self, data: bytes) -> None:
        """Handle bytes of the client."""
        state = self._state
        if state is _State.SERVED or self._early:
            self._keep_early(data)
        elif state is _State.HEAD or state is _State.BODY:
            self._parse(data)
        elif state is _State.TUNNEL and self._tunnel is not None:
            self._tunnel.client_sent(data)
        else:
            self._size += len(data)
            if self._size > LINGER:
                self._abort_transport()

    def eof_received(self) -> bool:
        """Close. A client that closes its side is taken to have left."""
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell those who serve a request of this client."""
        self.gone = True
        self._owner.closed(self)
        response, handler, self._response, self._handler = self._response, self._handler, None, None
        self._tunnel = None
        self._parser = None
        self._early = None
        self._pieces = []
        self._large = None
        if response is not None and response.writer is not None:
            response.writer.client_gone()
        elif handler is not None and self._state is _State.BODY:
            handler.abandon(499)

    def pause_writing(self) -> None:
        """Tell who writes the response that the client reads too slowly."""
        self.paused = True
        if self._response is not None and self._response.writer is not None:
            self._response.writer.pause()

    def resume_writing(self) -> None:
        """Tell who writes the response to go on."""
        self.paused = False
        if self._response is not None and self._response.writer is not None:
            self._response.writer.resume()

    # httptools --------------------------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Keep a part of the request target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are dropped."""
        if not self._head_done:
            self._fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Note the end of the head."""
        self._head_done = True

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._size += len(data)
        if self._size <= JOINED:
            self._pieces.append(data)
        elif self._sink is not None:
            self._write_to_sink(self._sink, data)
        elif self._large is None:
            self._begin_large(b"".join([*self._pieces, data]))
        else:
            self._large += data

    def _begin_large(self, data: bytes) -> None:
        self._pieces = []
        if isinstance(self._handler, StreamsBody):
            self._sink = self._handler.open_sink(self._parse_early)
            self._write_to_sink(self._sink, data)
        else:
            self._large = bytearray(data)

    def _write_to_sink(self, sink: BodySink, data: bytes) -> None:
        sink.write(data)
        if sink.full:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self._message_done = True

    # Parsing ----------------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """Parse at most one request. What follows it is kept."""
        try:
            rest = self._parse_head(data) if self._state is _State.HEAD else data
            if self._state is _State.BODY and rest:
                rest = self._parse_body(rest)
            if self._state is _State.BODY:
                if not self._message_done:
                    self._owner.waits(self, self._owner.limits.body_pause)
                    return
                if rest:
                    self._keep_early(rest)
                self._serve()
        except HotseatError as error:
            self.refuse(error)
        except httptools.HttpParserError as error:
            self.refuse(BadRequest(f"The request is not valid HTTP: {error}."))
        except MemoryError:
            self.refuse(no_more("memory"))

    def _parse_head(self, data: bytes) -> bytes:
        """Return what follows the head. Raise HotseatError or HttpParserError if it is not valid."""
        limits, buffer, at = self._owner.limits, self._buffer, -1
        if not buffer:
            data = data.lstrip(b"\r\n")
            if not data:
                return data
            if not data[:1].isupper():
                raise BadRequest("The request is not valid HTTP: it does not begin with a method.")
            at = data.find(_HEAD_END)
            if at < 0:
                self._owner.waits(self, limits.head_time)
        if at < 0:
            searched = max(0, len(buffer) - 3)
            buffer += data
            at = buffer.find(_HEAD_END, searched)
            if at < 0:
                if len(buffer) > limits.head_size:
                    raise _head_too_large(limits.head_size)
                if any(buffer.find(end, max(0, searched - 1)) >= 0 for end in (b"\n\n", b"\n\r\n")):
                    raise BadRequest("The request is not valid HTTP: lines must end with CR LF.")
                return b""
            data = bytes(buffer)
            self._buffer = bytearray()
        end = at + len(_HEAD_END)
        if end > limits.head_size:
            raise _head_too_large(limits.head_size)
        self._read_head(data if end == len(data) else data[:end])
        return data[end:]

    def _read_head(self, head: bytes) -> None:
        request = self._listener.find(head)
        if request is not None:
            self._known, self._message_done = True, request.length == 0
            self._take(request)
            return
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        upgrade = False
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            upgrade = True
        if not self._head_done or not is_http_1(head):
            raise BadRequest("The request is not valid HTTP: the version must be HTTP/1.0 or HTTP/1.1.")
        if len(self._fields) > MAX_FIELDS:
            raise HeadTooLarge(f"The request has more than {MAX_FIELDS} headers.")
        minor = int(parser.get_http_version()[-1])
        method, fields = parser.get_method().decode(), tuple(self._fields)
        request = Request(method, self._target, fields, minor=minor, listener=self._listener)
        if upgrade:
            self._begin_again(request)
        self._take(request)
        if request.accepted is not None:
            self._listener.keep(head, request)
        if not self._message_done and request.expects_continue:
            self.send([b"HTTP/1.1 100 Continue\r\n\r\n"])

    def _take(self, request: Request) -> None:
        self._request = request
        self._accept(request)
        self._state = _State.BODY

    def _begin_again(self, request: Request) -> None:
        """Replace the parser, which takes no body of a request that asks for an upgrade."""
        self._message_done = not request.has_body
        request.upgrade = self._message_done and request.method != "CONNECT"
        self._parser = httptools.HttpRequestParser(self)
        if request.has_body:
            how = b"Transfer-Encoding: chunked" if request.chunked else b"Content-Length: %d" % (request.length or 0)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + how + b"\r\n\r\n")

    def _accept(self, request: Request) -> None:
        if not self._owner.busy(self):
            raise too_many_connections()
        try:
            self._handler = self._owner.service.accept(request)
        except HotseatError as error:
            self._owner.service.refused(request, error)
            if request.expects_continue or request.chunked or (request.length or 0) > DRAINED:
                raise
            self._handler = _Refused(error)
        if (request.length or 0) > self._handler.max_body:
            raise _too_large(request.length, self._handler.max_body)

    def _parse_body(self, data: bytes) -> bytes:
        """Return what follows the body."""
        request, parser = self._request, self._parser
        assert request is not None  # noqa: S101
        if self._message_done:
            return data
        if request.chunked:
            assert parser is not None  # noqa: S101
            return self._parse_chunks(data, parser)
        need = (request.length or 0) - self._size
        piece = data if len(data) <= need else data[:need]
        if self._known:
            self.on_body(piece)
            self._message_done = self._size == request.length
        else:
            assert parser is not None  # noqa: S101
            parser.feed_data(piece)
        return data[need:]

    def _parse_chunks(self, data: bytes, parser: httptools.HttpRequestParser) -> bytes:
        """Parse a part of a chunked body. It can end only after an empty line, so that is how far the parser is fed at once."""
        handler = self._handler
        assert handler is not None  # noqa: S101
        before, at = self._size, 0
        joined = self._tail + data
        shift = len(self._tail)
        self._tail = joined[-3:]
        while not self._message_done and at < len(data):
            end = joined.find(b"\r\n\r\n", max(0, at + shift - 3)) + 4 - shift
            end = len(data) if end <= at or end == 3 - shift else end
            parser.feed_data(data[at:end] if (at, end) != (0, len(data)) else data)
            at = end
        if self._size > handler.max_body:
            raise _too_large(None, handler.max_body)
        handler.received(self._size)
        self._overhead += at - (self._size - before)
        if self._overhead > OVERHEAD[0] + OVERHEAD[1] * self._size:
            raise BadRequest("The chunks of the request body have too much beside their data.")
        if len(data) >= TURN and not self._message_done:
            # uvloop would read 32 times before it serves anyone else, and small chunks take their time.
            self._pause_reading()
            self._owner.loop.call_soon(self._parse_early)
        return data[at:]

    def _serve(self) -> None:
        request, handler = self._request, self._handler
        assert request is not None  # noqa: S101
        assert handler is not None  # noqa: S101
        if self._large is not None:
            request.body, self._large = cast("bytes", self._large), None  # it changes no more
        else:
            request.body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces = []
        self._state = _State.SERVED
        if self.due:  # the body came in pieces
            self._owner.busy(self)
        self._response = response = Response(self, request)
        try:
            handler.serve(response)
        except Exception:
            log.exception("internal error (a bug in hotseat): %s %s", request.method, request.path)
            response.fail_or_abort(internal_error())

    # Answers ----------------------------------------------------------------------------------------------------------

    def send(self, pieces: list[bytes]) -> None:
        """Send bytes. They are dropped if the client has left."""
        transport = self._transport
        if transport is not None and not self.gone:
            transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    @property
    def closes_next(self) -> bool:
        """Whether the connection is closed after its response, whatever the client has asked for."""
        return self._owner.closing

    def finished(self, response: Response, *, keep: bool) -> None:
        """Wait for the next request, or close."""
        if response is not self._response or self.gone:
            return
        self._response = None
        if not keep or self.closes_next:
            self._end()
            return
        self._reset()
        self._state = _State.HEAD
        self._owner.waits(self, self._owner.limits.idle_time)
        if self._early:
            self._owner.loop.call_soon(self._parse_early)

    def _keep_early(self, data: bytes) -> None:
        """Keep bytes for later, in pieces, of which each request copies one at most. Stop reading if there are many."""
        early = self._early
        if early is None:
            early = self._early = deque()
        early.extend(data[at : at + PIECE] for at in range(0, len(data), PIECE))
        if len(early) * PIECE >= EARLY:
            self._pause_reading()

    def _parse_early(self) -> None:
        """Parse what came early, up to the end of a request."""
        while (early := self._early) and (self._state is _State.HEAD or self._state is _State.BODY) and not self.gone:
            self._early = None
            data = early.popleft()
            self._parse(data)
            if self._early:  # the rest of the piece
                early.extendleft(reversed(self._early))
            self._early = early or None
        full = self._sink is not None and self._sink.full
        if (
            not self._early
            and self._reading_paused
            and not full
            and not self.gone
            and self._state is not _State.REFUSED
        ):
            self._reading_paused = False
            cast("Transport", self._transport).resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            cast("Transport", self._transport).pause_reading()

    def refuse(self, error: HotseatError) -> None:
        """Answer with an error, and close: where the next request would begin is not known."""
        request, handler, self._handler = self._request, self._handler, None
        response = Response(self, request)
        response.close_after()
        if handler is not None:
            handler.abandon(api_kind(error).status)
        elif request is None:
            self._owner.service.refused(None, error)
        self._response = response
        response.fail(error)

    def _end(self) -> None:
        """Close after the response. Unread bytes are dropped for a while, because closing with them resets the connection."""
        transport = self._transport
        if transport is None or self.gone:
            return
        unread = self._state is not _State.SERVED or self._early or self._reading_paused
        self._state = _State.REFUSED
        self._size = 0
        self._early = None
        self._buffer = bytearray()
        self._pieces = []
        self._large = None
        self._parser = None
        if not unread:
            self._owner.waits(self, self._owner.limits.idle_time)  # to read the rest
            transport.close()
            return
        self._owner.waits(self, self._owner.limits.refusal_time)
        if self._reading_paused:
            self._reading_paused = False
            cast("Transport", transport).resume_reading()
        try:
            transport.write_eof()
        except NotImplementedError:  # TLS, which tells the client that this is the end, and reads the rest
            transport.close()
        except OSError:  # the client has reset the connection
            transport.abort()

    def expire(self) -> None:
        """End the wait for the client."""
        if self._state is _State.HEAD and self._buffer:
            self.refuse(TooSlow("The request headers did not arrive in time."))
        elif self._state is _State.BODY:
            self.refuse(TooSlow("The request body did not arrive in time."))
        else:
            self._abort_transport()

    def close_idle(self, *, cut: bool) -> None:
        """Close, unless a request is served. `cut`: also if the client has not taken all of its last answer."""
        if self._state is _State.SERVED or self._state is _State.TUNNEL:
            return
        transport = self._transport
        if cut or transport is None or not transport.get_write_buffer_size():
            self._abort_transport()
        else:
            transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if not self.gone and self._transport is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._response = None
            self._abort_transport()

    def _abort_transport(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Upgrades ---------------------------------------------------------------------------------------------------------

    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Give the bytes of the client to `tunnel` from now on. The response has been sent without an end."""
        self._state = _State.TUNNEL
        self._tunnel = tunnel
        if self._reading_paused:
            self._reading_paused = False
            cast("Transport", self._transport).resume_reading()
        early, self._early = self._early, None
        if early:
            tunnel.client_sent(b"".join(early))

    def set_reading(self, *, on: bool) -> None:
        """Read from the client, or stop reading, in a tunnel."""
        transport = cast("Transport", self._transport)
        if not self.gone and on is not transport.is_reading():
            (transport.resume_reading if on else transport.pause_reading)()


def too_many_connections() -> HotseatError:
    """Return the error for a request that there is no room for."""
    return Unavailable("hotseat accepts no more requests at the moment", code="overloaded", retry_after=1.0)


def _head_too_large(limit: int) -> HeadTooLarge:
    return HeadTooLarge(f"The request line and headers exceed {limit} bytes.")


def _too_large(size: int | None, limit: int) -> TooLarge:
    if size is None:
        return TooLarge(f"The request body has more than {limit} bytes.")
    return TooLarge(f"The request body has {size} bytes; the limit is {limit}.")
