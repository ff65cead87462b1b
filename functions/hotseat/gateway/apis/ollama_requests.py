"""Requests of Ollama's API, and the requests of OpenAI's API that they are translated to."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Raw

from hotseat.core.errors import BadRequest, TooLarge

# Messages and calls of tools in a large body. They are handled one by one, which delays other requests.
MOST = 100_000
_LARGE = 2**20  # bytes
_MOST_IMAGES = 1000  # of a message
SMALL = 65536  # bytes of a request that can be one to unload a Model
_NOTHING = re.compile(r"[-+]?0+(\.0*)?(ns|us|µs|ms|s|m|h)?")  # a duration of zero
_MEDIA = {"/9j/": "jpeg", "R0lG": "gif", "UklG": "webp"}  # how images begin in Base64; all others count as PNG
# Sampling options that have the same name in OpenAI's API or in engines that extend it.
_SAME_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repeat_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)


_NONE = Raw(b"null")
_Images = Annotated[list[str], msgspec.Meta(max_length=_MOST_IMAGES)]


class _Function(msgspec.Struct):
    name: str
    arguments: Raw = _NONE


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: _Images | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaRequest(msgspec.Struct):
    """What all requests have. What is passed on as it is, or rarely given, stays JSON."""

    options: Raw = _NONE
    keep_alive: Any = None

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to process, and only loads or unloads the Model."""
        raise NotImplementedError

    @property
    def unloads(self) -> bool:
        """Whether it unloads the Model."""
        return self.is_empty and _is_zero(self.keep_alive)


class OllamaCompletion(OllamaRequest):
    """What chats and completions of prompts have."""

    stream: bool | None = None
    format: Raw = _NONE
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class OllamaChat(OllamaCompletion):
    """POST /api/chat."""

    messages: list[_Message] | None = None
    tools: Raw = _NONE

    @property
    def is_empty(self) -> bool:
        """Whether it has no messages."""
        return not self.messages


class OllamaGenerate(OllamaCompletion):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: _Images | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has no prompt."""
        return not self.prompt


class OllamaEmbed(OllamaRequest):
    """POST /api/embed."""

    input: Raw = _NONE
    dimensions: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has no text."""
        return _is_empty(bytes(self.input))


class OllamaEmbeddings(OllamaRequest):
    """POST /api/embeddings."""

    prompt: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has no text."""
        return not self.prompt


Kind = TypeVar("Kind", OllamaChat, OllamaGenerate, OllamaEmbed, OllamaEmbeddings)


def read(kind: type[Kind], body: bytes) -> Kind:
    """Return the request in a body. Raise BadRequest if it is invalid, or TooLarge."""
    if len(body) > _LARGE and body.count(b'"role"') + body.count(b'"function"') > MOST:
        raise TooLarge(f"The request has more than {MOST} messages and calls of tools.")
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # what Python reads beyond JSON: a byte order mark, and half of a surrogate pair
            text = json.dumps(json.loads(body), ensure_ascii=False)
            return msgspec.json.decode(text.encode("utf-8", "replace"), type=kind)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The request body is not a request of Ollama's API: {error}") from None


def _is_empty(value: bytes) -> bool:
    """Whether a value is null, an empty text, or a list of nothing."""
    return value.strip(b"[] \t\r\n") in (b"", b'""', b"null")


def _is_zero(keep_alive: Any) -> bool:
    if isinstance(keep_alive, str):
        return _NOTHING.fullmatch(keep_alive) is not None
    return isinstance(keep_alive, int | float) and keep_alive == 0 and keep_alive is not False


def unloads(kind: type[Kind]) -> Callable[[bytes], bool]:
    """Return what tells of the body of a request whether it unloads its Model."""

    def tell(body: bytes) -> bool:
        if len(body) > SMALL or b"keep_alive" not in body:
            return False
        try:
            return read(kind, body).unloads
        except BadRequest:
            return False

    return tell


def chat(request: OllamaChat, model: str) -> dict[str, Any]:
    """Return the body for /v1/chat/completions."""
    body = {"model": model, "messages": _messages(request.messages or ()), **_common(request), **_of_chats(request)}
    tools = bytes(request.tools)
    if not tools.startswith((b"[", b"null")):
        raise BadRequest("`tools` must be a list.", param="tools")
    if not _is_empty(tools):  # Ollama's own client always sends a list, which some engines refuse if it is empty
        body["tools"] = request.tools
    return body


def generate(request: OllamaGenerate, model: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the body. Raise BadRequest if the request cannot be translated.

    A prompt in the engine's own format, and one with a suffix, is completed as text. All others are messages of a chat.
    """
    if request.template:
        raise BadRequest(
            "`template` is not supported: the engine applies the template of the model. "
            "To apply another one, send the whole prompt with `raw`.",
            param="template",
        )
    if request.raw or request.suffix:
        if request.images:
            raise BadRequest("`images` are not supported with `raw` or `suffix`.", param="images")
        suffix = {"suffix": request.suffix} if request.suffix else {}
        return "/v1/completions", {"model": model, "prompt": request.prompt, **suffix, **_common(request)}
    system = [_Message("system", request.system)] if request.system else []
    messages = _messages([*system, _Message("user", request.prompt, images=request.images)])
    return "/v1/chat/completions", {"model": model, "messages": messages, **_common(request), **_of_chats(request)}


