"""gunicorn inside `hotseat up`: one worker with an event loop, which owns the engines, and an arbiter for signals.

The first SIGINT or SIGTERM drains, the second one exits immediately. SIGHUP reloads the documents, not the worker.
"""

import contextlib
import errno
import logging
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger as GunicornLogger

from hotseat.gateway.http.interfaces import HttpLimits
from hotseat.gateway.limits import allow_files
from hotseat.gateway.threads import MIN_THREADS, Threads
from hotseat.gateway.tls import ServerTls

MOST_REQUESTS = 20_000  # queued and in flight
FILES = 3  # descriptors for each request: two connections, and a third one for clients without a request
SPARE_FILES = 256  # descriptors that are not for requests: engines, logs, downloads
LAST_ANSWERS = 2.0  # seconds for the last answers after all engines are stopped
FORCED_EXIT = 2.0  # seconds for a worker to exit immediately
POLL = 0.1  # seconds between checks whether the worker has exited

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one process: `connections` of clients, and `max_requests`, the number of long requests.

    `why` says what limits `max_requests`.
    """

    connections: int
    max_requests: int
    why: str

    @classmethod
    def of_this_process(cls) -> "Bounds":
        """Raise the limit on descriptors, and return the limits."""
        limit = allow_files(FILES * MOST_REQUESTS + SPARE_FILES)
        files = limit - min(SPARE_FILES, limit // 4)
        max_requests = min(MOST_REQUESTS, files // FILES)
        if max_requests < MOST_REQUESTS:
            why = f"the limit on open files is {limit}; raise it with `ulimit -n` or LimitNOFILE"
        else:
            why = f"one process holds at most {MOST_REQUESTS} requests"
        return cls(files - max_requests, max_requests, why)


class Served(Protocol):
    """The application in the worker."""

    @property
    def gateway(self) -> Flask:
        """The WSGI application."""

    def begin(self) -> None:
        """Start."""

    def reload(self) -> None:
        """Request a reload of the documents. Called by a signal handler: it must return immediately, and be reentrant."""

    def close(self) -> None:
        """Shut down: reject queued requests, and let requests in flight finish."""


class Logger(GunicornLogger):  # type: ignore[misc]
    """Passes the messages of gunicorn to hotseat's own log, so that all lines have one shape."""

    def setup(self, cfg: Any) -> None:
        """Set the level, and no handlers."""
        self.cfg = cfg
        self.loglevel = self.LOG_LEVELS[cfg.loglevel]
        self.error_log.setLevel(self.loglevel)
        self.error_log.propagate = True


