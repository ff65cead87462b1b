"""Events of a cluster without a Broker: demand goes to the switcher directly, and every event to a sink, if one is set."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import ECHO, HEARTBEAT, DemandReporter, SwitcherClient
from hotseat.cluster.switcher import status_objects as statuses
from hotseat.control.event_log import HttpSink
from hotseat.core.messages import Demand, QueuedDemand, Residency

from . import fake_switcher
from .fake_switcher import Home

KEY = DemandKeys(b"0123456789abcdef")


class Server:
    """Keeps the headers and bodies of what it is sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self._news = threading.Condition()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with server._news:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    server.requests.append((self.path, headers, json.loads(body)))
                    server._news.notify_all()
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def wait_for(self, condition: Callable[[], Any]) -> None:
        with self._news:
            assert self._news.wait_for(condition, 30)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def reporter(client: SwitcherClient) -> DemandReporter:
    waiting = {"a": QueuedDemand(1, time.monotonic(), 0)}
    made = DemandReporter("w", "pod-1", client, lambda: Demand("pod-1-x", 3, 7, waiting))
    made.enrolled = True
    return made


def test_without_a_broker_demand_goes_to_the_switcher_at_once_and_no_echo_is_awaited(server: Server) -> None:
    each = reporter(SwitcherClient("", server.url, KEY))
    assert [each.report(), each.report()] == [HEARTBEAT, HEARTBEAT]
    server.wait_for(lambda: server.requests)
    path, headers, body = server.requests[0]
    assert (path, headers["ce-type"], body["seq"]) == ("/demand", "dev.hotseat.demand.reported.v1", 3)
    each.close()


def test_through_a_broker_the_echo_is_awaited(server: Server) -> None:
    each = reporter(SwitcherClient(f"{server.url}/broker", server.url, KEY))
    assert [each.report(), each.report()] == [HEARTBEAT, ECHO / 2]
    server.wait_for(lambda: server.requests)
    assert {path for path, _, _ in server.requests} == {"/broker"}
    each.close()


@pytest.mark.parametrize("broker", ["", "/broker"])
def test_a_router_sends_its_demand_to_the_sink_too(server: Server, broker: str) -> None:
    sink = HttpSink(f"{server.url}/sink")
    urls = f"{server.url}{broker}" if broker else "", server.url
    each = reporter(SwitcherClient(*urls, KEY, source="/namespaces/test", sink=sink))
    each.report()
    server.wait_for(lambda: len(server.requests) == 2)  # no thread of its own reports
    got = {path: (headers, body) for path, headers, body in server.requests}
    assert got.keys() == {"/sink", broker or "/demand"}
    for headers, body in got.values():
        assert headers["ce-type"] == "dev.hotseat.demand.reported.v1"
        assert headers["ce-source"] == "/namespaces/test/workspaces/w"
        assert (headers["ce-epoch"], headers["content-type"]) == ("7", "application/json")
        assert KEY.signed(body, headers["ce-signature"])
        assert body["waiting"]["a"]["count"] == 1
    each.close()
    sink.close()


@pytest.mark.parametrize("broker", [True, False])
def test_a_switcher_sends_its_events_to_the_broker_and_to_the_sink(
    server: Server, monkeypatch: pytest.MonkeyPatch, broker: bool
) -> None:
    urls = {"broker": f"{server.url}/{{namespace}}/hotseat" if broker else "", "sink": f"{server.url}/sink"}
    monkeypatch.setattr(fake_switcher, "SETTINGS", replace(fake_switcher.SETTINGS, **urls))
    home = Home(monkeypatch)
    home.start()
    try:
        home.write("a")
        home.load("a")
        wanted = ["switch.started", "model.ready", "switch.completed"]
        paths = ["/test/hotseat", "/sink"] if broker else ["/sink"]

        def sent(to: str) -> list[str]:
            kinds = [headers["ce-type"] for path, headers, _ in server.requests if path == to]
            return [kind.removeprefix("dev.hotseat.").removesuffix(".v1") for kind in kinds]

        server.wait_for(lambda: all([kind for kind in sent(path) if kind in wanted] == wanted for path in paths))
        assert {path for path, _, _ in server.requests} == set(paths)
        assert {headers["ce-source"] for _, headers, _ in server.requests} == {"/namespaces/test/workspaces/default"}
        conditions = home.status()["conditions"]
        assert [each["reason"] for each in conditions if each["type"] == "EventsDelivered"] == (
            ["NotUsedYet"] if broker else ["NoBroker"]
        )
    finally:
        home.close()


def test_a_workspace_without_a_broker_does_not_say_that_events_are_lost() -> None:
    _, events = statuses.workspace_conditions(1, Residency(), broker_ok=None, has_broker=False)
    assert (events["status"], events["reason"]) == ("Unknown", "NoBroker")
