"""Ollama's API for inference: chats, completions of prompts, and embeddings, for engines that have OpenAI's API only."""

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from hotseat.api.model import Api, Capability
from hotseat.api.units import format_time
from hotseat.gateway.accepted_head import Route
from hotseat.gateway.apis import ollama_requests as requests
from hotseat.gateway.apis.sse import EventReader
from hotseat.gateway.translation import Translation, engine_error

LATEST = ":latest"  # the tag of a name without one
NDJSON = "application/x-ndjson"
_END = b"[DONE]"


# The engine's answers -------------------------------------------------------------------------------------------------


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    """A message of a chat, or a part of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None
    logprobs: Any = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(msgspec.Struct):
    """What llama.cpp measures, in milliseconds."""

    prompt_ms: float | None = None
    predicted_ms: float | None = None


class _Answer(msgspec.Struct):
    """A whole completion, or an event of one."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


class _Embedding(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: _Usage | None = None


_ANSWERS = msgspec.json.Decoder(_Answer)
_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)
_encode = msgspec.json.Encoder().encode


class _Translation:
    """What all translations have. `path` is empty if the engine is not asked."""

    stream_type = NDJSON
    fixed: Collection[str] = ()

    def __init__(self, path: str, body: Any, name: str, empty: str = "") -> None:
        """`name` is the one that the client sent. `empty`: why the engine is not asked, in Ollama's words."""
        self.path = "" if empty else path
        self.body = b"" if empty else _encode(body)
        self._name, self._empty = name, empty
        self._began = time.monotonic()

    def stream(self, data: bytes) -> bytes:  # noqa: ARG002
        """Refuse a stream, which was not asked for."""
        raise ValueError("a stream of events")

    def end(self) -> bytes:
        """Return nothing."""
        return b""

    def error(self, status: int, body: bytes) -> bytes:  # noqa: ARG002
        """Translate an error of the engine."""
        return _encode({"error": engine_error(body)[0]})

    def _since_start(self) -> int:
        return _nanoseconds(time.monotonic() - self._began)


class _Completion(_Translation):
    """The translation of a chat, or of the completion of a prompt."""

    def __init__(self, path: str, body: Any, name: str, empty: str = "", *, chats: bool) -> None:
        """`chats`: the client sent a chat, not a prompt."""
        super().__init__(path, body, name, empty)
        self._chats = chats
        self._reader = EventReader()
        self._calls = _ToolCalls()
        self._first: float | None = None  # when the first part of the answer came
        self._usage, self._timings = _Usage(), _Timings()
        self._reason: str | None = None
        self._over = False

    def stream(self, data: bytes) -> bytes:
        """Translate events as far as they are complete."""
        return b"".join(line for event in self._reader.feed(data) for line in self._lines(event))

    def end(self) -> bytes:
        """Return the last object, if the stream ended without its mark. Raise ValueError if it was not the end of the answer."""
        if self._reason is None and not self._over:
            raise ValueError("a stream that ends within the answer")
        return b"".join(self._last_lines())

    def answer(self, body: bytes) -> bytes:
        """Translate a whole answer."""
        if self._empty:
            return _encode({**self._object("", ""), "done_reason": self._empty, "done": True})
        given = _ANSWERS.decode(body)
        choice = (given.choices or [])[0]
        self._note(given)
        message = choice.message or _Message(choice.text)
        calls = self._calls
        calls.add(message.tool_calls or ())
        thinking = message.reasoning_content or message.reasoning or ""
        whole = self._object(
            message.content or "", thinking, calls.take(cut_off=self._reason == "length"), choice.logprobs
        )
        return _encode({**whole, **self._summary()})

    def _lines(self, event: bytes) -> Iterator[bytes]:
        if self._over:
            return
        if event == _END:
            yield from self._last_lines()
            return
        given = _ANSWERS.decode(event)
        if given.error is not None:
            self._over = True
            yield self.error(0, event) + b"\n"
            return
        self._note(given)
        if self._first is None and given.choices:
            self._first = time.monotonic()
        for choice in (given.choices or ())[:1]:
            part = choice.delta or _Message(choice.text)
            self._calls.add(part.tool_calls or ())
            text, thinking = part.content or "", part.reasoning_content or part.reasoning or ""
            if text or thinking or choice.logprobs:
                yield self._line(self._object(text, thinking, logprobs=choice.logprobs))

    def _last_lines(self) -> Iterator[bytes]:
        """Yield what is sent after the last part of the answer: calls of tools, which are complete now, and the figures."""
        if self._over:
            return
        self._over = True
        if calls := self._calls.take(cut_off=self._reason == "length"):
            yield self._line(self._object("", "", calls))
        yield _encode({**self._object("", ""), **self._summary()}) + b"\n"

    def _line(self, part: dict[str, Any]) -> bytes:
        part["done"] = False
        return _encode(part) + b"\n"

    def _note(self, given: _Answer) -> None:
        """Keep the figures of an event."""
        self._usage = given.usage or self._usage
        self._timings = given.timings or self._timings
        for choice in given.choices or ():
            self._reason = choice.finish_reason or self._reason

    def _object(
        self, text: str, thinking: str, calls: Iterable[dict[str, Any]] = (), logprobs: Any = None
    ) -> dict[str, Any]:
        """Return an object with a part of the answer, or all of it."""
        part: dict[str, Any] = {"role": "assistant", "content": text} if self._chats else {"response": text}
        if thinking:
            part["thinking"] = thinking
        if calls:
            part["tool_calls"] = calls
        result: dict[str, Any] = {"model": self._name, "created_at": format_time(time.time(), "microseconds")}
        result |= {"message": part} if self._chats else part
        if isinstance(logprobs, dict) and logprobs.get("content"):
            result["logprobs"] = logprobs["content"]
        return result

    def _summary(self) -> dict[str, Any]:
        """Return the end of the last object. The engine's own times take precedence over those that are measured here."""
        total = self._since_start()
        first = 0 if self._first is None else _nanoseconds(self._first - self._began)
        prompt, predicted = self._timings.prompt_ms, self._timings.predicted_ms
        return {
            "done_reason": "length" if self._reason == "length" else "stop",
            "done": True,
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": self._usage.prompt_tokens or 0,
            "prompt_eval_duration": first if prompt is None else _nanoseconds(prompt / 1000),
            "eval_count": self._usage.completion_tokens or 0,
            "eval_duration": total - first if predicted is None else _nanoseconds(predicted / 1000),
        }


