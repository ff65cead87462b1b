"""Bodies: what is read from them, and that another model's name changes nothing else."""

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.core.errors import BadRequest, TooLarge, TooSlow, UnsupportedEncoding
from hotseat.gateway.body import Body, check_encoding, parse_body, read_body, rename_model

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
members = st.lists(st.tuples(st.text().filter(lambda key: key != "model"), values), max_size=5)
names = st.text(min_size=1)
spaces = st.sampled_from(["", " ", "\n", "\t ", "\r\n  "])


@st.composite
def documents(draw: st.DrawFn, model: str) -> tuple[str, str]:
    """An object as a person might write it, and the same with MODEL where the top-level model's value is."""
    before, after = draw(members), draw(members)
    ascii_only = draw(st.booleans())
    space = draw(spaces)
    rows = [(key, json.dumps(value, ensure_ascii=ascii_only)) for key, value in [*before, ("model", None), *after]]
    written, marked = [], []
    for key, value in rows:
        name = json.dumps(key, ensure_ascii=ascii_only)
        mine = json.dumps(model, ensure_ascii=ascii_only) if key == "model" else value
        written.append(f"{space}{name}{space}:{space}{mine}{space}")
        marked.append(f"{space}{name}{space}:{space}{'MODEL' if key == 'model' else value}{space}")
    return tuple(f"{space}{{{','.join(rows)}}}{space}" for rows in (written, marked))


def encodable(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@given(st.data(), names, names)
def test_only_the_models_name_changes(data: st.DataObject, old: str, new: str) -> None:
    raw, marked = data.draw(documents(old))
    body = parse_body(encodable(raw))
    assert body.model == old
    renamed = rename_model(body, new)
    assert renamed == encodable(marked.replace("MODEL", json.dumps(new))) or "MODEL" in raw
    assert json.loads(renamed) == {**json.loads(encodable(raw)), "model": new}


@given(st.dictionaries(st.text(), values, max_size=5), spaces, names, st.booleans())
def test_where_there_is_none_it_is_put_in(document: dict[str, Any], space: str, name: str, null: bool) -> None:
    document.pop("model", None)
    if null:
        document["model"] = None
    raw = encodable(space + json.dumps(document, ensure_ascii=False) + space)
    renamed = rename_model(parse_body(raw), name)
    assert json.loads(renamed) == {**document, "model": name}
    assert not null or renamed.count(b'"model"') == raw.count(b'"model"')


@pytest.mark.parametrize(
    ("raw", "renamed"),
    [
        (rb'{"mod\u0065l": "a"}', rb'{"mod\u0065l": "b"}'),
        (b'{"inner":{"model":"a"},"model":"a"}', b'{"inner":{"model":"a"},"model":"b"}'),
        (b'{"n":1e400,"m":1.000,"model":"a"}', b'{"n":1e400,"m":1.000,"model":"b"}'),
        (b'\xef\xbb\xbf{"model":"a"}', b'{"model":"b"}'),
        (b'{"x":"\xed\xa0\x80","model":"a"}', b'{"x":"\xed\xa0\x80","model":"b"}'),
    ],
)
def test_odd_ones(raw: bytes, renamed: bytes) -> None:
    assert rename_model(parse_body(raw), "b") == renamed


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_json_is_utf_8(encoding: str) -> None:
    with pytest.raises(BadRequest, match="must be in UTF-8") as caught:
        parse_body('{"model": "a"}'.encode(encoding))
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"nope","model":"alpha"}', b'{"model":"a","x":1,"model":"a"}', b'{"model":"a","mod\\u0065l":"b"}',
        b'{"model":null,"model":"a"}', b'{"model":"a","model":null}', b'{"model":{"model":1},"model":"a"}',
        b'{"x":NaN,"model":"a","model":"b"}', b'\xef\xbb\xbf{"model":"a","mod\\u0065l":"b"}',
    ],
)  # fmt: skip
def test_a_body_that_names_two_models_is_refused_for_parsers_differ_in_which_they_take(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="more than one `model`") as caught:
        parse_body(raw)
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    "raw", [b'{"x":{"model":"b","model":"c"},"model":"a"}', b'{"y":"model","x":NaN,"model":"a","z":["model"]}']
)
def test_the_word_model_elsewhere_names_none(raw: bytes) -> None:
    assert parse_body(raw).model == "a"


def test_what_is_read_from_a_body() -> None:
    assert parse_body(b'{"model": "a", "stream": true}') == Body(b'{"model": "a", "stream": true}', "a", stream=True)
    assert parse_body(b'{"model": null, "stream": 1}').model is None
    assert not parse_body(b'{"model": null, "stream": 1}').stream


@given(st.binary(max_size=40))
def test_nothing_but_bad_request_comes_of_any_bytes(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse_body(raw)


@given(st.lists(st.sampled_from(list(b'{}[]:,"\\u0061 \n-1.eE\x00\xff\xc3\xa4')), max_size=12), st.integers(0, 3))
def test_what_is_no_json_is_refused_wherever_it_stands(odd: list[int], where: int) -> None:
    """What is looked for is found by a parser that passes over the rest, and takes no more for JSON than Python does."""
    raw = (b'{"x":%s,"model":"a"}', b'{"x":"%s","model":"a"}', b'{"x":[%s],"model":"a"}', b'{"model":"a"%s}')[
        where
    ] % bytes(odd)
    try:
        document = json.loads(raw)
    except ValueError:
        with pytest.raises(BadRequest):
            parse_body(raw)
    else:
        assert parse_body(raw).model == document["model"]
        if isinstance(document["model"], str):
            assert json.loads(rename_model(parse_body(raw), "b")) == {**document, "model": "b"}


def environ(body: bytes, length: str | None, *, chunked: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": chunked}
    return found if length is None else {**found, "CONTENT_LENGTH": length}


def test_a_body_is_read_to_its_end_and_no_further() -> None:
    assert read_body(environ(b"12345678", "5"), 5) == b"12345"
    assert read_body(environ(b"12345", None, chunked=True), 5) == b"12345"
    assert read_body(environ(b"12345", None), 5) == b"", "a request without a body"
    with pytest.raises(TooLarge):
        read_body(environ(b"", "6"), 5)
    with pytest.raises(TooLarge):
        read_body(environ(b"123456", None, chunked=True), 5)
    with pytest.raises(BadRequest, match="shorter than its Content-Length"):
        read_body(environ(b"1234", "5"), 5)


@pytest.mark.parametrize(("error", "told"), [(BlockingIOError(), TooSlow), (ConnectionResetError(), BadRequest)])
def test_a_body_that_stalls_or_breaks_is_no_bug(error: OSError, told: type[Exception]) -> None:
    class Source(io.BytesIO):
        def read(self, _size: int = -1) -> bytes:
            raise error

    with pytest.raises(told):
        read_body({"wsgi.input": Source(), "CONTENT_LENGTH": "5"}, 5)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x" * 9000])
def test_a_compressed_body_is_refused_as_that(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="Content-Encoding") as caught:
        check_encoding({"HTTP_CONTENT_ENCODING": encoding})
    assert len(caught.value.message) < 400
    for plain in ({}, {"HTTP_CONTENT_ENCODING": ""}, {"HTTP_CONTENT_ENCODING": "Identity"}):
        check_encoding(plain)
