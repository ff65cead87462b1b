"""One trace from a router over CloudEvents to the switcher, and back over its events."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from werkzeug.serving import make_server

from hotseat.cluster.router.demand_reporter import DemandReporter, SwitcherClient
from hotseat.cluster.router.reads import EventFollower
from hotseat.cluster.switcher import app as switcher_app
from hotseat.control.codec import demand_to_json
from hotseat.control.event_log import EventLog
from hotseat.core.messages import Demand, QueuedDemand
from hotseat.telemetry.tracing import RequestEnd
from tests.unit.telemetry.test_spans import Exported, below, ids

from .fake_switcher import SETTINGS, Home


@pytest.fixture
def router() -> Iterator[Exported]:
    made = Exported()
    yield made
    made.tracing.close()


@pytest.fixture
def switcher() -> Exported:
    return Exported()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, switcher: Exported) -> Iterator[Home]:
    """A switcher that traces."""
    monkeypatch.setattr(switcher_app, "start_tracing", lambda _: switcher.tracing)
    home = Home(monkeypatch)
    home.start()
    yield home
    home.close()


@contextmanager
def serving(home: Home) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, home.app.gateway, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        home.app._events.close()  # followers get an answer
        server.shutdown()
        thread.join()
        server.server_close()


def span(exported: Exported, name: str) -> ReadableSpan | None:
    exported.tracing.complete()
    return next((each for each in exported.memory.get_finished_spans() if each.name == name), None)


def test_a_switch_of_the_switcher_is_in_the_trace_of_a_request_at_the_router(
    home: Home, router: Exported, switcher: Exported
) -> None:
    home.write("b")
    home.until(lambda: any(row["name"] == "b" for row in home.status().get("models") or ()))
    request = router.chat()
    request.submit(lambda: ("default", "b"))
    seen = EventLog()
    seen.subscribe(router.tracing.event_seen)
    with serving(home) as url:
        client = SwitcherClient("", url, SETTINGS.key)
        waiting = {"b": QueuedDemand(1, time.monotonic())}
        numbers = iter(range(1, 10_000))
        reporter = DemandReporter(
            "default", "router-0", client, lambda: Demand("r", next(numbers), 0, waiting), router.tracing
        )
        follower = EventFollower(client, seen.publish)
        follower.start()
        reporter.mark()
        switch = home.until(lambda: span(switcher, "switch b"))
        home.until(lambda: any(event["type"].endswith("switch.completed.v1") for _, event in seen.after(0)))
        reporter.close()
        follower.close()
    request.end(
        RequestEnd(200, model="b", held=True, dispatched=0.0, switches=(switch.attributes["hotseat.switch.id"],))
    )
    wait = span(router, "queue b")
    assert wait is not None
    assert below(switch, wait)
    assert switch.attributes["hotseat.switch.outcome"] == "completed"
    assert [link.context.span_id for link in wait.links] == [switch.context.span_id], "the router knows the span"
    told = {event["type"]: event for _, event in seen.after(0)}
    for kind in ("started", "completed"):
        assert told[f"dev.hotseat.switch.{kind}.v1"]["traceparent"].split("-")[1:3] == list(ids(switch))


def test_demand_is_a_cloudevent_of_the_trace(router: Exported) -> None:
    sent = list[dict[str, Any]]()
    client = SwitcherClient("", "", SETTINGS.key, sink=sent.append)
    reporter = DemandReporter("w", "router-0", client, lambda: Demand("r", 1, 0), router.tracing)
    reporter.report()
    request = router.chat()
    request.submit(lambda: ("w", "b"))
    reporter.report()
    reporter.close()
    before, event = sent
    assert "traceparent" not in before
    assert "traces" not in before["data"]
    assert event["data"]["traces"] == {"b": event["traceparent"]}
    assert event["traceparent"].split("-")[1] == request.trace_id
    assert client.event_headers("w", "demand.reported", event["data"])["ce-traceparent"] == event["traceparent"]
    request.end(RequestEnd(200))


@pytest.mark.parametrize("traces", [None, "x", ["b"], {"b": None}, {"b": {"c": 1}}, {"b": "00-0-0-01"}])
def test_nonsense_in_the_traces_harms_nothing(home: Home, switcher: Exported, traces: Any) -> None:
    data = demand_to_json("default", Demand("r", 1, 0)) | {"pod": "router-0", "traces": traces}
    home.until(lambda: home.app._leading)
    headers = SwitcherClient("", "", SETTINGS.key).event_headers("default", "demand.reported", data | {"traces": {}})
    headers["ce-signature"] = SETTINGS.key.sign(data)
    assert home.app.gateway.test_client().post("/demand", json=data, headers=headers).status_code == 202
    assert not switcher.tracing._asked
