"""Relay a request whose body is not held in memory. No more of it is read than the engine takes."""

from hotseat.core.errors import HotseatError
from hotseat.gateway.relay.exchange import Exchange
from hotseat.gateway.relay.heads import Upload
from hotseat.gateway.relay.pool import EngineConnection


class UploadExchange(Exchange):
    """Relays one request with an `upload`. A connection that turns out to be closed is replaced, and gets it from its begin."""

    __slots__ = ("_at", "_blocked", "_reading")

    def _use(self, connection: EngineConnection) -> None:
        self._at = 0
        self._blocked = False  # the engine takes no more for now
        self._reading = False
        super()._use(connection)
        self._continue(connection)

    @property
    def _body(self) -> Upload:
        upload = self._call.upload
        assert upload is not None  # noqa: S101
        return upload

    def _continue(self, connection: EngineConnection) -> None:
        if not self._blocked and not self._reading and self._at < len(self._body):
            self._reading = True
            self._body.read(self._at, lambda data, error: self._send(connection, data, error))

    def _send(self, connection: EngineConnection, data: bytes, error: HotseatError | None) -> None:
        if self._connection is not connection:
            return
        self._reading = False
        if error is not None:
            self._fail(error)
            return
        self._at += len(data)
        connection.send_more(data)
        self._continue(connection)

    def engine_paused(self, *, paused: bool) -> None:
        """Read no more of the body until the engine has taken what was sent."""
        self._blocked = paused
        if self._connection is not None:
            self._continue(self._connection)

    def _settle(self, *, keep: bool) -> None:
        """Return the connection to the pool, or close it. It cannot be used again if the engine did not wait for the whole body."""
        super()._settle(keep=keep and self._at == len(self._body))
