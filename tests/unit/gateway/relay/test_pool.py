"""Connections to engines are kept, found stale in time, and dropped with their model."""

import asyncio
import socket
import threading
import time

import pytest

from hotseat.core.errors import Unreachable, UpstreamFailed
from hotseat.gateway.relay import Connections
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.relay.fake_engine import SSE, Client, Engine, answers, chunk, relay, sized


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def engine():
    with Engine(answers(sized(b"{}"))) as running:
        yield running


class Pool:
    """A pool, used from the test's thread."""

    def __init__(self, server):
        self.clock = Clock()
        self.server = server
        self.connections = Connections(server.owner, idle=2, max_rest=500, max_age=1000, clock=self.clock)

    def take(self, address):
        connection = self.server.call(lambda: self.connections.take(address))
        if connection is None:
            made = asyncio.run_coroutine_threadsafe(self.connections.connect(address), self.server.loop)
            connection = made.result(10)
        return connection

    def put(self, connection):
        self.server.call(lambda: self.connections.put(connection))

    def closed(self, connection):
        return self.server.call(lambda: connection.closed)


@pytest.fixture
def pool(server):
    made = Pool(server)
    yield made
    made.connections.close()


def test_the_last_one_given_back_is_the_first_to_be_taken(pool, engine):
    one, two = pool.take(engine.address), pool.take(engine.address)
    pool.put(one)
    pool.put(two)
    assert pool.take(engine.address) is two
    assert pool.take(engine.address) is one
    assert one.reused
    pool.put(one)
    pool.put(two)


def test_no_more_than_the_limit_are_kept_and_none_for_too_long(pool, engine):
    taken = [pool.take(engine.address) for _ in range(3)]
    for connection in taken:
        pool.put(connection)
    assert [pool.closed(connection) for connection in taken] == [True, False, False]
    last = pool.take(engine.address)
    pool.clock.now += 501
    pool.put(last)
    assert pool.closed(taken[1])
    assert pool.take(engine.address) is last
    pool.put(last)


def test_an_old_one_is_not_used_again_so_that_a_new_pod_of_a_service_gets_requests(pool, engine):
    first = pool.take(engine.address)
    for _ in range(3):
        pool.put(first)
        pool.clock.now += 300
        assert pool.take(engine.address) is first
    pool.put(first)
    pool.clock.now += 200
    second = pool.take(engine.address)
    assert second is not first
    assert not second.reused
    assert pool.closed(first)
    pool.put(second)


def test_one_that_its_engine_closed_while_it_rested_is_not_given_out(pool, engine):
    first = pool.take(engine.address)
    pool.put(first)
    engine.peer().shutdown(socket.SHUT_WR)
    second = pool.take(engine.address)
    assert second is not first
    assert not second.reused
    assert pool.closed(first)
    pool.put(second)


@pytest.mark.parametrize("seen", [True, False])
def test_one_that_spoke_unasked_is_closed_at_once(pool, engine, seen):
    """Its bytes would be the answer to the next client."""
    first = pool.take(engine.address)
    pool.put(first)
    if seen:
        engine.peer().sendall(b"HTTP/1.1 408 Too Late\r\n\r\n")
        eventually(lambda: pool.closed(first))
    else:  # the loop has not looked yet
        pool.server.call(lambda: (engine.peer().sendall(b"HTTP/1.1 200 OK\r\n\r\n"), pool_is_stale(pool, engine)))
    second = pool.take(engine.address)
    assert second is not first
    pool.put(second)


def pool_is_stale(pool, engine):
    end = time.monotonic() + 10
    while (taken := pool.connections.take(engine.address)) is not None and time.monotonic() < end:
        pool.connections.put(taken)
    assert taken is None


def test_what_is_forgotten_is_closed_and_what_was_in_use_never_comes_back(pool, engine):
    idle, used = pool.take(engine.address), pool.take(engine.address)
    pool.put(idle)
    pool.connections.forget(engine.address)
    eventually(lambda: pool.closed(idle))
    pool.put(used)
    assert pool.closed(used)
    fresh = pool.take(engine.address)
    assert not fresh.reused
    pool.put(used)
    pool.put(fresh)
    assert pool.take(engine.address) is fresh
    pool.put(fresh)


def test_an_engine_that_does_not_listen_is_an_upstream_failure(pool, gone):
    with pytest.raises(UpstreamFailed, match="does not accept connections"):
        pool.take(gone.address)


@pytest.mark.parametrize("address", ["https://127.0.0.1:1", "127.0.0.1:80", "http://"])
def test_only_plain_http_addresses_are_known(pool, address):
    with pytest.raises(UpstreamFailed, match="http://"):
        pool.take(address)


def test_an_engine_may_have_a_name(server, engine):
    engine.address = engine.address.replace("127.0.0.1", "localhost")
    with Client(server) as client:
        assert relay(engine, client).status == 200
    assert b"Host: localhost:" in engine.requests[0]


def test_those_who_look_up_a_name_at_the_same_time_take_one_thread(pool, engine, monkeypatch):
    found, asked = socket.getaddrinfo, []
    answer = threading.Event()

    def look_up(*arguments, **options):
        asked.append(arguments)
        assert answer.wait(10)
        if len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "not now")
        return found(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    address = engine.address.replace("127.0.0.1", "localhost")

    def connect():
        return asyncio.run_coroutine_threadsafe(pool.connections.connect(address), pool.server.loop)

    leaver, *others = [connect() for _ in range(50)]
    eventually(lambda: asked)
    pool.server.call(lambda: None)
    leaver.cancel()
    answer.set()
    assert ["not now" in str(each.exception(10)) for each in others] == [True] * 49
    for each in [connect() for _ in range(2)]:
        pool.put(each.result(10))
    assert len(asked) <= 3


def test_surplus_bytes_of_an_answer_reach_nobody(server):
    """They come with the answer, or in the moment after it."""
    poison = sized(b"poison")
    with Engine(answers(sized(b"1") + poison)) as engine:
        connections = Connections(server.owner)
        for _ in range(3):
            with Client(server) as client:
                relay(engine, client, connections)
                assert client.answer()[1] == b"1"
        assert engine.connections == 3
        connections.close()


def test_an_engine_may_close_after_a_stream_though_it_did_not_say_so(server, monkeypatch):
    """A bug once, with llama.cpp: the next request went to a connection that was about to be closed, and was lost."""
    monkeypatch.setattr("hotseat.gateway.relay.pool.SETTLE_TIME", 3600.0)

    def streams_once(peer):
        peer.request()
        peer.send(SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n")
        peer.request()  # it is dropped
        peer.reset()

    with Engine(streams_once) as engine:
        connections = Connections(server.owner)
        for _ in range(3):
            with Client(server) as client:
                relay(engine, client, connections)
        assert engine.connections == 3
        connections.close()


def test_a_connection_is_used_again_some_time_after_a_stream(server, monkeypatch):
    monkeypatch.setattr("hotseat.gateway.relay.pool.SETTLE_TIME", 0.0)
    with Engine(answers(SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n")) as engine:
        connections = Connections(server.owner)
        for _ in range(3):
            with Client(server) as client:
                relay(engine, client, connections)
            eventually(lambda: server.call(lambda: len(connections._buckets[engine.address].idle)) == 1)
        assert engine.connections == 1
        connections.close()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_a_host_that_cannot_be_looked_up_is_not_reached(pool, host):
    with pytest.raises(Unreachable):
        pool.take(f"http://{host}:80")
