"""Connections to engines, kept open between requests. All is done on the loop, except `heard` and `forget`."""

import asyncio
import contextlib
import errno
import ipaddress
import os
import select
import socket
import ssl
import struct
import time
from asyncio import Protocol, Transport
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, cast
from typing import Protocol as Interface
from urllib.parse import urlsplit

from hotseat.control.owner import LoopOwner
from hotseat.core.errors import HotseatError, Unreachable, UpstreamFailed
from hotseat.engines.access import DialAddress
from hotseat.gateway.limits import shortage
from hotseat.gateway.relay.response_parser import ResponseParser, response_heads
from hotseat.gateway.relay.time_limits import TimeLimits
from hotseat.gateway.relay.tls import TlsContexts, tls_failed

WRITE_BUFFER = 262_144
# Seconds after a stream of events in which a connection is not used. llama.cpp closes it then, within a millisecond, and a
# request that was sent meanwhile would be lost.
SETTLE_TIME = 0.05
_CLOSED = "the connection was closed during the TLS handshake"
_ACKED = 120  # offset of tcpi_bytes_acked in Linux's struct tcp_info
_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A node that vanishes sends no FIN. Requests can be silent for minutes, connections cannot.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
Addresses = list[tuple[int, Any]]  # family, and what `connect` takes


class EngineUser(Interface):
    """Who has a connection to an engine. The methods are called on the loop."""

    def engine_sent(self, data: bytes) -> None:
        """Handle bytes of the engine."""

    def engine_gone(self, *, clean: bool, closed_first: bool) -> None:
        """Handle the end of the connection.

        `clean`: the engine has closed it without an error. `closed_first`: it has done so before it received any of the request.
        """

    def engine_paused(self, *, paused: bool) -> None:
        """Handle that the engine takes no more bytes, or takes them again."""


