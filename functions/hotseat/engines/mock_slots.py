"""The slots of the mock engine: made-up prompt caches that can be saved and restored, as those of llama-server."""

import json
import os
import threading
import time
from typing import Any

WRONG_CACHE = 87  # exit status


class SlotProblem(Exception):
    """A slot could not be saved or restored."""


class MockSlots:
    """As many slots as `count`. A token is a word, `token_bytes` in a file. `mark` stands for weights and settings."""

    def __init__(self, count: int, folder: str, token_bytes: int, mark: str) -> None:
        self._lock = threading.Lock()
        self._folder, self._token_bytes, self._mark = folder, token_bytes, mark
        self._words: list[list[str]] = [[] for _ in range(count)]
        self._rows: list[dict[str, Any]] = [{"id": number} for number in range(count)]
        self._last_used = [0.0] * count
        self.tokens, self.seconds = 0, 0.0  # of processed prompts

    def take(self, body: dict[str, Any], rate: float) -> tuple[int, float]:
        """Take up a prompt in the slot that shares most of it; return the shared words, and the seconds for the others."""
        prompt = [word for message in body.get("messages") or () for word in str(message.get("content", "")).split()]
        prompt = prompt or str(body.get("prompt", "")).split()
        with self._lock:
            shared = [_shared(words, prompt) for words in self._words]
            number = min(range(len(shared)), key=lambda i: (-shared[i], self._last_used[i]))
            self._words[number], self._last_used[number] = prompt, time.monotonic()
            self._rows[number] |= {"id_task": 1, "n_prompt_tokens": len(prompt)}
            seconds = (len(prompt) - shared[number]) / rate if rate else 0.0
            self.tokens, self.seconds = self.tokens + len(prompt) - shared[number], self.seconds + seconds
            return shared[number], seconds

    def clear(self) -> None:
        """Forget all prompts."""
        with self._lock:
            self._words = [[] for _ in self._words]

    def rows(self) -> list[dict[str, Any]]:
        """Return what GET /slots answers."""
        with self._lock:
            return [{**row, "is_processing": False} for row in self._rows]

    def metrics(self) -> bytes:
        """Return what GET /metrics answers."""
        return f"llamacpp:prompt_tokens_total {self.tokens}\nllamacpp:prompt_seconds_total {self.seconds}\n".encode()

    def save(self, number: int, file: str) -> dict[str, Any]:
        """Write the words of a slot to a file, and fill it up to the size that they stand for."""
        with self._lock:
            content = json.dumps({"mark": self._mark, "words": self._words[number]}).encode()
            size = max(len(content), len(self._words[number]) * self._token_bytes)
            try:
                with open(f"{self._folder}/{file}", "wb") as target:  # noqa: PTH123 - quicker to import than pathlib
                    target.write(content.ljust(size))
            except OSError as problem:
                raise SlotProblem(str(problem)) from problem
            return {"id_slot": number, "n_saved": len(self._words[number]), "n_written": size}

    def restore(self, number: int, file: str) -> dict[str, Any]:
        """Read the words of a slot. End the process if they are of another cache: hotseat must not have it restored."""
        try:
            with open(f"{self._folder}/{file}", "rb") as source:  # noqa: PTH123
                content = source.read()
            found = json.loads(content)
        except (OSError, ValueError) as problem:
            raise SlotProblem(str(problem)) from problem
        if found["mark"] != self._mark:
            os._exit(WRONG_CACHE)
        with self._lock:
            self._words[number] = found["words"]
            return {"id_slot": number, "n_restored": len(found["words"]), "n_read": len(content)}


def _shared(one: list[str], other: list[str]) -> int:
    """Return how many words two prompts share at their beginning."""
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        count += 1
    return count
