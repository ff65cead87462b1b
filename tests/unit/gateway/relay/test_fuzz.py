"""Any answer of an engine, cut anywhere: no crash, and what is not whole never looks whole to the client."""

import asyncio
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hotseat.gateway.known_heads import KnownHeads
from hotseat.gateway.relay import Call, Exchange, How, Outcome
from hotseat.gateway.relay.heads import ResponseHead
from hotseat.gateway.relay.response_parser import ResponseParser, response_heads
from tests.fuzzing import examples
from tests.unit.gateway.http.test_fuzz import Wire
from tests.unit.gateway.relay.fake_engine import SSE, chunk, sized

WHOLE = [
    sized(b'{"a": 1}'),
    sized(b""),
    b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"abc"),
    SSE + chunk(b"data: 1\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
    SSE + chunk(b"data: 1\n\n") + b"0\r\nTrailer: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"0\r\n\r\n") + b"0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
]
PARTS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 101 Switching\r\n", b"HTTP/2 200\r\n", b"Content-Length: 3\r\n", b"Content-Length: 4\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"Content-Type: text/event-stream\r\n",
    b"\r\n", b"\n", b"\0", b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"-1\r\n", b"data: 1\n\n", b"x" * 300,
]  # fmt: skip


class Service:
    """Keeps the response."""

    max_body = 100

    def accept(self, _request: Any) -> "Service":
        return self

    def refused(self, *_: Any) -> None:
        pass

    def received(self, _size: int) -> None:
        pass

    def serve(self, response: Any) -> None:
        self.response = response


class Engine:
    """A connection, and the pool that it is from."""

    host, reused = b"h", False

    def __init__(self, heads: KnownHeads[ResponseHead] | None = None) -> None:
        self.user: Any = None
        self.home, self.stalled = self, set()
        self.parser = ResponseParser(heads)
        self.kept = self.closed = False

    def take(self, _address: str) -> "Engine":
        return self

    def put(self, _connection: Any) -> None:
        self.kept = True
        self.user = None

    put_later = put

    def close(self) -> None:
        self.closed = True
        self.user = None

    def send(self, *_: Any) -> None:
        pass

    def set_reading(self, *, on: bool) -> None:
        pass

    def rests(self) -> bool:
        return True


def relayed(
    pieces: list[bytes], *, clean: bool, modern: bool = True, heads: KnownHeads[ResponseHead] | None = None
) -> tuple[bytes, bool, Outcome, Engine]:
    """What the client got, whether its connection was broken, the outcome, and the engine."""

    async def run() -> tuple[bytes, bool, Outcome, Engine]:
        wire, engine, outcomes = Wire(), Engine(heads), []
        wire.service = Service()
        keep = b"" if modern else b"Connection: keep-alive\r\n"
        wire.feed(b"POST / HTTP/1.%d\r\nHost: a\r\n%bContent-Length: 0\r\n\r\n" % (modern, keep))
        exchange = Exchange(engine, Call("http://h", "POST", b"/"), wire.service.response, outcomes.append)
        exchange.start()
        for piece in pieces:
            if engine.user is not None:
                engine.user.engine_sent(piece)
        if engine.user is not None:
            engine.user.engine_gone(clean=clean, closed_first=False)
        (outcome,) = outcomes
        assert engine.kept or engine.closed or outcome.error is not None or outcome.how is How.COMPLETED
        return wire.sent, wire.closed, outcome, engine

    return asyncio.run(run())


def is_whole(sent: bytes, *, closed: bool) -> bool:
    """Whether a client takes the answer for complete. A closed connection here was reset."""
    head, found, body = sent.partition(b"\r\n\r\n")
    if not found:
        return False
    if b" 204 " in head[:16]:
        return True
    if b"chunked" in head:
        while (line := re.match(rb"([0-9a-f]+)\r\n", body)) and int(line[1], 16):
            body = body[line.end() + int(line[1], 16) + 2 :]
        return body == b"0\r\n\r\n"
    length = re.search(rb"Content-Length: (\d+)", head)
    return len(body) == int(length[1]) if length else not closed


def dateless(sent: bytes) -> bytes:
    return re.sub(rb"Date: [^\r]*", b"", sent)


@examples(1500)
@given(st.sampled_from(WHOLE), st.data(), st.booleans(), st.booleans())
def test_a_part_of_an_answer_never_looks_whole(answer: bytes, data: st.DataObject, clean: bool, modern: bool) -> None:
    end = data.draw(st.integers(0, len(answer)))
    cuts = sorted(data.draw(st.sets(st.integers(0, end), max_size=4)))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, end], strict=True) if a < b]
    sent, closed, outcome, engine = relayed(pieces, clean=clean, modern=modern)
    heads = response_heads()  # heads that are known are parsed once
    relayed([answer], clean=True, heads=heads)
    again = relayed(pieces, clean=clean, modern=modern, heads=heads)
    assert (dateless(again[0]), again[1], again[3].kept) == (dateless(sent), closed, engine.kept)
    if end == len(answer):
        assert (outcome.how, outcome.error) == (How.COMPLETED, None)
    elif outcome.how is How.COMPLETED:  # all but a line end that nobody waits for
        assert is_whole(sent, closed=closed)
    elif b"text/event-stream" in sent:
        assert b'data: {"error"' in sent
        assert b"[DONE]" not in sent.partition(b'data: {"error"')[2]
    elif sent:
        assert closed
        assert not is_whole(sent, closed=closed)


@examples(1500)
@given(st.lists(st.sampled_from(PARTS) | st.sampled_from(WHOLE) | st.binary(max_size=5), max_size=8), st.booleans())
def test_whatever_an_engine_sends_the_exchange_ends(pieces: list[bytes], clean: bool) -> None:
    sent, _, outcome, engine = relayed([piece for piece in pieces if piece], clean=clean)
    assert sent.count(b"HTTP/1.1 ") - sum(piece.count(b"HTTP/1.1 ") for piece in pieces) <= 1
    if engine.kept:
        assert outcome.how is How.COMPLETED
