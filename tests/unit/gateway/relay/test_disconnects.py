"""Clients that leave while their answer is passed on: one thread notices them all."""

import select
import socket
import threading
from unittest.mock import Mock

import pytest

from hotseat.gateway.relay.pool import DisconnectWatcher


@pytest.fixture
def departures():
    made = DisconnectWatcher()
    yield made
    made.close()


def test_a_client_that_leaves_is_noticed_once(departures):
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with ours, departures.watching(ours.fileno(), gone.set):
        assert not gone.is_set()
        theirs.close()
        assert gone.wait(5)


def test_a_client_that_left_before_is_noticed_too(departures):
    ours, theirs = socket.socketpair()
    theirs.close()
    gone = threading.Event()
    with ours, departures.watching(ours.fileno(), gone.set):
        assert gone.wait(5)


def test_bytes_that_a_client_sends_ahead_are_no_departure_and_nothing_is_told_after_the_block(departures):
    ours, theirs = socket.socketpair()
    other, peer = socket.socketpair()
    early, late = threading.Event(), threading.Event()
    with ours, other, theirs:
        with departures.watching(ours.fileno(), early.set):
            theirs.sendall(b"GET /next HTTP/1.1")
        theirs.shutdown(socket.SHUT_RDWR)
        peer.close()
        with departures.watching(other.fileno(), late.set):
            assert late.wait(5)  # the thread has seen all that came before
    assert not early.is_set()


def test_a_descriptor_that_another_connection_took_over_does_no_harm(departures):
    ours, theirs = socket.socketpair()
    with theirs, departures.watching(ours.fileno(), lambda: None):
        ours.close()


def test_without_a_connection_to_watch_nothing_happens(departures):
    with departures.watching(-1, lambda: pytest.fail("nobody is there")):
        pass


def test_news_of_a_connection_that_is_gone_does_not_hit_the_next_one_with_its_descriptor(departures):
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with ours, departures.watching(ours.fileno(), gone.set):
        departures._tell(departures._epoll, ours.fileno())  # as the thread does, late
        assert not gone.is_set()
        theirs.close()
        assert gone.wait(5), "it is still watched"


def test_without_the_means_to_watch_the_answer_goes_on(departures, monkeypatch):
    """No thread, then no descriptor; afterwards clients are watched again."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for what, error in ((threading.Thread, RuntimeError("can't start new thread")), (select, OSError(24, "no"))):
            with monkeypatch.context() as patch:
                name = "start" if what is threading.Thread else "epoll"
                patch.setattr(what, name, Mock(side_effect=error))
                with departures.watching(ours.fileno(), lambda: pytest.fail("nobody left")):
                    pass
        gone = threading.Event()
        with departures.watching(ours.fileno(), gone.set):
            theirs.shutdown(socket.SHUT_RDWR)
            assert gone.wait(5)
