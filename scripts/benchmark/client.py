"""Clients of an OpenAI-compatible server on loopback: one at a time, or a crowd in one thread."""

import contextlib
import http.client
import json
import selectors
import socket
import time
from collections.abc import Iterable
from typing import Any, Self

HOST = "127.0.0.1"
TIMEOUT = 60.0  # seconds for anything
_READ = 65536


class Unexpected(Exception):
    """An answer that makes the measurement worthless."""


def free_port() -> int:
    """Find a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def call(port: int, method: str, path: str) -> bytes:
    """Body of the answer to a request of the operations routes; Unexpected unless it is 2xx."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status // 100 != 2:
        raise Unexpected(f"{method} {path}: {answer.status} {body[:200]!r}")
    return body


def running(port: int) -> dict[str, Any]:
    """Give what /running says."""
    answer: dict[str, Any] = json.loads(call(port, "GET", "/running"))
    return answer


def request_for(model: str, service_ms: int = 0, **fields: Any) -> bytes:
    """Bytes of a chat request, a plain one that takes the mock engine so long unless FIELDS say otherwise."""
    message = {"role": "user", "content": "hi there"}
    return post(json.dumps({"model": model, "messages": [message], "seed": service_ms, **fields}).encode())


def post(body: bytes) -> bytes:
    """Bytes of a chat request with this body."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """A kept-alive connection. `ask` measures from before the request's first byte until the answer's last."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, model: str, service_ms: int = 0) -> float:
        """Seconds that a request took. Unexpected unless its answer is 200."""
        return self.send(request_for(model, service_ms), model)

    def send(self, request: bytes, what: str, status: int = 200) -> float:
        """Seconds that a request took. Unexpected unless its answer has this status."""
        began = time.perf_counter()
        self._socket.sendall(request)
        received = b""
        while (whole := _length(received)) is None or len(received) < whole:
            data = self._socket.recv(_READ)
            if not data:
                raise Unexpected(f"{what}: the connection was closed after {received[:200]!r}")
            received += data
        took = time.perf_counter() - began
        if _status(received) != status:
            raise Unexpected(f"{what}: {received[:300]!r}")
        return took


class Crowd:
    """Requests that are sent at once, each on a connection of its own, and whose answers are awaited together."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._received: dict[socket.socket, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._selector.close()

    def send(self, models: Iterable[str], service_ms: int = 0) -> None:
        """Send one request for each."""
        for model in models:
            client = socket.create_connection((HOST, self._port), timeout=TIMEOUT)
            client.sendall(request_for(model, service_ms))
            self._received[client] = b""
            self._selector.register(client, selectors.EVENT_READ)

    def stream(self, model: str, count: int, period_ms: int, chunks: int) -> None:
        """Open streams of the mock engine."""
        for _ in range(count):
            client = socket.create_connection((HOST, self._port), timeout=TIMEOUT)
            client.sendall(request_for(model, period_ms, stream=True, max_tokens=chunks))
            self._received[client] = b""
            self._selector.register(client, selectors.EVENT_READ)

    def read_for(self, seconds: float) -> None:
        """Read what comes and drop it, for so long. Unexpected if a connection ends."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                if not client.recv(_READ):
                    raise Unexpected("a stream ended early")

    def read_all(self, timeout: float) -> list[int]:
        """Statuses of all answers, in the order in which they ended. Unexpected if one does not come in time."""
        end = time.monotonic() + timeout
        statuses = []
        while self._received:
            ready = self._selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise Unexpected(f"{len(self._received)} requests were not answered in {timeout:g} s")
            for key, _ in ready:
                client = key.fileobj
                assert isinstance(client, socket.socket)
                if status := self._read(client):
                    statuses.append(status)
                    self._close(client)
        return statuses

    def leave(self) -> None:
        """Close all connections."""
        for client in list(self._received):
            self._close(client)

    def _read(self, client: socket.socket) -> int | None:
        data = client.recv(_READ)
        received = self._received[client] = self._received[client] + data
        if not data:
            raise Unexpected(f"the connection was closed after {received[:200]!r}")
        whole = _length(received)
        return _status(received) if whole is not None and len(received) >= whole else None

    def _close(self, client: socket.socket) -> None:
        del self._received[client]
        self._selector.unregister(client)
        client.close()


def _length(received: bytes) -> int | None:
    """Length of the whole answer, once its head is there."""
    head, ended, _ = received.partition(b"\r\n\r\n")
    if not ended:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + 4 + int(value)
    raise Unexpected(f"an answer without Content-Length: {head!r}")


def _status(received: bytes) -> int:
    return int(received[9:12])
