"""A request of a client: its head, checked by the rules of HTTP, and its body."""

import re
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from hotseat.core.errors import BadRequest, NotImplementedByServer, shortened
from hotseat.gateway.known_heads import KnownHeads

HOST = re.compile(r"(\[[0-9A-Za-z:.%_~-]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")  # without a comma: there is one
_VERSION = re.compile(rb"[^\r\n]* HTTP/1\.[01]\r\n")
_AS_IS = "".join(map(chr, range(0x21, 0x7F)))  # other bytes of a target are quoted
_TARGET = re.compile(rb"[\x21-\x7e]*")
# Names of Models in paths may have consecutive slashes.
_NAMED = re.compile(r"/+(v1|api)/+models/")
_SLASHES = re.compile(r"//+")

CACHED = 256  # bytes of a target whose parts are kept
KNOWN_HEADS = 256  # heads that are kept
KNOWN_HEAD = 2048  # bytes of such a head
Fields = tuple[tuple[bytes, bytes], ...]


class Listener:
    """A listening socket: its address, port and scheme, and heads of requests that have come on it.

    Most requests of a client differ in nothing but the length of the body. So a head is parsed once: it is known by its bytes
    without that number.
    """

    def __init__(self, address: str, port: int, scheme: str = "http") -> None:
        self.address, self.port, self.scheme = address, port, scheme
        self._heads = KnownHeads[Request](KNOWN_HEADS, KNOWN_HEAD)

    def find(self, head: bytes) -> "Request | None":
        """Return a request with this head, if it is known."""
        if (found := self._heads.find(head)) is None:
            return None
        _, length, _, known = found
        return None if known is None else known.again(int(length))

    def forget(self) -> None:
        """Forget all heads."""
        self._heads.clear()

    def keep(self, head: bytes, request: "Request") -> None:
        """Keep a head that has been parsed and accepted."""
        found = self._heads.find(head)
        if found is not None and not request.upgrade and not request.expects_continue:
            self._heads.keep(found[0], request.again(0))


class Request:
    """One request.

    `path` is decoded and has single slashes, `raw_path` is as it was sent.
    `fields` are the headers in order. `headers` has them by lower-case name, as Latin-1, repeated ones joined by commas.
    `length` is its Content-Length, None if it has none. `listener` is where it came. `extra` are headers for its response. `key` and
    `accepted` are for the service: the API key, for routes in Flask, and what it has found by the head alone. Requests with the same
    head share `accepted`, and `fields` and `headers`, in which Content-Length is that of the first of them.
    """

    __slots__ = (
        "accepted",
        "body",
        "chunked",
        "extra",
        "fields",
        "headers",
        "keep_alive",
        "key",
        "length",
        "listener",
        "method",
        "minor",
        "path",
        "query",
        "raw_path",
        "upgrade",
    )

    def __init__(self, method: str, target: bytes, fields: Fields, *, minor: int, listener: Listener) -> None:
        """Raise BadRequest, or another HotseatError, if the head is not valid."""
        self.method, self.fields, self.minor = method, fields, minor
        self.listener = listener
        self.accepted: object = None
        self.key: object = None
        self.extra: tuple[tuple[str, str], ...] = ()
        self.body: bytes = b""
        self.upgrade = False
        self.headers = headers = dict[str, str]()
        for raw_name, raw_value in fields:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        split = _split_target if len(target) < CACHED else _split_target.__wrapped__
        self.path, self.query, self.raw_path = split(target)
        self.keep_alive = self._keep_alive()
        self.length, self.chunked = self._framing()
        host = headers.get("host")
        if host is None and minor > 0:
            raise BadRequest("The header Host is missing.")
        if host is not None and not HOST.fullmatch(host):
            raise BadRequest("The header Host is invalid.")

    def again(self, length: int) -> "Request":
        """Return a new request with the same head, but for its Content-Length."""
        new = Request.__new__(Request)
        new.method, new.fields, new.minor, new.headers = self.method, self.fields, self.minor, self.headers
        new.raw_path = self.raw_path
        new.path, new.query, new.keep_alive, new.chunked = self.path, self.query, self.keep_alive, False
        new.listener, new.accepted, new.key = self.listener, self.accepted, None
        new.extra, new.body, new.upgrade, new.length = (), b"", False, length
        return new

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        return self.minor > 0 and self.headers.get("expect", "").lower() == "100-continue"

    @property
    def has_body(self) -> bool:
        """Whether a body follows the head."""
        return self.chunked or bool(self.length)

    def _keep_alive(self) -> bool:
        connection = self.headers.get("connection")
        if connection is None:
            return self.minor > 0
        tokens = {token.strip() for token in connection.lower().split(",")}
        return "close" not in tokens and (self.minor > 0 or "keep-alive" in tokens)

    def _framing(self) -> tuple[int | None, bool]:
        coding = self.headers.get("transfer-encoding")
        if coding is not None:
            if self.minor == 0:
                raise BadRequest("A request of HTTP/1.0 cannot have a Transfer-Encoding.")
            if coding.lower() != "chunked":
                raise NotImplementedByServer(
                    f"The Transfer-Encoding {shortened(coding)!r} is not supported; allowed: chunked."
                )
            return None, True
        length = self.headers.get("content-length")
        return (None if length is None else int(length)), False  # the parser has checked it


def is_http_1(head: bytes) -> bool:
    """Whether the request line of a head names HTTP/1.0 or HTTP/1.1."""
    return _VERSION.match(head) is not None


@lru_cache(maxsize=64)
def _split_target(target: bytes) -> tuple[str, str, bytes]:
    """Return the path, decoded, the query, and the path as it was sent, of a request target."""
    if not target.startswith((b"/", b"*")):  # absolute form
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            raise BadRequest("The request target must be a path.")
        authority = min(at for at in (rest.find(b"/"), rest.find(b"?"), len(rest)) if at >= 0)
        target = rest[authority:]
        if not target.startswith(b"/"):
            target = b"/" + target
    raw, _, query = target.partition(b"#")[0].partition(b"?")
    path = single_slashes(unquote_to_bytes(raw).decode("latin-1"))
    if not _TARGET.fullmatch(query):
        query = quote(query, safe=_AS_IS).encode()
    return path, query.decode(), raw


def single_slashes(path: str) -> str:
    """Replace consecutive slashes by one, except in the name of a Model."""
    if "//" not in path:
        return path
    named = _NAMED.match(path)
    if named:
        return f"/{named[1]}/models/{path[named.end() :]}"
    return _SLASHES.sub("/", path)
