"""Parse the responses that come on one connection to an engine, one after another, with llhttp."""

import httptools

from hotseat.core.errors import HotseatError, UpstreamFailed
from hotseat.gateway.known_heads import KnownHeads
from hotseat.gateway.relay.heads import ResponseHead, read_response

MAX_HEAD = 65536  # bytes of a response's head
MAX_INTERIM = 20  # interim responses (1xx) to one request
KNOWN_HEADS = 64  # heads that are kept of an engine
KNOWN_HEAD = 1024  # bytes of such a head
_OK = 200
_SWITCHING = 101
_BODILESS = (_SWITCHING, 204, 304)


def response_heads() -> KnownHeads[ResponseHead]:
    """Return the place for the heads of one engine."""
    return KnownHeads(KNOWN_HEADS, KNOWN_HEAD)


class ResponseParser:
    """The parser of one connection. Call `begin` before each request.

    `began`: something has come. `head` is None until the head is complete; `length` is its Content-Length. `pieces` of the body are
    for the caller to take. `complete`: the response has ended. `surplus`: bytes came after it, so the connection cannot be used again.

    Most responses of an engine to POST differ in nothing but the date and the length of the body. So a head is parsed once: it is
    known, to all connections with the same `heads`, by its bytes without that number.
    """

    __slots__ = (
        "_fields",
        "_head_size",
        "_heads",
        "_interim",
        "_llhttp",
        "_method",
        "_problem",
        "_reason",
        "_rest",
        "began",
        "complete",
        "head",
        "length",
        "pieces",
        "surplus",
    )

    def __init__(self, heads: KnownHeads[ResponseHead] | None = None) -> None:
        self._heads = response_heads() if heads is None else heads
        self._llhttp: httptools.HttpResponseParser | None = None
        self._method = ""
        self.begin("")

    def begin(self, method: str) -> None:
        """Expect the response to a request."""
        if self._llhttp is None or self._method == "HEAD":  # llhttp still expects the body that no answer to HEAD has
            self._llhttp = httptools.HttpResponseParser(self)
            self._llhttp.set_dangerous_leniencies(lenient_chunked_length=True)
        self._method = method
        self.began = self.complete = self.surplus = False
        self.head: ResponseHead | None = None
        self.length: bytes | None = None
        self._rest: int | None = None  # bytes of the body that have not come, if the head was known
        self.pieces: list[bytes] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._head_size = self._interim = 0
        self._problem: HotseatError | None = None

    def close(self) -> None:
        """Release the parser, which refers to this object."""
        self._llhttp = None

    def feed(self, data: bytes) -> bytes | None:
        """Parse bytes. Return those that follow a switch of protocols, else None. Raise UpstreamFailed if they are not valid."""
        key: bytes | None = b""
        if not self.began:
            self.began = True
            if self._method == "POST" and (key := self._read_known(data)) is None:
                return None
        elif self._rest is not None:
            self._count(data)
            return None
        rest = self._parse(data)
        if key and self.length is not None:
            self._keep(key)
        return rest

    def _parse(self, data: bytes) -> bytes | None:
        assert self._llhttp is not None  # noqa: S101
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self.complete:
                raise UpstreamFailed(f"The engine's response is malformed: {error}.") from None
            self.surplus = True
        if self.head is None and self._problem is None:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._problem = _head_too_large()
        if self._problem is not None:
            raise self._problem
        return None

    def _read_known(self, data: bytes) -> bytes | None:
        """Read a response whose head is known, and return None. Else return the key of its head, b"" if it cannot be kept."""
        found = self._heads.find(data)
        if found is None:
            return b""
        key, length, end, head = found
        if head is None:
            return key
        self.head, self.length = head, length
        self._rest = int(length)
        self._count(data[end + 4 :])
        return None

    def _count(self, data: bytes) -> None:
        """Take bytes of a body whose length alone tells its end."""
        rest = self._rest or 0
        if len(data) > rest:
            self.surplus = True
            data = data[:rest]
        if data:
            self.pieces.append(data)
        self._rest = rest - len(data)
        self.complete = not self._rest

    def _keep(self, key: bytes) -> None:
        if self.head is not None and self.head.keep_alive and not self._interim and self.head.code not in _BODILESS:
            self._heads.keep(key, self.head)

    # httptools --------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note bytes after the response."""
        if self.complete:
            self.surplus = True

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        if not self.complete:
            self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are dropped."""
        if self.head is None:
            self._head_size += len(name) + len(value)
            self._fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Read the head."""
        if self.complete or self.head is not None or self._llhttp is None:
            return
        code = self._llhttp.get_status_code()
        if code < _OK and code != _SWITCHING:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._problem = UpstreamFailed("The engine sent too many interim responses.")
            self._fields, self._reason = [], b""
            return
        if self._head_size > MAX_HEAD:
            self._problem = _head_too_large()
            return
        try:
            self.head = read_response(
                code, self._reason, self._fields, self._method, keep_alive=self._llhttp.should_keep_alive()
            )
        except HotseatError as error:
            self._problem = error
            return
        self.length = self.head.length
        if self._method == "HEAD":
            self.complete = True

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        if self.complete:
            self.surplus = True
        else:
            self.pieces.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the response."""
        if self.head is not None:
            self.complete = True


def _head_too_large() -> UpstreamFailed:
    return UpstreamFailed("The headers of the engine's response are too large.")
