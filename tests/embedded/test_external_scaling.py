"""A server that something else starts and stops by load (engine external): requests are held for it, and counted."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .conftest import Up
from .harness import Hotseat, eventually, model


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Server:
    """What an autoscaler starts."""

    def __init__(self, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                answer = b'{"object": "mine"}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def hotseat(up: Up, port: int) -> Iterator[Hotseat]:
    url = f"http://127.0.0.1:{port}"
    patient = model(
        "patient", engine="external", url=url, args=[], names=["Patient 1"], lifecycle={"connectTimeout": "30s"}
    )
    hasty = model("hasty", engine="external", url=url, args=[], lifecycle={"connectTimeout": "200ms"})
    return up(patient, hasty)


def load(hotseat: Hotseat, name: str) -> int:
    """What an autoscaler reads: by `metadata.name`."""
    return int(hotseat.get("/api/queue").json()["requests"][name])


def test_requests_are_held_and_counted_until_the_server_is_there(hotseat: Hotseat, port: int) -> None:
    assert load(hotseat, "patient") == 0
    calls = [hotseat.send("Patient 1") for _ in range(3)]
    eventually(lambda: load(hotseat, "patient") == 3)
    [row] = [row for row in hotseat.get("/api/queue").json()["queue"] if row["metadata_name"] == "patient"]
    assert (row["waiting"], row["in_flight"], row["model"]) == (0, 3, "Patient 1")
    server = Server(port)
    try:
        assert [json.loads(call.answer().body) for call in calls] == [{"object": "mine"}] * 3
        eventually(lambda: load(hotseat, "patient") == 0)
    finally:
        server.close()


def test_after_its_time_the_request_fails(hotseat: Hotseat) -> None:
    began = time.monotonic()
    answer = hotseat.ask("hasty")
    assert (answer.status, answer.code) == (502, "upstream_failed")
    assert 0.2 <= time.monotonic() - began < 10


def test_the_clients_own_limit_holds_too(hotseat: Hotseat) -> None:
    began = time.monotonic()
    assert hotseat.ask("patient", headers={"X-Request-Timeout": "300ms"}).status == 502
    assert time.monotonic() - began < 10


def test_a_client_that_leaves_is_counted_no_longer(hotseat: Hotseat) -> None:
    call = hotseat.send("patient")
    eventually(lambda: load(hotseat, "patient") == 1)
    call.leave()
    eventually(lambda: load(hotseat, "patient") == 0)
