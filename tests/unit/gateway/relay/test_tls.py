"""Upstreams with https: what is verified, and that streams, slow clients and ends of connections are as without TLS."""

import contextlib
import threading

import pytest

from hotseat.core.errors import Unreachable, UpstreamFailed
from hotseat.engines.access import DialAddress, TlsSettings
from hotseat.gateway.relay import Connections
from tests.certificates import Authority
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.relay.fake_engine import (
    SSE,
    Client,
    Engine,
    Exchanging,
    Peer,
    answers,
    chunk,
    dechunk,
    relay,
    sized,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority):
    return authority.server("DNS:localhost", "IP:127.0.0.1")


class TlsEngine(Engine):
    """An Engine behind TLS. `handshakes` has the name that each client asked for, and the protocol that was agreed."""

    def __init__(self, context, *scripts, settings):
        self._context, self.handshakes = context, []
        super().__init__(*scripts)
        self.plain = self.address
        self.reached_by(settings)

    def reached_by(self, settings):
        self.address = DialAddress(self.plain.replace("http:", "https:"), settings)

    def _play(self, script, sock):
        asked = []
        self._context.sni_callback = lambda _, name, __: asked.append(name)
        with sock, contextlib.suppress(OSError), self._context.wrap_socket(sock, server_side=True) as inner:
            self._peers.append(inner)  # which has the descriptor now
            self.handshakes.append((asked[-1] if asked else None, inner.selected_alpn_protocol()))
            script(Peer(inner, self))


@pytest.fixture
def trusted(authority):
    return TlsSettings(str(authority.file))


def test_an_answer_comes_through_and_its_connection_is_used_again(server, context, trusted):
    with TlsEngine(context, answers(sized(b'{"a": 1}')), settings=trusted) as engine:
        connections = Connections(server.owner)
        for _ in range(3):
            with Client(server) as client:
                assert relay(engine, client, connections).status == 200
                assert client.answer()[1] == b'{"a": 1}'
        assert engine.connections == 1
        assert engine.handshakes == [(None, "http/1.1")]  # no name is asked for where the host is an address
        assert engine.requests[0].startswith(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:")
        connections.close()


def test_the_name_of_the_settings_is_asked_for_and_verified(server, context, authority):
    settings = TlsSettings(str(authority.file), "localhost")
    with TlsEngine(context, answers(sized(b"{}")), settings=settings) as engine, Client(server) as client:
        assert relay(engine, client).status == 200
        assert engine.handshakes == [("localhost", "http/1.1")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (lambda file: TlsSettings(), "certificate of the upstream is not accepted"),
        (
            lambda file: TlsSettings(str(file), "other.example"),
            "certificate of the upstream is not accepted: Hostname mismatch",
        ),
        (lambda file: TlsSettings("/nowhere/ca.pem"), "/nowhere/ca.pem (tls.caFile) cannot be used: No such file"),
        (lambda file: TlsSettings(str(file), ".wrong"), "The name '.wrong' cannot be asked for by TLS"),
        (lambda file: TlsSettings(__file__), "(tls.caFile) cannot be used: it has no certificate"),
    ],
)
def test_a_certificate_that_cannot_be_verified_ends_the_request_before_it_is_sent(
    server, context, authority, settings, words
):
    its = settings(authority.file)
    with TlsEngine(context, answers(sized(b"{}")), settings=its) as engine, Client(server) as client:
        with pytest.raises(UpstreamFailed) as caught:
            relay(engine, client)
        assert words in str(caught.value)
        assert not engine.requests


def test_verification_can_be_switched_off_for_one_upstream_only(server, context):
    open_, closed = TlsSettings(verify=False), TlsSettings()
    with TlsEngine(context, answers(sized(b"{}")), settings=open_) as engine:
        connections = Connections(server.owner)
        with Client(server) as client:
            assert relay(engine, client, connections).status == 200
        engine.reached_by(closed)  # it has an idle connection of the other
        with Client(server) as client, pytest.raises(Unreachable):
            relay(engine, client, connections)
        connections.close()


def test_a_server_without_tls_is_refused(server):
    with Engine(answers(sized(b"{}"))) as engine, Client(server) as client:
        engine.address = DialAddress(engine.address.replace("http:", "https:"), TlsSettings())
        with pytest.raises(UpstreamFailed) as caught:
            relay(engine, client)
        assert "TLS to the upstream failed" in str(caught.value) or "does not accept" in str(caught.value)


def test_a_handshake_without_an_answer_ends_in_time(server):
    with Engine(lambda peer: peer.until_closed()) as engine, Client(server) as client:
        engine.address = DialAddress(engine.address.replace("http:", "https:"), TlsSettings(verify=False))
        connections = Connections(server.owner, connect_timeout=0.2)
        with pytest.raises(Unreachable, match="timed out"):
            relay(engine, client, connections)
        assert engine.closed.wait(10)


def test_the_file_of_authorities_is_read_again_when_it_changes(server, context, authority, tmp_path):
    file = tmp_path / "ca.pem"
    other = Authority(tmp_path / "other")
    file.write_bytes(other.file.read_bytes())
    connections = Connections(server.owner)
    with TlsEngine(context, answers(sized(b"{}")), settings=TlsSettings(str(file))) as engine:
        with Client(server) as client, pytest.raises(Unreachable):
            relay(engine, client, connections)
        authority.file.with_name("copy").write_bytes(authority.file.read_bytes())
        authority.file.with_name("copy").replace(file)
        with Client(server) as client:
            assert relay(engine, client, connections).status == 200
    connections.close()


