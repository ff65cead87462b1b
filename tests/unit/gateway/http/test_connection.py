"""Requests on real connections: what is HTTP is served in order, what is not is refused, and nobody is waited for forever."""

import asyncio
import contextlib
import json
import os
import re
import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from hotseat.core.errors import Unauthorized
from hotseat.gateway.http import server as http_server
from hotseat.gateway.http.connection import ClientConnection
from tests.unit.gateway.http.running import LOOPS, eventually, serving

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Echo:
    """Answers with what it got."""

    max_body = 100_000

    def __init__(self):
        self.abandoned, self.refusals, self.requests = [], [], []

    def accept(self, request):
        if "x-refuse" in request.headers:
            raise Unauthorized("no")
        return EchoHandler(self, request)

    def refused(self, request, error):
        self.refusals.append(error)


class EchoHandler:
    def __init__(self, service, request):
        self.service, self.request, self.max_body = service, request, service.max_body

    def received(self, size):
        pass

    def serve(self, response):
        request = self.request
        self.service.requests.append(request)
        text = f"{request.method} {request.path} {request.query} {request.body.decode('latin-1')}".encode()
        fields = b"Content-Type: text/plain\r\n"
        if "x-stream" in request.headers:
            response.begin("200 OK", fields, counted=False)
            for at in range(0, len(text), 5):
                response.write(text[at : at + 5])
            response.end()
        elif request.path == "/crash":
            raise ZeroDivisionError
        else:
            response.begin("200 OK", fields + b"Content-Length: %d\r\n" % len(text), text, counted=True, last=True)

    def abandon(self, status):
        self.service.abandoned.append(status)


@pytest.fixture(params=LOOPS)
def server(request, monkeypatch):
    monkeypatch.setattr(http_server, "SWEEP", 0.02)
    limits = {
        "head_time": 0.4,
        "body_pause": 0.3,
        "idle_time": 0.5,
        "refusal_time": 0.3,
        "connections": 50,
        "head_size": 4096,
    }
    with serving(Echo(), loop=request.param, **limits) as running:
        yield running


class Client:
    """One connection."""

    def __init__(self, server, data=b""):
        self.sock = socket.create_connection(server.address, timeout=10)
        self._rest = b""
        self.sock.sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def rest(self):
        """All until the other side closes."""
        data, self._rest = self._rest, b""
        while piece := self.sock.recv(65536):
            data += piece
        return data

    def _read(self, enough):
        while (at := enough(self._rest)) is None:
            piece = self.sock.recv(65536)
            assert piece, self._rest
            self._rest += piece
        data, self._rest = self._rest[:at], self._rest[at:]
        return data

    def head(self):
        return self._read(lambda data: data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else None).decode("latin-1")

    def answer(self, head_only=False):
        """Status and body of the next answer."""
        head = self.head()
        status = int(head.split()[1])
        if "chunked" in head:
            body = b""
            while True:
                size = int(self._read(lambda data: data.find(b"\r\n") + 2 if b"\r\n" in data else None), 16)
                data = self._read(lambda data, size=size: size + 2 if len(data) >= size + 2 else None)[:-2]
                if not size:
                    return status, body
                body += data
        length = re.search(r"(?i)content-length: (\d+)", head)
        if length is None or head_only:
            return status, b"" if head_only else self.rest()
        size = int(length[1])
        return status, self._read(lambda data: size if len(data) >= size else None)


def code(body):
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["code"]


def closed(client):
    return client.rest() == b""


# Requests that are served ---------------------------------------------------------------------------------------------


def test_requests_of_a_connection_are_served_one_after_another(server):
    with Client(server) as client:
        for number in range(3):
            client.send(b"POST /x?n=%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" % number)
            assert client.answer() == (200, f"POST /x n={number} body".encode())


def test_pipelined_requests_are_answered_in_order(server):
    post = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    chunked = b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    head = b"HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n"
    with Client(server, post % 0 + chunked % 1 + GET + head + chunked % 2 + post % 3) as client:
        assert client.answer() == (200, b"POST /0  abc")
        assert client.answer() == (200, b"POST /1  abc")
        assert client.answer() == (200, b"GET /  ")
        assert client.answer(head_only=True)[0] == 200
        assert client.answer() == (200, b"POST /2  abc")
        assert client.answer() == (200, b"POST /3  abc")


def test_many_pipelined_requests_are_all_answered(server):
    with Client(server) as client:
        sender = threading.Thread(target=client.send, args=(GET * 5000,))
        sender.start()
        for _ in range(5000):
            assert client.answer() == (200, b"GET /  ")
        sender.join()


