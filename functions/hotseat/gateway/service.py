"""What the gateway serves on the event loop: who may send a request, and what handles it."""

from hotseat.core.errors import HotseatError, NotFound, Unauthorized, shortened
from hotseat.gateway import upstream
from hotseat.gateway.accepted_head import AcceptedHead
from hotseat.gateway.apis import find_route
from hotseat.gateway.auth import ANYBODY, Caller, Keys, without_key
from hotseat.gateway.browsers import BrowserRules
from hotseat.gateway.errors import api_kind
from hotseat.gateway.form_request import FormRequest
from hotseat.gateway.http.interfaces import Handler
from hotseat.gateway.http.request import Request
from hotseat.gateway.http.response import Response
from hotseat.gateway.inference import Inference
from hotseat.gateway.spool import Spool
from hotseat.gateway.upstream_checks import UpstreamChecks
from hotseat.gateway.wsgi_threads import WsgiThreads

OPEN_PATHS = frozenset({"/health", "/ready", "/ui"})  # without a key
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
        self._checks = UpstreamChecks(inference.registry.upstreams, inference.connections)

    def begin(self) -> None:
        """Begin what goes on beside requests, on the loop."""
        self._checks.begin()

    def end(self) -> None:
        """Begin nothing more: the loop is about to end."""
        self._checks.end()

    def accept(self, request: Request) -> Handler:  # noqa: C901 — one way, with the known heads first
        """Return the handler of a request. Raise the HotseatError for the client if it is not accepted."""
        if isinstance(known := request.accepted, AcceptedHead):
            caller = known.caller
            if caller.table is self._keys.table:
                if caller.limits is None and not known.boundary:
                    return self._inference.handler(request, known)
                return self._handler(request, known)
            request.listener.forget()  # the keys have changed
            request.accepted = None
        if "origin" in request.headers:
            request.extra = self._browsers.headers(request.headers, request.method)
            if request.extra and request.method == "OPTIONS":
                return _Preflight()
        own_origin = request.listener.port == self._upstream_port
        if own_origin and not request.path.startswith(upstream.PREFIX):
            raise NotFound(f"Port {self._upstream_port} serves paths below {upstream.PREFIX} only.")
        if request.path in OPEN_PATHS or request.path.startswith(PAGE):
            request.key = ANYBODY
            return self._flask.handler(request, FLASK_BODY)
        caller = self._authenticate(request, own_origin=own_origin)
        if "sec-websocket-protocol" in request.headers:
            request.fields = without_key(request.fields)
        route = find_route(request.method, request.path)
        if route is None:
            return self._other_route(request, caller, own_origin=own_origin)
        head = AcceptedHead(request, route, caller)
        if "origin" not in request.headers:  # rules for browsers do not change
            request.accepted = head
        return self._handler(request, head)

    def _other_route(self, request: Request, caller: Caller, *, own_origin: bool) -> Handler:
        """Return the handler of a request for another route than those for inference."""
        if not request.path.startswith(upstream.PREFIX):
            request.key = caller.key
            return self._flask.handler(request, FLASK_BODY)
        if not own_origin:
            check_admin_port(request.path, request.listener.port, self._admin_port)
        registry = self._inference.registry
        return self._handler(request, upstream.UpstreamHead(request, caller, registry, sandboxed=not own_origin))

    def _handler(self, request: Request, head: AcceptedHead) -> Handler:
        limits = head.caller.limits
        if limits is None:
            return self._unlimited(request, head)
        try:
            limits.take()
        finally:  # also of a refusal
            request.extra += limits.headers
        try:
            return self._unlimited(request, head)
        except HotseatError:
            limits.give_back()
            raise

    def _unlimited(self, request: Request, head: AcceptedHead) -> Handler:
        if isinstance(head, upstream.UpstreamHead):
            return upstream.UpstreamRequest(self._inference, request, head)
        if head.boundary and self._spool is not None:
            return FormRequest(self._inference, request, head, self._spool)
        return self._inference.handler(request, head)

    def refused(self, request: Request | None, error: HotseatError) -> None:
        """Count a request that was refused by its head, if it was for inference."""
        route = None if request is None else find_route(request.method, request.path)
        if route is not None:
            self._inference.refused(route, api_kind(error).status)

    def _authenticate(self, request: Request, *, own_origin: bool) -> Caller:
        """Authenticate the request, and return who sends it. `own_origin`: it is for pages that nothing else shares an origin with.

        There, browsers ask people for the key, and send it with requests of any page.
        """
        try:
            caller = self._keys.check(request.headers, request.query)
        except Unauthorized as error:
            error.asks_browser = own_origin
            raise
        if not self._keys or own_origin:
            # A page of any origin may open a WebSocket, and read it.
            method = "POST" if request.upgrade else request.method
            self._browsers.check(request.headers, method, request.listener.address)
        return caller


def check_admin_port(path: str, port: int, admin_port: int | None) -> None:
    """Refuse an admin route on another port than the one for them, if there is one."""
    if admin_port is not None and port != admin_port:
        raise NotFound(f"{shortened(path)} is an admin route, and is served on the admin port only.")


class PlainService:
    """Serves a WSGI application and nothing else. It authenticates requests itself."""

    def __init__(self, flask: WsgiThreads, max_body: int) -> None:
        self._flask, self._max_body = flask, max_body

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

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
