"""HTTP/1.1 and the answers of the mock engine: small, quick to import, and aware of a client that leaves."""

import binascii
import json
import re
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

DIMENSIONS = 8
MAX_DIMENSIONS = 8192


def words(name: str, content: str, count: int) -> list[str]:
    """Return `count` tokens of an answer: the mock's name, the content of the request, and then numbers."""
    tokens = [f"{name}:", *(f" {word}" for word in content.split())]
    tokens += [f" {number}" for number in range(len(tokens), count)]
    return tokens[:count]


def last_content(body: dict[str, Any]) -> str:
    """Return the last user message of a chat, or the prompt."""
    for message in reversed(body.get("messages") or []):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
            return str(content)
    prompt = body.get("prompt", "")
    return " ".join(map(str, prompt)) if isinstance(prompt, list) else str(prompt)


def tool_call(body: dict[str, Any], number: int) -> dict[str, Any] | None:
    """Return the call of a tool that the choice of tools requires, or that the user's words name. Its arguments are these words."""
    tools = [tool["function"] for tool in body.get("tools") or []]
    choice, content = body.get("tool_choice", "auto"), last_content(body)
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    elif choice != "required":
        tools = [tool for tool in tools if choice == "auto" and tool["name"] in content.split()]
    if not tools or (body.get("messages") or [{}])[-1].get("role") == "tool":
        return None
    arguments = dict.fromkeys(tools[0].get("parameters", {}).get("properties", {}), content)
    function = {"name": tools[0]["name"], "arguments": json.dumps(arguments)}
    return {"id": f"call-{number}", "type": "function", "function": function}


