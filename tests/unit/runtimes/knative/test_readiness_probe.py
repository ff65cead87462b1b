"""The probe of a pod's queue-proxy, over HTTP."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hotseat.runtimes.knative import adapter as readiness_probe
from hotseat.runtimes.knative.adapter import probe_queue_proxy

RESPONSE = {"status": 200, "body": b"queue"}


class QueueProxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        probes = (self.headers["K-Network-Probe"], self.headers["User-Agent"]) == ("queue", "Knative-Activator-Probe")
        self.send_response(RESPONSE["status"] if probes else 400)
        self.end_headers()
        self.wfile.write(RESPONSE["body"])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), QueueProxy) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(readiness_probe, "QUEUE_PORT", server.server_port)
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "ready"), [(200, b"queue", True), (503, b"queue", False), (200, b"another server", False)]
)
@pytest.mark.usefixtures("server")
def test_a_pod_is_ready_once_its_queue_proxy_says_so(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, ready: bool
) -> None:
    monkeypatch.setitem(RESPONSE, "status", status)
    monkeypatch.setitem(RESPONSE, "body", body)
    assert probe_queue_proxy("127.0.0.1") is ready


def test_a_pod_without_a_queue_proxy_is_not_ready(server: HTTPServer) -> None:
    server.server_close()
    assert not probe_queue_proxy("127.0.0.1")
