"""After an engine has switched protocols, bytes pass both ways as they are."""

import pytest

from hotseat.core.errors import Unavailable, UpstreamFailed
from hotseat.gateway.relay import Connections, How
from tests.unit.gateway.relay.fake_engine import Client, Engine, Exchanging, answers, relay, sized

ASKED = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"k")]
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n"
)
UPGRADE = {"method": "GET", "target": b"/v1/realtime", "fields": ASKED, "body": b"", "upgrade": True}


def echoes(peer):
    peer.request()
    peer.send(SWITCH + b"\x81\x02hi")
    while data := peer.sock.recv(65536):
        peer.send(b"<" + data + b">")


def test_both_sides_talk_until_one_closes(server):
    with Engine(echoes) as engine, Client(server, upgrade=True, ahead=b"early") as client:
        running = Exchanging(engine, client, **UPGRADE)
        head = client.until(b"\x81\x02hi<early>").decode("latin-1")
        assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
        assert "Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert "Sec-WebSocket-Accept: a" in head
        client.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.until(b"\r\n>") == b"<GET / HTTP/1.1\r\n\r\n>"
        client.sock.close()
        assert running.result().how is How.CLIENT_GONE
        assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in engine.requests[0]


def test_an_engine_may_switch_in_the_same_words_again(server):
    def switches(peer):
        peer.request()
        peer.send(SWITCH[:-2] + b"Content-Length: 2\r\n\r\nhi")

    with Engine(switches) as engine:
        connections = Connections(server.owner)
        for _ in range(2):
            with Client(server, upgrade=True) as client:
                running = Exchanging(engine, client, connections, **UPGRADE | {"method": "POST"})
                assert client.rest().endswith(b"\r\n\r\nhi")
                assert running.result().status == 101
        connections.close()


def test_the_end_of_the_engine_is_the_end(server):
    def says_and_goes(peer):
        peer.request()
        peer.send(SWITCH + b"x" * 1_000_000)

    with Engine(says_and_goes) as engine, Client(server, upgrade=True) as client:
        running = Exchanging(engine, client, **UPGRADE)
        assert client.rest().endswith(b"x" * 1_000_000)
        assert running.result().how is How.COMPLETED


def test_a_side_that_does_not_read_slows_the_other_down(server):
    def sends_much(peer):
        peer.request()
        peer.send(SWITCH)
        for _ in range(200):
            peer.send(b"x" * 100_000)

    with Engine(sends_much) as engine, Client(server, upgrade=True, buffers=65536) as client:
        Exchanging(engine, client, **UPGRADE)
        client.until(b"x")
        got = 0
        while piece := client.sock.recv(65536):
            got += len(piece)
        assert got >= 20_000_000 - 1_000_000


def test_a_model_that_is_stopped_ends_it(server):
    with Engine(echoes) as engine, Client(server, upgrade=True) as client:
        running = Exchanging(engine, client, **UPGRADE)
        client.until(b"hi")
        running.cancel(Unavailable("stopped"))
        assert running.result().how is How.CANCELLED
        assert client.rest() == b""


def test_an_engine_that_does_not_switch_answers(server):
    with Engine(answers(sized(b"no"))) as engine, Client(server, upgrade=True) as client:
        assert relay(engine, client, **UPGRADE).status == 200
        assert client.answer()[1] == b"no"


def test_no_engine_switches_unasked(server):
    with Engine(answers(SWITCH)) as engine, Client(server) as client, pytest.raises(UpstreamFailed, match="protocol"):
        relay(engine, client)
