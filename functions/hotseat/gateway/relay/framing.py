"""Framing of response bodies (RFC 9112, 6.3): from received bytes to the bytes of the body."""

import re
from typing import Protocol

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
