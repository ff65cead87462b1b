"""The traces of requests through a router: what the engine is sent, what records and logs say, and that nothing is left."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from hotseat.gateway.spool import Spool
from hotseat.telemetry.logs import JsonLines, TextLines
from tests.unit.gateway.http.running import LOOPS, eventually
from tests.unit.gateway.http.test_connection import Client
from tests.unit.gateway.relay.fake_engine import Engine, answers, sized
from tests.unit.gateway.test_form_request import FILE, FORM, MODEL, PATH, whole
from tests.unit.gateway.test_inference import CHAT, Router, post
from tests.unit.telemetry.test_spans import NOT_SAMPLED, SAMPLED, TRACE, Exported, below, ids

USAGE = sized(json.dumps({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode())


class Traced:
    """A router that traces."""

    def __init__(self) -> None:
        self.exported = Exported()
        self.router = Router(next(iter(LOOPS)), tracing=self.exported.tracing)

    def spans(self, count: int) -> dict[str, ReadableSpan]:
        return eventually(lambda: len(found := self.exported.spans()) == count and found)

    def rows(self) -> list[dict[str, Any]]:
        return self.router.http.service._inference.records.rows(self.router.world, None, 10)


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.router.close()
    assert not made.exported.tracing.requests, "no request is kept beyond its end"
    made.exported.tracing.close()


def traceparents(request: bytes) -> list[bytes]:
    return [line for line in request.split(b"\r\n") if line.lower().startswith(b"traceparent")]


def test_the_engine_is_sent_the_trace_and_the_record_has_it(traced: Traced) -> None:
    with Engine(answers(USAGE)) as engine:
        traced.router.ready("a", engine.address)
        with Client(traced.router) as client:
            client.send(post(CHAT, f"Traceparent: {SAMPLED}"))
            assert client.answer()[0] == 200
        spans = traced.spans(2)
        server, inference = spans["POST /v1/chat/completions"], spans["chat a"]
        assert below(inference, server)
        assert traceparents(engine.requests[0]) == [f"traceparent: 00-{TRACE}-{ids(inference)[1]}-01".encode()]
    assert inference.attributes["gen_ai.usage.output_tokens"] == 4
    assert inference.attributes["gen_ai.provider.name"] == "mock"
    assert f"http://127.0.0.1:{inference.attributes['server.port']}" == engine.address
    (row,) = traced.rows()
    assert (row["trace_id"], server.attributes["hotseat.request.id"]) == (TRACE, row["id"])


def test_a_form_in_a_file_is_traced_too(tmp_path: Path) -> None:
    exported = Exported()
    router = Router(next(iter(LOOPS)), Spool(tmp_path, 30_000_000), tracing=exported.tracing)
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, names=["whisper-1"])
        with Client(router) as client:
            client.send(post(whole(FILE, MODEL), FORM, f"traceparent: {SAMPLED}", path=PATH))
            assert client.answer()[0] == 200
        inference = eventually(lambda: exported.spans().get("transcription whisper-1"))
        assert traceparents(engine.requests[0]) == [f"traceparent: 00-{TRACE}-{ids(inference)[1]}-01".encode()]
        router.connections.close()
    router.close()
    exported.tracing.close()


def test_each_request_with_the_same_head_has_a_trace_of_its_own(traced: Traced) -> None:
    with Engine(answers(USAGE)) as engine:
        traced.router.ready("a", engine.address)
        for _ in range(3):
            with Client(traced.router) as client:
                client.send(post(CHAT))
                assert client.answer()[0] == 200
        sent = [traceparents(each) for each in engine.requests]
    assert len({line for (line,) in sent}) == 3
    assert len({row["trace_id"] for row in traced.rows()}) == 3


def test_what_is_not_sampled_reaches_the_engine_as_it_came(traced: Traced) -> None:
    with Engine(answers(USAGE)) as engine:
        traced.router.ready("a", engine.address)
        with Client(traced.router) as client:
            client.send(post(CHAT, f"traceparent: {NOT_SAMPLED}"))
            assert client.answer()[0] == 200
        assert traceparents(engine.requests[0]) == [f"traceparent: {NOT_SAMPLED}".encode()]
    assert [row["trace_id"] for row in traced.rows()] == [None]
    assert not traced.exported.spans()


def test_a_wait_has_a_span_and_asks_for_a_switch(traced: Traced) -> None:
    with Engine(answers(USAGE)) as engine:
        traced.router.ready("a", "")
        with Client(traced.router) as client:
            client.send(post(CHAT))
            eventually(lambda: traced.router.world.held() == 1)
            demand = traced.exported.tracing.demand("w")
            traced.router.ready("a", engine.address)
            assert client.answer()[0] == 200
        spans = traced.spans(3)
    wait, server = spans["queue a"], spans["POST /v1/chat/completions"]
    assert below(wait, server)
    assert demand == {"a": f"00-{ids(wait)[0]}-{ids(wait)[1]}-03"}
    assert wait.attributes["hotseat.queue.position"] == 1
    assert server.start_time <= wait.start_time <= wait.end_time <= spans["chat a"].end_time
    assert not traced.exported.tracing.demand("w")


@pytest.mark.parametrize("body", [b"{", b'{"model": "nobody", "messages": []}'])
def test_a_request_that_reaches_no_model_has_one_span(traced: Traced, body: bytes) -> None:
    with Client(traced.router) as client:
        client.send(post(body))
        status = client.answer()[0]
    (span,) = traced.spans(1).values()
    assert span.attributes["http.response.status_code"] == status
    assert status in {400, 404}


def test_a_client_that_leaves_ends_its_spans(traced: Traced) -> None:
    traced.router.ready("a", "")
    with Client(traced.router) as client:
        client.send(post(CHAT))
        eventually(lambda: traced.router.world.held() == 1)
    spans = traced.spans(2)
    assert spans["POST /v1/chat/completions"].attributes["http.response.status_code"] == 499


def test_a_log_record_of_a_request_has_its_ids(
    traced: Traced, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("hotseat.gateway.inference.loading_of", broken)
    traced.router.ready("a", "http://127.0.0.1:9")
    with Client(traced.router) as client:
        client.send(post(CHAT))
        assert client.answer()[0] == 500
    (span,) = traced.spans(1).values()
    trace_id, span_id = ids(span)
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    line = json.loads(JsonLines().format(record))
    assert (line["trace_id"], line["span_id"]) == (trace_id, span_id)
    text = TextLines().format(record)
    assert text.partition("\n")[0].endswith(f"/v1/chat/completions trace_id={trace_id} span_id={span_id}")
    plain = logging.makeLogRecord({"msg": "no request"})
    assert "trace_id" not in JsonLines().format(plain) + TextLines().format(plain)
