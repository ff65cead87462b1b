"""Requests in flight and the last ones that ended, for operators: what they took, and how one is cancelled."""

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any, Protocol

import msgspec

from hotseat.api.units import format_time
from hotseat.control.history_store import Kind, Row
from hotseat.control.owner import LoopOwner
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import Cancelled, HotseatError, NotFound, shortened
from hotseat.core.scheduler.history import Switch
from hotseat.gateway.captures import Captures
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.telemetry.answer_figures import AnswerSample
from hotseat.telemetry.logs import RequestRecord
from hotseat.telemetry.metrics import PROMPT_HITS, REUSED_TOKENS

KEPT = 100  # ended requests. Many more would push what serves requests out of the caches of the CPU
HIT_SHARE = 2  # a conversation went on if at least this part (1/n) of its prompt was kept


class RunningRequest(Protocol):
    """A request for a Model that has not ended."""

    @property
    def model(self) -> str:
        """The Model that answers it."""

    def record(self) -> RequestRecord:
        """Return its record. Its tokens are not known yet."""

    def cancel(self, error: HotseatError) -> None:
        """End it. The client gets `error`."""


class RequestRecords:
    """All requests for Models at this process, by number in the order of their arrival. `owner` names the thread of the event loop.

    The methods of the first section are for that thread, those of the second for any.
    """

    def __init__(
        self,
        owner: LoopOwner,
        captures: Captures | None = None,
        on_speed: Callable[[str, float], None] = lambda _model, _speed: None,
    ) -> None:
        """`on_speed` is called with the metadata.name and the tokens per second of each request whose tokens are counted."""
        self.captures = captures
        self._on_speed = on_speed
        self.on_end: Callable[[RequestRecord], None] | None = None  # gets each ended request, on the loop's thread
        self._owner = owner
        self._running: dict[int, RunningRequest] = {}
        self._ended: deque[RequestRecord] = deque(maxlen=KEPT)
        self._numbers = count(1)
        self._uncounted: deque[RequestRecord] | None = (
            None  # whose tokens are to be counted; None: nobody wants to know yet
        )
        self._tokens: Counter[tuple[str, str]] = Counter()  # by model and kind, with the hits of prompts that were kept
        self._lock = threading.Lock()  # over the tokens
        self._process = secrets.token_hex(3)  # so that an id means no request of another process
        self._prefix = f"{self._process}-".encode()  # of an id

    def begin(self, request: RunningRequest, header: bytes) -> tuple[int, bytes]:
        """Add a request. Return its number, and the header of its answer with its id."""
        number = next(self._numbers)
        self._running[number] = request
        return number, b"%b: %b%d\r\n" % (header, self._prefix, number)

    def end(self, record: RequestRecord) -> None:
        """Note the end of a request."""
        self._running.pop(record.number, None)
        self._ended.append(record)
        if self._uncounted is not None:
            self._uncounted.append(record)
            if len(self._uncounted) > KEPT:
                self._count(self._uncounted.popleft())
        if self.on_end is not None:
            self.on_end(record)

    def id_of(self, number: int) -> str:
        """Return the id of a request."""
        return f"{self._process}-{number}"

    def keep(self, number: int, path: str, request: bytes, answer: bytes) -> None:
        """Capture the bodies of a request that has ended."""
        if self.captures is not None:
            self.captures.keep(number, path, request, answer)

    # On any thread ----------------------------------------------------------------------------------------------------

    def rows(self, registry: ModelRegistry, model: str | None, limit: int) -> list[dict[str, Any]]:
        """Return requests, of one Model or of all: first those that have not ended, then those that have, each newest first."""

        def read() -> list[RequestRecord]:
            running = (each.record() for each in reversed(self._running.values()) if model in (None, each.model))
            ended = (each for each in reversed(self._ended) if model in (None, each.model))
            return list(islice(chain(running, ended), limit))

        return [self._row(registry, each) for each in self._owner.call(read)]

    def history_rows(self, registry: ModelRegistry, record: RequestRecord) -> Iterator[Row]:
        """Yield what the history stores of an ended request: the row of `rows`, without bodies."""
        row = {**self._row(registry, record), "captured": False}
        yield Row(Kind.REQUESTS, record.arrived + record.seconds, record.model, msgspec.json.encode(row).decode())

    def tokens(self) -> Mapping[tuple[str, str], int]:
        """Return the tokens so far, by metadata.name and kind, and the hits of prompts that were kept over a switch.

        They are counted when somebody wants to know, off the event loop, because to read the figures of an answer takes longer than
        all else that is noted of a request.
        """

        def take() -> list[RequestRecord]:
            taken = list(self._ended if self._uncounted is None else self._uncounted)
            self._uncounted = deque()
            return taken

        for record in self._owner.call(take):
            self._count(record)
        with self._lock:
            return self._tokens.copy()

    def _count(self, record: RequestRecord) -> None:
        measured = record.measured()
        if speed := measured["tokens_per_second"]:
            self._on_speed(record.model, speed)
        with self._lock:
            for kind in ("prompt", "cached", "completion"):
                if found := measured[f"{kind}_tokens"]:
                    self._tokens[record.model, kind] += int(found)
            if record.kept_prompts and (cached := measured["cached_tokens"]):
                self._tokens[record.model, REUSED_TOKENS] += int(cached)
                self._tokens[record.model, PROMPT_HITS] += HIT_SHARE * cached >= (measured["prompt_tokens"] or 0)

    def cancel(self, name: str) -> None:
        """Cancel a request. Raise NotFound if none has this id, or if it has ended."""
        error = Cancelled("The request was cancelled by an operator.")

        def cancel() -> bool:
            request = self._running.get(self._number(name))
            if request is not None:
                request.cancel(error)
            return request is not None

        if not self._owner.call(cancel):
            raise NotFound(
                f"No request with the id {shortened(name)} is queued or in flight. GET /api/requests lists them."
            )

    def capture(self, name: str) -> dict[str, Any]:
        """Return the captured bodies of a request. Raise NotFound if there are none. `name` is its id, or the number in it alone."""
        if self.captures is None:
            raise NotFound(
                "Bodies are not captured. To capture them, start `hotseat up` with --capture, or the router with HOTSEAT_CAPTURE."
            )
        found = self.captures.get(self._number(name if "-" in name else f"{self._process}-{name}"))
        if found is None:
            raise NotFound(
                f"No bodies of a request with the id {shortened(name)} are kept. They are kept from its end on, and the oldest are dropped."
            )
        return {"id": name, **found}

    def _number(self, name: str) -> int:
        """Return the number in an id, 0 if it is none of this process."""
        process, _, number = name.partition("-")
        known = process == self._process and number.isascii() and number.isdecimal() and len(number) < 19  # noqa: PLR2004
        return int(number) if known else 0

    def _row(self, registry: ModelRegistry, record: RequestRecord) -> dict[str, Any]:
        state = "ended" if record.status else "waiting" if record.waited is None else "in_flight"
        return {
            "id": self.id_of(record.number),
            "state": state,
            "model": registry.shown_name(record.model),
            "wanted": None if record.wanted is None else registry.shown_name(record.wanted),
            "route": record.route,
            "tenant": record.tenant,
            "priority": record.priority,
            "arrived_at": format_time(record.arrived),
            "status": record.status or None,
            "seconds": round(record.seconds, 4),
            "waited": None if record.waited is None else round(record.waited, 4),
            "retries": record.retries,
            "trace_id": record.trace_id,
            **record.measured(),
            "captured": self.captures is not None and self.captures.has(record.number),
        }