def embed(texts: str | Raw, model: str, dimensions: int | None = None) -> dict[str, Any]:
    """Return the body for /v1/embeddings. Raise BadRequest if there are no texts in `texts`."""
    if isinstance(texts, Raw) and not bytes(texts).startswith((b"[", b'"', b"null")):
        raise BadRequest("`input` must be a text or a list of texts.", param="input")
    return {"model": model, "input": texts, **({} if dimensions is None else {"dimensions": dimensions})}


# Parts of a chat ------------------------------------------------------------------------------------------------------


def _messages(messages: Iterable[_Message]) -> list[dict[str, Any]]:
    """Return messages for OpenAI's API.

    There, each call of a tool has an ID, which its result names. Ollama's clients send the name of the tool at most, so results
    belong to the calls in order, of the same name if that is given.
    """
    result: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # ID and name of calls without a result
    count = 0
    for each in messages:
        message: dict[str, Any] = {"role": each.role, "content": _content(each)}
        if each.thinking:
            message["reasoning_content"] = each.thinking
        if each.tool_calls:
            open_calls = [
                (call.id or f"call_{at}", call.function.name) for at, call in enumerate(each.tool_calls, count)
            ]
            count += len(open_calls)
            message["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": name, "arguments": _text(call.function.arguments)}}
                for (id_, name), call in zip(open_calls, each.tool_calls, strict=True)
            ]
        if each.role == "tool":
            named = [call for call in open_calls if each.tool_name in (None, call[1])] or open_calls
            id_ = each.tool_call_id or (named[0][0] if named else f"call_{count}")
            open_calls = [call for call in open_calls if call[0] != id_]
            message["tool_call_id"] = id_
            if each.tool_name:
                message["name"] = each.tool_name
        result.append(message)
    return result


def _content(message: _Message) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images
    ]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _data_url(image: str) -> str:
    return image if image.startswith("data:") else f"data:image/{_MEDIA.get(image[:4], 'png')};base64,{image}"


def _text(arguments: Raw) -> str:
    """Return the arguments of a call, an object, as JSON in a text. Some clients send the text itself."""
    given = bytes(arguments)
    if given.startswith(b'"'):
        text: str = msgspec.json.decode(given)
        return text
    return "{}" if given == b"null" else given.decode()


# Settings -------------------------------------------------------------------------------------------------------------


def _common(request: OllamaCompletion) -> dict[str, Any]:
    """Return the fields that chats and text completions have in common."""
    streamed = request.stream is not False
    fields: dict[str, Any] = {"stream": streamed}
    if streamed:
        fields["stream_options"] = {"include_usage": True}
    return fields | _sampling(request.options)


def _sampling(given: Raw) -> dict[str, Any]:
    options: Any = {} if given == _NONE else None
    if options is None and len(memoryview(given)) <= SMALL:
        options = msgspec.json.decode(given)
    if not isinstance(options, dict):
        raise BadRequest(f"`options` must be an object of at most {SMALL} bytes.", param="options")
    fields = {name: options[name] for name in _SAME_OPTIONS if options.get(name) is not None}
    if isinstance(limit := options.get("num_predict"), int) and limit >= 0:  # negative: no limit
        fields["max_tokens"] = limit
    if (penalty := options.get("repeat_penalty")) is not None:
        fields |= {"repeat_penalty": penalty, "repetition_penalty": penalty}  # llama.cpp's name, and vLLM's
    return fields


def _of_chats(request: OllamaCompletion) -> dict[str, Any]:
    """Return the fields that chats alone have."""
    fields: dict[str, Any] = {}
    form = bytes(request.format)
    if form == b'"json"':
        fields["response_format"] = {"type": "json_object"}
    elif form.startswith(b"{"):
        schema = {"name": "response", "schema": request.format, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form not in (b"null", b'""'):
        raise BadRequest("`format` must be `json` or a JSON schema.", param="format")
    if request.think is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": bool(request.think)}
        if isinstance(request.think, str):
            fields["reasoning_effort"] = request.think
    if request.logprobs:
        fields["logprobs"] = True
    if request.top_logprobs:
        fields["top_logprobs"] = request.top_logprobs
    return fields
