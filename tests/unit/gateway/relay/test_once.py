"""A request is put to an engine at most once, unless the engine cannot have begun it."""

import socket
import threading

import pytest

from hotseat.core.errors import UpstreamFailed
from hotseat.gateway.relay import Connections
from tests.unit.gateway.relay.fake_engine import Client, Engine, Exchanging, answers, relay, sized


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_an_engine_that_dies_over_a_request_does_not_get_it_again(server, how):
    def dies_over_the_second(peer):
        peer.request()
        peer.send(sized(b"1"))
        peer.request()
        if how == "resets":
            peer.reset()

    with Engine(dies_over_the_second, answers(sized(b"again"))) as engine:
        connections = Connections(server.owner)
        with Client(server) as client:
            relay(engine, client, connections)
        with Client(server) as client, pytest.raises(UpstreamFailed, match="without a response"):
            relay(engine, client, connections)
        assert (engine.connections, len(engine.requests)) == (1, 2)
        connections.close()


def test_a_request_that_crosses_with_the_end_of_an_idle_connection_goes_to_a_fresh_one(server, monkeypatch):
    """The engine has closed, but that is not known here yet: its host refuses the bytes of the request."""
    monkeypatch.setattr("hotseat.gateway.relay.pool.EngineConnection.is_stale", lambda _: False)
    closed, go_on = threading.Event(), threading.Event()

    def one_answer(peer):
        peer.request()
        peer.send(sized(b"1"))
        go_on.wait(10)
        peer.sock.close()
        closed.set()

    with Engine(one_answer, answers(sized(b"2"))) as engine:
        connections = Connections(server.owner)
        with Client(server) as client:
            relay(engine, client, connections)
        with Client(server) as client:

            def start():
                go_on.set()
                closed.wait(10)
                return Exchanging(engine, client, connections, body=b"x" * 100_000)

            running = server.call(start)  # the loop does not look at the connection in between
            assert running.result().status == 200
            assert client.answer()[1] == b"2"
        assert [len(request) > 100_000 for request in engine.requests] == [False, True]
        connections.close()


def test_an_engine_that_answers_and_closes_before_it_has_read_everything_is_heard(server):
    def refuses(peer):
        peer.sock.recv(1000)
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        peer.sock.shutdown(socket.SHUT_WR)

    with Engine(refuses) as engine, Client(server) as client:
        assert relay(engine, client, body=b"x" * 20_000_000).status == 413
