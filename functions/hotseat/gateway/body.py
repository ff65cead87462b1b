"""Request bodies: find the model that they name, and replace that name, without other changes than a Model's filters.

A body can have many megabytes, and Python's own parser holds the interpreter's lock while it builds objects. The parser used
here skips everything but the fields that are needed. It takes less than a millisecond for most megabytes. What would take longer
than a few milliseconds is done in another process (`body_process.py`).
"""

import codecs
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]
from math import inf
from typing import Any

import msgspec

from hotseat.core.errors import BadRequest, UnsupportedEncoding, shortened
from hotseat.core.messages import message
from hotseat.gateway import body_process
from hotseat.gateway.parameters import Changes, change_body, change_text

LARGE = 2**20  # bytes from which the cost of a body is estimated
CHANGED_HERE = (
    4 * 2**20
)  # bytes up to which parameters are changed in this process: that copies the body, and takes a few milliseconds
COSTLY = 1_000_000  # values, and escapes in strings, from which a body is parsed in another process
SLOW = 65536  # bytes from which that is done with a body that needs Python's parser
_SLICE = 262_144  # bytes that are looked at without a pause for other threads
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_NAME = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_BETWEEN = re.compile(rb"[ \t\n\r]*,?[ \t\n\r]*")


class _Model:
    """The type of the field `model`. The parser calls `_found` for each value of it."""


_MODEL = _Model()
_models = threading.local()  # `found`: the values of `model` in the body that is being parsed


class _Fields(msgspec.Struct):
    model: _Model = _MODEL  # not optional, so that null is passed to `_found`
    stream: Any = None


def _found(_type: type, value: Any) -> _Model:
    _models.found.append(value)
    return _MODEL


_FIELDS = msgspec.json.Decoder(_Fields, dec_hook=_found)
_VALUES = msgspec.json.Decoder(dict[str, msgspec.Raw])


@message
class Body:
    """A JSON body: its bytes as received, the model that it names (None: none), and whether it requests a stream."""

    raw: bytes
    model: str | None
    stream: bool


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raise UnsupportedEncoding if the body is compressed. `headers` are by lower-case name."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in {"", "identity"}:
        raise UnsupportedEncoding(
            f"The request body is compressed (Content-Encoding: {shortened(encoding)}); send it without compression."
        )


def parse_body(raw: bytes) -> Body:
    """Parse the body of an inference request. Raise BadRequest if it is invalid."""
    return body_process.parse(raw) if len(raw) > LARGE and _is_costly(raw) else parse_here(raw, SLOW)


def _is_costly(raw: bytes) -> bool:
    """Whether it takes long to parse a large body."""
    count = 0
    for at in range(0, len(raw), _SLICE):
        count += sum(raw.count(each, at, at + _SLICE) for each in (b",", b"[", b"{", b"\\"))
    return count > COSTLY


def _check_utf_8(raw: bytes) -> None:
    """Raise ValueError if a body is not UTF-8. msgspec does not check skipped values."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
    for at in range(0, len(raw), _SLICE):
        decoder.decode(raw[at : at + _SLICE])
    decoder.decode(b"", final=True)


def parse_here(raw: bytes, slow: float = inf) -> Body:
    """Parse a body in this process, unless it needs Python's parser and has more than `slow` bytes."""
    try:
        if not raw.isascii():
            _check_utf_8(raw)
        models = _models.found = []
        stream = _FIELDS.decode(raw).stream
    except (ValueError, RecursionError):  # not JSON, or what Python accepts beyond JSON: NaN, lone surrogates, a BOM
        if len(raw) > slow:
            return body_process.parse(raw)
        models, stream = _parse_slowly(raw)
    if len(models) > 1:  # JSON parsers differ in which of them they use, so an engine could use another than hotseat
        raise BadRequest("The request body has more than one `model`.", param="model")
    model = models[0] if models else None
    if model is not None and (not isinstance(model, str) or not model):
        raise BadRequest("`model` must be a string: the name of a model.", param="model")
    return Body(raw, model, stream is True)


def _parse_slowly(raw: bytes) -> tuple[list[Any], Any]:
    if (encoding := json.detect_encoding(raw)) not in {"utf-8", "utf-8-sig"}:
        raise BadRequest(f"The request body is in {encoding.upper()}; it must be in UTF-8.", code="invalid_json")
    try:
        text = _text(raw)
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(document, dict):
        raise BadRequest("The request body must be a JSON object.")
    return [document["model"] for key, _, _ in _members(text) if key == "model"], document.get("stream")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8-sig", "surrogatepass")  # as json.loads reads it


def rename_model(body: Body, name: str, changes: Sequence[Changes] = ()) -> bytes:
    """Replace the top-level `model`. Everything else keeps the client's bytes, without a byte order mark.

    With `changes` of parameters, the other values keep their bytes. Raise BadRequest if a part of the body that was skipped before is
    not valid JSON.
    """
    raw = body.raw
    large = len(raw) > LARGE and not (changes and len(raw) <= CHANGED_HERE and not _is_costly(raw))
    return body_process.rename(body, name, changes) if large else rename_here(body, name, SLOW, changes)


def rename_here(body: Body, name: str, slow: float = inf, changes: Sequence[Changes] = ()) -> bytes:
    """Replace the model in this process, unless that needs Python's parser and the body has more than `slow` bytes."""
    try:
        return change_body(body.raw, name, changes) if changes else _rename(body.raw, json.dumps(name).encode())
    except (ValueError, RecursionError):
        if len(body.raw) > slow:
            return body_process.rename(body, name, changes)
    try:
        return change_text(_text(body.raw), name, changes) if changes else _rename_slowly(body, name)
    except (ValueError, RecursionError, IndexError) as error:
        raise BadRequest(f"The request body is not valid JSON: {error}", code="invalid_json") from None


def _rename(raw: bytes, value: bytes) -> bytes:
    """Raise ValueError if a key occurs twice, because then the position of the values is ambiguous."""
    values = _VALUES.decode(raw)
    at = begin = raw.index(b"{") + 1
    pieces, last = [], 0
    for name, its in values.items():
        key = _NAME.match(raw, at)
        if key is None or json.loads(key[1]) != name:
            raise ValueError
        start, end = key.end(), key.end() + len(memoryview(its))
        if memoryview(raw)[start:end] != memoryview(its):
            raise ValueError
        if name == "model":
            pieces += [raw[last:start], value]
            last = end
        between = _BETWEEN.match(raw, end)
        at = between.end() if between else end
    if values and raw[at : at + 1] != b"}":
        raise ValueError
    if not pieces:
        last = begin
        pieces = [raw[:begin], b'"model": ', value, b", " if values else b""]
    return b"".join([*pieces, raw[last:]])


def _rename_slowly(body: Body, name: str) -> bytes:
    text = _text(body.raw)
    value = json.dumps(name)
    pieces, last = [], 0
    for key, start, end in _members(text):
        if key == "model":
            pieces += [text[last:start], value]
            last = end
    if not pieces:
        last = text.index("{") + 1
        comma = "" if text[last:].lstrip().startswith("}") else ", "
        pieces = [text[:last], f'"model": {value}{comma}']
    return "".join([*pieces, text[last:]]).encode("utf-8", "surrogatepass")


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the keys of a valid JSON object, and where each value starts and ends."""
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = scanstring(text, at + 1)
        start = _skip(text, _skip(text, at) + 1)  # over the colon
        _, end = _DECODER.raw_decode(text, start)
        yield key, start, end
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