class MockAnswer:
    """One chat or text completion, as one body or as chunks."""

    def __init__(self, name: str, body: dict[str, Any], number: int, count: int, *, chat: bool) -> None:
        self.chat = chat
        content = last_content(body)
        self.call = tool_call(body, number) if chat else None
        self.tokens = words(name, content, count) if self.call is None else []
        self.usage: dict[str, Any] = {
            "prompt_tokens": len(content.split()),
            "completion_tokens": len(self.tokens),
            "total_tokens": len(content.split()) + len(self.tokens),
        }
        self._common = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{number}",
            "created": int(time.time()),
            "model": body.get("model", name),
        }

    def complete(self) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        text = "".join(self.tokens)
        content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        if self.call is not None:
            content = {"message": {"role": "assistant", "content": None, "tool_calls": [self.call]}}
        choice = {"index": 0, **content, "finish_reason": self._finish, "logprobs": None}
        return {**self._common, "object": kind, "choices": [choice], "usage": self.usage}

    @property
    def _finish(self) -> str:
        return "stop" if self.call is None else "tool_calls"

    def call_chunks(self) -> list[dict[str, Any]]:
        """Return the events of the call of a tool: its begin, and its arguments in two parts. Empty: there is none."""
        if self.call is None:
            return []
        function = self.call["function"]
        arguments = function["arguments"]
        half = len(arguments) // 2
        begin = {"index": 0, **self.call, "function": {"name": function["name"], "arguments": ""}}
        rest = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:half], arguments[half:])]
        chunk = self.chunk("")
        return [
            {**chunk, "choices": [{"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None}]}
            for part in (begin, *rest)
        ]

    def chunk(self, token: str | None, *, first: bool = False) -> dict[str, Any]:
        """Return the event of one token; None: the last event."""
        text = {} if token is None else {"content" if self.chat else "text": token}
        if self.chat:
            content: dict[str, Any] = {"delta": {"role": "assistant", **text} if first else text}
        else:
            content = text or {"text": ""}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choice = {"index": 0, **content, "finish_reason": self._finish if token is None else None}
        return {**self._common, "object": kind, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """Return the event after the last token if the client has requested usage."""
        return {**self.chunk(None), "choices": [], "usage": self.usage}


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Return a small vector that depends on the text only."""
    return [zlib.crc32(f"{axis}:{text}".encode()) / 2**31 - 1 for axis in range(dimensions)]


def embeddings(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body for /v1/embeddings: floats, or base64 if requested."""
    value = body.get("input", "")
    texts = [value] if isinstance(value, str) or (value and isinstance(value[0], int)) else value
    dimensions = min(int(body.get("dimensions") or DIMENSIONS), MAX_DIMENSIONS)
    vectors: list[Any] = [vector(str(text), dimensions) for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [
            binascii.b2a_base64(struct.pack(f"<{dimensions}f", *axes), newline=False).decode() for axes in vectors
        ]
    data = [{"object": "embedding", "index": index, "embedding": axes} for index, axes in enumerate(vectors)]
    count = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "model": body.get("model", name), "data": data, "usage": usage}


def rerank(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body for /v1/rerank: the share of the query's words that each document has."""
    query = set(str(body.get("query", "")).lower().split())
    results = []
    for index, document in enumerate(body.get("documents", [])):
        text = document.get("text", "") if isinstance(document, dict) else document
        shared = query & set(str(text).lower().split())
        results.append({"index": index, "relevance_score": len(shared) / max(1, len(query))})
    results.sort(key=lambda result: -result["relevance_score"])
    return {"model": body.get("model", name), "results": results[: body.get("top_n") or None]}


def response(name: str, body: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the body for /v1/responses."""
    text = f"{name}: {body.get('input', '')}"
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "id": f"msg_{number}", "status": "completed", "role": "assistant", "content": content}
    common = {"id": f"resp_{number}", "object": "response", "created_at": int(time.time()), "status": "completed"}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    more = {"parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
    return {**common, "model": body.get("model", name), "output": [message], "usage": usage, **more}


def response_events(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a response that is streamed."""
    message = whole["output"][0]
    at = {"item_id": message["id"], "output_index": 0, "content_index": 0, "logprobs": []}
    delta = {"type": "response.output_text.delta", "delta": message["content"][0]["text"], **at}
    first = {**whole, "status": "in_progress", "output": []}
    events = [{"type": "response.created", "response": first}, delta, {"type": "response.completed", "response": whole}]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def image(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body for /v1/images: images of one grey pixel, with the name of the mock as a comment."""
    encoded = binascii.b2a_base64(_png(name.encode()), newline=False).decode()
    return {"created": int(time.time()), "data": [{"b64_json": encoded}] * int(body.get("n") or 1)}


def _png(comment: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, pixel = struct.pack(">2I5B", 1, 1, 8, 2, 0, 0, 0), zlib.compress(b"\0\x80\x80\x80")
    parts = ((b"IHDR", head), (b"tEXt", b"Comment\0" + comment), (b"IDAT", pixel), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def moderation(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body for /v1/moderations: text with the word `bad` is flagged."""
    texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input") or []
    flagged = ["bad" in str(text) for text in texts]
    results = [{"flagged": each, "categories": {}, "category_scores": {}} for each in flagged]
    return {"id": "modr-1", "model": body.get("model", name), "results": results}


def speech(name: str, body: dict[str, Any]) -> bytes:
    """Return the body for /v1/audio/speech: a WAV file whose samples are the mock's name and the text."""
    samples = f"{name}: {body.get('input', '')}".encode()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    data = b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(form) + len(data)) + b"WAVE" + form + data


def transcription(name: str, body: bytes) -> dict[str, Any]:
    """Return the body for a form, as of /v1/audio/transcriptions; `model` is its field as received."""
    field = re.search(rb'name="model"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', body, re.DOTALL)
    return {"text": f"{name}: heard {len(body)} bytes", "model": field[1].decode() if field else None}


def problem(message: str, code: str, kind: str = "server_error") -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
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
        self.path, _, self.query = target.partition("?")

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
        pieces, have = [self._buffer], len(self._buffer)
        while have < size:
            self._buffer = b""
            if not self._receive():
                raise Disconnected
            pieces.append(self._buffer)
            have += len(self._buffer)
        received = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        found, self._buffer = received[:size], received[size:]
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

    def reply_bytes(self, payload: bytes, kind: str = "text/plain") -> None:
        """Send a response that is not JSON."""
        self.send(_head(200, kind, f"Content-Length: {len(payload)}") + payload)

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
