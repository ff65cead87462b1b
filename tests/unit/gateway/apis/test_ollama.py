"""Ollama's API, by the examples of its documentation, translated to OpenAI's and back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.core.errors import BadRequest, TooLarge
from hotseat.gateway.apis.ollama import ROUTES
from hotseat.gateway.translation import Translation

ENGINE, NAME = "engine-name", "llama3.2:latest"
FIGURES = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}


def translate(path: str, request: dict[str, Any]) -> Translation:
    make = ROUTES[path].translate
    assert make is not None
    return make(json.dumps({"model": NAME, **request}).encode(), ENGINE, NAME)


def sent(path: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Path and body that the engine gets, without what all streams have."""
    made = translate(path, request)
    body = json.loads(made.body)
    assert body.pop("model") == ENGINE
    if body.pop("stream", False):
        assert body.pop("stream_options") == {"include_usage": True}
    return made.path, body


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    path, body = sent("/api/chat", {"messages": [*messages], **more})
    assert path == "/v1/chat/completions"
    return body


def generate(**request: Any) -> tuple[str, dict[str, Any]]:
    return sent("/api/generate", request)


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


SKY = {"role": "user", "content": "why is the sky blue?"}
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "available": {"type": "boolean"}},
    "required": ["age", "available"],
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather for a location",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


# Requests -------------------------------------------------------------------------------------------------------------


def test_a_chat_is_streamed_unless_it_says_otherwise() -> None:
    assert json.loads(translate("/api/chat", {"messages": [SKY]}).body) == {
        "model": ENGINE,
        "messages": [SKY],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = json.loads(translate("/api/chat", {"messages": [SKY], "stream": False}).body)
    assert body == {"model": ENGINE, "messages": [SKY], "stream": False}


def test_a_chat_with_history() -> None:
    history = [
        SKY,
        {"role": "assistant", "content": "due to rayleigh scattering."},
        {"role": "user", "content": "how?"},
    ]
    assert chat(*history) == {"messages": history}


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("iVBORw0KGgo=", "data:image/png;base64,iVBORw0KGgo="),
        ("/9j/4AAQSkZJ", "data:image/jpeg;base64,/9j/4AAQSkZJ"),
        ("R0lGODdhAQAB", "data:image/gif;base64,R0lGODdhAQAB"),
        ("UklGRiQAAABX", "data:image/webp;base64,UklGRiQAAABX"),
        ("data:image/bmp;base64,Qk0=", "data:image/bmp;base64,Qk0="),
    ],
)
def test_images_become_parts_of_a_message(image: str, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    told = {"type": "text", "text": "what is in this image?"}
    messages = [{"role": "user", "content": [part, told]}]
    assert chat({"role": "user", "content": "what is in this image?", "images": [image]}) == {"messages": messages}
    assert generate(prompt="what is in this image?", images=[image]) == (
        "/v1/chat/completions",
        {"messages": messages},
    )
    assert chat({"role": "user", "images": [image]}) == {"messages": [{"role": "user", "content": [part]}]}


def test_tools_and_their_results_are_connected_by_ids() -> None:
    def call(name: str, **arguments: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}}

    def called(id_: str, name: str, arguments: str) -> dict[str, Any]:
        return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}

    body = chat(
        SKY,
        {"role": "assistant", "content": "", "tool_calls": [call("a", x=1), call("b", y="é")]},
        {"role": "tool", "content": "of b", "tool_name": "b"},
        {"role": "tool", "content": "of a"},
        {"role": "assistant", "tool_calls": [{"id": "own", **call("a")}]},
        {"role": "tool", "content": "third", "tool_name": "a"},
        {"role": "tool", "content": "fourth", "tool_call_id": "own"},
        tools=[WEATHER],
    )
    assert body["tools"] == [WEATHER]
    _, first, of_b, of_a, second, third, fourth = body["messages"]
    assert first["tool_calls"] == [called("call_0", "a", '{"x": 1}'), called("call_1", "b", '{"y": "\\u00e9"}')]
    assert of_b == {"role": "tool", "content": "of b", "tool_call_id": "call_1", "name": "b"}
    assert of_a == {"role": "tool", "content": "of a", "tool_call_id": "call_0"}
    assert second["tool_calls"] == [called("own", "a", "{}")]
    assert (third["tool_call_id"], fourth["tool_call_id"]) == ("own", "own")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("json", {"response_format": {"type": "json_object"}}),
        (
            SCHEMA,
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "response", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ("", {}),
        (None, {}),
    ],
)
def test_formats_of_the_answer(given: Any, made: dict[str, Any]) -> None:
    assert chat(SKY, format=given) == {"messages": [SKY], **made}
    assert generate(prompt="Respond using JSON", format=given)[1].get("response_format") == made.get("response_format")


