"""Answers: by what Anthropic's documentation shows, and by its official client."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotseat.gateway.apis.anthropic import ROUTES
from hotseat.gateway.errors import ANTHROPIC
from hotseat.gateway.translation import Translation

# As documented (Streaming messages, and the fixtures of the official client).
BASIC = """\
event: message_start
data: {"type":"message_start","message":{"id":"msg_4QpJur2dWWDjF6C758FbBw5vm12BaVipnK","type":"message","role":"assistant","content":[],"model":"claude-3-opus-latest","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":11,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" there"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"!"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":6}}

event: message_stop
data: {"type":"message_stop"}

"""
TOOL_USE = """\
event: message_start
data: {"type":"message_start","message":{"id":"msg_019Q1hrJbZG26Fb9BQhrkHEr","type":"message","role":"assistant","model":"claude-sonnet-4-20250514","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":377,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"I'll check the current weather in Paris for you."}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_01NRLabsLyVHZPKxbKvkfSMn","name":"get_weather","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"locati"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"on\\": \\"Paris\\"}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":65}}

event: message_stop
data: {"type":"message_stop"}

"""
THINKING = """\
event: message_start
data: {"type": "message_start", "message": {"id": "msg_01", "type": "message", "role": "assistant", "content": [], "model": "claude-sonnet-4-5", "stop_reason": null, "stop_sequence": null, "usage": {}}}

event: content_block_start
data: {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}

event: content_block_delta
data: {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "I need to find the GCD of 1071 and 462"}}

event: content_block_delta
data: {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": ""}}

event: content_block_stop
data: {"type": "content_block_stop", "index": 0}

event: content_block_start
data: {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}

event: content_block_delta
data: {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "The greatest common divisor of 1071 and 462 is **21**."}}

event: content_block_stop
data: {"type": "content_block_stop", "index": 1}

event: message_delta
data: {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {}}

event: message_stop
data: {"type": "message_stop"}

"""
USAGE = {"prompt_tokens": 377, "completion_tokens": 65, "prompt_tokens_details": {"cached_tokens": 300}}
DONE = b"data: [DONE]\n\n"


def translation(path: str = "/v1/messages", **more: Any) -> Translation:
    raw = {"model": "asked", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **more}
    translate = ROUTES[path].translate
    assert translate is not None
    return translate(json.dumps(raw).encode(), "engine", "asked")


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, **more}
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], "usage": None}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def usage_chunk(usage: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [], "usage": usage}).encode() + b"\n\n"


def call(index: int | None, arguments: str = "", **begin: str) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": begin["name"]} if "name" in begin else {})
    more = {"id": begin["id"], "type": "function"} if "id" in begin else {}
    return {"tool_calls": [{"function": function, **more} | ({} if index is None else {"index": index})]}


def events(stream: bytes | str) -> list[tuple[str, Any]]:
    """Names and data, read apart from what is tested. Every event must have both, and they must agree."""
    text = stream.decode() if isinstance(stream, bytes) else stream
    assert text.endswith("\n\n") or not text
    found = []
    for event in text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert found[-1][0] == found[-1][1]["type"]
    return found


def essence(stream: bytes | str) -> list[Any]:
    """What documented and translated events have in common: all but pings, the id, the model and numbers of tokens."""
    found = [data for name, data in events(stream) if name != "ping"]
    for data in found:
        data.pop("usage", None)
        for field in ("id", "model", "usage"):
            data.get("message", {}).pop(field, None)
    return found


def translated(*chunks: bytes, **request: Any) -> bytes:
    made = translation(stream=True, **request)
    return b"".join(map(made.stream, chunks)) + made.end()


TEXT = (
    chunk({"role": "assistant", "content": ""}),
    *(chunk({"content": text}) for text in ("Hello", " there", "!")),
    chunk({}, "stop"),
    usage_chunk(USAGE),
    DONE,
)
CALL = (
    chunk({"role": "assistant", "content": "I'll check the current weather in Paris for you."}),
    chunk(call(0, id="toolu_01NRLabsLyVHZPKxbKvkfSMn", name="get_weather")),
    chunk(call(0, '{"locati')),
    chunk(call(0, 'on": "Paris"}')),
    chunk({}, "tool_calls"),
    usage_chunk(USAGE),
    DONE,
)
THOUGHT = (
    chunk({"role": "assistant", "reasoning_content": "I need to find the GCD of 1071 and 462"}),
    chunk({"content": "The greatest common divisor of 1071 and 462 is **21**."}),
    chunk({}, "stop"),
    DONE,
)


@pytest.mark.parametrize(
    ("chunks", "documented"), [(TEXT, BASIC), (CALL, TOOL_USE), (THOUGHT, THINKING)], ids=["text", "tool", "thinking"]
)
def test_a_stream_is_as_documented(chunks: tuple[bytes, ...], documented: str) -> None:
    assert essence(translated(*chunks)) == essence(documented)
    assert essence(translated(b"".join(chunks))) == essence(documented)


def test_a_stream_begins_with_the_name_that_the_client_sent_and_ends_with_the_usage() -> None:
    found = events(translated(*CALL))
    message = found[0][1]["message"]
    assert message["id"].startswith("msg_")
    assert (message["model"], message["role"], message["content"]) == ("asked", "assistant", [])
    assert found[1] == ("ping", {"type": "ping"})
    assert found[-2][1]["usage"] == {
        "input_tokens": 77,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 300,
        "output_tokens": 65,
    }


def test_an_answer_is_as_documented() -> None:
    message = {
        "role": "assistant",
        "content": "I'll check the current weather in Paris for you.",
        "tool_calls": [
            {
                "id": "toolu_01",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"location": "Paris"}'},
            }
        ],
    }
    completion = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    answer = json.loads(translation().answer(json.dumps(completion).encode()))
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "asked",
        "content": [
            {"type": "text", "text": "I'll check the current weather in Paris for you."},
            {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"location": "Paris"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 77,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 300,
            "output_tokens": 65,
        },
    }


@pytest.mark.parametrize(
    ("choice", "reason", "sequence"),
    [
        ({"finish_reason": "stop"}, "end_turn", None),
        ({"finish_reason": "length"}, "max_tokens", None),
        ({"finish_reason": "tool_calls"}, "tool_use", None),
        ({"finish_reason": "content_filter"}, "refusal", None),
        ({"finish_reason": None}, "end_turn", None),
        ({"finish_reason": "stop", "stop_reason": "END"}, "stop_sequence", "END"),
        ({"finish_reason": "stop", "matched_stop": "END"}, "stop_sequence", "END"),
        ({"finish_reason": "stop", "stop_reason": "</s>"}, "end_turn", None),
        ({"finish_reason": "stop", "stop_reason": 2}, "end_turn", None),
    ],
)
def test_reasons_to_stop(choice: dict[str, Any], reason: str, sequence: str | None) -> None:
    completion = {"choices": [{"message": {"content": "x"}, **choice}]}
    answer = json.loads(translation(stop_sequences=["END"]).answer(json.dumps(completion).encode()))
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)
    if choice["finish_reason"]:
        last = chunk({}, choice["finish_reason"], **{k: v for k, v in choice.items() if k != "finish_reason"})
        found = events(translated(chunk({"content": "x"}), last, DONE, stop_sequences=["END"]))
        assert found[-2][1]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


@pytest.mark.parametrize("finish", ["stop", "function_call"])
def test_a_call_is_one_whatever_the_engine_calls_the_end(finish: str) -> None:
    found = events(translated(chunk(call(0, "{}", id="1", name="f")), chunk({}, finish), DONE))
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"a": 1.50}', {"a": 1.5}),
        ("", {}),
        (None, {}),
        ('{"a": ', {"INVALID_JSON": '{"a": '}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
def test_input_that_is_no_object_is_marked(arguments: str | None, value: Any) -> None:
    calls = [{"id": "1", "function": {"name": "f", "arguments": arguments}}]
    completion = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "length"}]}
    answer = json.loads(translation().answer(json.dumps(completion).encode()))
    assert answer["content"] == [{"type": "tool_use", "id": "1", "name": "f", "input": value}]
    assert answer["stop_reason"] == "max_tokens"


def test_calls_in_parallel_are_blocks_one_after_another() -> None:
    chunks = [
        chunk(call(0, '{"a"', id="1", name="f")),
        chunk(call(0, ": 1}")),
        chunk(call(1, "{}", id="2", name="g")),
        chunk({}, "tool_calls"),
    ]
    starts = [data["content_block"] for name, data in events(translated(*chunks)) if name == "content_block_start"]
    assert [(start["id"], start["name"]) for start in starts] == [("1", "f"), ("2", "g")]
    without_index = [
        chunk(call(None, '{"a"', id="1", name="f")),
        chunk(call(None, ": 1}")),
        chunk(call(None, "{}", id="2", name="g")),
        chunk({}, "tool_calls"),
    ]
    assert essence(translated(*without_index)) == essence(translated(*chunks))


def test_a_call_without_an_id_gets_one() -> None:
    found = events(translated(chunk(call(0, "{}", name="f")), chunk({}, "stop"), DONE))
    assert found[2][1]["content_block"]["id"].startswith("toolu_")


@pytest.mark.parametrize(
    "thinking", [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1, "display": "omitted"}]
)
def test_a_client_that_does_not_want_to_see_what_the_model_thinks_sees_that_it_lives(thinking: Any) -> None:
    found = events(translated(*THOUGHT, thinking=thinking))
    assert [name for name, _ in found[:3]] == ["message_start", "ping", "ping"]
    assert [data["content_block"]["type"] for name, data in found if name == "content_block_start"] == ["text"]
    message = {"content": "x", "reasoning": "y"}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    assert json.loads(translation(thinking=thinking).answer(body))["content"] == [{"type": "text", "text": "x"}]


def test_a_comment_of_the_engine_is_a_ping() -> None:
    made = translation(stream=True)
    assert made.stream(b": keep-alive\n\n") == b'event: ping\ndata: {"type": "ping"}\n\n'
    assert made.stream(b": one\n\n" + TEXT[1]).startswith(b"event: message_start\n")


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ],
)
def test_errors_of_the_engine_have_the_documented_type(status: int, kind: str) -> None:
    body = b'{"error": {"message": "too long", "type": "x", "param": null, "code": "context_length_exceeded"}}'
    error = {"type": kind, "message": "too long", "code": "context_length_exceeded"}
    assert json.loads(translation().error(status, body)) == {"type": "error", "error": error}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no", "code": 400}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"message": "no", "code": 400}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"detail": [{"loc": 1}]}', '{"detail": [{"loc": 1}]}'),
        (b"<html>", "<html>"),
        (b"\xff", "\ufffd"),
        (b"", "The engine gave no reason."),
        (b"null", "The engine gave no reason."),
        (b'{"error": null}', "The engine gave no reason."),
        (b"[" * 100_000, "[" * 200 + "… (100000 characters)"),
    ],
)
def test_errors_of_the_engine_may_have_any_shape(body: bytes, message: str) -> None:
    error = json.loads(translation().error(500, body))["error"]
    assert (error["message"], error["code"]) == (message, "upstream_error")


def test_an_error_within_a_stream_is_its_last_event() -> None:
    error = b'data: {"error": {"message": "out of memory", "type": "server_error", "code": 503}}\n\n'
    made = translation(stream=True)
    found = events(made.stream(TEXT[1]) + made.stream(error) + made.stream(TEXT[2] + DONE) + made.end())
    body = {"type": "overloaded_error", "message": "out of memory", "code": "upstream_error"}
    assert found[-1] == ("error", {"type": "error", "error": body})
    assert [name for name, _ in found].count("error") == 1
    assert "message_stop" not in dict(found)


@pytest.mark.parametrize("chunks", [(), TEXT[:3], (TEXT[1], DONE), (b"data: {\n\n",), (b"data: []\n\n",), (DONE,)])
def test_a_stream_that_is_not_complete_is_no_message(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match=r".*"):
        translated(*chunks)


def test_parts_of_calls_that_are_mixed_are_no_message() -> None:
    begun = [chunk(call(0, "{", id="1", name="f")), chunk(call(1, "{}", id="2", name="g"))]
    with pytest.raises(ValueError, match="a part of a tool call"):
        translated(*begun, chunk(call(0, "}")))


def test_a_stream_without_its_mark_of_the_end_is_whole_if_the_answer_is() -> None:
    assert essence(translated(*TEXT[:-2])) == essence(BASIC)


@pytest.mark.parametrize("body", [b"{}", b'{"choices": []}', b'{"choices": [{"text": "x"}]}', b"[]", b"", b"null"])
def test_an_answer_in_another_shape_is_no_message(body: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        translation().answer(body)


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_by_a_completion_of_one() -> None:
    made = translation("/v1/messages/count_tokens", stream=True)
    assert json.loads(made.body) == {
        "model": "engine",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "hi"}],
    }
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": USAGE}).encode()
    assert json.loads(made.answer(body)) == {"input_tokens": 377}
    with pytest.raises(ValueError, match="usage"):
        made.answer(b'{"choices": []}')


# The official client --------------------------------------------------------------------------------------------------


class Served:
    """The official client, and what it gets."""

    def __init__(self) -> None:
        transport = httpx2.MockTransport(lambda _: self.response)
        self.http = httpx2.Client(transport=transport)
        self.client = anthropic.Anthropic(api_key="k", base_url="http://h", http_client=self.http, max_retries=0)
        self.response = httpx2.Response(500)

    def streamed(self, pieces: list[bytes]) -> Any:
        self.response = httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, content=iter(pieces))
        with self.client.messages.stream(**REQUEST) as stream:
            return stream.get_final_message()

    def plain(self, body: bytes) -> Any:
        self.response = httpx2.Response(200, headers={"Content-Type": "application/json"}, content=body)
        return self.client.messages.create(**REQUEST)


REQUEST: Any = {"model": "asked", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.http.close()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda v: st.lists(v, max_size=2),
    max_leaves=3,
)
CALLS = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=5), st.dictionaries(st.text(max_size=3), VALUES, max_size=2)),
    max_size=3,
)
FINISH = st.sampled_from(["stop", "length", "tool_calls"])
CACHED = st.none() | st.integers(0, 5)


def cut(data: st.DataObject, whole: Any) -> list[Any]:
    """Cut a text or bytes into pieces."""
    at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]


@settings(max_examples=40)
@given(st.tuples(st.text(max_size=20), st.text(max_size=20), CALLS, FINISH, CACHED), st.data())
def test_the_official_client_makes_of_a_stream_the_message_that_is_not_streamed(
    served: Served, answer: tuple[Any, ...], data: st.DataObject
) -> None:
    thought, said, calls, finish, cached = answer
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": cached}}
    made = [
        {"id": f"c{n}", "function": {"name": name, "arguments": json.dumps(its)}} for n, (name, its) in enumerate(calls)
    ]
    message = {"content": said, "reasoning_content": thought, "tool_calls": made}
    completion = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}

    chunks = [chunk({"role": "assistant"})]
    chunks += [chunk({"reasoning_content": piece}) for piece in cut(data, thought)]
    chunks += [chunk({"content": piece}) for piece in cut(data, said)]
    for index, each in enumerate(made):
        chunks.append(chunk(call(index, id=each["id"], name=each["function"]["name"])))
        chunks += [chunk(call(index, piece)) for piece in cut(data, each["function"]["arguments"])]
    stream = b"".join([*chunks, chunk({}, finish), usage_chunk(usage), DONE])

    translating = translation(stream=True)
    pieces = [*map(translating.stream, cut(data, stream)), translating.end()]
    whole = translation(stream=True)
    in_one = whole.stream(stream) + whole.end()
    assert essence(b"".join(pieces)) == essence(in_one)

    streamed = served.streamed(pieces)
    plain = served.plain(translation().answer(json.dumps(completion).encode()))
    assert streamed.id.startswith("msg_")
    assert streamed.model_dump(exclude={"id"}, exclude_none=True) == plain.model_dump(exclude={"id"}, exclude_none=True)


def test_the_official_client_raises_an_error_within_a_stream(served: Served) -> None:
    made = translation(stream=True)
    error = ANTHROPIC.event({"type": "error", "error": {"type": "overloaded_error", "message": "full"}})
    with pytest.raises(anthropic.APIStatusError, match="full"):
        served.streamed([made.stream(TEXT[1]), error])
