"""A request goes to its engine and the answer comes back, in every framing and to every kind of client."""

import gzip
import json
import threading
import tracemalloc

import pytest

from hotseat.core.errors import UpstreamFailed
from hotseat.gateway.relay import Connections, How
from tests.unit.gateway.relay.fake_engine import SSE, Client, Engine, Exchanging, answers, chunk, dechunk, relay, sized


def test_an_answer_with_a_length_passes_untouched_in_one_piece(server):
    body = json.dumps({"choices": ["ü"], "unknown": [1, 2]}).encode()
    with Engine(answers(sized(body, b"X-Custom: 7\r\n"))) as engine, Client(server) as client:
        outcome = relay(
            engine, client, fields=[(b"Accept", b"*/*")], body=b'{"a": 1}', extra=[("X-Hotseat-Model", "m")]
        )
        lines, got = client.answer()
    assert got == body
    assert lines[0] == "HTTP/1.1 200 OK"
    assert lines[1].startswith("Date: ")
    assert lines[2:] == [
        "Content-Type: application/json",
        "X-Custom: 7",
        f"Content-Length: {len(body)}",
        "X-Hotseat-Model: m",
    ]
    assert engine.requests[0].endswith(b'\r\n\r\n{"a": 1}')
    assert (outcome.how, outcome.status, outcome.error) == (How.COMPLETED, 200, None)


def test_each_piece_of_a_stream_reaches_the_client_before_the_next_is_made(server):
    went_on = threading.Semaphore(0)

    def script(peer):
        peer.request()
        peer.send(SSE)
        for event in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"):
            peer.send(chunk(event))
            assert went_on.acquire(timeout=10)
        peer.send(b"0\r\n\r\n")

    with Engine(script) as engine, Client(server) as client:
        running = Exchanging(engine, client)
        head = client.until(b"\r\n\r\n" + chunk(b"data: 1\n\n"))
        went_on.release()
        assert client.until(b"2\n\n\r\n") == chunk(b"data: 2\n\n")
        went_on.release()
        assert client.until(b"[DONE]\n\n\r\n") == chunk(b"data: [DONE]\n\n")
        went_on.release()
        assert client.until(b"0\r\n\r\n") == b"0\r\n\r\n"
        assert running.result().how is How.COMPLETED
        running.connections.close()
    assert b"X-Accel-Buffering: no\r\n" in head
    assert b"Cache-Control: no-cache\r\n" in head
    assert b"Transfer-Encoding: chunked\r\n" in head


def test_a_body_that_ends_with_its_connection_becomes_chunked(server):
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\nab")
        peer.send(b"cd")

    with Engine(script) as engine, Client(server) as client:
        assert relay(engine, client).how is How.COMPLETED
        lines, body = client.answer()
    assert b"".join(dechunk(body)) == b"abcd"
    assert "Transfer-Encoding: chunked" in lines


@pytest.mark.parametrize(
    ("answer", "method"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "POST"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "POST"),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", "GET"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "POST"),
    ],
)
def test_answers_without_a_body_end_with_their_head_and_keep_both_connections(server, answer, method):
    with Engine(answers(answer)) as engine, Client(server, head=method == "HEAD") as client:
        connections = Connections(server.owner)
        relay(engine, client, connections, method=method)
        lines, body = client.answer()
        with Client(server) as second:
            relay(engine, second, connections, method="HEAD")
        connections.close()
        assert engine.connections == 1
    assert body == b""
    assert not any(line.startswith(("Transfer-Encoding", "Connection")) for line in lines)
    assert " 204 " not in lines[0] or not any(line.startswith("Content-Length") for line in lines)


def test_interim_answers_are_skipped_wherever_they_are_cut(server):
    whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + sized(b"{}")

    def script(peer):
        peer.request()
        for at in range(0, len(whole), 7):
            peer.send(whole[at : at + 7])

    with Engine(script) as engine, Client(server) as client:
        assert relay(engine, client).status == 200
        assert client.answer()[1] == b"{}"


def test_an_http_1_0_client_gets_no_chunks_and_the_end_by_closing(server):
    def script(peer):
        peer.request()
        peer.send(SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n")

    with Engine(script) as engine, Client(server, modern=False, close=True) as client:
        relay(engine, client)
        lines, body = client.answer()
    assert body == b"data: 1\n\n"
    assert "Connection: close" in lines
    assert not any("chunked" in line for line in lines)


def test_an_http_1_0_client_that_asked_for_it_keeps_its_connection_where_there_is_a_length(server):
    with Engine(answers(sized(b"{}"))) as engine, Client(server, modern=False) as client:
        relay(engine, client)
        assert "Connection: keep-alive" in client.answer()[0]
        assert client.sock.fileno() >= 0


def test_a_client_that_wants_to_close_is_told_so(server):
    with Engine(answers(sized(b"{}"))) as engine, Client(server, close=True) as client:
        relay(engine, client)
        assert "Connection: close" in client.answer()[0]


@pytest.mark.parametrize(
    ("answer", "status", "body", "connections_"),
    [
        (sized(b"{}"), 200, b"{}", 1),
        (sized(b"{}", b"Connection: close\r\n"), 200, b"{}", 3),
        (b"HTTP/1.1 103 Early\r\nContent-Length: 3\r\n\r\n" + sized(b"{}"), 200, b"{}", 1),
        (sized(b"2\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"), 200, b"2\r\n{}\r\n0\r\n\r\n", 3),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", 304, b"", 1),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", 204, b"", 1),
    ],
)
def test_an_answer_whose_head_came_before_means_the_same(server, answer, status, body, connections_):
    """A head that is known is not parsed again, so none may be kept whose body is not what its length says."""
    with Engine(answers(answer)) as engine:
        connections = Connections(server.owner)
        for _ in range(3):
            with Client(server) as client:
                assert relay(engine, client, connections).status == status
                assert client.answer()[1] == body
        assert engine.connections == connections_
        connections.close()


