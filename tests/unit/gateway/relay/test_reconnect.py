"""Many requests wait for a server that refuses connections: it is tried once for all, and they do not all go on in one moment."""

import time

import pytest

from hotseat.gateway.relay import Connections, Reconnector, reconnect
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.relay.fake_engine import Engine, answers, sized


class Waiting:
    """Requests that wait for a server."""

    def __init__(self, server, monkeypatch):
        monkeypatch.setattr(reconnect, "PAUSE", (0.01, 0.05))
        self.server, self.attempts, self.went_on = server, 0, []
        self.connections = Connections(server.owner)
        self.reconnector = Reconnector(self.connections)
        connect = self.connections.connect

        async def counted(address):
            self.attempts += 1
            return await connect(address)

        self.connections.connect = counted

    def wait(self, address, name):
        return self.server.call(lambda: self.reconnector.wait(address, lambda: self.went_on.append(name)))

    @property
    def servers(self):
        return self.server.call(lambda: len(self.reconnector._servers))


@pytest.fixture
def waiting(server, monkeypatch):
    made = Waiting(server, monkeypatch)
    yield made
    made.connections.close()


def test_one_attempt_is_for_all_and_they_go_on_in_order(waiting, gone):
    began = time.monotonic()
    for number in range(200):
        waiting.wait(gone.address, number)
    eventually(lambda: waiting.attempts > 3)
    attempts = waiting.attempts
    assert attempts <= 2 + (time.monotonic() - began) / 0.01
    assert not waiting.went_on
    with Engine(answers(sized(b"{}")), port=gone.port) as engine:
        eventually(lambda: len(waiting.went_on) == 200)
        assert waiting.went_on == list(range(200))
        eventually(lambda: waiting.servers == 0)
        eventually(lambda: engine.connections)  # it accepts in its own time
        assert engine.connections == 1
        assert waiting.server.call(lambda: waiting.connections.take(gone.address)) is not None


def test_one_that_leaves_does_not_go_on_and_nobody_is_tried_for_no_one(waiting, gone):
    leave, stay = waiting.wait(gone.address, "leaves"), waiting.wait(gone.address, "stays")
    waiting.server.call(leave)
    eventually(lambda: waiting.attempts > 1)
    assert waiting.servers == 1
    waiting.server.call(stay)
    waiting.server.call(stay)
    eventually(lambda: waiting.servers == 0)
    assert waiting.went_on == []


def test_one_that_is_refused_again_comes_back(waiting, gone):
    def again():
        if len(waiting.went_on) < 3:
            waiting.went_on.append("x")
            waiting.reconnector.wait(gone.address, again)

    waiting.server.call(lambda: waiting.reconnector.wait(gone.address, again))
    with Engine(answers(b""), port=gone.port):
        eventually(lambda: len(waiting.went_on) == 3 and waiting.servers == 0)
        waiting.connections.close()
