"""Requests of the Messages API, and the chat completions that engines are asked for instead."""

import json
from typing import Any

import pytest

from hotseat.core.errors import BadRequest, TooLarge
from hotseat.gateway.apis.anthropic import ROUTES
from hotseat.gateway.errors import ANTHROPIC, error_body

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}
SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SHOWN_LINK = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
TOOL = {"name": "get_weather", "description": "Get the weather", "input_schema": SCHEMA}
FUNCTION = {"name": "get_weather", "description": "Get the weather", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*content]}


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", **({} if content is None else {"content": content}), **more}


def translate(raw: bytes, path: str = "/v1/messages") -> Any:
    made = ROUTES[path].translate
    assert made is not None
    return json.loads(made(raw, "engine", "asked").body)


def chat(**more: Any) -> Any:
    body = {"model": "asked", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **more}
    return translate(json.dumps({name: value for name, value in body.items() if value is not ...}).encode())


def test_the_least_request() -> None:
    assert chat() == {"model": "engine", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 40}, {"temperature": 0.5, "top_p": 0.9, "top_k": 40}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"metadata": {}}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {}),
        ({"tools": [TOOL]}, {"tools": TOOLS}),
        ({"tools": [TOOL | {"type": "custom", "cache_control": {"type": "ephemeral"}}]}, {"tools": TOOLS}),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": TOOLS, "tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tools": TOOLS, "tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": TOOLS, "tool_choice": "none"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}},
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
        ),
        ({"tools": [], "tool_choice": {"type": "auto"}}, {}),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "object"}, "strict": True}]},
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
                ]
            },
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "adaptive"}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        (
            {
                "service_tier": "auto",
                "context_management": {"edits": []},
                "unknown": 1,
                "container": None,
                "mcp_servers": [],
            },
            {},
        ),
    ],
)
def test_fields(given: dict[str, Any], made: dict[str, Any]) -> None:
    assert chat(**given) == chat() | made


@pytest.mark.parametrize(
    ("system", "content"),
    [
        ("Be kind.", "Be kind."),
        ([text("Be kind.", cache_control={"type": "ephemeral"}), text("Be brief.")], "Be kind.\nBe brief."),
        ([text("x-anthropic-billing-header: cc_version=2.1; cch=74943;"), text("Be kind.")], "Be kind."),
        ("", None),
        ([], None),
        ([text("x-anthropic-billing-header: cch=74943;")], None),
    ],
)
def test_system(system: Any, content: str | None) -> None:
    before = [] if content is None else [{"role": "system", "content": content}]
    assert chat(system=system)["messages"] == [*before, {"role": "user", "content": "hi"}]


def called(*calls: tuple[str, str], content: str = "", **more: Any) -> dict[str, Any]:
    made = [{"id": i, "type": "function", "function": {"name": "get_weather", "arguments": a}} for i, a in calls]
    return {"role": "assistant", "content": content, "tool_calls": made, **more}


USE = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"location": "Paris", "n": 1.50}}
ARGUMENTS = '{"location": "Paris", "n": 1.5}'


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ([user(text("a"), text("b"))], [{"role": "user", "content": "a\nb"}]),
        ([user(PNG, text("What is it?"))], [{"role": "user", "content": [SHOWN, text("What is it?")]}]),
        ([user(LINKED)], [{"role": "user", "content": [SHOWN_LINK]}]),
        ([user()], []),
        (
            [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": [text("b")]}],
            [{"role": "assistant", "content": "ab"}],
        ),
        ([user(text("a")), {"role": "user", "content": "b"}], [{"role": "user", "content": "a\nb"}]),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "Be brief."}],
            [{"role": "user", "content": "a"}, {"role": "system", "content": "Be brief."}],
        ),
        (
            [{"role": "assistant", "content": [text("I'll look."), USE]}],
            [called(("t1", ARGUMENTS), content="I'll look.")],
        ),
        (
            [{"role": "assistant", "content": [USE, USE | {"id": "t2", "input": {}}]}],
            [called(("t1", ARGUMENTS), ("t2", "{}"))],
        ),
        (
            [{"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, USE]}],
            [called(("t1", ARGUMENTS), reasoning_content="Hm.")],
        ),
        (
            [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, text("a")]}],
            [{"role": "assistant", "content": "a"}],
        ),
        ([user(result("15 degrees"))], [{"role": "tool", "tool_call_id": "t1", "content": "15 degrees"}]),
        (
            [user(result([text("15"), text("degrees")]))],
            [{"role": "tool", "tool_call_id": "t1", "content": "15\ndegrees"}],
        ),
        ([user(result())], [{"role": "tool", "tool_call_id": "t1", "content": ""}]),
        ([user(result("no", is_error=True))], [{"role": "tool", "tool_call_id": "t1", "content": "Error: no"}]),
        ([user(result("ok", is_error=False))], [{"role": "tool", "tool_call_id": "t1", "content": "ok"}]),
        (
            [user(text("And?"), result([text("a map"), PNG]), result("2", tool_use_id="t2"))],
            [
                {"role": "tool", "tool_call_id": "t1", "content": "a map"},
                {"role": "tool", "tool_call_id": "t2", "content": "2"},
                {"role": "user", "content": [text("And?"), SHOWN]},
            ],
        ),
    ],
)
def test_messages(given: list[Any], made: list[Any]) -> None:
    assert chat(messages=given)["messages"] == made


DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": [user(text("a"), DOCUMENT)]}, "messages.0.content.1"),
        ({"messages": [user(result([text("a"), DOCUMENT]))]}, "messages.0.content.0.content.1"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "1"}]}]},
            "messages.0.content.0",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "1"}})]},
            "messages.0.content.0.source",
        ),
        ({"system": [PNG]}, "system.0"),
        ({"tools": [TOOL, SEARCH]}, "tools.1.type"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(**given)
    assert refused.value.message.startswith(field)
    assert error_body(refused.value, ANTHROPIC)["error"]["code"] == "unsupported"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": "1"}, "max_tokens"),
        ({"messages": ...}, "messages"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text"),
        ({"messages": [user({"type": "image"})]}, "messages.0.content.0.source"),
        ({"messages": [user({"type": "tool_result"})]}, "messages.0.content.0.tool_use_id"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}]},
            "messages.0.content.0.name",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}]},
            "messages.0.content.0.id",
        ),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "all"}}, "tool_choice.type"),
        ({"thinking": {}}, "thinking"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(**given)
    assert field in refused.value.message
    assert error_body(refused.value, ANTHROPIC)["error"]["type"] == "invalid_request_error"


def body(said: bytes) -> bytes:
    return b'{"model": "a", "max_tokens": 1, "messages": [{"role": "user", "content": "%b"}]}' % said


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (body("é😀".encode()), "é😀"),
        (body(rb"\u00e9\ud83d\ude00"), "é😀"),
        (body(rb"half \ud83d"), "half ?"),
        (body(rb"half \ude00"), "half ?"),
        (b"\xef\xbb\xbf" + body(b"hi"), "hi"),
    ],
)
def test_text_of_all_kinds(raw: bytes, said: str) -> None:
    assert translate(raw)["messages"] == [{"role": "user", "content": said}]


@pytest.mark.parametrize("raw", [body(b"hi").replace(b"1,", b"NaN,"), b"", b"\xff"])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        translate(raw)
    assert error_body(refused.value)["error"]["code"] == "invalid_json"


def test_a_request_of_too_many_blocks_is_refused() -> None:
    assert len(chat(messages=[user(*[text("x" * 20)] * 30_000)])["messages"]) == 1
    with pytest.raises(TooLarge, match="more than 100000"):
        chat(messages=[user(*[text("x" * 20)] * 100_000)])


def test_numbers_of_schemas_and_arguments_are_not_changed() -> None:
    exact = b'{"n": 100000000000000000000001, "x": 1.50}'
    raw = b'{"max_tokens": 1, "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": %b}]}], "tools": [{"name": "f", "input_schema": %b}]}'
    made = ROUTES["/v1/messages"].translate(raw % (exact, exact), "engine", "asked")  # type: ignore[misc]
    assert made.body.count(exact) == 1
    assert json.loads(made.body)["messages"][0]["tool_calls"][0]["function"]["arguments"] == exact.decode()
