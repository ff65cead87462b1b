"""Two servers that fail in each way behind a real hotseat (engine external): retries, failover, circuit breaker, health checks."""

import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .conftest import Up
from .harness import Answer, Hotseat, eventually, model

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing the socket resets the connection


class Handler(BaseHTTPRequestHandler):
    """One connection to an Upstream."""

    protocol_version = "HTTP/1.1"
    upstream: "Upstream"

    def do_GET(self) -> None:
        self._answer(200 if self.upstream.healthy else 500, b"{}")

    def do_POST(self) -> None:
        upstream, does = self.upstream, self.upstream.does
        upstream.requests.append(self.rfile.read(int(self.headers["Content-Length"])))
        if does.isdecimal():
            self._answer(int(does), b'{"error": "mine"}')
        elif does == "answer":
            self._answer(200, b'{"by": "%b"}' % upstream.name.encode())
        else:
            if does == "hang":
                upstream.over.wait()
            if does == "break":
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {"by": 1}\n\n')
                self.wfile.flush()
            if does != "close":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close_connection = True
            self.connection.close()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def finish(self) -> None:
        """Flush nothing: the connection may be closed."""


class Upstream:
    """A server that does what `does` says at each moment: answer, reset, close, hang, break a stream off, or refuse with a status."""

    def __init__(self, name: str) -> None:
        self.name, self.does, self.healthy = name, "answer", True
        self.requests: list[bytes] = []
        self.over = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Of" + name, (Handler,), {"upstream": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()


@pytest.fixture
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    pair = Upstream("first"), Upstream("second")
    yield pair
    for each in pair:
        each.close()


def external(first: Upstream, second: Upstream | None = None, **spec: Any) -> dict[str, Any]:
    others = [] if second is None else [second.url]
    return model("m", engine="external", url=first.url, args=[], failoverUrls=others, **spec)


def by(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json()["by"])


def servers(hotseat: Hotseat) -> list[dict[str, Any]]:
    [row] = hotseat.get("/running").json()["running"]
    found: list[dict[str, Any]] = row["upstreams"]
    return found


@pytest.mark.parametrize("fails", ["reset", "close", "hang", "429", "502", "503", "504", "gone"])
def test_another_server_answers_in_whatever_way_the_first_fails(
    up: Up, upstreams: tuple[Upstream, Upstream], fails: str
) -> None:
    first, second = upstreams
    hotseat = up(external(first, second, lifecycle={"responseStartTimeout": "1s"}))
    if fails == "gone":
        first.close()
    else:
        assert by(hotseat.ask("m")) == "first"
        first.does = fails
    answer = hotseat.ask("m")
    assert by(answer) == "second"
    if fails != "gone":
        assert first.requests[-1] == second.requests[-1]
    newest = hotseat.get("/api/requests").json()["requests"][0]
    assert (newest["status"], newest["retries"]) == (200, 1)
    reason = {"gone": "unreachable", "hang": "timeout", "reset": "disconnected", "close": "disconnected"}.get(
        fails, f"status_{fails}"
    )
    assert hotseat.metrics()["hotseat_upstream_retries_total", "m", reason] == 1


def test_an_answer_that_has_begun_is_never_repeated(up: Up, upstreams: tuple[Upstream, Upstream]) -> None:
    first, second = upstreams
    first.does = "break"
    answer = up(external(first, second)).ask("m", stream=True)
    assert (answer.status, len(answer.data()), "error" in answer.data()[-1]) == (200, 2, True)
    assert second.requests == []


def test_a_server_that_fails_is_left_out_until_a_trial_succeeds(up: Up, upstreams: tuple[Upstream, Upstream]) -> None:
    first, second = upstreams
    hotseat = up(external(first, second, circuitBreaker={"failureThreshold": 2, "openDuration": "1s"}))
    first.does = "503"
    assert [by(hotseat.ask("m")) for _ in range(2)] == ["second", "second"]
    event = hotseat.wait_event("model.upstream_failed", "m")
    assert (event["data"]["url"], event["data"]["retry_after"]) == (first.url, 1.0)
    first.does = "answer"
    eventually(lambda: by(hotseat.ask("m")) == "first")
    hotseat.wait_event("model.upstream_recovered", "m")
    assert [row["circuit"] for row in servers(hotseat)] == ["closed", "closed"]


def test_without_another_server_the_circuit_answers_at_once_or_a_fallback(
    up: Up, upstreams: tuple[Upstream, Upstream]
) -> None:
    first, _ = upstreams
    breaker = {"failureThreshold": 1, "openDuration": "10m"}
    hotseat = up(external(first, circuitBreaker=breaker), model("local", resources={"gpus": 0}))
    first.does = "503"
    assert hotseat.ask("m").status == 503
    refused = hotseat.ask("m")
    assert (refused.status, refused.code, len(first.requests)) == (503, "upstream_unavailable", 1)
    assert [(row["circuit"], row["available"]) for row in servers(hotseat)] == [("open", False)]
    assert hotseat.metrics()["hotseat_upstream_available", "m", first.url] == 0
    assert 590 <= int(refused.headers["Retry-After"]) <= 600
    hotseat.write(
        [external(first, circuitBreaker=breaker, fallback={"model": "local"}), model("local", resources={"gpus": 0})]
    )
    eventually(lambda: hotseat.ask("m").status == 200)
    answer = hotseat.ask("m")
    assert (answer.by, answer.headers["X-Hotseat-Fallback"]) == ("local", "model=m, fallback=local, reason=failed")
    assert len(first.requests) == 1


def test_health_checks_find_out_before_requests_do(up: Up, upstreams: tuple[Upstream, Upstream]) -> None:
    first, second = upstreams
    hotseat = up(external(first, second, health={"path": "/health", "period": "1s", "failureThreshold": 2}))
    eventually(lambda: [row["healthy"] for row in servers(hotseat)] == [True, True])
    first.healthy = False
    eventually(lambda: servers(hotseat)[0]["healthy"] is False)
    assert (by(hotseat.ask("m")), first.requests) == ("second", [])
    assert "GET /health got status 500" in hotseat.wait_event("model.upstream_failed", "m")["data"]["message"]
    first.healthy = True
    eventually(lambda: servers(hotseat)[0]["healthy"])
    assert by(hotseat.ask("m")) == "first"


def test_without_these_fields_every_answer_is_passed_on(up: Up, upstreams: tuple[Upstream, Upstream]) -> None:
    first, _ = upstreams
    hotseat = up(external(first))
    for status in ("503", "429"):
        first.does = status
        answer = hotseat.ask("m")
        assert (answer.status, answer.json()) == (int(status), {"error": "mine"})
    assert len(first.requests) == 2
    assert servers(hotseat) == []
