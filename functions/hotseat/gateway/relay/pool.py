"""Connections to engines, kept open between requests, and clients that leave while an engine is silent."""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from urllib.parse import urlsplit

from hotseat.core.errors import Unreachable, UpstreamFailed
from hotseat.gateway.limits import shortage


class DisconnectWatcher:
    """Watches connections of clients, from its first use until `close`. Thread-safe.

    A stream has thousands of pieces. Polling the client before each would cost a system call and two hand-overs of the
    interpreter's lock. Instead, one thread waits for disconnects of all clients.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gone: dict[int, Callable[[], None]] = {}  # by descriptor
        self._epoll: select.epoll | None = None
        self._bell = -1  # eventfd that ends the thread

    @contextlib.contextmanager
    def watching(self, fd: int, gone: Callable[[], None]) -> Iterator[None]:
        """Call `gone` once, from another thread, if the client disconnects inside the block. `gone` must return quickly."""
        if not self._watch(fd, gone):
            yield
            return
        try:
            yield
        finally:
            with self._lock:
                del self._gone[fd]
                with contextlib.suppress(OSError):  # the stream was aborted, and its descriptor replaced
                    self._poller().unregister(fd)

    def _watch(self, fd: int, gone: Callable[[], None]) -> bool:
        """Start to watch. Return False if that is impossible; a disconnect then shows at the next write."""
        if fd < 0:
            return False
        with self._lock:
            try:
                self._poller().register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
            except (OSError, RuntimeError):  # no descriptor, no memory, no thread
                return False
            self._gone[fd] = gone
            return True

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            if self._epoll is not None:
                os.eventfd_write(self._bell, 1)

    def _poller(self) -> select.epoll:
        if self._epoll is None:
            with contextlib.ExitStack() as undo:
                epoll = undo.enter_context(select.epoll())
                bell = os.eventfd(0, os.EFD_CLOEXEC)
                undo.callback(os.close, bell)
                epoll.register(bell, select.EPOLLIN)
                threading.Thread(target=self._run, args=(epoll, bell), name="departures", daemon=True).start()
                undo.pop_all()
            self._epoll, self._bell = epoll, bell
        return self._epoll

    def _run(self, epoll: select.epoll, bell: int) -> None:
        while True:
            for fd, _ in epoll.poll():
                if fd == bell:
                    return
                self._tell(epoll, fd)

    def _tell(self, epoll: select.epoll, fd: int) -> None:
        with self._lock:
            gone = self._gone.get(fd)
            if gone is None:
                return
            # The event may be of an earlier connection with the same descriptor.
            now = select.poll()
            now.register(fd, select.POLLRDHUP)
            if now.poll(0):
                gone()
            else:
                with contextlib.suppress(OSError):
                    epoll.modify(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)


_CHECK_AFTER = 1.0  # idle seconds after which a connection is checked before use


@dataclass(slots=True, eq=False)
class EngineConnection:
    """One connection. `host` is the value of the Host header."""

    sock: socket.socket
    host: str
    home: "_Bucket"
    reused: bool = False
    keep: bool = True  # False: it cannot carry another request
    rested_at: float = 0.0
    opened_at: float = 0.0


class Holding(set[object]):
    """Exchanges that are sending received bytes of one address. The engine may have to wait for them."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        super().__init__()
        self.last = -inf  # monotonic: when an exchange was last removed

    def discard(self, who: object) -> None:
        """Remove an exchange, if it is here, and record the time."""
        if who in self:
            super().discard(who)
            self.last = time.monotonic()


class _Bucket:
    """Idle connections of one address, the last used at the right."""

    __slots__ = ("address", "holding", "idle")

    def __init__(self, address: str) -> None:
        self.address = address
        self.holding = Holding()
        self.idle: deque[EngineConnection] = deque()


