"""HTTP/1.1 for the mock engine: small, quick to import, and aware of a client that goes away while it waits."""

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


class Gone(Exception):
    """The client went away."""


class Dropped(Exception):
    """We hang up, because we were told to."""


class Request:
    """One request, wholly read."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.headers, self.body = method, headers, body
        self.path = target.partition("?")[0]

    def json(self) -> Any:
        """Body as JSON; an empty object where there is none. ValueError if it is malformed."""
        return json.loads(self.body) if self.body else {}


class MockConnection:
    """One client over its keep-alive."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._buffer = b""
        self.sent = 0.0  # when the latest bytes began to be sent, in seconds since 1970
        self._gone = select.poll()
        self._gone.register(sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)

    def requests(self) -> Iterator[Request]:
        """Read requests until the client has no more."""
        while True:
            head = self._until(b"\r\n\r\n")
            if head is None:
                return
            start, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = start.split(" ", 2)
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            if headers.get("expect", "").lower() == "100-continue":
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            yield Request(method, target, headers, self._body(headers))
            if headers.get("connection", "").lower() == "close":
                return

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self._exactly(int(headers.get("content-length", 0)))
        body = b""
        while size := int((self._until(b"\r\n") or b"0").partition(b";")[0], 16):
            body += self._exactly(size + 2)[:-2]
        while self._until(b"\r\n"):
            pass  # trailers
        return body

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not self._more():
                return None
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise Gone
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _more(self) -> bool:
        try:
            received = self._socket.recv(65536)
        except OSError:
            return False
        self._buffer += received
        return bool(received)

    def send(self, data: bytes) -> None:
        """Write it all."""
        self.sent = time.time()
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Gone from error

    def wait_until(self, moment: float) -> None:
        """Sleep until a moment of time.monotonic(); Gone as soon as the client leaves."""
        while True:
            milliseconds = (moment - time.monotonic()) * 1000
            # A rest below half a millisecond is not worth a system call: the next token makes up for it.
            if milliseconds < 0.5:  # noqa: PLR2004
                return
            if self._gone.poll(min(milliseconds, 3_600_000)):
                raise Gone

    def reply(self, status: int, body: Any) -> None:
        """Answer with JSON."""
        payload = json.dumps(body).encode()
        self.send(_head(status, "application/json", f"Content-Length: {len(payload)}") + payload)

    def open_stream(self) -> None:
        """Begin an answer of server-sent events."""
        self.send(_head(200, "text/event-stream", "Cache-Control: no-cache", "Transfer-Encoding: chunked"))

    def event(self, data: Any) -> None:
        """Send one event, as one chunk."""
        payload = b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"
        self.send(b"%x\r\n%b\r\n" % (len(payload), payload))

    def close_stream(self) -> None:
        """End the answer; the connection stays."""
        self.send(b"0\r\n\r\n")

    def close(self) -> None:
        """Drop the connection at once, whatever was promised."""
        self._socket.close()


def _head(status: int, kind: str, *more: str) -> bytes:
    lines = (f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"Content-Type: {kind}", *more)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
