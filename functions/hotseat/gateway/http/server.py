"""Listeners and all connections of clients: how many there may be, and how long each may be silent."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Iterable

from hotseat.core.errors import HotseatError
from hotseat.gateway.http.connection import ClientConnection, too_many_connections
from hotseat.gateway.http.interfaces import HttpLimits, ListenerTls, Service
from hotseat.gateway.http.request import Listener
from hotseat.gateway.http.response import ErrorPage

log = logging.getLogger(__name__)

SLACK = 16  # connections beyond the limit that are accepted, to be refused with an answer
AT_ONCE = 16  # connections that are accepted before others are served
RETRY_ACCEPT = 0.2  # seconds without accepting connections after a failure
HANDSHAKE = 10.0  # seconds for the handshake of TLS
SWEEP = 0.5  # seconds between checks for expired connections
WARN_AGAIN = 60.0  # seconds between warnings


class HttpServer:
    """Serves `service` on listening sockets, on a running loop."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        listeners: Iterable[socket.socket],
        service: Service,
        limits: HttpLimits,
        tls: ListenerTls | None = None,
    ) -> None:
        self.loop, self.service, self.limits, self._tls = loop, service, limits, tls
        self.closing = False
        self._listeners = {sock: _listener(sock, tls) for sock in listeners}
        self._all: set[ClientConnection] = set()
        self._waiting: dict[ClientConnection, None] = {}  # for their clients, the longest waiting first
        self._sweeper: TimerHandle | None = None
        self._warn_from = 0.0  # monotonic time
        self._spare_fd: int | None = None  # descriptor to give up when no other is left
        self._opening: set[asyncio.Task[None]] = set()
        self._handshakes: dict[ClientConnection, asyncio.Task[None]] = {}  # of TLS, the oldest first
        self._empty = asyncio.Event()

    def start(self) -> None:
        """Accept connections."""
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for sock in self._listeners:
            sock.setblocking(False)
        self._listen()

    async def close(self) -> None:
        """Accept no more connections, close those without a request, and wait for the others."""
        self.stop_listening()
        self.closing = True
        for connection in list(self._waiting):
            connection.close_idle(cut=False)
        while self._all or self._opening:
            self._empty.clear()
            await self._empty.wait()
        if self._spare_fd is not None:
            os.close(self._spare_fd)
            self._spare_fd = None
        if self._sweeper is not None:
            self._sweeper.cancel()

    def stop_listening(self) -> None:
        """Leave new connections to others, or in the backlog."""
        for sock in self._listeners:
            self.loop.remove_reader(sock.fileno())

    # Accepting --------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self.closing:
            return
        try:
            for sock in self._listeners:
                self.loop.add_reader(sock.fileno(), self._accept, sock)
        except (OSError, MemoryError):
            self.loop.call_later(RETRY_ACCEPT, self._listen)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_in_shortage(listener, error)
                return
            sock.setblocking(False)
            self._drop_waiting(self.limits.connections + SLACK)
            connection = ClientConnection(self, sock, self._listeners[listener])
            self._all.add(connection)
            task = self.loop.create_task(self._open(connection, sock))
            if self._tls is not None:
                self._handshakes[connection] = task
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open(self, connection: ClientConnection, sock: socket.socket) -> None:
        tls = self._tls
        try:
            if tls is None:
                await self.loop.connect_accepted_socket(lambda: connection, sock)
            else:
                await self.loop.connect_accepted_socket(
                    lambda: connection,
                    sock,
                    ssl=tls.context,
                    ssl_handshake_timeout=HANDSHAKE,
                    ssl_shutdown_timeout=self.limits.refusal_time,
                )
        except Exception as error:  # no memory, or the client has left: others are served
            log.debug("cannot serve a connection: %r", error)
            sock.close()
            self.closed(connection)
        except asyncio.CancelledError:  # it was dropped
            sock.close()
            self.closed(connection)
        finally:
            self._handshakes.pop(connection, None)

    def _opened(self, task: "asyncio.Task[None]") -> None:
        self._opening.discard(task)
        if self.closing and not self._all and not self._opening:
            self._empty.set()

    def _accept_in_shortage(self, listener: socket.socket, error: OSError) -> None:
        """Refuse a connection, with the spare descriptor, and pause accepting."""
        now = time.monotonic()
        if now >= self._warn_from:
            self._warn_from = now + WARN_AGAIN
            log.warning("cannot accept connections: %s; new connections wait or are refused", error.strerror or error)
        self._drop_waiting(len(self._all) - 1)
        if self._spare_fd is not None:
            os.close(self._spare_fd)
            self._spare_fd = None
            with contextlib.suppress(OSError):
                sock, _address = listener.accept()
                with sock:
                    _refuse(sock, too_many_connections())
        with contextlib.suppress(OSError):
            self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.stop_listening()
        self.loop.call_later(RETRY_ACCEPT, self._listen)

    # ConnectionOwner ------------------------------------------------------------------------------------------------------

    def waits(self, connection: ClientConnection, seconds: float) -> None:
        """Expire a connection after this time, or close it if there are too many."""
        connection.due = self.loop.time() + seconds
        self._waiting.pop(connection, None)
        self._waiting[connection] = None
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    def busy(self, connection: ClientConnection) -> bool:
        """Keep a connection: it has a request. Return False if there are too many connections to serve it."""
        connection.due = 0.0
        self._waiting.pop(connection, None)
        if len(self._all) > self.limits.connections:
            self._drop_waiting(self.limits.connections)
            return len(self._all) <= self.limits.connections
        return True

    def closed(self, connection: ClientConnection) -> None:
        """Forget a connection."""
        self._all.discard(connection)
        self._waiting.pop(connection, None)
        if self.closing and not self._all and not self._opening:
            self._empty.set()

    def _drop_waiting(self, bound: int) -> None:
        """Close the longest waiting connections until at most `bound` connections are left."""
        while len(self._all) > bound and self._handshakes:
            connection = next(iter(self._handshakes))
            self._handshakes.pop(connection).cancel()
            self._all.discard(connection)
        while len(self._all) > bound and self._waiting:
            connection = next(iter(self._waiting))
            self._waiting.pop(connection)
            self._all.discard(connection)
            connection.close_idle(cut=True)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.loop.time()
        for connection in [each for each in self._waiting if each.due <= now]:
            self._waiting.pop(connection, None)
            try:
                connection.expire()
            except Exception:
                log.exception("internal error (a bug in hotseat): a connection could not be closed")
        if self._waiting and self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)


def _listener(sock: socket.socket, tls: ListenerTls | None) -> Listener:
    name = sock.getsockname()
    return Listener(str(name[0]), int(name[1]), "http" if tls is None else "https")


def _refuse(sock: socket.socket, error: HotseatError) -> None:
    """Send an error if the socket takes it."""
    with contextlib.suppress(OSError):
        sock.send(ErrorPage(error).encode(), socket.MSG_DONTWAIT)
        sock.shutdown(socket.SHUT_WR)