def test_a_request_in_single_bytes_is_served(server):
    for request in (
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;e=1\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n",
    ):
        with Client(server) as client:
            for byte in request + request:
                client.send(bytes([byte]))
            assert client.answer() == (200, b"POST /x  abc")
            assert client.answer() == (200, b"POST /x  abc")


def test_a_chunked_body_may_have_the_bytes_that_end_one(server):
    body = b"0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
    request = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(body),
        body,
    )
    with Client(server, request + GET) as client:
        assert client.answer() == (200, b"POST /x  " + body)
        assert client.answer() == (200, b"GET /  ")


def test_others_have_their_turn_between_the_parts_of_a_body_in_small_chunks(server, monkeypatch):
    monkeypatch.setattr(Echo, "max_body", 1_000_000)
    turns = []
    go_on = ClientConnection._parse_early
    monkeypatch.setattr(ClientConnection, "_parse_early", lambda self: turns.append(1) or go_on(self))
    chunks = b"10\r\n0123456789abcdef\r\n" * 40_000
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Client(server, head + chunks + b"0\r\n\r\n" + GET) as client:
        status, body = client.answer()
        assert (status, len(body)) == (200, len(b"POST /x  ") + 640_000)
        assert client.answer() == (200, b"GET /  ")
    assert len(turns) > 2, "of 900 KB, 256 KB at most are read at a time"


def test_a_stream_is_chunked_and_the_connection_is_kept(server):
    with Client(server, b"GET /long-path-of-a-stream HTTP/1.1\r\nHost: a\r\nX-Stream: 1\r\n\r\n" + GET) as client:
        assert client.answer() == (200, b"GET /long-path-of-a-stream  ")
        assert client.answer() == (200, b"GET /  ")


