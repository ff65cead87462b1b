"""Relay one request to an engine and its answer back, on the loop.

No more is read from the engine than the client takes, so a slow client slows its engine down and fills no memory here.
"""

import asyncio
import json
from asyncio import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httptools

from hotseat.core.errors import HotseatError, UpstreamFailed, UpstreamTimeout
from hotseat.gateway.errors import error_body, error_event
from hotseat.gateway.http.response import Response, encode_fields
from hotseat.gateway.relay.heads import Call, ResponseHead, encode_request, read_response
from hotseat.gateway.relay.pool import Connections, EngineConnection

MAX_HEAD = 65536  # bytes of a response's head
MAX_INTERIM = 20  # interim responses (1xx) to one request
_MAX_ERROR_BODY = 65536  # bytes of an engine's error that become an event
_TAIL = 4  # bytes that tell whether an event is complete
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
    """The result of an exchange. If `error` is not None and the response has not begun, nothing has been sent."""

    how: How
    status: int | None  # the engine's; None if it never came to that
    sent: int  # bytes to the client
    error: HotseatError | None = None


class EngineRefusedError(UpstreamFailed):
    """The engine's own error, or another answer than a stream of events, for a client whose response has started.

    `given` is its body, if it is an error object.
    """

    def __init__(self, head: ResponseHead, given: Any) -> None:
        self.given = given if isinstance(given, dict) and "error" in given else None
        super().__init__(head.problem(), code="upstream_error")