def test_gzip_passes_as_it_is(server):
    body = gzip.compress(b'{"a": 1}')
    with Engine(answers(sized(body, b"Content-Encoding: gzip\r\n"))) as engine, Client(server) as client:
        relay(engine, client, fields=[(b"Accept-Encoding", b"gzip")])
        lines, got = client.answer()
    assert got == body
    assert "Content-Encoding: gzip" in lines
    assert b"Accept-Encoding: gzip\r\n" in engine.requests[0]


def test_an_engines_error_passes_with_its_status(server):
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with Engine(answers(answer)) as engine, Client(server) as client:
        assert relay(engine, client).status == 400
        assert client.answer()[0][0] == "HTTP/1.1 400 Bad Request"


def test_header_injection_by_the_gateway_itself_is_refused_before_anything_is_sent(server):
    with Engine(answers(sized(b"{}"))) as engine, Client(server) as client:
        with pytest.raises(ValueError, match="line break"):
            relay(engine, client, extra=[("X-Hotseat-Model", "m\r\nSet-Cookie: evil")])
        assert not client.stream.begun
        assert client.received() == b""


def test_a_connection_is_used_again(server):
    with Engine(answers(sized(b"{}"))) as engine:
        connections = Connections(server.owner)
        for _ in range(3):
            with Client(server) as client:
                relay(engine, client, connections)
        assert engine.connections == 1
        connections.close()


def test_a_kept_connection_that_the_engine_closed_leads_to_a_fresh_one(server):
    def one_answer(peer):
        peer.request()
        peer.send(sized(b"1"))

    with Engine(one_answer, answers(sized(b"2"))) as engine:
        connections = Connections(server.owner)
        with Client(server) as client:
            relay(engine, client, connections)
        engine._threads[0].join(
            10
        )  # else it may close with the next request unread, which is no sign that it has not begun
        with Client(server) as client:
            assert relay(engine, client, connections).how is How.COMPLETED
            assert client.answer()[1] == b"2"
        assert engine.connections == 2
        connections.close()


def test_a_request_is_never_sent_twice_once_a_byte_of_its_answer_came(server):
    def breaks_at_the_second(peer):
        peer.request()
        peer.send(sized(b"1"))
        peer.request()
        peer.send(b"HT")

    with Engine(breaks_at_the_second, answers(sized(b"2"))) as engine:
        connections = Connections(server.owner)
        with Client(server) as client:
            relay(engine, client, connections)
        with Client(server) as client, pytest.raises(UpstreamFailed):
            relay(engine, client, connections)
        assert engine.connections == 1
        connections.close()


def test_a_fresh_connection_that_closes_is_not_tried_again(server):
    with Engine(lambda peer: peer.request()) as engine, Client(server) as client:
        with pytest.raises(UpstreamFailed):
            relay(engine, client)
        assert engine.connections == 1


def test_a_large_request_is_sent_whole(server):
    body = bytes(range(256)) * 20_000
    with Engine(answers(sized(b"{}"))) as engine, Client(server) as client:
        assert relay(engine, client, body=body).status == 200
        assert engine.requests[0].endswith(body)


def test_an_engine_may_refuse_a_large_request_before_it_has_read_it(server):
    def script(peer):
        peer.sock.recv(1000)
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        peer.until_closed()

    with Engine(script) as engine, Client(server) as client:
        assert relay(engine, client, body=b"x" * 20_000_000).status == 413
        assert engine.closed.wait(10)


def test_a_large_answer_to_a_slow_client_is_never_held_whole(server):
    size = 20_000_000
    block = b"x" * 100_000

    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(block)):
            peer.send(block)

    with Engine(script) as engine, Client(server, buffers=65536) as client:
        tracemalloc.start()
        running = Exchanging(engine, client)
        _, _, body = client.until(b"x").partition(b"\r\n\r\n")
        got = len(body)
        while got < size:
            got += len(client.sock.recv(65536))
        outcome = running.result()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        running.connections.close()
    assert outcome.how is How.COMPLETED
    assert outcome.sent == size
    assert got == size
    assert peak < 3_000_000
