"""gunicorn inside `hotseat up`: one worker with many threads, and signals that mean what a person expects.

The worker owns the engines. The arbiter keeps Ctrl-C (drain; a second one: at once) and SIGHUP (reload the documents, not
the worker) from meeting them: it passes on what concerns the worker.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from hotseat.gateway.process_limits import allow_files, tasks_limit
from hotseat.gateway.threads import KEPT, Threads

MOST_THREADS = 8000
OUR_TASKS = 2 / 3  # of the limit on processes and threads; engines have the rest
RESERVED_THREADS = 64  # for probes, and for saying no
SPARE_FILES = 256  # descriptors for everything but clients' requests: engines, logs, downloads
FAREWELL = 2.0  # seconds for the last answers once no engine is left
HURRY = 2.0  # seconds for a worker that was told to end at once
LOOK = 0.1  # seconds between looks at whether it has

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one process serves at once: `connections`, by so many `threads`, and the `places` for requests that may take long.

    `why` says what bounds the places.
    """

    connections: int
    threads: int
    places: int
    why: str

    @classmethod
    def of_this_process(cls) -> "Bounds":
        """Raise the limit on descriptors, and see what can be had: a request takes three of them, or four for a moment."""
        tasks = tasks_limit()
        threads = int(min(MOST_THREADS, tasks * OUR_TASKS))
        places = threads - min(RESERVED_THREADS, threads // 4)
        limit = allow_files(4 * places + SPARE_FILES)
        files = limit - min(SPARE_FILES, limit // 4)
        if files // 4 < places:
            places = files // 4
            why = f"the limit on open files is {limit}; raise it with `ulimit -n` or LimitNOFILE"
        elif threads < MOST_THREADS:
            why = f"the limit on processes and threads is {tasks:.0f}; raise it with --pids-limit, TasksMax or `ulimit -u`"
        else:
            why = f"one process runs at most {MOST_THREADS} threads"
        return cls(files // 2, threads, places, why)


class Served(Protocol):
    """What lives in the worker."""

    @property
    def gateway(self) -> Flask:
        """WSGI application."""

    def begin(self) -> None:
        """Start."""

    def reload(self) -> None:
        """Have the documents read again, soon. Called by a signal handler: it must return at once, and may interrupt itself."""

    def close(self) -> None:
        """End; what waits is sent away, what is in flight may finish."""


class Server(BaseApplication):  # type: ignore[misc]
    """Serves what `create` makes in the worker process, at host:port; `up` is called there when it takes requests.

    It takes at most `connections`, and has the `threads` for their requests. `graceful` is asked when the end comes, by arbiter
    and worker, how many seconds it may take if it is orderly.
    """

    def __init__(
        self,
        create: Callable[[], Served],
        up: Callable[[], None],
        *,
        bind: str,
        threads: Threads,
        connections: int,
        graceful: Callable[[], float],
    ) -> None:
        self._create = create
        self._up = up
        self.threads = threads
        self.graceful = graceful
        self._served: Served | None = None
        self._engine_requests = queue.SimpleQueue[Callable[[], None] | None]()
        self._runner: threading.Thread | None = (
            None  # of the engine_requests; there before it is needed: none may be had then
        )
        self._ending = self._asked_to_reload = False
        self._options: Mapping[str, Any] = {
            "bind": [bind],
            "workers": 1,
            "worker_class": "hotseat.gateway.worker.Worker",
            "threads": MOST_THREADS,  # those of `threads` count
            "worker_connections": connections,
            "backlog": 2048,
            # A worker that is not heard of for a while was stopped, or its machine was: it goes on, with its engines.
            "timeout": 0,
            "keepalive": 75,
            "loglevel": "warning",
            "control_socket_disable": True,
            "proc_name": "hotseat",
            "post_worker_init": self._boot,
            "worker_exit": self._exit,
        }
        super().__init__()

    def load_config(self) -> None:
        """Hand our settings to gunicorn."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the application, in the worker."""
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        try:
            self._runner = threading.Thread(target=self._run_engine_requests, name="engine_requests", daemon=True)
            self._runner.start()
            self.threads.spare(KEPT)
            self._served = self._create()
            if self._asked_to_reload:
                self._served.reload()
            self._served.begin()
        except (
            OSError,
            RuntimeError,
        ) as error:  # the machine's fault, or the user's: gunicorn prints this without a traceback
            raise AppImportError(str(error)) from error
        return self._served.gateway

    def run(self) -> None:
        """Serve until told to stop."""
        _Arbiter(self).run()

    def _boot(self, worker: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._end(worker))
        signal.signal(signal.SIGQUIT, _at_once)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the arbiter decides
        self._up()

    def _run_engine_requests(self) -> None:
        while (engine_request := self._engine_requests.get()) is not None:
            try:
                engine_request()
            except Exception:
                log.exception("end")

    def reload(self, *_: Any) -> None:
        """Have the documents read again; the worker's handler of SIGHUP. Before there is an application, it is asked once there is."""
        if self._served is None:
            self._asked_to_reload = True
        else:
            self._served.reload()

    def _end(self, worker: Any) -> None:
        """Begin to end, once. Until nothing is in flight the worker still answers, if only that it shuts down."""
        served = self._served
        if not self._ending and served is not None:
            self._ending = True
            self._engine_requests.put(lambda: self._close(served, worker))
            _leave_in(self.graceful())  # what the arbiter sees to, unless it was killed itself

    def _close(self, served: Served, worker: Any) -> None:
        try:
            served.close()
        finally:
            with contextlib.suppress(OSError):  # its loop may have ended before
                worker.handle_exit(signal.SIGTERM, None)
            _leave_in(FAREWELL)

    def _exit(self, _server: Any, worker: Any) -> None:
        self._end(worker)
        if self._runner is not None:
            self._engine_requests.put(None)
            self._runner.join()
        self.threads.shutdown()  # they would hold up the end of a process whose main loop never began


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Ctrl-C or SIGTERM drains, a second one stops at once; SIGHUP is the worker's, or says that the terminal has gone."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._stopping = False
        # Under nohup, or without a terminal (systemd, setsid), nothing but a reload can be meant.
        self._has_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and not terminal_is_gone()

    def signal(self, sig: int, frame: Any) -> None:
        """Queue a signal. gunicorn knows the second SIGINT for what it is; the second SIGTERM means the same."""
        super().signal(signal.SIGINT if self._stopping and sig == signal.SIGTERM else sig, frame)

    def stop(self, graceful: bool = True) -> None:
        """Stop the worker. Other than gunicorn's this goes by a clock that nobody sets."""
        self._stopping = True
        for listener in self.LISTENERS:
            listener.close()
        self.LISTENERS: list[Any] = []
        end = time.monotonic() + math.ceil(self.app.graceful())
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        while self.WORKERS and time.monotonic() < end:
            if graceful and self._told_again():
                graceful = False
                self.kill_workers(signal.SIGQUIT)
                end = time.monotonic() + HURRY
            self.reap_workers()
            time.sleep(LOOK)
        self.kill_workers(signal.SIGKILL)
        self.reap_workers()

    def _told_again(self) -> bool:
        told = False
        with contextlib.suppress(queue.Empty):
            while True:
                told = self.SIG_QUEUE.get_nowait() in {signal.SIGINT, signal.SIGQUIT} or told
        return told

    def handle_int(self) -> None:
        raise StopIteration

    def handle_hup(self) -> None:
        if self._has_terminal and terminal_is_gone():
            raise StopIteration
        self.kill_workers(signal.SIGHUP)

    def handle_usr2(self) -> None:
        self.log.warning("ignoring SIGUSR2: engines cannot be handed over to another process")

    def handle_ttin(self) -> None:
        self.log.warning("ignoring SIGTTIN: one worker owns all engines")

    handle_ttou = handle_ttin


def terminal_is_gone() -> bool:
    """Whether this process has no controlling terminal, or none any longer."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno in {errno.ENXIO, errno.EIO, errno.ENOENT}
    return False


def _at_once(_number: int, _frame: Any) -> None:
    os._exit(130)  # the supervisors see it, and kill every engine's whole tree


def _leave_in(seconds: float) -> None:
    """End this process then, if it still runs: some client may never finish its request, or never take its answer."""
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
