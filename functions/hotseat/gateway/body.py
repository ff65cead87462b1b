"""Reading a request's body: which model it names, and putting another name there without touching anything else."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from hotseat.core.errors import BadRequest, TooLarge

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON body: its bytes as they came, the model it names (None: none) and whether it asks for a stream."""

    raw: bytes
    model: str | None
    stream: bool


def read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """All bytes of the body; TooLarge beyond `limit` bytes, BadRequest where it ends early."""
    length = environ.get("CONTENT_LENGTH")
    source = environ["wsgi.input"]
    if length:
        expected = int(length)
        if expected > limit:
            raise TooLarge(f"The body has {expected} bytes; at most {limit} are taken.")
        data: bytes = source.read(expected)
        if len(data) < expected:
            raise BadRequest("The body ended before its Content-Length.")
        return data
    if not environ.get("wsgi.input_terminated"):
        return b""
    data = source.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"The body has more than {limit} bytes.")
    return data


def parse_body(raw: bytes) -> Body:
    """Body of an inference request; BadRequest says what is wrong with it."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(document, dict):
        raise BadRequest("The body must be a JSON object.")
    model = document.get("model")
    if model is not None and (not isinstance(model, str) or not model):
        raise BadRequest("`model` must be a string that names a model.", param="model")
    return Body(raw, model, document.get("stream") is True)


def rename_model(body: Body, name: str) -> bytes:
    """Put another value into the top-level `model`; everything else stays as the client wrote it, though always as UTF-8."""
    text = body.raw.decode(json.detect_encoding(body.raw), "surrogatepass")  # as json.loads reads it
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
    """Keys of a valid JSON object and where each value starts and ends."""
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
