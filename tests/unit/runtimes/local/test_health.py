"""When a ready engine is taken for hung, step by step against a socket of ours. Time is passed in."""

import select
import socket
from collections.abc import Iterator
from math import inf

import pytest

from hotseat.api.lifecycle import Health
from hotseat.runtimes.local.health import Liveness

HEALTH = Health(period="10s", failureThreshold=3)


class Watch:
    """An engine that does as a test says, and the check of it."""

    def __init__(self, server: socket.socket) -> None:
        self.server = server
        self.heard = -inf
        self.check = Liveness(server.getsockname(), "/health", HEALTH, lambda: self.heard, 100.0)

    def ask(self, now: float) -> None:
        """Let it ask; nobody answers."""
        assert self.check.step(now) == ""
        while self.check.events != select.POLLIN:
            self._wait()
            assert self.check.step(now) == ""

    def answer(self, now: float, data: bytes) -> str:
        connection, _ = self.server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(data)
        self._wait()
        return self.check.step(now)

    def fail(self, now: float) -> str:
        """Ask, and get no answer within the period."""
        self.ask(now)
        assert self.check.due == now + 10
        return self.check.step(now + 10)

    def _wait(self) -> None:
        poll = select.poll()
        assert self.check.fd is not None
        poll.register(self.check.fd, self.check.events)
        assert poll.poll(5000)


@pytest.fixture
def watch() -> Iterator[Watch]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        watch = Watch(server)
        yield watch
        watch.check.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n"])
def test_an_engine_that_answers_is_asked_again_after_a_period(watch: Watch, answer: bytes) -> None:
    assert watch.check.due == 110.0
    assert watch.check.step(109.0) == ""
    assert watch.check.fd is None
    watch.ask(110.0)
    assert watch.answer(111.0, answer) == ""
    assert watch.check.due == 121.0


def test_failures_in_a_row_are_told_once_they_are_enough(watch: Watch) -> None:
    assert watch.fail(110.0) == ""
    assert watch.fail(120.0) == ""
    assert watch.fail(130.0) == (
        "the engine failed its health check 3 times in a row, and has not answered for 40 s: GET /health got no response in time "
        "(health.period 10s, health.failureThreshold 3)"
    )


def test_an_answer_wipes_failures_out(watch: Watch) -> None:
    watch.fail(110.0)
    watch.fail(120.0)
    watch.ask(130.0)
    for _ in range(2):
        watch.server.accept()[0].close()  # the questions that were given up
    assert watch.answer(131.0, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == ""
    assert watch.fail(141.0) == ""


def test_an_engine_that_says_no_or_is_not_there_fails(watch: Watch) -> None:
    watch.ask(110.0)
    assert watch.answer(110.5, b"HTTP/1.1 503 Dead\r\nContent-Length: 0\r\n\r\n") == ""
    assert watch.check.due == 120.0
    watch.server.close()
    assert watch.check.step(120.0) == ""
    while watch.check.fd is not None:
        watch._wait()
        assert watch.check.step(120.0) == ""
    assert watch.check.due == 130.0, "it refuses at once, and is asked again no sooner"


def test_it_is_not_asked_while_answers_flow(watch: Watch) -> None:
    watch.heard = 108.0
    assert watch.check.step(110.0) == ""
    assert (watch.check.fd, watch.check.due) == (None, 118.0)


def test_bytes_of_an_answer_wipe_failures_out(watch: Watch) -> None:
    watch.fail(110.0)
    watch.fail(120.0)
    watch.ask(130.0)
    watch.heard = 135.0
    assert watch.check.step(140.0) == "", "it computes, and has no thread for health checks"
    watch.heard = -inf
    assert watch.fail(145.0) == ""
    assert watch.fail(155.0) == ""
    assert watch.fail(165.0) != ""
