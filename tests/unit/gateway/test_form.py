"""Forms: the model is found wherever it stands, and replaced without another change. What servers could read in two ways is refused."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.formparser import parse_form_data

from hotseat.core.errors import BadRequest
from hotseat.gateway import form as forms
from hotseat.gateway.form import Form, FormScanner, boundary_of, is_form, parse_form, rename_form
from hotseat.gateway.parameters import Changes

BOUNDARY = b"x-1"


def part(name: str, value: bytes, *more: str, filename: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    lines = [f'Content-Disposition: form-data; name="{name}"{file}', *more, "", ""]
    return b"--%b\r\n" % BOUNDARY + "\r\n".join(lines).encode() + value + b"\r\n"


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY


def read(raw: bytes) -> dict[str, str]:
    """The fields, as a server in Python reads them."""
    environ = {
        "wsgi.input": io.BytesIO(raw),
        "CONTENT_LENGTH": str(len(raw)),
        "CONTENT_TYPE": f"multipart/form-data; boundary={BOUNDARY.decode()}",
        "REQUEST_METHOD": "POST",
    }
    _, fields, files = parse_form_data(environ)
    for file in files.values():
        file.close()
    return fields.to_dict()


AUDIO = part("file", b"\0\r\n--\r\n\xff" * 9, "Content-Type: audio/wav", filename="a.wav")
MODEL = part("model", b"a/b")


@pytest.mark.parametrize("parts", [(MODEL, AUDIO), (AUDIO, MODEL), (AUDIO, MODEL, part("language", b"en"))])
@pytest.mark.parametrize("begin", [b"", b"\r\n"])
def test_the_model_is_replaced_wherever_it_stands(parts: tuple[bytes, ...], begin: bytes) -> None:
    raw = begin + whole(*parts)
    form = parse_form(raw, BOUNDARY)
    assert form.model == "a/b"
    assert rename_form(form, "a-longer-name", boundary=BOUNDARY) == raw.replace(b"a/b", b"a-longer-name")


def test_a_form_without_a_model_gets_one() -> None:
    form = parse_form(whole(AUDIO), BOUNDARY)
    assert form.model is None
    renamed = rename_form(form, "b", boundary=BOUNDARY)
    assert parse_form(renamed, BOUNDARY).model == "b"
    assert renamed.endswith(whole(AUDIO))
    assert read(renamed) == {"model": "b"}


@pytest.mark.parametrize(("value", "stream"), [(b"true", True), (b"True", True), (b"false", False), (b"", False)])
def test_a_stream_is_known(value: bytes, stream: bool) -> None:
    assert parse_form(whole(MODEL, part("stream", value)), BOUNDARY).stream is stream


@given(
    st.lists(
        st.tuples(st.sampled_from(["file", "language", "image[]"]), st.binary(max_size=300), st.booleans()), max_size=6
    ),
    st.text(min_size=1, max_size=30),
    st.text("abc-/:é", min_size=1, max_size=30),
    st.integers(0, 6),
    st.integers(1, 50),
)
def test_all_but_the_name_keeps_its_bytes(
    parts: list[tuple[str, bytes, bool]], old: str, new: str, at: int, step: int
) -> None:
    """Whatever the content, where the model stands, and how large the pieces are that are searched."""
    parts = [each for each in parts if BOUNDARY not in each[1]]
    sent = [part(name, value, filename="f.bin" if file else "") for name, value, file in parts]
    if BOUNDARY in old.encode():
        return
    before, after = b"".join(sent[:at]), whole(*sent[at:])
    slice_, forms._SLICE = forms._SLICE, step
    try:
        form = parse_form(before + part("model", old.encode()) + after, BOUNDARY)
    finally:
        forms._SLICE = slice_
    assert form.model == old
    assert rename_form(form, new, boundary=BOUNDARY) == before + part("model", new.encode()) + after


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "does not begin"),
        (b"preamble\r\n" + whole(MODEL), "does not begin"),
        (MODEL, "last boundary is missing"),
        (MODEL[:-6], "last boundary is missing"),
        (whole(MODEL) + b"epilogue", "after its last boundary"),
        (whole(MODEL).replace(b"\r\n", b"\n"), "CR LF"),
        (whole(part("prompt", b"--x-1 is my boundary"), MODEL), "empty line"),
        (whole(part("prompt", b"my boundary is --x-1"), MODEL), "within its data"),
        (whole(part("prompt", b"\n--x-1\n"), MODEL), "within its data"),
        (whole(MODEL).replace(b"x-1--", b"x-12"), "within its data"),
        (whole(MODEL, MODEL), "more than one `model`"),
        (whole(part("model", b"a", filename="m.txt")), "must not be a file"),
        (whole(part("model", b"YQ==", "Content-Transfer-Encoding: base64")), "Content-Transfer-Encoding"),
        (whole(part("model", b"")), "name of a model"),
        (whole(part("model", b"\xff")), "name of a model"),
        (whole(part("model", b"a" * 8193)), "more than 8192 bytes"),
        (whole(part("mo\\del", b"a")), "backslash"),
        (whole(part("a\"; name*=utf-8''model; b=\"", b"a")), "no encoding"),
        (whole(part('a"; name="model', b"a")), "invalid Content-Disposition"),
        (whole(b"--x-1\r\n\r\n\r\n"), "empty line"),
        (whole(b"--x-1\r\nContent-Type: text/plain\r\n\r\na\r\n"), "Content-Disposition: none"),
        (whole(b"--x-1\r\nContent-Disposition: form-data; name=model\r\n folded\r\n\r\na\r\n"), "malformed header"),
        (whole(part("model", b"a", "content-disposition: form-data; name=b")), "twice"),
        (whole(part("model", b"a", "X: " + "y" * 9000)), "exceed 8192 bytes"),
        (whole(*[part("a", b"")] * 1001), "more than 1000 parts"),
    ],
)
def test_what_is_not_a_valid_form_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(why)):
        parse_form(raw, BOUNDARY)


@given(
    st.lists(
        st.sampled_from([b"--x-1", b"\r\n", b"--", b"\n", b"Content-Disposition: form-data; name=model", b"a", b": "]),
        max_size=30,
    )
)
def test_a_strange_form_is_refused_or_read_as_others_read_it(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    try:
        form = parse_form(raw, BOUNDARY)
    except BadRequest:
        return
    assert read(raw).get("model") == form.model


def scan(raw: bytes, cuts: list[int]) -> Form | str:
    """What is found in a form that comes in pieces, or why it is refused."""
    scanner = FormScanner(BOUNDARY)
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    try:
        for start, end in zip([0, *ends], ends, strict=False):
            scanner.feed(raw[start:end])
        return scanner.form()
    except BadRequest as error:
        return error.message


CUTS = st.lists(st.integers(0, 400), max_size=8)


@given(
    st.lists(
        st.sampled_from([
            b"--x-1", b"\r\n", b"--x-1\r\n", b"\r\n\r\n", b"\r\n--x-1--", b"--", b"\n", b"a", b"true", b": ",
            b"Content-Disposition: form-data; name=model", b"Content-Disposition: form-data; name=stream", MODEL, AUDIO,
        ]),
        max_size=12,
    ),
    CUTS,
)  # fmt: skip
def test_it_does_not_matter_how_a_form_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(pieces)
    assert scan(raw, cuts) == scan(raw, []) == scan(raw, list(range(len(raw))))


@given(st.lists(st.sampled_from([MODEL, AUDIO, part("stream", b"true")]), max_size=4), CUTS)
def test_a_valid_form_is_the_same_in_pieces(parts: list[bytes], cuts: list[int]) -> None:
    if parts.count(MODEL) > 1:
        return
    raw = whole(*parts)
    found, held = scan(raw, cuts), parse_form(raw, BOUNDARY)
    assert isinstance(found, Form)
    assert (found.model, found.stream, found.start, found.end) == (held.model, held.stream, held.start, held.end)


def test_no_more_is_kept_than_a_piece() -> None:
    scanner = FormScanner(BOUNDARY)
    scanner.feed(MODEL + AUDIO[:-2])
    for _ in range(50):
        scanner.feed(bytes(100_000))
        assert len(scanner._buffer) < 10
    scanner.feed(b"\r\n" + whole(part("stream", b"true")))
    form = scanner.form()
    assert (form.model, form.stream) == ("a/b", True)


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data ; charset=utf-8;boundary="a b?c"; ', b"a b?c"),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk", b"----WebKitFormBoundary7MA4YWxk"),
    ],
)
def test_the_boundary_is_read(kind: str, boundary: bytes) -> None:
    assert is_form(kind)
    assert boundary_of(kind) == boundary


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a, multipart/form-data; boundary=b",
        'multipart/form-data; boundary="a',
        f"multipart/form-data; boundary={'a' * 71}",
        'multipart/form-data; boundary="a\x00"',
        'multipart/form-data; boundary="a "',
    ],
)
def test_a_form_without_a_usable_boundary_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest, match=r"boundary|malformed"):
        boundary_of(kind)
    assert not is_form("application/json")


def changed(raw: bytes, name: str, *changes: Changes) -> bytes:
    """A form after these changes, which is the same in whatever pieces it came."""
    scanner = FormScanner(BOUNDARY)
    for at in range(0, len(raw), 7):
        scanner.feed(raw[at : at + 7])
    assert scanner.form(raw) == parse_form(raw, BOUNDARY)
    return rename_form(parse_form(raw, BOUNDARY), name, changes, boundary=BOUNDARY)


@pytest.mark.parametrize("begin", [b"", b"\r\n"])
@pytest.mark.parametrize("parts", [(MODEL, AUDIO), (AUDIO, MODEL), (AUDIO,)])
def test_fields_are_changed_as_parameters_are(parts: tuple[bytes, ...], begin: bytes) -> None:
    more = part("language", b"en"), part("temperature", b"0.5"), part("prompt", b"hello")
    raw = begin + whole(more[0], *parts, *more[1:])
    changes = Changes(["prompt", "unknown"], {"temperature": 1, "n": 2}, {"language": "de"})
    after = changed(raw, "b", changes, Changes(["n"], {"prompt": "later"}, {"list[]": ["a", {"b": 1}]}))
    fields = {"model": "b", "temperature": "0.5", "language": "de", "prompt": "later", "list[]": "a"}
    assert read(after) == fields
    assert after.count(b'name="list[]"') == 2
    assert AUDIO in after


def test_a_form_that_no_change_is_for_stays_as_it_is() -> None:
    raw = whole(MODEL, AUDIO)
    assert changed(raw, "a/b", Changes(["x"], {}, {})) == raw


def test_a_form_without_fields_gets_those_that_are_set() -> None:
    assert read(changed(b"--%b--\r\n" % BOUNDARY, "b", Changes([], {'a"b': True}, {}))) == {"model": "b", 'a"b': "true"}


def test_a_form_whose_boundary_is_in_a_value_is_refused() -> None:
    with pytest.raises(BadRequest, match="boundary"):
        changed(whole(AUDIO), "b", Changes([], {}, {"prompt": "a --x-1 b"}))
