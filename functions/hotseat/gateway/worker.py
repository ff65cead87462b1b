"""gunicorn's threaded worker, which gives a thread to whole requests only, survives a shortage, and ends quickly.

gthread gives each new connection a thread, and the thread waits there for the request's head: a few thousand connections that
send nothing, or half a head, leave no thread for anybody. Here the main loop gathers heads, with a bound on the time, and
closes the connection that has been silent for longest where there would be too many.

gthread gives a kept-alive connection back to its main loop after each answer and takes a thread from the pool for the next
request: two hand-overs, each of which waits for the interpreter's lock. A client that sends one request after another is
served by one thread here, which is what makes the relay's added latency and its requests per second what they are.

gthread closes connections on its main loop, and gives each client two seconds to close its side: one that does not holds up
all others. Here a thread of the pool waits for that. And at its end gthread waits for connections on which nothing happens
until they time out; here they are closed at once.
"""

import contextlib
import json
import logging
import math
import os
import select
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from hotseat.core.errors import HotseatError, TooSlow, Unavailable
from hotseat.gateway.errors import api_kind, error_body, error_headers, http_error_body
from hotseat.gateway.threads import Threads

HEAD_TIME = 60.0  # seconds from a connection's beginning, or a request's first byte, to the end of the head
BODY_PAUSE = 60  # seconds between two pieces of a body
MAX_HEAD = 65536  # bytes
SLACK = 32  # connections beyond the bound that are taken to be told that there are too many
FAREWELL = 2.0  # seconds that a client which was refused is given to read that
RETRY_ACCEPT = 0.2  # seconds after which connections are taken again, once one could not be
SWEEP = 0.5  # seconds between looks for connections whose time is over
WARN_AGAIN = 60.0  # seconds
LINGER = 5  # milliseconds that a thread waits for its connection's next request
# Threads that may do so at once. With many busy connections staying gains little, and those that do not get to stay would
# starve: at 64 connections the slowest percent of requests then takes ten times as long.
STAYING = 4

_SOCKET_OPTIONS = (
    # A client that vanishes sends no FIN; without this its request would keep a thread for ever.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    (socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", BODY_PAUSE, 0)),
)
_ANSWER = "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n{}"

log = logging.getLogger(__name__)


