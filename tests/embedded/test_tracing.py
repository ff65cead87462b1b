"""Traces of a real hotseat, as a receiver of OTLP gets them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .conftest import Up
from .harness import eventually, model, quickest, stopwatch
from .receiver import Receiver

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def spans(receiver: Receiver) -> list[Span]:
    found = []
    for path, _, body in receiver.requests:
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        found += [s for of in request.resource_spans for scope in of.scope_spans for s in scope.spans]
    return found


def named(receiver: Receiver, *names: str) -> list[list[Span]]:
    """The spans of these names, each list in the order of their begin, once there are any of each."""

    def found() -> list[list[Span]]:
        return [[span for span in spans(receiver) if span.name == name] for name in names]

    receiver.wait_for(lambda: all(found()))
    return [sorted(each, key=lambda span: span.start_time_unix_nano) for each in found()]


def attributes(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_a_request_that_switches_is_one_trace_and_others_link_to_the_switch(
    up: Up, receiver: Receiver, tmp_path: Path
) -> None:
    log = tmp_path / "requests.jsonl"
    env = {**FAST, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    hotseat = up(model("a"), model("b", "--load-time", "0.5"), env=env, options=("--request-log", str(log)))
    hotseat.ask("a")
    first = hotseat.send("b", headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"})
    eventually(lambda: hotseat.get("/running").json()["waiting"])
    second = hotseat.send("b")
    assert [call.answer().status for call in (first, second)] == [200, 200]
    receiver.wait_for(lambda: sum(span.name == "chat b" for span in spans(receiver)) == 2)
    waits, (switch,) = named(receiver, "queue b", "switch b")
    mine = bytes.fromhex(TRACE)
    (wait,) = [each for each in waits if each.trace_id == mine]
    (other,) = [each for each in waits if each.trace_id != mine]
    (server,) = [each for each in spans(receiver) if each.trace_id == mine and each.kind == Span.SPAN_KIND_SERVER]
    (inference,) = [each for each in spans(receiver) if each.trace_id == mine and each.kind == Span.SPAN_KIND_CLIENT]
    assert (server.name, server.parent_span_id.hex()) == ("POST /v1/chat/completions", PARENT)
    assert (wait.parent_span_id, inference.parent_span_id) == (server.span_id, server.span_id)
    assert (switch.trace_id, switch.parent_span_id) == (mine, wait.span_id)
    phases = {each.name: each for each in spans(receiver) if each.parent_span_id == switch.span_id}
    assert set(phases) >= {"release", "load"}
    assert phases["release"].end_time_unix_nano <= phases["load"].start_time_unix_nano
    load = phases["load"].end_time_unix_nano - phases["load"].start_time_unix_nano
    assert load >= 0.5e9
    assert [(link.trace_id, link.span_id) for link in other.links] == [(mine, switch.span_id)]
    assert not wait.links
    assert attributes(inference).items() >= {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "mock", "gen_ai.request.model": "b",
        "gen_ai.response.model": "b",
    }.items()  # fmt: skip
    assert attributes(inference)["gen_ai.usage.output_tokens"]
    rows = hotseat.get("/api/requests?model=b").json()["requests"]
    assert {row["trace_id"] for row in rows} == {TRACE, other.trace_id.hex()}
    eventually(lambda: len(log.read_text().splitlines()) == 3)
    assert {json.loads(line)["trace_id"] for line in log.read_text().splitlines()} >= {TRACE, other.trace_id.hex()}
    hotseat.catch_up()
    (started,) = [each for each in hotseat.events("switch.started") if each["data"]["to"] == "b"]
    assert started["traceparent"].split("-")[1:3] == [TRACE, switch.span_id.hex()]


def test_the_engine_gets_the_trace(up: Up, receiver: Receiver) -> None:
    env = {**FAST, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    hotseat = up(model("a"), env=env)
    assert hotseat.ask("a", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}).status == 200
    ((inference,),) = named(receiver, "chat a")
    sent = hotseat.stats("a")["last"]["headers"]
    assert sent["traceparent"] == f"00-{TRACE}-{inference.span_id.hex()}-01"


def test_a_receiver_that_is_down_or_hangs_delays_nothing(up: Up, receiver: Receiver) -> None:
    receiver.hanging = True
    hotseat = up(model("a"), env={**FAST, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    hotseat.ask("a")
    receiver.wait_for(lambda: receiver.requests)

    def seconds() -> float:
        with stopwatch() as taken:
            assert hotseat.ask("a").status == 200
        return taken()

    quickest(seconds, below=0.1)
    with stopwatch() as taken:
        hotseat.close()
    assert taken() < 15, "it waits two seconds for the last spans"


def test_without_an_endpoint_a_request_is_passed_on_as_it_is(up: Up) -> None:
    hotseat = up(model("a"))
    header = f"00-{TRACE}-{PARENT}-01"
    assert hotseat.ask("a", headers={"traceparent": header}).status == 200
    assert hotseat.stats("a")["last"]["headers"]["traceparent"] == header
    assert hotseat.get("/api/requests").json()["requests"][0]["trace_id"] is None


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf only"),
        ("PYTHONPATH", "without", "pip install 'hotseat[otel]'"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(tmp_path: Path, variable: str, value: str, said: str) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without/sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    (tmp_path / "models.yaml").write_text(json.dumps(model("a")))
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", variable: value}
    command = [
        str(Path(sys.executable).with_name("hotseat")),
        "up",
        "-f",
        "models.yaml",
        "--port",
        "0",
        "--state-dir",
        "s",
    ]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
