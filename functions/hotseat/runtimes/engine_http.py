"""Requests that are sent to an engine one after another, without ever blocking: to have it sleep, to wake it, to ask whether it does.

Hand-made for the reason that the probe is (probe.py): the instance's one thread waits for all that happens in one poll().
"""

import json
import math
import select
import socket
from collections.abc import Sequence

from hotseat.api.types import EngineCall, Method

PAUSE = 0.01  # seconds between two questions whether it sleeps
CHUNK = 65536  # bytes
LARGEST = 1 << 20  # bytes of an answer; what comes after that is not an answer to such a request
SHOWN = 200  # characters of a refusal


class EngineRefused(Exception):
    """The engine did not do what it was asked; the message says what came instead."""


class EngineRequest:
    """All calls in order, and then the question until its answer is `wanted`. The owner polls `fd` for `events` until `due`."""

    def __init__(
        self,
        address: tuple[str, int],
        calls: Sequence[EngineCall],
        now: float,
        *,
        question: str | None = None,
        wanted: bool = True,
    ) -> None:
        self._address = address
        self._calls = list(calls)
        self._question = EngineCall(path=question, method=Method.GET) if question else None
        self._wanted = wanted
        self._call: EngineCall | None = None
        self._socket: socket.socket | None = None
        self._unsent = self._answer = b""
        self._late = math.inf  # when the call under way has failed
        self._next = now  # when the next one begins
        self.events = 0

    @property
    def due(self) -> float:
        """When to call step() even if nothing happened."""
        return self._late if self._call else self._next

    @property
    def fd(self) -> int | None:
        """Socket to poll; None while there is none."""
        return None if self._socket is None or not self.events else self._socket.fileno()

    def step(self, now: float) -> bool:
        """Go as far as can be gone without waiting; True when all is done. Balked says why it will not be."""
        try:
            return self._step(now)
        except BlockingIOError:
            return False
        except OSError as problem:
            raise EngineRefused(f"{self._said()}: {problem.strerror or problem}") from problem

    def close(self) -> None:
        """Give up."""
        self.events, self._call = 0, None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _step(self, now: float) -> bool:
        if self._call is None:
            if now < self._next:
                return False
            if not self._calls and self._question is None:
                return True
            self._begin(now)
        if now >= self._late:
            raise EngineRefused(f"{self._said()} got no response in time")
        if self.events == select.POLLOUT:
            self._send()
        return self.events == select.POLLIN and self._read(now)

    def _begin(self, now: float) -> None:
        call = self._call = self._calls.pop(0) if self._calls else self._question
        assert call is not None  # noqa: S101 - there is one, or all is done
        self._late = math.inf if call.timeout is None else now + call.timeout
        host, port = self._address
        head = f"{call.method} {call.path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\nUser-Agent: hotseat\r\n"
        body = call.body.encode()
        kind = "Content-Type: application/json\r\n" if body else ""
        self._unsent = f"{head}{kind}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        self._answer = b""
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.connect_ex(self._address)
        self.events = select.POLLOUT

    def _send(self) -> None:
        assert self._socket is not None  # noqa: S101 - there is one while there is a call
        self._unsent = self._unsent[self._socket.send(self._unsent) :]
        if not self._unsent:
            self.events = select.POLLIN

    def _read(self, now: float) -> bool:
        """Take in what is there; True when that was the last that had to be said."""
        assert self._socket is not None  # noqa: S101
        data = self._socket.recv(CHUNK)
        self._answer += data
        if len(self._answer) > LARGEST:
            raise EngineRefused(f"{self._said()} got a response of more than {LARGEST >> 20} MiB")
        if data and not _whole(self._answer):
            return False
        body = self._body()
        asked = not self._calls and self._call is self._question
        self.close()
        self._next = now
        if asked and _sleeps(body) is not self._wanted:
            self._next = now + PAUSE
            return False
        return asked or (not self._calls and self._question is None)

    def _body(self) -> bytes:
        """Give the body of an answer that says yes."""
        head, _, body = self._answer.partition(b"\r\n\r\n")
        status = head[9:12].decode("latin-1")
        if not self._answer:
            raise EngineRefused(f"{self._said()} got no response: the connection was closed")
        if not head.startswith(b"HTTP/") or not status.isdigit():
            raise EngineRefused(f"{self._said()} got a response that is not HTTP")
        if not status.startswith("2"):
            words = " ".join(body.decode("utf-8", "replace").split())[:SHOWN]
            raise EngineRefused(f"{self._said()} got status {status}{f': {words}' if words else ''}")
        return body

    def _said(self) -> str:
        return f"{self._call.method} {self._call.path}" if self._call else "the engine"


def _whole(answer: bytes) -> bool:
    """Whether all of it is here, as far as it says how long it is; otherwise it ends with its connection."""
    head, ended, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if head[9:12] == b"204":  # it has no body, nor says how long that is
        return bool(ended)
    length = fields.get(b"content-length", b"").strip()
    chunked = fields.get(b"transfer-encoding", b"").strip() == b"chunked"
    return bool(ended) and (
        (length.isdigit() and len(body) >= int(length)) or (chunked and body.endswith(b"0\r\n\r\n"))
    )


def _sleeps(body: bytes) -> bool | None:
    """Read the answer to the question; None: it says neither."""
    start, end = body.find(b"{"), body.rfind(b"}")  # between them, because a body in chunks has their lengths around it
    try:
        said = json.loads(body[start : end + 1]).get("is_sleeping")
    except ValueError:
        return None
    return said if isinstance(said, bool) else None


TIMEOUT = 1.0  # seconds for one answer; then the question is asked again on a new connection
SHORTEST, LONGEST = 0.001, 0.015  # seconds between questions
SHARE = 0.0005  # between those, the pause is this share of the time that loading took so far
PROBE_CHUNK = 65536  # bytes; a health endpoint says less


class HealthProbe:
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
        data = self._socket.recv(PROBE_CHUNK)
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
