"""Anthropic's Messages API, for engines that speak OpenAI's API only."""

import secrets
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Raw, Struct

from hotseat.api.model import Api, Capability
from hotseat.core.errors import BadRequest
from hotseat.gateway.accepted_head import Route
from hotseat.gateway.apis.anthropic_request import chat_request, read_request
from hotseat.gateway.apis.sse import EventReader
from hotseat.gateway.errors import ANTHROPIC, ApiKind
from hotseat.gateway.translation import engine_error

_CHAT = "/v1/chat/completions"
_FAILED = 500
_json = msgspec.json.Encoder().encode


# What engines answer --------------------------------------------------------------------------------------------------


class _PromptDetails(Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(Struct, gc=False):
    """A message, or a delta of one. Engines call what the model thinks by one of two names."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct, gc=False):
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # of vLLM: the stop sequence, or the id of a token
    matched_stop: Any = None  # of SGLang: the same


class _Completion(Struct, gc=False):
    """A chat completion, or a chunk of one."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_COMPLETION = msgspec.json.Decoder(_Completion)


# What clients get -----------------------------------------------------------------------------------------------------


def _usage(usage: _Usage | None) -> dict[str, int]:
    usage = usage or _Usage()
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    return {
        "input_tokens": max(0, (usage.prompt_tokens or 0) - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens or 0,
    }


_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal"}


class _End:
    """Why an answer ended."""

    __slots__ = ("_sequences", "reason", "sequence")

    def __init__(self, sequences: list[str] | None) -> None:
        """`sequences` are the stop sequences of the request."""
        self._sequences = sequences or ()
        self.reason: str | None = None
        self.sequence: str | None = None

    def read(self, choice: _Choice, *, calls: bool) -> None:
        """Read it from the last choice. `calls`: the model has called tools, which not all engines state here."""
        self.reason = _REASONS.get(choice.finish_reason or "", "tool_use" if calls else "end_turn")
        matched = choice.matched_stop if choice.stop_reason is None else choice.stop_reason
        if self.reason == "end_turn" and matched in self._sequences:
            self.reason, self.sequence = "stop_sequence", matched


def _input(arguments: str | None) -> Raw:
    """Return the arguments of a tool as JSON. What is no JSON object is marked, as Anthropic's documentation has it."""
    try:
        raw = (arguments or "{}").encode()
        msgspec.json.decode(raw, type=dict[str, Any])
    except ValueError:
        return Raw(_json({"INVALID_JSON": arguments}))
    return Raw(raw)


def _blocks(said: _Said, *, thinking: bool) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    thought = said.reasoning_content or said.reasoning
    if thought and thinking:
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if said.content:
        blocks.append({"type": "text", "text": said.content})
    for call in said.tool_calls or ():
        function = call.function or _Function()
        block = {
            "type": "tool_use",
            "id": _call_id(call),
            "name": function.name or "",
            "input": _input(function.arguments),
        }
        blocks.append(block)
    return blocks


def _call_id(call: _ToolCall) -> str:
    return call.id or f"toolu_{secrets.token_hex(12)}"


def _error(status: int, error: bytes) -> dict[str, Any]:
    message, code = engine_error(error)
    return ANTHROPIC.body(ApiKind(status, code, ""), message)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json({"type": name, **data}))


_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class _Stream:
    """Chunks of a completion as events of a message: blocks one after another, each begun, continued and ended."""

    def __init__(self, message: dict[str, Any], end: _End, *, thinking: bool) -> None:
        """`message` is that of the first event."""
        self._message, self._end, self._thinking = message, end, thinking
        self._begun = self.over = False
        self._kind = ""  # of the open block
        self._block = -1  # its index
        self._call: int | None = None  # the index of its tool call
        self._calls = False
        self._usage: _Usage | None = None

    def read(self, data: bytes, out: list[bytes]) -> None:
        """Append the events for the data of one event."""
        if self.over or not data:
            return
        if data == b"[DONE]":
            self.finish(out)
            return
        chunk = _COMPLETION.decode(data)
        if chunk.error is not None:
            status = chunk.error.get("code") if isinstance(chunk.error, dict) else None
            out.append(ANTHROPIC.event(_error(status if isinstance(status, int) else _FAILED, data)))
            self.over = True
            return
        if not self._begun:
            self._begun = True
            out += (_event("message_start", {"message": self._message}), _PING)
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices:
            if choice.delta is not None:
                self._say(choice.delta, out)
            if choice.finish_reason:
                self._end.read(choice, calls=self._calls)

    def finish(self, out: list[bytes]) -> None:
        """Append the last events. Raise ValueError if the answer is not complete."""
        if self.over:
            return
        if self._end.reason is None:
            raise ValueError("the stream has ended before the answer")
        self._close(out)
        delta = {"stop_reason": self._end.reason, "stop_sequence": self._end.sequence}
        out += (_event("message_delta", {"delta": delta, "usage": _usage(self._usage)}), _MESSAGE_STOP)
        self.over = True

    def _say(self, said: _Said, out: list[bytes]) -> None:
        thought = said.reasoning_content or said.reasoning
        if thought:
            if not self._thinking:
                out.append(_PING)
            else:
                if self._kind != "thinking":
                    self._open("thinking", {"thinking": "", "signature": ""}, out)
                out.append(_DELTA % (self._block, b"thinking_delta", b"thinking", _json(thought)))
        if said.content:
            if self._kind != "text":
                self._open("text", {"text": ""}, out)
            out.append(_DELTA % (self._block, b"text_delta", b"text", _json(said.content)))
        for call in said.tool_calls or ():
            self._continue_call(call, out)

    def _continue_call(self, call: _ToolCall, out: list[bytes]) -> None:
        function = call.function or _Function()
        # Without an index, an id begins a call.
        new = call.id is not None if call.index is None else call.index != self._call
        if self._kind != "tool_use" or new:
            if function.name is None:
                raise ValueError("a part of a tool call without a name, which does not follow its other parts")
            self._open("tool_use", {"id": _call_id(call), "name": function.name, "input": {}}, out)
            self._call, self._calls = call.index, True
        if function.arguments:
            out.append(_DELTA % (self._block, b"input_json_delta", b"partial_json", _json(function.arguments)))

    def _open(self, kind: str, fields: dict[str, Any], out: list[bytes]) -> None:
        self._close(out)
        self._kind = kind
        self._block += 1
        block = {"index": self._block, "content_block": {"type": kind, **fields}}
        out.append(_event("content_block_start", block))

    def _close(self, out: list[bytes]) -> None:
        if self._kind == "thinking":
            # Clients that find no signature do not send back what the model thought.
            out.append(_DELTA % (self._block, b"signature_delta", b"signature", b'""'))
        if self._kind:
            out.append(_STOP % self._block)
        self._kind = ""


class _Messages:
    """A request for a message."""

    path = _CHAT
    stream_type = "text/event-stream; charset=utf-8"
    fixed: Collection[str] = ()

    def __init__(self, raw: bytes, model: str, asked: str) -> None:
        """`model` is the name to the engine, `asked` that to the client."""
        request = read_request(raw)
        if request.max_tokens is None:
            raise BadRequest("max_tokens: a request must have it.")
        self.body = _json(chat_request(request, model))
        self._thinking = request.shows_thinking
        self._end = _End(request.stop_sequences)
        self._message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": asked,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(None),
        }
        self._reader = EventReader()
        self._stream = _Stream(self._message, self._end, thinking=self._thinking)

    def stream(self, data: bytes) -> bytes:
        """Return the events for what has come."""
        out: list[bytes] = []
        for event in self._reader.feed(data):
            self._stream.read(event, out)
        if not out and data.startswith(b":"):  # a comment, by which the engine keeps the connection alive
            return _PING
        return b"".join(out)

    def end(self) -> bytes:
        """Return the last events, if the engine has not sent its own."""
        out: list[bytes] = []
        self._stream.finish(out)
        return b"".join(out)

    def answer(self, body: bytes) -> bytes:
        """Return the message."""
        completion = _COMPLETION.decode(body)
        choice = completion.choices[0]
        said = choice.message
        if said is None:
            raise ValueError("a choice without a message")
        self._end.read(choice, calls=bool(said.tool_calls))
        ended = {
            "stop_reason": self._end.reason,
            "stop_sequence": self._end.sequence,
            "usage": _usage(completion.usage),
        }
        return _json(self._message | {"content": _blocks(said, thinking=self._thinking)} | ended)

    def error(self, status: int, body: bytes) -> bytes:
        """Return the engine's error."""
        return _json(_error(status, body))


class _TokenCount(_Messages):
    """A request for the number of tokens of a prompt: a chat completion of one token, whose usage states it."""

    fixed = frozenset({"max_tokens", "max_completion_tokens", "n", "stream"})

    def __init__(self, raw: bytes, model: str, asked: str) -> None:  # noqa: ARG002
        """`model` is the name to the engine."""
        request = read_request(raw)
        request.max_tokens, request.stream = 1, False
        self.body = _json(chat_request(request, model))

    def answer(self, body: bytes) -> bytes:
        """Return the number."""
        usage = _COMPLETION.decode(body).usage
        if usage is None or usage.prompt_tokens is None:
            raise ValueError("an answer without usage.prompt_tokens")
        return _json({"input_tokens": usage.prompt_tokens})


ROUTES = {
    path: Route(path, label, Capability.CHAT, Api.ANTHROPIC, translate, events)
    for path, label, translate, events in (
        ("/v1/messages", "messages", _Messages, True),
        ("/v1/messages/count_tokens", "count_tokens", _TokenCount, False),
    )
}
