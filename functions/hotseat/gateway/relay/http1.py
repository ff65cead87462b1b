"""HTTP/1.1 messages on their way through (RFC 9112): heads, what is not passed on, and where a body ends."""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from hotseat.core.errors import UpstreamFailed, shortened

MAX_LINE = 4096  # bytes of a chunk's size line, extensions included
MAX_TRAILERS = 16384

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILERS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n")


class Garbled(ValueError):
    """The bytes violate the framing."""


class Framing(Protocol):
    """One body. `feed` is not called after `done`. `clean` then says whether the connection can be reused."""

    done: bool
    clean: bool

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body in `data`. Raise Garbled if `data` violates the framing."""

    def closed(self) -> bool:
        """Whether the body is complete if the connection closes now."""


class Counted:
    """Body of a known length."""

    __slots__ = ("clean", "done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.clean = True

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body. Excess bytes are dropped, and `clean` becomes False."""
        size = len(data)
        if size >= self.left:
            self.done = True
            if size > self.left:
                self.clean = False
                data = data[: self.left]
        self.left -= len(data)
        return data

    def closed(self) -> bool:
        """Whether all has come."""
        return self.done


class UntilClose:
    """Body that ends with its connection."""

    __slots__ = ("clean", "done")

    def __init__(self) -> None:
        self.done = False
        self.clean = False

    def feed(self, data: bytes) -> bytes:
        """All of `data`."""
        return data

    def closed(self) -> bool:
        """Mark the end."""
        self.done = True
        return True


class Chunked:
    """Chunked body; extensions and trailers are read and dropped, as a proxy may."""

    __slots__ = ("_held", "_in_trailers", "_left", "clean", "done")

    def __init__(self) -> None:
        self.done = False
        self.clean = True
        self._held = b""  # a size line, a chunk's line end or trailers of which a part has come
        self._left = -1  # bytes of the present chunk still to come; -1 between chunks
        self._in_trailers = False

    def feed(self, data: bytes) -> bytes:
        """Payload of all chunks, or parts of them, in `data`."""
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at = 0
        while not self._in_trailers:
            if self._left < 0:
                line = _SIZE.match(data, at)
                if line is None:
                    self._hold_line(data, at)
                    break
                self._left = int(line[1], 16)
                at = line.end()
                self._in_trailers = self._left == 0
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if piece:
                pieces.append(piece)
            if self._left or not self._line_end(data, at):
                break
            at += 2
            self._left = -1
        if self._in_trailers:
            self._trailers(data[at:])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def closed(self) -> bool:
        """Never: a chunked body has its own end."""
        return False

    def _line_end(self, data: bytes, at: int) -> bool:
        end = data[at : at + 2]
        if end == b"\r\n":
            return True
        if end not in (b"", b"\r"):
            raise Garbled("a chunk longer than its size")
        self._held = end
        return False

    def _hold_line(self, data: bytes, at: int) -> None:
        if data.find(b"\n", at) >= 0 or len(data) - at > MAX_LINE:
            raise Garbled("no chunk size")
        self._held = data[at:]

    def _trailers(self, data: bytes) -> None:
        end = _TRAILERS.match(data)
        if end is not None:
            self.done = True
            self.clean = end.end() == len(data)
        elif b"\r\n\r\n" in data or data.startswith(b"\n") or len(data) > MAX_TRAILERS:
            raise Garbled("malformed trailers")
        else:
            self._held = data


Headers = list[tuple[str, str]]

