"""Heads of HTTP/1.1 messages on their way through: what is passed on, and what is not (RFC 9110, 7.6.1)."""

import re
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from hotseat.core.errors import HotseatError, UpstreamFailed, shortened

Fields = Iterable[tuple[bytes, bytes]]

MAX_FIELDS = 128
MAX_HOSTS = 16  # for which a head is kept encoded
_TARGET = re.compile(rb"[\x21-\x7e]+")
_METHOD = re.compile(r"[A-Z]+")

_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
# Of a request: fields that the relay sets, and the client's keys, which are for hotseat. An engine that checks the origin of
# a web page would refuse pages that hotseat has allowed.
_NOT_TO_ENGINE = _HOP_BY_HOP | {
    b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"api-key", b"origin",
}  # fmt: skip
_NOT_IF_PLAIN = _NOT_TO_ENGINE | {b"accept-encoding"}
_NAMED_ANYWAY = frozenset({b"", b"close", b"keep-alive"})
# Of a response: fields that the server sets itself. Which pages may read a response is decided by hotseat alone.
_NOT_TO_CLIENT = _HOP_BY_HOP | {
    b"date", b"server", b"content-length",
}  # fmt: skip
# hotseat's own id is the one that /api/requests has.
_REQUEST_IDS = frozenset({b"x-request-id", b"request-id"})
_ENGINES_ID = b"X-Engine-Request-Id"
_CORS = b"access-control-"
_HOTSEATS = (_CORS, b"x-hotseat-", b"x-queue-")
_GET_LIKE = frozenset({"GET", "HEAD", "OPTIONS"})
_BODILESS = frozenset({204, 304})
_OK = 200
_SWITCHING = 101


class Upload(Protocol):
    """A body that is read in pieces. It can be read again."""

    def __len__(self) -> int:
        """Return its size in bytes."""

    def read(self, at: int, then: Callable[[bytes, HotseatError | None], None]) -> None:
        """Read a piece that begins at `at`, which is before the end. `then` is called with it, on the loop, later."""


@dataclass(slots=True)
class Call:
    """A request for an engine. `target` is path and query. `fields` are the client's headers, and are filtered.

    `upload` is the body if it is not held in memory; `body` is empty then, and `encoded` None.
    `patience` is the time in seconds until the response must have started, or None for no limit. With `upgrade`, the engine
    may switch to the protocol that the client asks for. `rewrite` changes the headers of the response, encoded, for the client.
    `judge` returns an error if the response is not for the client: then nothing of it is passed on.
    """

    address: str  # http://host:port
    method: str
    target: bytes
    fields: Fields = ()
    body: bytes = b""
    patience: float | None = None
    upgrade: bool = False
    plain: bool = False  # no content encoding, because the response is inserted into a stream that has begun
    encoded: dict[bytes, bytes] | None = (
        None  # by Host: the head without its Content-Length, for all calls that share this
    )
    rewrite: Callable[[bytes], bytes] | None = None
    upload: Upload | None = None
    judge: "Callable[[ResponseHead], HotseatError | None] | None" = None
    # Lines of headers that hotseat adds, and the names of those, in lower case, which the client cannot set.
    own_headers: bytes = b""
    own_names: AbstractSet[bytes] = frozenset()
    limited_by: str = "responseStartTimeout"  # the field that has `patience`


@dataclass(slots=True)
class ResponseHead:
    """Head of a response. `fields` are for the client, encoded, without a Content-Length. The other attributes are about this hop."""

    code: int
    status: str  # `200 OK`
    fields: bytes
    length: bytes | None  # Content-Length, if the body or the answer to HEAD has one
    until_close: bool  # the body ends with the connection
    keep_alive: bool
    event_stream: bool
    encoded: str  # how it is compressed, so that no events can be inserted; empty: it is not
    kind: str  # Content-Type

    def problem(self) -> str:
        """Return why a stream of events cannot be continued by this response. Empty if it can."""
        if self.code != _OK:
            return f"The engine answered with status {self.code}."
        if not self.event_stream:
            kind = shortened(self.kind) or "no Content-Type"
            return f"The engine answered with {kind}, not with a stream of events (text/event-stream)."
        if self.encoded:
            return f"The engine compressed its stream ({shortened(self.encoded)}), although it was told not to."
        return ""


