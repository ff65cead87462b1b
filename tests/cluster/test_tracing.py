"""One trace from a client over the router, its demand as a CloudEvent, the switcher and the engine, as a receiver outside gets it."""

import http.server
import json
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .harness import Hotseat, apply_crds, deploy_without_knative, destroy, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver:
    """Takes spans over HTTP, by the name of their service."""

    def __init__(self, home: Hotseat) -> None:
        self.spans: list[tuple[str, Span]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for of in request.resource_spans:
                    service = next(a.value.string_value for a in of.resource.attributes if a.key == "service.name")
                    receiver.spans += [(service, span) for scope in of.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.url = f"http://{home.node_address()}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of_trace(self) -> dict[str, tuple[str, Span]]:
        """The spans of the client's trace, by name, with their service."""
        return {span.name: (service, span) for service, span in list(self.spans) if span.trace_id.hex() == TRACE}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Hotseat]:
    before = request.session.testsfailed
    home = Hotseat(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    apply_crds()
    home.kubectl("create", "namespace", home.namespace)
    yield home
    destroy(home, failed=request.session.testsfailed > before)


@pytest.fixture
def receiver(home: Hotseat) -> Iterator[Receiver]:
    receiver = Receiver(home)
    yield receiver
    receiver.close()


def test_a_switch_is_in_the_trace_of_the_request_that_asked_for_it(home: Hotseat, receiver: Receiver) -> None:
    deploy_without_knative(home, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="200")
    home.apply(model("a"))
    wait_until(lambda: home.status("model", "a").get("phase"), 60, "the Model")
    body = json.dumps({"model": "a", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    url = f"http://{home.component('router')['status']['podIP']}:8080/v1/chat/completions"
    headers = {"Content-Type": "application/json", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        assert answer.status == 200
    wanted = {"POST /v1/chat/completions", "queue a", "chat a", "switch a", "load"}
    wait_until(lambda: wanted <= receiver.of_trace().keys(), 20, "the spans of the request and its switch")
    found = receiver.of_trace()
    services = {name: service for name, (service, _) in found.items()}
    spans = {name: span for name, (_, span) in found.items()}
    assert {services[name] for name in ("switch a", "load")} == {"hotseat-switcher"}
    assert {services[name] for name in wanted - {"switch a", "load"}} == {"hotseat-router"}
    server = spans["POST /v1/chat/completions"]
    assert server.parent_span_id.hex() == PARENT
    assert spans["queue a"].parent_span_id == spans["chat a"].parent_span_id == server.span_id
    assert spans["switch a"].parent_span_id == spans["queue a"].span_id
    assert spans["load"].parent_span_id == spans["switch a"].span_id
    assert [link.span_id for link in spans["queue a"].links] == [spans["switch a"].span_id], (
        "the router knows it by its events"
    )
