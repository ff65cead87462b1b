"""A request goes to its engine and the answer comes back, in every framing and to every kind of client."""

import gzip
import json
import threading
import tracemalloc

import pytest

from hotseat.core.errors import UpstreamFailed
from hotseat.gateway.relay import Connections, How, PlainStream
from tests.unit.gateway.relay.fake_engine import SSE, Client, Engine, Running, answers, chunk, dechunk, relay, sized


def test_an_answer_with_a_length_passes_untouched_in_one_piece():
    body = json.dumps({"choices": ["ü"], "unknown": [1, 2]}).encode()
    with Engine(answers(sized(body, b"X-Request-Id: 7\r\n"))) as engine, Client() as client:
        outcome = relay(engine, client, headers=[("Accept", "*/*")], body=b'{"a": 1}', extra=[("X-Hotseat-Model", "m")])
        lines, got = client.answer()
    assert got == body
    assert lines[0] == "HTTP/1.1 200 OK"
    assert lines[1].startswith("Date: ")
    assert lines[2:] == [
        "Content-Type: application/json",
        "X-Request-Id: 7",
        f"Content-Length: {len(body)}",
        "X-Hotseat-Model: m",
    ]
    assert engine.requests[0].endswith(b'\r\n\r\n{"a": 1}')
    assert (outcome.how, outcome.status, outcome.error) == (How.COMPLETED, 200, None)
    response = client.response
    assert (response.headers_sent, response.status, response.chunked, response.response_length) == (
        True,
        "200 OK",
        False,
        0,
    )
    assert not response.must_close


def test_each_piece_of_a_stream_reaches_the_client_before_the_next_is_made():
    went_on = threading.Semaphore(0)

    def script(peer):
        peer.request()
        peer.send(SSE)
        for event in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"):
            peer.send(chunk(event))
            assert went_on.acquire(timeout=10)
        peer.send(b"0\r\n\r\n")

    with Engine(script) as engine, Client() as client:
        running = Running(engine, client)
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


def test_a_body_that_ends_with_its_connection_becomes_chunked():
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\nab")
        peer.send(b"cd")

    with Engine(script) as engine, Client() as client:
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
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", "GET"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "POST"),
    ],
)
def test_answers_without_a_body_end_with_their_head_and_keep_both_connections(answer, method):
    with Engine(answers(answer)) as engine, Client(head=method == "HEAD") as client:
        connections = Connections()
        relay(engine, client, connections, method=method)
        lines, body = client.answer()
        with Client() as second:
            relay(engine, second, connections, method="HEAD")
        connections.close()
        assert engine.connections == 1
    assert body == b""
    assert not any(line.startswith(("Transfer-Encoding", "Connection")) for line in lines)
    assert not client.response.must_close


def test_interim_answers_are_skipped_wherever_they_are_cut():
    whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + sized(b"{}")

    def script(peer):
        peer.request()
        for at in range(0, len(whole), 7):
            peer.send(whole[at : at + 7])

    with Engine(script) as engine, Client() as client:
        assert relay(engine, client).status == 200
        assert client.answer()[1] == b"{}"