def test_options_of_the_answer_are_passed_on_and_those_of_a_load_are_not() -> None:
    options = {
        "num_keep": 5,
        "seed": 42,
        "num_predict": 100,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 0.7,
        "repeat_last_n": 33,
        "temperature": 0.8,
        "repeat_penalty": 1.2,
        "presence_penalty": 1.5,
        "frequency_penalty": 1.0,
        "penalize_newline": True,
        "stop": ["\n", "user:"],
        "numa": False,
        "num_ctx": 1024,
        "num_batch": 2,
        "num_gpu": 1,
        "main_gpu": 0,
        "use_mmap": True,
        "num_thread": 8,
    }
    kept = (
        "seed",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_last_n",
        "temperature",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "stop",
    )
    made = {name: options[name] for name in kept} | {"max_tokens": 100, "repetition_penalty": 1.2}
    assert chat(SKY, options=options) == {"messages": [SKY], **made}
    assert generate(prompt="a", raw=True, options=options) == ("/v1/completions", {"prompt": "a", **made})
    assert chat(SKY, options={"num_predict": -1, "seed": None}) == {"messages": [SKY]}
    assert chat(SKY, options={"num_predict": 0}) == {"messages": [SKY], "max_tokens": 0}


@pytest.mark.parametrize(
    ("think", "made"),
    [
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("high", {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"}),
        (None, {}),
    ],
)
def test_thinking_is_asked_for(think: Any, made: dict[str, Any]) -> None:
    assert chat(SKY, think=think) == {"messages": [SKY], **made}


@pytest.mark.parametrize("tools", [[], None])
def test_no_tools_are_left_out(tools: Any) -> None:
    assert chat(SKY, tools=tools) == {"messages": [SKY]}


def test_earlier_thoughts_and_figures_of_tokens_are_passed_on() -> None:
    body = chat({"role": "assistant", "content": "a", "thinking": "b"}, logprobs=True, top_logprobs=2)
    assert body == {
        "messages": [{"role": "assistant", "content": "a", "reasoning_content": "b"}],
        "logprobs": True,
        "top_logprobs": 2,
    }


def test_a_prompt_is_a_message_unless_it_is_in_the_format_of_the_engine() -> None:
    assert generate(prompt="Why is the sky blue?", system="Be brief.", context=[1, 2, 3], template="", suffix="") == (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why is the sky blue?"},
            ]
        },
    )
    raw = "[INST] why is the sky blue? [/INST]"
    assert generate(prompt=raw, raw=True) == ("/v1/completions", {"prompt": raw})
    code = {"prompt": "def compute_gcd(a, b):", "suffix": "    return result"}
    assert generate(**code, options={"temperature": 0}) == ("/v1/completions", {**code, "temperature": 0})


def test_texts_are_embedded() -> None:
    blue, green = "Why is the sky blue?", "Why is the grass green?"
    assert sent("/api/embed", {"input": blue, "truncate": True}) == ("/v1/embeddings", {"input": blue})
    assert sent("/api/embed", {"input": [blue, green], "dimensions": 8}) == (
        "/v1/embeddings",
        {"input": [blue, green], "dimensions": 8},
    )
    assert sent("/api/embeddings", {"prompt": blue}) == ("/v1/embeddings", {"input": blue})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "a"}]}', "a"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d!"}]}', "?!"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}', "\U0001f600"),
    ],
)
def test_what_other_routes_read_is_read(raw: bytes, said: str) -> None:
    make = ROUTES["/api/chat"].translate
    assert make is not None
    assert json.loads(make(raw, ENGINE, NAME).body)["messages"][0]["content"] == said


