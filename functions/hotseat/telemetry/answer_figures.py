"""What an engine's answer says of its tokens: `usage`, and the `timings` of llama.cpp."""

import time
from collections import deque
from json import JSONDecodeError, JSONDecoder
from typing import Any

from hotseat.core.messages import message

_SIZE = 2048  # bytes of a piece that are kept
_PIECES = 4  # last pieces that are kept. Usage is in the last event but [DONE].
_DECODER = JSONDecoder()
_JSON = dict[str, Any]


class AnswerSample:
    """The first and the last bytes of an answer: enough to read its figures once it has ended, and little to keep."""

    __slots__ = ("_figures", "_first", "_last", "began", "stream")

    def __init__(self, data: bytes, *, stream: bool) -> None:
        """Begin with the first part of the body. `stream`: it is a stream of events, so the time counts."""
        self.began = time.monotonic() if stream else 0.0
        self.stream = stream
        self._first = data if len(data) <= _SIZE else data[:_SIZE] + b" " + data[-_SIZE:]
        self._last: deque[bytes] | None = None  # of what came later
        self._figures: AnswerFigures | None = None

    def add(self, data: bytes) -> None:
        """Add a later part of the body."""
        if self._last is None:
            self._last = deque(maxlen=_PIECES)
        self._last.append(data[-_SIZE:])

    @property
    def end(self) -> bytes:
        """The last bytes."""
        return b"".join((self._first, *(self._last or ())))

    @property
    def figures(self) -> "AnswerFigures":
        """The figures of the whole answer. Read them after its end only."""
        if self._figures is None:
            self._figures = read_figures(self._first, self.end)
        return self._figures


@message
class AnswerFigures:
    """Tokens of a request and its answer. None: the engine does not say."""

    prompt: int | None = None  # with those from a cache
    cached: int | None = None
    completion: int | None = None
    per_second: float | None = None  # generated, as the engine measures it


NO_FIGURES = AnswerFigures()


def read_figures(first: bytes, end: bytes) -> AnswerFigures:
    """Return the figures in the first and the last bytes of an answer, which may be the same. They stand at either end."""
    usage = _last_object(first, b'"usage"') | _last_object(end, b'"usage"')  # Anthropic's streams have a part in each
    timings = _last_object(end, b'"timings"') or _last_object(first, b'"timings"')
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = _count(details, "cached_tokens")
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    if "cache_read_input_tokens" in usage:  # Anthropic's input_tokens are those from no cache
        cached = _count(usage, "cache_read_input_tokens")
        prompt = (prompt or 0) + (cached or 0) + (_count(usage, "cache_creation_input_tokens") or 0)
    processed, reused = _count(timings, "prompt_n"), _count(timings, "cache_n")
    if prompt is None and processed is not None:
        prompt = processed + (reused or 0)
    completion = _count(usage, "completion_tokens", "output_tokens")
    speed = timings.get("predicted_per_second")
    return AnswerFigures(
        prompt,
        reused if cached is None else cached,
        _count(timings, "predicted_n") if completion is None else completion,
        float(speed) if isinstance(speed, (int, float)) and 0 < speed < 1e6 else None,  # noqa: PLR2004 - 0/0 of a tiny answer
    )


def _last_object(data: bytes, key: bytes) -> _JSON:
    """Return the last object that is the value of a key. Quotes in strings of JSON are escaped, so text of a model is no key."""
    at = len(data)
    while (at := data.rfind(key, 0, at)) >= 0:
        begin = data.find(b"{", at, at + len(key) + 8)
        if begin >= 0 and data[at + len(key) : begin].strip() == b":":
            try:
                found, _ = _DECODER.raw_decode(data[begin:].decode("utf-8", "replace"))
            except (JSONDecodeError, RecursionError):  # it is cut
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def _count(given: Any, *names: str) -> int | None:
    """Return the first of the fields that is a count."""
    if not isinstance(given, dict):
        return None
    return next((given[name] for name in names if type(given.get(name)) is int and given[name] >= 0), None)