class Exchange:
    """Relays one request. `done` is called once, with the outcome, after `start`."""

    __slots__ = (
        "_began",
        "_call",
        "_cancelled",
        "_complete",
        "_connection",
        "_connections",
        "_done",
        "_extra",
        "_fields",
        "_head",
        "_head_size",
        "_in_events",
        "_interim",
        "_last",
        "_loop",
        "_over",
        "_parser",
        "_passing",
        "_pieces",
        "_problem",
        "_reason",
        "_response",
        "_surplus",
        "_task",
        "_timer",
        "_tunnel",
    )

    def __init__(
        self,
        connections: Connections,
        call: Call,
        response: Response,
        done: Callable[[Outcome], None],
        extra: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`extra` headers go to the client. Raise ValueError if they are not valid.

        A response that has already begun must be a stream of events: it continues, and the engine's own headers are dropped.
        """
        self._connections, self._call, self._response, self._done = connections, call, response, done
        self._loop = asyncio.get_running_loop()
        self._extra = encode_fields(extra)
        self._connection: EngineConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: TimerHandle | None = None
        self._in_events = response.begun  # an error can be told as an event
        call.plain = call.plain or response.begun
        self._passing = False  # the engine's answer has been passed on, at least its head
        self._over = False
        self._cancelled: HotseatError | None = None
        self._tunnel = False
        self._last = b""  # what the client got last
        self._prepare()

    def _prepare(self) -> None:
        self._parser: httptools.HttpResponseParser | None = None
        self._began = False  # the engine has sent something
        self._fields: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._head: ResponseHead | None = None
        self._head_size = 0
        self._interim = 0
        self._complete = self._surplus = False
        self._pieces: list[bytes] = []
        self._problem: HotseatError | None = None

    def start(self) -> None:
        """Send the request."""
        self._response.writer = self
        if self._response.gone:
            self.client_gone()
            return
        connection = None if self._cancelled else self._connections.take(self._call.address)
        if connection is None:
            self._connect()
        else:
            self._use(connection)

    def cancel(self, error: HotseatError) -> None:
        """Abort the exchange. The client gets `error`. No effect once the answer is complete.

        If there is no connection yet, the cause of the error may be that there can be none: nothing was sent then.
        """
        if self._connection is None and not self._response.ended and self._head is None:
            self._cancelled = self._cancelled or error
        else:
            self._fail(error, How.CANCELLED)

    def _connect(self) -> None:
        self._task = self._loop.create_task(self._open())

    async def _open(self) -> None:
        connection = failure = None
        try:
            connection = await self._connections.connect(self._call.address)
        except HotseatError as error:
            failure = error
        self._task = None
        if self._cancelled is not None:
            if connection is not None:
                connection.close()
            self._cancelled.__cause__ = failure
            self._fail(self._cancelled, How.CANCELLED)
        elif failure is not None:
            self._fail(failure)
        elif connection is not None and self._over:
            self._connections.put(connection)
        elif connection is not None:
            self._use(connection)

    def _use(self, connection: EngineConnection) -> None:
        self._connection = connection
        connection.user = self
        self._prepare()
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True)
        head = encode_request(self._call, connection.host)
        patience = self._call.patience
        if patience is not None and self._timer is None:
            self._timer = self._loop.call_later(patience, self._lose_patience)
        connection.send(head, self._call.body)
        if self._response.paused:
            self.pause()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lose_patience(self) -> None:
        limit = f"{self._call.patience:g} s (lifecycle.responseStartTimeout)"
        self._fail(UpstreamTimeout(f"The engine did not start its response within {limit}."))

    # ResponseWriter: the client ----------------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        """End the exchange, because its client has left."""
        if not self._over:
            self._finish(Outcome(How.CLIENT_GONE, self._status, self._response.sent))

    def pause(self) -> None:
        """Read no more from the engine."""
        if self._connection is not None:
            self._connection.home.stalled.add(self)
            self._connection.set_reading(on=False)

    def resume(self) -> None:
        """Read from the engine again."""
        if self._connection is not None:
            self._connection.home.stalled.discard(self)
            self._connection.set_reading(on=True)

    def client_sent(self, data: bytes) -> None:
        """Pass on what the client sends after an upgrade."""
        if self._connection is not None:
            self._connection.send(data)

    # EngineUser: the engine -------------------------------------------------------------------------------------------

    def engine_paused(self, *, paused: bool) -> None:
        """Read no more from the client, after an upgrade."""
        if self._tunnel:
            self._response.read_tunnel(on=not paused)

    def engine_sent(self, data: bytes) -> None:
        """Handle bytes of the engine."""
        if self._tunnel:
            self._response.write_tunnel(data)
            return
        self._began = True
        self._stop_timer()
        assert self._parser is not None  # noqa: S101
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if not self._complete:
                self._fail(UpstreamFailed(f"The engine's response is malformed: {error}."))
                return
            self._surplus = True
        if self._problem is None and self._head is None:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._problem = UpstreamFailed("The headers of the engine's response are too large.")
        if self._problem is not None:
            self._fail(self._problem)
        elif self._head is not None:
            self._forward(self._head)

    def engine_gone(self, *, clean: bool, closed_first: bool) -> None:
        """Handle the end of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.home.stalled.discard(self)
        if self._over:
            return
        if self._tunnel:
            self._response.end_tunnel()
            self._finish(Outcome(How.COMPLETED, _SWITCHING, 0))
            return
        head = self._head
        if head is not None:
            if head.until_close and clean:
                self._complete = True
                self._forward(head)
            else:
                self._fail(UpstreamFailed("The engine closed the connection before the end of its response."))
        elif self._began:
            self._fail(UpstreamFailed("The engine closed the connection within the headers of its response."))
        elif connection is not None and connection.reused and closed_first:
            self._connect()  # it was closed before the request came
        else:
            self._fail(UpstreamFailed("The engine closed the connection without a response."))

    # httptools --------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note bytes after the response."""
        if self._complete:
            self._surplus = True

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        if not self._complete:
            self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are dropped."""
        if self._head is None:
            self._head_size += len(name) + len(value)
            self._fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Read the head."""
        if self._complete or self._head is not None or self._parser is None:
            return
        code = self._parser.get_status_code()
        if code < _OK and code != _SWITCHING:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._problem = UpstreamFailed("The engine sent too many interim responses.")
            self._fields, self._reason = [], b""
            return
        if self._head_size > MAX_HEAD:
            self._problem = UpstreamFailed("The headers of the engine's response are too large.")
            return
        try:
            self._head = read_response(
                code, self._reason, self._fields, self._call.method, keep_alive=self._parser.should_keep_alive()
            )
        except HotseatError as error:
            self._problem = error
            return
        if self._call.method == "HEAD":
            self._complete = True

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        if self._complete:
            self._surplus = True
        else:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the response."""
        if self._head is not None:
            self._complete = True

    # The answer -------------------------------------------------------------------------------------------------------

    @property
    def _status(self) -> int | None:
        return None if self._head is None else self._head.code

    def _forward(self, head: ResponseHead) -> None:
        """Send what has come."""
        response, complete = self._response, self._complete
        if head.code == _SWITCHING:
            self._fail(UpstreamFailed("The engine switched protocols, but the request did not ask for an upgrade."))
            return
        if response.begun and not self._passing and head.problem():
            self._collect_error(head)
            return
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if pieces:
            self._pieces = []
        if complete:
            # Before the client hears of it: its next request may then have this connection.
            self._settle(keep=head.keep_alive and not self._surplus)
        if response.begun:
            self._passing = True
            if complete:
                response.end(data)
            else:
                response.write(data)
        else:
            self._passing = True
            self._in_events = head.event_stream and not head.encoded and not head.counted
            fields = head.fields + self._extra
            response.begin(head.status, fields, data, counted=head.counted, last=complete)
        if complete:
            self._finish(Outcome(How.COMPLETED, head.code, response.sent))
        elif data and self._in_events:
            self._last = data[-_TAIL:] if len(data) >= _TAIL else (self._last + data)[-_TAIL:]

    def _collect_error(self, head: ResponseHead) -> None:
        if not self._complete and sum(map(len, self._pieces)) < _MAX_ERROR_BODY and not head.event_stream:
            return
        try:
            given = json.loads(b"".join(self._pieces))
        except (ValueError, RecursionError):
            given = None
        self._fail(EngineRefusedError(head, given))

    def _switch(self, rest: bytes) -> None:
        """Pass bytes on as they are, both ways."""
        head = self._head
        if head is None or not self._call.upgrade or self._response.begun:
            self._fail(UpstreamFailed("The engine switched protocols, but the request did not ask for an upgrade."))
            return
        self._tunnel = True
        self._response.begin_tunnel(head.fields + self._extra, self)
        if rest:
            self._response.write_tunnel(rest)

    def _fail(self, error: HotseatError, how: How = How.UPSTREAM_FAILED) -> None:
        """End with an error. If the response has begun, send it as an event, or break the connection."""
        if self._over:
            return
        response = self._response
        status = self._status
        self._settle(keep=False)
        if response.begun and not response.ended:
            if self._tunnel:
                response.end_tunnel()
            elif self._in_events:
                given = error.given if isinstance(error, EngineRefusedError) else None
                event = error_event(given or error_body(error))
                whole = not self._last or self._last.endswith((b"\n\n", b"\r\n\r\n"))
                response.end(event if whole else b"\n\n" + event)
            else:
                response.abort()
        self._finish(Outcome(how, status, response.sent, error))

    def _settle(self, *, keep: bool) -> None:
        """Return the connection to the pool, or close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.home.stalled.discard(self)
        if keep and not connection.unsent:
            connection.set_reading(on=True)
            self._connections.put(connection)
        else:
            connection.close()

    def _finish(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        self._settle(keep=False)
        self._stop_timer()
        if self._response.writer is self:
            self._response.writer = None
        self._parser = None
        self._done(outcome)
