"""Requests in flight and the last ones that ended, for operators: what they took, and how one is cancelled."""

import secrets
import time
from collections import deque
from collections.abc import Sequence
from itertools import chain, count, islice
from typing import Any, Protocol

from hotseat.api.units import format_time
from hotseat.control.owner import LoopOwner
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import Cancelled, HotseatError, NotFound, shortened
from hotseat.core.scheduler.history import Switch
from hotseat.gateway.captures import Captures
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.telemetry.answer_figures import AnswerSample
from hotseat.telemetry.logs import RequestRecord

KEPT = 1000  # ended requests


class RunningRequest(Protocol):
    """A request for a Model that has not ended."""

    @property
    def model(self) -> str:
        """The Model that answers it."""

    def record(self, status: int) -> RequestRecord:
        """Return its record if it ended now with this status. 0: it goes on, so its tokens are not known yet."""

    def cancel(self, error: HotseatError) -> None:
        """End it. The client gets `error`."""


class RequestRecords:
    """All requests for Models at this process, by number in the order of their arrival. `owner` names the thread of the event loop.

    The methods of the first section are for that thread, those of the second for any.
    """

    def __init__(self, owner: LoopOwner, captures: Captures | None = None) -> None:
        self.captures = captures
        self._owner = owner
        self._running: dict[int, RunningRequest] = {}
        self._ended: deque[tuple[int, RequestRecord]] = deque(maxlen=KEPT)
        self._numbers = count(1)
        self._process = secrets.token_hex(3)  # so that an id means no request of another process

    def begin(self, request: RunningRequest) -> int:
        """Add a request, and return its number."""
        number = next(self._numbers)
        self._running[number] = request
        return number

    def end(self, number: int, record: RequestRecord) -> None:
        """Note the end of a request."""
        self._running.pop(number, None)
        self._ended.append((number, record))

    def keep(self, number: int, path: str, request: bytes, answer: bytes) -> None:
        """Capture the bodies of a request that has ended."""
        if self.captures is not None:
            self.captures.keep(number, path, request, answer)

    # On any thread ----------------------------------------------------------------------------------------------------

    def rows(self, registry: ModelRegistry, model: str | None, limit: int) -> list[dict[str, Any]]:
        """Return requests, of one Model or of all: first those that have not ended, then those that have, each newest first."""

        def read() -> list[tuple[int, RequestRecord, bool]]:
            running = ((n, r.record(0), True) for n, r in reversed(self._running.items()) if model in (None, r.model))
            ended = ((n, r, False) for n, r in reversed(self._ended) if model in (None, r.model))
            return list(islice(chain(running, ended), limit))

        return [self._row(registry, *each) for each in self._owner.call(read)]

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
        """Return the captured bodies of a request. Raise NotFound if there are none."""
        if self.captures is None:
            raise NotFound(
                "Bodies are not captured. To capture them, start `hotseat up` with --capture, or the router with HOTSEAT_CAPTURE."
            )
        found = self.captures.get(self._number(name))
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

    def _row(self, registry: ModelRegistry, number: int, record: RequestRecord, running: bool) -> dict[str, Any]:
        state = "ended" if not running else "waiting" if record.waited is None else "in_flight"
        return {
            "id": f"{self._process}-{number}",
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
            **record.measured(),
            "captured": self.captures is not None and self.captures.has(number),
        }


def request_record(
    routed: RoutedRequest, route: str, started: float, status: int, sample: AnswerSample | None
) -> RequestRecord:
    """Return the record of a request that began at `started`, if it ended now. Status 0: it goes on."""
    now, model, begun, used = time.monotonic(), routed.route.model.name, routed.dispatched, routed.fallback_used
    switch = None
    if begun is None or routed.waited is not None:
        switch = switch_seconds(routed.route.handle.switches(), model, routed.began, now if begun is None else begun)
    return RequestRecord(
        time.time() - (now - started),
        model,
        route,
        None if begun is None else max(0.0, begun - started),
        now - started,
        status,
        routed.options.priority,
        routed.options.tenant or None,
        None if used is None else used.wanted.name,
        switch,
        sample.began - started if sample is not None and sample.stream else None,
        sample if status else None,
    )


def switch_seconds(switches: Sequence[Switch], model: str, began: float, until: float) -> float:
    """Return the seconds between two times in which there was a switch to the Model. `switches`: the oldest first."""
    seconds = 0.0
    for switch in reversed(switches):
        if switch.ended is not None and switch.ended < began:
            break
        if switch.to == model:
            end = until if switch.ended is None else min(switch.ended, until)
            seconds += max(0.0, end - max(switch.decided, began))
    return seconds
