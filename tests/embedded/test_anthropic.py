"""Anthropic's official client: unchanged, against engines that speak OpenAI's API only, and against llama.cpp, which has both."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from .conftest import Up
from .harness import Hotseat, model

COUNT = "/v1/messages/count_tokens"
TOOL = {
    "name": "get_weather",
    "description": "Get the weather",
    "input_schema": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a"),
        model("b", "--load-time", "0.5", names=["b", "claude"]),
        model("failing", "--fault", "error-500"),
        model("cut", "--fault", "cut-midstream:2"),
        model("broken", "--fault", "exit-loading"),
        model("vectors", capabilities=["embedding"]),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:

    return shared.fresh()


@pytest.fixture
def client(hotseat: Hotseat) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="any", base_url=hotseat.url, max_retries=0) as made:
        yield made


def said(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def ask(name: str, content: Any = "hello there", **more: Any) -> Any:
    return {"model": name, "max_tokens": 4, "messages": [{"role": "user", "content": content}], **more}


def test_plain_and_streamed(hotseat: Hotseat, client: anthropic.Anthropic) -> None:
    plain = client.messages.create(**ask("a", system="Be kind.", extra_body={"temperature": 0.5, "top_k": 3}))
    assert (said(plain), plain.model, plain.stop_reason) == ("a: hello there 3", "a", "end_turn")
    assert (plain.usage.input_tokens, plain.usage.output_tokens) == (2, 4)
    body = hotseat.stats("a")["last"]["body"]
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello there"}]
    assert (body["temperature"], body["top_k"], body["max_tokens"]) == (0.5, 3, 4)
    with client.messages.stream(**ask("a")) as stream:
        assert list(stream.text_stream) == ["a:", " hello", " there", " 3"]
        streamed = stream.get_final_message()
    assert streamed.model_dump(exclude={"id"}) == plain.model_dump(exclude={"id"})


def test_the_name_that_the_client_sent_is_in_the_answer(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ask("claude")) as stream:
        assert stream.get_final_message().model == "claude"
    plain = client.messages.create(**ask("claude"))
    assert (plain.model, said(plain)[:2]) == ("claude", "b:")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_is_sent_back(client: anthropic.Anthropic, streamed: bool) -> None:
    def send(messages: list[Any]) -> Any:
        request = {"model": "a", "max_tokens": 100, "messages": messages, "tools": [TOOL]}
        if not streamed:
            return client.messages.create(**request)
        with client.messages.stream(**request) as stream:
            return stream.get_final_message()

    messages: list[Any] = [{"role": "user", "content": "call get_weather"}]
    answer = send(messages)
    (call,) = answer.content
    assert (answer.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "get_weather")
    assert call.input == {"location": "call get_weather"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "15 degrees"}]}
    answer = send([*messages, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}])
    assert (answer.stop_reason, said(answer)[:22]) == ("end_turn", "a: call get_weather 3 4"[:22])


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    request = ask("a", "one two three")
    del request["max_tokens"]
    assert client.messages.count_tokens(**request).input_tokens == 3


def test_what_cannot_be_had_raises_the_error_of_its_kind(hotseat: Hotseat, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.messages.create(**ask("nobody"))
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0"):
        client.messages.create(**ask("a", [{"type": "document", "source": {"type": "text", "data": "x"}}]))
    with pytest.raises(anthropic.BadRequestError, match="does not support chat"):
        client.messages.create(**ask("vectors"))
    assert hotseat.catch_up() == [], "none of these has loaded anything"
    with pytest.raises(anthropic.InternalServerError, match="told to answer 500"):
        client.messages.create(**ask("failing"))
    with pytest.raises(anthropic.InternalServerError, match="exit") as failed:
        client.messages.create(**ask("broken"))
    assert (failed.value.status_code, failed.value.type) == (503, "overloaded_error")
    assert "retry-after" in failed.value.response.headers


def test_a_stream_that_breaks_off_raises_an_error(client: anthropic.Anthropic) -> None:
    with (
        pytest.raises(anthropic.APIStatusError, match="closed the connection"),
        client.messages.stream(**ask("cut")) as stream,
    ):
        stream.until_done()


@pytest.mark.parametrize("loading", [{}, {"X-Hotseat-Loading": "comments"}])
def test_a_load_in_between(hotseat: Hotseat, client: anthropic.Anthropic, loading: dict[str, str]) -> None:
    client.messages.create(**ask("a"))
    with client.messages.stream(**ask("b"), extra_headers=loading) as stream:
        assert said(stream.get_final_message()) == "b: hello there 3"
    assert hotseat.loads()["b"] == 1
    raw = hotseat.post("/v1/messages", ask("a", stream=True), **loading)
    comments = [line for line in raw.body.split(b"\n") if line.startswith(b":")]
    assert all(line.startswith(b": hotseat {") for line in comments)
    assert raw.body.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_a_load_that_fails_is_an_error_within_a_stream_of_comments(client: anthropic.Anthropic) -> None:
    comments = {"X-Hotseat-Loading": "comments"}
    request = ask("broken")
    with (
        pytest.raises(anthropic.APIStatusError, match="exit") as failed,
        client.messages.stream(**request, extra_headers=comments) as stream,
    ):
        stream.until_done()
    assert failed.value.type in ("overloaded_error", "api_error")


def test_keys(up: Up) -> None:
    hotseat = up(model("a"), options=("--api-key", "secret"))
    with anthropic.Anthropic(api_key="secret", base_url=hotseat.url, max_retries=0) as client:
        assert said(client.messages.create(**ask("a")))
    with anthropic.Anthropic(auth_token="secret", base_url=hotseat.url, max_retries=0) as client:
        assert said(client.messages.create(**ask("a")))
    with anthropic.Anthropic(api_key="wrong", base_url=hotseat.url, max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            client.messages.create(**ask("a"))
        assert refused.value.type == "authentication_error"


def test_requests_are_counted_by_their_route(hotseat: Hotseat, client: anthropic.Anthropic) -> None:
    client.messages.create(**ask("a"))
    hotseat.post(COUNT, ask("a"))
    counted = {name[2] for name in hotseat.metrics() if name[0] == "hotseat_requests_total"}
    assert {"messages", "count_tokens"} <= counted, json.dumps(sorted(counted))
