"""One trace from a client over the router, its demand as a CloudEvent, the switcher and the engine, as a receiver outside gets it."""

import json
import urllib.request
from collections.abc import Iterator
from email.message import Message

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .harness import Hotseat, PodServer, deploy_without_knative, listed, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver(PodServer):
    """Takes spans over HTTP, by the name of their service."""

    def __init__(self, home: Hotseat) -> None:
        self.spans: list[tuple[str, Span]] = []
        super().__init__(home)

    def take(self, headers: Message, body: bytes) -> None:
        for of in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in of.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in of.scope_spans for span in scope.spans]

    def of_trace(self) -> dict[str, tuple[str, Span]]:
        """The spans of the client's trace, by name, with their service."""
        return {span.name: (service, span) for service, span in list(self.spans) if span.trace_id.hex() == TRACE}


@pytest.fixture
def receiver(home: Hotseat) -> Iterator[Receiver]:
    receiver = Receiver(home)
    yield receiver
    receiver.close()


def test_a_switch_is_in_the_trace_of_the_request_that_asked_for_it(home: Hotseat, receiver: Receiver) -> None:
    deploy_without_knative(home, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="200")
    home.apply(model("a"))
    wait_until(lambda: listed(home) == {"a"}, 60, "the Model, at the router")
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
