"""Captured bodies: no text of a client or a model is left in a redacted one, and all of them together are bounded."""

import json
from concurrent.futures import Future
from typing import Any

import pytest

from hotseat.gateway import captures
from hotseat.gateway.captures import CaptureMode, Captures, redacted

SECRET = "sesame"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (
            {"model": "a", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, "stream": True},
            {"model": "a", "messages": [{"role": "user", "content": "<6 characters>"}], "max_tokens": 5, "stream": True},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": SECRET}]}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "<6 characters>"}]}]},
        ),
        ({"prompt": [1, 2, 3]}, {"prompt": "<3 numbers>"}),
        ({"input": [[1, 2], [3]]}, {"input": ["<2 numbers>", "<1 numbers>"]}),
        ({"input": [SECRET, SECRET]}, {"input": ["<6 characters>", "<6 characters>"]}),
        ({"data": [{"embedding": [0.25, 1]}], "model": "a"}, {"data": [{"embedding": "<2 numbers>"}], "model": "a"}),
        ({"function": {"name": SECRET, "arguments": {"role": SECRET}}}, {"function": {"name": "<6 characters>", "arguments": "<18 characters>"}}),
        ({"type": "tool_use", "input": {SECRET: 5}}, {"type": "tool_use", "input": "<13 characters>"}),
        ({"format": {"properties": {SECRET: {"type": "string"}}}}, {"format": "<46 characters>"}),
        ({"role": f"{SECRET} is a sentence"}, {"role": "<20 characters>"}),
        ({"usage": {"prompt_tokens": 3}, "finish_reason": "stop"}, {"usage": {"prompt_tokens": 3}, "finish_reason": "stop"}),
    ],
)  # fmt: skip
def test_texts_become_their_lengths(body: Any, left: Any) -> None:
    assert json.loads(redacted(json.dumps(body))) == left
    assert SECRET not in redacted(json.dumps(body))


def test_streams_keep_their_form() -> None:
    stream = (
        ": ping\n\nevent: message_start\ndata: "
        + json.dumps({"type": "message_start", "text": SECRET})
        + "\r\n\r\ndata: [DONE]\n\n"
    )
    assert redacted(stream) == (
        '<6 characters>\n\nevent: message_start\ndata: {"type": "message_start", "text": "<6 characters>"}\r\n\r\ndata: [DONE]\n\n'
    )
    lines = json.dumps({"message": {"content": SECRET}, "done": False}) + "\n" + json.dumps({"done": True}) + "\n"
    assert redacted(lines) == '{"message": {"content": "<6 characters>"}, "done": false}\n{"done": true}\n'


@pytest.mark.parametrize(
    "raw", [SECRET, f"--b\r\n\r\n{SECRET}", f'{{"a": "{SECRET}', f'data:{{"a": "{SECRET}"}}', f"event: {SECRET}!"]
)
def test_of_anything_else_only_lengths_are_left(raw: str) -> None:
    assert SECRET not in redacted(raw)
    assert redacted("") == ""


class AtOnce:
    """An executor without threads."""

    def submit(self, function: Any, *arguments: Any) -> Future[None]:
        function(*arguments)
        return Future()


def store(mode: CaptureMode, kept: int = 4000) -> Captures:
    made = Captures(mode, kept)
    made._executor = AtOnce()
    return made


def test_a_full_capture_has_the_bodies_and_the_oldest_are_dropped() -> None:
    kept = store(CaptureMode.FULL)
    for number in (1, 2, 3):
        kept.keep(number, "/v1/chat/completions", b"q" * 300, b"a" * 100)
    assert [kept.has(number) for number in (1, 2, 3)] == [False, True, True]
    assert kept.get(1) is None
    assert kept.get(3) == {
        "path": "/v1/chat/completions",
        "mode": "full",
        "request": {"truncated": False, "body": "q" * 300},
        "response": {"truncated": False, "body": "a" * 100},
    }


def test_a_long_body_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MAX_CAPTURE", 10)
    kept = store(CaptureMode.FULL)
    kept.keep(1, "/", b"q" * 300, b"")
    found = kept.get(1)
    assert found is not None
    assert found["request"] == {"truncated": True, "body": "q" * 10}


def test_bodies_that_wait_for_the_thread_are_bounded_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MAX_CAPTURE", 10)
    monkeypatch.setattr(captures, "WAITING", 25)
    waiting: list[tuple[Any, ...]] = []

    class Later:
        def submit(self, *call: Any) -> None:
            waiting.append(call)

    kept = Captures(CaptureMode.FULL)
    kept._executor = Later()  # type: ignore[assignment]
    for number in (1, 2, 3):
        kept.keep(number, "/", b"q" * 300, b"a")
    assert [len(call[3]) for call in waiting] == [10, 10], (
        "the third is dropped, and of each only the beginning is held"
    )
    for function, *arguments in waiting:
        function(*arguments)
    kept.keep(4, "/", b"q", b"a")
    assert len(waiting) == 3
    assert [kept.has(number) for number in (1, 2, 3)] == [True, True, False]


def test_small_bodies_are_bounded_too() -> None:
    kept = store(CaptureMode.FULL, kept=10_000)
    for number in range(100):
        kept.keep(number, "/", b"", b"")
    assert len(kept._entries) < 10


def test_text_beyond_ascii_counts_as_what_it_takes_in_memory() -> None:
    kept = store(CaptureMode.FULL, kept=10_000)
    kept.keep(1, "/", ("\N{FIRE}" * 2400).encode(), b"")
    assert not kept.has(1)
