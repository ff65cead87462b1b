"""The spans of requests and switches, by OpenTelemetry's SDK.

A request has a span from its arrival to its end (SERVER), and below it one of its wait in the queue and one of the exchange with the
engine (CLIENT, by the semantic conventions for generative AI). A switch has a span below the wait of the request that asked for it,
and each of its phases one below that. Other requests that wait for the switch have a link to it.

A request that is not sampled costs a comparison or a call of the sampler. The spans of one that is are made by a thread after its end,
because a span, and the tokens of an answer, take longer than all else that the event loop does for a request.
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import hotseat
from hotseat.telemetry.answer_figures import AnswerSample
from hotseat.telemetry.tracing import RequestEnd

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Sampler

log = logging.getLogger(__name__)

GATHER: Final = 0.25  # seconds in which ended requests gather: to wake a thread for each would delay others
MAX_ENDED: Final = 10_000  # ended requests whose spans may be incomplete; the oldest are dropped
DEMAND_AGE: Final = 10.0  # seconds after which what a router has reported counts no longer: it does every second
SWITCHES: Final = 200  # newest switches that requests can be linked to
CLOSE_TIME: Final = 2.0  # seconds that `close` waits for the exporter
SERVER_ERROR: Final = 500
MAX_STATE: Final = 512  # characters of a `tracestate` in events, as W3C's text asks: receivers limit their headers
_OPERATIONS: Final = {
    "completion": "text_completion",
    "embedding": "embeddings",
}  # gen_ai.operation.name, by capability
_BEFORE_LOAD: Final = ("drain", "save", "release")  # phases of a switch, in order
_RANDOM_BITS: Final = TraceIdRatioBased.TRACE_ID_LIMIT  # of the id of a trace, by which the sampler decides
_PROPAGATOR: Final = TraceContextTextMapPropagator()

_NO_STATE: Final = TraceState()
_Head = tuple[str, str, Mapping[str, str], str]  # method, path of the route, headers and scheme
Place = tuple[str, str]  # a Workspace, and the metadata.name of a Model or the id of a router in it


class RequestTrace:
    """The trace of one sampled request. On the event loop it has ids and times alone: a thread makes the spans of them, after the end."""

    __slots__ = (
        "_began", "_exchange_id", "_head", "_parent", "_sent", "_sent_ns", "_state", "_submitted", "_tracing", "_wait_id", "error",
        "flags", "place", "span", "trace",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917
        self, tracing: "Tracing", parent: "Context | None", trace: int, flags: int, state: TraceState, head: _Head
    ) -> None:
        self._tracing, self._parent, self._head, self._state = tracing, parent, head, state
        self.trace, self.flags, self.span = trace, flags, getrandbits(64) or 1
        self._began = time.time_ns()
        self._submitted = self._wait_id = 0
        self._exchange_id, self._sent_ns, self._sent = 0, 0, 0.0
        self.error = ""
        self.place: Callable[[], Place | None] | None = None

    @property
    def trace_id(self) -> str:
        """The id of the trace, in hexadecimal."""
        return format_trace_id(self.trace)

    @property
    def ids(self) -> dict[str, str]:
        """The ids of the trace and of the span of the whole request, as attributes of a log record."""
        return {"trace_id": self.trace_id, "span_id": format_span_id(self.span)}

    @property
    def wait(self) -> SpanContext:
        """The span of the wait in the queue, after `submit`. Any thread may read it."""
        return SpanContext(
            self.trace, self._wait_id, is_remote=False, trace_flags=TraceFlags(self.flags), trace_state=self._state
        )

    def submit(self, place: Callable[[], Place | None]) -> None:
        """Begin the wait. `place` returns the Model for which the request waits, None while it does not. Any thread may call it."""
        self._submitted, self._wait_id = time.time_ns(), getrandbits(64) or 1
        self.place = place
        self._tracing.requests[id(self)] = self

    def waits_for(self) -> Place | None:
        """Return the Workspace and the Model for which the request waits, None while it does not. Any thread may call it."""
        place = self.place  # read once: the request may end meanwhile
        return None if place is None else place()

    def send(self) -> tuple[tuple[bytes, bytes], ...]:
        """Begin the exchange with the engine. Return the headers for it. A repeated exchange belongs to the same span."""
        if not self._exchange_id:
            self._exchange_id, self._sent_ns, self._sent = getrandbits(64) or 1, time.time_ns(), time.monotonic()
        own = (b"traceparent", b"00-%032x-%016x-%02x" % (self.trace, self._exchange_id, self.flags))
        return (own, (b"tracestate", self._state.to_header().encode())) if self._state else (own,)

    def end(self, end: Callable[[], RequestEnd]) -> None:
        """End the request. A thread makes its spans, and calls `end`."""
        self._tracing.requests.pop(id(self), None)
        self.place = None
        self._tracing.ended(self, end)

    def complete(self, end: RequestEnd, now: float, now_ns: int) -> None:
        """Make the spans. `now` and `now_ns`: when the request ended, on both clocks."""
        end.error = end.error or self.error
        method, path, headers, scheme = self._head
        name, (host, port) = f"{method} {path}", _address(headers.get("host", ""))
        attributes = {
            "http.request.method": method,
            "http.route": path,
            "url.path": path,
            "url.scheme": scheme,
            "server.address": host,
            "server.port": port,
            "user_agent.original": headers.get("user-agent"),
            "http.response.status_code": end.status,
            "hotseat.request.id": end.request_id,
            "hotseat.model": end.model,
            "hotseat.workspace": end.workspace,
            "hotseat.tenant": end.tenant,
            "hotseat.priority": end.priority or None,
        }
        server = self._span(name, self.span, self._parent, SpanKind.SERVER, self._began, attributes)
        above = set_span_in_context(server)
        if end.held and self._submitted:
            self._complete_queue(above, end, now, now_ns)
        if self._exchange_id:
            self._complete_exchange(name, above, end, now_ns)
        if end.status >= SERVER_ERROR:
            _fail(server, end.error or str(end.status))
        server.end(now_ns)

    def _span(  # noqa: PLR0917
        self, name: str, id_: int, above: "Context | None", kind: SpanKind, began: int, attributes: Mapping[str, Any]
    ) -> Span:
        self._tracing.ids.next.trace = self.trace if above is None else 0  # else it has that of the span above
        self._tracing.ids.next.span = id_
        return self._tracing.tracer.start_span(name, above, kind, _present(attributes), start_time=began)

    def _complete_queue(self, above: "Context", end: RequestEnd, now: float, now_ns: int) -> None:
        attributes = {
            "hotseat.workspace": end.workspace,
            "hotseat.model": end.model,
            "hotseat.queue.position": end.position,
            "hotseat.tenant": end.tenant,
            "hotseat.priority": end.priority or None,
        }
        queue = self._span(f"queue {end.model}", self._wait_id, above, SpanKind.INTERNAL, self._submitted, attributes)
        for id_ in end.switches:
            switch = self._tracing.switches.get(id_)
            if switch is not None and switch.parent != self._wait_id:
                queue.add_link(switch.context, {"hotseat.switch.id": id_})
        if end.dispatched is None and end.error:
            _fail(queue, end.error)
        waited_until = now if end.dispatched is None else end.dispatched
        queue.end(now_ns - int(max(0.0, now - waited_until) * 1e9))

    def _complete_exchange(self, name: str, above: "Context", end: RequestEnd, now_ns: int) -> None:
        engine = urlsplit(end.address)
        attributes: dict[str, Any] = {
            "server.address": engine.hostname,
            "server.port": engine.port or (443 if engine.scheme == "https" else 80),
            "http.request.resend_count": end.retries or None,
        }
        if end.capability is not None:
            operation = _OPERATIONS.get(end.capability, end.capability)
            name = f"{operation} {end.requested or end.model}"
            attributes |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": end.engine,
                "gen_ai.request.model": end.requested or end.model,
                "gen_ai.response.model": end.model,
            }
            if end.sample is not None:
                attributes |= _usage(end.sample, self._sent)
        span = self._span(name, self._exchange_id, above, SpanKind.CLIENT, self._sent_ns, attributes)
        if end.status >= SERVER_ERROR:
            _fail(span, end.error or str(end.status))
        span.end(now_ns)


@dataclass(slots=True)
class _Switch:
    """The span of a switch. None: it is of another process, or has ended."""

    context: SpanContext
    parent: int = 0  # id of the span above it; 0 if not known
    span: Span | None = None
    began: int = 0  # nanoseconds since 1970


class Tracing:
    """Makes the spans of this process and gives them to `processor`. Thread-safe, but for `begin`, which is for the event loop.

    `sampler`: None for that of OTEL_TRACES_SAMPLER. `ratio`: the part of requests without a trace that it takes, if it decides by the id
    of the trace.
    """

    def __init__(
        self, processor: SpanProcessor, service: str, sampler: "Sampler | None" = None, ratio: float | None = None
    ) -> None:
        # It warns of each bad `tracestate`, with the client's text.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        self.ids = _Ids()
        self._bound = None if ratio is None else TraceIdRatioBased.get_bound_for_rate(ratio)
        resource = Resource.create({SERVICE_VERSION: hotseat.__version__})
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False, id_generator=self.ids)
        self._provider.add_span_processor(processor)
        self._sampler = self._provider.sampler
        self.tracer = self._provider.get_tracer("hotseat", hotseat.__version__)
        self.requests: dict[int, RequestTrace] = {}  # submitted, in the order of their arrival
        self.switches: OrderedDict[str, _Switch] = OrderedDict()  # by id
        # By Workspace and router: when it was reported, and what, by model.
        self._asked: dict[Place, tuple[float, Mapping[str, SpanContext]]] = {}
        self.lock = threading.Lock()  # over the last two
        self._ended: deque[tuple[RequestTrace, Callable[[], RequestEnd], float, int]] = deque(maxlen=MAX_ENDED)
        self._news = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    # Requests ---------------------------------------------------------------------------------------------------------

    def begin(self, method: str, path: str, headers: Mapping[str, str], scheme: str = "http") -> RequestTrace | None:
        """Return the trace of a request that has arrived, None if it is not sampled. `path` is that of the route."""
        flags, state = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID, _NO_STATE
        if "traceparent" not in headers:
            # To begin a span that is not sampled takes three times as long as to ask the sampler, and that ten times as
            # long as to compare.
            trace_id = getrandbits(128) or 1
            if self._bound is not None and trace_id & _RANDOM_BITS >= self._bound:
                return None
            parent = None
        else:
            parent = _PROPAGATOR.extract(headers)
            context = get_current_span(parent).get_span_context()
            if context.is_valid:
                trace_id, state = context.trace_id, context.trace_state
                flags = TraceFlags.SAMPLED | (context.trace_flags & TraceFlags.RANDOM_TRACE_ID)
            else:
                trace_id, parent = getrandbits(128) or 1, None
        if (parent is not None or self._bound is None) and self._drops(parent, trace_id, path):
            return None
        return RequestTrace(self, parent, trace_id, flags, state, (method, path, headers, scheme))

    def _drops(self, parent: "Context | None", trace_id: int, path: str) -> bool:
        return self._sampler.should_sample(parent, trace_id, path, SpanKind.SERVER).decision is Decision.DROP

    def ended(self, trace: RequestTrace, end: Callable[[], RequestEnd]) -> None:
        """Have the spans of a request made, soon."""
        self._ended.append((trace, end, time.monotonic(), time.time_ns()))
        if not self._news.is_set():
            self._news.set()

    def _run(self) -> None:
        while not self._closed:
            self._news.wait()
            if not self._closed:
                time.sleep(GATHER)
            self._news.clear()
            self.complete()

    def complete(self) -> None:
        """Make the spans of requests that have ended."""
        while self._ended:
            try:
                trace, end, now, now_ns = self._ended.popleft()
            except IndexError:  # another thread took it
                return
            try:
                trace.complete(end(), now, now_ns)
            except Exception:
                log.exception("internal error (a bug in hotseat): the spans of a request could not be made")

    # Switches ---------------------------------------------------------------------------------------------------------

    def demand(self, workspace: str) -> dict[str, str]:
        """Return by model the `traceparent` of the first request that waits for it at this process."""
        found: dict[str, str] = {}
        for request in list(self.requests.values()):
            place = request.waits_for()
            if place is not None and place[0] == workspace and place[1] not in found:
                found[place[1]] = _headers(request.wait)["traceparent"]
        return found

    def demand_reported(self, workspace: str, router: str, demand: Mapping[str, str]) -> None:
        """Note what `demand` returned at a router. What is no `traceparent` is ignored."""
        contexts = {model: _context(each) for model, each in demand.items()}
        valid = {model: context for model, context in contexts.items() if context is not None}
        with self.lock:
            if valid:
                self._asked[workspace, router] = (time.monotonic(), valid)
            else:
                self._asked.pop((workspace, router), None)

    def event(self, workspace: str, kind: str, data: Mapping[str, Any]) -> dict[str, str]:
        """Begin or end the span of a switch, as an event of this process says. Return the CloudEvents attributes of the trace.

        `kind` is the event's key in EVENT_TYPES, and `data` has metadata.name of Models.
        """
        if kind == "switch.requested":
            asked = self._parent(workspace, data["model"])
            return {} if asked is None else _headers(asked)
        if kind == "switch.started":
            return self._begin_switch(workspace, data)
        if kind in {"switch.completed", "switch.failed", "switch.cancelled"}:
            return self._end_switch(kind.removeprefix("switch."), data)
        return {}

    def event_seen(self, event: Mapping[str, Any]) -> None:
        """Note the switch of an event of another process, so that requests that wait for it are linked to it."""
        context = _context(event["traceparent"]) if ".switch." in event["type"] and "traceparent" in event else None
        if context is not None and "switch" in event["data"]:
            self._note(event["data"]["switch"], _Switch(context))

    def _parent(self, workspace: str, model: str) -> SpanContext | None:
        """Return the span of the wait of the first sampled request that waits for a model, here or at a router."""
        for request in list(self.requests.values()):
            if request.waits_for() == (workspace, model):
                return request.wait
        oldest = time.monotonic() - DEMAND_AGE
        with self.lock:
            self._asked = {
                of: each for of, each in self._asked.items() if each[0] > oldest
            }  # others are of routers that ended
            asked = [each[model] for (of, _), (_, each) in self._asked.items() if of == workspace and model in each]
        return asked[0] if asked else None

    def _begin_switch(self, workspace: str, data: Mapping[str, Any]) -> dict[str, str]:
        parent = self._parent(workspace, data["to"])
        attributes = {
            "hotseat.workspace": workspace,
            "hotseat.model": data["to"],
            "hotseat.switch.id": data["switch"],
            "hotseat.switch.reason": data["reason"],
            "hotseat.switch.from": list(data["from"]),
            "hotseat.switch.waiting": data.get("waiting"),
        }
        above = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
        span = self.tracer.start_span(f"switch {data['to']}", above, attributes=_present(attributes))
        if not span.is_recording():
            return {}
        context = span.get_span_context()
        above_id = 0 if parent is None else parent.span_id
        self._note(data["switch"], _Switch(context, above_id, span, time.time_ns()))
        return _headers(context)

    def _note(self, id_: str, switch: _Switch) -> None:
        with self.lock:
            self.switches[id_] = switch
            while len(self.switches) > SWITCHES:
                self.switches.popitem(last=False)

    def _end_switch(self, outcome: str, data: Mapping[str, Any]) -> dict[str, str]:
        with self.lock:
            switch = self.switches.get(data["switch"])
            if switch is None or switch.span is None:
                return {}
            span, switch.span = switch.span, None
        now, phases = time.time_ns(), data["phases"]
        context = set_span_in_context(span)
        for name, begin, end in _phase_times(phases, switch.began, now):
            self.tracer.start_span(name, context, start_time=begin, attributes={"hotseat.model": data["to"]}).end(end)
        span.set_attributes({"hotseat.switch.outcome": outcome, "hotseat.switch.from": list(data["from"])})
        if outcome != "completed":
            span.set_attributes({"hotseat.switch.phase": data["phase"], "hotseat.switch.code": data["code"]})
        if outcome == "failed":
            _fail(span, data["code"], data["message"])
        span.end(now)
        return _headers(switch.context)

    # The end ----------------------------------------------------------------------------------------------------------

    def close(self, timeout: float = CLOSE_TIME) -> None:
        """Export the spans that are left, for at most `timeout` seconds."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        end = time.monotonic() + timeout
        self._thread.join(timeout)
        self.complete()
        last = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        last.start()
        last.join(max(0.0, end - time.monotonic()))