def test_a_stream_comes_event_by_event(server, context, trusted):
    go_on = threading.Event()

    def stream(peer):
        peer.request()
        peer.send(SSE + chunk(b"data: 1\n\n"))
        assert go_on.wait(10)
        peer.send(chunk(b"data: 2\n\n") + chunk(b""))

    with TlsEngine(context, stream, settings=trusted) as engine, Client(server) as client:
        running = Exchanging(engine, client)
        head = client.until(b"data: 1\n\n\r\n")
        go_on.set()
        running.result()
        assert dechunk(head.partition(b"\r\n\r\n")[2] + client.until(b"0\r\n\r\n")) == [b"data: 1\n\n", b"data: 2\n\n"]
        running.connections.close()


def test_a_slow_client_makes_the_upstream_wait(server, context, trusted):
    size, sent = 64 * 2**20, [0]

    def pour(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent[0] < size:
            peer.send(bytes(2**16))
            sent[0] += 2**16

    with TlsEngine(context, pour, settings=trusted) as engine, Client(server, buffers=4096) as client:
        running = Exchanging(engine, client)
        assert eventually(lambda: client.stream.paused)
        connection = server.call(lambda: running.exchange._connection)
        assert not connection._transport.is_reading()
        assert sent[0] < size
        got = 0
        while got < size:  # and the head
            piece = client.sock.recv(2**20)
            assert piece
            got += len(piece)
        running.result()
        running.connections.close()


def test_an_answer_without_a_length_ends_with_the_connection(server, context, trusted):
    def until_close(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
        with contextlib.suppress(OSError):
            peer.sock.unwrap()

    with TlsEngine(context, until_close, settings=trusted) as engine, Client(server) as client:
        assert relay(engine, client).status == 200
        assert b"all of it" in client.answer()[1]


def test_an_answer_without_a_length_that_someone_cut_off_is_broken_off_too(server, context, trusted):
    def cut(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\na part of it")

    with TlsEngine(context, cut, settings=trusted) as engine, Client(server) as client:
        assert relay(engine, client).error is not None
        with pytest.raises(ConnectionResetError):
            client.answer()


def test_an_answer_that_breaks_off_is_a_failure(server, context, trusted):
    def cut(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal")

    with TlsEngine(context, cut, settings=trusted) as engine, Client(server) as client:
        assert "before the end" in str(relay(engine, client).error)


def test_a_connection_that_was_closed_meanwhile_is_replaced(server, context, trusted):
    connections = Connections(server.owner)

    def once(peer):
        peer.request()
        peer.send(sized(b"{}"))
        says_goodbye(peer)

    with TlsEngine(context, once, settings=trusted) as engine:
        for count in (1, 2, 3):
            with Client(server) as client:
                assert relay(engine, client, connections).status == 200
            assert len(engine.requests) == count
            assert eventually(lambda: not connections._buckets[engine.address].idle)
    connections.close()


def says_goodbye(peer):
    peer.sock.setblocking(False)
    with contextlib.suppress(OSError):  # it does not wait for the other side's
        peer.sock.unwrap()


@pytest.mark.parametrize("ending", [says_goodbye, lambda _: None])
def test_a_request_that_crosses_with_the_end_of_an_idle_connection_goes_to_a_fresh_one(
    server, context, trusted, ending, monkeypatch
):
    monkeypatch.setattr("hotseat.gateway.relay.pool.EngineConnection.is_stale", lambda _: False)
    closed, go_on = threading.Event(), threading.Event()

    def one_answer(peer):
        peer.request()
        peer.send(sized(b"1"))
        go_on.wait(10)
        ending(peer)
        peer.sock.close()
        closed.set()

    with TlsEngine(context, one_answer, answers(sized(b"2")), settings=trusted) as engine:
        connections = Connections(server.owner)
        with Client(server) as client:
            relay(engine, client, connections)
        with Client(server) as client:

            def start():
                go_on.set()
                closed.wait(10)
                return Exchanging(engine, client, connections, body=b"x" * 100_000)

            assert server.call(start).result().status == 200
            assert client.answer()[1] == b"2"
        assert [len(request) > 100_000 for request in engine.requests] == [False, True]
        connections.close()


def test_an_upstream_that_ends_over_a_request_does_not_get_it_again(server, context, trusted):
    def dies_over_the_second(peer):
        peer.request()
        peer.send(sized(b"1"))
        peer.request()
        says_goodbye(peer)

    with TlsEngine(context, dies_over_the_second, answers(sized(b"again")), settings=trusted) as engine:
        connections = Connections(server.owner)
        with Client(server) as client:
            relay(engine, client, connections)
        with Client(server) as client, pytest.raises(UpstreamFailed, match="without a response"):
            relay(engine, client, connections)
        assert (engine.connections, len(engine.requests)) == (1, 2)
        connections.close()


def test_a_large_body_is_sent_whole(server, context, trusted):
    body = bytes(range(256)) * 20000
    with TlsEngine(context, answers(sized(b"{}")), settings=trusted) as engine, Client(server) as client:
        assert relay(engine, client, body=body).status == 200
        assert engine.requests[0].endswith(body)


def test_idle_connections_are_closed_when_the_upstream_is_forgotten(server, context, trusted):
    connections = Connections(server.owner)
    with TlsEngine(context, answers(sized(b"{}")), settings=trusted) as engine:
        with Client(server) as client:
            relay(engine, client, connections)
        connections.forget(engine.plain.replace("http:", "https:") + "/v1?x=1")
        assert eventually(lambda: not connections._buckets)
