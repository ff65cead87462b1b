"""What clients get for each kind of error: the HTTP status, the code, and the JSON body in the shape of their API."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from hotseat.core import errors
from hotseat.core.errors import HotseatError


class ApiKind(NamedTuple):
    """How the API presents a kind of error.

    `code` is the machine-readable reason of an error that names none itself. `type` is OpenAI's error type.
    """

    status: int
    code: str
    type: str


_INVALID, _SERVER = "invalid_request_error", "server_error"
_KINDS: Mapping[type[HotseatError], ApiKind] = {
    HotseatError: ApiKind(500, "internal_error", _SERVER),
    errors.BadRequest: ApiKind(400, "invalid_request", _INVALID),
    errors.Unauthorized: ApiKind(401, "invalid_api_key", "authentication_error"),
    errors.Forbidden: ApiKind(403, "origin_not_allowed", "permission_error"),
    errors.UnknownModel: ApiKind(404, "model_not_found", _INVALID),
    errors.NotFound: ApiKind(404, "not_found", _INVALID),
    errors.TooSlow: ApiKind(408, "request_timeout", _INVALID),
    errors.Conflict: ApiKind(409, "conflict", _INVALID),
    errors.Cancelled: ApiKind(410, "request_cancelled", _INVALID),  # clients repeat what gets 409, 429 or 5xx
    errors.TooLarge: ApiKind(413, "request_too_large", _INVALID),
    errors.UnsupportedEncoding: ApiKind(415, "unsupported_encoding", _INVALID),
    errors.QueueFull: ApiKind(429, "queue_full", "rate_limit_error"),
    errors.RateLimited: ApiKind(429, "rate_limit_exceeded", "rate_limit_error"),
    errors.HeadTooLarge: ApiKind(431, "head_too_large", _INVALID),
    errors.NotImplementedByServer: ApiKind(501, "not_implemented", _INVALID),
    errors.UpstreamFailed: ApiKind(502, "upstream_failed", _SERVER),
    errors.Unavailable: ApiKind(503, "model_unavailable", _SERVER),
    errors.ModelLoading: ApiKind(503, "model_switching_in_progress", "model_loading"),
    errors.NotResident: ApiKind(503, "not_resident", _SERVER),
    errors.UpstreamTimeout: ApiKind(504, "upstream_timeout", _SERVER),
}
INTERNAL = _KINDS[HotseatError].status
UPSTREAM_FAILED = _KINDS[errors.UpstreamFailed].status


def api_kind(error: HotseatError) -> ApiKind:
    """Return the status, code and type of an error. Its own code replaces that of its kind."""
    kind = next(_KINDS[each] for each in type(error).__mro__ if each in _KINDS)
    return kind if error.code is None else kind._replace(code=error.code)


class UpstreamRefused(errors.UpstreamFailed):
    """The engine's own error, or another answer than a stream of events, for a client whose response has started.

    `status` is that of the engine. `given` is its body, if it is an error object.
    """

    def __init__(self, message: str, status: int, given: Any) -> None:
        super().__init__(message, code="upstream_error")
        self.status = status
        self.given: Mapping[str, Any] | None = given if isinstance(given, dict) and "error" in given else None


def internal_error() -> HotseatError:
    """Return the error for the client after an exception that is a bug of hotseat. The caller logs the exception."""
    return HotseatError("Internal error in hotseat. Its log has the details.")


class ErrorShape(Protocol):
    """How an API reports errors."""

    def body(self, kind: ApiKind, message: str, param: str | None = None) -> dict[str, Any]:
        """Return the JSON body of an error."""

    def event(self, body: Mapping[str, Any]) -> bytes:
        """Return a JSON body as the last part of a stream that has begun."""


class _OpenAi:
    def body(self, kind: ApiKind, message: str, param: str | None = None) -> dict[str, Any]:
        return {"error": {"message": message, "type": kind.type, "param": param, "code": kind.code}}

    def event(self, body: Mapping[str, Any]) -> bytes:
        return b"data: " + _compact(body) + b"\n\n"


class _Anthropic:
    _TYPES: Mapping[int, str] = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }

    def body(self, kind: ApiKind, message: str, param: str | None = None) -> dict[str, Any]:  # noqa: ARG002
        client = kind.status < INTERNAL
        type_ = self._TYPES.get(kind.status, "invalid_request_error" if client else "api_error")
        return {"type": "error", "error": {"type": type_, "message": message, "code": kind.code}}

    def event(self, body: Mapping[str, Any]) -> bytes:
        return b"event: error\ndata: " + _compact(body) + b"\n\n"


class _Ollama:
    def body(self, kind: ApiKind, message: str, param: str | None = None) -> dict[str, Any]:  # noqa: ARG002
        return {"error": message, "code": kind.code}

    def event(self, body: Mapping[str, Any]) -> bytes:
        return _compact(body) + b"\n"


def _compact(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


OPENAI: ErrorShape = _OpenAi()
ANTHROPIC: ErrorShape = _Anthropic()
OLLAMA: ErrorShape = _Ollama()
_OLLAMA_PATHS = frozenset(
    f"/api/{name}"
    for name in (
        "chat",
        "generate",
        "embed",
        "embeddings",
        "tags",
        "show",
        "ps",
        "version",
        "pull",
        "create",
        "delete",
        "push",
        "copy",
    )
)


def shape_of(path: str) -> ErrorShape:
    """Return how errors of a path are reported. OpenAI's shape is that of all paths that no other API claims."""
    if path in _OLLAMA_PATHS:
        return OLLAMA
    return ANTHROPIC if path == "/v1/messages" or path.startswith("/v1/messages/") else OPENAI


def error_body(error: HotseatError, shape: ErrorShape = OPENAI) -> dict[str, Any]:
    """Return the JSON body of an error."""
    return shape.body(api_kind(error), error.message, error.param)


def http_error_body(status: int, reason: str, message: str, shape: ErrorShape) -> dict[str, Any]:
    """Return the JSON body for a request that HTTP itself rules out. `reason` is the phrase of its status."""
    return shape.body(ApiKind(status, reason.lower().replace(" ", "_"), _INVALID), message)


def error_headers(error: HotseatError) -> dict[str, str]:
    """Return the headers of an error response. Retry-After is in whole seconds, rounded up."""
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, errors.Unauthorized):
        scheme = "Basic" if error.asks_browser else "Bearer"
        headers["WWW-Authenticate"] = f'{scheme} realm="hotseat"'
    if isinstance(error, errors.UnsupportedEncoding):
        headers["Accept-Encoding"] = "identity"
    return headers
