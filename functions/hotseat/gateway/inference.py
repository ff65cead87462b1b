"""An inference request, from arrival to end: admit, queue, relay and count. All of it runs on the event loop."""

import logging
import re
import time
from asyncio import TimerHandle, get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from hotseat.api.model import Api, Capability
from hotseat.api.workspace import Tenants
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import BadRequest, HotseatError, Unreachable
from hotseat.engines.base import has_api
from hotseat.gateway import relay
from hotseat.gateway.body import Body, check_encoding, parse_body, rename_model
from hotseat.gateway.errors import UPSTREAM_FAILED, api_kind, internal_error
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.http.request import Fields, Request
from hotseat.gateway.http.response import Response, encode_fields
from hotseat.gateway.limits import BodyBudget, ConcurrencyLimit, shortage
from hotseat.gateway.loading_comments import LoadingComments
from hotseat.gateway.translation import TranslatedResponse, Translation
from hotseat.gateway.unloading import unload_command
from hotseat.gateway.wait_headers import NO_LIMITS, WaitOptions, wait_options
from hotseat.telemetry.logs import RequestLog, RequestRecord
from hotseat.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

LARGE = 262_144  # bytes of a body that is parsed in a thread
PARSERS = 2  # threads that parse large bodies
ENDS_WITHIN = 1.0  # seconds in which the end of an engine that refuses connections is reported
END_LOOK = 0.05  # seconds between looks whether one of several pods has ended
LOOK = 1.0  # seconds after which a fallback for an external server that refuses connections is looked for again
LONGEST_WAIT = 3600.0  # seconds until a request that waits is looked at again
OK, CLIENT_LEFT = 200, 499
_OF_ITS_API = re.compile(rb"(?i)content-type$|accept$|anthropic-")  # headers that a translated request does not have

T = TypeVar("T")
Translate = Callable[[bytes, str, str], Translation]


@dataclass(frozen=True, slots=True)
class Route:
    """An inference route: its path, its label in metrics, and the capability that it needs. The routes are in apis/.

    `translate` makes the request for an engine that does not have `api`: from the body, the name of the model to the engine, and the name
    that the client sent. It raises BadRequest. None: the request is passed on in any case. Comments are for streams of events only.
    `tag` is an end that names may have in this API. `unloads` says of a body whether it asks to unload its Model.
    """

    path: str
    label: str
    capability: Capability
    api: Api = Api.OPENAI
    translate: Translate | None = None
    events: bool = True  # its streams are streams of events
    tag: str = ""
    unloads: Callable[[bytes], bool] | None = None


class AcceptedHead:
    """What the head of a request says. Requests with the same head share it (`http.request.Listener`)."""

    __slots__ = (
        "_options",
        "_tenants",
        "comments",
        "encoded",
        "key",
        "route",
        "target",
        "translated",
        "translated_fields",
    )

    def __init__(self, request: Request, route: Route, key: str) -> None:
        """`key` is the name of the request's key. Raise the HotseatError for the client if the body is compressed."""
        check_encoding(request.headers)
        self.route, self.key = route, key
        self.target = f"{route.path}?{request.query}".encode() if request.query else route.path.encode()
        self.comments = request.headers.get("x-hotseat-loading", "").lower() == "comments"
        self.encoded: dict[bytes, bytes] = {}  # as engines get it, by Host
        # As engines get it that do not have the API: by path, then by Host.
        self.translated: dict[str, dict[bytes, bytes]] = {}
        self.translated_fields: Fields = ()
        if route.translate is not None:
            kept = (field for field in request.fields if not _OF_ITS_API.match(field[0]))
            self.translated_fields = (*kept, (b"Content-Type", b"application/json"))
        self._tenants: Tenants | None = None
        self._options = NO_LIMITS

    def options(self, request: Request, tenants: Tenants) -> WaitOptions:
        """Return the wait options of the request. Raise BadRequest if a header is invalid."""
        if tenants is not self._tenants:
            self._options, self._tenants = wait_options(request.headers, tenants, self.key), tenants
        return self._options