def test_http_1_0(server):
    with Client(server, b"GET / HTTP/1.0\r\n\r\n") as client:
        assert client.answer() == (200, b"GET /  ")
        assert closed(client)
    with Client(server, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") as client:
        assert "Connection: keep-alive" in client.head()
        assert client._read(lambda data: 7 if len(data) >= 7 else None) == b"GET /  "
        client.send(b"GET / HTTP/1.0\r\nX-Stream: 1\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")
        assert body == b"GET /  "
        assert b"chunked" not in head


def test_a_client_that_asks_for_it_is_closed(server):
    with Client(server, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as client:
        assert b"Connection: close" in client.rest()


def test_paths(server):
    cases = {
        b"//v1//chat": "/v1/chat",
        b"/v1/models/a//b": "/v1/models/a//b",
        b"//v1//models//a//b": "/v1/models//a//b",
        b"http://other/x": "/x",
        b"http://other": "/",
        b"/a%20b": "/a b",
        b"/x#f": "/x",
    }
    with Client(server) as client:
        for target, path in cases.items():
            client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
            assert client.answer() == (200, f"GET {path}  ".encode())


def test_a_body_is_asked_for_when_its_head_has_been_accepted(server):
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n%b\r\n"
    with Client(server, head % (3, b"")) as client:
        assert client.head().startswith("HTTP/1.1 100 ")
        client.send(b"abc")
        assert client.answer() == (200, b"POST /x  abc")
    with Client(server, head % (3, b"X-Refuse: 1\r\n")) as client:
        assert client.answer()[0] == 401
        assert closed(client)
    with Client(server, head % (10**6, b"")) as client:
        assert client.answer()[0] == 413


def test_an_upgrade_that_nobody_offers_is_ignored(server):
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    for framing, body in (
        (b"Content-Length: 3\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
    ):
        request = b"POST /x HTTP/1.1\r\nHost: a\r\n" + upgrade + framing + b"\r\n" + body
        with Client(server, request + request + GET) as client:
            assert client.answer() == (200, b"POST /x  abc")
            assert client.answer() == (200, b"POST /x  abc")
            assert client.answer() == (200, b"GET /  ")


# Requests that are refused --------------------------------------------------------------------------------------------


def test_a_refused_request_does_not_end_its_connection(server):
    refused = b"POST / HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\nContent-Length: 5\r\n\r\n12345"
    with Client(server, refused + GET) as client:
        status, body = client.answer()
        assert (status, code(body)) == (401, "invalid_api_key")
        assert client.answer() == (200, b"GET /  ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b/<>\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400),
        (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 128 + b"\r\n", 431),
        (b"\r\n\r\n\0", 400),
    ],
)
def test_what_is_not_http_or_ambiguous_is_refused_and_nothing_after_it_is_served(server, request_, status):
    with Client(server, request_ + GET) as client:
        answer = client.answer()
        assert answer[0] == status
        assert code(answer[1])
        assert closed(client)
    assert not server.service.requests


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"ffffffffffffffffff\r\n",
        b"0\r\nNo colon\r\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_after_malformed_chunks_nothing_is_served(server, chunks, together):
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Client(server, head + (chunks + GET if together else b"")) as client:
        if not together:
            client.send(chunks)
            time.sleep(0.02)
            client.send(GET)
        status, body = client.answer()
        assert (status, code(body)) == (400, "invalid_request")
        assert closed(client)
    assert not server.service.requests
    assert server.service.abandoned == [400]


@pytest.mark.parametrize("what", ["extension", "trailer", "tiny chunks"])
def test_what_is_beside_the_data_of_chunks_is_bounded(server, what):
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    begin, more = {
        "extension": (b"1;", b"a" * 10_000),
        "trailer": (b"1\r\na\r\n0\r\n", b"A: b\r\n" * 2000),
        "tiny chunks": (b"", b"1;" + b"a" * 100 + b"\r\na\r\n"),
    }[what]
    with Client(server, head + begin) as client:
        sent = 0
        try:
            while sent < 30_000_000:
                client.send(more)
                sent += len(more)
        except OSError:
            pass
        assert sent < 30_000_000
    eventually(lambda: server.service.abandoned == [400])


def test_too_large_a_body_is_refused_before_it_is_read(server):
    with Client(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n") as client:
        status, body = client.answer()
        assert (status, code(body)) == (413, "request_too_large")
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    with Client(server, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 4) as client:
        assert client.answer()[0] == 413
        assert closed(client)
    assert server.service.abandoned == [413, 413]


def test_a_bug_is_told_as_such_and_the_connection_goes_on(server, caplog):
    with Client(server, b"GET /crash HTTP/1.1\r\nHost: a\r\n\r\n" + GET) as client:
        status, body = client.answer()
        assert (status, code(body)) == (500, "internal_error")
        assert client.answer() == (200, b"GET /  ")
    assert "ZeroDivisionError" in caplog.text


# Time and room --------------------------------------------------------------------------------------------------------


def test_half_a_head_is_waited_for_for_a_while(server):
    with Client(server, GET[:20]) as client:
        status, body = client.answer()
        assert (status, code(body)) == (408, "request_timeout")
        assert closed(client)


def test_a_head_that_drips_is_bounded_as_a_whole(server):
    with Client(server, b"GET / HTTP/1.1\r\n") as client:

        def dripped():
            time.sleep(0.02)
            try:
                client.send(b"X: y\r\n")
            except OSError:
                return True
            return False

        eventually(dripped, 5)


@pytest.mark.parametrize("request_", [b"", GET])
def test_a_connection_without_a_request_is_closed_after_a_while(server, request_):
    with Client(server, request_) as client:
        if request_:
            client.answer()
        assert closed(client)


def test_one_connection_that_cannot_be_closed_does_not_keep_others_open(server, monkeypatch, caplog):
    expire, failed = ClientConnection.expire, []

    def fails_once(connection):
        if not failed:
            failed.append(connection)
            raise ZeroDivisionError
        expire(connection)

    monkeypatch.setattr(ClientConnection, "expire", fails_once)
    with Client(server) as first, Client(server) as second:
        eventually(lambda: failed)
        client = second if failed[0]._sock.getpeername() == first.sock.getsockname() else first
        assert closed(client)
    assert "ZeroDivisionError" in caplog.text


def test_a_body_that_stalls_is_not_waited_for_forever(server):
    with Client(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc") as client:
        assert client.answer()[0] == 408
    assert server.service.abandoned == [408]


def test_a_client_that_leaves_within_its_body_is_noted(server):
    with Client(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"):
        pass
    eventually(lambda: server.service.abandoned == [499])


def test_the_longest_silent_connection_makes_room_for_a_new_one(server):
    clients = [Client(server, b"GET" if number % 2 else b"") for number in range(200)]
    with Client(server, GET) as client:
        assert client.answer()[0] == 200
    for each in clients:
        each.sock.close()
    eventually(lambda: not server.call(lambda: len(server.http._all)))


@pytest.mark.parametrize("loop", LOOPS)
def test_more_connections_with_a_request_than_there_is_room_for_are_refused(loop):
    with serving(loop=loop, connections=2) as server:
        clients, responses = [], []
        for _ in range(2):
            clients.append(Client(server, GET))
            responses.append(server.next_response()[0])
        for _ in range(3):
            clients.append(Client(server, GET))
            status, body = clients[-1].answer()
            assert (status, code(body)) == (503, "overloaded")
        for client, response in zip(clients, responses, strict=False):
            server.call(lambda response=response: response.begin("204 No Content", b"", counted=False, last=True))
            assert client.head().startswith("HTTP/1.1 204 ")
        for client in clients:
            client.sock.close()


def test_a_client_that_vanishes_without_a_word_is_noticed_by_the_kernel(server):
    with Client(server, GET) as client:
        client.answer()
        (connection,) = server.call(lambda: list(server.http._all))
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        ):
            assert connection._sock.getsockopt(level, option)


@contextlib.contextmanager
def no_descriptors():
    """Take all file descriptors below the highest one in use, and allow no other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(fd.name) for fd in Path("/proc/self/fd").iterdir()) + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)


@pytest.mark.parametrize("loop", LOOPS)
def test_without_descriptors_one_is_refused_with_an_answer_and_an_idle_one_makes_room(loop, caplog):
    with serving(loop=loop) as server, contextlib.ExitStack() as clients:
        busy = clients.enter_context(Client(server, GET))
        response, _ = server.next_response()
        idle = clients.enter_context(Client(server))
        eventually(lambda: server.call(lambda: len(server.http._waiting)) == 1)
        refused, served = [clients.enter_context(socket.socket()) for _ in range(2)]
        with no_descriptors():
            refused.settimeout(10)
            refused.connect(server.address)
            answer = b""
            while piece := refused.recv(65536):
                answer += piece
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert code(answer.partition(b"\r\n\r\n")[2]) == "overloaded"
            assert gone(idle)
            served.connect(server.address)
            served.sendall(GET)
            other, _ = server.next_response()
            for each in (response, other):
                server.call(lambda each=each: each.begin("204 No", b"", counted=False, last=True))
            assert busy.head().startswith("HTTP/1.1 204 ")
    assert caplog.text.count("cannot accept connections: Too many open files") == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_at_the_end_those_without_a_request_are_closed_at_once_and_the_last_answers_sent(loop):
    with serving(loop=loop) as server:
        half = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"
        with contextlib.ExitStack() as clients:
            sent = b"", GET[:20], half, GET, GET + GET
            *idle, used, busy = [clients.enter_context(Client(server, data)) for data in sent]
            for _ in range(2):
                response, connection = server.next_response()
                if connection._sock.getpeername() == used.sock.getsockname():
                    server.call(lambda response=response: response.begin("204 No", b"", counted=False, last=True))
                    assert used.head().startswith("HTTP/1.1 204 ")
                else:
                    last = response
            eventually(lambda: server.call(lambda: len(server.http._waiting)) == 4)
            closing = asyncio.run_coroutine_threadsafe(server.http.close(), server.loop)
            for client in (*idle, used):
                assert gone(client)
            assert not closing.done()
            server.call(lambda: last.begin("204 No", b"", counted=False, last=True))
            assert b"Connection: close" in busy.rest()
            closing.result(10)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_at_the_end_an_answer_that_its_client_still_reads_is_not_cut(loop, more):
    body = b"x" * 20_000_000
    with serving(loop=loop) as server, Client(server, GET[:-2] + more + b"\r\n") as client:
        response, _ = server.next_response()
        fields = b"Content-Length: %d\r\n" % len(body)
        server.call(lambda: response.begin("200 OK", fields, body, counted=True, last=True))
        closing = asyncio.run_coroutine_threadsafe(server.http.close(), server.loop)
        server.call(lambda: None)
        assert client.answer() == (200, body)
        assert closed(client)
        closing.result(10)


def gone(client):
    """Whether the other side closes, with or without a reset."""
    try:
        return closed(client)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_leaves_is_told_to_who_serves_it_also_with_a_request_ahead(loop):
    class ResponseWriter:
        def __init__(self):
            self.gone = threading.Event()

        def client_gone(self):
            self.gone.set()

    with serving(loop=loop) as server:
        for ahead in (b"", GET):
            client, watcher = Client(server, GET + ahead), ResponseWriter()
            response, _ = server.next_response()
            server.call(lambda response=response, watcher=watcher: setattr(response, "writer", watcher))
            assert not watcher.gone.wait(0.05)
            client.sock.close()
            assert watcher.gone.wait(5)
