"""Captured bodies of requests and answers, for debugging: off by default, bounded, and redacted unless the operator wants them whole."""

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

from hotseat.gateway.http.response import MAX_CAPTURE

KEPT = 64 * 2**20  # bytes of captured bodies, the oldest of which are dropped
WAITING = 64 * 2**20  # bytes of bodies that wait for the thread; what comes beyond is not captured
_ENTRY = 1024  # bytes that an entry takes beside its bodies
# Strings that are kept: fields of the APIs whose values are words of the API, names of models, or ids.
_WORDS = frozenset({
    "model", "role", "type", "object", "id", "finish_reason", "stop_reason", "done_reason", "encoding_format", "tool_choice",
    "response_format", "reasoning_effort", "service_tier", "status", "code", "format", "size", "quality", "voice", "event",
})  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}")
# Objects whose fields the client or the model has named.
_FOREIGN = frozenset({
    "input", "arguments", "parameters", "input_schema", "schema", "format", "guided_json", "structured_outputs", "metadata", "logit_bias",
    "headers",
})  # fmt: skip
_Entry = dict[str, Any]


class CaptureMode(StrEnum):
    """What is kept of captured bodies."""

    REDACTED = "redacted"  # texts become their lengths
    FULL = "full"


class Captures:
    """The last captured bodies, by number of the request. They are redacted on a thread of its own, before they are kept."""

    def __init__(self, mode: CaptureMode, kept: int = KEPT) -> None:
        self._mode, self._most = mode, kept
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="captures")
        self._lock = threading.Lock()  # over what follows
        self._entries: dict[int, tuple[int, _Entry]] = {}  # bytes, and what is shown
        self._size = 0
        self._waiting = 0  # bytes

    def keep(self, number: int, path: str, request: bytes, answer: bytes) -> None:
        """Keep the bodies of a request that has ended. Returns at once. If too many wait for it, they are dropped."""
        request = request[:MAX_CAPTURE]
        size = len(request) + len(answer)
        with self._lock:
            if self._waiting + size > WAITING:
                return
            self._waiting += size
        try:
            self._executor.submit(self._keep, number, path, request, answer)
        except RuntimeError:  # no thread can be started, or the process ends
            self._done(size)

    def get(self, number: int) -> _Entry | None:
        """Return what is kept of a request. None: nothing."""
        with self._lock:
            found = self._entries.get(number)
        return None if found is None else found[1]

    def has(self, number: int) -> bool:
        """Whether something is kept of a request."""
        return number in self._entries

    def _keep(self, number: int, path: str, request: bytes, answer: bytes) -> None:
        try:
            bodies = [self._body(request), self._body(answer)]
        finally:
            self._done(len(request) + len(answer))
        size = _ENTRY + sum(sys.getsizeof(body["body"]) for body in bodies)
        entry = {"path": path, "mode": self._mode.value, "request": bodies[0], "response": bodies[1]}
        with self._lock:
            self._entries[number] = size, entry
            self._size += size
            while self._size > self._most:
                first = next(iter(self._entries))
                self._size -= self._entries.pop(first)[0]

    def _done(self, size: int) -> None:
        with self._lock:
            self._waiting -= size

    def _body(self, raw: bytes) -> _Entry:
        text = raw[:MAX_CAPTURE].decode("utf-8", "replace")
        shown = text if self._mode is CaptureMode.FULL else redacted(text)
        return {"truncated": len(raw) >= MAX_CAPTURE, "body": shown}


def redacted(text: str) -> str:
    """Return a body without the texts in it: JSON, lines of JSON, or a stream of events. Of any other body only the length is left."""
    if not text.startswith(("{", "[", "data:", "event:", ":")):
        return f"<{len(text)} characters>" if text else ""
    try:
        return json.dumps(_redacted(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return "".join(_line(line) for line in text.splitlines(keepends=True))


def _line(line: str) -> str:
    content = line.rstrip("\r\n")
    field, separator, value = content.partition(": ")
    data = value if separator and field in {"data", "event"} else content
    if not data or data == "[DONE]" or (field == "event" and _WORD.fullmatch(data)):
        return line
    try:
        shown = json.dumps(_redacted(json.loads(data)), ensure_ascii=False)
    except (ValueError, RecursionError):
        shown = f"<{len(data)} characters>"
    return content.removesuffix(data) + shown + line[len(content) :]


def _redacted(value: Any, name: str = "") -> Any:
    """Return the value of a field without texts, tokens and vectors."""
    if isinstance(value, str):
        return value if name in _WORDS and _WORD.fullmatch(value) else f"<{len(value)} characters>"
    if isinstance(value, dict):
        if name in _FOREIGN:
            return f"<{len(json.dumps(value, ensure_ascii=False))} characters>"
        return {key: _redacted(each, key) for key, each in value.items()}
    if isinstance(value, list):
        if any(isinstance(each, (int, float)) for each in value):
            return f"<{len(value)} numbers>"
        return [_redacted(each, name) for each in value]
    return value
