"""Errors that clients get, one class a kind. What a kind looks like over HTTP is in `gateway/errors.py`."""

SHOWN = 200  # characters


def shortened(text: str) -> str:
    """Return a text of a client for a message. A long one is cut, and its length is stated."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


class HotseatError(Exception):
    """An error for a client.

    `code` is a machine-readable reason, None if the class says enough. `retry_after` is in seconds, None if a
    retry is of no use or its time is unknown. `param` is the field of the request that is wrong, or None.
    """

    def __init__(
        self, message: str, *, code: str | None = None, retry_after: float | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after = retry_after
        self.param = param


class BadRequest(HotseatError):
    """The request is invalid: malformed JSON, no model, or a field of the wrong type."""


class Unauthorized(HotseatError):
    """The API key is missing or not valid. `asks_browser`: a browser is to ask a person for it."""

    asks_browser = False


class Forbidden(HotseatError):
    """The client is not allowed to send this request."""


class UnknownModel(HotseatError):
    """No Model has that name."""


class NotFound(HotseatError):
    """The route or object does not exist."""


class Conflict(HotseatError):
    """The operation is not possible in the current state."""


class Cancelled(HotseatError):
    """An operator has cancelled the request. Clients must not retry."""


class TooSlow(HotseatError):
    """The request did not arrive in time."""


class TooLarge(HotseatError):
    """The request body exceeds the limit."""


class UnsupportedEncoding(HotseatError):
    """The request body is compressed."""


class QueueFull(HotseatError):
    """A limit on queued requests is reached."""


class UpstreamFailed(HotseatError):
    """The engine closed the connection, or its response is not valid HTTP."""


class UpstreamTimeout(UpstreamFailed):
    """The engine did not start its response within the limit of its Model."""


class Unreachable(UpstreamFailed):
    """The engine accepts no connection, and has received nothing of the request."""


class UpstreamRejected(UpstreamFailed):
    """A server that hotseat does not run has answered with a status after which the request can be sent again.

    `pause` is the time in seconds after which it is; None: it is not.
    """

    pause: float | None = None


class Unavailable(HotseatError):
    """The model is not available now: its load failed, it was unloaded, or hotseat is shutting down.

    Clients can retry.
    """


class ModelLoading(Unavailable):
    """The model is not ready, and the request is not held. Its client is told when to send it again."""


class NotResident(Unavailable):
    """The request would have to be queued, but it must not wait."""


class RateLimited(HotseatError):
    """The API key has sent too many requests, or has too many at once."""


class HeadTooLarge(HotseatError):
    """The request line and headers exceed the limit."""


class NotImplementedByServer(HotseatError):
    """The request uses a part of HTTP that is not supported."""
