"""Spans of requests and switches: who is whose child, which attributes they have, and what is sampled."""

import logging
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from hotseat.telemetry.answer_figures import AnswerSample
from hotseat.telemetry.spans import QuietExporter, RequestTrace, Tracing, _ratio
from hotseat.telemetry.tracing import RequestEnd, TracingError, check_tracing, start_tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
ALL = ParentBased(ALWAYS_ON)
PHASES = {"wait": 0.5, "drain": 1.0, "save": 0.5, "release": 2.0, "load": 4.0, "restore": 1.0, "total": 8.5}


class Exported:
    """A Tracing whose spans stay here."""

    def __init__(self, sampler: Sampler = ALL, ratio: float | None = None) -> None:
        self.memory = InMemorySpanExporter()
        self.tracing = Tracing(SimpleSpanProcessor(self.memory), "hotseat", sampler, ratio)

    def spans(self) -> dict[str, ReadableSpan]:
        """The ended spans, by name."""
        self.tracing.complete()
        found = self.memory.get_finished_spans()
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}

    def chat(self, **headers: str) -> RequestTrace:
        """A sampled request that has arrived."""
        trace = self.tracing.begin("POST", "/v1/chat/completions", {"host": "localhost:8000", **headers})
        assert trace is not None
        return trace

    def switch(self, kind: str, to: str = "b", **more: Any) -> dict[str, str]:
        data = {"switch": "default/1", "workspace": "default", "from": ["a"], "to": to, "reason": "request", **more}
        return self.tracing.event("default", f"switch.{kind}", data)


@pytest.fixture
def exported() -> Iterator[Exported]:
    made = Exported()
    yield made
    made.tracing.close()


def ids(span: ReadableSpan) -> tuple[str, str]:
    return format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)


def below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    assert span.parent is not None
    return (span.parent.trace_id, span.parent.span_id) == (parent.context.trace_id, parent.context.span_id)


def answer(prompt: int, completion: int) -> AnswerSample:
    return AnswerSample(
        b'{"usage": {"prompt_tokens": %d, "completion_tokens": %d}}' % (prompt, completion), stream=False
    )


def test_a_request_continues_the_trace_of_its_client(exported: Exported) -> None:
    request = exported.chat(traceparent=SAMPLED, tracestate="vendor=1", **{"user-agent": "curl"})
    request.submit(lambda: None)
    sent = dict(request.send())
    request.end(
        partial(
            RequestEnd,
            200,
            "id-1",
            requested="qwen",
            model="Qwen 3",
            workspace="default",
            engine="vllm",
            address="http://127.0.0.1:4000",
            capability="chat",
            dispatched=1.0,
            sample=answer(7, 5),
        )
    )
    spans = exported.spans()
    assert set(spans) == {"POST /v1/chat/completions", "chat qwen"}, (
        "a request that was not queued has no span for that"
    )
    server, inference = spans["POST /v1/chat/completions"], spans["chat qwen"]
    assert ids(server)[0] == TRACE
    assert format_span_id(server.parent.span_id) == PARENT
    assert below(inference, server)
    assert (server.kind, inference.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert dict(server.attributes) == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "url.path": "/v1/chat/completions",
        "url.scheme": "http", "server.address": "localhost", "server.port": 8000, "user_agent.original": "curl",
        "http.response.status_code": 200, "hotseat.request.id": "id-1", "hotseat.model": "Qwen 3",
        "hotseat.workspace": "default",
    }  # fmt: skip
    assert dict(inference.attributes) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "qwen",
        "gen_ai.response.model": "Qwen 3", "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 5,
        "server.address": "127.0.0.1", "server.port": 4000,
    }  # fmt: skip
    assert sent[b"traceparent"] == f"00-{TRACE}-{ids(inference)[1]}-01".encode(), "the engine continues the trace"
    assert sent[b"tracestate"] == b"vendor=1"
    assert server.resource.attributes["service.name"] == "hotseat"


def test_a_long_tracestate_is_not_in_events(exported: Exported) -> None:
    state = ",".join(f"vendor{number}={'x' * 40}" for number in range(20))
    exported.chat(traceparent=SAMPLED, tracestate=state).submit(lambda: ("default", "qwen"))
    told = exported.tracing.event("default", "switch.requested", {"model": "qwen"})
    assert told.keys() == {"traceparent"}


