"""Connections to engines are kept, found stale in time, and dropped with their model."""

import socket

import pytest

from hotseat.core.errors import UpstreamFailed
from hotseat.gateway.relay import Connections, departed
from tests.unit.gateway.relay.fake_engine import Engine, answers, sized


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def engine():
    with Engine(answers(sized(b"{}"))) as running:
        yield running


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pool(clock):
    connections = Connections(idle=2, max_rest=60, max_age=1000, clock=clock)
    yield connections
    connections.close()


def test_the_last_one_given_back_is_the_first_to_be_taken(pool, engine):
    one, two = pool.take(engine.address), pool.take(engine.address)
    pool.put(one)
    pool.put(two)
    assert pool.take(engine.address) is two
    assert pool.take(engine.address) is one
    assert one.reused
    pool.put(one)
    pool.put(two)


def test_no_more_than_the_limit_are_kept_and_none_for_too_long(pool, engine, clock):
    taken = [pool.take(engine.address) for _ in range(3)]
    for connection in taken:
        pool.put(connection)
    assert [connection.sock.fileno() < 0 for connection in taken] == [True, False, False]
    last = pool.take(engine.address)
    clock.now += 61
    pool.put(last)
    assert taken[1].sock.fileno() < 0
    assert pool.take(engine.address) is last
    pool.put(last)


def test_an_old_one_is_not_used_again_so_that_a_new_pod_of_a_service_gets_requests(engine, clock):
    pool = Connections(max_age=10, clock=clock)
    first = pool.take(engine.address)
    for _ in range(3):
        pool.put(first)
        clock.now += 3
        assert pool.take(engine.address) is first
    pool.put(first)
    clock.now += 2
    second = pool.take(engine.address)
    assert (second.reused, first.sock.fileno() < 0) == (False, True)
    second.sock.close()
    pool.close()


def test_one_that_its_engine_closed_while_it_rested_is_not_given_out(pool, engine, clock):
    first = pool.take(engine.address)
    pool.put(first)
    engine.peer().shutdown(socket.SHUT_WR)
    clock.now += 2
    second = pool.take(engine.address)
    assert second is not first
    assert not second.reused
    assert first.sock.fileno() < 0
    second.sock.close()


def test_one_that_spoke_unasked_is_not_given_out(pool, engine, clock):
    first = pool.take(engine.address)
    pool.put(first)
    engine.peer().sendall(b"HTTP/1.1 408 Too Late\r\n\r\n")
    clock.now += 2
    second = pool.take(engine.address)
    assert second is not first
    second.sock.close()


def test_what_is_forgotten_is_closed_and_what_was_in_use_never_comes_back(pool, engine):
    idle, used = pool.take(engine.address), pool.take(engine.address)
    pool.put(idle)
    pool.forget(engine.address)
    assert idle.sock.fileno() < 0
    pool.put(used)
    assert used.sock.fileno() < 0
    fresh = pool.take(engine.address)
    assert not fresh.reused
    pool.put(used)
    pool.put(fresh)
    assert pool.take(engine.address) is fresh
    fresh.sock.close()


def test_an_engine_that_does_not_listen_is_an_upstream_failure(pool):
    with Engine(answers(b"")) as engine:
        pass
    with pytest.raises(UpstreamFailed, match="does not accept connections"):
        pool.take(engine.address)


@pytest.mark.parametrize("address", ["https://127.0.0.1:1", "127.0.0.1:80", "http://"])
def test_only_plain_http_addresses_are_known(pool, address):
    with pytest.raises(UpstreamFailed, match="http://"):
        pool.take(address)


def test_pending_bytes_are_no_departure_but_a_close_and_a_reset_are():
    one, other = socket.socketpair()
    with one, other:
        assert not departed(one)
        other.sendall(b"a pipelined request")
        assert not departed(one)
        other.close()
        assert departed(one)
    assert departed(one)
