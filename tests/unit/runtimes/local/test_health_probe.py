"""The question whether an engine is ready, step by step against a socket of ours."""

import select
import socket
from collections.abc import Iterator

import pytest

from hotseat.runtimes.engine_http import MAX_PAUSE, MIN_PAUSE, PROBE_TIMEOUT, HealthProbe

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOADING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nloading"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


@pytest.fixture
def probe(server: socket.socket) -> Iterator[HealthProbe]:
    probe = HealthProbe(server.getsockname(), "/health", now=0.0)
    yield probe
    probe.close()


def advance(probe: HealthProbe, now: float) -> bool:
    """Wait for the probe's socket as its owner does, and step."""
    if (fd := probe.fd) is not None:
        poll = select.poll()
        poll.register(fd, probe.events)
        assert poll.poll(5000)
    return probe.step(now)


def ask(probe: HealthProbe, server: socket.socket, now: float) -> socket.socket:
    """Let the probe connect and ask; the server's end."""
    assert not probe.step(now)
    while probe.events != select.POLLIN:  # the connection may stand at once, or not
        assert not advance(probe, now)
    connection, _ = server.accept()
    connection.settimeout(5)
    assert connection.recv(4096).startswith(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:")
    return connection


def test_2xx_is_yes(probe: HealthProbe, server: socket.socket) -> None:
    with ask(probe, server, 0.0) as connection:
        connection.sendall(OK)
        assert advance(probe, 0.0)


def test_an_answer_may_come_in_pieces(probe: HealthProbe, server: socket.socket) -> None:
    with ask(probe, server, 0.0) as connection:
        connection.sendall(OK[:7])
        assert not advance(probe, 0.0)
        connection.sendall(OK[7:])
        assert advance(probe, 0.0)


def test_503_is_no_and_the_connection_is_used_again(probe: HealthProbe, server: socket.socket) -> None:
    with ask(probe, server, 0.0) as connection:
        connection.sendall(LOADING)
        assert not advance(probe, 0.0)
        assert probe.fd is None  # nothing to wait for but the time
        assert probe.due == MIN_PAUSE
        assert not probe.step(MIN_PAUSE)
        assert connection.recv(4096).startswith(b"GET /health")
        connection.sendall(OK)
        assert advance(probe, MIN_PAUSE)


@pytest.mark.parametrize("answer", [LOADING.replace(b"Content-Length: 7", b"Connection: close"), LOADING[:-3], b"junk"])
def test_after_any_other_answer_the_connection_is_new(probe: HealthProbe, server: socket.socket, answer: bytes) -> None:
    with ask(probe, server, 0.0) as connection:
        connection.sendall(answer)
        assert not advance(probe, 0.0)
        with ask(probe, server, probe.due):
            assert connection.recv(1) == b""


def test_nobody_there_is_no() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        probe = HealthProbe(closed.getsockname(), "/health", now=0.0)
        assert not probe.step(0.0)
        while probe.fd is not None:
            assert not advance(probe, 0.0)
        assert probe.due == MIN_PAUSE


def test_silence_is_no_after_a_while(probe: HealthProbe, server: socket.socket) -> None:
    with ask(probe, server, 0.0) as silent:
        assert probe.due == PROBE_TIMEOUT
        with ask(probe, server, PROBE_TIMEOUT) as connection:
            assert silent.recv(1) == b""
            connection.sendall(OK)
            assert advance(probe, PROBE_TIMEOUT)


@pytest.mark.parametrize(("loading", "pause"), [(0.1, MIN_PAUSE), (8.0, 0.004), (600.0, MAX_PAUSE)])
def test_the_pause_grows_with_the_time_that_loading_takes(
    probe: HealthProbe, server: socket.socket, loading: float, pause: float
) -> None:
    with ask(probe, server, loading) as connection:
        connection.sendall(LOADING)
        assert not advance(probe, loading)
    assert probe.due - loading == pytest.approx(pause)
