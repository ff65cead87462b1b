"""Answers that hotseat gives itself for a Model with a mock response, in the form of each route."""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from hotseat.core.errors import BadRequest, HotseatError, NotImplementedByServer
from hotseat.engines import mock_http
from hotseat.engines.mock_http import MockAnswer
from hotseat.gateway.relay import Exchange, How, Outcome
from hotseat.gateway.relay.heads import Call
from hotseat.telemetry.answer_figures import AnswerSample

FIELD = "mock_response"  # of a request
_EVENTS, _JSON = "text/event-stream", "application/json"
_WORD = re.compile(r"\S+\s*|\s+")
_IDS = 10**12

Answer = tuple[str, bytes]  # Content-Type and body
_JsonObject = dict[str, Any]


class MockExchange(Exchange):
    """An exchange that no engine takes part in."""

    __slots__ = ("_text",)

    def with_text(self, text: str) -> "MockExchange":
        """Set the text of the answer."""
        self._text = text
        return self

    def start(self) -> None:
        """Answer."""
        response = self._response
        response.writer = self
        if response.gone:
            self.client_gone()
            return
        if self._cancelled is not None:
            self._fail(self._cancelled, How.CANCELLED)
            return
        try:
            kind, data = mock_answer(self._call.target, self._call.body, self._text)
            stream = kind == _EVENTS
            self.sample = AnswerSample(data, stream=stream)
            if response.begun:
                response.end(data)
            else:
                fields = f"Content-Type: {kind}\r\n{'Cache-Control: no-cache' if stream else f'Content-Length: {len(data)}'}\r\n"
                response.begin("200 OK", fields.encode() + self._extra, data, counted=not stream, last=True)
        except HotseatError as error:
            self._fail(error)
        else:
            self._finish(Outcome(How.COMPLETED, 200, response.sent))


class FailedExchange(Exchange):
    """An exchange that cannot begin."""

    __slots__ = ("_why",)

    def because(self, error: HotseatError) -> "FailedExchange":
        """Set the error."""
        self._why = error
        return self

    def start(self) -> None:
        """Report the error."""
        self._response.writer = self
        self._fail(self._why)


def requested_text(call: Call) -> str | None:
    """Return the mock response that a request asks for. None: it asks for none."""
    if f'"{FIELD}"'.encode() not in call.body:
        return None
    try:
        body = json.loads(call.body)
    except (ValueError, RecursionError):
        return None
    text = body.get(FIELD) if isinstance(body, dict) else None
    return text if isinstance(text, str) else None


def mock_answer(target: bytes, body: bytes, text: str) -> Answer:
    """Return the answer with a text. Raise NotImplementedByServer for a route without one, and BadRequest."""
    path = target.partition(b"?")[0].decode("latin-1")
    if path in _FORMS:
        return _json({"text": text})
    answer = _ANSWERS.get(path)
    if answer is None:
        raise NotImplementedByServer(f"The model has a mock response, and {path} has no such answer.")
    try:
        asked = json.loads(body)
        return answer(asked, text)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadRequest(f"The body is not a request for {path}.") from error


def _completion(asked: _JsonObject, text: str, *, chat: bool) -> Answer:
    made = MockAnswer(str(asked.get("model")), asked, secrets.randbelow(_IDS), 0, chat=chat)
    made.call, made.tokens = None, _WORD.findall(text)
    count = len(text.split())
    made.usage |= {"completion_tokens": count, "total_tokens": made.usage["prompt_tokens"] + count}
    if not asked.get("stream"):
        return _json(made.complete())
    events = [made.chunk(token, first=not index) for index, token in enumerate(made.tokens or [""])]
    events.append(made.chunk(None))
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append(made.usage_chunk())
    return _EVENTS, b"".join(map(_event, events)) + b"data: [DONE]\n\n"


def _chat(asked: _JsonObject, text: str) -> Answer:
    return _completion(asked, text, chat=True)


def _text(asked: _JsonObject, text: str) -> Answer:
    return _completion(asked, text, chat=False)


def _response(asked: _JsonObject, text: str) -> Answer:
    whole = mock_http.response(str(asked.get("model")), asked, secrets.randbelow(_IDS))
    whole["output"][0]["content"][0]["text"] = text
    if not asked.get("stream"):
        return _json(whole)
    events = mock_http.response_events(whole)
    return _EVENTS, b"".join(b"event: %b\n%b" % (each["type"].encode(), _event(each)) for each in events)


def _speech(asked: _JsonObject, text: str) -> Answer:
    return "audio/wav", mock_http.speech(text, asked)


def _of(make: Callable[[str, _JsonObject], _JsonObject]) -> Callable[[_JsonObject, str], Answer]:
    return lambda asked, _: _json(make(str(asked.get("model")), asked))


_ANSWERS: Mapping[str, Callable[[_JsonObject, str], Answer]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _text,
    "/v1/responses": _response,
    "/v1/embeddings": _of(mock_http.embeddings),
    "/v1/rerank": _of(mock_http.rerank),
    "/v1/reranking": _of(mock_http.rerank),
    "/v1/moderations": _of(mock_http.moderation),
    "/v1/audio/speech": _speech,
}
_FORMS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})


def _json(body: _JsonObject) -> Answer:
    return _JSON, json.dumps(body).encode()


def _event(body: _JsonObject) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
