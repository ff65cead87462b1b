"""Logs and all events on a cluster: the router reads them of the switcher, and clients of the router."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router import reads
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.cluster.router.reads import EventFollower, RemoteLog
from hotseat.cluster.router.workspaces import RemoteWorkspaces
from hotseat.cluster.switcher.http_api import create_http_api
from hotseat.cluster.switcher.reads import RemoteReads
from hotseat.control.event_log import EventLog
from hotseat.core.errors import NotFound, Unavailable
from hotseat.core.events import Emit
from hotseat.gateway.auth import Keys
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.relay import Connections
from hotseat.gateway.wsgi import create_gateway
from hotseat.runtimes.local.logs import ModelLog
from hotseat.telemetry.metrics import Metrics

KEY = DemandKeys(b"0123456789abcdef")
PATIENCE = 10.0


def nothing(*_: Any) -> Any:
    return {}


class Switcher:
    """The switcher's HTTP API, with the output of a model `a`."""

    def __init__(self) -> None:
        self.output, self.events, self.leading = ModelLog(), EventLog("/namespaces/ns"), True
        self.restart()

    def restart(self, output: ModelLog | None = None) -> None:
        """Be another run of the switcher."""
        self.output = output or self.output
        self.events = EventLog("/namespaces/ns")
        logs = {"a": self.output}
        self._read = RemoteReads(logs.get, self.events, lambda: self.leading).read

    def emit(self, kind: str, **data: Any) -> None:
        self.events.emit("w", 1, Emit(kind, "a", data))

    def read(self, query: dict[str, Any]) -> dict[str, Any]:
        return self._read(query)

    @contextmanager
    def serving(self) -> Iterator[str]:
        metrics = Metrics(lambda: iter(()))
        app = create_http_api(KEY, nothing, nothing, lambda: True, metrics, on_read=self.read)
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            self.events.close()
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def switcher() -> Switcher:
    return Switcher()


@pytest.fixture
def client(switcher: Switcher) -> Iterator[SwitcherClient]:
    with switcher.serving() as url:
        yield SwitcherClient("", url, KEY)


def wait_until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end
        time.sleep(0.01)


# Logs -------------------------------------------------------------------------------------------------------------------


def test_the_last_lines_are_read_of_the_switcher(client: SwitcherClient, switcher: Switcher) -> None:
    switcher.output.write(["one", "two", "three"])
    assert RemoteLog(client, "a").tail(2) == ["two", "three"]
    with pytest.raises(NotFound, match="model b does not exist"):
        RemoteLog(client, "b").tail(2)


def test_a_reader_follows_line_by_line(client: SwitcherClient, switcher: Switcher) -> None:
    view = RemoteLog(client, "a")
    switcher.output.write(["one"])
    position, lines = view.read_after(0, 0.0)
    assert lines == ["one"]
    assert view.read_after(position, 0.0) == (position, [])
    threading.Timer(0.05, switcher.output.write, [["two"]]).start()
    assert view.read_after(position, PATIENCE)[1] == ["two"]


def test_another_switcher_goes_on_where_the_last_one_stopped(client: SwitcherClient, switcher: Switcher) -> None:
    view = RemoteLog(client, "a")
    switcher.output.write([*map(str, range(100)), "last"])
    position, _ = view.read_after(0, 0.0)
    newer = ModelLog()
    newer.write(["99", "last", "new"])
    switcher.restart(newer)
    position, lines = view.read_after(position, 0.0)
    assert (position, lines) == (3, ["new"])
    other = ModelLog()
    other.write(["another pod"])
    switcher.restart(other)
    assert view.read_after(position, 0.0) == (1, ["another pod"])


def test_a_switcher_that_does_not_answer_is_told_once_and_asked_again(
    client: SwitcherClient, switcher: Switcher
) -> None:
    view = RemoteLog(client, "a")
    switcher.leading = False
    assert view.read_after(7, 0.0) == (7, ["--- this switcher is not the leader; trying again ---"])
    assert view.read_after(7, 0.0) == (7, [])
    with pytest.raises(Unavailable, match="not the leader"):
        view.tail(1)
    switcher.leading = True
    switcher.output.write(["one"])
    assert view.read_after(7, 0.0) == (1, ["one"])


# Events -----------------------------------------------------------------------------------------------------------------


def types(events: EventLog) -> list[str]:
    return [event["type"].removeprefix("dev.hotseat.").removesuffix(".v1") for _, event in events.after(0)]


def test_a_router_has_all_events_of_the_switcher(
    client: SwitcherClient, switcher: Switcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "PAUSE", 0.02)
    mine = EventLog()
    switcher.emit("model.fetching")
    follower = EventFollower(client, mine.publish)
    follower.start()
    wait_until(lambda: types(mine) == ["model.fetching"])
    switcher.emit("model.failed", message="code 3")
    switcher.emit("model.released")
    wait_until(lambda: types(mine) == ["model.fetching", "model.failed", "model.released"])
    assert [e for _, e in mine.after(0)] == [e for _, e in switcher.events.after(0)], "as the Broker gets them"

    old = switcher.events
    switcher.restart()
    old.close()
    switcher.emit("model.ready")
    wait_until(lambda: types(mine)[3:] == ["model.ready"])
    switcher.leading = False
    switcher.emit("model.unloaded")
    switcher.leading = True
    wait_until(lambda: types(mine)[3:] == ["model.ready", "model.unloaded"])
    follower.close()


# Through the router -----------------------------------------------------------------------------------------------------


@pytest.fixture
def router(client: SwitcherClient) -> Iterator[FlaskClient]:
    """The router, with a Model `a` that the switcher runs, and one that runs elsewhere."""
    events = EventLog()
    registry = RemoteWorkspaces("pod", client, lambda _: None, events)
    rows = [
        {"name": "a", "spec": {"engine": "mock", "names": ["gpt"]}},
        {"name": "far", "spec": {"engine": "external", "url": "http://far"}},
    ]
    registry.apply({"metadata": {"name": "w"}, "spec": {}, "status": {"models": rows}})
    registry.begin()
    follower = EventFollower(client, events.publish)
    follower.start()
    app = create_gateway(
        registry,
        events,
        Metrics(lambda: iter(())),
        Keys(),
        Connections(),
        max_body=1000,
        cors=frozenset(),
        concurrency=ConcurrencyLimit(10),
    )
    yield app.test_client()
    follower.close()
    registry.handles[0].reporter.close()  # type: ignore[attr-defined]


def test_kubectl_hotseat_logs_has_lines(router: FlaskClient, switcher: Switcher) -> None:
    switcher.output.write(["one", "two"])
    assert router.get("/api/models/gpt/logs?lines=1").text == "two\n"
    assert router.get("/api/models/far/logs").status_code == 404
    stream = router.get("/api/models/a/logs?lines=1&follow=true", buffered=False).iter_encoded()
    assert [next(stream), next(stream)] == [b": hotseat\n\n", b"data: two\n\n"]
    switcher.output.write(["three"])
    assert next(stream) == b"data: three\n\n"


def test_kubectl_hotseat_events_has_all_kinds(router: FlaskClient, switcher: Switcher) -> None:
    switcher.emit("model.failed", message="code 3")

    def seen() -> list[dict[str, Any]]:
        lines = router.get("/api/events?follow=false").text.splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    wait_until(lambda: bool(seen()))
    assert [(each["type"], each["subject"], each["data"]) for each in seen()] == [
        ("dev.hotseat.model.failed.v1", "a", {"message": "code 3"})
    ]
