"""Requests that are sent to an engine one after another, without ever blocking: to have it sleep, to wake it, to ask whether it does.

Hand-made for the reason that the probe is (probe.py): the holder's one thread waits for all that happens in one poll().
"""

import json
import math
import select
import socket
from collections.abc import Sequence

from hotseat.core.calls import EngineCall, Method

PAUSE = 0.01  # seconds between two questions whether it sleeps
CHUNK = 65536  # bytes
LARGEST = 1 << 20  # bytes of an answer; what comes after that is not an answer to such a request
SHOWN = 200  # characters of a refusal


class Balked(Exception):
    """The engine did not do what it was asked; the message says what came instead."""


class Errand:
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
            raise Balked(f"{self._said()}: {problem.strerror or problem}") from problem

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
            raise Balked(f"{self._said()} got no response in time")
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
            raise Balked(f"{self._said()} got a response of more than {LARGEST >> 20} MiB")
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
            raise Balked(f"{self._said()} got no response: the connection was closed")
        if not head.startswith(b"HTTP/") or not status.isdigit():
            raise Balked(f"{self._said()} got a response that is not HTTP")
        if not status.startswith("2"):
            words = " ".join(body.decode("utf-8", "replace").split())[:SHOWN]
            raise Balked(f"{self._said()} got status {status}{f': {words}' if words else ''}")
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
