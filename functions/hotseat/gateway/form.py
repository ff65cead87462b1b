"""Bodies of the type multipart/form-data: find the model that they name, and replace that name without other changes.

Servers differ in how they read a form that is not quite valid, so an engine could see another model than hotseat. Therefore only
forms that all of them read alike are accepted. In particular, the boundary must not occur anywhere but in delimiters.
"""

import re
from collections.abc import Iterator

from hotseat.core.errors import BadRequest, shortened
from hotseat.core.messages import message
from hotseat.gateway.body import Body

FORM = "multipart/form-data"
MAX_PARTS = 1000
MAX_PART_HEAD = 8192  # bytes of the headers of a part
_SLICE = 262_144  # bytes that are searched without a pause for other threads
_CRLF = b"\r\n"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 — of RFC 9110
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*', re.DOTALL)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_NOT_A_DELIMITER = "The boundary of the form occurs within its data, or its lines do not end with CR LF."
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary"})


@message
class Form(Body):
    """A form: where the value of its field `model` starts and ends. Both are where its first part starts if it has none."""

    start: int
    end: int


def is_form(content_type: str) -> bool:
    """Whether a body of this Content-Type is a form."""
    return content_type.partition(";")[0].strip().lower() == FORM


def boundary_of(content_type: str) -> bytes:
    """Return the boundary in the Content-Type of a form. Raise BadRequest if it is missing or invalid."""
    _, _, rest = content_type.partition(";")
    parameters = _parameters(f";{rest}".rstrip(" \t;")) if rest.strip() else []
    if parameters is None:
        raise BadRequest(f"The Content-Type of the form is malformed: {shortened(content_type)}.")
    found = [value for name, value in parameters if name == "boundary"]
    if len(found) != 1:
        raise BadRequest(f"The Content-Type of the form must have one boundary; it is: {shortened(content_type)}.")
    if not _BOUNDARY.fullmatch(found[0]):
        raise BadRequest("The boundary in the Content-Type of the form is invalid: allowed are 1 to 70 characters.")
    return found[0].encode()


def parse_form(raw: bytes, boundary: bytes) -> Form:
    """Parse a form. Raise BadRequest if it is malformed."""
    model: str | None = None
    stream = False
    first = _start(raw)
    span = first, first
    for head, start, end in _parts(raw, b"--" + boundary, first):
        name = _name(bytes(raw[head : start - 4]))
        if name == "model":
            if model is not None:
                raise BadRequest("The form has more than one `model`.", param="model")
            model, span = _text(raw[start:end]), (start, end)
        elif name == "stream":
            stream = raw[start:end].lower() == b"true"
    return Form(raw, model, stream, *span)


def _start(raw: bytes) -> int:
    return 2 if raw[:2] == _CRLF else 0


def _parts(raw: bytes, delimiter: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield for each part where its headers start, and where its value starts and ends."""
    if raw[at : at + len(delimiter)] != delimiter:
        raise BadRequest("The form does not begin with its boundary.")
    for _ in range(MAX_PARTS):
        at += len(delimiter)
        what = raw[at : at + 2]
        if what == b"--":
            if raw[at + 2 :] not in (b"", _CRLF):
                raise BadRequest("The form has bytes after its last boundary.")
            return
        if what != _CRLF:
            raise BadRequest(_NOT_A_DELIMITER)
        head, at = at + 2, _find(raw, delimiter, at + 2)
        if at < 0:
            raise BadRequest("The form is incomplete: its last boundary is missing.")
        if raw[at - 2 : at] != _CRLF:
            raise BadRequest(_NOT_A_DELIMITER)
        end_of_head = raw.find(_CRLF + _CRLF, head, min(at - 2, head + MAX_PART_HEAD))
        if end_of_head < 0:
            raise BadRequest(
                f"The headers of a part of the form do not end with an empty line, or exceed {MAX_PART_HEAD} bytes."
            )
        yield head, end_of_head + 4, at - 2
    raise BadRequest(f"The form has more than {MAX_PARTS} parts.")


def rename_form(form: Body, name: str, boundary: bytes) -> bytes:
    """Replace the value of `model`, or insert the field if the form has none. Everything else keeps the client's bytes."""
    assert isinstance(form, Form)  # noqa: S101
    value = name.encode()
    if form.model is None:
        value = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % (boundary, value)
    return b"".join([memoryview(form.raw)[: form.start], value, memoryview(form.raw)[form.end :]])


def _name(head: bytes) -> str:
    """Return the name of the field that a part has, by its headers. Raise BadRequest if they are malformed."""
    headers = _headers(head)
    disposition = headers.get("content-disposition", "")
    kind, semicolon, rest = disposition.partition(";")
    parameters = _parameters(semicolon + rest.rstrip(" \t;"))
    names = [value for key, value in parameters or () if key == "name"]
    if parameters is None or kind.strip().lower() != "form-data" or len(names) != 1:
        raise BadRequest(f"A part of the form has an invalid Content-Disposition: {shortened(disposition) or 'none'}.")
    keys = {key for key, _ in parameters}
    if "\\" in names[0] or "name*" in keys:  # servers differ in how they read it
        raise BadRequest("The name of a field of the form must have no backslash and no encoding.")
    if names[0] == "model":
        if any(key.startswith("filename") for key in keys):
            raise BadRequest("The field `model` of the form must not be a file.", param="model")
        if headers.get("content-transfer-encoding", "binary").lower() not in _PLAIN_ENCODINGS:
            raise BadRequest("The field `model` of the form must have no Content-Transfer-Encoding.", param="model")
    return names[0]


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(_TOKEN, name) or "\n" in line or "\r" in line or name.lower() in found:
            raise BadRequest("A part of the form has a malformed header, or one of them twice.")
        found[name.lower()] = value.strip(" \t")
    return found


def _parameters(text: str) -> list[tuple[str, str]] | None:
    """Return the parameters of a header, which begin with a semicolon, with names in lower case. None: they are malformed."""
    found, at = [], 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None
        found.append((match[1].lower(), match[2] if match[3] is None else match[3]))
        at = match.end()
    return found


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise BadRequest("The field `model` of the form must be the name of a model, in UTF-8.", param="model")
    return text


def _find(raw: bytes, what: bytes, start: int) -> int:
    """Find bytes, as `raw.find`. Other threads have their turn meanwhile."""
    for at in range(start, len(raw), _SLICE):
        found = raw.find(what, at, at + _SLICE + len(what) - 1)
        if found >= 0:
            return found
    return -1
