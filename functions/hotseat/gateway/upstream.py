"""`/upstream/{model}/…`: any path of an engine, with its own pages and WebSockets, for operators.

A page of an engine comes from the same origin as hotseat's own. So that its scripts can read nothing that hotseat keeps in the browser,
all answers are sandboxed: they have an origin of their own. On a port that serves nothing else they have one anyway. Cookies are dropped,
because browsers share them between ports.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import Forbidden, NotFound, NotImplementedByServer, shortened
from hotseat.gateway import relay
from hotseat.gateway.accepted_head import REQUEST_ID, AcceptedHead, Route, check_named_model
from hotseat.gateway.auth import OPERATE, Caller
from hotseat.gateway.engine_exchange import reach
from hotseat.gateway.fallback_routing import RoutedRequest, header_value
from hotseat.gateway.http.request import Request
from hotseat.gateway.http.response import Response
from hotseat.gateway.inference import Inference, InferenceRequest
from hotseat.gateway.wait_headers import NO_LIMITS

PREFIX = "/upstream/"
# An engine's pages and paths show what it does for others, and change it.
ROUTE = Route(PREFIX, "upstream", None, operation=OPERATE)
SANDBOX = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
_HEADERS = f"Content-Security-Policy: {SANDBOX}\r\n".encode()
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_MOST_SEGMENTS = 32  # of a path, in which a name of a Model is looked for
_MOST_DECODED = 8  # times that a path may be percent-encoded
# Of an answer: what would change more of the browser's state than the page itself.
_DROPPED = (
    b"set-cookie:", b"set-cookie2:", b"clear-site-data:", b"service-worker-allowed:", b"strict-transport-security:", b"alt-svc:",
)  # fmt: skip
# Segments of paths by which hotseat itself controls engines: slots and their files, settings, sleep.
_CONTROLS = frozenset({"slots", "props", "sleep", "wake_up"})
_SEPARATORS = re.compile(r"[/\\;]")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


class UpstreamHead(AcceptedHead):
    """What the head of a request says: the Model, and the path of its engine."""

    __slots__ = ("at_once", "name", "path", "prefix", "sandboxed")

    def __init__(self, request: Request, caller: Caller, registry: ModelRegistry, *, sandboxed: bool) -> None:
        """Raise the HotseatError for the client if the request is not accepted."""
        caller.key.check((ROUTE.operation,), PREFIX)
        if request.method not in _METHODS:
            raise NotImplementedByServer(f"The method {shortened(request.method)} is not supported below {PREFIX}.")
        self.route, self.caller, self.sandboxed, self.id_header = ROUTE, caller, sandboxed, REQUEST_ID
        self.checks_body = False
        self._tenants, self._options = None, NO_LIMITS
        self.name, prefix, path = find_model(request.raw_path, registry)
        check_named_model(caller.key, self.name, registry)
        handle = registry.find(self.name).handle
        self.prefix, self.path = (quote_from_bytes(each, safe=_PRINTABLE).encode() for each in (prefix, path))
        self.target = self.path + (f"?{request.query}".encode() if request.query else b"")
        if controls_engine(request.method, path, request.query):
            raise Forbidden(
                f"The path {shortened(path.decode('latin-1'))} controls the engine, which hotseat does itself: slots are saved and "
                "restored, settings changed, and engines put to sleep by hotseat alone.",
                code="path_not_allowed",
            )
        patterns = handle.workspace.spec.upstream.no_load_paths
        shown = unquote_to_bytes(path).decode("utf-8", "replace")
        loads = request.method not in _SAFE or (request.method == "GET" and navigates(request.headers))
        self.at_once = not loads or request.upgrade or any(fnmatchcase(shown, pattern) for pattern in patterns)


class UpstreamRequest(InferenceRequest):
    """One request for the engine's own path."""

    __slots__ = ("_upstream",)

    def __init__(self, inference: Inference, request: Request, head: UpstreamHead) -> None:
        super().__init__(inference, request, head)
        self._upstream = head

    def serve(self, response: Response) -> None:
        """Serve the request. Its body is complete."""
        self._response = response
        response.writer = self
        self._sent, self._request.body = self._request.body, b""
        self._guarded(self._begin)

    def _begin(self) -> None:
        """Submit the request to the Model."""
        inference, head = self._inference, self._upstream
        route = inference.registry.find(head.name)
        if head.path == b"" and self._request.method in {"GET", "HEAD"}:
            self._redirect()
            return
        self._routed = routed = UpstreamRouting(inference.registry, route, head.name, None, len(self._sent))
        self._model = route.model.shown_name
        self._number, self._response.request_id = inference.records.begin(self, head.id_header)
        options = head.options(self._request, route.handle.workspace.spec.tenants)
        if head.at_once:
            load = f"POST /api/models/{header_value(route.model.name)}/load"
            why = f"this request loads no model: only a page that a person opens does, and methods other than GET. To load it, use {load}"
            routed.submit_if_ready(options, why)
        else:
            routed.submit(options)
        self._advance()

    def _redirect(self) -> None:
        """Add the slash, so that relative links of the page stay below it."""
        query = f"?{self._request.query}" if self._request.query else ""
        location = f"Location: {self._upstream.prefix.decode()}/{query}\r\nContent-Length: 0\r\n"
        self._response.begin("307 Temporary Redirect", location.encode(), counted=True, last=True)
        self._end(307)

    def _relay(self, routed: RoutedRequest) -> None:
        self._send(routed, self._sent)

    def _send(self, routed: RoutedRequest, raw: bytes) -> None:
        head, request, address = self._upstream, self._request, routed.address
        call = relay.Call(
            address,
            request.method,
            head.target or b"/",
            [
                field for field in request.fields if field[0].lower() != b"cookie"
            ],  # engines set none: it is another server's
            raw,
            routed.route.model.spec.lifecycle.response_start_timeout or None,
            upgrade=request.upgrade,
            judge=routed.judge,
            rewrite=lambda fields: rewritten(fields, head.prefix, address, sandboxed=head.sandboxed),
        )
        access, make = routed.route.access, relay.Exchange
        exchange_of = make if access is None else partial(reach, access, make, None)
        exchange = exchange_of(self._inference.connections, call, self._response, self._relayed, routed.headers)
        self._exchange = exchange
        routed.pending_request.on_abort(exchange.cancel)
        exchange.start()