def encode_request(call: Call, host: bytes) -> bytes:  # noqa: C901, PLR0912 — one branch a header that matters
    """Return the head of the request. Raise ValueError if a part of it is not valid in a head."""
    if call.encoded is not None and (known := call.encoded.get(host)) is not None:
        return b"%bContent-Length: %d\r\n\r\n" % (known, len(call.body))
    if not _TARGET.fullmatch(call.target) or not _METHOD.fullmatch(call.method):
        raise ValueError("a method or target that cannot stand in a request line")
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (call.method.encode(), call.target, host)]
    named: AbstractSet[bytes] = frozenset()
    upgrade = b""
    dropped = _NOT_IF_PLAIN if call.plain else _NOT_TO_ENGINE
    for name, value in call.fields:
        key = name.lower()
        if key not in dropped:
            if not key.startswith(_CORS):
                lines.append(b"%b: %b\r\n" % (name, value))
        elif key == b"connection":
            named = named | _tokens(value)
        elif key == b"upgrade":
            upgrade = value
    if named - _NAMED_ANYWAY:
        lines = [lines[0], *(line for line in lines[1:] if line.partition(b":")[0].lower() not in named)]
    if call.own_names:
        lines = [lines[0], *_without(lines[1:], call.own_names), call.own_headers]
    if call.upgrade and upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    if call.plain:
        lines.append(b"Accept-Encoding: identity\r\n")
    if call.encoded is not None:
        if len(call.encoded) >= MAX_HOSTS:
            call.encoded.clear()  # each load of a model has its own
        call.encoded[host] = b"".join(lines)
    if call.body or call.method not in _GET_LIKE:
        lines.append(b"Content-Length: %d\r\n" % len(call.body if call.upload is None else call.upload))
    lines.append(b"\r\n")
    return b"".join(lines)


def read_response(  # noqa: C901, PLR0912 — one branch a header that matters
    code: int, reason: bytes, fields: list[tuple[bytes, bytes]], method: str, *, keep_alive: bool
) -> ResponseHead:
    """Return what a head means. Raise UpstreamFailed if its framing is ambiguous."""
    if len(fields) > MAX_FIELDS:
        raise UpstreamFailed("The headers of the engine's response are too large.")
    kept: list[bytes] = []
    named: AbstractSet[bytes] = frozenset()
    length: bytes | None = None
    coding: bytes | None = None
    content_type = encoding = b""
    cached = False
    upgrade = b""
    for name, value in fields:
        key = name.lower()
        if key in _NOT_TO_CLIENT:
            if key == b"content-length":
                length = value
            elif key == b"transfer-encoding":
                coding = value if coding is None else coding + b"," + value
            elif key == b"connection":
                named = named | _tokens(value)
            elif key == b"upgrade":
                upgrade = value
            continue
        if key == b"content-type":
            content_type = value
        elif key == b"content-encoding":
            encoding = value
        elif key == b"cache-control":
            cached = True
        elif key.startswith(_HOTSEATS):
            continue
        kept.append(b"%b: %b\r\n" % (_ENGINES_ID if key in _REQUEST_IDS else name, value))
    if coding is not None and coding.strip().lower() != b"chunked":
        raise UpstreamFailed("The engine's response has an unsupported Transfer-Encoding.")
    if named - _NAMED_ANYWAY:
        kept = _without(kept, named)
    event_stream = content_type.lower().startswith(b"text/event-stream")
    if event_stream:
        kept = _without(kept, {b"x-accel-buffering"})
        kept.append(b"X-Accel-Buffering: no\r\n")
        if not cached:
            kept.append(b"Cache-Control: no-cache\r\n")
    bodiless = method == "HEAD" or code in _BODILESS
    counted = length is not None and coding is None and code != 204  # noqa: PLR2004
    if code == _SWITCHING:
        kept.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    return ResponseHead(
        code,
        f"{code} {reason.decode('latin-1')}",
        b"".join(kept),
        length if counted else None,
        until_close=coding is None and length is None and not bodiless,
        keep_alive=keep_alive and not (coding is not None and length is not None),
        event_stream=event_stream,
        encoded=encoding.decode("latin-1").strip().lower().removeprefix("identity"),
        kind=content_type.decode("latin-1"),
    )


def _tokens(value: bytes) -> AbstractSet[bytes]:
    return {token.strip().lower() for token in value.split(b",")}


def _without(lines: list[bytes], names: AbstractSet[bytes]) -> list[bytes]:
    return [line for line in lines if line.partition(b":")[0].lower() not in names]
