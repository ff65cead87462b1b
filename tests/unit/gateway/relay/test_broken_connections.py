"""Whoever breaks off, the other sides learn it at once, and nobody takes a part for the whole."""

import json
import socket
import threading
import time
from math import inf

import pytest

from hotseat.core.errors import Unavailable, UpstreamFailed, UpstreamTimeout
from hotseat.gateway.errors import api_kind
from hotseat.gateway.relay import Connections, How
from tests.unit.gateway.relay.fake_engine import SSE, Client, Engine, Exchanging, answers, chunk, dechunk, relay, sized

AT_ONCE = 0.1  # seconds


def error_of(event):
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return json.loads(event[6:])["error"]


def silent(peer):
    peer.request()
    peer.until_closed()


def streams(*pieces, then=lambda peer: None):
    def script(peer):
        peer.request()
        peer.send(SSE + b"".join(pieces))
        then(peer)

    return script


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_while_the_engine_is_silent_ends_the_request_there(server, reset):
    with Engine(silent) as engine, Client(server) as client:
        running = Exchanging(engine, client)
        wait_for(lambda: engine.requests)
        if reset:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        left_at = time.monotonic()
        client.sock.close()
        outcome = running.result()
        assert engine.closed.wait(10)
    assert engine.closed_at - left_at < AT_ONCE
    assert (outcome.how, outcome.status) == (How.CLIENT_GONE, None)


def test_a_client_that_leaves_between_two_events_ends_the_request_there(server):
    with (
        Engine(streams(chunk(b"data: 1\n\n"), then=lambda peer: peer.until_closed())) as engine,
        Client(server) as client,
    ):
        running = Exchanging(engine, client)
        client.until(b"1\n\n\r\n")
        left_at = time.monotonic()
        client.sock.close()
        assert running.result().how is How.CLIENT_GONE
        assert engine.closed.wait(10)
    assert engine.closed_at - left_at < AT_ONCE


def test_a_client_that_leaves_while_its_large_request_is_sent_is_noticed(server):
    def never_reads(peer):
        peer.sock.recv(1)
        peer._engine.requests.append(b"")
        reads.wait(10)
        peer.until_closed()

    reads = threading.Event()
    with Engine(never_reads) as engine, Client(server) as client:
        running = Exchanging(engine, client, body=b"x" * 30_000_000)
        wait_for(lambda: engine.requests)
        client.sock.close()
        assert running.result().how is How.CLIENT_GONE
        reads.set()


def test_a_pipelined_request_is_no_departure(server):
    answer_now = threading.Event()

    def script(peer):
        peer.request()
        answer_now.wait(10)
        peer.send(sized(b"{}"))

    with Engine(script) as engine, Client(server) as client:
        client.sock.sendall(b"POST /next HTTP/1.1\r\n\r\n")
        running = Exchanging(engine, client)
        wait_for(lambda: engine.requests)
        answer_now.set()
        assert running.result().how is How.COMPLETED
        running.connections.close()


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"junk\r\n\r\n",
        b"x" * 70_000,
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_an_engine_that_breaks_before_its_head_is_whole_is_an_error_for_the_caller(server, part, reset):
    def script(peer):
        peer.request()
        peer.send(part)
        if reset:
            peer.reset()

    with Engine(script) as engine, Client(server) as client:
        with pytest.raises(UpstreamFailed):
            relay(engine, client)
        assert not client.stream.begun
        assert client.received() == b""


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        OK + b"Content-Length: 2\n\n{}",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"{}\r\n",
        OK + b"X: y\r\n folded\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"X: \0\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        OK + b"Content-Length: +2\r\n\r\n{}",
        OK + b"Content-Length: \r\n\r\n{}",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"X: y\r\n" * 200 + b"Content-Length: 2\r\n\r\n{}",
        OK + b"X: " + b"y" * 70_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"X: " + b"y" * 70_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 30,
    ],
)
def test_a_head_that_is_none_or_ambiguous_is_refused_and_not_waited_for(server, head):
    def script(peer):
        peer.request()
        peer.send(head)
        peer.until_closed()

    with Engine(script) as engine, Client(server) as client:
        with pytest.raises(UpstreamFailed):
            relay(engine, client)
        assert engine.closed.wait(10)
        assert not client.stream.begun