def test_a_switch_is_below_the_wait_that_asked_for_it_and_others_link_to_it(exported: Exported) -> None:
    first, second = exported.chat(), exported.chat()
    for each in (first, second):
        each.submit(lambda: ("default", "b"))
    elsewhere = exported.chat()
    elsewhere.submit(lambda: ("other", "b"))
    asked = exported.switch("requested", model="b")
    started, completed = exported.switch("started"), exported.switch("completed", phases=PHASES)
    assert started == completed
    for number, each in enumerate((first, second)):
        ended = RequestEnd(200, model=f"b{number}", held=True, dispatched=0.0, position=1, switches=("default/1",))
        each.end(lambda ended=ended: ended)
    exported.tracing.complete()
    found = exported.memory.get_finished_spans()
    named = {span.name: span for span in found}
    switch, wait, other = named["switch b"], named["queue b0"], named["queue b1"]
    assert below(switch, wait)
    assert asked == {"traceparent": f"00-{first.trace_id}-{ids(wait)[1]}-03"}
    assert started == {"traceparent": f"00-{first.trace_id}-{ids(switch)[1]}-03"}
    assert other.context.trace_id != switch.context.trace_id
    assert [link.context.span_id for link in other.links] == [switch.context.span_id]
    assert not wait.links, "it is above the switch"
    for name in ("drain", "save", "release", "load", "restore"):
        assert below(named[name], switch)
        assert named[name].end_time - named[name].start_time == pytest.approx(PHASES[name] * 1e9, abs=1)
    assert named["drain"].end_time == named["save"].start_time
    assert named["release"].end_time <= named["load"].start_time
    assert named["load"].end_time == named["restore"].start_time
    assert named["restore"].end_time == switch.end_time
    assert switch.attributes["hotseat.switch.outcome"] == "completed"
    assert switch.attributes["hotseat.switch.from"] == ("a",)
    assert switch.attributes["hotseat.switch.reason"] == "request"


def test_a_switch_that_no_traced_request_asked_for_begins_a_trace(exported: Exported) -> None:
    waiting = exported.chat()
    waiting.submit(lambda: None)  # it has been dispatched
    exported.switch("started")
    exported.switch("failed", phases={"total": 1.0}, phase="load", code="Exited", message="the engine ended")
    switch = exported.spans()["switch b"]
    assert switch.parent is None
    assert (switch.status.status_code, switch.status.description) == (StatusCode.ERROR, "the engine ended")
    assert switch.attributes["error.type"] == "Exited"


def test_a_cancelled_switch_is_no_error(exported: Exported) -> None:
    exported.switch("started")
    exported.switch("cancelled", phases={"total": 1.0}, phase="drain", code="Abandoned", message="not wanted")
    switch = exported.spans()["switch b"]
    assert (switch.status.status_code, switch.attributes["hotseat.switch.outcome"]) == (StatusCode.UNSET, "cancelled")
    assert exported.switch("completed", phases={}) == {}, "it has ended"


def test_demand_of_a_router_asks_for_a_switch_of_the_switcher(exported: Exported) -> None:
    switcher = Exported()
    request = exported.chat()
    request.submit(lambda: ("default", "b"))
    demand = exported.tracing.demand("default")
    assert (set(demand), exported.tracing.demand("other")) == ({"b"}, {})
    switcher.tracing.demand_reported("default", "router-1", {**demand, "c": "nonsense", "d": NOT_SAMPLED})
    started = switcher.switch("started")
    switcher.switch("completed", phases=PHASES)
    switch = switcher.spans()["switch b"]
    exported.tracing.event_seen({"type": "dev.hotseat.switch.started.v1", "data": {"switch": "default/1"}, **started})
    exported.tracing.event_seen({"type": "dev.hotseat.model.ready.v1", "data": {}, "traceparent": SAMPLED})
    request.end(partial(RequestEnd, 200, model="b", held=True, dispatched=0.0, switches=("default/1",)))
    wait = exported.spans()["queue b"]
    assert below(switch, wait)
    assert [link.context.span_id for link in wait.links] == [switch.context.span_id]
    switcher.tracing.demand_reported("default", "router-1", {})
    switcher.switch("started")
    switcher.switch("completed", phases=PHASES)
    assert switcher.memory.get_finished_spans()[-1].parent is None, "the request waits no longer"
    switcher.tracing.close()