MAX_HEAD = 65536  # bytes of a response's head
MAX_FIELDS = 128
_STATUS = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
# Anchored to line starts: a malformed line does not match, and the number of fields is wrong.
_FIELD = re.compile(r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n", re.MULTILINE)
_TARGET = re.compile(r"[\x21-\x7e]+")
_AS_IS = "".join(map(chr, range(0x21, 0x7F)))  # other bytes of a target are quoted
_METHOD = re.compile(r"[A-Z]+")

_HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
# Of a request: fields that the relay sets, and the client's keys, which are for hotseat.
_OURS = frozenset({"host", "content-length", "expect", "authorization", "x-api-key", "api-key"})
# Origin is for hotseat, too: an engine that checks it would refuse pages that hotseat allows.
_NOT_TO_ENGINE = _HOP_BY_HOP | _OURS | {"origin"}
_CORS = "access-control-"
# Of a response: what only hotseat says of itself. An engine may be another hotseat.
_HOTSEATS = (_CORS, "x-hotseat-", "x-queue-")
_NAMED_ANYWAY = frozenset({"", "close", "keep-alive"})
# Of a response: fields about framing and content, and fields that the server sets.
_SERVERS = frozenset({"date", "server"})
_NOTED = (
    _HOP_BY_HOP
    | _SERVERS
    | {"content-length", "content-type", "content-encoding", "cache-control", "x-accel-buffering"}
)
_NO_CONTENT = 204  # must not have a Content-Length (RFC 9110, 8.6)
_BODILESS = frozenset({_NO_CONTENT, 304})
_OK = 200
_GET_LIKE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(slots=True)
class Call:
    """A request for an engine. `target` is path and query. `headers` are the client's, and are filtered.

    `patience` is the time in seconds until the response must have started, or None for no limit.
    """

    address: str  # http://host:port
    method: str
    target: str
    headers: Iterable[tuple[str, str]] = ()
    body: bytes = b""
    patience: float | None = None


@dataclass(slots=True)
class ResponseHead:
    """Head of a response. `headers` are for the client, the other fields are about this hop."""

    code: int
    status: str  # as WSGI has it: `200 OK`
    headers: Headers
    length: int | None  # None: chunked, or until the connection closes
    chunked: bool
    keep_alive: bool
    event_stream: bool
    encoded: str  # how it is compressed, so that no events can be inserted; empty: it is not

    def problem(self) -> str:
        """Return why a stream of events cannot be continued by this response. Empty if it can."""
        if self.code != _OK:
            return f"The engine answered with status {self.code}."
        if not self.event_stream:
            kind = next((value for name, value in self.headers if name.lower() == "content-type"), "no Content-Type")
            return f"The engine answered with {shortened(kind)}, not with a stream of events (text/event-stream)."
        return (
            f"The engine compressed its stream ({shortened(self.encoded)}), although it was told not to."
            if self.encoded
            else ""
        )


def end_to_end(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers for the engine.

    Without hop-by-hop fields, fields named by Connection, Host, Expect, keys, and fields of browsers about CORS.
    """
    kept: Headers = []
    named: set[str] = set()
    for field in headers:
        key = field[0].lower()
        if key not in _NOT_TO_ENGINE:
            if not key.startswith(_CORS):
                kept.append(field)
        elif key == "connection":
            named |= _tokens(field[1])
    return _without(kept, named) if named - _NAMED_ANYWAY else kept


def without_compression(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers of a request whose answer must not be compressed."""
    return [*(field for field in headers if field[0].lower() != "accept-encoding"), ("Accept-Encoding", "identity")]


class RequestHeaders:
    """Request headers of a WSGI environ, as pairs."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __iter__(self) -> Any:
        for key, value in self._environ.items():
            if key.startswith("HTTP_"):
                yield key[5:].replace("_", "-").title(), value
            elif key == "CONTENT_TYPE" and value:
                yield "Content-Type", value


def request_target(environ: Mapping[str, Any]) -> str:
    """Return the path by which the route was found, and the query as the client sent it.

    The client may have written the path in another way (`/v1/%63hat/completions`), which an engine need not understand.
    """
    query = environ.get("QUERY_STRING", "")
    path = quote(environ["PATH_INFO"].encode("latin-1"), safe="/:@!$&'()*+,;=~")
    target = f"{path}?{query}" if query else path
    return target if _TARGET.fullmatch(target) else quote(target.encode("latin-1"), safe=_AS_IS)


def encode_request(call: Call, host: str) -> bytes:
    """Return the head of the request. Raise ValueError if a part of it is not valid in a head."""
    if not _TARGET.fullmatch(call.target) or not _METHOD.fullmatch(call.method):
        raise ValueError("a method or target that cannot stand in a request line")
    lines = [f"{call.method} {call.target} HTTP/1.1\r\n", f"Host: {host}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in end_to_end(call.headers)]
    if call.body or call.method not in _GET_LIKE:
        lines.append(f"Content-Length: {len(call.body)}\r\n")
    return encode_head(lines)


def encode_head(lines: list[str]) -> bytes:
    """Return the lines and the empty line as bytes. Raise ValueError if a line contains another line break."""
    text = "".join(lines)
    if not text.count("\r\n") == text.count("\n") == text.count("\r") == len(lines) or "\0" in text:
        raise ValueError("a line break inside a header")
    return (text + "\r\n").encode("latin-1")


def parse_response(block: bytes, method: str) -> ResponseHead:
    """Parse a head with its empty line. Raise UpstreamFailed if it is malformed or its framing is ambiguous."""
    text = block.decode("latin-1")
    status = _STATUS.match(text)
    if status is None:
        raise UpstreamFailed("The engine's response is not HTTP.")
    fields = _FIELD.findall(text, status.end())
    # One line break per field, and two more. The counts differ for a bare LF, a folded line or a malformed line.
    if text.count("\n") != len(fields) + 2 or len(fields) > MAX_FIELDS:
        raise UpstreamFailed("The engine's response has malformed headers.")
    return _read_fields(fields, int(status[1]), int(status[2]), status[3] or "", method)


def _read_fields(fields: Headers, minor: int, code: int, reason: str, method: str) -> ResponseHead:
    kept: Headers = []
    noted: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        if key not in _NOTED:
            if not key.startswith(_HOTSEATS):
                kept.append((name, value))
        else:
            noted[key] = f"{noted[key]},{value}" if key in noted else value
            if key not in _HOP_BY_HOP and key not in _SERVERS and key != "content-length":
                kept.append((name, value))
    named = _tokens(noted["connection"]) if "connection" in noted else frozenset()
    if named - _NAMED_ANYWAY:
        kept = _without(kept, named)
    length, chunked = _framing(noted, code, method)
    if "content-length" in noted and "transfer-encoding" not in noted and code != _NO_CONTENT:
        kept.append(("Content-Length", noted["content-length"].partition(",")[0].strip()))
    event_stream = noted.get("content-type", "").lower().startswith("text/event-stream")
    if event_stream:
        kept = _without(kept, {"x-accel-buffering"})
        kept.append(("X-Accel-Buffering", "no"))
        if "cache-control" not in noted:
            kept.append(("Cache-Control", "no-cache"))
    keep_alive = "close" not in named and (minor > 0 or "keep-alive" in named)
    if "content-length" in noted and "transfer-encoding" in noted:
        keep_alive = False  # RFC 9112, 6.3: do not reuse the connection
    encoded = noted.get("content-encoding", "").strip().lower().removeprefix("identity")
    return ResponseHead(code, f"{code} {reason}", kept, length, chunked, keep_alive, event_stream, encoded)


def _framing(noted: Mapping[str, str], code: int, method: str) -> tuple[int | None, bool]:
    """Return the length of the body (None: unknown), and whether it is chunked."""
    coding = noted.get("transfer-encoding")
    lengths = (
        {part.strip() for part in noted.get("content-length", "").split(",")} if "content-length" in noted else set()
    )
    if len(lengths) > 1 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in lengths):  # noqa: PLR2004
        raise UpstreamFailed("The engine's response has an invalid Content-Length.")
    if method == "HEAD" or code in _BODILESS:
        return 0, False
    if coding is not None:
        if coding.strip().lower() != "chunked":
            raise UpstreamFailed("The engine's response has an unsupported Transfer-Encoding.")
        return None, True
    return (int(lengths.pop()), False) if lengths else (None, False)


def _tokens(value: str) -> set[str]:
    return {token.strip().lower() for token in value.split(",")}


def _without(headers: Headers, names: AbstractSet[str]) -> Headers:
    return [field for field in headers if field[0].lower() not in names]
