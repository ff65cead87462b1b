"""Relay one request to an engine and its answer back, on the loop.

No more is read from the engine than the client takes, so a slow client slows its engine down and fills no memory here.
"""

import asyncio
import json
from collections.abc import Callable
from enum import StrEnum

from hotseat.core.errors import HotseatError, UpstreamFailed, UpstreamTimeout
from hotseat.core.messages import message
from hotseat.gateway.errors import UpstreamRefused
from hotseat.gateway.http.response import Response, ResponseSink, encode_fields
from hotseat.gateway.relay.heads import Call, ResponseHead, encode_request
from hotseat.gateway.relay.pool import Connections, EngineConnection
from hotseat.gateway.relay.response_parser import ResponseParser
from hotseat.telemetry.answer_figures import AnswerSample

_MAX_ERROR_BODY = 65536  # bytes of an engine's error that become an event
_SWITCHING = 101


class How(StrEnum):
    """How an exchange ended."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    UPSTREAM_FAILED = "upstream_failed"
    CANCELLED = "cancelled"


@message
class Outcome:
    """The result of an exchange. If `error` is not None and the response has not begun, nothing has been sent."""

    how: How
    status: int | None  # the engine's; None if it never came to that
    sent: int  # bytes to the client
    error: HotseatError | None = None


class Exchange:
    """Relays one request. `done` is called once, with the outcome, after `start`."""

    __slots__ = (
        "_call",
        "_cancelled",
        "_connection",
        "_connections",
        "_done",
        "_extra",
        "_in_events",
        "_over",
        "_parser",
        "_passing",
        "_response",
        "_task",
        "_timed",
        "_tunnel",
        "sample",
    )

    def __init__(
        self,
        connections: Connections,
        call: Call,
        response: ResponseSink,
        done: Callable[[Outcome], None],
        extra: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`extra` headers go to the client. Raise ValueError if they are not valid.

        A response that has already begun must be a stream of events: it continues, and the engine's own headers are dropped.
        """
        self._connections, self._call, self._response, self._done = connections, call, response, done
        self._extra = encode_fields(extra)
        self._connection: EngineConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timed: float | None = None  # the limit that it has now
        self._in_events = response.begun  # an error can be told as an event
        call.plain = call.plain or response.begun
        self._passing = False  # the engine's answer has been passed on, at least its head
        self._over = False
        self._cancelled: HotseatError | None = None
        self._tunnel: Response | None = None  # after an upgrade
        self.sample: AnswerSample | None = None  # of what the engine has sent of its answer
        self._parser: ResponseParser | None = None  # of the connection

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
        if self._connection is None and not self._response.ended and self._status is None:
            self._cancelled = self._cancelled or error
        else:
            self._fail(error, How.CANCELLED)

    def stop(self, error: HotseatError) -> None:
        """Abort the exchange at once, connected or not. The client gets `error`. No effect once the answer is complete."""
        self._fail(error, How.CANCELLED)

    def _connect(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._open())

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
        self._parser = connection.parser
        self._parser.begin(self._call.method)
        head = encode_request(self._call, connection.host)
        patience = self._call.patience
        if patience is not None and self._timed is None:
            self._timed = patience
            self._connections.time_limits.add(self, patience)
        connection.send(head, self._call.body)
        if self._response.paused:
            self.pause()

    def _stop_timer(self) -> None:
        if self._timed is not None:
            self._connections.time_limits.remove(self, self._timed)
            self._timed = None

    def too_late(self) -> None:
        """End, because the engine has not started its response in time."""
        limit = f"{self._call.patience:g} s (lifecycle.{self._call.limited_by})"
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
        if self._tunnel is not None:
            self._tunnel.read_tunnel(on=not paused)

    def engine_sent(self, data: bytes) -> None:
        """Handle bytes of the engine."""
        if self._tunnel is not None:
            self._tunnel.write_tunnel(data)
            return
        if self._timed is not None:
            self._stop_timer()
        parser = self._parser
        assert parser is not None  # noqa: S101
        try:
            rest = parser.feed(data)
            if rest is not None:
                self._switch(parser.head, rest)
            elif parser.head is not None and (self._call.judge is None or not self._is_refused(parser.head)):
                self._forward(parser, parser.head)
        except HotseatError as error:
            self._fail(error)

    def engine_gone(self, *, clean: bool, closed_first: bool) -> None:
        """Handle the end of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.home.stalled.discard(self)
        if self._over:
            return
        if self._tunnel is not None:
            self._tunnel.end_tunnel()
            self._finish(Outcome(How.COMPLETED, _SWITCHING, 0))
            return
        parser = self._parser
        assert parser is not None  # noqa: S101
        head = parser.head
        if head is not None:
            if head.until_close and clean:
                parser.complete = True
                try:
                    self._forward(parser, head)
                except HotseatError as error:
                    self._fail(error)
            else:
                self._fail(UpstreamFailed("The engine closed the connection before the end of its response."))
        elif parser.began:
            self._fail(UpstreamFailed("The engine closed the connection within the headers of its response."))
        elif connection is not None and connection.reused and closed_first:
            self._connect()  # it was closed before the request came
        else:
            self._fail(UpstreamFailed("The engine closed the connection without a response."))

    # The answer -------------------------------------------------------------------------------------------------------

    @property
    def _status(self) -> int | None:
        return None if self._parser is None or self._parser.head is None else self._parser.head.code

    def _is_refused(self, head: ResponseHead) -> bool:
        """Let the answer be judged, when its head has come. If it is not for the client, end with the error."""
        assert self._call.judge is not None  # noqa: S101
        if not self._passing and (error := self._call.judge(head)) is not None:
            self._fail(error)
            return True
        return False

    def _forward(self, parser: ResponseParser, head: ResponseHead) -> None:
        """Send what has come."""
        response, complete = self._response, parser.complete
        if head.code == _SWITCHING:
            self._fail(UpstreamFailed("The engine switched protocols, but the request did not ask for an upgrade."))
            return
        if response.begun and not self._passing and head.problem():
            self._collect_error(parser, head)
            return
        pieces = parser.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if pieces:
            parser.pieces = []
            if self.sample is None:
                self.sample = AnswerSample(data, stream=head.event_stream)
            else:
                self.sample.add(data)
        if complete:
            # Before the client hears of it: its next request may then have this connection.
            self._settle(keep=head.keep_alive and not parser.surplus)
        if response.begun:
            self._passing = True
            if complete:
                response.end(data)
            else:
                response.write(data)
        else:
            self._passing = True
            self._in_events = head.event_stream and not head.encoded and head.length is None
            length = parser.length
            counted = b"" if length is None else b"Content-Length: %b\r\n" % length
            own = head.fields if self._call.rewrite is None else self._call.rewrite(head.fields)
            fields = own + counted + self._extra
            response.begin(head.status, fields, data, counted=length is not None, last=complete)
        if complete:
            self._finish(Outcome(How.COMPLETED, head.code, response.sent))

    def _collect_error(self, parser: ResponseParser, head: ResponseHead) -> None:
        if not parser.complete and sum(map(len, parser.pieces)) < _MAX_ERROR_BODY and not head.event_stream:
            return
        try:
            given = json.loads(b"".join(parser.pieces))
        except (ValueError, RecursionError):
            given = None
        self._fail(UpstreamRefused(head.problem(), head.code, given))

    def _switch(self, head: ResponseHead | None, rest: bytes) -> None:
        """Pass bytes on as they are, both ways."""
        response = self._response
        if head is None or not self._call.upgrade or response.begun or not isinstance(response, Response):
            self._fail(UpstreamFailed("The engine switched protocols, but the request did not ask for an upgrade."))
            return
        self._tunnel = response
        own = head.fields if self._call.rewrite is None else self._call.rewrite(head.fields)
        response.begin_tunnel(own + self._extra, self)
        if rest:
            response.write_tunnel(rest)

    def _fail(self, error: HotseatError, how: How = How.UPSTREAM_FAILED) -> None:
        """End with an error. If the response has begun, send it as an event, or break the connection."""
        if self._over:
            return
        response = self._response
        status = self._status
        self._settle(keep=False)
        if response.begun and not response.ended and (self._passing or self._call.judge is None):
            if self._tunnel is not None:
                self._tunnel.end_tunnel()
            elif self._in_events:
                whole = self.sample is None or self.sample.end.endswith((b"\n\n", b"\r\n\r\n"))
                response.end_with_error(error, within_event=not whole)
            else:
                response.abort()
        self._finish(Outcome(how, status, response.sent, error))

    def _settle(self, *, keep: bool) -> None:
        """Return the connection to the pool, or close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.home.stalled:
            connection.home.stalled.discard(self)
        if keep and connection.rests():
            if self._parser is not None and self._parser.head is not None and self._parser.head.event_stream:
                self._connections.put_later(connection)
            else:
                self._connections.put(connection)
        else:
            connection.close()

    def _finish(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        if self._connection is not None:
            self._settle(keep=False)
        if self._timed is not None:
            self._stop_timer()
        if self._response.writer is self:
            self._response.writer = None
        self._parser = None
        self._done(outcome)