class Inference:
    """Handles inference requests. `max_body` is in bytes. `admin_port` is the only port on which a request may unload a Model (None: each).

    Every request is counted. Requests that reach a Model are written to `request_log`, if there is one.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        connections: relay.Connections,
        metrics: Metrics,
        *,
        max_body: int,
        concurrency: ConcurrencyLimit,
        body_budget: BodyBudget,
        request_log: RequestLog | None = None,
        admin_port: int | None = None,
    ) -> None:
        self.registry = registry
        self.connections = connections
        self.metrics = metrics
        self.max_body = max_body
        self.concurrency = concurrency
        self.body_budget = body_budget
        self.request_log = request_log
        self.admin_port = admin_port
        self.reconnector = relay.Reconnector(connections)
        self.parsers = ThreadPoolExecutor(PARSERS, thread_name_prefix="body")

    def handler(self, request: Request, head: AcceptedHead) -> "InferenceRequest":
        """Return the handler of a request. Raise the HotseatError for the client if there is no room for it."""
        return InferenceRequest(self, request, head)

    def refused(self, route: Route, status: int) -> None:
        """Count a request that was refused by its head."""
        self.metrics.refused("", route.label, status)


class InferenceRequest:
    """One request. Methods are called on the loop, in the order of its course; each returns at once."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_comments",
        "_exchange",
        "_head",
        "_inference",
        "_leave",
        "_model",
        "_over",
        "_ready",
        "_request",
        "_response",
        "_route",
        "_routed",
        "_sent",
        "_started",
        "_timer",
        "_translation",
        "_waits",
        "max_body",
    )

    def __init__(self, inference: Inference, request: Request, head: AcceptedHead) -> None:
        self.max_body = inference.max_body
        self._inference, self._request, self._head, self._route = inference, request, head, head.route
        self._started = time.monotonic()
        self._body: Body | None = None
        self._routed: RoutedRequest | None = None
        self._exchange: relay.Exchange | None = None
        self._timer: TimerHandle | None = None
        self._leave: Callable[[], None] | None = None  # ends the wait for an external server
        self._comments: LoadingComments | None = None
        self._translation: Translation | None = None
        self._ready: tuple[str, str, Translation] | None = None  # made before `submit`, for these names
        self._model = ""
        self._sent = b""  # the body as the engine gets it
        self._waits = self._over = False
        inference.concurrency.take()
        try:
            size = request.length or 0
            self._body_bytes = inference.body_budget.take(size) if size <= self.max_body else 0
        except HotseatError:
            inference.concurrency.give_back()
            raise

    # The body ---------------------------------------------------------------------------------------------------------

    def abandon(self, status: int) -> None:
        """Handle that the body did not arrive."""
        self._end(status)

    def received(self, size: int) -> None:
        """Count the bytes of a body without a length. `size`: all that have come. Raise QueueFull if there is no room."""
        if size > self._body_bytes:
            self._body_bytes += self._inference.body_budget.take(size - self._body_bytes)

    def serve(self, response: Response) -> None:
        """Serve the request. Its body is complete."""
        self._response: Response = response
        response.writer = self
        raw = self._request.body
        self._request.body = b""
        if len(raw) <= LARGE:
            self._guarded(self._parse, raw)
        else:
            self._run(lambda: parse_body(raw), self._parsed)

    def _parse(self, raw: bytes) -> None:
        self._parsed(parse_body(raw))

    def _run(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do work with a large body in a thread, and call `then` with the result."""
        loop = get_running_loop()

        def run() -> None:
            try:
                result = work()
            except Exception as error:  # the loop answers with it
                failure = error
                loop.call_soon_threadsafe(self._guarded, lambda: _raise(failure))
            else:
                loop.call_soon_threadsafe(self._guarded, then, result)

        try:
            self._inference.parsers.submit(run)
        except RuntimeError:  # no thread can be started
            self._guarded(lambda: then(work()))

    def _parsed(self, body: Body) -> None:
        """Find the Model. A request that cannot be translated for it is refused before it loads anything."""
        inference = self._inference
        self._body = body
        requested = body.model and inference.registry.known_name(body.model, self._route.tag)
        target = self._model_route(requested)
        self._model = target.model.shown_name
        if self._unloads(target, body):
            self._unload(target, body)
            return
        routed = RoutedRequest(inference.registry, target, requested, self._route.capability, len(body.raw))
        self._routed = routed
        translate = self._translator(routed)
        if translate is None:
            self._submit(routed, body)
            return
        name, asked = _engine_name(routed), _asked(routed, body)

        def submit(translation: Translation) -> None:
            self._ready = (name, asked, translation)
            self._submit(routed, body)

        self._translate(translate, body, name, asked, submit)

    def _submit(self, routed: RoutedRequest, body: Body) -> None:
        routed.submit(self._head.options(self._request, routed.route.handle.workspace.spec.tenants))
        if body.stream and self._head.comments and self._route.events:
            self._comments = LoadingComments(self._response, routed, self._inference.registry.shown_name)
        self._advance()

    def _model_route(self, name: str | None) -> ModelRoute:
        registry = self._inference.registry
        target = registry.default() if name is None else registry.find(name)
        if target is None:
            raise BadRequest("The request body has no `model`, and the Workspace has no defaultModel.", param="model")
        return target

    def _unloads(self, target: ModelRoute, body: Body) -> bool:
        """Whether hotseat is to unload the Model. A server of its own that has the API may be told so itself."""
        unloads = self._route.unloads
        if unloads is None or not unloads(body.raw):
            return False
        return target.model.spec.engine != "external" or not has_api(target.model, self._route.api)

    def _unload(self, target: ModelRoute, body: Body) -> None:
        inference, model, translate = self._inference, target.model, self._route.translate
        assert translate is not None  # noqa: S101
        unload = unload_command(inference.registry, target, self._request.listener.port, inference.admin_port)
        answer = translate(body.raw, model.engine_model_name, body.model or model.shown_name).answer(b"")
        self._run(unload, lambda _: self._answer(answer))

    def _answer(self, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer without the engine."""
        fields = [("Content-Type", "application/json"), *headers, ("Content-Length", str(len(body)))]
        self._response.begin("200 OK", encode_fields(fields), body, counted=True, last=True)
        self._end(OK)

    # The queue --------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Relay the request if it has been dispatched. Else wait until it is, its limit has passed, or there is news."""
        routed = self._routed
        assert routed is not None  # noqa: S101
        limit = routed.options.limit
        while True:
            pending = routed.pending_request
            if pending.error is not None:
                if not routed.fail_over(pending.error):
                    raise pending.error
                continue
            if pending.dispatched is not None:
                self._relay(routed)
                return
            elapsed = time.monotonic() - routed.began
            if limit is not None and elapsed >= limit:
                routed.route.handle.gate.expire(pending)
                continue
            rest = inf if limit is None else limit - elapsed
            if self._comments is not None:
                rest = min(rest, self._comments.tell(elapsed))
            next_check = routed.check_fallback(limit)
            if routed.pending_request is not pending or pending.settled:
                continue
            self._wait(routed, min(rest, LONGEST_WAIT if next_check is None else next_check))
            return

    def _wait(self, routed: RoutedRequest, seconds: float) -> None:
        self._waits = True
        self._ready = None  # a held request keeps one body in memory, which a fallback may need in its own API
        routed.pending_request.on_settled(self._settled)
        if seconds < LONGEST_WAIT:
            self._timer = get_running_loop().call_later(max(0.0, seconds), self._woken)

    def _settled(self) -> None:
        get_running_loop().call_soon(self._woken)

    def _woken(self) -> None:
        if self._waits:  # the timer and the news may come together
            self._waits = False
            self._stop_timer()
            self._guarded(self._advance)

    # The answer -------------------------------------------------------------------------------------------------------

    def _relay(self, routed: RoutedRequest) -> None:
        body = self._body
        assert body is not None  # noqa: S101
        name = _engine_name(routed)
        if self._comments is not None:
            self._comments.tell_fallback()
        ready, self._ready, self._translation = self._ready, None, None
        translate = self._translator(routed)
        if translate is not None:
            asked = _asked(routed, body)
            if ready is not None and ready[:2] == (name, asked):
                self._send_translated(routed, ready[2])
            else:
                self._translate(translate, body, name, asked, lambda made: self._send_translated(routed, made))
        elif name == body.model:
            self._send(routed, body.raw)
        elif len(body.raw) <= LARGE:
            self._send(routed, rename_model(body, name))
        else:
            self._run(lambda: rename_model(body, name), lambda raw: self._send(routed, raw))

    def _translator(self, routed: RoutedRequest) -> Translate | None:
        """Return what translates the request for the engine of its Model. None: it has the API itself."""
        translate = self._route.translate
        return None if translate is None or has_api(routed.route.model, self._route.api) else translate

    def _translate(
        self, translate: Translate, body: Body, name: str, asked: str, then: Callable[[Translation], None]
    ) -> None:
        if len(body.raw) <= LARGE:
            then(translate(body.raw, name, asked))
        else:
            self._run(lambda: translate(body.raw, name, asked), then)

    def _send_translated(self, routed: RoutedRequest, translation: Translation) -> None:
        if not translation.path:
            self._answer(translation.answer(b""), routed.headers)
            return
        self._translation = translation
        self._send(routed, translation.body)

    def _send(self, routed: RoutedRequest, raw: bytes) -> None:
        self._sent = raw
        head, translation, response = self._head, self._translation, self._response
        plain = self._comments is not None or translation is not None
        target, fields, encoded = head.target, self._request.fields, None if plain else head.encoded
        if translation is not None:
            target, fields = translation.path.encode(), head.translated_fields
            encoded = head.translated.setdefault(translation.path, {})
        call = relay.Call(
            routed.pending_request.address,
            "POST",
            target,
            fields,
            raw,
            routed.route.model.spec.lifecycle.response_start_timeout or None,
            plain=plain,
            encoded=encoded,
        )
        sink = response if translation is None else TranslatedResponse(response, translation)
        exchange = relay.Exchange(self._inference.connections, call, sink, self._relayed, routed.headers)
        self._exchange = exchange
        routed.pending_request.on_abort(exchange.cancel)
        exchange.start()

    def _relayed(self, outcome: relay.Outcome) -> None:
        """End the request, or try again if no engine has accepted it."""
        self._exchange = None
        if outcome.how is relay.How.CLIENT_GONE:
            self._end(CLIENT_LEFT)
        elif outcome.error is None:
            self._end(outcome.status or UPSTREAM_FAILED)
        elif self._response.ended:
            self._end(api_kind(outcome.error).status)
        else:
            error = outcome.error
            self._response.writer = self
            self._guarded(lambda: self._retry(error))

    def _retry(self, error: HotseatError) -> None:
        routed = self._routed
        assert routed is not None  # noqa: S101
        # If the engine has ended meanwhile, `error` says so, and its cause is Unreachable.
        unreachable = error if isinstance(error, Unreachable) else error.__cause__
        if not isinstance(unreachable, Unreachable):
            raise error
        if routed.fail_over(unreachable):
            self._stop_holding()
            self._advance()
        elif routed.end_is_seen:
            self._await_end(routed, error)
        elif error is unreachable:
            self._hold(routed, error)
        else:
            raise error

    def _hold(self, routed: RoutedRequest, error: HotseatError) -> None:
        """Wait until an external server can be reached. Answer with the error if it has had its time.

        The request counts as in flight meanwhile, so an autoscaler sees it and starts the server.
        """
        now, limit, pending = time.monotonic(), routed.options.limit, routed.pending_request
        end = (routed.dispatched or now) + routed.route.model.spec.lifecycle.connect_timeout
        if limit is not None:
            end = min(end, routed.began + limit)
        if now >= end:
            raise error
        rest = end - now if routed.route.model.spec.fallback is None else min(LOOK, end - now)
        self._timer = get_running_loop().call_later(rest, self._guarded, lambda: self._retry(error))
        if self._leave is not None:
            return
        self._leave = self._inference.reconnector.wait(pending.address, lambda: self._guarded(self._reached))

        pending.on_abort(self._stopped)

    def _stopped(self, reason: HotseatError) -> None:
        """End the request, unless it is sent again: its exchange has been told then."""

        def end() -> None:
            if self._leave is not None:
                raise reason

        get_running_loop().call_soon(self._guarded, end)

    def _stop_holding(self) -> None:
        self._stop_timer()
        if self._leave is not None:
            self._leave()
            self._leave = None

    def _reached(self) -> None:
        """Send the request again."""
        assert self._routed is not None  # noqa: S101
        self._stop_holding()
        self._send(self._routed, self._sent)

    def _await_end(self, routed: RoutedRequest, error: HotseatError) -> None:
        """Queue the request again if its engine, or the pod of it that it was sent to, turns out to have ended."""
        pending, until, seen = routed.pending_request, time.monotonic() + ENDS_WITHIN, False

        def ended() -> None:
            nonlocal seen
            if not seen:
                seen = True
                self._stop_timer()
                routed.wait_again()
                self._advance()

        def look() -> None:
            if not routed.is_offered:
                ended()
            elif time.monotonic() >= until:
                raise error
            else:
                self._timer = get_running_loop().call_later(END_LOOK, self._guarded, look)

        def told(_: HotseatError) -> None:
            get_running_loop().call_soon(self._guarded, ended)

        pending.on_abort(told)
        look()

    # The end ----------------------------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        """End the request, because its client has left."""
        self._end(CLIENT_LEFT)

    def pause(self) -> None:
        """Do nothing: the exchange is told itself."""

    def resume(self) -> None:
        """Do nothing."""

    def _guarded(self, step: Callable[..., None], *arguments: object) -> None:
        """Run a step of the request, unless it has ended. If the step fails, answer with the error, and end."""
        if self._over:
            return
        try:
            step(*arguments)
        except HotseatError as error:
            self._fail(error)
        except Exception as error:
            if (short := shortage(error)) is not None:
                self._fail(short)
                return
            log.exception("internal error (a bug in hotseat): %s", self._route.path)
            self._fail(internal_error())

    def _fail(self, error: HotseatError) -> None:
        response = self._response
        if self._comments is not None and response.begun and not response.ended:
            response.end_with_error(error)
        else:
            response.fail_or_abort(error)
        self._end(api_kind(error).status)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, status: int) -> None:
        """Count the request, and release what it holds."""
        if self._over:
            return
        self._over = True
        if self._timer is not None or self._leave is not None:
            self._stop_holding()
        inference, routed = self._inference, self._routed
        seconds = time.monotonic() - self._started
        inference.concurrency.give_back()
        inference.body_budget.give_back(self._body_bytes)
        self._body = self._translation = self._ready = None
        self._sent = b""
        if routed is None:
            inference.metrics.refused(self._model, self._route.label, status)
            return
        routed.finish()
        name = routed.route.model.shown_name
        inference.metrics.request(name, self._route.label, status, seconds, routed.waited)
        if routed.fallback_used is not None:
            inference.metrics.fallback(routed.fallback_used.wanted.shown_name, name, routed.fallback_used.reason)
        if inference.request_log is not None:
            inference.request_log.write(_log_entry(routed, self._route, status, seconds))


def _engine_name(routed: RoutedRequest) -> str:
    """Return the name of the model to its engine: one name, but an external server gets the name that the client sent."""
    model, asked = routed.route.model, routed.requested_name
    return asked if model.spec.url and asked and not model.spec.engine_model_name else model.engine_model_name


def _asked(routed: RoutedRequest, body: Body) -> str:
    """Return the name of the model to the client."""
    return body.model or routed.route.model.shown_name


def _raise(error: Exception) -> None:
    raise error


def _log_entry(routed: RoutedRequest, route: Route, status: int, seconds: float) -> RequestRecord:
    """Return the line for the request log. The request has taken `seconds`."""
    model, begun = routed.route.model, routed.dispatched
    return RequestRecord(
        time.time() - seconds,
        model.name,
        route.label,
        None if begun is None else max(0.0, seconds - (time.monotonic() - begun)),
        seconds,
        status,
        routed.options.priority,
        routed.options.tenant or None,
        wanted=None if routed.fallback_used is None else routed.fallback_used.wanted.name,
    )
