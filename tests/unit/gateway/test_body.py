"""Bodies: what is read from them, and that another model's name changes nothing else."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.core.errors import BadRequest, UnsupportedEncoding
from hotseat.gateway import body
from hotseat.gateway.body import Body, check_encoding, parse_body, rename_model
from tests.fuzzing import examples

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


@examples(100)
@given(st.data(), names, names)
def test_only_the_models_name_changes(data: st.DataObject, old: str, new: str) -> None:
    raw, marked = data.draw(documents(old))
    body = parse_body(encodable(raw))
    assert body.model == old
    renamed = rename_model(body, new)
    assert renamed == encodable(marked.replace("MODEL", json.dumps(new))) or "MODEL" in raw
    assert json.loads(renamed) == {**json.loads(encodable(raw)), "model": new}


@examples(100)
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


@examples(500)
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


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x" * 9000])
def test_a_compressed_body_is_refused_as_that(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="Content-Encoding") as caught:
        check_encoding({"content-encoding": encoding})
    assert len(caught.value.message) < 400
    for plain in ({}, {"content-encoding": ""}, {"content-encoding": "Identity"}):
        check_encoding(plain)


@pytest.mark.parametrize("why", ["COSTLY", "SLOW"])
def test_what_would_take_long_is_done_in_another_process(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(body, "LARGE", 10 if why == "COSTLY" else 10**9)
    monkeypatch.setattr(body, "COSTLY", 1)
    monkeypatch.setattr(body, "SLOW", 10)
    monkeypatch.setattr(body, "_parse_slowly", None)
    monkeypatch.setattr(body, "_rename_slowly", None)
    raw = b'{"n":NaN,"model":"\xc3\xa4","stream":true}'
    parsed = parse_body(raw)
    assert parsed == Body(raw, "ä", stream=True)
    assert rename_model(parsed, "b") == b'{"n":NaN,"model":"b","stream":true}'
    with pytest.raises(BadRequest) as refused:
        parse_body(b'{"model":"a","n":NaN,"x":[[[[')
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("unit", "costly"), [(b"[],", True), (b'{"":0},', True), (b"1,", True), (b'"' + b"x" * 1000 + b'",', False)]
)
def test_how_long_a_body_takes_is_told_from_what_it_has(unit: bytes, costly: bool) -> None:
    raw = b'{"model":"a","x":[' + unit * (10_000_000 // len(unit)) + b"1]}"
    assert body._is_costly(bytearray(raw)) is costly
    assert not body._is_costly(raw[:1000])
    assert costly or parse_body(bytearray(raw)).model == "a"


def test_utf_8_is_checked_in_pieces() -> None:
    raw = b'{"model":"a","x":"' + "é😀".encode() * 300_000 + b'"}'
    assert parse_body(raw).model == "a"
    with pytest.raises(BadRequest):
        parse_body(raw[:-3] + b'"}')
