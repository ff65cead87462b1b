"""HTTP/1.1 for the mock engine: quick to import, and able to detect that a client disconnects while it waits."""

import json
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Disconnected(Exception):
    """The client has disconnected."""


class DropConnection(Exception):
    """The mock must close the connection, as a fault requests."""


class MockRequest:
    """A complete request."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.headers, self.body = method, headers, body
        self.path = target.partition("?")[0]

    def json(self) -> Any:
        """Return the body as JSON; an empty object if there is none. Raise ValueError if it is malformed."""
        return json.loads(self.body) if self.body else {}


class MockConnection:
    """A persistent connection of one client."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._buffer = b""
        self.sent = 0.0  # when the last send began, in seconds since 1970
        self._hangup = select.poll()
        self._hangup.register(sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)

    def requests(self) -> Iterator[MockRequest]:
        """Yield requests until the client closes the connection."""
        while True:
            head = self._read_until(b"\r\n\r\n")
            if head is None:
                return
            start, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = start.split(" ", 2)
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            if headers.get("expect", "").lower() == "100-continue":
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            yield MockRequest(method, target, headers, self._body(headers))
            if headers.get("connection", "").lower() == "close":
                return

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self._read(int(headers.get("content-length", 0)))
        body = b""
        while size := int((self._read_until(b"\r\n") or b"0").partition(b";")[0], 16):
            body += self._read(size + 2)[:-2]
        while self._read_until(b"\r\n"):
            pass  # trailers
        return body

    def _read_until(self, delimiter: bytes) -> bytes | None:
        while delimiter not in self._buffer:
            if not self._receive():
                return None
        found, _, self._buffer = self._buffer.partition(delimiter)
        return found

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise Disconnected
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _receive(self) -> bool:
        try:
            received = self._socket.recv(65536)
        except OSError:
            return False
        self._buffer += received
        return bool(received)

    def send(self, data: bytes) -> None:
        """Send all bytes. Raise Disconnected if the client has disconnected."""
        self.sent = time.time()
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Disconnected from error

    def wait_until(self, moment: float) -> None:
        """Sleep until a moment of time.monotonic(). Raise Disconnected as soon as the client disconnects."""
        while True:
            milliseconds = (moment - time.monotonic()) * 1000
            # Less than half a millisecond is not worth a system call: the next token compensates
            # for it.
            if milliseconds < 0.5:  # noqa: PLR2004
                return
            if self._hangup.poll(min(milliseconds, 3_600_000)):
                raise Disconnected

    def reply(self, status: int, body: Any) -> None:
        """Send a JSON response."""
        payload = json.dumps(body).encode()
        self.send(_head(status, "application/json", f"Content-Length: {len(payload)}") + payload)

    def open_stream(self) -> None:
        """Begin a response of server-sent events."""
        self.send(_head(200, "text/event-stream", "Cache-Control: no-cache", "Transfer-Encoding: chunked"))

    def event(self, data: Any) -> None:
        """Send one event as one chunk."""
        payload = b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"
        self.send(b"%x\r\n%b\r\n" % (len(payload), payload))

    def close_stream(self) -> None:
        """End the response; the connection stays open."""
        self.send(b"0\r\n\r\n")

    def close(self) -> None:
        """Close the connection at once, even within a response."""
        self._socket.close()


def _head(status: int, kind: str, *more: str) -> bytes:
    lines = (f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"Content-Type: {kind}", *more)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
