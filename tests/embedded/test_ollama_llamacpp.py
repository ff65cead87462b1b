"""Ollama's official client and a real model, which answers the same by OpenAI's API."""

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from .conftest import Up
from .harness import CHAT, Hotseat
from .test_llamacpp_prompts import gemma

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "Name a colour, and say why you like it."},
]
OPTIONS = {"temperature": 0, "top_k": 1, "num_predict": 12}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "maxLength": 10}, "warm": {"type": "boolean"}},
    "required": ["colour", "warm"],
}


@pytest.fixture(scope="module")
def hotseat(shared_up: Up) -> Hotseat:
    return shared_up(gemma("gemma"))


@pytest.fixture(scope="module")
def client(hotseat: Hotseat) -> Iterator[ollama.Client]:
    # One thread has minutes for an answer beside other load.
    with ollama.Client(host=hotseat.url, timeout=600) as client:
        yield client


def test_a_chat_is_that_of_openai_and_has_the_times_of_the_engine(client: ollama.Client, hotseat: Hotseat) -> None:
    body = {"model": "gemma", "messages": MESSAGES, "temperature": 0, "top_k": 1, "max_tokens": 12}
    own = hotseat.post(CHAT, body).json()
    whole = client.chat(model="gemma", messages=MESSAGES, options=OPTIONS)
    parts = list(client.chat(model="gemma:latest", messages=MESSAGES, options=OPTIONS, stream=True))
    assert whole.message.content == own["choices"][0]["message"]["content"] != ""
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert len(parts) > 8
    for last in (whole, parts[-1]):
        assert (last.done, last.done_reason, last.eval_count) == (True, "length", own["usage"]["completion_tokens"])
        assert last.prompt_eval_count == own["usage"]["prompt_tokens"]
        assert last.total_duration > last.eval_duration > 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_the_form_of_a_schema(client: ollama.Client, stream: bool) -> None:
    options = {**OPTIONS, "num_predict": 60}
    answer = client.generate(model="gemma", prompt="A colour, as JSON.", format=SCHEMA, options=options, stream=stream)
    text = "".join(part.response for part in answer) if stream else answer.response
    assert json.loads(text).keys() == {"colour", "warm"}


def test_a_raw_prompt_is_completed(client: ollama.Client) -> None:
    prompt = "<start_of_turn>user\nSay hello.<end_of_turn>\n<start_of_turn>model\n"
    answer = client.generate(model="gemma", prompt=prompt, raw=True, options=OPTIONS)
    assert answer.response
    assert 0 < answer.eval_count <= 12
