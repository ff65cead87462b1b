"""Requests to sleep and to wake, step by step against a socket of ours."""

import select
import socket
from collections.abc import Iterator

import pytest

from hotseat.api.types import EngineCall, Method
from hotseat.runtimes.engine_http import STATE_PAUSE, EngineRefused, EngineRequest

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SLEEP = EngineCall(path="/sleep?level=1", body='{"a": 1}', timeout="5s")
RESET = EngineCall(path="/reset", method=Method.PUT)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def asked(engine_request: EngineRequest, server: socket.socket, now: float) -> tuple[socket.socket, bytes]:
    """Let it ask the next thing; the server's end, and what came there."""
    assert not engine_request.step(now)
    while engine_request.events != select.POLLIN:
        _wait(engine_request)
        assert not engine_request.step(now)
    connection, _ = server.accept()
    connection.settimeout(5)
    return connection, connection.recv(4096)


def answered(engine_request: EngineRequest, connection: socket.socket, data: bytes, now: float) -> bool:
    connection.sendall(data)
    connection.close()
    _wait(engine_request)
    while not (done := engine_request.step(now)) and engine_request.events == select.POLLIN:
        _wait(engine_request)
    return done


def _wait(engine_request: EngineRequest) -> None:
    poll = select.poll()
    assert engine_request.fd is not None
    poll.register(engine_request.fd, engine_request.events)
    assert poll.poll(5000)


def question(sleeping: bool) -> bytes:
    body = b'{"is_sleeping": %s}' % (b"true" if sleeping else b"false")
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_calls_are_made_one_after_another(server: socket.socket) -> None:
    engine_request = EngineRequest(server.getsockname(), [SLEEP, RESET], now=0.0)
    connection, request = asked(engine_request, server, 0.0)
    assert request.startswith(b"POST /sleep?level=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nContent-Type: application/json\r\nContent-Length: 8\r\nConnection: close\r\n" in request
    assert request.endswith(b'\r\n\r\n{"a": 1}')
    assert not answered(engine_request, connection, OK, 0.0)
    connection, request = asked(engine_request, server, 0.0)
    assert request.startswith(b"PUT /reset HTTP/1.1\r\n")
    assert b"Content-Type" not in request
    assert answered(engine_request, connection, b"HTTP/1.1 204 No Content\r\n\r\n", 0.0)
    engine_request.close()


def test_the_question_is_repeated_until_the_answer_is_the_wanted_one(server: socket.socket) -> None:
    engine_request = EngineRequest(server.getsockname(), [], now=0.0, state_path="/is_sleeping")
    connection, request = asked(engine_request, server, 0.0)
    assert request.startswith(b"GET /is_sleeping ")
    assert not answered(engine_request, connection, question(False), 1.0)
    assert (engine_request.fd, engine_request.due) == (None, 1.0 + STATE_PAUSE)
    connection, _ = asked(engine_request, server, 1.0 + STATE_PAUSE)
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{"is_sleeping": true}\r\n0\r\n\r\n'
    assert answered(engine_request, connection, chunked, 2.0)


def test_awake_is_another_answer_to_the_same_question(server: socket.socket) -> None:
    engine_request = EngineRequest(server.getsockname(), [], now=0.0, state_path="/is_sleeping", sleeping=False)
    connection, _ = asked(engine_request, server, 0.0)
    assert answered(engine_request, connection, question(False), 0.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nno\n memory", "got status 500: no memory"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "got status 404"),
        (b"what?", "got a response that is not HTTP"),
        (b"", "got no response: the connection was closed"),
    ],
)
def test_anything_but_2xx_is_a_no(server: socket.socket, answer: bytes, said: str) -> None:
    engine_request = EngineRequest(server.getsockname(), [SLEEP], now=0.0)
    connection, _ = asked(engine_request, server, 0.0)
    with pytest.raises(EngineRefused) as caught:
        answered(engine_request, connection, answer, 0.0)
    assert str(caught.value).startswith(f"POST /sleep?level=1 {said}")
    engine_request.close()


def test_a_call_that_takes_longer_than_its_own_time_is_a_no(server: socket.socket) -> None:
    engine_request = EngineRequest(server.getsockname(), [SLEEP], now=10.0)
    connection, _ = asked(engine_request, server, 10.0)
    assert engine_request.due == 15.0
    assert not engine_request.step(14.9)
    with pytest.raises(EngineRefused, match="got no response in time"):
        engine_request.step(15.0)
    engine_request.close()
    connection.close()


def test_nobody_there_is_a_no() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    engine_request = EngineRequest(address, [SLEEP], now=0.0)
    with pytest.raises(EngineRefused, match="refused"):  # noqa: PT012 - it depends on the system when it hears of that
        engine_request.step(0.0)
        _wait(engine_request)
        engine_request.step(0.0)
    engine_request.close()
