"""Errors that clients get, with one base class, and their OpenAI shape."""

import math
from typing import Any, ClassVar


class HotseatError(Exception):
    """An error for a client.

    `status` is the HTTP status, `code` the machine-readable reason, `type` OpenAI's error type, and
    `retry_after` seconds or None.
    """

    status: ClassVar[int] = 500
    code: str = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after: float | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.param = param
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        """Return the body in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers: Retry-After in whole seconds, rounded up."""
        return {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


class BadRequest(HotseatError):
    """The request is invalid: malformed JSON, no model, or a field of the wrong type."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class Unauthorized(HotseatError):
    """The API key is missing or not valid."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class Forbidden(HotseatError):
    """The client is not allowed to send this request."""

    status = 403
    code = "origin_not_allowed"
    type = "permission_error"


class UnknownModel(HotseatError):
    """No Model has that name."""

    status = 404
    code = "model_not_found"
    type = "invalid_request_error"


class NotFound(HotseatError):
    """The route or object does not exist."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class Conflict(HotseatError):
    """The operation is not possible in the current state."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


class TooSlow(HotseatError):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class TooLarge(HotseatError):
    """The request body exceeds the limit."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class QueueFull(HotseatError):
    """A limit on queued requests is reached."""

    status = 429
    code = "queue_full"
    type = "rate_limit_error"


class UpstreamFailed(HotseatError):
    """The engine closed the connection, or its response is not valid HTTP."""

    status = 502
    code = "upstream_failed"
    type = "server_error"


class UpstreamTimeout(UpstreamFailed):
    """The engine did not start its response within the limit of its Model."""

    status = 504
    code = "upstream_timeout"


class Unreachable(UpstreamFailed):
    """The engine accepts no connection, and has received nothing of the request."""


class Unavailable(HotseatError):
    """The model is not available now: its load failed, it was unloaded, or hotseat is shutting down.

    Clients can retry.
    """

    status = 503
    code = "model_unavailable"
    type = "server_error"


class NotResident(Unavailable):
    """The request would have to be queued, but it must not wait."""

    code = "not_resident"
