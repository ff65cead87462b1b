"""gunicorn's threaded worker (gthread), changed in four ways.

- gthread gives each connection a thread, which waits for the request's head. A few thousand silent connections then use
  all threads. Here the main loop reads heads, with a time limit, and a thread gets whole heads only. If there are too many
  connections, the one that has been idle for longest is closed.
- gthread returns a kept-alive connection to its main loop after each answer: two hand-overs, each of which waits for the
  interpreter's lock. Here the thread waits a moment for the next request, which lowers the latency of the relay.
- gthread closes connections on its main loop, and waits up to two seconds for each client. Here a thread waits.
- At shutdown gthread waits for idle connections until they time out. Here they are closed immediately.
"""

import contextlib
import json
import logging
import math
import os
import queue
import select
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from hotseat.core.errors import HotseatError, TooSlow, Unavailable
from hotseat.gateway.errors import api_kind, error_body, error_headers, http_error_body

log = logging.getLogger(__name__)


Job = Callable[[], object]
MIN_THREADS = 8  # idle threads that do not exit
IDLE_TIME = 10.0  # seconds after which other idle threads exit
BACKLOG = 64  # jobs that may wait for a thread if no more can be created


class Threads:
    """A pool of at most `most` threads. Thread-safe.

    It grows while all threads are busy. At most `backlog` jobs wait for a thread; more are refused. Idle threads exit after
    `idle_time` seconds, because engines also need threads.
    """

    def __init__(self, most: int, idle_time: float = IDLE_TIME, backlog: int = BACKLOG) -> None:
        self._most = most
        self._idle_time = idle_time
        self._backlog = backlog
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over the next two
        self._count = 0
        self._idle = 0  # idle threads, less queued jobs

    def submit(self, job: Job) -> bool:
        """Run a job in a thread. Return False, without running it, if no thread can be created and the backlog is full."""
        with self._lock:
            if self._idle <= 0 and not self._grow() and (not self._count or self._idle <= -self._backlog):
                return False
            self._idle -= 1
        self._jobs.put(job)
        return True

    def spare(self, count: int) -> bool:
        """Whether `count` threads are idle. Missing threads are created, if possible."""
        with self._lock:
            while self._idle < count:
                if not self._grow():
                    return False
            return True

    def shutdown(self, *, wait: bool = False) -> None:
        """Let each thread exit after its job. `wait` is ignored; gunicorn passes it."""
        del wait
        with self._lock:
            for _ in range(self._count):
                self._jobs.put(None)

    def _grow(self) -> bool:
        if self._count >= self._most:
            return False
        try:
            threading.Thread(target=self._run, name=f"connection-{self._count}").start()
        except (RuntimeError, MemoryError):  # a limit on threads or processes, or no memory for its stack
            return False
        self._count += 1
        self._idle += 1
        return True

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_time)
            except queue.Empty:
                with self._lock:
                    if self._idle > MIN_THREADS:
                        self._idle -= 1
                        self._count -= 1
                        return
                continue
            if job is None:
                return
            try:
                job()
            except Exception:
                log.exception("a job of a connection failed")
            with self._lock:
                self._idle += 1


HEAD_TIME = 60.0  # seconds from the first byte of a request, or the start of a connection, to the end of the head
BODY_PAUSE = 60  # seconds between two reads of a body
MAX_HEAD = 65536  # bytes
SLACK = 32  # connections beyond the limit that are accepted, to be refused with an answer
REFUSAL_TIME = 2.0  # seconds that a refused client has to read the answer
RETRY_ACCEPT = 0.2  # seconds without accepting connections after a failure
SWEEP = 0.5  # seconds between checks for expired connections
WARN_AGAIN = 60.0  # seconds between warnings
LINGER = 5  # milliseconds that a thread waits for its connection's next request
# Threads that may do so at a time. With many busy connections lingering gains little and starves the others: at 64
# connections the slowest percent of requests would take ten times as long.
MAX_LINGERING = 4

_SOCKET_OPTIONS = (
    # A client that vanishes sends no FIN. Without keep-alive its request would keep a thread forever.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    (socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", BODY_PAUSE, 0)),
)
_ANSWER = "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n{}"


