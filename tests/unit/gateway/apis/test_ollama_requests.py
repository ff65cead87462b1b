"""Requests of Ollama's API, by the examples of its documentation, translated to OpenAI's."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.core.errors import BadRequest, TooLarge
from hotseat.gateway.apis.ollama import ROUTES
from hotseat.gateway.translation import Translation

ENGINE, NAME = "engine-name", "llama3.2:latest"


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
