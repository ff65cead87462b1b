"""OpenAI's official client and a real model in the real server: what passes through hotseat is what the server says."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from .conftest import Up
from .harness import Hotseat
from .test_llamacpp_prompts import gemma

MESSAGES: list[Any] = [{"role": "user", "content": "Name a colour, and say why you like it."}]
GREEDY: dict[str, Any] = {"max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def hotseat(shared_up: Up) -> Hotseat:
    return shared_up(gemma("a"), gemma("b"))


@pytest.fixture
def client(hotseat: Hotseat) -> Iterator[openai.OpenAI]:
    # One thread has minutes for an answer beside other load.
    with openai.OpenAI(base_url=f"{hotseat.url}/v1", api_key="unused", max_retries=0, timeout=600) as made:
        yield made


def test_a_chat_is_the_same_whole_streamed_and_after_another_model(client: openai.OpenAI, hotseat: Hotseat) -> None:
    whole = client.chat.completions.create(model="a", messages=MESSAGES, **GREEDY)
    text = whole.choices[0].message.content
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 12)
    assert text
    other = client.chat.completions.create(model="b", messages=MESSAGES, **GREEDY)
    assert other.choices[0].message.content == text, "the weights are the same"
    assert set(hotseat.running()) == {"b"}
    usage = {"stream_options": {"include_usage": True}}
    pieces = list(client.chat.completions.create(model="a", messages=MESSAGES, stream=True, **usage, **GREEDY))
    assert "".join(each.choices[0].delta.content or "" for each in pieces if each.choices) == text
    assert len(pieces) > 8
    assert pieces[-1].usage.completion_tokens == 12
    assert set(hotseat.running()) == {"a"}


def test_a_completion(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="a", prompt="One, two, three,", **GREEDY)
    pieces = list(client.completions.create(model="a", prompt="One, two, three,", stream=True, **GREEDY))
    assert "".join(each.choices[0].text for each in pieces if each.choices) == whole.choices[0].text != ""


def test_a_response(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "a", "input": "Say hello.", "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(**asked)
    assert whole.output_text
    with client.responses.create(**asked, stream=True) as stream:
        events = list(stream)
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.completed"


def test_errors_of_the_engine_and_of_hotseat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="a", messages="none")
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(model="nobody", messages=MESSAGES)


def test_an_answer_has_the_id_that_operators_see(client: openai.OpenAI, hotseat: Hotseat) -> None:
    answer = client.chat.completions.create(model="a", messages=MESSAGES, **GREEDY)
    (row,) = hotseat.get("/api/requests?limit=1").json()["requests"]
    assert answer._request_id == row["id"]
