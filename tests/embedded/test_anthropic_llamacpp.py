"""Anthropic's official client and a real model: llama.cpp has the Messages API itself, and a translation must say the same."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from .conftest import Up
from .test_llamacpp_prompts import gemma

SYSTEM = [{"type": "text", "text": "You answer in one sentence.", "cache_control": {"type": "ephemeral"}}]
MESSAGES: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
    {"role": "user", "content": "Name another one, and say why you like it."},
]


@pytest.fixture(scope="module")
def client(shared_up: Up) -> Iterator[anthropic.Anthropic]:
    translated = gemma("translated")
    translated["spec"]["apis"] = ["OpenAI"]
    hotseat = shared_up(gemma("own"), translated)
    # One thread has minutes for an answer beside other load.
    with anthropic.Anthropic(api_key="any", base_url=hotseat.url, max_retries=0, timeout=600) as made:
        yield made


def both(get: Any) -> tuple[Any, Any]:
    """What llama.cpp says itself, and what is translated."""
    return get("own"), get("translated")


@pytest.mark.parametrize("max_tokens", [5, 60])
def test_a_translated_answer_is_that_of_llama_cpp(client: anthropic.Anthropic, max_tokens: int) -> None:
    def request(model: str) -> Any:
        common = {"system": SYSTEM, "messages": MESSAGES, "extra_body": {"temperature": 0, "top_k": 1}}
        return {"model": model, "max_tokens": max_tokens, **common}

    def stream(model: str) -> Any:
        with client.messages.stream(**request(model)) as stream:
            return stream.get_final_message()

    for get in (lambda model: client.messages.create(**request(model)), stream):
        own, translated = both(get)
        assert translated.model == "translated"
        (text,) = translated.content
        assert text.text
        assert (text.type, text.text) == ("text", own.content[0].text)
        assert (translated.stop_reason, translated.stop_sequence) == (own.stop_reason, own.stop_sequence)
        assert translated.usage.output_tokens == own.usage.output_tokens
        its = (own.usage, translated.usage)
        read = [usage.input_tokens + (usage.cache_read_input_tokens or 0) for usage in its]
        assert read[0] == read[1] > 20


def test_a_translated_count_is_that_of_llama_cpp(client: anthropic.Anthropic) -> None:
    own, translated = both(
        lambda model: client.messages.count_tokens(model=model, system=SYSTEM, messages=MESSAGES).input_tokens
    )
    assert own == translated > 20
