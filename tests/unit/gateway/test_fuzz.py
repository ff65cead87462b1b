"""Any requests and any answers of an engine, over real sockets: no crash, no hang, no 500, no switch, nothing is left."""

import contextlib
import fcntl
import json
import logging
import re
import socket
import struct
import termios
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import examples
from tests.unit.gateway.http import test_fuzz as heads
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.relay import test_fuzz as answers
from tests.unit.gateway.relay.fake_engine import SSE, Engine, Peer, chunk, sized
from tests.unit.gateway.test_body import values
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import Router, post, resident

OTHER = "b"  # is not resident, and would be loaded by one request for it. All bodies that name it are invalid
BODIES = [
    b'{"model": "a"}',
    b'{"model": "a", "stream": true}',
    b'\xef\xbb\xbf{"model": "a", "messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}',
    b'{"model": "a", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}',
    b'{"model": "a", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "stream": true}',
    b'{"model": "a", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "document"}]}]}',
    b'{"model": "a:latest", "messages": [], "keep_alive": 0}',
    b'{"model": "a", "prompt": "hi", "input": ["hi"], "raw": true}',
    b'{"model": "a", "prompt": "hi", "options": {"num_predict": 1}, "stream": false}',
    b'{"model": "nobody"}',
    b'{"model": ["a"]}',
    b'{"model": 1e999}',
    b"{}",
    b"[]",
    b"",
    b"null",
    b'{"model": "a", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    b'x{"model": "b"}',
    b'{"model": "b"',
    b'{"model": "b"}}',
    b'{"model": "b", "model": "a"}',
    b'{"model": "b", "x": "\xff"}',
    b'{"model": "b", "x": 01}',
    b'{"model": "b", "x": "\n"}',
    '{"model": "b"}'.encode("utf-16"),
]
PART = b'--a\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
FORMS = [
    PART % b"a" + b"--a--\r\n",
    b'--a\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n\0\r\n-\r\n' + PART % b"a" + b"--a--",
    b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\n\r\n--a--\r\n',
    PART % b"b",
    PART % b"b" + b"--a--\r\n after the end",
    b"before the start " + PART % b"b" + b"--a--\r\n",
    (PART % b"b" + b"--a--\r\n").replace(b"\r", b""),
    PART % b"a" * 3 + b"--a--",
    b"--a\r\nX: " + b"y" * 9000 + b"\r\n\r\nb\r\n--a--",
]
FIELDS = [
    "X-Priority: 1",
    "X-Priority: high",
    "X-Request-Timeout: 1ms",
    "X-Hotseat-Max-Wait: 0s",
    "X-Hotseat-Loading: comments",
    "X-Hotseat-Loading: reasoning",
    "X-Hotseat-Loading: refuse",
    "X-Hotseat-Loading: \xff",
    "Content-Encoding: gzip",
    "Content-Type: multipart/form-data; boundary=a",
    "Content-Type: multipart/form-data",
    "Origin: https://app.example",
    "Origin: null",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Accept-Encoding: gzip",
    "Transfer-Encoding: chunked",
    "X: " + "y" * 1500,
]
PATHS = [
    "/v1/chat/completions",
    "//v1/completions?x=%20",
    "/v1/messages",
    "/v1/messages/count_tokens?beta=true",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/v1/embeddings",
    "/v1/models/a",
    "/v1/models/%2e%2e/%00",
    "/api/models/b/load?wait=10%",
    "/api/models/nobody/load",
    "/nowhere",
    "*",
    "/v1/audio/transcriptions",
    "/v1/images/edits",
    "/v1/realtime?model=a",
    "/infill",
    "/props?model=b",
    "/slots?model=a&model=b",
    "/slots",
    "/slots/0?action=erase",
]