class UpstreamRouting(RoutedRequest):
    """The routing of a request to one Model and no other."""

    repeatable = False  # it may be to do anything

    def _fallbacks(self) -> Iterator[tuple[ModelRoute, str]]:
        return iter(())


def find_model(raw: bytes, registry: ModelRegistry) -> tuple[str, bytes, bytes]:
    """Return the name of the Model in a raw path, the part of the path up to there, and the path of its engine.

    The longest name that a Model has counts: names can have slashes, encoded or not. If there is none: the first segment.
    """
    start = PREFIX.encode()
    if not raw.startswith(start):
        raise NotFound(f"The path must begin with {PREFIX} as it is, without double slashes or percent-encoding.")
    segments = raw[len(start) :].split(b"/")
    for count in range(min(len(segments), _MOST_SEGMENTS), 0, -1):
        part = b"/".join(segments[:count])
        name = unquote_to_bytes(part).decode("utf-8", "replace")
        if count == 1 or registry.knows(name):
            break
    return name, start + part, raw[len(start) + len(part) :]


def controls_engine(method: str, path: bytes, query: str) -> bool:
    """Whether a request would control the engine, in whatever way its path is spelled, and however often the engine decodes it."""
    once = path
    for _ in range(_MOST_DECODED):
        segments = {each.strip().lower() for each in _SEPARATORS.split(once.decode("latin-1"))}
        if not segments.isdisjoint(_CONTROLS) and (
            method not in _SAFE or "action" in unquote_to_bytes(query).decode("latin-1").lower()
        ):
            return True
        if (decoded := unquote_to_bytes(once)) == once:
            return False
        once = decoded
    return True  # nobody encodes a path that often


def navigates(headers: Mapping[str, str]) -> bool:
    """Whether a person opens a page. Another site cannot do that in the background, in a frame or ahead of time."""
    if "prefetch" in headers.get("sec-purpose", "") + headers.get("purpose", ""):
        return False
    mode = headers.get("sec-fetch-mode")
    if mode is not None:
        clicked = headers.get("sec-fetch-user") == "?1" and headers.get("sec-fetch-dest", "document") == "document"
        return mode == "navigate" and (headers.get("sec-fetch-site") != "cross-site" or clicked)
    return _prefers_html(headers.get("accept", ""))


def _prefers_html(accept: str) -> bool:
    """Whether no type is accepted more gladly than text/html, which is named."""
    qualities: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (each.strip() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            qualities[kind] = float(quality)
        except ValueError:
            return False
    html = qualities.get("text/html", 0.0)
    return html > 0 and html >= max(qualities.values())


def rewritten(fields: bytes, prefix: bytes, address: str, *, sandboxed: bool = True) -> bytes:
    """Return the headers of an engine's answer for a client that reaches its paths below `prefix`. `address` is the engine's."""
    return b"".join(_rewritten(fields.split(b"\r\n"), prefix, address)) + (_HEADERS if sandboxed else b"")


def _rewritten(lines: Iterable[bytes], prefix: bytes, address: str) -> Iterator[bytes]:
    for line in lines:
        lower = line.lower()
        if not line or lower.startswith(_DROPPED):
            continue
        if lower.startswith(b"location:"):
            yield b"Location: " + _location(line[len(b"location:") :].strip(), prefix, address) + b"\r\n"
        else:
            yield line + b"\r\n"


def _location(target: bytes, prefix: bytes, address: str) -> bytes:
    """Return where a redirect of the engine leads: an absolute path of the engine, or one at its own address, is below `prefix`."""
    try:
        parts = urlsplit(target.decode("latin-1"))
    except ValueError:
        return target
    own = parts.netloc.lower() == urlsplit(address).netloc.lower() and parts.scheme in {"", "http", "https"}
    if parts.netloc and own:
        rest = parts._replace(scheme="", netloc="").geturl()
        return prefix + b"/" + rest.lstrip("/").encode("latin-1")
    return prefix + target if target.startswith(b"/") and not parts.netloc else target
