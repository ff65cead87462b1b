"""Bodies end where they say, however their bytes arrive."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.gateway.relay.http1 import Chunked, Counted, Garbled, UntilClose

EXTENSIONS = st.sampled_from([b"", b";a", b";name=value", b' ;quoted="x y"', b"\t"])
TRAILERS = st.lists(st.sampled_from([b"Expires: never\r\n", b"X-Sum: 1\r\n", b"E:\r\n"]), max_size=3)


@st.composite
def chunked_bodies(draw):
    """A body, and its bytes on the wire."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=60), max_size=8))
    wire = b"".join(
        draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece) + draw(EXTENSIONS) + b"\r\n" + piece + b"\r\n"
        for piece in pieces
    )
    return b"".join(pieces), wire + b"0" + draw(EXTENSIONS) + b"\r\n" + b"".join(draw(TRAILERS)) + b"\r\n"


def split(data, cuts):
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(chunked_bodies(), st.lists(st.integers(0, 10_000), max_size=30))
def test_a_chunked_body_survives_any_split(body, cuts):
    payload, wire = body
    framing, got = Chunked(), b""
    for piece in split(wire, cuts):
        assert not framing.done
        got += framing.feed(piece)
    assert (got, framing.done, framing.clean) == (payload, True, True)


@given(chunked_bodies())
def test_a_chunked_body_may_come_byte_by_byte(body):
    payload, wire = body
    framing = Chunked()
    assert b"".join(framing.feed(wire[i : i + 1]) for i in range(len(wire))) == payload
    assert framing.done


@given(chunked_bodies(), st.integers(0, 10_000))
def test_a_chunked_body_that_breaks_off_is_never_whole(body, cut):
    payload, wire = body
    framing = Chunked()
    got = framing.feed(wire[: cut % len(wire)])
    assert payload.startswith(got)
    assert not framing.done
    assert not framing.closed()


@given(st.binary(max_size=80), st.lists(st.integers(0, 100), max_size=5))
def test_no_bytes_at_all_make_the_parser_fail_in_another_way(data, cuts):
    framing = Chunked()
    try:
        for piece in split(data, cuts):
            if not framing.done:
                framing.feed(piece)
    except Garbled:
        pass


def test_bytes_behind_the_end_make_the_connection_useless():
    framing = Chunked()
    assert framing.feed(b"2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n") == b"hi"
    assert framing.done
    assert not framing.clean


@pytest.mark.parametrize(
    "wire",
    [
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"1_0\r\n",
        b" 5\r\nhello\r\n",
        b"-1\r\n",
        b"\r\n",
        b"5\nhello\n",
        b"5\r\nhellooo\r\n",
        b"5\r\nhello\n",
        b"ffffffffffffffff\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\nA: 1\nB: 2\r\n\r\n",
        b"0\r\n\n",
        b"5;" + b"x" * 5000,
        b"0\r\n" + b"A: 1\r\n" * 4000,
    ],
)
def test_what_is_no_chunk_is_refused(wire):
    with pytest.raises(Garbled):
        Chunked().feed(wire)


def test_a_counted_body_ends_at_its_length():
    framing = Counted(5)
    assert (framing.feed(b"he"), framing.done, framing.closed()) == (b"he", False, False)
    assert (framing.feed(b"llo"), framing.done, framing.clean) == (b"llo", True, True)


def test_bytes_beyond_the_length_are_dropped_with_their_connection():
    framing = Counted(2)
    assert (framing.feed(b"hello"), framing.done, framing.clean) == (b"he", True, False)


def test_no_length_is_done_at_once():
    assert Counted(0).done


def test_a_body_until_close_is_whole_when_the_connection_closes():
    framing = UntilClose()
    assert (framing.feed(b"hello"), framing.done) == (b"hello", False)
    assert (framing.closed(), framing.done, framing.clean) == (True, True, False)