def test_demand_names_the_first_request_of_each_model_and_looks_at_no_other_wait(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [exported.chat() for _ in range(6)]
    for number, request in enumerate(requests):
        request.submit(partial(tuple, ("default", "ab"[number % 2])))
    read = list[int]()
    wait = RequestTrace.wait
    monkeypatch.setattr(RequestTrace, "wait", property(lambda each: read.append(each.trace) or wait.fget(each)))
    demand = exported.tracing.demand("default")
    assert [demand[model].split("-")[1] for model in "ab"] == [each.trace_id for each in requests[:2]]
    assert read == [each.trace for each in requests[:2]]


def test_a_failed_request_has_an_error_and_one_of_the_client_has_none(exported: Exported) -> None:
    exported.chat().end(partial(RequestEnd, 503, model="b", error="queue_full", held=True))
    refused = exported.tracing.begin("POST", "/v1/embeddings", {})
    assert refused is not None
    refused.end(partial(RequestEnd, 404))
    spans = exported.spans()
    failed, mistaken = spans["POST /v1/chat/completions"], spans["POST /v1/embeddings"]
    assert (failed.status.status_code, failed.attributes["error.type"]) == (StatusCode.ERROR, "queue_full")
    assert (mistaken.status.status_code, mistaken.attributes["http.response.status_code"]) == (StatusCode.UNSET, 404)


@pytest.mark.parametrize("ratio", [None, 0.01])
def test_what_is_not_sampled_makes_no_span(ratio: float | None) -> None:
    exported = Exported(ParentBasedTraceIdRatio(0.01), ratio)
    begin = exported.tracing.begin
    traced = [trace for _ in range(5000) if (trace := begin("POST", "/v1/chat/completions", {}))]
    assert 10 < len(traced) < 150
    assert len({trace.trace_id for trace in traced}) == len(traced)
    assert begin("POST", "/v1/chat/completions", {"traceparent": NOT_SAMPLED}) is None
    assert begin("POST", "/v1/chat/completions", {"traceparent": SAMPLED}) is not None
    exported.tracing.close()


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio"),
    [
        ("parentbased_traceidratio", "0.25", 0.25),
        ("traceidratio", "1", 1.0),
        ("traceidratio", "", None),
        ("traceidratio", "2", None),
        ("parentbased_always_on", "0.25", None),
        ("", "", None),
    ],
)
def test_the_ratio_is_that_of_the_environment(
    sampler: str, argument: str, ratio: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert _ratio(environment) == ratio
    if ratio is not None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        tracing = Tracing(SimpleSpanProcessor(InMemorySpanExporter()), "hotseat")
        assert f"TraceIdRatioBased{{{ratio}}}" in tracing._sampler.get_description(), "as the SDK reads it"
        tracing.close()


@pytest.mark.parametrize("host", ["[", "[x]", "a:99999999999999999999", "a:" + "9" * 5000])
def test_a_host_that_is_none_costs_its_attributes_alone(
    exported: Exported, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    exported.chat(host=host).end(partial(RequestEnd, 400))
    attributes = exported.spans()["POST /v1/chat/completions"].attributes
    assert not {"server.address", "server.port"} & set(attributes)
    assert not caplog.records


def test_an_invalid_traceparent_is_ignored(exported: Exported) -> None:
    assert exported.chat(traceparent="nonsense").trace_id != exported.chat(traceparent=f"{SAMPLED}, {SAMPLED}").trace_id


def test_what_a_client_sends_as_its_trace_is_not_logged(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    for state in ("a text of the client", ",".join(f"a{number}=1" for number in range(40))):
        exported.chat(traceparent=SAMPLED, tracestate=state)
    assert not caplog.records


def test_close_exports_what_has_ended_and_waits_for_no_hanging_exporter() -> None:
    hangs, seen = threading.Event(), list[str]()

    class Hanging(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            seen.extend(span.name for span in spans)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            hangs.wait()

    tracing = Tracing(SimpleSpanProcessor(Hanging()), "hotseat", ALWAYS_ON)
    trace = tracing.begin("POST", "/v1/chat/completions", {})
    assert trace is not None
    trace.end(partial(RequestEnd, 200))
    tracing.close(0.1)
    assert seen == ["POST /v1/chat/completions"]
    hangs.set()


def test_an_exporter_that_fails_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(SpanExporter):
        result = SpanExportResult.FAILURE

        def export(self, spans: Any) -> SpanExportResult:
            logging.getLogger("opentelemetry.exporter.otlp").warning("no route")
            return self.result

        def shutdown(self) -> None:
            pass

    caplog.set_level(logging.INFO)
    inner = Fails()
    quiet = QuietExporter(inner)
    for result in (
        SpanExportResult.FAILURE,
        SpanExportResult.FAILURE,
        SpanExportResult.SUCCESS,
        SpanExportResult.SUCCESS,
    ):
        inner.result = result
        quiet.export([])
    assert [record.getMessage() for record in caplog.records] == [
        "traces cannot be exported, and are lost: no route",
        "traces are exported again",
    ]


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_tracing_is_on_if_an_endpoint_is_set(environment: dict[str, str], on: bool) -> None:
    assert check_tracing(environment) is on


def test_what_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4317"}
    with pytest.raises(
        TracingError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; hotseat exports traces by http/protobuf only"
    ):
        check_tracing({**endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    monkeypatch.setattr("hotseat.telemetry.tracing.NEEDED", ("no_such_package.sdk",))
    with pytest.raises(TracingError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set, .*pip install 'hotseat\[otel\]'"):
        check_tracing(endpoint)


def test_without_an_endpoint_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert start_tracing("hotseat") is None
