"""Any bytes, in any pieces: no crash, the same requests and answers however they are cut, and nothing after a refusal."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.gateway.http.connection import ClientConnection
from hotseat.gateway.http.interfaces import Handler, HttpLimits
from hotseat.gateway.http.request import Listener, Request
from tests.fuzzing import examples
from tests.unit.gateway.http.test_connection import Echo

PARTS = [
    b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"POST /x HTTP/1.0\r\n", b"GET http://a/b HTTP/1.1\r\n", b"GET / HTTP/2.0\r\n", b"Host: a\r\n",
    b"Host: b\r\n", b"Content-Length: 3\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: +3\r\n",
    b"Content-Length: 3, 3\r\n", b"Content-Length : 3\r\n", b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: Chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer_Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n", b"X: y\r\n", b"X: y\n", b" folded\r\n", b"X-Refuse: 1\r\n", b"X-Stream: 1\r\n", b"\r\n", b"\n", b"\r", b"\r\n\r\n",
    b"abc", b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b"3 \r\nabc\r\n", b"0x3\r\nabc\r\n", b"3\nabc\n", b"0\r\n\r\n", b"0\r\nT: 1\r\n\r\n", b"00\r\n\r\n",
    b"\0", b"\xff", b"-1\r\n", b"ffffffffffffffff\r\n",
]  # fmt: skip
WHOLE = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /x HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\nContent-Length: 3\r\n\r\nabc",
]
streams = st.lists(
    st.sampled_from(PARTS) | st.sampled_from(WHOLE) | st.sampled_from(WHOLE) | st.binary(max_size=4), max_size=14
).map(b"".join)


class Sock:
    def setsockopt(self, *_: Any) -> None:
        pass


class KnownHeads(Echo):
    """A service that lets the head of each request be known from then on."""

    def accept(self, request: Request) -> Handler:
        handler = super().accept(request)
        request.accepted = ()
        return handler


class Wire:
    """The transport of a connection, and its server."""

    limits = HttpLimits(head_size=2000)
    closing = False

    def __init__(self, listener: Listener | None = None) -> None:
        self.service, self.loop = KnownHeads() if listener else Echo(), self
        self.sent, self.ready = b"", []
        self.closed = self.ended = False
        self.connection = ClientConnection(self, Sock(), listener or Listener("127.0.0.1", 1))
        self.connection.connection_made(self)

    def feed(self, data: bytes) -> None:
        if not self.closed:
            self.connection.data_received(data)
        while self.ready:
            function, *arguments = self.ready.pop(0)
            function(*arguments)

    # The loop and the server
    def call_soon(self, function: Any, *arguments: Any) -> None:
        self.ready.append((function, *arguments))

    def waits(self, *_: Any) -> None:
        pass

    def busy(self, _: Any) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name in ("pause_reading", "resume_reading", "set_write_buffer_limits"):
            return lambda *_: None
        raise AttributeError(name)

    # The transport
    def write(self, data: bytes) -> None:
        assert not self.ended, "nothing is sent after the end"
        self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = self.ended = True

    abort = close

    def seen(self) -> tuple[list[tuple[str, str, bytes]], bytes]:
        requests = [(request.method, request.path, request.body) for request in self.service.requests]
        return requests, re.sub(rb"Date: [^\r]*\r\n", b"", self.sent).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


def served(pieces: list[bytes], listener: Listener | None = None) -> Any:
    wire = Wire(listener)
    for piece in pieces:
        wire.feed(piece)
    requests, sent = wire.seen()
    statuses = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d\d\d)", sent)]
    assert 500 not in statuses
    refused = [status for status in statuses if status not in (200, 401)]
    assert len(refused) <= 1
    assert not refused or statuses[-1] == refused[0], "nothing is answered after a refusal"
    assert statuses.count(200) == len(requests)
    assert not refused or sent.count(b"Connection: close\r\n") >= 1
    return requests, statuses


@examples(2000)
@given(streams, st.data())
def test_how_the_bytes_are_cut_changes_nothing(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    at_once, in_pieces, in_bytes = served([stream]), served(pieces), served([bytes([byte]) for byte in stream])
    assert at_once == in_pieces == in_bytes
    listener = Listener("127.0.0.1", 1)  # heads that are known are parsed once
    assert [served(each, listener) for each in ([stream], pieces, [stream])] == [at_once] * 3


@examples(500)
@given(st.lists(st.sampled_from(WHOLE), max_size=8))
def test_whole_requests_are_all_served(requests: list[bytes]) -> None:
    found, _ = served([b"".join(requests)])
    assert len(found) == sum(b"X-Refuse" not in request for request in requests)


# Each ends with a request that a front which reads it otherwise would take for another client's.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"


FRONTS = [
    HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1c\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding:\tchunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    HEAD + b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    HEAD + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Content-Length: 0\r\nContent-Length: 35\r\n\r\n",
    HEAD + b"Content-Length: 0, 35\r\n\r\n",
    HEAD + b"Content-Length: 0x23\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length:\r\n\r\n",
    HEAD + b"Content-Length: 3 5\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a\n0\r\n\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\n\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nZZ\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
    b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1 \r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST /x\tHTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("front", FRONTS)
def test_what_fronts_read_in_different_ways_is_refused(front: bytes) -> None:
    requests, statuses = served([front + SMUGGLED])
    assert requests == []
    assert statuses in ([400], [501])