class EngineConnection(Protocol):
    """One connection. `host` is the value of the Host header."""

    __slots__ = (
        "_before",
        "_ended",
        "_poll",
        "_sock",
        "_transport",
        "_written",
        "home",
        "host",
        "opened_at",
        "parser",
        "rested_at",
        "reused",
        "user",
    )

    cut = False  # the connection has ended where TLS says that it must not

    def __init__(self, sock: socket.socket, host: bytes, home: "Bucket") -> None:
        self.host, self.home = host, home
        self.parser = ResponseParser(home.heads)
        self.user: EngineUser | None = None
        self.reused = False
        self.opened_at = self.rested_at = 0.0
        self._sock = sock
        poll = select.poll()  # a third of what it takes to try to receive
        poll.register(sock, select.POLLIN | select.POLLRDHUP)
        self._poll = poll.poll
        self._transport: Transport | None = None
        self._before = self._written = 0  # bytes of earlier requests, and of the last one too
        self._ended = False

    def connection_made(self, transport: object) -> None:
        """Keep the transport."""
        self._transport = cast("Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on. An idle connection on which something comes is closed: no answer is without its request."""
        if self.user is None:
            self.close()
        else:
            self.home.last = time.monotonic()
            self.user.engine_sent(data)

    def eof_received(self) -> bool:
        """Close too."""
        self._ended = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the user."""
        self.home.drop(self)
        if self.user is not None and error is not None:
            self._receive_rest()
        user, self.user = self.user, None
        if user is not None:
            # A reset of a connection that the engine had closed before is EPIPE, any other ECONNRESET.
            ended = (self._ended and error is None) or isinstance(error, BrokenPipeError)
            user.engine_gone(
                clean=ended and error is None and not self.cut, closed_first=ended and not self._has_received()
            )
        self._transport = None
        self.parser.close()

    def _receive_rest(self) -> None:
        """Receive what came before the error: an engine may answer and close before it has read all of a request."""
        with contextlib.suppress(OSError):
            while self.user is not None and (data := self._sock.recv(WRITE_BUFFER, socket.MSG_DONTWAIT)):
                self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        if self.user is not None:
            self.user.engine_sent(data)

    def pause_writing(self) -> None:
        """Tell the user."""
        if self.user is not None:
            self.user.engine_paused(paused=True)

    def resume_writing(self) -> None:
        """Tell the user."""
        if self.user is not None:
            self.user.engine_paused(paused=False)

    def send(self, head: bytes, body: bytes = b"") -> None:
        """Send a request."""
        transport = self._transport
        if transport is not None:
            self._before, self._written = self._written, self._written + len(head) + len(body)
            if len(body) <= WRITE_BUFFER:
                transport.write(head + body if body else head)
            else:
                transport.write(head)
                transport.write(body)

    def send_more(self, data: bytes) -> None:
        """Send a further piece of the request."""
        if self._transport is not None:
            self._written += len(data)
            self._transport.write(data)

    def _has_received(self) -> bool:
        """Whether the engine's host has acknowledged, perhaps, a byte of the last request."""
        acked = self._acknowledged()
        if acked is None:
            return True
        return acked > self._before + 1  # the SYN counts as one

    def _acknowledged(self) -> int | None:
        """Return how many bytes the engine's host has acknowledged. None: not known."""
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            (acked,) = struct.unpack_from("Q", info, _ACKED)
        except (OSError, struct.error):
            return None
        return int(acked)

    def is_stale(self) -> bool:
        """Whether the engine has closed the connection, or sent unexpected bytes."""
        return bool(self._poll(0))

    def set_reading(self, *, on: bool) -> None:
        """Read from the engine, or stop reading, so that the engine has to wait."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.is_reading() is not on:
            (transport.resume_reading if on else transport.pause_reading)()

    def rests(self) -> bool:
        """Whether the connection can have another request. If so, it is read from again."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > 0:
            return False
        if not transport.is_reading():
            transport.resume_reading()
        return True

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Close without waiting for bytes that have not been sent. The user is not told."""
        self.user = None
        self.home.drop(self)
        if self._transport is not None:
            self._transport.abort()


class TlsConnection(EngineConnection):
    """One connection with TLS. `ready` is done after the handshake, with its error if it failed.

    The loop's own TLS is not used: while reading is paused it loses what it holds if the other side closes the connection.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls", "cut", "ready")

    def __init__(
        self,
        sock: socket.socket,
        host: bytes,
        home: "Bucket",
        *,
        context: ssl.SSLContext,
        name: str,
    ) -> None:
        super().__init__(sock, host, home)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cut = False

    def connection_made(self, transport: object) -> None:
        """Begin the handshake."""
        super().connection_made(transport)
        self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except OSError as error:  # of TLS, or an invalid name
            self._flush()  # the other side is told why
            self._fail(error)
        else:
            self._flush()
            self.ready.set_result(None)

    def _fail(self, error: OSError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Decrypt bytes and pass them on."""
        self._incoming.write(data)
        if not self.ready.done():
            self._shake_hands()
        if self.ready.done() and not self.ready.cancelled() and (plain := self._decrypted()):
            super().data_received(plain)
        if self._ended and self._transport is not None:
            self._transport.close()

    def _deliver(self, data: bytes) -> None:
        self._incoming.write(data)
        if plain := self._decrypted():
            super()._deliver(plain)

    def _decrypted(self) -> bytes:
        """Return what can be decrypted of what has come."""
        pieces = []
        try:
            while piece := self._tls.read(WRITE_BUFFER):
                pieces.append(piece)
            self._ended = True  # by its own word
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self.cut = True
            self._fail(error)
        self._flush()
        return b"".join(pieces)

    def eof_received(self) -> bool:
        """Close too. Without a word before, someone else may have cut the connection."""
        self.cut = self.cut or not self._ended
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the user, or who waits for the handshake."""
        if not self.ready.done():
            self.ready.set_exception(error if isinstance(error, OSError) else ConnectionResetError(_CLOSED))
        super().connection_lost(error)

    def send(self, head: bytes, body: bytes = b"") -> None:
        """Send a request."""
        self._before = (self._acknowledged() or 1) - 1  # the SYN counts as one
        self.send_more(head)
        if body:
            self.send_more(body)

    def send_more(self, data: bytes) -> None:
        """Encrypt and send a further piece."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError:
            self.cut = True
            if self._transport is not None:
                self._transport.abort()
        self._flush()

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing.pending:
            self._transport.write(self._outgoing.read())


class Bucket:
    """Idle connections of one address, the last used at the right. With TLS, the address has the digest of its settings."""

    __slots__ = ("address", "heads", "idle", "last", "max_age", "stalled")

    def __init__(self, address: str, max_age: float) -> None:
        self.address, self.max_age = address, max_age
        self.idle: deque[EngineConnection] = deque()
        self.heads = response_heads()  # of its responses, for the parsers of its connections
        self.last = -inf  # monotonic: when bytes were last received
        self.stalled: set[object] = set()  # exchanges whose client reads too slowly; the engine may have to wait

    def drop(self, connection: EngineConnection) -> None:
        """Forget a connection that is closed."""
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)


class Connections:
    """Pool of idle connections by address, last in, first out.

    It keeps at most `idle` connections of each address, for at most `max_rest` seconds, and uses none that is
    older than `max_age` seconds: a Service with several pods gives each connection to one of them, and a new pod
    gets requests by new connections only. With TLS that is `max_rest`: a handshake takes some time. `owner` names the thread of the loop.
    """

    def __init__(
        self,
        owner: LoopOwner | None = None,
        *,
        idle: int = 128,
        max_rest: float = 60.0,
        max_age: float = 10.0,
        connect_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owner = LoopOwner() if owner is None else owner
        self._limit = max(1, idle)
        self._max_rest = max_rest
        self._max_age = max_age
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self._tls = TlsContexts()
        self.time_limits = TimeLimits()  # of exchanges
        self._lookups: dict[tuple[str, int], asyncio.Task[Addresses]] = {}

    def take(self, address: str) -> EngineConnection | None:
        """Return an idle connection, if there is one on which nothing has come."""
        bucket = self._buckets.get(address)
        while bucket and bucket.idle:
            connection = bucket.idle.pop()
            fresh = self._clock() - connection.opened_at < bucket.max_age
            if fresh and not connection.closed and not connection.is_stale():
                connection.reused = True
                return connection
            connection.close()
        return None

    async def connect(self, address: str) -> EngineConnection:
        """Return a new connection: with TLS for a DialAddress. Raise UpstreamFailed if that fails."""
        parts = urlsplit(address)
        tls = address.tls if isinstance(address, DialAddress) else None
        if parts.scheme != ("http" if tls is None else "https") or parts.hostname is None:
            raise UpstreamFailed(f"The engine's address {address!r} is not supported; allowed: http://HOST:PORT.")
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = Bucket(address, self._max_age if tls is None else self._max_rest)
        try:
            context = None if tls is None else await asyncio.to_thread(self._tls.of, tls)
            async with asyncio.timeout(self._connect_timeout):
                sock = await self._open(parts.hostname, parts.port or (80 if tls is None else 443))
        except TimeoutError as error:
            raise Unreachable("The engine does not accept connections: timed out.") from error
        except (OSError, RuntimeError, ValueError) as error:  # no thread can be started; a host or port that cannot be
            raise _not_reached(error) from error
        host = parts.netloc.rpartition("@")[2].encode("latin-1")
        if tls is None or context is None:
            connection = EngineConnection(sock, host, bucket)
        else:
            connection = _with_tls(sock, host, bucket, context, tls.server_name or parts.hostname)
        connection.opened_at = self._clock()
        try:
            for level, option, value in _OPTIONS:
                sock.setsockopt(level, option, value)
            await asyncio.get_running_loop().create_connection(lambda: connection, sock=sock)
            if isinstance(connection, TlsConnection):
                async with asyncio.timeout(self._connect_timeout):
                    await connection.ready
        except TimeoutError as error:
            connection.close()
            raise Unreachable("The engine does not accept connections: the TLS handshake timed out.") from error
        except OSError as error:
            connection.close()
            sock.close()
            raise tls_failed(error) or _not_reached(error) from error
        return connection

    async def _open(self, host: str, port: int) -> socket.socket:
        try:
            return await _open(await self._addresses(host, port))
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            for bucket in self._buckets.values():  # idle connections hold descriptors
                for connection in list(bucket.idle):
                    connection.close()
            await asyncio.sleep(0)  # they are closed by the loop
            return await _open(await self._addresses(host, port))

    async def _addresses(self, host: str, port: int) -> Addresses:
        """Return the addresses of a host. Those who ask at the same time share one lookup: each takes a thread."""
        lookup = self._lookups.get((host, port))
        if lookup is None:
            lookup = self._lookups[host, port] = asyncio.ensure_future(_look_up(host, port))
            lookup.add_done_callback(lambda _: self._lookups.pop((host, port)))
        return await asyncio.shield(lookup)

    def put_later(self, connection: EngineConnection) -> None:
        """Return a connection after SETTLE_TIME: an engine may close it although its answer said nothing of that."""
        connection.user = None
        asyncio.get_running_loop().call_later(SETTLE_TIME, self.put, connection)

    def put(self, connection: EngineConnection) -> None:
        """Return a connection whose answer was read completely."""
        now = connection.rested_at = self._clock()
        bucket = connection.home
        connection.user = None
        if self._buckets.get(bucket.address) is not bucket or connection.closed:
            connection.close()  # forgotten meanwhile
            return
        bucket.idle.append(connection)
        while len(bucket.idle) > self._limit or now - bucket.idle[0].rested_at > self._max_rest:
            bucket.idle[0].close()

    def heard(self, address: str) -> float:
        """Return the monotonic time of the last received or forwarded bytes of an address. -inf: never. On any thread."""
        bucket = self._buckets.get(address)
        if bucket is None:
            return -inf
        return time.monotonic() if bucket.stalled else bucket.last

    def forget(self, address: str) -> None:
        """Close the idle connections of an address, and later those in use, because its engine is stopped. On any thread."""
        self._owner.post(lambda: self._forget(address))

    def _forget(self, address: str) -> None:
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"  # a path in the address of an upstream is not connected to
        for known in [each for each in self._buckets if each.partition("#")[0] == origin]:
            for connection in list(self._buckets.pop(known).idle):
                connection.close()

    def close(self) -> None:
        """Forget all addresses. On any thread."""
        for address in list(self._buckets):
            self.forget(address)


def _with_tls(sock: socket.socket, host: bytes, bucket: Bucket, context: ssl.SSLContext, name: str) -> TlsConnection:
    try:
        return TlsConnection(sock, host, bucket, context=context, name=name)
    except ValueError as error:  # UnicodeError is one
        sock.close()
        raise UpstreamFailed(f"The name {name!r} cannot be asked for by TLS: {error}.") from error


def _not_reached(error: OSError | RuntimeError | ValueError) -> HotseatError:
    if (short := shortage(error)) is not None:
        return short
    return Unreachable(f"The engine does not accept connections: {getattr(error, 'strerror', None) or error}.")


async def _open(addresses: Addresses) -> socket.socket:
    """Return a connected socket. Raise the error of the last address that was tried."""
    failure: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await _connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _connect(sock: socket.socket, address: Any) -> None:
    """Connect a socket. `sock_connect` of uvloop would use a thread, and abort the process if there can be none."""
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(sock.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(sock.fileno())
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def _look_up(host: str, port: int) -> Addresses:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        resolve = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(None, resolve)
        return [(family, address) for family, _, _, _, address in found]
    return [(socket.AF_INET, (host, port)) if ip.version == 4 else (socket.AF_INET6, (host, port, 0, 0))]  # noqa: PLR2004
