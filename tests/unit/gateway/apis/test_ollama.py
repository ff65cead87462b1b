"""Answers of OpenAI's API, translated to Ollama's, by the examples of its documentation."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.gateway.apis.ollama import ROUTES
from hotseat.gateway.translation import Translation
from tests.unit.gateway.apis.test_ollama_requests import NAME, SKY, VALUES, translate

FIGURES = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}


def checked(line: bytes) -> dict[str, Any]:
    """One object, without its time and durations, whose form is checked."""
    found = json.loads(line)
    assert found.pop("model") == NAME
    assert found.pop("created_at").endswith("Z")
    if found["done"]:
        assert found.keys() >= FIGURES
        assert all(isinstance(found[name], int) and found[name] >= 0 for name in FIGURES)
        for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
            found.pop(name)
    return found


# Answers --------------------------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"id": "x", "choices": [choice], "usage": USAGE, **more}).encode()


def test_a_whole_chat() -> None:
    made = translate("/api/chat", {"messages": [SKY], "stream": False})
    said = checked(made.answer(whole({"role": "assistant", "content": "Hello! How are you today?"})))
    assert said == {
        "message": {"role": "assistant", "content": "Hello! How are you today?"},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 26,
        "eval_count": 298,
    }


def test_a_whole_chat_with_a_call_of_a_tool() -> None:
    call = {
        "id": "abc",
        "type": "function",
        "function": {"name": "get_current_weather", "arguments": '{"format": "celsius", "location": "Paris, FR"}'},
    }
    made = translate("/api/chat", {"messages": [SKY], "stream": False})
    said = checked(made.answer(whole({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")))
    assert said["message"] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "abc",
                "function": {
                    "index": 0,
                    "name": "get_current_weather",
                    "arguments": {"format": "celsius", "location": "Paris, FR"},
                },
            }
        ],
    }
    assert said["done_reason"] == "stop"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_are_apart_from_the_answer(field: str) -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    said = checked(made.answer(whole({"content": "blue", field: "let me see"})))
    assert said["message"] == {"role": "assistant", "content": "blue", "thinking": "let me see"}
    made = translate("/api/generate", {"prompt": "a"})
    said = checked(made.answer(whole({"content": "blue", field: "let me see"})))
    assert (said["response"], said["thinking"]) == ("blue", "let me see")


def test_a_whole_text_and_the_times_of_the_engine() -> None:
    made = translate("/api/generate", {"prompt": "a", "raw": True})
    body = {
        "choices": [{"text": " b", "finish_reason": "length"}],
        "usage": USAGE,
        "timings": {"prompt_ms": 130.079, "predicted_ms": 4232.71},
    }
    said = json.loads(made.answer(json.dumps(body).encode()))
    assert (said["response"], said["done_reason"]) == (" b", "length")
    assert (said["prompt_eval_duration"], said["eval_duration"]) == (130079000, 4232710000)
    made = translate("/api/generate", {"prompt": "a"})
    said = json.loads(made.answer(whole({"content": "b"})))
    assert (said["prompt_eval_duration"], said["eval_duration"]) == (0, said["total_duration"])


def test_embeddings_keep_the_digits_of_the_engine() -> None:
    data = b'{"data": [{"index": 1, "embedding": [3.0e-1, 4]}, {"index": 0, "embedding": [0.10, -2]}], "usage": {"prompt_tokens": 8}}'
    said = translate("/api/embed", {"input": ["a", "b"]}).answer(data)
    assert b'"embeddings":[[0.10, -2],[3.0e-1, 4]]' in said
    assert json.loads(said)["prompt_eval_count"] == 8
    assert translate("/api/embeddings", {"prompt": "a"}).answer(data) == b'{"embedding":[3.0e-1, 4]}'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": {"message": "model is loading", "type": "x", "code": 503}}', "model is loading"),
        (b'{"error": "out of memory"}', "out of memory"),
        (b'{"object": "error", "message": "too long", "code": 400}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"loc": ["body"]}]}', '{"detail": [{"loc": ["body"]}]}'),
        (b"{}", "{}"),
        (b"[1]", "[1]"),
        (b"Bad gateway\n", "Bad gateway"),
        (b"\xff", "\ufffd"),
        (b"", "The engine gave no reason."),
    ],
)
def test_errors_of_engines(body: bytes, told: str) -> None:
    assert json.loads(translate("/api/chat", {"messages": [SKY]}).error(500, body)) == {"error": told}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 1}}]}',
        b'{"choices": [{"message": {"tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}}]}',
    ],
)
def test_what_is_no_answer_of_openai_is_an_error(body: bytes) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        translate("/api/chat", {"messages": [SKY]}).answer(body)


# Streams --------------------------------------------------------------------------------------------------------------


def events(*deltas: dict[str, Any], finish: str = "stop", done: bool = True) -> bytes:
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in (*deltas, {})]
    chunks[-1]["choices"][0]["finish_reason"] = finish
    chunks.append({"choices": [], "usage": USAGE})
    data = [json.dumps(chunk).encode() for chunk in chunks] + ([b"[DONE]"] if done else [])
    return b"".join(b"data: %b\n\n" % each for each in data)


def lines(made: Translation, *pieces: bytes) -> list[dict[str, Any]]:
    out = [made.stream(piece) for piece in pieces]
    assert all(part.endswith(b"\n") for part in out if part)
    return [checked(line) for line in (b"".join(out) + made.end()).splitlines()]


def test_a_streamed_chat() -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    assert made.stream_type == "application/x-ndjson"
    thought, told = {"reasoning_content": "hm"}, {"content": "The"}
    assert lines(made, events({"role": "assistant", "content": ""}, thought, told)) == [
        {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"message": {"role": "assistant", "content": "The"}, "done": False},
        {
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 26,
            "eval_count": 298,
        },
    ]


def test_a_streamed_prompt() -> None:
    made = translate("/api/generate", {"prompt": "a"})
    first, last = lines(made, events({"content": "The"}, finish="length"))
    assert first == {"response": "The", "done": False}
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "length")
    made = translate("/api/generate", {"prompt": "a", "raw": True})
    text = b'data: {"choices": [{"text": "b", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    assert [line["response"] for line in lines(made, text)] == ["b", ""]


def test_each_part_is_passed_on_as_it_comes() -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    stream = events({"content": "a"}, {"content": "b"})
    first = stream.index(b"\n\n") + 2
    assert json.loads(made.stream(stream[:first]))["message"]["content"] == "a"
    assert json.loads(made.stream(stream[first : stream.index(b"\n\n", first) + 2]))["message"]["content"] == "b"


def call_part(index: int | None, arguments: str, **more: Any) -> dict[str, Any]:
    at = {} if index is None else {"index": index}
    name = {"name": more.pop("name")} if "name" in more else {}
    return {"tool_calls": [{**at, **more, "function": {"arguments": arguments, **name}}]}


PARTS = [
    call_part(0, "", id="x", name="a"),
    call_part(0, '{"city": '),
    call_part(1, '{"n"', id="y", name="b"),
    call_part(0, '"Rome"}'),
    call_part(1, ": 1}"),
]


def test_calls_of_tools_are_sent_when_they_are_complete() -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    first, called, last = lines(made, events({"content": "let me look"}, *PARTS, finish="tool_calls"))
    assert first["message"]["content"] == "let me look"
    assert called == {
        "message": {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "x", "function": {"index": 0, "name": "a", "arguments": {"city": "Rome"}}},
                {"id": "y", "function": {"index": 1, "name": "b", "arguments": {"n": 1}}},
            ],
        },
        "done": False,
    }
    assert (last["done"], last["done_reason"]) == (True, "stop")


def test_calls_without_an_index_are_told_apart_by_their_names() -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    parts = [call_part(None, '{"x"', name="a"), call_part(None, ": 1}"), call_part(None, "{}", name="b")]
    called, _ = lines(made, events(*parts))
    assert [each["function"]["arguments"] for each in called["message"]["tool_calls"]] == [{"x": 1}, {}]


def test_a_call_that_was_cut_off_is_left_out() -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    (last,) = lines(made, events(call_part(0, '{"city": "R', name="a"), finish="length"))
    assert last["done_reason"] == "length"
    with pytest.raises(ValueError):
        lines(translate("/api/chat", {"messages": [SKY]}), events(call_part(0, '{"city": "R', name="a")))


@pytest.mark.parametrize("error", [{"message": "the engine died", "code": "upstream_failed"}, "the engine died"])
def test_an_error_within_a_stream_is_its_last_line(error: Any) -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    data = events({"content": "a"}).partition(b"\n\n")[0] + b"\n\ndata: %b\n\n" % json.dumps({"error": error}).encode()
    out = made.stream(data + b"data: [DONE]\n\n") + made.end()
    first, last = map(json.loads, out.splitlines())
    assert first["message"]["content"] == "a"
    assert last == {"error": "the engine died"}


def test_a_stream_without_its_mark_ends_all_the_same() -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    assert lines(made, events({"content": "a"}, done=False))[-1]["done"] is True


def test_a_stream_that_ends_within_the_answer_is_not_taken_for_a_whole_one() -> None:
    made = translate("/api/chat", {"messages": [SKY]})
    made.stream(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
    with pytest.raises(ValueError, match="within the answer"):
        made.end()


DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, st.text(st.characters(codec="utf-8"), min_size=1)),
    st.builds(lambda text: {"reasoning_content": text}, st.text(st.characters(codec="utf-8"), min_size=1)),
    st.sampled_from([{}, {"role": "assistant", "content": ""}, *PARTS[:1]]),
)


@given(st.lists(DELTAS, max_size=6), st.booleans(), st.data())
def test_where_the_stream_is_cut_makes_no_difference(deltas: list[dict[str, Any]], done: bool, data: Any) -> None:
    stream = events(*deltas, done=done)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    def told(*parts: bytes) -> list[dict[str, Any]]:
        return lines(translate("/api/chat", {"messages": [SKY]}), *parts)

    assert told(*pieces) == told(stream)
    assert "".join(line["message"]["content"] for line in told(stream)) == "".join(
        delta.get("content", "") for delta in deltas
    )


def test_figures_of_tokens_are_passed_on() -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    choice = {"delta": {"content": "a"}, "logprobs": {"content": [token]}}
    made = translate("/api/chat", {"messages": [SKY], "logprobs": True})
    first, _ = lines(made, b"data: %b\n\ndata: [DONE]\n\n" % json.dumps({"choices": [choice]}).encode())
    assert first["logprobs"] == [token]


# Whatever engines send ------------------------------------------------------------------------------------------------

ANSWERS = st.fixed_dictionaries({}, optional={"choices": VALUES, "usage": VALUES, "error": VALUES, "data": VALUES})


@given(st.sampled_from(sorted(ROUTES)), ANSWERS | VALUES, st.booleans())
def test_each_answer_is_translated_to_json_or_known_to_be_none(path: str, answer: Any, streamed: bool) -> None:
    made = translate(path, {"messages": [SKY], "prompt": "a", "input": "a"})
    data = json.dumps(answer).encode()
    assert json.loads(made.error(500, data))["error"]
    try:
        out = made.stream(b"data: %b\n\n" % data) + made.end() if streamed else made.answer(data)
    except (LookupError, TypeError, ValueError, AttributeError):
        return
    assert all(map(json.loads, out.splitlines()))
