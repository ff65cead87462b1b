"""What the gateway serves on the event loop: who may send a request, and what handles it."""

from hotseat.core.errors import HotseatError, NotFound, Unauthorized, shortened
from hotseat.gateway import upstream
from hotseat.gateway.accepted_head import AcceptedHead
from hotseat.gateway.apis import find_route
from hotseat.gateway.auth import Keys, without_key
from hotseat.gateway.browsers import BrowserRules
from hotseat.gateway.errors import api_kind
from hotseat.gateway.form_request import FormRequest
from hotseat.gateway.http.interfaces import Handler
from hotseat.gateway.http.request import Request
from hotseat.gateway.http.response import Response
from hotseat.gateway.inference import Inference
from hotseat.gateway.spool import Spool
from hotseat.gateway.wsgi_threads import WsgiThreads

OPEN_PATHS = frozenset({"/health", "/ui"})  # without a key
PAGE = "/ui/"  # the web page, which holds no data
FLASK_BODY = 65536  # bytes of a body; the routes in Flask use little


class GatewayService:
    """Authenticates each request by its head. Inference is handled on the loop, everything else by `flask`.

    `spool`: where large forms are kept. None: in memory.
    """

    def __init__(
        self,
        flask: WsgiThreads,
        keys: Keys,
        inference: Inference,
        browsers: BrowserRules,
        *,
        admin_port: int | None = None,
        upstream_port: int | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._flask, self._keys, self._inference, self._browsers = flask, keys, inference, browsers
        self._admin_port, self._upstream_port, self._spool = admin_port, upstream_port, spool

    def accept(self, request: Request) -> Handler:
        """Return the handler of a request. Raise the HotseatError for the client if it is not accepted."""
        if isinstance(known := request.accepted, AcceptedHead):
            return self._form(request, known) if known.boundary else self._inference.handler(request, known)
        if "origin" in request.headers:
            request.extra = self._browsers.headers(request.headers, request.method)
            if request.extra and request.method == "OPTIONS":
                return _Preflight()
        own_origin = request.listener.port == self._upstream_port
        if own_origin and not request.path.startswith(upstream.PREFIX):
            raise NotFound(f"Port {self._upstream_port} serves paths below {upstream.PREFIX} only.")
        key = "" if request.path in OPEN_PATHS or request.path.startswith(PAGE) else self._authenticate(request, own_origin=own_origin)
        if "sec-websocket-protocol" in request.headers:
            request.fields = without_key(request.fields)
        route = find_route(request.method, request.path)
        if route is None and request.path.startswith(upstream.PREFIX):
            if not own_origin:
                check_admin_port(request.path, request.listener.port, self._admin_port)
            return upstream.handler(self._inference, request, key, sandboxed=not own_origin)
        if route is None:
            return self._flask.handler(request, FLASK_BODY)
        head = AcceptedHead(request, route, key)
        if "origin" not in request.headers:  # keys and rules for browsers do not change
            request.accepted = head
        return self._form(request, head) if head.boundary else self._inference.handler(request, head)

    def _form(self, request: Request, head: AcceptedHead) -> Handler:
        spool = self._spool
        return (
            self._inference.handler(request, head)
            if spool is None
            else FormRequest(self._inference, request, head, spool)
        )

    def refused(self, request: Request | None, error: HotseatError) -> None:
        """Count a request that was refused by its head, if it was for inference."""
        route = None if request is None else find_route(request.method, request.path)
        if route is not None:
            self._inference.refused(route, api_kind(error).status)

    def _authenticate(self, request: Request, *, own_origin: bool) -> str:
        """Authenticate the request, and return the name of its key. `own_origin`: it is for pages that nothing else shares an origin with.

        There, browsers ask people for the key, and send it with requests of any page.
        """
        try:
            key = self._keys.check(request.headers)
        except Unauthorized as error:
            error.asks_browser = own_origin
            raise
        if not self._keys or own_origin:
            # A page of any origin may open a WebSocket, and read it.
            method = "POST" if request.upgrade else request.method
            self._browsers.check(request.headers, method, request.listener.address)
        return key


def check_admin_port(path: str, port: int, admin_port: int | None) -> None:
    """Refuse an admin route on another port than the one for them, if there is one."""
    if admin_port is not None and port != admin_port:
        raise NotFound(f"{shortened(path)} is an admin route, and is served on the admin port only.")


class PlainService:
    """Serves a WSGI application and nothing else. It authenticates requests itself."""

    def __init__(self, flask: WsgiThreads, max_body: int) -> None:
        self._flask, self._max_body = flask, max_body

    def accept(self, request: Request) -> Handler:
        """Return the handler of a request."""
        return self._flask.handler(request, self._max_body)

    def refused(self, request: Request | None, error: HotseatError) -> None:
        """Do nothing."""


class _Preflight:
    """Answers the request of a browser that asks whether a page may send another one."""

    max_body = 0

    def received(self, size: int) -> None:
        pass

    def serve(self, response: Response) -> None:
        response.begin("204 No Content", b"", counted=False, last=True)

    def abandon(self, status: int) -> None:
        pass
