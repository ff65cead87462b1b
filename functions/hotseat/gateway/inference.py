"""An inference request, from arrival to end: admit, queue, relay and count. All of it runs on the event loop."""

import logging
import time
from asyncio import TimerHandle, get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from typing import TYPE_CHECKING, TypeVar

from hotseat.api.model import ResponseModelName
from hotseat.api.wildcards import name_for_engine
from hotseat.api.workspace import Loading
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import Cancelled, HotseatError, Unreachable
from hotseat.engines.base import has_api
from hotseat.gateway import relay
from hotseat.gateway.accepted_head import AcceptedHead, Route, Translate
from hotseat.gateway.body import Body
from hotseat.gateway.browsers import sandboxed
from hotseat.gateway.engine_exchange import dial_address, reach
from hotseat.gateway.errors import UPSTREAM_FAILED, api_kind, internal_error
from hotseat.gateway.fallback_routing import GET_LOADS_NOTHING, UNNAMED_LOADS_NOTHING, RoutedRequest
from hotseat.gateway.filters import changes_of, filtered
from hotseat.gateway.http.request import Request
from hotseat.gateway.http.response import Response, ResponseSink, encode_fields
from hotseat.gateway.limits import BodyBudget, ConcurrencyLimit, shortage
from hotseat.gateway.loading_news import LoadingNews, loading_news, loading_of
from hotseat.gateway.request_records import RequestRecords, request_record
from hotseat.gateway.request_traces import error_type, request_end, waiting_place, with_trace
from hotseat.gateway.response_model import RenamedResponse
from hotseat.gateway.translation import TranslatedResponse, Translation
from hotseat.gateway.unloading import unload_command
from hotseat.gateway.unnamed_model import unnamed_model
from hotseat.gateway.wait_headers import with_keep_alive
from hotseat.telemetry.logs import RequestLog, RequestRecord
from hotseat.telemetry.metrics import Metrics
from hotseat.telemetry.tracing import RequestEnd

if TYPE_CHECKING:
    from hotseat.telemetry.answer_figures import AnswerSample
    from hotseat.telemetry.spans import RequestTrace, Tracing

log = logging.getLogger(__name__)

LARGE = 262_144  # bytes of a body that is parsed in a thread
PARSERS = 2  # threads that parse large bodies
ENDS_WITHIN = 1.0  # seconds in which the end of an engine that refuses connections is reported
END_LOOK = 0.05  # seconds between looks whether one of several pods has ended
LOOK = 1.0  # seconds after which a fallback for an external server that refuses connections is looked for again
LONGEST_WAIT = 3600.0  # seconds until a request that waits is looked at again
OK, CLIENT_LEFT = 200, 499
# To look a member up in its class takes a tenth of a microsecond, and every request needs these.
_HOLD, _REFUSE, _ENGINE, _CLIENT_GONE = Loading.HOLD, Loading.REFUSE, ResponseModelName.ENGINE, relay.How.CLIENT_GONE

T = TypeVar("T")