def request_record(  # noqa: PLR0917 — called once for each request
    number: int,
    routed: RoutedRequest,
    route: str,
    started: float,
    seconds: float,
    status: int,
    sample: AnswerSample | None,
    trace_id: str | None = None,
) -> RequestRecord:
    """Return the record of a request that began at `started`, if it ended after so many seconds. Status 0: it goes on."""
    model, begun, used = routed.route.model.name, routed.dispatched, routed.fallback_used
    options, switch, kept = routed.options, None, False
    if begun is None or routed.held:
        found = switches_during(routed.route.handle.switches(), model, routed.began, begun or started + seconds)
        switch = sum((seconds for _, seconds in found), 0.0)
        kept = any(each.restored or each.woken for each, _ in found)
    return RequestRecord(
        time.time() - seconds,
        model,
        route,
        None if begun is None else max(0.0, begun - started),
        seconds,
        status,
        options.priority,
        options.tenant or None,
        None if used is None else used.wanted.name,
        switch,
        sample.began - started if sample is not None and sample.stream else None,
        sample if status else None,
        number,
        kept,
        routed.retries,
        trace_id,
    )


def switches_during(switches: Sequence[Switch], model: str, began: float, until: float) -> list[tuple[Switch, float]]:
    """Return the switches to the Model between two times, with their seconds in it. `switches`: the oldest first."""
    found = []
    for switch in reversed(switches):
        if switch.ended is not None and switch.ended < began:
            break
        if switch.to == model:
            end = until if switch.ended is None else min(switch.ended, until)
            if (seconds := end - max(switch.decided, began)) > 0:
                found.append((switch, seconds))
    return found
