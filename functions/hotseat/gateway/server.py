"""gunicorn inside `hotseat up`: one worker with many threads, and signals that mean what a person expects.

The worker owns the engines. The arbiter keeps Ctrl-C (drain; a second one: at once) and SIGHUP (reload the documents, not
the worker) from meeting them: it passes on what concerns the worker.
"""

import contextlib
import math
import os
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

SPARE_THREADS = 1000  # beside those that hold waiting requests: for what is in flight, and followers. Made when needed
SPARE_FILES = 256
FAREWELL = 2.0  # seconds for the last answers once no engine is left


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

    `graceful` is asked when the end comes, by arbiter and worker, how many seconds it may take if it is orderly.
    """

    def __init__(
        self,
        create: Callable[[], Served],
        up: Callable[[], None],
        *,
        bind: str,
        threads: int,
        graceful: Callable[[], float],
    ) -> None:
        self._create = create
        self._up = up
        self.graceful = graceful
        self._served: Served | None = None
        self._ending: threading.Thread | None = None
        self._options: Mapping[str, Any] = {
            "bind": [bind],
            "workers": 1,
            "worker_class": "hotseat.gateway.worker.Worker",
            "threads": threads,
            # More than threads: connections that are kept alive must not be turned away while all threads are busy.
            "worker_connections": 2 * threads + 1000,
            "backlog": 2048,
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
        _allow_files(self._options["worker_connections"] * 2 + SPARE_FILES)
        try:
            self._served = self._create()
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
        signal.signal(signal.SIGHUP, lambda *_: self._reload())
        self._up()

    def _reload(self) -> None:
        if self._served is not None:
            self._served.reload()

    def _end(self, worker: Any) -> None:
        """Begin to end, once. Until nothing is in flight the worker still answers, if only that it shuts down."""
        if self._ending is None and self._served is not None:
            self._ending = threading.Thread(target=self._close, args=(self._served, worker), name="close")
            self._ending.start()
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
        if self._ending is not None:
            self._ending.join()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Ctrl-C or SIGTERM drains, a second one stops at once; SIGHUP is the worker's."""

    _stopping = False

    def signal(self, sig: int, frame: Any) -> None:
        """Queue a signal. gunicorn knows the second SIGINT for what it is; the second SIGTERM means the same."""
        super().signal(signal.SIGINT if self._stopping and sig == signal.SIGTERM else sig, frame)

    def stop(self, graceful: bool = True) -> None:
        """Stop the worker."""
        self._stopping = True
        self.cfg.set("graceful_timeout", math.ceil(self.app.graceful()))
        super().stop(graceful)

    def handle_int(self) -> None:
        raise StopIteration

    def handle_hup(self) -> None:
        self.kill_workers(signal.SIGHUP)

    def handle_usr2(self) -> None:
        self.log.warning("SIGUSR2 is ignored: engines cannot be handed to another process")

    def handle_ttin(self) -> None:
        self.log.warning("SIGTTIN is ignored: one worker owns the engines")

    handle_ttou = handle_ttin


def _at_once(_number: int, _frame: Any) -> None:
    os._exit(130)  # the keepers see it, and kill every engine's whole tree


def _leave_in(seconds: float) -> None:
    """End this process then, if it still runs: some client may never finish its request, or never take its answer."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _allow_files(wanted: int) -> None:
    """Raise the soft limit on descriptors: a held request needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