def test_an_http_1_0_client_gets_no_chunks_and_the_end_by_closing():
    def script(peer):
        peer.request()
        peer.send(SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n")

    with Engine(script) as engine, Client(modern=False, close=True) as client:
        relay(engine, client)
        lines, body = client.answer()
    assert body == b"data: 1\n\n"
    assert "Connection: close" in lines
    assert not any("chunked" in line for line in lines)
    assert client.response.must_close


def test_an_http_1_0_client_that_asked_for_it_keeps_its_connection_where_there_is_a_length():
    with Engine(answers(sized(b"{}"))) as engine, Client(modern=False) as client:
        relay(engine, client)
        assert "Connection: keep-alive" in client.answer()[0]
        assert not client.response.must_close


def test_a_client_that_wants_to_close_is_told_so():
    with Engine(answers(sized(b"{}"))) as engine, Client(close=True) as client:
        relay(engine, client)
        assert "Connection: close" in client.answer()[0]
        assert client.response.must_close


def test_gzip_passes_as_it_is():
    body = gzip.compress(b'{"a": 1}')
    with Engine(answers(sized(body, b"Content-Encoding: gzip\r\n"))) as engine, Client() as client:
        relay(engine, client, headers=[("Accept-Encoding", "gzip")])
        lines, got = client.answer()
    assert got == body
    assert "Content-Encoding: gzip" in lines
    assert b"Accept-Encoding: gzip\r\n" in engine.requests[0]


def test_an_engines_error_passes_with_its_status():
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with Engine(answers(answer)) as engine, Client() as client:
        assert relay(engine, client).status == 400
        assert client.answer()[0][0] == "HTTP/1.1 400 Bad Request"


def test_header_injection_by_the_gateway_itself_is_refused_before_anything_is_sent():
    with Engine(answers(sized(b"{}"))) as engine, Client() as client:
        with pytest.raises(ValueError, match="line break"):
            relay(engine, client, extra=[("X-Hotseat-Model", "m\r\nSet-Cookie: evil")])
        assert not client.stream.begun
        assert client.received() == b""


def test_a_connection_is_used_again():
    with Engine(answers(sized(b"{}"))) as engine:
        connections = Connections()
        for _ in range(3):
            with Client() as client:
                relay(engine, client, connections)
        assert engine.connections == 1
        connections.close()


def test_a_kept_connection_that_the_engine_closed_leads_to_a_fresh_one():
    def one_answer(peer):
        peer.request()
        peer.send(sized(b"1"))

    with Engine(one_answer, answers(sized(b"2"))) as engine:
        connections = Connections()
        with Client() as client:
            relay(engine, client, connections)
        with Client() as client:
            assert relay(engine, client, connections).how is How.COMPLETED
            assert client.answer()[1] == b"2"
        assert engine.connections == 2
        connections.close()


def test_a_request_is_never_sent_twice_once_a_byte_of_its_answer_came():
    def breaks_at_the_second(peer):
        peer.request()
        peer.send(sized(b"1"))
        peer.request()
        peer.send(b"HT")

    with Engine(breaks_at_the_second, answers(sized(b"2"))) as engine:
        connections = Connections()
        with Client() as client:
            relay(engine, client, connections)
        with Client() as client, pytest.raises(UpstreamFailed):
            relay(engine, client, connections)
        assert engine.connections == 1
        connections.close()


def test_a_fresh_connection_that_closes_is_not_tried_again():
    with Engine(lambda peer: peer.request()) as engine, Client() as client:
        with pytest.raises(UpstreamFailed):
            relay(engine, client)
        assert engine.connections == 1


def test_a_large_request_is_sent_whole():
    body = bytes(range(256)) * 20_000
    with Engine(answers(sized(b"{}"))) as engine, Client() as client:
        assert relay(engine, client, body=body).status == 200
        assert engine.requests[0].endswith(body)


def test_an_engine_may_refuse_a_large_request_before_it_has_read_it():
    def script(peer):
        peer.sock.recv(1000)
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        peer.until_closed()

    with Engine(script) as engine, Client() as client:
        assert relay(engine, client, body=b"x" * 20_000_000).status == 413
        assert engine.closed.wait(10)


def test_a_large_answer_to_a_slow_client_is_never_held_whole():
    size = 20_000_000
    block = b"x" * 100_000

    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(block)):
            peer.send(block)

    with Engine(script) as engine, Client(buffers=65536) as client:
        tracemalloc.start()
        running = Running(engine, client)
        head, _, body = client.until(b"x").partition(b"\r\n\r\n")
        got = len(body)
        while got < size:
            got += len(client.sock.recv(65536))
        outcome = running.result()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        running.connections.close()
    assert outcome.how is How.COMPLETED
    assert outcome.sent == len(head) + 4 + size
    assert got == size
    assert peak < 3_000_000


class WsgiServer:
    """The part of a WSGI server that a plain stream meets."""

    def __init__(self):
        self.status, self.headers, self.written = None, None, []

    def start_response(self, status, headers):
        self.status, self.headers = status, headers
        return self.written.append


class PlainClient:
    def __init__(self):
        self.server = WsgiServer()
        self.stream = PlainStream(self.server.start_response)


def test_any_wsgi_server_gets_the_same_answer():
    stream_of_two = SSE + chunk(b"data: 1\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    client = PlainClient()
    with Engine(answers(stream_of_two)) as engine:
        assert relay(engine, client).how is How.COMPLETED
    assert client.server.status == "200 OK"
    assert ("X-Accel-Buffering", "no") in client.server.headers
    assert b"".join(client.server.written) == b"data: 1\n\ndata: [DONE]\n\n"
    assert list(client.stream.finish()) == []


def test_any_wsgi_server_breaks_the_connection_of_an_answer_that_broke():
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    client = PlainClient()
    with Engine(script) as engine:
        assert relay(engine, client).how is How.UPSTREAM_FAILED
    with pytest.raises(ConnectionResetError):
        list(client.stream.finish())