class Server(BaseApplication):  # type: ignore[misc]
    """Serves the application that `create` returns. `create` and `up` run in the worker process.

    `up` is called when the worker accepts requests. `bind` has one or more HOST:PORT. `threads` run the routes in Flask.
    `graceful` returns the seconds that a graceful shutdown may take. `tls`: None for HTTP without TLS.
    """

    def __init__(
        self,
        create: Callable[[], Served],
        up: Callable[[], None],
        *,
        bind: Iterable[str],
        threads: Threads,
        limits: HttpLimits,
        graceful: Callable[[], float],
        tls: ServerTls | None = None,
    ) -> None:
        self._create = create
        self._up = up
        self.threads = threads
        self.limits = limits
        self.graceful = graceful
        self.tls = tls
        self._served: Served | None = None
        self._jobs = queue.SimpleQueue[Callable[[], None] | None]()
        self._runner: threading.Thread | None = None  # runs `_jobs`; started early, as no thread may be left later
        self._ending = self._reload_requested = False
        self._options: Mapping[str, Any] = {
            "bind": list(bind),
            "workers": 1,
            "worker_class": "hotseat.gateway.worker.Worker",
            "backlog": 2048,
            # Never kill a silent worker: it was suspended, and owns the engines.
            "timeout": 0,
            "loglevel": "warning",
            "logger_class": Logger,
            "control_socket_disable": True,
            "proc_name": "hotseat",
            "post_worker_init": self._boot,
            "worker_exit": self._exit,
        }
        super().__init__()

    def load_config(self) -> None:
        """Set the options of gunicorn."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Create the application, in the worker."""
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        try:
            self._runner = threading.Thread(target=self._run_jobs, name="shutdown", daemon=True)
            self._runner.start()
            self.threads.spare(MIN_THREADS)
            self._served = self._create()
            if self._reload_requested:
                self._served.reload()
            self._served.begin()
        except (
            OSError,
            RuntimeError,
        ) as error:  # gunicorn prints AppImportError without a traceback
            raise AppImportError(str(error)) from error
        return self._served.gateway

    def run(self) -> None:
        """Serve until a signal stops the process."""
        _Arbiter(self).run()

    def _boot(self, worker: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._end(worker))
        signal.signal(signal.SIGQUIT, _exit_now)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both processes; the arbiter handles it
        self._up()

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("the shutdown failed")

    def reload(self, *_: Any) -> None:
        """Reload the documents, as the worker's handler of SIGHUP. Before `load`, the request is kept until then."""
        if self._served is None:
            self._reload_requested = True
        else:
            self._served.reload()

    def _end(self, worker: Any) -> None:
        """Start the shutdown, once. The worker answers with 503 until no request is in flight."""
        served = self._served
        if not self._ending and served is not None:
            self._ending = True
            self._jobs.put(lambda: self._close(served, worker))
            _exit_in(self.graceful())  # in case the arbiter was killed

    def _close(self, served: Served, worker: Any) -> None:
        try:
            served.close()
        finally:
            with contextlib.suppress(OSError):  # its loop may have ended
                worker.handle_exit(signal.SIGTERM, None)
            _exit_in(LAST_ANSWERS)

    def _exit(self, _server: Any, worker: Any) -> None:
        self._end(worker)
        if self._runner is not None:
            self._jobs.put(None)
            self._runner.join()
        self.threads.shutdown()  # they would block the exit if the main loop never started


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Handles signals. SIGHUP is for the worker, unless the terminal has closed."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._stopping = False
        # Under nohup, or without a terminal (systemd, setsid), SIGHUP always means a reload.
        self._has_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and not terminal_is_gone()

    def signal(self, sig: int, frame: Any) -> None:
        """Queue a signal. The second SIGTERM is treated as SIGINT, at which gunicorn stops immediately."""
        super().signal(signal.SIGINT if self._stopping and sig == signal.SIGTERM else sig, frame)

    def stop(self, graceful: bool = True) -> None:
        """Stop the worker, by the monotonic clock, which gunicorn does not use."""
        self._stopping = True
        for listener in self.LISTENERS:
            listener.close()
        self.LISTENERS: list[Any] = []
        end = time.monotonic() + math.ceil(self.app.graceful())
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        while self.WORKERS and time.monotonic() < end:
            if graceful and self._signalled_again():
                graceful = False
                self.kill_workers(signal.SIGQUIT)
                end = time.monotonic() + FORCED_EXIT
            self.reap_workers()
            time.sleep(POLL)
        self.kill_workers(signal.SIGKILL)
        self.reap_workers()

    def _signalled_again(self) -> bool:
        signalled = False
        with contextlib.suppress(queue.Empty):
            while True:
                signalled = self.SIG_QUEUE.get_nowait() in {signal.SIGINT, signal.SIGQUIT} or signalled
        return signalled

    def handle_int(self) -> None:
        raise StopIteration

    def handle_hup(self) -> None:
        if self._has_terminal and terminal_is_gone():
            raise StopIteration
        self.kill_workers(signal.SIGHUP)

    def handle_usr2(self) -> None:
        self.log.warning("ignoring SIGUSR2: engines cannot move to another process")

    def handle_ttin(self) -> None:
        self.log.warning("ignoring SIGTTIN: one worker owns all engines")

    handle_ttou = handle_ttin


def terminal_is_gone() -> bool:
    """Whether this process has no controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno in {errno.ENXIO, errno.EIO, errno.ENOENT}
    return False


def _exit_now(_number: int, _frame: Any) -> None:
    os._exit(130)  # the supervisors then kill the process trees of all engines


def _exit_in(seconds: float) -> None:
    """Exit this process after this time, because a client may never finish its request or read its answer."""
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
