"""Bodies of the type multipart/form-data: find the model that they name, and replace that name, without other changes than filters.

Servers differ in how they read a form that is not quite valid, so an engine could see another model than hotseat. Therefore only
forms that all of them read alike are accepted. In particular, the boundary must not occur anywhere but in delimiters.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hotseat.core.errors import BadRequest, shortened
from hotseat.core.messages import message
from hotseat.gateway.body import Body
from hotseat.gateway.parameters import Changes

if TYPE_CHECKING:
    from collections.abc import Callable

FORM = "multipart/form-data"
MAX_PARTS = 1000
MAX_PART_HEAD = 8192  # bytes of the headers of a part
MAX_NAME = 8192  # bytes of the value of `model`
_SLICE = 262_144  # bytes that are searched without a pause for other threads
_CRLF = b"\r\n"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 — of RFC 9110
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*', re.DOTALL)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_TRUE = b"true"
_READ = frozenset({"model", "stream"})  # fields whose values are read
_EPILOGUE = "The form has bytes after its last boundary."
_PART_HEAD = f"The headers of a part of the form do not end with an empty line, or exceed {MAX_PART_HEAD} bytes."
_NOT_A_DELIMITER = "The boundary of the form occurs within its data, or its lines do not end with CR LF."
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary"})


Edit = tuple[int, int, bytes]  # what replaces the bytes from the first position to the second


@message
class Form(Body):
    """A form: where the value of its field `model` starts and ends. Both are where its first part starts if it has none.

    `parts`: the names of its fields, with the positions of the delimiters before and after them.
    """

    start: int
    end: int
    parts: tuple[tuple[str, int, int], ...] = ()


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
    """Parse a form. Raise BadRequest if it is malformed. Other threads have their turn meanwhile."""
    scanner, view = FormScanner(boundary), memoryview(raw)
    for at in range(0, len(raw), _SLICE):
        scanner.feed(view[at : at + _SLICE])
    return scanner.form(raw)


class FormScanner:
    """Parses a form that comes in pieces. It keeps no more than one piece and the headers or the name that it is in."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"--" + boundary
        self._step: Callable[[], bool] = self._begin  # returns False if it needs more
        self._buffer = bytearray()
        self._at = 0  # in the buffer: what is before it has been parsed
        self._dropped = 0  # bytes of the form before the buffer
        self._parts: list[tuple[str, int, int]] = []
        self._part = 0  # where the part that is parsed starts
        self._name = ""  # of its field
        self._field = ""
        self._model: str | None = None
        self._stream = False
        self._start = self._end = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Parse more. Raise BadRequest if the form is malformed."""
        self._buffer += data
        while self._step():
            pass
        del self._buffer[: self._at]
        self._dropped += self._at
        self._at = 0

    def form(self, raw: bytes = b"") -> Form:
        """Return the form after its last piece. `raw`: its bytes, if they are held. Raise BadRequest if it is incomplete."""
        if self._step == self._begin:
            raise BadRequest("The form does not begin with its boundary.")
        if self._step != self._finish:
            raise BadRequest("The form is incomplete: its last boundary is missing.")
        if self._buffer not in (b"", _CRLF):
            raise BadRequest(_EPILOGUE)
        return Form(raw, self._model, self._stream, self._start, self._end, tuple(self._parts))

    def _begin(self) -> bool:
        buffer, delimiter = self._buffer, self._delimiter
        first = 2 if buffer.startswith(_CRLF) else 0
        if len(buffer) < first + len(delimiter):
            return False
        if not buffer.startswith(delimiter, first):
            raise BadRequest("The form does not begin with its boundary.")
        self._start = self._end = first
        self._at = first + len(delimiter)
        self._step = self._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        what = self._buffer[self._at : self._at + 2]
        if len(what) < 2:  # noqa: PLR2004
            return False
        self._at += 2
        if what == b"--":
            self._step = self._finish
        elif what == _CRLF:
            self._part = self._dropped + self._at - len(_CRLF) - len(self._delimiter)
            if len(self._parts) == MAX_PARTS:
                raise BadRequest(f"The form has more than {MAX_PARTS} parts.")
            self._step = self._head
        else:
            raise BadRequest(_NOT_A_DELIMITER)
        return True

    def _head(self) -> bool:
        buffer, at = self._buffer, self._at
        end = buffer.find(_CRLF + _CRLF, at, at + MAX_PART_HEAD)
        delimiter = buffer.find(self._delimiter, at, at + MAX_PART_HEAD if end < 0 else end)
        if delimiter > at and not buffer.endswith(_CRLF, at, delimiter):
            raise BadRequest(_NOT_A_DELIMITER)
        if delimiter >= 0 or end == at or (end < 0 and len(buffer) >= at + MAX_PART_HEAD):
            raise BadRequest(_PART_HEAD)
        if end < 0:
            return False
        self._field = self._name = _name(bytes(buffer[at:end]))
        if self._field == "model" and self._model is not None:
            raise BadRequest("The form has more than one `model`.", param="model")
        self._at = end + 4
        self._step = self._value
        return True

    def _value(self) -> bool:
        buffer, at, field = self._buffer, self._at, self._field
        found = buffer.find(self._delimiter, at)
        # Where the value ends, at the earliest: a part of the next delimiter may have come.
        end = (found if found >= 0 else len(buffer) - len(self._delimiter) + 1) - 2
        if field == "model" and end - at > MAX_NAME:
            raise BadRequest(f"The field `model` of the form has more than {MAX_NAME} bytes.", param="model")
        if field == "stream" and end - at > len(_TRUE):
            field = self._field = ""  # another value, however it goes on
            self._stream = False
        if found < 0:
            if field not in _READ and end > at:
                self._at = end
            return False
        if end < at or buffer[end:found] != _CRLF:
            raise BadRequest(_PART_HEAD if found == at else _NOT_A_DELIMITER)
        if field == "model":
            self._model = _text(bytes(buffer[at:end]))
            self._start, self._end = self._dropped + at, self._dropped + end
        elif field == "stream":
            self._stream = buffer[at:end].lower() == _TRUE
        self._parts.append((self._name, self._part, self._dropped + found))
        self._at = found + len(self._delimiter)
        self._step = self._after_delimiter
        return True

    def _finish(self) -> bool:
        if len(self._buffer) - self._at > len(_CRLF):
            raise BadRequest(_EPILOGUE)
        return False


def rename_form(form: Body, name: str, changes: Sequence[Changes] = (), *, boundary: bytes) -> bytes:
    """Replace the value of `model`, or insert the field if the form has none. Everything else keeps the client's bytes."""
    assert isinstance(form, Form)  # noqa: S101
    view, pieces, last = memoryview(form.raw), list[bytes | memoryview](), 0
    for start, end, value in form_edits(form, name, boundary, changes):
        pieces += [view[last:start], value]
        last = end
    return b"".join([*pieces, view[last:]])


