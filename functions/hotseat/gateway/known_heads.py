"""Heads of HTTP messages that are parsed once, although the length of the body differs."""

from typing import Generic, TypeVar

T = TypeVar("T")

_END = b"\r\n\r\n"
_LENGTH, _LOWER = b"\r\nContent-Length: ", b"\r\ncontent-length: "  # as clients and engines write it
_DIGITS = 15


class KnownHeads(Generic[T]):
    """What was found in heads, by all their bytes but the digits of the Content-Length.

    At most `count` heads are kept, each of at most `size` bytes. The first that was kept makes room for another.
    """

    __slots__ = ("_count", "_size", "_values")

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size
        self._values: dict[bytes, T] = {}

    def find(self, data: bytes) -> tuple[bytes, bytes, int, T | None] | None:
        """Find the head with which `data` begins.

        Return its key, the digits of its Content-Length, where its last line ends, and what is kept for it, if anything. Return
        None if it is not complete, is too large, or has no Content-Length.
        """
        end = data.find(_END, 0, self._size)
        if end < 0:
            return None
        begin = data.find(_LENGTH, 0, end)
        if begin < 0 and (begin := data.find(_LOWER, 0, end)) < 0:
            return None
        begin += len(_LENGTH)
        stop = data.find(b"\r", begin, end + 1)
        length = data[begin:stop]
        if not length.isdigit() or len(length) > _DIGITS:
            return None
        key = data[:begin] + data[stop:end]
        return key, length, end, self._values.get(key)

    def clear(self) -> None:
        """Forget all heads."""
        self._values.clear()

    def keep(self, key: bytes, value: T) -> None:
        """Keep what was found in a head."""
        while len(self._values) >= self._count:
            del self._values[next(iter(self._values))]
        self._values[key] = value
