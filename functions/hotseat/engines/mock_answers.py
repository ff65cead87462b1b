"""What the mock engine says: bodies in OpenAI's shape, made from nothing but the request and the mock's name."""

import binascii
import re
import struct
import time
import zlib
from typing import Any

DIMENSIONS = 8


def words(name: str, said: str, count: int) -> list[str]:
    """Tokens of an answer: who answers, then what was said, then filling, `count` in all."""
    tokens = [f"{name}:", *(f" {word}" for word in said.split())]
    tokens += [f" {number}" for number in range(len(tokens), count)]
    return tokens[:count]


def last_said(body: dict[str, Any]) -> str:
    """Last user message of a chat, or the prompt."""
    for message in reversed(body.get("messages") or []):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
            return str(content)
    prompt = body.get("prompt", "")
    return " ".join(map(str, prompt)) if isinstance(prompt, list) else str(prompt)


class MockAnswer:
    """One chat or text completion, whole or in pieces."""

    def __init__(self, name: str, body: dict[str, Any], number: int, count: int, *, chat: bool) -> None:
        self.chat = chat
        said = last_said(body)
        self.tokens = words(name, said, count)
        self.usage = {
            "prompt_tokens": len(said.split()),
            "completion_tokens": len(self.tokens),
            "total_tokens": len(said.split()) + len(self.tokens),
        }
        self._common = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{number}",
            "created": int(time.time()),
            "model": body.get("model", name),
        }

    def whole(self) -> dict[str, Any]:
        """Body of an answer that is not streamed."""
        text = "".join(self.tokens)
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        choice = {"index": 0, **said, "finish_reason": "stop", "logprobs": None}
        return {**self._common, "object": kind, "choices": [choice], "usage": self.usage}

    def piece(self, token: str | None, *, first: bool = False) -> dict[str, Any]:
        """Event of one token; None ends it."""
        text = {} if token is None else {"content" if self.chat else "text": token}
        if self.chat:
            said: dict[str, Any] = {"delta": {"role": "assistant", **text} if first else text}
        else:
            said = text or {"text": ""}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choice = {"index": 0, **said, "finish_reason": "stop" if token is None else None}
        return {**self._common, "object": kind, "choices": [choice]}

    def usage_piece(self) -> dict[str, Any]:
        """Event that follows the last token where usage was asked for."""
        return {**self.piece(None), "choices": [], "usage": self.usage}


def vector(text: str) -> list[float]:
    """Small vector that depends on the text alone."""
    return [zlib.crc32(f"{axis}:{text}".encode()) / 2**31 - 1 for axis in range(DIMENSIONS)]


def embeddings(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Body of /v1/embeddings; floats, or base64 as some clients want it."""
    given = body.get("input", "")
    texts = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
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
    """Body of /v1/rerank: the share of the query's words that a document has."""
    query = set(str(body.get("query", "")).lower().split())
    results = []
    for index, document in enumerate(body.get("documents", [])):
        text = document.get("text", "") if isinstance(document, dict) else document
        shared = query & set(str(text).lower().split())
        results.append({"index": index, "relevance_score": len(shared) / max(1, len(query))})
    results.sort(key=lambda result: -result["relevance_score"])
    return {"model": body.get("model", name), "results": results[: body.get("top_n") or None]}


def transcription(name: str, body: bytes) -> dict[str, Any]:
    """Body of /v1/audio/transcriptions; `model` is the form's field, as it arrived."""
    field = re.search(rb'name="model"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', body, re.DOTALL)
    return {"text": f"{name}: heard {len(body)} bytes", "model": field[1].decode() if field else None}


def problem(message: str, code: str, kind: str = "server_error") -> dict[str, Any]:
    """Error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
