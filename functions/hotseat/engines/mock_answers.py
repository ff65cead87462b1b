"""The responses of the mock engine: bodies in OpenAI's format, made from the request and the mock's name only."""

import binascii
import re
import struct
import time
import zlib
from typing import Any

DIMENSIONS = 8


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


class MockAnswer:
    """One chat or text completion, as one body or as chunks."""

    def __init__(self, name: str, body: dict[str, Any], number: int, count: int, *, chat: bool) -> None:
        self.chat = chat
        content = last_content(body)
        self.tokens = words(name, content, count)
        self.usage = {
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
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        choice = {"index": 0, **content, "finish_reason": "stop", "logprobs": None}
        return {**self._common, "object": kind, "choices": [choice], "usage": self.usage}

    def chunk(self, token: str | None, *, first: bool = False) -> dict[str, Any]:
        """Return the event of one token; None: the last event."""
        text = {} if token is None else {"content" if self.chat else "text": token}
        if self.chat:
            content: dict[str, Any] = {"delta": {"role": "assistant", **text} if first else text}
        else:
            content = text or {"text": ""}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choice = {"index": 0, **content, "finish_reason": "stop" if token is None else None}
        return {**self._common, "object": kind, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """Return the event after the last token if the client has requested usage."""
        return {**self.chunk(None), "choices": [], "usage": self.usage}


def vector(text: str) -> list[float]:
    """Return a small vector that depends on the text only."""
    return [zlib.crc32(f"{axis}:{text}".encode()) / 2**31 - 1 for axis in range(DIMENSIONS)]


def embeddings(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body for /v1/embeddings: floats, or base64 if requested."""
    value = body.get("input", "")
    texts = [value] if isinstance(value, str) or (value and isinstance(value[0], int)) else value
    vectors: list[Any] = [vector(str(text)) for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [
            binascii.b2a_base64(struct.pack(f"<{DIMENSIONS}f", *axes), newline=False).decode() for axes in vectors
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


def transcription(name: str, body: bytes) -> dict[str, Any]:
    """Return the body for /v1/audio/transcriptions; `model` is the field of the form as received."""
    field = re.search(rb'name="model"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', body, re.DOTALL)
    return {"text": f"{name}: heard {len(body)} bytes", "model": field[1].decode() if field else None}


def problem(message: str, code: str, kind: str = "server_error") -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
