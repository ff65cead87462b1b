"""Answers in which `model` is the name that the client sent (`spec.responseModelName: Client`).

The name is replaced while the answer passes: of JSON and of events at most a few bytes are held, those in which a key may begin.
Everything else keeps the engine's bytes.
"""

import json
import re
from typing import Protocol

from hotseat.core.errors import HotseatError
from hotseat.gateway.http.response import ResponseFilter, ResponseSink

_QUOTE, _OPEN = ord('"'), b"{["
_NEXT = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# `model` stands at the top of an object, or in these members of it: in events of OpenAI's responses and Anthropic's messages.
_KEYS = rb'(model|response|message)"[ \t\r\n]{0,64}'
_MEMBER = re.compile(rb'"' + _KEYS + rb':[ \t\r\n]{0,64}(["{])')
_BEGINS = re.compile(rb'"(?:[a-z]{0,8}|' + _KEYS + rb"(?::[ \t\r\n]{0,64})?)")
_DATA = b"data:"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_TYPE = re.compile(rb"^content-type:[ \t]*([^\s;,]+)", re.IGNORECASE | re.MULTILINE)
_COMPRESSED = re.compile(rb"^content-encoding:[ \t]*(?!identity[ \t]*\r)[^\s]", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length:[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)


class _Renamer(Protocol):
    """Replaces names in a body that comes in pieces."""

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on after these bytes."""

    def flush(self) -> bytes:
        """Return what was held, at the end."""


class JsonRenamer:
    """Replaces `model` in JSON, which may be several documents. `value` is the new name as JSON."""

    __slots__ = ("_depth", "_dropping", "_escaped", "_held", "_in_string", "_inside", "_value")

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.reset()

    def reset(self) -> None:
        """Begin a document."""
        self._held = b""
        self._depth = 0
        self._in_string = self._escaped = False
        self._dropping = False  # within the engine's name
        self._inside = False  # within a member that may have the name

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on after these bytes."""
        if self._held:
            data, self._held = self._held + data, b""
        passed: list[bytes] = []
        start = at = 0
        while at < len(data):
            if self._in_string:
                at = self._skip_string(data, at)
                if not self._in_string and self._dropping:
                    start, self._dropping = at, False
                continue
            found = _NEXT.search(data, at)
            if found is None:
                break
            at = found.start()
            if data[at] != _QUOTE:
                self._nest(1 if data[at] in _OPEN else -1)
                at += 1
            elif self._may_have_name and _BEGINS.fullmatch(data, at):
                data, self._held = data[:at], data[at:]
            else:
                at = self._begin_string(data, at)
                if self._dropping:
                    passed += (data[start : at - 1], self._value)
        if not self._dropping:
            passed.append(data[start:])
        return b"".join(passed)

    def flush(self) -> bytes:
        """Return what was held, at the end."""
        held, self._held = self._held, b""
        return held

    @property
    def holds(self) -> bool:
        """Whether bytes are held, or dropped."""
        return bool(self._held) or self._dropping

    @property
    def _may_have_name(self) -> bool:
        return self._depth == 1 or (self._depth == 2 and self._inside)  # noqa: PLR2004

    def _begin_string(self, data: bytes, at: int) -> int:
        """Look at a string. Return where to go on: in it, or in the value that it is the key of."""
        member = _MEMBER.match(data, at) if self._may_have_name else None
        if member is not None and data[member.end() - 1] != _QUOTE:
            self._inside = self._inside or member[1] != b"model"
            return member.end() - 1
        self._in_string = True
        self._dropping = member is not None and member[1] == b"model"
        return at + 1 if member is None else member.end()

    def _skip_string(self, data: bytes, at: int) -> int:
        """Return the end of the string, or of the data."""
        match = _IN_STRING.match(data, at + self._escaped)
        if match is None:  # the escaped character is not there yet
            return len(data)
        end = match.end()
        self._escaped = end < len(data) and data[end] != _QUOTE
        if end == len(data) or self._escaped:
            return len(data)
        self._in_string = False
        return end + 1

    def _nest(self, step: int) -> None:
        self._depth = max(0, self._depth + step)
        if self._depth == 1:
            self._inside = False


class EventRenamer:
    """Replaces `model` in the data of server-sent events."""

    __slots__ = ("_cr", "_held", "_in_data", "_in_line", "_json", "_new")

    def __init__(self, value: bytes) -> None:
        self._json = JsonRenamer(value)
        self._held = b""
        self._new = True  # at the beginning of an event
        self._in_line = self._in_data = False
        self._cr = False  # after a CR, whose LF may follow

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on after these bytes."""
        if self._new and not self._held and b'"model"' not in data and data.endswith((b"\n\n", b"\r\n\r\n")):
            return data  # whole events
        if self._held:
            data, self._held = self._held + data, b""
        at = int(self._cr and data.startswith(b"\n"))
        passed, self._cr = [data[:at]], False
        while at < len(data):
            if not self._in_line and len(rest := data[at : at + len(_DATA)]) < len(_DATA) and _DATA.startswith(rest):
                self._held = rest
                break
            if not self._in_line:
                self._in_line, self._in_data = True, rest == _DATA
                blank = rest[:1] in b"\r\n"
                if blank:
                    self._json.reset()
                self._new = blank
            end = _LINE_END.search(data, at)
            piece = data[at : len(data) if end is None else end.start()]
            passed.append(self._json.feed(piece) if self._in_data else piece)
            at += len(piece)
            if end is not None:
                passed.append(self._end_line())
                passed.append(end[0])
                at = end.end()
                self._cr = end[0] == b"\r" and at == len(data)
        return b"".join(passed)

    def flush(self) -> bytes:
        """Return what was held, at the end."""
        held, self._held = self._json.flush() + self._held, b""
        return held

    def _end_line(self) -> bytes:
        self._in_line = False
        if not self._in_data or not self._json.holds:
            return b""
        held = self._json.flush()
        self._json.reset()
        return held


class RenamedResponse(ResponseFilter):
    """A response in which the engine's name of the model is replaced by `name`.

    Answers that are neither JSON nor events, compressed answers, and errors pass unchanged.
    """

    def __init__(self, response: ResponseSink, name: str) -> None:
        """Take a response. One that has already begun is a stream of events."""
        super().__init__(response)
        self._value = json.dumps(name).encode()
        self._renamer: _Renamer | None = EventRenamer(self._value) if response.begun else None

    def begin(self, status: str, fields: bytes, data: bytes = b"", *, counted: bool, last: bool = False) -> None:
        """Send the head and the first bytes of the body, or all of it with `last`."""
        self.begun = True
        self._renamer = _renamer(status, fields, self._value)
        if self._renamer is not None:
            data = self._renamer.feed(data)
            if last:
                data += self._renamer.flush()
            if counted:
                fields = _LENGTH.sub(b"Content-Length: %d\r\n" % len(data) if last else b"", fields)
                counted = last
        self._response.begin(status, fields, data, counted=counted, last=last)

    def write(self, data: bytes) -> None:
        """Send more of the body."""
        self._response.write(data if self._renamer is None else self._renamer.feed(data))

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes and the end of the body."""
        self._response.end(data if self._renamer is None else self._renamer.feed(data) + self._renamer.flush())

    def end_with_error(self, error: HotseatError, *, within_event: bool = False) -> None:
        """End a stream of events with an error."""
        if self._renamer is not None:
            self._response.write(self._renamer.flush())
        self._response.end_with_error(error, within_event=within_event)


def _renamer(status: str, fields: bytes, value: bytes) -> _Renamer | None:
    """Return what renames the model in an answer with this head. None: it is not changed."""
    if not status.startswith("2") or _COMPRESSED.search(fields):
        return None
    found = _TYPE.search(fields)
    kind = b"" if found is None else found[1].lower()
    if kind == b"text/event-stream":
        return EventRenamer(value)
    return JsonRenamer(value) if kind.endswith(b"json") else None