bodies = (
    st.sampled_from(BODIES)
    | st.sampled_from(FORMS)
    | st.binary(max_size=30)
    | values.map(lambda value: json.dumps(value).encode())
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, often valid but for one thing."""
    head, _, _ = post(
        b"",
        *draw(st.lists(st.sampled_from(FIELDS), max_size=2)),
        path=draw(st.sampled_from(PATHS[:7]) | st.sampled_from(PATHS)),
        key=draw(st.sampled_from(["k", "k", "k", "other"])),
    ).rpartition(b"Content-Length: 0\r\n\r\n")
    head = head.replace(b"POST", draw(st.sampled_from([b"POST", b"POST", b"POST", b"GET", b"HEAD"])), 1)
    body = draw(bodies)
    if draw(st.booleans()):
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    cut = draw(st.integers(0, len(body)))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (body[:cut], body[cut:]) if each)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


forms = st.sampled_from(FORMS).map(
    lambda form: post(form, "Content-Type: multipart/form-data; boundary=a", path="/v1/audio/transcriptions")
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """What a client sends: requests, and what is none."""
    stream = b"".join(draw(st.lists(requests() | requests() | forms | heads.streams, min_size=1, max_size=4)))
    if draw(st.booleans()):
        return stream
    at, size = draw(st.integers(0, len(stream))), draw(st.integers(0, 3))
    return stream[:at] + draw(st.binary(max_size=2)) + stream[at + size :] if size else stream[:at]


TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}\n\n'
COMPLETION = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}'
PARTS = [part for part in answers.PARTS if b"500" not in part]
PARTS += [
    SSE,
    chunk(TOKEN),
    chunk(TOKEN[:20]),
    chunk(TOKEN[20:]),
    chunk(LAST),
    chunk(b'data: {"error": {"code": 9}}\n\n'),
]
WHOLE = [answer for answer in answers.WHOLE if b"500" not in answer]
WHOLE += [sized(COMPLETION), SSE + chunk(TOKEN) + chunk(LAST) + b"0\r\n\r\n"]
pieces = st.lists(st.sampled_from(PARTS) | st.sampled_from(WHOLE) | st.binary(max_size=5), max_size=5)


class World:
    """A gateway, and an engine that answers as it is told."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.answer: list[bytes] = []  # after which the connection is closed. Empty: the first of WHOLE

    def play(self, peer: Peer) -> None:
        while peer.request():
            answer = self.answer
            for piece in answer or WHOLE[:1]:
                peer.send(piece)
            if answer:
                return

    def exchange(self, stream: bytes) -> bytes:
        """Return what a client gets for these bytes, once the gateway waits for it, or has closed its connection."""
        with socket.create_connection(self.router.address, timeout=10) as sock:
            mine = sock.getsockname()
            got: list[bytes] = []
            with contextlib.suppress(OSError):  # it was refused
                sock.sendall(stream)
            sock.setblocking(False)
            eventually(lambda: self._read(sock, got) or self.router.call(lambda: self._waits(mine)))
            self._read(sock, got)
        return b"".join(got)

    def _read(self, sock: socket.socket, got: list[bytes]) -> bool:
        """Read what there is. Return whether the connection is closed."""
        try:
            while data := sock.recv(65536):
                got.append(data)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _waits(self, client: Any) -> bool:
        """Whether the gateway has read all that this client has sent, and waits for more."""
        for connection in self.router.http._all:
            with contextlib.suppress(OSError):
                if connection._sock.getpeername() == client:
                    (unread,) = struct.unpack("i", fcntl.ioctl(connection._sock, termios.FIONREAD, b"\0" * 4))
                    return not unread and connection in self.router.http._waiting and not connection._early
        return False


@pytest.fixture(scope="module", params=["uvloop"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(Router(request.param))
    with Engine(made.play) as engine:
        made.router.world.tell("w", model("a"), model(OTHER), residents=resident("a", engine.address))
        yield made
        made.router.connections.close()
        made.router.close()


@settings(examples(1000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=streams(), answer=pieces)
def test_whatever_clients_and_engines_send(
    world: World, caplog: pytest.LogCaptureFixture, stream: bytes, answer: list[bytes]
) -> None:
    world.answer = [piece for piece in answer if piece]
    caplog.clear()
    got = world.exchange(stream)
    assert not re.search(rb"HTTP/1\.1 500", got)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    world.router.check_nothing_is_left()
    world.answer = []
    # What an engine sends too much after its connection has the next request cannot be told from the answer to that.
    world.router.call(world.router.connections.close)
    assert world.exchange(post({"model": "a"}, "Connection: close")).endswith(b'\r\n\r\n{"a": 1}')
    assert not world.router.world.wanted(OTHER)