class Connections:
    """Pool of idle connections by address, last in, first out.

    It keeps at most `idle` connections of each address, for at most `max_rest` seconds, and uses none that is
    older than `max_age` seconds: a Service with several pods gives each connection to one of them, and a new pod
    gets requests by new connections only. An engine may close an idle connection at any time, so a request on a
    `reused` one may need a second attempt.
    """

    def __init__(
        self,
        *,
        idle: int = 128,
        max_rest: float = 60.0,
        max_age: float = 10.0,
        connect_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = max(1, idle)
        self._max_rest = max_rest
        self._max_age = max_age
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self.departures = DisconnectWatcher()

    def take(self, address: str) -> EngineConnection:
        """Return an idle connection, or a new one. Raise UpstreamFailed if there is none."""
        while True:
            with self._lock:
                bucket = self._buckets.get(address)
                connection = bucket.idle.pop() if bucket and bucket.idle else None
            if connection is None:
                return self.connect(address)
            now = self._clock()
            fresh = now - connection.opened_at < self._max_age
            if fresh and (now - connection.rested_at < _CHECK_AFTER or not _stale(connection.sock)):
                connection.reused = True
                return connection
            connection.sock.close()

    def connect(self, address: str) -> EngineConnection:
        """Return a new connection. Raise UpstreamFailed if that fails."""
        parts = urlsplit(address)
        if parts.scheme != "http" or parts.hostname is None:
            raise UpstreamFailed(f"The engine's address {address!r} is not supported; allowed: http://HOST:PORT.")
        with self._lock:
            bucket = self._buckets.setdefault(address, _Bucket(address))
        try:
            sock = self._open(parts.hostname, parts.port or 80)
        except OSError as error:
            if (short := shortage(error)) is not None:
                raise short from error
            raise Unreachable(f"The engine does not accept connections: {error.strerror or error}.") from error
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A node that vanishes sends no FIN. Requests can be silent for minutes, connections cannot.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        return EngineConnection(sock, parts.netloc.rpartition("@")[2], bucket, opened_at=self._clock())

    def _open(self, host: str, port: int) -> socket.socket:
        try:
            return socket.create_connection((host, port), timeout=self._connect_timeout)
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            for address in list(self._buckets):  # idle connections hold descriptors
                self._close_idle(address)
            return socket.create_connection((host, port), timeout=self._connect_timeout)

    def _close_idle(self, address: str) -> None:
        with self._lock:
            bucket = self._buckets.get(address)
            idle = list(bucket.idle) if bucket else []
            if bucket:
                bucket.idle.clear()
        for connection in idle:
            connection.sock.close()

    def put(self, connection: EngineConnection) -> None:
        """Return a connection whose answer was read completely."""
        now = connection.rested_at = self._clock()
        bucket = connection.home
        with self._lock:
            closing: list[EngineConnection] = []
            if self._buckets.get(bucket.address) is not bucket:
                closing.append(connection)  # forgotten meanwhile
            else:
                bucket.idle.append(connection)
                while len(bucket.idle) > self._limit or now - bucket.idle[0].rested_at > self._max_rest:
                    closing.append(bucket.idle.popleft())
        for each in closing:
            each.sock.close()

    def heard(self, address: str) -> float:
        """Return the monotonic time of the last received or forwarded bytes of an address. -inf: never."""
        bucket = self._buckets.get(address)
        if bucket is None:
            return -inf
        return time.monotonic() if bucket.holding else bucket.holding.last

    def forget(self, address: str) -> None:
        """Close the idle connections of an address, and later those in use, because its engine is stopped."""
        with self._lock:
            bucket = self._buckets.pop(address, None)
        for connection in bucket.idle if bucket else ():
            connection.sock.close()

    def close(self) -> None:
        """Forget all addresses."""
        for address in list(self._buckets):
            self.forget(address)
        self.departures.close()


def _stale(sock: socket.socket) -> bool:
    """Whether the engine has closed the connection, or sent unexpected bytes."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
