"""Translation of a request of another API to OpenAI's, and of the answer back, for engines that do not speak that API."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from hotseat.core.errors import HotseatError, UpstreamFailed, shortened
from hotseat.gateway.errors import UpstreamRefused
from hotseat.gateway.http.response import Response, ResponseFilter, status_line

log = logging.getLogger(__name__)

MAX_ANSWER = 256 * 2**20  # bytes of an answer that is not a stream
_OK = 200
_ERROR = 400  # and above
_UPSTREAM_ERROR = "upstream_error"
# Headers of the engine that describe its body, and would be wrong for ours.
_OF_THE_BODY = (
    b"content-type:",
    b"content-length:",
    b"content-encoding:",
    b"etag:",
    b"x-accel-buffering:",
    b"cache-control:",
)


class Translation(Protocol):
    """One translated request, and its answer.

    `path` and `body` are those of the request that the engine gets. If `path` is empty, the engine is not asked once it is ready, and
    `answer` gets no bytes. The answer of the engine comes in one of three ways: as a stream of
    events (`stream`, more than once, then `end`), as JSON (`answer`), or as an error (`error`). They raise LookupError, TypeError,
    ValueError or AttributeError for an answer that is not as OpenAI's API has it.
    """

    path: str
    body: bytes
    stream_type: str  # Content-Type of a stream to the client
    fixed: Collection[str]  # parameters that filters do not change

    def stream(self, data: bytes) -> bytes:
        """Translate bytes of OpenAI's stream of events, which may end within an event, as far as they are complete."""

    def end(self) -> bytes:
        """Return what is still to be sent at the end of the stream."""

    def answer(self, body: bytes) -> bytes:
        """Translate a whole answer, which is JSON."""

    def error(self, status: int, body: bytes) -> bytes:
        """Translate an error of the engine to a JSON body."""


class TranslatedResponse(ResponseFilter):
    """What an Exchange writes to instead of `response`: it translates, and writes the translation to `response`."""

    _response: Response

    def __init__(
        self, response: Response, translation: Translation, trace_ids: Mapping[str, str] | None = None
    ) -> None:
        """`trace_ids`: attributes of log records. None: the request is not traced."""
        super().__init__(response)
        self._translation, self._trace_ids = translation, trace_ids
        self._streams = response.begun
        self._status = _OK
        self._head = b""
        self._collected = bytearray()

    def begin(self, status: str, fields: bytes, data: bytes = b"", *, counted: bool, last: bool = False) -> None:  # noqa: ARG002
        """Handle the head and the first bytes of the answer."""
        self.begun = True
        self._status = int(status[:3])
        lines = fields.split(b"\r\n")
        self._head = b"".join(line + b"\r\n" for line in lines if line and not line.lower().startswith(_OF_THE_BODY))
        self._streams = self._status == _OK and b"text/event-stream" in fields.lower()
        if self._streams:
            head = (
                b"Content-Type: %b\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
                % self._translation.stream_type.encode()
            )
            # If the translation fails, the client gets a plain error.
            events = self._translated(self._translation.stream, data)
            self._response.begin("200 OK", head + self._head, events, counted=False)
            data = b""
        if last:
            self.end(data)
        else:
            self.write(data)

    def write(self, data: bytes) -> None:
        """Handle more of the answer. Raise UpstreamFailed if it cannot be translated."""
        if self._streams:
            self._response.write(self._translated(self._translation.stream, data))
        else:
            self._collected += data
            if len(self._collected) > MAX_ANSWER:
                raise UpstreamFailed(
                    f"The engine's answer is larger than {MAX_ANSWER} bytes, the limit of a translation."
                )

    def end(self, data: bytes = b"") -> None:
        """Handle the last bytes of the answer. Raise UpstreamFailed if it cannot be translated."""
        self.write(data)
        if self._streams:
            self._response.end(self._translated(lambda _: self._translation.end(), b""))
            return
        body = self._translated(self._whole, bytes(self._collected))
        head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        self._response.begin(status_line(self._status), head + self._head, body, counted=True, last=True)

    def end_with_error(self, error: HotseatError, *, within_event: bool = False) -> None:  # noqa: ARG002 — events are whole
        """Handle a stream that ends with an error."""
        if not self._response.begun:
            self._response.fail(error)
            return
        if isinstance(error, UpstreamRefused) and error.given is not None:
            own = self._translation.error(error.status, json.dumps(error.given).encode())
            error = UpstreamRefused(error.message, error.status, json.loads(own))
        self._response.end_with_error(error)

    def abort(self) -> None:
        """Handle an answer that breaks off. If it has not begun for the client, the request is answered with the error."""
        if self._response.begun:
            self._response.abort()

    def _whole(self, body: bytes) -> bytes:
        if self._status == _OK:
            return self._translation.answer(body)
        if self._status < _ERROR:
            raise ValueError(f"status {self._status}")
        return self._translation.error(self._status, body)

    def _translated(self, translate: Callable[[bytes], bytes], data: bytes) -> bytes:
        try:
            return translate(data)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            log.warning("an engine's answer could not be translated", exc_info=error, extra=self._trace_ids)
            raise UpstreamFailed(
                "The engine's answer is not in the shape of OpenAI's API, so it cannot be translated."
            ) from error


def engine_error(body: bytes) -> tuple[str, str]:
    """Return the message and the code of an engine's error."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = body.decode(errors="replace").strip()
    error = given.get("error", given) if isinstance(given, dict) else given
    if not isinstance(error, dict):
        return shortened(str(error)) if error else "The engine gave no reason.", _UPSTREAM_ERROR
    message = next(
        (error[name] for name in ("message", "detail") if isinstance(error.get(name), str)), json.dumps(error)
    )
    code = error.get("code")
    return message, code if isinstance(code, str) else _UPSTREAM_ERROR