def _answer(status: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    text = json.dumps(body) + "\n"
    return _ANSWER.format(status, len(text), fields, text).encode()


def _refusal(error: HotseatError) -> bytes:
    status = HTTPStatus(api_kind(error).status)
    return _answer(f"{status.value} {status.phrase}", error_body(error), error_headers(error))


_OVERLOADED = _refusal(
    Unavailable("hotseat accepts no more requests at the moment", code="overloaded", retry_after=1.0)
)
_TOO_SLOW = _refusal(TooSlow("The request headers did not arrive in time."))
_TOO_LARGE = _answer(
    "431 Request Header Fields Too Large",
    http_error_body("head too large", f"The request headers exceed {MAX_HEAD} bytes."),
)


class ClientConnection(TConn):  # type: ignore[misc]
    """A client's connection, with the received bytes of its next request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.data_ready = True  # a thread gets it with a whole head only
        self.received = b""
        self.due = time.monotonic() + HEAD_TIME  # time of its close, if no request is served then
        self.refused = False  # it was answered, and further bytes are dropped
        self.sock.setblocking(True)
        for level, option, value in _SOCKET_OPTIONS:
            with contextlib.suppress(OSError):  # not TCP
                self.sock.setsockopt(level, option, value)

    def receive(self) -> bool:
        """Receive bytes, and return whether a whole head is there. Raise ConnectionError if the connection is closed."""
        try:
            data = self.sock.recv(MAX_HEAD, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError
        if self.refused:
            return False
        if not self.received:
            self.due = time.monotonic() + HEAD_TIME
        self.received += data
        return self.whole

    @property
    def whole(self) -> bool:
        """Whether a whole head was received, also one with bare line feeds, which the parser rejects."""
        begin = 2 if self.received.startswith(b"\r\n") else 0
        return self.received.find(b"\r\n\r\n", begin) >= 0 or self.received.find(b"\n\n", begin) >= 0

    def hand_over(self) -> None:
        """Give the received bytes to the parser."""
        self.init()
        self.parser.unreader.unread(self.received)
        self.received = b""

    def begin_idle(self, keepalive: float) -> bool:
        """Start to wait for the next request. Return whether its head was received with the last one."""
        if not self.received:
            self.due = time.monotonic() + keepalive
        unreader = getattr(self.parser, "unreader", None)
        if unreader is not None:
            self.received += unreader.take_buffered()
        return bool(self.received) and self.whole

    def refuse(self, answer: bytes) -> None:
        """Send an answer, if the socket takes it, and accept no further request."""
        self.refused, self.received = True, b""
        self.due = time.monotonic() + REFUSAL_TIME
        with contextlib.suppress(OSError):
            self.sock.send(answer, socket.MSG_DONTWAIT)
            self.sock.shutdown(socket.SHUT_WR)


class Worker(ThreadWorker):  # type: ignore[misc]
    """gthread with the changes above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections: int = self.cfg.worker_connections
        self.worker_connections = math.inf  # `accept` enforces the limit
        self.max_keepalived = math.inf
        self._idle: dict[ClientConnection, None] = {}  # without a whole head, the longest idle first
        self._accept_from = self._sweep_from = self._warn_from = 0.0  # monotonic times
        self._spare_fd: int | None = None  # descriptor to give up when no other is left
        self._lingering = threading.Semaphore(MAX_LINGERING)
        self._orphaned = False

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Do nothing: a low limit on descriptors may leave fewer connections than threads."""

    def get_thread_pool(self) -> Threads:
        """Return the pool of the application, if it has one."""
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        pool = getattr(self.app, "threads", None)
        return pool if isinstance(pool, Threads) else Threads(self.cfg.threads)

    def init_signals(self) -> None:
        """Set the handlers of gunicorn. SIGHUP requests a reload, and is blocked until its handler is set."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            super().init_signals()
            signal.signal(signal.SIGHUP, getattr(self.app, "reload", signal.SIG_IGN))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    # The main loop ----------------------------------------------------------------------------------------------------

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Run the loop of gthread once. Exceptions do not end the loop, because the engines would end with it."""
        if not self._accepting:
            timeout = min(timeout, RETRY_ACCEPT)
        try:
            super().wait_for_and_dispatch_events(timeout)
        except Exception:
            log.exception("the accept loop failed and continues")
            time.sleep(RETRY_ACCEPT)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections, or leave them in the backlog, also during a shortage."""
        super().set_accept_enabled(enabled and time.monotonic() >= self._accept_from)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection. If there are too many, close the one that has been idle for longest."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._accept_in_shortage(listener, error)
            return
        conn = ClientConnection(self.cfg, sock, address, listener.getsockname())
        self.nr_conns += 1
        self._drop_idle(self._max_connections + SLACK)
        self._read(conn)

    def _accept_in_shortage(self, listener: socket.socket, error: OSError) -> None:
        """Refuse a connection, with the spare descriptor, and pause accepting."""
        now = time.monotonic()
        if now >= self._warn_from:
            self._warn_from = now + WARN_AGAIN
            log.warning("cannot accept connections: %s; new connections wait or are refused", error.strerror or error)
        self._drop_idle(self.nr_conns - 1)
        if self._spare_fd is not None:
            os.close(self._spare_fd)
            self._spare_fd = None
            with contextlib.suppress(OSError):
                sock, address = listener.accept()
                conn = ClientConnection(self.cfg, sock, address, None)
                conn.refuse(_OVERLOADED)
                conn.close()
        with contextlib.suppress(OSError):
            self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._accept_from = now + RETRY_ACCEPT
        self.set_accept_enabled(False)

    def _read(self, conn: ClientConnection) -> None:
        """Receive bytes. Serve the connection if its head is whole, else wait.

        A connection that was served before is given to a thread at once: its next request mostly arrives whole.
        """
        if conn.initialized and not conn.received and not conn.refused:
            self._serve(conn)
            return
        try:
            whole = conn.receive()
        except OSError:
            self._close(conn)
            return
        if whole:
            self._serve(conn)
        elif len(conn.received) >= MAX_HEAD:
            self._refuse(conn, _TOO_LARGE)
        elif conn not in self._idle:
            self._wait(conn)

    def _read_idle(self, conn: ClientConnection) -> None:
        if conn in self._idle:  # else another event has closed it
            self._read(conn)

    def _wait(self, conn: ClientConnection) -> None:
        """Wait for bytes."""
        try:
            self.poller.register(conn.sock, selectors.EVENT_READ, lambda _sock: self._read_idle(conn))
        except OSError:  # no memory
            self._close(conn)
        else:
            self._idle[conn] = None

    def _serve(self, conn: ClientConnection) -> None:
        """Give the connection to a thread. Refuse it if there is no thread, or if there are too many connections."""
        self._stop_watching(conn)
        self._drop_idle(self._max_connections)
        if self.nr_conns <= self._max_connections and self.tpool.submit(partial(self._serve_in_thread, conn)):
            return
        self._refuse(conn, _OVERLOADED)

    def _serve_in_thread(self, conn: ClientConnection) -> None:
        kept = False
        try:
            kept = self.handle(conn) if conn.whole or conn.receive() else True
        except OSError:  # the client has closed the connection
            pass
        finally:
            self.method_queue.defer(self._resume, conn, kept)

    def _resume(self, conn: ClientConnection, kept: Any) -> None:
        """Wait for the next request of a connection that is kept open, or close it."""
        if not kept or not self.alive:
            if not self.tpool.submit(partial(self._close_in_thread, conn)):
                self._close(conn)
        elif conn.whole or conn.begin_idle(self.cfg.keepalive):
            self._serve(conn)
        else:
            self._wait(conn)

    def _close_in_thread(self, conn: ClientConnection) -> None:
        try:
            conn.close(graceful=True)
        except OSError:  # already closed
            pass
        finally:
            self.method_queue.defer(self._closed)

    def _closed(self) -> None:
        self.nr_conns -= 1

    def _stop_watching(self, conn: ClientConnection) -> None:
        if conn in self._idle:
            del self._idle[conn]
            self.poller.unregister(conn.sock)

    def _close(self, conn: ClientConnection) -> None:
        self._stop_watching(conn)
        self._closed()
        conn.close()

    def _refuse(self, conn: ClientConnection, answer: bytes) -> None:
        """Send an answer, and close later: closing with unread bytes would reset the connection before the client reads."""
        conn.refuse(answer)
        if conn not in self._idle:
            self._wait(conn)

    def _drop_idle(self, bound: float) -> None:
        """Close the longest idle connections until at most `bound` connections are left."""
        while self.nr_conns > bound and self._idle:
            self._close(next(iter(self._idle)))

    def murder_keepalived(self) -> None:
        """Close connections without a request in time."""
        now = time.monotonic()
        if now < self._sweep_from:
            return
        self._sweep_from = now + SWEEP
        for conn in [each for each in self._idle if each.due <= now]:
            if conn.received:
                self._refuse(conn, _TOO_SLOW)
            else:
                self._close(conn)

    # Threads ----------------------------------------------------------------------------------------------------------

    def handle(self, conn: Any) -> Any:
        """Serve requests of one connection while they follow quickly. Return what gthread returns."""
        conn.hand_over()
        result = super().handle(conn)
        if result is not True or not self._lingering.acquire(blocking=False):
            return result
        try:
            waiting = select.poll()
            waiting.register(conn.sock, select.POLLIN)
            whole = conn.begin_idle(self.cfg.keepalive)
            while result is True and self.alive and not conn.is_http2 and (whole or waiting.poll(LINGER)):
                if not whole and not conn.receive():
                    break  # the main loop waits for the rest of the head
                conn.hand_over()
                result = super().handle(conn)
                whole = result is True and conn.begin_idle(self.cfg.keepalive)
        except OSError:
            return False
        finally:
            self._lingering.release()
        return result

    # Shutdown ---------------------------------------------------------------------------------------------------------

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Accept no more connections, and exit after the last request. Called from any thread."""
        if self.alive:
            super().handle_exit(sig, frame)
            self.method_queue.defer(self._close_idle)

    def is_parent_alive(self) -> bool:
        """Return True. If the arbiter has died, start a graceful shutdown, because the engines still need this process."""
        if not self._orphaned and self.ppid != os.getppid():
            self._orphaned = True
            signal.raise_signal(signal.SIGTERM)
        return True

    def _close_idle(self) -> None:
        for conn in list(self._idle):
            self._close(conn)