def _answer(status: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    text = json.dumps(body) + "\n"
    return _ANSWER.format(status, len(text), fields, text).encode()


def _refusal(error: HotseatError) -> bytes:
    status = HTTPStatus(api_kind(error).status)
    return _answer(f"{status.value} {status.phrase}", error_body(error), error_headers(error))


_OVERLOADED = _refusal(
    Unavailable("hotseat accepts no more requests at the moment; try again later", code="overloaded", retry_after=1.0)
)
_TOO_SLOW = _refusal(TooSlow("The request headers did not arrive in time."))
_TOO_LARGE = _answer(
    "431 Request Header Fields Too Large",
    http_error_body("head too large", f"The request headers exceed {MAX_HEAD} bytes."),
)


class ClientConnection(TConn):  # type: ignore[misc]
    """A client's connection, with what has come of its next request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.data_ready = True  # it is given to a thread with a whole head only
        self.came = b""
        self.due = time.monotonic() + HEAD_TIME  # when it is closed, while no request is being served
        self.refused = False  # it was answered, and what still comes is dropped
        self.sock.setblocking(True)
        for level, option, value in _SOCKET_OPTIONS:
            with contextlib.suppress(OSError):  # not TCP
                self.sock.setsockopt(level, option, value)

    def receive(self) -> bool:
        """Take what has come, and say whether a whole head has. ConnectionError: the client has closed it, or it broke."""
        try:
            data = self.sock.recv(MAX_HEAD, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError
        if self.refused:
            return False
        if not self.came:
            self.due = time.monotonic() + HEAD_TIME
        self.came += data
        return self.whole

    @property
    def whole(self) -> bool:
        """Whether a head's end is there. A head with bare line feeds is whole, too: the parser refuses it."""
        begin = 2 if self.came.startswith(b"\r\n") else 0
        return self.came.find(b"\r\n\r\n", begin) >= 0 or self.came.find(b"\n\n", begin) >= 0

    def hand_over(self) -> None:
        """Give the parser what has come."""
        self.init()
        self.parser.unreader.unread(self.came)
        self.came = b""

    def rest(self, keepalive: float) -> bool:
        """Begin to wait for the next request; whether its head has come with the last one."""
        if not self.came:
            self.due = time.monotonic() + keepalive
        unreader = getattr(self.parser, "unreader", None)
        if unreader is not None:
            self.came += unreader.take_buffered()
        return bool(self.came) and self.whole

    def refuse(self, answer: bytes) -> None:
        """Send an answer, if it can be sent at once, and take no request any more."""
        self.refused, self.came = True, b""
        self.due = time.monotonic() + FAREWELL
        with contextlib.suppress(OSError):
            self.sock.send(answer, socket.MSG_DONTWAIT)
            self.sock.shutdown(socket.SHUT_WR)


class Worker(ThreadWorker):  # type: ignore[misc]
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most: int = self.cfg.worker_connections
        self.worker_connections = math.inf  # `accept` sees to it
        self.max_keepalived = math.inf
        self._silent: dict[
            ClientConnection, None
        ] = {}  # those without a whole head, the one that is silent for longest first
        self._accept_from = self._sweep_from = self._warn_from = 0.0  # not before
        self._spare: int | None = None  # descriptor to give up where no other can be had
        self._places = threading.Semaphore(STAYING)
        self._orphaned = False

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Do nothing: fewer connections than threads is what a low limit on descriptors makes of it."""

    def get_thread_pool(self) -> Threads:
        """Give the pool that the application knows, if it knows one."""
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        pool = getattr(self.app, "threads", None)
        return pool if isinstance(pool, Threads) else Threads(self.cfg.threads)

    def init_signals(self) -> None:
        """As gunicorn does, but SIGHUP, which the arbiter passes on at any time, asks for a reload from the first moment on."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            super().init_signals()
            signal.signal(signal.SIGHUP, getattr(self.app, "reload", signal.SIG_IGN))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    # The main loop ----------------------------------------------------------------------------------------------------

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """As gthread does, but no shortage and no bug ends the loop: the engines would end with it."""
        if not self._accepting:
            timeout = min(timeout, RETRY_ACCEPT)
        try:
            super().wait_for_and_dispatch_events(timeout)
        except Exception:
            log.exception("the accept loop failed and continues")
            time.sleep(RETRY_ACCEPT)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Take connections, or let them wait; also while a shortage lasts."""
        super().set_accept_enabled(enabled and time.monotonic() >= self._accept_from)

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection. With too many of them the one that has been silent for longest makes room."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._accept_in_shortage(listener, error)
            return
        conn = ClientConnection(self.cfg, sock, address, listener.getsockname())
        self.nr_conns += 1
        self._drop_silent(self._most + SLACK)
        self._read(conn)

    def _accept_in_shortage(self, listener: socket.socket, error: OSError) -> None:
        """Refuse a connection for which there is no descriptor, with the one that is kept for that; then wait a moment."""
        now = time.monotonic()
        if now >= self._warn_from:
            self._warn_from = now + WARN_AGAIN
            log.warning("cannot accept connections: %s; new connections wait or are refused", error.strerror or error)
        self._drop_silent(self.nr_conns - 1)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                sock, address = listener.accept()
                conn = ClientConnection(self.cfg, sock, address, None)
                conn.refuse(_OVERLOADED)
                conn.close()
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._accept_from = now + RETRY_ACCEPT
        self.set_accept_enabled(False)

    def _read(self, conn: ClientConnection) -> None:
        """Take what has come; serve it if that is a whole head, else wait for more.

        A connection that was served before mostly brings the whole of its next request: its thread takes that.
        """
        if conn.initialized and not conn.came and not conn.refused:
            self._serve(conn)
            return
        try:
            whole = conn.receive()
        except OSError:
            self._close(conn)
            return
        if whole:
            self._serve(conn)
        elif len(conn.came) >= MAX_HEAD:
            self._refuse(conn, _TOO_LARGE)
        elif conn not in self._silent:
            self._wait(conn)

    def _read_silent(self, conn: ClientConnection) -> None:
        if conn in self._silent:  # else it was closed for another event of the same look
            self._read(conn)

    def _wait(self, conn: ClientConnection) -> None:
        """Wait for what comes."""
        try:
            self.poller.register(conn.sock, selectors.EVENT_READ, lambda _sock: self._read_silent(conn))
        except OSError:  # no memory
            self._close(conn)
        else:
            self._silent[conn] = None

    def _serve(self, conn: ClientConnection) -> None:
        """Give it a thread, if there is one, and it is not one too many."""
        self._forget(conn)
        self._drop_silent(self._most)
        if self.nr_conns <= self._most and self.tpool.submit(partial(self._serve_here, conn)):
            return
        self._refuse(conn, _OVERLOADED)

    def _serve_here(self, conn: ClientConnection) -> None:
        kept = False
        try:
            kept = self.handle(conn) if conn.whole or conn.receive() else True
        except OSError:  # the client has closed it
            pass
        finally:
            self.method_queue.defer(self._go_on, conn, kept)

    def _go_on(self, conn: ClientConnection, kept: Any) -> None:
        """Wait for the next request of a connection that is kept, or end it."""
        if not kept or not self.alive:
            if not self.tpool.submit(partial(self._close_here, conn)):
                self._close(conn)
        elif conn.whole or conn.rest(self.cfg.keepalive):
            self._serve(conn)
        else:
            self._wait(conn)

    def _close_here(self, conn: ClientConnection) -> None:
        try:
            conn.close(graceful=True)
        except OSError:  # it is closed
            pass
        finally:
            self.method_queue.defer(self._closed)

    def _closed(self) -> None:
        self.nr_conns -= 1

    def _forget(self, conn: ClientConnection) -> None:
        if conn in self._silent:
            del self._silent[conn]
            self.poller.unregister(conn.sock)

    def _close(self, conn: ClientConnection) -> None:
        self._forget(conn)
        self._closed()
        conn.close()

    def _refuse(self, conn: ClientConnection, answer: bytes) -> None:
        """Answer, and give the client a moment to read that: closing before all it sent was read would undo the answer."""
        conn.refuse(answer)
        if conn not in self._silent:
            self._wait(conn)

    def _drop_silent(self, bound: float) -> None:
        """Close those that have been silent for longest until no more connections than that are left."""
        while self.nr_conns > bound and self._silent:
            self._close(next(iter(self._silent)))

    def murder_keepalived(self) -> None:
        """Close connections on which no request came in time."""
        now = time.monotonic()
        if now < self._sweep_from:
            return
        self._sweep_from = now + SWEEP
        for conn in [each for each in self._silent if each.due <= now]:
            if conn.came:
                self._refuse(conn, _TOO_SLOW)
            else:
                self._close(conn)

    # Threads ----------------------------------------------------------------------------------------------------------

    def handle(self, conn: Any) -> Any:
        """Serve requests of one connection while they come quickly; then, or on any other end, as gthread does."""
        conn.hand_over()
        result = super().handle(conn)
        if result is not True or not self._places.acquire(blocking=False):
            return result
        try:
            waiting = select.poll()
            waiting.register(conn.sock, select.POLLIN)
            whole = conn.rest(self.cfg.keepalive)
            while result is True and self.alive and not conn.is_http2 and (whole or waiting.poll(LINGER)):
                if not whole and not conn.receive():
                    break  # the main loop waits for the rest of its head
                conn.hand_over()
                result = super().handle(conn)
                whole = result is True and conn.rest(self.cfg.keepalive)
        except OSError:
            return False
        finally:
            self._places.release()
        return result

    # The end ----------------------------------------------------------------------------------------------------------

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Take no more connections, and end with the last request. From any thread."""
        if self.alive:
            super().handle_exit(sig, frame)
            self.method_queue.defer(self._close_silent)

    def is_parent_alive(self) -> bool:
        """Whether the arbiter lives; if not, end as if it had said so, and look after the engines until then."""
        if not self._orphaned and self.ppid != os.getppid():
            self._orphaned = True
            signal.raise_signal(signal.SIGTERM)
        return True

    def _close_silent(self) -> None:
        for conn in list(self._silent):
            self._close(conn)
