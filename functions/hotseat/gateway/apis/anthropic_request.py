"""Requests of Anthropic's Messages API as requests for a chat completion of OpenAI's API."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NoReturn

import msgspec
from msgspec import Raw, Struct

from hotseat.core.errors import BadRequest, TooLarge

# Claude Code begins its system prompt with a block that differs in each request. It is for Anthropic's accounting, and no
# prompt cache would match after it.
_BILLING = "x-anthropic-billing-header"
# OpenAI's API has no flag for a tool that failed.
_FAILED = "Error: "
# Of a large body. They are handled one by one, which delays other requests.
_MOST_BLOCKS = 100_000
_LARGE = 2**20  # bytes
_EFFORTS = {"xhigh": "high", "max": "high"}  # other values are the same in both APIs


class _Source(Struct, gc=False):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""


class _Block(Struct):
    """A content block. Which fields it must have depends on `type`."""

    type: str
    text: str | None = None
    source: _Source | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw(b"{}")
    tool_use_id: str | None = None
    content: "str | list[_Block] | None" = None
    is_error: bool | None = None
    thinking: str | None = None


_Content = str | list[_Block]


class _Message(Struct):
    role: str
    content: _Content


class _Tool(Struct):
    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Raw = Raw(b'{"type":"object"}')
    strict: bool | None = None


class _ToolChoice(Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(Struct):
    type: str
    display: str | None = None


class _Metadata(Struct):
    user_id: str | None = None


class _Format(Struct):
    type: str
    schema: Raw = Raw(b"{}")


class _OutputConfig(Struct):
    effort: str | None = None
    format: _Format | None = None


class MessagesRequest(Struct):
    """The fields of a request that are translated, or cannot be. Others have no effect on the answer of a local model."""

    messages: list[_Message]
    max_tokens: int | None = None
    system: _Content | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: _Metadata | None = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    container: Any = None
    mcp_servers: Any = None

    @property
    def shows_thinking(self) -> bool:
        """Whether the client wants to see what the model thinks. One that says nothing does."""
        return self.thinking is None or (self.thinking.type != "disabled" and self.thinking.display != "omitted")


_REQUEST = msgspec.json.Decoder(MessagesRequest)


def read_request(raw: bytes) -> MessagesRequest:
    """Read a request. Raise BadRequest if it is invalid, with the field, or TooLarge."""
    if len(raw) > _LARGE and raw.count(b'"type"') + raw.count(b'"role"') > _MOST_BLOCKS:
        raise TooLarge(f"The request has more than {_MOST_BLOCKS} messages and content blocks.")
    try:
        try:
            return _REQUEST.decode(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # what Python reads beyond JSON: a byte order mark, and half of a surrogate pair
            return _REQUEST.decode(json.dumps(json.loads(raw), ensure_ascii=False).encode("utf-8", "replace"))
    except msgspec.ValidationError as error:
        raise BadRequest(f"The request body is not a request of the Messages API: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The request body is not valid JSON: {error}", code="invalid_json") from None


def chat_request(request: MessagesRequest, model: str) -> dict[str, Any]:
    """Return the request for a chat completion. Raise BadRequest for what cannot be translated, with the field."""
    for field in ("container", "mcp_servers"):
        if getattr(request, field):
            _refuse(field, "it needs Anthropic's servers")
    values = {
        "model": model,
        "messages": [*_messages(request)],
        "max_tokens": request.max_tokens,
        "stop": request.stop_sequences,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "user": None if request.metadata is None else request.metadata.user_id,
        **_tools(request),
        **_reasoning(request),
    }
    if request.stream:
        values |= {"stream": True, "stream_options": {"include_usage": True}}
    return {name: value for name, value in values.items() if value is not None}


# Messages -------------------------------------------------------------------------------------------------------------

_Located = list[tuple[str, _Block]]  # blocks, each with its field


def _messages(request: MessagesRequest) -> Iterator[dict[str, Any]]:
    system = _blocks(request.system or [], "system")
    system = [(path, block) for path, block in system if not (block.text or "").startswith(_BILLING)]
    if system:
        yield {"role": "system", "content": _text(system)}
    numbered = [(f"messages.{at}", message) for at, message in enumerate(request.messages)]
    # Turns of the same role that follow each other are one. Many chat templates refuse them otherwise.
    for role, turns in groupby(numbered, lambda each: each[1].role):
        located = [(path, message) for path, message in turns]
        blocks = [block for path, message in located for block in _blocks(message.content, f"{path}.content")]
        if role == "user":
            yield from _user(blocks)
        elif role == "assistant":
            yield _assistant(blocks)
        elif role == "system":
            yield {"role": "system", "content": _text(blocks)}
        else:
            raise BadRequest(f"{located[0][0]}.role: must be `user`, `assistant` or `system`.")


def _blocks(content: _Content, path: str) -> _Located:
    if isinstance(content, str):
        return [(path, _Block("text", text=content))]
    return [(f"{path}.{at}", block) for at, block in enumerate(content)]


def _text(blocks: _Located) -> str:
    """Return the text of blocks that can be nothing else."""
    return "\n".join(
        _required(block, "text", path) if block.type == "text" else _refuse_block(block, path) for path, block in blocks
    )


def _user(blocks: _Located) -> Iterator[dict[str, Any]]:
    """Yield the results of tools, which must follow their calls, and then what the user says."""
    parts: list[dict[str, Any]] = []
    for path, block in blocks:
        if block.type == "tool_result":
            content = [] if block.content is None else _blocks(block.content, f"{path}.content")
            # Most chat templates have no images in the results of tools: the user shows them.
            parts += [_image(each, at) for at, each in content if each.type == "image"]
            text = _text([(at, each) for at, each in content if each.type != "image"])
            called = _required(block, "tool_use_id", path)
            yield {"role": "tool", "tool_call_id": called, "content": _FAILED + text if block.is_error else text}
        elif block.type == "image":
            parts.append(_image(block, path))
        else:
            parts.append({"type": "text", "text": _text([(path, block)])})
    if all(part["type"] == "text" for part in parts):
        # Engines and templates that know no parts know a string.
        if parts:
            yield {"role": "user", "content": "\n".join(part["text"] for part in parts)}
    else:
        yield {"role": "user", "content": parts}


def _image(block: _Block, path: str) -> dict[str, Any]:
    source = _required(block, "source", path)
    if source.type == "base64":
        url = f"data:{source.media_type};base64,{source.data}"
    elif source.type == "url":
        url = source.url
    else:
        _refuse(f"{path}.source.type", f"`{source.type}` is not known to this engine; use `base64` or `url`")
    return {"type": "image_url", "image_url": {"url": url}}


def _assistant(blocks: _Located) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for path, block in blocks:
        if block.type == "tool_use":
            function = {"name": _required(block, "name", path), "arguments": bytes(block.input).decode()}
            calls.append({"id": _required(block, "id", path), "type": "function", "function": function})
        elif block.type == "thinking":
            thoughts.append(_required(block, "thinking", path))
        elif block.type != "redacted_thinking":  # nobody but Anthropic can read it
            texts.append(_text([(path, block)]))
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _required(block: _Block, field: str, path: str) -> Any:
    value = getattr(block, field)
    if value is None:
        raise BadRequest(f"{path}.{field}: a block of type `{block.type}` must have it.")
    return value


def _refuse_block(block: _Block, path: str) -> NoReturn:
    _refuse(path, f"blocks of type `{block.type[:50]}` cannot be translated for an engine without Anthropic's API")


def _refuse(field: str, why: str) -> NoReturn:
    raise BadRequest(f"{field}: {why}.", code="unsupported", param=field)


# Tools and thinking ---------------------------------------------------------------------------------------------------


def _tools(request: MessagesRequest) -> dict[str, Any]:
    if not request.tools:
        return {}
    tools = [_tool(tool, f"tools.{at}") for at, tool in enumerate(request.tools)]
    choice = request.tool_choice
    if choice is None:
        return {"tools": tools}
    parallel = False if choice.disable_parallel_tool_use else None
    return {"tools": tools, "tool_choice": _tool_choice(choice), "parallel_tool_calls": parallel}


def _tool(tool: _Tool, path: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        _refuse(
            f"{path}.type",
            f"`{tool.type[:50]}` is a tool of Anthropic's; only tools with an `input_schema` can be translated",
        )
    if tool.name is None:
        raise BadRequest(f"{path}.name: a tool must have it.")
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_choice(choice: _ToolChoice) -> Any:
    if choice.type == "tool":
        if choice.name is None:
            raise BadRequest("tool_choice.name: a choice of type `tool` must have it.")
        return {"type": "function", "function": {"name": choice.name}}
    try:
        return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    except KeyError:
        raise BadRequest("tool_choice.type: must be `auto`, `any`, `tool` or `none`.") from None


def _reasoning(request: MessagesRequest) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if request.thinking is not None:
        values["chat_template_kwargs"] = {"enable_thinking": request.thinking.type != "disabled"}
    config = request.output_config
    if config is not None and config.effort is not None:
        values["reasoning_effort"] = _EFFORTS.get(config.effort, config.effort)
    if config is not None and config.format is not None:
        if config.format.type != "json_schema":
            _refuse("output_config.format.type", "only `json_schema` can be translated")
        schema = {"name": "output", "schema": config.format.schema, "strict": True}
        values["response_format"] = {"type": "json_schema", "json_schema": schema}
    return values
