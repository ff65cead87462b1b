import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.gateway.apis.sse import EventReader


def read(*pieces: bytes, limit: int = 1000) -> list[bytes]:
    reader = EventReader(limit)
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\n\ndata:  two\n\n", [b"one", b" two"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
        (b"data: one\ndata: more\n\n", [b"one\nmore"]),
        (b"data\ndata:\n\n", [b"\n"]),
        (b"data\n\n", [b""]),
        (b"data: one\n\ndata: [DONE]\n\n", [b"one", b"[DONE]"]),
        (b": a comment\n\n:\n\ndata: one\n: within\n\n", [b"one"]),
        (b"event: delta\nid: 7\nretry: 10\ndata: one\n\nevent: ping\n\n", [b"one"]),
        (b"database: no\ndata: one\n\n", [b"one"]),
        (b"\xef\xbb\xbfdata: one\n\n\xef\xbb\xbfdata: no field\n\n", [b"one"]),
        (b"\n\n\n\ndata: one\n\n\n\n", [b"one"]),
        (b"data: not complete\n", []),
        (b"data: not complete", []),
        (b"", []),
    ],
)
def test_the_data_of_each_complete_event_is_found(stream, events):
    assert read(stream) == events
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == events


FIELDS = [b"data: {}", b"data:", b"data", b"data: a:b", b": hotseat {}", b"event: x", b"", b"", b"\xef\xbb\xbfdata: x"]
LINES = st.lists(st.sampled_from(FIELDS), max_size=12)


@given(LINES, st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=12, max_size=12), st.data())
def test_pieces_and_ends_of_lines_make_no_difference(lines, ends, data):
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    # An LF that follows a CR is not an end of a line of its own, and an empty line more is none for events.
    assert read(*pieces) == read(stream)
    if b"\n" not in {end for line, end in zip(lines, ends, strict=False) if not line}:
        assert read(stream) == read(b"".join(line + b"\n" for line in lines))


def test_an_event_that_does_not_end_is_bounded():
    reader = EventReader(100)
    reader.feed(b"data: " + b"x" * 90)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        reader.feed(b"x" * 10)


def test_lines_of_an_event_that_does_not_end_are_bounded():
    assert read(b"data\n" * 100, limit=100) == []
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read(*[b"data\n"] * 101, limit=100)


def test_events_that_end_are_not_counted():
    assert len(read(*[b"data: " + b"x" * 40 + b"\n\n"] * 10, limit=100)) == 10