def test_an_engine_that_switches_protocols_is_refused(server):
    switches = answers(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
    with Engine(switches) as engine, Client(server) as client, pytest.raises(UpstreamFailed, match="protocol"):
        relay(engine, client)


@pytest.mark.parametrize(
    ("tail", "between"),
    [
        (b"", b""),
        (chunk(b'data: {"par'), b'data: {"par\n\n'),
        (b"ff\r\ndata: tw", b"data: tw\n\n"),
        (chunk(b"data: 2\r\n\r\n"), b"data: 2\r\n\r\n"),
        (b"zz\r\n", b""),
    ],
)
def test_a_stream_that_breaks_ends_with_an_error_event_and_without_done(server, tail, between):
    go_on = threading.Event()

    def script(peer):
        peer.request()
        peer.send(SSE + chunk(b"data: 1\n\n"))
        go_on.wait(10)
        peer.send(tail)

    with Engine(script) as engine, Client(server) as client:
        running = Exchanging(engine, client)
        client.until(chunk(b"data: 1\n\n"))
        go_on.set()
        outcome = running.result()
        body = b"".join(dechunk(client.received()))
    assert body.startswith(between)
    assert error_of(body.removeprefix(between))["code"] == "upstream_failed"
    assert (outcome.how, outcome.status) == (How.UPSTREAM_FAILED, 200)
    assert isinstance(outcome.error, UpstreamFailed)


@pytest.mark.parametrize("first", [b"", chunk(b"data: 1\n\n")])
def test_a_stream_that_is_reset_ends_with_an_error_event(server, first):
    with Engine(streams(first, then=lambda peer: reset_after(client, first, peer))) as engine, Client(server) as client:
        assert relay(engine, client).how is How.UPSTREAM_FAILED
        assert error_of(dechunk(client.received())[-1])["code"] == "upstream_failed"


def reset_after(client, data, peer):
    client.until(data or b"\r\n\r\n")
    peer.reset()


@pytest.mark.parametrize(
    ("head", "modern"),
    [
        (b"Content-Length: 10\r\n", True),
        (b"Content-Length: 10\r\n", False),
        (b"Transfer-Encoding: chunked\r\n", True),
        (b"Transfer-Encoding: chunked\r\n", False),
        (b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", True),
    ],
)
def test_any_other_body_that_breaks_breaks_the_clients_connection(server, head, modern):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + (chunk(b"abc") if b"chunked" in head else b"abc"))

    with Engine(script) as engine, Client(server, modern=modern) as client:
        outcome = relay(engine, client)
        with pytest.raises(ConnectionResetError):
            raise AssertionError(client.received())
    assert outcome.how is How.UPSTREAM_FAILED


@pytest.mark.parametrize("modern", [True, False])
def test_a_body_that_ends_with_its_connection_is_not_whole_if_that_is_reset(server, modern):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        reset_after(client, b"abc\r\n" if modern else b"abc", peer)

    with Engine(script) as engine, Client(server, modern=modern) as client:
        outcome = relay(engine, client)
        with pytest.raises(ConnectionResetError):
            raise AssertionError(client.received())
    assert outcome.how is How.UPSTREAM_FAILED


def test_a_cancel_before_the_answer_is_an_error_for_the_caller(server):
    with Engine(silent) as engine, Client(server) as client:
        running = Exchanging(engine, client)
        wait_for(lambda: engine.requests)
        cancelled_at = time.monotonic()
        running.cancel(Unavailable("unloaded", retry_after=1))
        with pytest.raises(Unavailable, match="unloaded"):
            running.result()
        assert engine.closed.wait(10)
        assert engine.closed_at - cancelled_at < AT_ONCE
        assert client.received() == b""


def test_a_cancel_before_the_start_sends_nothing(server):
    with Engine(silent) as engine, Client(server) as client:
        running = Exchanging(engine, client, cancelled=Unavailable("draining"))
        with pytest.raises(Unavailable):
            running.result()
    assert engine.requests == []


def test_a_cancel_in_a_stream_goes_out_as_its_error_event(server):
    with (
        Engine(streams(chunk(b"data: 1\n\n"), then=lambda peer: peer.until_closed())) as engine,
        Client(server) as client,
    ):
        running = Exchanging(engine, client)
        client.until(b"1\n\n\r\n")
        running.cancel(Unavailable("The drain deadline is over."))
        outcome = running.result()
        (event,) = dechunk(client.received())
    assert error_of(event)["message"] == "The drain deadline is over."
    assert (outcome.how, api_kind(outcome.error).code) == (How.CANCELLED, "model_unavailable")


def test_a_cancel_in_a_counted_body_breaks_the_connection(server):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        peer.until_closed()

    with Engine(script) as engine, Client(server) as client:
        running = Exchanging(engine, client)
        client.until(b"abc")
        running.cancel(Unavailable("draining"))
        assert running.result().how is How.CANCELLED
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1)


def test_a_client_that_reads_nothing_cannot_hold_up_a_cancel(server):
    def script(peer):
        peer.request()
        peer.send(SSE)
        while True:
            peer.send(chunk(b"data: " + b"x" * 60_000 + b"\n\n"))

    with Engine(script) as engine, Client(server, buffers=8192) as client:
        running = Exchanging(engine, client)
        wait_for(lambda: client.stream.paused)
        running.cancel(Unavailable("draining"))
        assert running.result().how is How.CANCELLED


