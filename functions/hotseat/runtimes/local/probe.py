"""Question to an engine whether it is ready, asked often and without ever blocking: GET on its health path, 2xx means yes.

Hand-made because the holder's one thread waits for the engine's output, its death, orders and this socket in one poll().
"""

import select
import socket

TIMEOUT = 1.0  # seconds for one answer; then the question is asked again on a new connection
SHORTEST, LONGEST = 0.001, 0.015  # seconds between questions
SHARE = 0.0005  # between those, the pause is this share of the time that loading took so far
CHUNK = 65536  # bytes; a health endpoint says less


class Probe:
    """One question after another to one engine. `now` is monotonic seconds; the owner polls `fd` for `events` until `due`."""

    def __init__(self, address: tuple[str, int], path: str, now: float) -> None:
        self._address = address
        host, port = address
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\nUser-Agent: hotseat\r\n\r\n".encode()
        )
        self._began = now
        self._socket: socket.socket | None = None
        self._asked = False
        self._answer = b""
        self.due = now  # when to call step() even if nothing happened
        self.events = 0

    @property
    def fd(self) -> int | None:
        """Socket to poll; None while there is none."""
        return None if self._socket is None or not self.events else self._socket.fileno()

    def step(self, now: float) -> bool:
        """Go as far as can be gone without waiting; True when the engine said yes."""
        try:
            if now >= self.due:
                self._begin(now)
            if self.events == select.POLLOUT:
                self._ask()
            return self.events == select.POLLIN and self._read(now)
        except BlockingIOError:
            return False
        except (OSError, ValueError):  # refused, reset, no HTTP: not ready yet
            self.close()
            self._pause(now)
            return False

    def close(self) -> None:
        """Give up."""
        self.events = 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _begin(self, now: float) -> None:
        if self.events:  # the last question has had its time
            self.close()
        self.due = now + TIMEOUT
        self._asked, self._answer = False, b""
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.connect_ex(self._address)
        self.events = select.POLLOUT

    def _ask(self) -> None:
        """Send the question once the connection stands."""
        assert self._socket is not None  # noqa: S101 - events are only set with a socket
        self._socket.send(self._request)
        self.events = select.POLLIN

    def _read(self, now: float) -> bool:
        assert self._socket is not None  # noqa: S101
        data = self._socket.recv(CHUNK)
        self._answer += data
        if (
            not data or not self._answer[:5] == b"HTTP/"[: len(self._answer)]
        ):  # the latter also where TCP connected us to ourselves
            raise ConnectionError
        status = self._answer[9:12]
        if len(status) < 3:  # noqa: PLR2004 - its digits
            return False
        if 200 <= int(status) < 300:  # noqa: PLR2004
            self.close()
            return True
        if not _reusable(self._answer):
            self.close()
        self._pause(now)
        return False

    def _pause(self, now: float) -> None:
        self.events = 0
        self.due = now + min(max(SHORTEST, SHARE * (now - self._began)), LONGEST)


def _reusable(answer: bytes) -> bool:
    """Whether the whole answer is here and its connection stays; False when in doubt."""
    head, ended, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    length, connection = fields.get(b"content-length", b"").strip(), fields.get(b"connection", b"").strip()
    return (
        bool(ended)
        and head.startswith(b"HTTP/1.1")
        and connection != b"close"
        and length.isdigit()
        and len(body) == int(length)
    )