class Inference:
    """Handles inference requests. `max_body` is in bytes. `admin_port` is the only port on which a request may unload a Model (None: each).

    Every request is counted. Requests that reach a Model are added to `records`, and written to `request_log`, if there is one.
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
        records: RequestRecords,
        request_log: RequestLog | None = None,
        admin_port: int | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.registry = registry
        self.connections = connections
        self.metrics = metrics
        self.max_body = max_body
        self.concurrency = concurrency
        self.body_budget = body_budget
        self.records = records
        self.request_log = request_log
        self.admin_port = admin_port
        self.tracing = tracing
        self.reconnector = relay.Reconnector(connections)
        self.parsers = ThreadPoolExecutor(PARSERS, thread_name_prefix="body")

    def handler(self, request: Request, head: AcceptedHead) -> "InferenceRequest":
        """Return the handler of a request. Raise the HotseatError for the client if there is no room for it."""
        return InferenceRequest(self, request, head)

    def refused(self, route: Route, status: int) -> None:
        """Count a request that was refused by its head."""
        self.metrics.refused("", route.label, status)


class InferenceRequest:
    """One request. Methods are called on the loop, in the order of its course, and return at once. `held`: bytes of its body in memory."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_exchange",
        "_head",
        "_inference",
        "_leave",
        "_model",
        "_news",
        "_number",
        "_over",
        "_ready",
        "_request",
        "_response",
        "_route",
        "_routed",
        "_sample",
        "_sent",
        "_started",
        "_timer",
        "_trace",
        "_translation",
        "_waits",
        "max_body",
    )

    def __init__(self, inference: Inference, request: Request, head: AcceptedHead, held: int | None = None) -> None:
        self.max_body = inference.max_body
        self._inference, self._request, self._head, self._route = inference, request, head, head.route
        self._started = time.monotonic()
        self._body: Body | None = None
        self._routed: RoutedRequest | None = None
        self._exchange: relay.Exchange | None = None
        self._timer: TimerHandle | None = None
        self._leave: Callable[[], None] | None = None  # ends the wait for an external server
        self._news: LoadingNews | None = None
        self._translation: Translation | None = None
        self._ready: tuple[str, str, ModelRoute, Translation] | None = None  # made before `submit`, for these
        self._sample: AnswerSample | None = None
        self._model, self._number = "", 0  # the number is that in the records
        self._sent = b""  # the body as the engine gets it
        self._waits = self._over = False
        self._trace: RequestTrace | None = None  # None: the request is not traced
        inference.concurrency.take()
        try:
            size = (request.length or 0) if held is None else held
            self._body_bytes = inference.body_budget.take(size) if size <= self.max_body else 0
        except HotseatError:
            inference.concurrency.give_back()
            raise
        if inference.tracing is not None:
            self._trace = inference.tracing.begin(
                request.method, head.route.path, request.headers, request.listener.scheme
            )

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
            self._run(lambda: self._head.parse(raw), self._parsed)

    def _parse(self, raw: bytes) -> None:
        self._parsed(self._head.parse(raw))

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
        inference, route, requested = self._inference, self._route, body.model
        registry, self._body = inference.registry, body
        if self._head.checks_body:
            self._head.check_body(body, registry)
        if route.tag and requested:
            requested = registry.known_name(requested, route.tag)
        if requested and (names := registry.names) is not None:
            requested = names.resolve(requested, route.capability)
        unnamed = not requested
        if requested:
            target = registry.find(requested)
        else:
            target, requested = unnamed_model(registry, route, in_query=self._head.in_query)
        self._model = target.shown_name
        if route.unloads is not None and self._unloads(route.unloads, target, body):
            self._unload(target, body)
            return
        self._routed = routed = RoutedRequest(registry, target, requested, route.capability, len(body.raw))
        routed.unnamed = unnamed
        self._number, self._response.request_id = inference.records.begin(self, self._head.id_header)
        if inference.records.captures is not None:
            self._response.capture = bytearray()
        loading = loading_of(self._head.loading, target)
        if loading is _REFUSE:
            routed.refuses = True
        if route.translate is not None and self._translator(routed) is not None:
            self._translate_early(routed, body, loading)
        else:
            self._submit(routed, body, loading)

    def _translate_early(self, routed: RoutedRequest, body: Body, loading: Loading) -> None:
        """Translate the request before it can load anything, and submit it."""
        name, asked = name_for_engine(routed.route.model, routed.requested_name), _asked(routed, body)

        def submit(translation: Translation) -> None:
            self._ready = (name, asked, routed.route, translation)
            self._submit(routed, body, loading)

        self._translate(routed, body, name, asked, submit)

    def _submit(self, routed: RoutedRequest, body: Body, loading: Loading) -> None:
        options = self._head.options(self._request, routed.route.handle.workspace.spec.tenants)
        if self._route.unloads is not None:
            options = with_keep_alive(options, body.raw)
        if self._trace is not None:
            self._trace.submit(partial(waiting_place, routed))
        if (body.model is None or self._head.in_query) and not self._loads(body):
            why = UNNAMED_LOADS_NOTHING if routed.unnamed else GET_LOADS_NOTHING
            routed.submit_if_ready(options, why)
        else:
            routed.submit(options)
        if body.stream and loading is not _HOLD and self._route.events:
            shown_name = self._inference.registry.shown_name
            self._news = loading_news(loading, self._route.path, self._response, routed, shown_name)
        self._advance()

    def _loads(self, body: Body) -> bool:
        """Whether the request may load its Model."""
        return self._route.upgrade if self._head.in_query else body.model is not None or not self._route.resident

    def _unloads(self, unloads: Callable[[bytes], bool], target: ModelRoute, body: Body) -> bool:
        """Whether hotseat is to unload the Model. A server of its own that has the API may be told so itself."""
        external = target.model.spec.engine == "external" and has_api(target.model, self._route.api)
        return not external and unloads(body.raw)

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
                if routed.route.servers is not None and not routed.choose_server():
                    continue
                self._relay(routed)
                return
            elapsed = time.monotonic() - routed.began
            if limit is not None and elapsed >= limit:
                routed.route.handle.gate.expire(pending)
                continue
            rest = inf if limit is None else limit - elapsed
            if self._news is not None:
                rest = min(rest, self._news.tell(elapsed))
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
        model = routed.route.model
        name = name_for_engine(model, routed.requested_name)
        changes = () if model.spec.filters is None else changes_of(routed, begun=self._response.begun)
        if self._news is not None:
            self._news.end()
        self._translation = None
        if self._route.translate is not None and self._translator(routed) is not None:
            self._relay_translated(routed, body, name)
        elif name == body.model and not changes:
            self._send(routed, body.raw)
        elif len(body.raw) <= LARGE:
            self._send(routed, self._head.rename(body, name, changes))
        else:
            self._run(partial(self._head.rename, body, name, changes), partial(self._send, routed))

    def _relay_translated(self, routed: RoutedRequest, body: Body, name: str) -> None:
        asked, ready, self._ready = _asked(routed, body), self._ready, None
        if ready is not None and ready[:3] == (name, asked, routed.route):
            self._send_translated(routed, ready[3])
        else:
            self._translate(routed, body, name, asked, partial(self._send_translated, routed))

    def _translator(self, routed: RoutedRequest) -> Translate | None:
        """Return what translates the request for the engine of its Model. None: it has the API itself."""
        translate = self._route.translate
        return None if translate is None or has_api(routed.route.model, self._route.api) else translate

    def _translate(
        self, routed: RoutedRequest, body: Body, name: str, asked: str, then: Callable[[Translation], None]
    ) -> None:
        translate = self._translator(routed)
        assert translate is not None  # noqa: S101
        translate = filtered(translate, changes_of(routed, begun=self._response.begun))
        if len(body.raw) <= LARGE:
            then(translate(body.raw, name, asked))
        else:
            self._run(partial(translate, body.raw, name, asked), then)

    def _send_translated(self, routed: RoutedRequest, translation: Translation) -> None:
        if not translation.path:
            self._answer(translation.answer(b""), routed.headers)
            return
        self._translation = translation
        self._send(routed, translation.body)

    def _send(self, routed: RoutedRequest, raw: bytes) -> None:
        self._sent = raw
        head, translation, response = self._head, self._translation, self._response
        plain = response.begun or translation is not None
        target, fields, encoded = head.target, self._request.fields, None if plain else head.encoded
        spec = routed.route.model.spec
        if translation is not None:
            target, fields = translation.path.encode(), head.translated_fields
            encoded = head.translated.setdefault(translation.path, {})
        call = relay.Call(
            routed.pending_request.address if routed.attempts is None else routed.address,
            "POST",
            target,
            fields,
            raw,
            spec.lifecycle.response_start_timeout or None,
            plain=plain,
            encoded=encoded,
            judge=None if routed.attempts is None else routed.judge,
        )
        if self._trace is not None:
            with_trace(call, self._trace)
        if head.in_query:
            self._put_into_query(call)
        as_it_is = translation is None and routed.fallback_used is None and spec.response_model_name is _ENGINE
        sink = response if as_it_is else self._sink(routed)
        exchange_of: Callable[..., relay.Exchange] = relay.Exchange
        if (access := routed.route.access) is not None:
            if access.as_it_is:
                call.patience, call.limited_by = access.limit(self._route.capability)
            else:
                exchange_of = partial(reach, access, relay.Exchange, self._route.capability)
        exchange = exchange_of(self._inference.connections, call, sink, self._relayed, routed.headers)
        self._exchange = exchange
        routed.pending_request.on_abort(exchange.cancel)
        exchange.start()

    def _sink(self, routed: RoutedRequest) -> ResponseSink:
        """Return where the engine's answer is written: to the client, maybe in other terms, or with the name that the client sent."""
        if self._translation is not None:
            ids = None if self._trace is None else self._trace.ids
            return TranslatedResponse(self._response, self._translation, ids)
        asked = None if self._body is None else self._body.model
        if routed.requested_model.spec.response_model_name is _ENGINE or not asked or self._route.upgrade:
            return self._response
        return RenamedResponse(self._response, asked)

    def _put_into_query(self, call: relay.Call) -> None:
        """Make the call of a request without a body, which has been parsed and renamed in its place."""
        path = self._route.path.encode()
        call.method, call.upgrade = self._request.method, self._route.upgrade
        call.target, call.body, call.encoded = b"%b?%b" % (path, call.body) if call.body else path, b"", None
        call.rewrite = sandboxed

    def _relayed(self, outcome: relay.Outcome) -> None:
        """End the request, or try again if no engine has accepted it."""
        assert self._exchange is not None  # noqa: S101
        self._sample, self._exchange = self._exchange.sample, None
        if outcome.how is _CLIENT_GONE:
            self._end(CLIENT_LEFT)
        elif outcome.error is None:
            self._end(outcome.status or UPSTREAM_FAILED)
        elif self._response.ended:
            if self._trace is not None:
                self._trace.error = error_type(outcome.error)
            self._end(api_kind(outcome.error).status)
        else:
            error = outcome.error
            self._response.writer = self
            self._guarded(lambda: self._retry(error))

    def _retry(self, error: HotseatError) -> None:
        routed = self._routed
        assert routed is not None  # noqa: S101
        if routed.attempts is not None and (pause := routed.pause_after(error)) is not None:
            self._stop_holding()
            self._timer = get_running_loop().call_later(pause, self._guarded, self._advance)
            return
        # If the engine has ended meanwhile, `error` says so, and its cause is Unreachable.
        unreachable = error if isinstance(error, Unreachable) else error.__cause__
        if isinstance(error, Cancelled) or not isinstance(unreachable, Unreachable) or not routed.may_wait:
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
        end = end if limit is None else min(end, routed.began + limit)
        if now >= end:
            raise error
        rest = end - now if routed.route.model.spec.fallback is None else min(LOOK, end - now)
        self._timer = get_running_loop().call_later(rest, self._guarded, lambda: self._retry(error))
        if self._leave is not None:
            return
        address = dial_address(routed.route, routed.address)
        self._leave = self._inference.reconnector.wait(address, lambda: self._guarded(self._reached))
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
            ids = None if self._trace is None else self._trace.ids
            log.exception("internal error (a bug in hotseat): %s", self._route.path, extra=ids)
            self._fail(internal_error())

    def _fail(self, error: HotseatError) -> None:
        response = self._response
        if self._trace is not None:
            self._trace.error = error_type(error)
        if self._news is not None and response.begun and not response.ended:
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
        if (limits := self._head.caller.limits) is not None:
            limits.give_back()
        inference.body_budget.give_back(self._body_bytes)
        body, self._body = self._body, None
        self._translation = self._ready = None
        self._sent = b""
        if routed is None:
            inference.metrics.refused(self._model, self._route.label, status)
            if self._trace is not None:
                self._trace.end(RequestEnd(status, model=self._model))
            return
        routed.finish()
        name = routed.route.shown_name
        number, label, sample = self._number, self._route.label, self._sample
        trace_id = None if self._trace is None else self._trace.trace_id
        record = request_record(number, routed, label, self._started, seconds, status, sample, trace_id)
        inference.metrics.request(name, label, status, seconds, routed.waited, record.ttft, trace_id)
        if routed.fallback_used is not None:
            inference.metrics.fallback(routed.fallback_used.wanted.shown_name, name, routed.fallback_used.reason)
        inference.records.end(record)
        if self._trace is not None:
            self._trace.end(
                request_end(routed, self._route.capability, status, inference.records.id_of(number), sample)
            )
        if inference.request_log is not None:
            inference.request_log.write(record)
        if body is not None and self._response.capture is not None:
            inference.records.keep(self._number, self._request.path, body.raw, bytes(self._response.capture))

    # Operators --------------------------------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """The Model that answers, or should."""
        assert self._routed is not None  # noqa: S101
        return self._routed.route.model.name

    def record(self) -> RequestRecord:
        """Return the record of the request, which goes on: its tokens are not known yet."""
        assert self._routed is not None  # noqa: S101
        sample = self._sample if self._exchange is None else self._exchange.sample
        seconds = time.monotonic() - self._started
        trace_id = None if self._trace is None else self._trace.trace_id
        return request_record(
            self._number, self._routed, self._route.label, self._started, seconds, 0, sample, trace_id
        )

    def cancel(self, error: HotseatError) -> None:
        """End the request. The client gets `error`."""
        if self._exchange is not None:
            self._exchange.stop(error)
        else:
            self._guarded(_raise, error)


def _asked(routed: RoutedRequest, body: Body) -> str:
    """Return the name of the model to the client."""
    return body.model or routed.route.model.shown_name


def _raise(error: Exception) -> None:
    raise error
