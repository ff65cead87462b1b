"""HTTP requests to engines: a blocking GET, and requests that never block, for the thread of an instance.

That thread waits in one poll() for its engine's output, its supervisor and these sockets, which no
HTTP library allows.
"""

import http.client
import json
import math
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from hotseat.api.types import EngineCall, Method

CHUNK = 65536  # bytes
MAX_RESPONSE = 1 << 20  # bytes
SHOWN = 200  # characters of an error response that are shown
STATE_PAUSE = 0.01  # seconds between two requests for the sleep state
PROBE_TIMEOUT = 1.0  # seconds for one probe; the next one uses a new connection
MIN_PAUSE, MAX_PAUSE = 0.001, 0.015  # seconds between probes
PAUSE_SHARE = 0.0005  # between those limits, the pause is this share of the time that loading has taken


class EngineRefused(Exception):
    """The engine did not do what was requested; the message has its response."""


class EngineUnreachable(EngineRefused):
    """The engine closed the connection, or accepts none: it may be ending."""


def get(
    host: str, path: str, timeout: float, headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, bytes] | None:
    """Return the status and the body of a GET; None without an HTTP response. `host`: HOST:PORT; `timeout`: seconds."""
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class _Connection:
    """A connection that never blocks. The owner polls `fd` for `events` and steps then, or at `due`."""

    def __init__(self, address: tuple[str, int], headers: bytes = b"") -> None:
        """`headers`: further lines of the head of each request, such as one with a key."""
        self._address, self._headers = address, headers
        self._socket: socket.socket | None = None
        self._unsent = self._received = b""
        self.events = 0

    @property
    def fd(self) -> int | None:
        """Socket to poll; None if there is nothing to poll for."""
        return None if self._socket is None or not self.events else self._socket.fileno()

    def close(self) -> None:
        """Close the connection and abandon the request."""
        self.events = 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _begin(self, method: str, path: str, body: str = "", *, close: bool) -> None:
        """Begin a request, on the open connection if there is one."""
        host, port = self._address
        family, shown = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
        content = body.encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {shown}:{port}", "Accept: */*", "User-Agent: hotseat"]
        lines += ["Content-Type: application/json"] if content else []
        lines += [f"Content-Length: {len(content)}"] if content or method != Method.GET else []
        lines += ["Connection: close"] if close else []
        head = "\r\n".join([*lines, ""]).encode() + self._headers + b"\r\n"
        self._unsent, self._received = head + content, b""
        if self._socket is None:
            self._socket = socket.socket(family)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.connect_ex(self._address)
        self.events = select.POLLOUT

    def _exchange(self) -> bytes | None:
        """Send and receive what is possible now. Return the new bytes: empty at the end, None if there are none yet."""
        if self._socket is None or not self.events:
            return None
        try:
            if self.events == select.POLLOUT:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
                self.events = select.POLLOUT if self._unsent else select.POLLIN
            data = self._socket.recv(CHUNK) if self.events == select.POLLIN else None
        except BlockingIOError:
            return None
        self._received += data or b""
        return data


class EngineRequest(_Connection):
    """Requests to an engine in order, and then GETs of `state_path` until it answers `{"is_sleeping": SLEEPING}`.

    `now` is monotonic seconds.
    """

    def __init__(
        self,
        address: tuple[str, int],
        calls: Sequence[EngineCall],
        now: float,
        *,
        state_path: str | None = None,
        sleeping: bool = True,
        headers: bytes = b"",
    ) -> None:
        super().__init__(address, headers)
        self._calls = list(calls)
        self._state_call = EngineCall(path=state_path, method=Method.GET) if state_path else None
        self._sleeping = sleeping
        self._call: EngineCall | None = None
        self.body = b""  # of the last response
        self._deadline = math.inf  # of the request that is under way
        self._next = now  # when the next request begins

    @property
    def due(self) -> float:
        """When to call step() even if nothing happened."""
        return self._deadline if self._call else self._next

    def step(self, now: float) -> bool:
        """Do what is possible without waiting; return True once all is done. Raise EngineRefused if it failed."""
        try:
            return self._step(now)
        except OSError as problem:
            raise EngineUnreachable(f"{self._subject()}: {problem.strerror or problem}") from problem

    def close(self) -> None:
        """Close the connection and abandon the request."""
        super().close()
        self._call = None

    def _step(self, now: float) -> bool:
        if self._call is None:
            if now < self._next:
                return False
            call = self._call = self._calls.pop(0) if self._calls else self._state_call
            if call is None:
                return True
            self._deadline = math.inf if call.timeout is None else now + call.timeout
            self._begin(call.method, call.path, call.body, close=True)
        if now >= self._deadline:
            raise EngineRefused(f"{self._subject()} got no response in time")
        data = self._exchange()
        return data is not None and self._receive(data, now)

    def _receive(self, data: bytes, now: float) -> bool:
        """Handle new bytes; return True if they complete the last response."""
        if len(self._received) > MAX_RESPONSE:
            raise EngineRefused(f"{self._subject()} got a response of more than {MAX_RESPONSE >> 20} MiB")
        response = _parse(self._received)
        if data and not response.complete:
            return False
        self._check(response)
        self.body = response.body
        if self._calls or (self._state_call is not None and self._call is not self._state_call):
            self._next = now
            done = False
        else:
            done = self._state_call is None or _is_sleeping(response.body) is self._sleeping
            self._next = now if done else now + STATE_PAUSE
        self.close()
        return done

    def _check(self, response: "_Response") -> None:
        """Raise EngineRefused unless the status is 2xx."""
        if not self._received:
            raise EngineUnreachable(f"{self._subject()} got no response: the connection was closed")
        if not self._received.startswith(b"HTTP/") or not response.status.isdigit():
            raise EngineRefused(f"{self._subject()} got a response that is not HTTP")
        if not response.status.startswith("2"):
            text = " ".join(response.body.decode("utf-8", "replace").split())[:SHOWN]
            raise EngineRefused(f"{self._subject()} got status {response.status}{f': {text}' if text else ''}")

    def _subject(self) -> str:
        return f"{self._call.method} {self._call.path}" if self._call else "the engine"


class HealthProbe(_Connection):
    """GETs of the health path until the engine answers 2xx. `now` is monotonic seconds."""

    def __init__(self, address: tuple[str, int], path: str, now: float, headers: bytes = b"") -> None:
        super().__init__(address, headers)
        self._path = path
        self._began = now
        self.due = now  # when to call step() even if nothing happened

    def step(self, now: float) -> bool:
        """Do what is possible without waiting; return True once the engine has answered 2xx."""
        try:
            if now >= self.due:
                self._probe(now)
            data = self._exchange()
            return data is not None and self._receive(data, now)
        except (OSError, ValueError):  # refused, reset, or not HTTP: not ready yet
            self.close()
            self._pause(now)
            return False

    def _probe(self, now: float) -> None:
        if self.events:  # the last probe has timed out
            self.close()
        self.due = now + PROBE_TIMEOUT
        self._begin("GET", self._path, close=False)

    def _receive(self, data: bytes, now: float) -> bool:
        # The latter also if TCP connected the socket to itself.
        if not data or not self._received[:5] == b"HTTP/"[: len(self._received)]:
            raise ConnectionError
        response = _parse(self._received)
        if len(response.status) < 3:  # noqa: PLR2004 - not all digits have been received
            return False
        ready = 200 <= int(response.status) < 300  # noqa: PLR2004
        if ready or not response.reusable:
            self.close()
        if not ready:
            self._pause(now)
        return ready

    def _pause(self, now: float) -> None:
        self.events = 0
        self.due = now + min(max(MIN_PAUSE, PAUSE_SHARE * (now - self._began)), MAX_PAUSE)


@dataclass(frozen=True, slots=True)
class _Response:
    """What has been received of a response."""

    status: str  # its digits as far as they have been received
    body: bytes
    complete: bool  # as far as its head states its length; otherwise it ends with the connection
    reusable: bool  # its connection takes another request; False in doubt


def _parse(received: bytes) -> _Response:
    head, ended, body = received.partition(b"\r\n\r\n")
    fields = (line.lower().partition(b":") for line in head.split(b"\r\n")[1:])
    headers = {name: value.strip() for name, _, value in fields}
    status, length = head[9:12].decode("latin-1"), headers.get(b"content-length", b"")
    chunked = headers.get(b"transfer-encoding") == b"chunked"
    complete = bool(ended) and (
        status == "204" or (length.isdigit() and len(body) >= int(length)) or (chunked and body.endswith(b"0\r\n\r\n"))
    )
    persistent = head.startswith(b"HTTP/1.1") and headers.get(b"connection") != b"close"
    reusable = complete and persistent and length.isdigit() and len(body) == int(length)
    return _Response(status, body, complete, reusable)


def _is_sleeping(body: bytes) -> bool | None:
    """Return the sleep state in a response; None if it has none."""
    start, end = body.find(b"{"), body.rfind(b"}")  # a chunked body has the lengths of its chunks around them
    try:
        state = json.loads(body[start : end + 1]).get("is_sleeping")
    except ValueError:
        return None
    return state if isinstance(state, bool) else None
