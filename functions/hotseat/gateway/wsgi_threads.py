"""WSGI applications behind the event loop: each request runs in a thread, and its response is written on the loop."""

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from hotseat.control.owner import LoopOwner
from hotseat.gateway.errors import internal_error
from hotseat.gateway.http.request import Request
from hotseat.gateway.http.response import Response, encode_fields
from hotseat.gateway.limits import no_more, shortage
from hotseat.gateway.threads import Threads

log = logging.getLogger(__name__)

KEY = "hotseat.key"  # environ key of the request's API key
DEPARTED = "hotseat.departed"  # environ key of a function that returns whether the client has left

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class WsgiThreads:
    """Serves a WSGI application. `owner` names the thread of the loop."""

    def __init__(self, app: WsgiApp, threads: Threads, owner: LoopOwner) -> None:
        self.app, self.threads, self.owner = app, threads, owner

    def handler(self, request: Request, max_body: int) -> "WsgiRequest":
        """Return the handler of a request."""
        return WsgiRequest(self, request, max_body)


class WsgiRequest:
    """One request. Writes of the thread wait while the client reads too slowly."""

    def __init__(self, server: WsgiThreads, request: Request, max_body: int) -> None:
        self.max_body = max_body
        self._server = server
        self._request = request
        self._response: Response | None = None
        self._gone = False
        self._writable = threading.Event()
        self._writable.set()
        self._head: tuple[str, list[tuple[str, str]]] | None = None

    # On the loop ------------------------------------------------------------------------------------------------------

    def serve(self, response: Response) -> None:
        """Run the application in a thread."""
        self._response = response
        response.writer = self
        if not self._server.threads.submit(self._run):
            response.fail(no_more("threads"))

    def received(self, size: int) -> None:
        """Do nothing: `max_body` is small."""

    def abandon(self, status: int) -> None:
        """Do nothing: the application has not been called."""

    def client_gone(self) -> None:
        """Let the thread end."""
        self._gone = True
        self._writable.set()

    def pause(self) -> None:
        """Let the thread wait."""
        self._writable.clear()

    def resume(self) -> None:
        """Let the thread go on."""
        self._writable.set()

    # In a thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        response = self._response
        assert response is not None  # noqa: S101
        try:
            self._answer(response)
        except _ClientGoneError:
            pass
        except Exception as error:
            if (short := shortage(error)) is None:
                log.exception("internal error (a bug in hotseat): %s %s", self._request.method, self._request.path)
            failure = short or internal_error()
            self._server.owner.call(lambda: response.fail_or_abort(failure))

    def _answer(self, response: Response) -> None:
        pieces = self._server.app(self._environ(), self._start_response)
        try:
            written: list[bytes] = []
            size = 0
            length: int | None = None
            for piece in pieces:
                if not piece:
                    continue
                length = self._length()
                if length is None:
                    self._send(response, piece)
                    continue
                written.append(piece)
                size += len(piece)
            self._end(response, b"".join(written), counted=length is not None and size == length)
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    def _length(self) -> int | None:
        if self._head is None:
            raise RuntimeError("the application has sent a body without a head")
        return next((int(value) for name, value in self._head[1] if name.lower() == "content-length"), None)

    def _send(self, response: Response, piece: bytes) -> None:
        """Send a piece of a body without a length. Wait until the client has room for the next."""
        head = self._head
        assert head is not None  # noqa: S101

        def write() -> None:
            if response.begun:
                response.write(piece)
            else:
                response.begin(head[0], encode_fields(head[1]), piece, counted=False)

        self._server.owner.call(write)
        self._writable.wait()
        if self._gone:
            raise _ClientGoneError

    def _end(self, response: Response, data: bytes, *, counted: bool) -> None:
        if self._head is None:
            raise RuntimeError("the application has sent no head")
        status, fields = self._head

        def end() -> None:
            if response.begun:
                response.end(data)
                return
            kept = fields
            if not counted and self._request.method != "HEAD" and status[:3] not in ("204", "304"):
                kept = [field for field in fields if field[0].lower() != "content-length"]
                kept.append(("Content-Length", str(len(data))))
            response.begin(status, encode_fields(kept), data, counted=True, last=True)

        self._server.owner.call(end)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        del exc_info
        self._head = (status, headers)
        return self._no_write

    def _no_write(self, _data: bytes) -> None:
        raise RuntimeError("WSGI's write is not supported")

    def _environ(self) -> dict[str, Any]:
        request = self._request
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "SERVER_NAME": request.headers.get("host", "localhost").rpartition(":")[0] or "localhost",
            "SERVER_PORT": str(request.listener.port),
            "SERVER_PROTOCOL": f"HTTP/1.{request.minor}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(request.body),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            DEPARTED: lambda: self._gone,
            KEY: request.key,
        }
        for name, value in request.headers.items():
            if name == "content-type":
                environ["CONTENT_TYPE"] = value
            elif name not in _NOT_IN_ENVIRON and "_" not in name:  # it would be taken for a dash
                environ["HTTP_" + name.upper().replace("-", "_")] = value
        environ["CONTENT_LENGTH"] = str(len(request.body))
        return environ


_NOT_IN_ENVIRON = frozenset({"content-length", "transfer-encoding"})


class _ClientGoneError(Exception):
    """The client has left."""