def export_to_environment(service: str) -> Tracing:
    """Return what makes spans, and exports them to where OTEL_EXPORTER_OTLP_ENDPOINT says. `service` is its name by default."""
    return Tracing(BatchSpanProcessor(QuietExporter(OTLPSpanExporter())), service, ratio=_ratio(os.environ))


def _ratio(environment: Mapping[str, str]) -> float | None:
    """Return the part of requests without a trace that the sampler of OTEL_TRACES_SAMPLER takes, if it decides by the id of the trace."""
    if environment.get("OTEL_TRACES_SAMPLER", "").strip().lower() not in {"traceidratio", "parentbased_traceidratio"}:
        return None
    try:
        ratio = float(environment.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:
        return None
    return ratio if 0 <= ratio <= 1 else None


class QuietExporter(SpanExporter):
    """Exports by another exporter. Logs once that it fails, and once that it works again: it is called every few seconds."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter, self._failing = exporter, False
        self._problem = _LastMessage()
        own = logging.getLogger("opentelemetry.exporter")
        own.addHandler(self._problem)
        own.propagate = False
        logging.getLogger("opentelemetry.sdk").setLevel(logging.ERROR)  # it warns of each span that it drops

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans. Those that cannot be exported are lost."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS and self._failing:
            log.info("traces are exported again")
        elif result is not SpanExportResult.SUCCESS and not self._failing:
            log.warning("traces cannot be exported, and are lost: %s", self._problem.text)
        self._failing = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        """End."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return whether nothing is left to be exported."""
        return self._exporter.force_flush(timeout_millis)


class _LastMessage(logging.Handler):
    """Keeps the last message."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class _Ids(RandomIdGenerator):
    """Random ids. The next span of this thread gets those in `next`, if they are not 0."""

    def __init__(self) -> None:
        self.next = _Next()

    def generate_trace_id(self) -> int:
        id_, self.next.trace = self.next.trace, 0
        return id_ or super().generate_trace_id()

    def generate_span_id(self) -> int:
        id_, self.next.span = self.next.span, 0
        return id_ or super().generate_span_id()


class _Next(threading.local):
    trace = span = 0


def _usage(sample: AnswerSample, sent: float) -> dict[str, Any]:
    figures = sample.figures
    return {
        "gen_ai.request.stream": sample.stream or None,
        "gen_ai.response.time_to_first_chunk": max(0.0, sample.began - sent) if sample.stream else None,
        "gen_ai.usage.input_tokens": figures.prompt,
        "gen_ai.usage.output_tokens": figures.completion,
        "gen_ai.usage.cache_read.input_tokens": figures.cached,
    }


def _phase_times(phases: Mapping[str, float], began: int, ended: int) -> list[tuple[str, int, int]]:
    """Return the phases of a switch with their begin and end, in nanoseconds since 1970.

    Load and restore come last. What comes before begins with the switch, or earlier: a drain may have.
    """
    spans, at = [], ended
    for name in ("restore", "load"):
        if name in phases:
            begin = at - int(phases[name] * 1e9)
            spans.append((name, begin, at))
            at = begin
    before = [(name, int(phases.get(name, 0.0) * 1e9)) for name in _BEFORE_LOAD if phases.get(name)]
    start = min(began, at - sum(length for _, length in before))
    for name, length in before:
        spans.append((name, start, start + length))
        start += length
    return spans


def _present(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None and value != ""}


def _fail(span: Span, kind: str, message: str | None = None) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message))


def _address(host: str) -> tuple[str | None, int | None]:
    """Return the name and the port of a Host header. A client may send any text."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None, None
    return name, port


def _headers(context: SpanContext) -> dict[str, str]:
    """Return `traceparent` and, if there is one, `tracestate` of a span."""
    trace, id_, flags = format_trace_id(context.trace_id), format_span_id(context.span_id), context.trace_flags
    headers = {"traceparent": f"00-{trace}-{id_}-{flags:02x}"}
    state = context.trace_state.to_header() if context.trace_state else ""
    if state and len(state) <= MAX_STATE:
        headers["tracestate"] = state
    return headers


def _context(traceparent: object) -> SpanContext | None:
    """Return what a `traceparent` says, None if it is none or not sampled."""
    context = get_current_span(_PROPAGATOR.extract({"traceparent": str(traceparent)})).get_span_context()
    return context if context.is_valid and context.trace_flags.sampled else None