def form_edits(form: Form, name: str, boundary: bytes, changes: Sequence[Changes] = ()) -> list[Edit]:
    """Return what makes NAME the model of a form, and changes its fields, in order of position.

    The value of a new field is a text, or JSON. A list becomes one field for each item. Raise BadRequest if the boundary occurs in a value.
    """
    edits = [] if name == form.model else [(form.start, form.end, new_value(form, name, boundary))]
    if not changes:
        return edits
    there, given = {field for field, _, _ in form.parts}, dict[str, Any]()
    for each in changes:
        for field in each.strip:
            there.discard(field)
            given.pop(field, None)
        given |= {field: value for field, value in each.default.items() if field not in there and field not in given}
        given |= each.set
        there -= each.set.keys()
    edits += [(start, end, b"") for field, start, end in form.parts if field not in there]
    if new := b"".join(_part(boundary, field, each) for field, value in given.items() for each in _values(value)):
        first = form.parts[0][1] if form.parts else form.start
        edits.append((first, first, new))
    return sorted(edits, key=lambda edit: edit[:2])


def _values(value: Any) -> list[bytes]:
    values = value if isinstance(value, list) else [value]
    return [(each if isinstance(each, str) else json.dumps(each)).encode() for each in values]


def _part(boundary: bytes, field: str, value: bytes) -> bytes:
    if b"--" + boundary in value:
        raise BadRequest(f"The boundary of the form occurs in the value of {field} that a filter of the Model sets.")
    name = field.encode().replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name, value)


def new_value(form: Form, name: str, boundary: bytes) -> bytes:
    """Return what stands from `start` to `end` of the form if `name` is its model."""
    return name.encode() if form.model is not None else _part(boundary, "model", name.encode())


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