def test_a_client_that_leaves_while_a_write_waits_for_it_is_noticed(server):
    def script(peer):
        peer.request()
        peer.send(SSE)
        while True:
            peer.send(chunk(b"data: " + b"x" * 60_000 + b"\n\n"))

    with Engine(script) as engine, Client(server, buffers=8192) as client:
        running = Exchanging(engine, client)
        wait_for(lambda: client.stream.paused)
        client.sock.close()
        assert running.result().how is How.CLIENT_GONE


def test_a_cancel_after_the_end_touches_nobody_elses_connection(server):
    with Engine(answers(sized(b"{}"))) as engine, Client(server) as client, Client(server) as second:
        running = Exchanging(engine, client)
        running.result()
        running.cancel(Unavailable("late"))
        assert relay(engine, second, running.connections).how is How.COMPLETED
        assert engine.connections == 1
        running.connections.close()


# A stream that began while the model was loading ----------------------------------------------------------------------


def begun(client):
    client.begin(b": loading\n\n")


def test_a_stream_that_has_begun_is_continued_and_the_engines_head_dropped(server):
    with Engine(streams(chunk(b"data: 1\n\n"), b"0\r\n\r\n")) as engine, Client(server) as client:
        begun(client)
        assert relay(engine, client).how is How.COMPLETED
        lines, body = client.answer()
    assert dechunk(body) == [b": loading\n\n", b"data: 1\n\n"]
    assert sum(line.startswith("HTTP/1.1") for line in lines) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            sized(b'{"error": {"message": "context too long", "type": "invalid_request_error"}}').replace(
                b"200 OK", b"400 Bad"
            ),
            "context too long",
        ),
        (sized(b"<html>").replace(b"200 OK", b"503 Busy"), "The engine answered with status 503."),
        (
            sized(b'{"choices": []}'),
            "The engine answered with application/json, not with a stream of events (text/event-stream).",
        ),
        (
            SSE.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + chunk(b"\x1f\x8b") + b"0\r\n\r\n",
            "The engine compressed its stream (gzip), although it was told not to.",
        ),
    ],
)
def test_an_engines_error_becomes_an_event_of_a_stream_that_has_begun(server, answer, message):
    with Engine(answers(answer)) as engine, Client(server) as client:
        begun(client)
        outcome = relay(engine, client)
        events = dechunk(client.answer()[1])
    assert events[0] == b": loading\n\n"
    assert error_of(events[1])["message"] == message
    assert outcome.how is How.UPSTREAM_FAILED


def test_a_stream_that_has_begun_is_asked_for_without_compression(server):
    fields = [(b"accept-encoding", b"gzip"), (b"Accept", b"*/*")]
    with Engine(answers(SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n")) as engine:
        with Client(server) as client:
            begun(client)
            relay(engine, client, fields=fields)
        with Client(server) as client:
            relay(engine, client, fields=fields)
    continued, whole = engine.requests
    assert b"\r\nAccept-Encoding: identity\r\n" in continued
    assert b"gzip" not in continued
    assert b"\r\naccept-encoding: gzip\r\n" in whole


def test_an_engine_that_is_gone_becomes_an_event_of_a_stream_that_has_begun(server):
    with Engine(silent) as engine, Client(server) as client:
        engine.stop_listening()
        begun(client)
        assert relay(engine, client).how is How.UPSTREAM_FAILED
        assert error_of(dechunk(client.answer()[1])[1])["type"] == "server_error"


def test_an_engine_that_does_not_begin_to_answer_in_time_is_given_up(server):
    def script(peer):
        peer.request()
        peer.until_closed()

    with Engine(script) as engine, Client(server) as client:
        with pytest.raises(UpstreamTimeout, match=r"0\.05 s .*responseStartTimeout") as told:
            relay(engine, client, patience=0.05)
        assert api_kind(told.value)[:2] == (504, "upstream_timeout")
        assert engine.closed.wait(10)


def test_an_answer_that_has_begun_may_take_its_time(server):
    def script(peer):
        peer.request()
        peer.send(SSE)
        time.sleep(0.1)
        peer.send(chunk(b"data: 1\n\n") + b"0\r\n\r\n")

    with Engine(script) as engine, Client(server) as client:
        assert relay(engine, client, patience=0.05).how is How.COMPLETED


def test_an_engine_is_heard_while_its_bytes_are_passed_on_to_a_client_that_takes_none(server):
    def script(peer):
        peer.request()
        peer.send(SSE + chunk(b"x" * 10_000_000))

    with Engine(script) as engine, Client(server, buffers=4096) as client:
        assert Connections(server.owner).heard(engine.address) == -inf
        running = Exchanging(engine, client)
        wait_for(lambda: client.stream.paused)
        for _ in range(3):  # nothing moves, and yet it is heard now
            before = time.monotonic()
            assert running.connections.heard(engine.address) >= before
            time.sleep(0.01)
        client.sock.close()
        running.result()
        assert running.connections.heard(engine.address) <= time.monotonic()
        running.connections.close()