@pytest.mark.parametrize(
    ("path", "request_", "told"),
    [
        ("/api/chat", {"messages": "hello"}, r"Expected `array \| null`, got `str` - at `\$\.messages`"),
        ("/api/chat", {"messages": [{"content": "a"}]}, "missing required field `role`"),
        ("/api/chat", {"messages": [SKY], "format": "xml"}, "`format` must be `json` or a JSON schema"),
        ("/api/chat", {"messages": [SKY], "options": []}, "`options` must be an object"),
        ("/api/chat", {"messages": [SKY], "options": {"stop": "x" * 66_000}}, "of at most 65536 bytes"),
        ("/api/chat", {"messages": [SKY], "tools": {}}, "`tools` must be a list"),
        ("/api/chat", {"messages": [SKY | {"images": [""] * 1001}]}, "length <= 1000"),
        ("/api/generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "`template` is not supported"),
        ("/api/generate", {"prompt": "a", "raw": True, "images": ["eA=="]}, "`images` are not supported"),
        ("/api/embed", {"input": 1}, "`input` must be a text or a list"),
        ("/api/embeddings", {"prompt": []}, r"\$\.prompt"),
    ],
)
def test_what_cannot_be_translated_is_refused(path: str, request_: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        translate(path, request_)


def test_requests_of_very_many_messages_are_refused() -> None:
    with pytest.raises(TooLarge, match="more than 100000 messages"):
        chat(*[SKY] * 100_001)


# Loading and unloading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "why"), [({}, "load"), ({"keep_alive": "5m"}, "load"), ({"keep_alive": 0}, "unload")])
def test_an_empty_request_does_not_reach_the_engine(more: dict[str, Any], why: str) -> None:
    made = translate("/api/chat", {"messages": [], **more})
    assert (made.path, made.body) == ("", b"")
    said = json.loads(made.answer(b""))
    assert said.pop("created_at")
    assert said == {
        "model": NAME,
        "message": {"role": "assistant", "content": ""},
        "done_reason": why,
        "done": True,
    }
    said = json.loads(translate("/api/generate", more).answer(b""))
    assert said.pop("created_at")
    assert said == {"model": NAME, "response": "", "done_reason": why, "done": True}
    assert json.loads(translate("/api/embed", {"input": [], **more}).answer(b""))["embeddings"] == []
    assert json.loads(translate("/api/embeddings", {"prompt": "", **more}).answer(b"")) == {"embedding": []}


@pytest.mark.parametrize(
    ("path", "request_", "unloads"),
    [
        ("/api/chat", {"messages": [], "keep_alive": 0}, True),
        ("/api/chat", {"keep_alive": "0"}, True),
        ("/api/generate", {"keep_alive": "0s"}, True),
        ("/api/generate", {"prompt": "", "keep_alive": 0.0}, True),
        ("/api/embed", {"input": "", "keep_alive": "0m"}, True),
        ("/api/embeddings", {"keep_alive": 0}, True),
        ("/api/chat", {"messages": [SKY], "keep_alive": 0}, False),
        ("/api/generate", {"prompt": "a", "keep_alive": 0}, False),
        ("/api/generate", {"keep_alive": -1}, False),
        ("/api/generate", {"keep_alive": "10s"}, False),
        ("/api/generate", {"keep_alive": ""}, False),
        ("/api/generate", {"keep_alive": "s"}, False),
        ("/api/generate", {"keep_alive": False}, False),
        ("/api/generate", {"keep_alive": None}, False),
        ("/api/generate", {}, False),
        ("/api/chat", {"messages": "no list", "keep_alive": 0}, False),
    ],
)
def test_which_requests_unload(path: str, request_: dict[str, Any], unloads: bool) -> None:
    tell = ROUTES[path].unloads
    assert tell is not None
    assert tell(json.dumps(request_).encode()) is unloads


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


# Whatever clients send ------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FUNCTIONS = st.fixed_dictionaries({}, optional={"name": st.text() | VALUES, "arguments": VALUES})
CALLS = st.fixed_dictionaries({}, optional={"id": VALUES, "function": FUNCTIONS})
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "x"])},
    optional={
        "content": st.text() | VALUES,
        "images": st.lists(st.text(), max_size=2) | VALUES,
        "tool_calls": st.lists(CALLS, max_size=2) | VALUES,
        "tool_name": st.none() | st.text(),
    },
)
OPTIONS = st.dictionaries(st.sampled_from(["stop", "num_predict", "repeat_penalty", "seed"]), VALUES)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(MESSAGES, max_size=4) | VALUES,
        "prompt": st.text() | VALUES,
        "input": st.text() | st.lists(st.text(), max_size=2) | VALUES,
        "tools": VALUES,
        "options": OPTIONS | VALUES,
        "format": VALUES,
        "think": VALUES,
        "keep_alive": VALUES,
        "raw": st.booleans(),
        "stream": VALUES,
    },
)


@given(st.sampled_from(sorted(ROUTES)), REQUESTS)
def test_each_request_is_translated_to_json_or_refused(path: str, request_: dict[str, Any]) -> None:
    unloads = ROUTES[path].unloads
    assert unloads is not None
    try:
        made = translate(path, request_)
    except BadRequest:
        assert unloads(json.dumps(request_).encode()) is False
        return
    if made.path:
        assert json.loads(made.body)["model"] == ENGINE
    else:
        assert json.loads(made.answer(b""))


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