class _ToolCalls:
    """Calls of tools, whose arguments come in pieces."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[str, str, list[str]]] = {}  # ID, name and arguments, by index

    def add(self, pieces: Iterable[_ToolCall]) -> None:
        """Add pieces. Without an index, a piece with a name begins a call."""
        for piece in pieces:
            function = piece.function or _Function()
            at = piece.index
            if at is None:
                at = len(self._calls) if function.name else len(self._calls) - 1
            id_, name, arguments = self._calls.get(at, ("", "", []))
            self._calls[at] = (piece.id or id_, name or function.name or "", arguments)
            if function.arguments:
                arguments.append(function.arguments)

    def take(self, *, cut_off: bool) -> list[dict[str, Any]]:
        """Return all calls. Raise ValueError if arguments are no object, but leave out a call that is `cut_off` at the end."""
        result = []
        for at, (id_, name, arguments) in sorted(self._calls.items()):
            try:
                given = msgspec.json.decode("".join(arguments) or "{}", type=dict[str, Any])
            except ValueError:
                if cut_off:
                    continue
                raise
            named = {"id": id_} if id_ else {}
            result.append({**named, "function": {"index": at, "name": name, "arguments": given}})
        self._calls = {}
        return result


class _EmbedTranslation(_Translation):
    """The translation of POST /api/embed."""

    def answer(self, body: bytes) -> bytes:
        """Translate the answer."""
        if self._empty:
            return _encode({"model": self._name, "embeddings": []})
        given = _EMBEDDINGS.decode(body)
        tokens = 0 if given.usage is None else given.usage.prompt_tokens or 0
        return _encode(
            {
                "model": self._name,
                "embeddings": [each.embedding for each in sorted(given.data, key=lambda each: each.index)],
                "total_duration": self._since_start(),
                "load_duration": 0,
                "prompt_eval_count": tokens,
            }
        )


class _EmbeddingsTranslation(_Translation):
    """The translation of POST /api/embeddings, which embeds one text."""

    def answer(self, body: bytes) -> bytes:
        """Translate the answer."""
        if self._empty:
            return _encode({"embedding": []})
        return _encode({"embedding": _EMBEDDINGS.decode(body).data[0].embedding})


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


# Routes ---------------------------------------------------------------------------------------------------------------


def _chat(body: bytes, model: str, name: str) -> Translation:
    request = requests.read(requests.OllamaChat, body)
    return _Completion("/v1/chat/completions", requests.chat(request, model), name, _why_empty(request), chats=True)


def _generate(body: bytes, model: str, name: str) -> Translation:
    request = requests.read(requests.OllamaGenerate, body)
    return _Completion(*requests.generate(request, model), name, _why_empty(request), chats=False)


def _embed(body: bytes, model: str, name: str) -> Translation:
    request = requests.read(requests.OllamaEmbed, body)
    translated = requests.embed(request.input, model, request.dimensions)
    return _EmbedTranslation("/v1/embeddings", translated, name, _why_empty(request))


def _embeddings(body: bytes, model: str, name: str) -> Translation:
    request = requests.read(requests.OllamaEmbeddings, body)
    translated = requests.embed(request.prompt or "", model)
    return _EmbeddingsTranslation("/v1/embeddings", translated, name, _why_empty(request))


def _why_empty(request: requests.OllamaRequest) -> str:
    """Return why the engine is not asked. Empty: it is."""
    return "unload" if request.unloads else "load" if request.is_empty else ""


_ROUTES = (
    ("/api/chat", "chat", Capability.CHAT, _chat, requests.unloads(requests.OllamaChat)),
    ("/api/generate", "completion", Capability.CHAT, _generate, requests.unloads(requests.OllamaGenerate)),
    ("/api/embed", "embedding", Capability.EMBEDDING, _embed, requests.unloads(requests.OllamaEmbed)),
    ("/api/embeddings", "embedding", Capability.EMBEDDING, _embeddings, requests.unloads(requests.OllamaEmbeddings)),
)
ROUTES = {
    path: Route(path, label, capability, Api.OLLAMA, translate, events=False, tag=LATEST, unloads=unloads)
    for path, label, capability, translate, unloads in _ROUTES
}
