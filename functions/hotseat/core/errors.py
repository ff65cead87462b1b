"""One root for everything that a client can be told, and the OpenAI shape of it in one place."""

import math
from typing import Any, ClassVar


class HotseatError(Exception):
    """An answer that is not the one the client hoped for.

    `status` is the HTTP status, `code` the machine-readable reason, `type` OpenAI's family of it, `retry_after` seconds or None.
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
        """Body in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers beside it: Retry-After in whole seconds, rounded up."""
        return {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


class BadRequest(HotseatError):
    """The client's mistake: malformed JSON, no model, a field of the wrong type."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class Unauthorized(HotseatError):
    """No key, or one that is not known."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class Forbidden(HotseatError):
    """Known, or not asked who it is, but not allowed."""

    status = 403
    code = "origin_not_allowed"
    type = "permission_error"


class UnknownModel(HotseatError):
    """No Model of that name."""

    status = 404
    code = "model_not_found"
    type = "invalid_request_error"


class NotFound(HotseatError):
    """No such route or thing."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class Conflict(HotseatError):
    """It exists, but cannot be done in this state."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


class TooSlow(HotseatError):
    """The request did not come in time."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class TooLarge(HotseatError):
    """The body exceeds the limit."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class QueueFull(HotseatError):
    """As many wait as may wait."""

    status = 429
    code = "queue_full"
    type = "rate_limit_error"


class UpstreamFailed(HotseatError):
    """The engine broke the connection or spoke no HTTP."""

    status = 502
    code = "upstream_failed"
    type = "server_error"


class UpstreamTimeout(UpstreamFailed):
    """The engine has not begun to answer in the time that its Model allows."""

    status = 504
    code = "upstream_timeout"


class Unreachable(UpstreamFailed):
    """The engine takes no connection: it has seen nothing of the request."""


class Unavailable(HotseatError):
    """Not now: loading failed or timed out, unloaded while waiting, shutting down. Worth trying again."""

    status = 503
    code = "model_unavailable"
    type = "server_error"


class NotResident(Unavailable):
    """A request that was not to wait would have to."""

    code = "not_resident"
