"""Connections of a router to its switcher, and its reports of demand."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from hotseat.api.types import Json
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import DemandReporter, SwitcherClient
from hotseat.core.errors import NotFound
from hotseat.core.messages import Demand


class _FirstRefuses(BaseHTTPRequestHandler):
    """Refuses every request of the first connection, as a proxy or a standby does, and keeps that connection open."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        super().setup()
        type(self).connections += 1
        self.status = 404 if type(self).connections == 1 else 202

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[SwitcherClient]:
    handler = type("Handler", (_FirstRefuses,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield SwitcherClient("", f"http://127.0.0.1:{server.server_port}", DemandKeys(b"0123456789abcdef"))
    server.shutdown()
    server.server_close()


def test_after_a_refused_report_the_next_one_takes_another_connection(client: SwitcherClient) -> None:
    """A Service may have led the first to another server, and that connection stays there."""
    refused, *accepted = [client.directly("w", "demand.reported", {}) for _ in range(3)]
    assert refused == f"{client.switcher}/demand: HTTP 404"
    assert accepted == ["", ""]


@pytest.mark.parametrize(("status", "hastens"), [(202, False), (404, False), (403, True)])
def test_a_router_whose_signature_is_refused_signs_with_the_key_that_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, hastens: bool
) -> None:
    (path := tmp_path / "key").write_bytes(b"the new key, long enough")
    keys = DemandKeys(b"the old key, long enough", path)
    keys.read()
    client = SwitcherClient("", "http://switcher", keys)
    monkeypatch.setattr(client, "_request", lambda *_: (status, b""))
    client.directly("w", "demand.reported", {})
    assert (keys.sign({}) == DemandKeys(b"the new key, long enough").sign({})) == hastens


def test_after_a_refused_read_the_next_one_takes_another_connection(client: SwitcherClient) -> None:
    with pytest.raises(NotFound):
        client.read({}, 0)
    assert client.read({}, 0) == {}


def test_a_refusal_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    class Client(SwitcherClient):
        problems: ClassVar = ["HTTP 503", "HTTP 503", "HTTP 401 the signature does not match", "", ""]

        def directly(self, workspace: str, kind: str, data: Json) -> str:
            return self.problems.pop(0)

    reporter = DemandReporter("w", "router-0", Client("", "http://switcher", b"key"), lambda: Demand("r", 1, 0))
    caplog.set_level("INFO")
    for _ in range(5):
        reporter._send_directly()
    assert [each.message for each in caplog.records] == [
        "the switcher does not accept the demand of Workspace w: HTTP 503",
        "the switcher does not accept the demand of Workspace w: HTTP 401 the signature does not match",
        "the switcher accepts the demand of Workspace w again",
    ]
