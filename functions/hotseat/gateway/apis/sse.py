"""Read server-sent events as they come."""

MAX_EVENT = 64 * 2**20  # bytes of one event
_BOM = b"\xef\xbb\xbf"


class EventReader:
    """Finds the events in a stream that arrives in pieces. Comments, and the fields `event`, `id` and `retry`, are skipped."""

    __slots__ = ("_after_cr", "_begun", "_data", "_limit", "_line", "_of_data", "_of_line")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        """`limit`: bytes that are kept until an event is complete."""
        self._limit = limit
        self._line: list[bytes] = []  # the pieces of a line whose end has not come
        self._data: list[bytes] = []  # the lines of data of an event whose end has not come
        self._of_line = self._of_data = 0  # bytes of these; a line of data counts one more
        self._after_cr = False  # a CR came last: an LF is part of the same end of a line
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of each event that is complete now. Raise ValueError if an event is larger than the limit.

        The data of several lines is joined by LF. `[DONE]`, with which streams of OpenAI's API end, is data like any other.
        """
        events = []
        for line in self._lines(data):
            if line.startswith(b"data:"):
                self._add(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line == b"data":
                self._add(b"")
            elif not line and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
                self._of_data = 0
        if self._of_line + self._of_data > self._limit:
            raise ValueError(f"an event has more than {self._limit} bytes")
        return events

    def _add(self, data: bytes) -> None:
        self._data.append(data)
        self._of_data += len(data) + 1

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their ends."""
        if data and (self._after_cr or b"\r" in data):
            data = self._without_cr(data)
        lines = data.split(b"\n")
        if self._line and len(lines) > 1:
            lines[0] = b"".join((*self._line, lines[0]))
            self._line = []
            self._of_line = 0
        if rest := lines.pop():
            self._line.append(rest)
            self._of_line += len(rest)
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _without_cr(self, data: bytes) -> bytes:
        """Replace each end of a line, which is CRLF, CR or LF, by LF."""
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
