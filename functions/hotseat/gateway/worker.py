"""A gunicorn worker that serves on an event loop: uvloop's, or asyncio's own where uvloop is missing."""

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import Any

from gunicorn.workers.base import Worker as BaseWorker

from hotseat.control.owner import LoopOwner
from hotseat.gateway.http.interfaces import HttpLimits
from hotseat.gateway.http.server import HttpServer
from hotseat.gateway.limits import MAX_BODY
from hotseat.gateway.service import PlainService
from hotseat.gateway.threads import Threads
from hotseat.gateway.wsgi_threads import WsgiThreads

log = logging.getLogger(__name__)

GC_THRESHOLDS = 10_000, 20, 20  # fewer collections than by default; requests make few cycles
# Seconds after which a thread that computes, such as one that reads changed documents, lets the loop run. The loop asks anew
# after each system call, so that with Python's 5 ms a single request would wait for several times as long.
SWITCH_INTERVAL = 0.0005
PARENT_CHECK = 1.0  # seconds between checks whether the arbiter is alive


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Worker(BaseWorker):  # type: ignore[misc]
    """Serves the application until `handle_exit`, then until the last request has ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._orphaned = False

    def init_signals(self) -> None:
        """Set the handlers of gunicorn. SIGHUP requests a reload, and is blocked until its handler is set."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            super().init_signals()
            signal.signal(signal.SIGHUP, getattr(self.app, "reload", signal.SIG_IGN))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def run(self) -> None:
        """Serve."""
        gc.collect()
        gc.freeze()  # what is there now stays: it need not be looked at again
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._loop = loop = new_loop()
        loop.set_exception_handler(_log_exception)
        try:
            loop.run_until_complete(self._serve(loop))
        finally:
            loop.close()

    def handle_exit(self, _sig: Any = None, _frame: Any = None) -> None:
        """Accept no more connections, and exit after the last request. Called from any thread."""
        self.alive = False
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        threads = getattr(self.app, "threads", None) or Threads()
        owner = getattr(self.wsgi, "owner", None) or LoopOwner()
        flask = WsgiThreads(self.wsgi, threads, owner)
        make_service = getattr(self.wsgi, "service", None)
        service = PlainService(flask, _max_body(self.wsgi)) if make_service is None else make_service(flask)
        limits = getattr(self.app, "limits", None) or HttpLimits()
        tls = getattr(self.app, "tls", None)
        if tls is not None:
            tls.watch()
        server = HttpServer(loop, [each.sock for each in self.sockets], service, limits, tls)
        owner.begin(loop)
        try:
            server.start()
            service.begin()
            loop.call_later(PARENT_CHECK, self._check_parent)
            if self.alive:
                await self._stop.wait()
            await server.close()
        finally:
            service.end()
            owner.end()
            await _cancel_tasks()

    def _check_parent(self) -> None:
        """If the arbiter has died, start a graceful shutdown, because the engines still need this process."""
        if self._loop is None or self._loop.is_closed():
            return
        if not self._orphaned and self.ppid != os.getppid():
            self._orphaned = True
            signal.raise_signal(signal.SIGTERM)
        self._loop.call_later(PARENT_CHECK, self._check_parent)


def _max_body(app: Any) -> int:
    return int(getattr(app, "config", {}).get("MAX_CONTENT_LENGTH") or MAX_BODY)


async def _cancel_tasks() -> None:
    """Cancel what would still be under way when the loop is closed, such as a connection that is being opened for a check."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that nobody has handled. The loop goes on."""
    error = context.get("exception")
    log.error("internal error (a bug in hotseat): %s", context.get("message"), exc_info=error)
