"""Admission: what happens to each request of one router, in one Workspace. Pure.

Everything that decides whether a request is dispatched, held or sent away lives here; nothing here knows sockets or clocks.
Invariants (tests/unit/test_admission_machine.py):

- every request that arrived ends exactly once: by Reject, by Finish or by Leave;
- a request is dispatched only to a holder that the newest Residency shows as ready, or as closing if it waited before;
- a Residency that is not newer than the last one changes nothing.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from hotseat.core.errors import HotseatError, QueueFull, Unavailable, UnknownModel
from hotseat.core.messages import Demand, Refusal, Residency, Resident, SeatState, Waiting

QUEUE_FULL_RETRY = 5.0  # seconds; a later policy computes it from the measured drain rate


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one model at one router; 0 or None: no bound."""

    concurrency: int = 0
    max_waiting: int | None = None


# Stimuli --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrive:
    """A request that names a known model."""

    now: float
    request: int
    model: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Leave:
    """Its client has gone away."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Its answer has been relayed, or has failed."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class Expire:
    """It has waited as long as its client allows."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class ResidencySeen:
    """News of who holds the accelerator."""

    now: float
    residency: Residency


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """The documents changed: all models, with their bounds."""

    now: float
    models: Mapping[str, Limits]
    max_waiting: int


@dataclass(frozen=True, slots=True)
class Close:
    """The router shuts down: nothing waits any longer, nothing new is taken."""

    now: float


Stimulus = Arrive | Leave | Finish | Expire | ResidencySeen | LimitsChanged | Close

# Commands -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Relay it to this holder now."""

    request: int
    holder: str
    address: str


@dataclass(frozen=True, slots=True)
class Hold:
    """It waits."""

    request: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer it with this error."""

    request: int
    error: type[HotseatError]
    code: str
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Its holder is being stopped under it (the drain deadline is over): end it with an error. It still Finishes."""

    request: int
    message: str


@dataclass(frozen=True, slots=True)
class ReportDemand:
    """Take a snapshot and send it: at once if urgent, else when convenient."""

    urgent: bool


Command = Dispatch | Hold | Reject | Cut | ReportDemand


@dataclass(slots=True)
class _Request:
    model: str
    order: int
    holder: str | None = None  # None: waits


@dataclass(slots=True)
class _Queue:
    """The requests of one model that wait: by arrival for the oldest, by (priority, arrival) for the next."""

    arrived: dict[int, tuple[float, int]] = field(
        default_factory=dict
    )  # request -> (time, priority), in order of arrival
    heap: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # (-priority, order, request); may hold requests that left
    mark: int = -1  # while the model closes: the last order that belongs to the batch


class Admission:
    """The machine. `step` takes a stimulus and returns the commands that follow from it, in order."""

    def __init__(self, router: str) -> None:
        self.router = router
        self.residency = Residency(epoch=-1)
        self._limits: Mapping[str, Limits] = {}
        self._max_waiting = 0
        self._requests: dict[int, _Request] = {}
        self._queues: dict[str, _Queue] = {}
        self._waiting = 0
        self._in_flight: dict[str, int] = {}  # by holder
        self._served: dict[str, int] = {}  # by holder
        self._open: dict[str, list[Resident]] = {}  # holders that take requests, by model
        self._refused: dict[str, int] = {}  # by model: epoch of the newest refusal that was carried out
        self._announce: list[str] = []
        self._order = 0
        self._seq = 0
        self._closed = False

    def step(self, stimulus: Stimulus) -> list[Command]:
        """Apply a stimulus. A request id that is not known (any more) is ignored: ends can race."""
        match stimulus:
            case Arrive():
                return self._arrive(stimulus)
            case Finish(_, request) | Leave(_, request):
                return self._end(request)
            case Expire(now, request):
                return self._expire(now, request)
            case ResidencySeen(now, residency):
                return self._see(now, residency)
            case LimitsChanged(_, models, max_waiting):
                return self._change(models, max_waiting)
            case Close():
                return self._close()

    # Reading ----------------------------------------------------------------------------------------------------------

    def demand(self) -> Demand:
        """Take a snapshot for the switcher; each has a higher sequence number."""
        self._seq += 1
        requested, self._announce = tuple(self._announce), []
        closing = {}
        for model, queue in self._queues.items():
            if queue.mark >= 0 and (rest := sum(self._requests[r].order <= queue.mark for r in queue.arrived)):
                closing[model] = rest
        return Demand(
            self.router,
            self._seq,
            self.residency.epoch,
            self.waiting_by_model(),
            dict(self._in_flight),
            dict(self._served),
            closing,
            requested,
        )

    def waiting_by_model(self) -> dict[str, Waiting]:
        """Say what waits; models for which nothing does are not in it."""
        return {
            model: Waiting(len(q.arrived), next(iter(q.arrived.values()))[0], max(p for _, p in q.arrived.values()))
            for model, q in self._queues.items()
            if q.arrived
        }

    def waiting(self, model: str | None = None) -> int:
        """Count requests that wait, of one model or of all."""
        if model is None:
            return self._waiting
        queue = self._queues.get(model)
        return len(queue.arrived) if queue else 0

    def in_flight(self, holder: str) -> int:
        """Count requests that a holder is answering."""
        return self._in_flight.get(holder, 0)

    def position(self, request: int) -> int | None:
        """Place in its model's queue, 1 for the next; None if it does not wait."""
        known = self._requests.get(request)
        if known is None or known.holder is not None:
            return None
        arrived = self._queues[known.model].arrived
        mine = (-arrived[request][1], known.order)
        return 1 + sum((-priority, self._requests[other].order) < mine for other, (_, priority) in arrived.items())

    # Transitions ------------------------------------------------------------------------------------------------------

    def _arrive(self, s: Arrive) -> list[Command]:
        if self._closed:
            return [Reject(s.request, Unavailable, "shutting_down", "hotseat is shutting down", 5.0)]
        limits = self._limits.get(s.model)
        if limits is None:
            return [Reject(s.request, UnknownModel, "model_not_found", f"no model {s.model}")]
        refusal = self.residency.refusals.get(s.model)
        if refusal is not None and refusal.retry_at is not None and refusal.retry_at > s.now:
            return [_refuse(s.request, refusal, s.now)]
        self._order += 1
        if holder := self._free_holder(s.model):
            self._requests[s.request] = _Request(s.model, self._order)
            return self._dispatch(s.request, holder)
        queue = self._queues.get(s.model)
        mine = len(queue.arrived) if queue else 0
        if self._waiting >= self._max_waiting or (limits.max_waiting is not None and mine >= limits.max_waiting):
            message = f"{self._waiting} requests wait already, {mine} of them for {s.model}"
            return [Reject(s.request, QueueFull, "queue_full", message, QUEUE_FULL_RETRY)]
        if queue is None:
            queue = self._queues[s.model] = _Queue()
        self._requests[s.request] = _Request(s.model, self._order)
        queue.arrived[s.request] = (s.now, s.priority)
        heapq.heappush(queue.heap, (-s.priority, self._order, s.request))
        self._waiting += 1
        if not mine:
            self._announce.append(s.model)
        return [Hold(s.request), ReportDemand(urgent=not mine)]

    def _free_holder(self, model: str) -> Resident | None:
        """Least loaded holder that takes a new request of this model now."""
        holders = self._open.get(model)
        if not holders:
            return None
        limit = self._limits[model].concurrency
        best = min(holders, key=lambda h: self._in_flight.get(h.holder, 0)) if len(holders) > 1 else holders[0]
        if best.state is not SeatState.READY or (limit and self._in_flight.get(best.holder, 0) >= limit):
            return None
        return best

    def _dispatch(self, request: int, holder: Resident) -> list[Command]:
        assert holder.address is not None  # noqa: S101 — `_see` opens holders with an address only
        self._requests[request].holder = holder.holder
        before = self._in_flight.get(holder.holder, 0)
        self._in_flight[holder.holder] = before + 1
        self._served[holder.holder] = self._served.get(holder.holder, 0) + 1
        commands: list[Command] = [Dispatch(request, holder.holder, holder.address)]
        if not before:
            commands.append(ReportDemand(urgent=self._watched()))
        return commands

    def _watched(self) -> bool:
        """Whether somebody is waiting for work to end: then every edge matters at once."""
        return self._waiting > 0 or any(
            r.state in (SeatState.CLOSING, SeatState.DRAINING) for r in self.residency.residents
        )

    def _serve(self, model: str) -> list[Command]:
        """Dispatch what waits for this model, as far as its holders and its bound allow."""
        queue, holders, limits = self._queues.get(model), self._open.get(model), self._limits.get(model)
        commands: list[Command] = []
        if queue is None or not holders or limits is None:
            return commands
        while queue.arrived:
            while queue.heap[0][2] not in queue.arrived:
                heapq.heappop(queue.heap)
            order, request = queue.heap[0][1:]
            best = min(holders, key=lambda h: self._in_flight.get(h.holder, 0))
            if limits.concurrency and self._in_flight.get(best.holder, 0) >= limits.concurrency:
                break
            if best.state is SeatState.CLOSING and order > queue.mark:
                # A later request of higher priority stands before the batch: look behind it.
                rest = [r for r in queue.arrived if self._requests[r].order <= queue.mark]
                if not rest:
                    break
                request = min(rest, key=lambda r: (-queue.arrived[r][1], self._requests[r].order))
            self._unqueue(queue, request)
            commands += self._dispatch(request, best)
        return commands

    def _unqueue(self, queue: _Queue, request: int) -> None:
        del queue.arrived[request]
        self._waiting -= 1
        if not queue.arrived:
            queue.heap.clear()

    def _end(self, request: int) -> list[Command]:
        known = self._requests.pop(request, None)
        if known is None:
            return []
        if known.holder is None:
            queue = self._queues[known.model]
            self._unqueue(queue, request)
            return [ReportDemand(urgent=not queue.arrived)]
        left = self._in_flight[known.holder] - 1
        if left:
            self._in_flight[known.holder] = left
        else:
            del self._in_flight[known.holder]
        commands = self._serve(known.model) if self._waiting else []
        if not left:
            commands.append(ReportDemand(urgent=self._watched()))
        return commands

    def _expire(self, now: float, request: int) -> list[Command]:
        known = self._requests.get(request)
        if known is None or known.holder is not None:
            return []
        waited = now - self._queues[known.model].arrived[request][0]
        message = f"{known.model} did not get its turn within the {waited:.1f} s that the client allows"
        return [Reject(request, Unavailable, "wait_timeout", message, 5.0), *self._end(request)]

    def _see(self, now: float, residency: Residency) -> list[Command]:
        if residency.epoch <= self.residency.epoch:
            return []
        self.residency = residency
        self._open = {}
        for resident in residency.residents:
            if resident.state in (SeatState.READY, SeatState.CLOSING) and resident.address is not None:
                self._open.setdefault(resident.model, []).append(resident)
        known = {r.holder for r in residency.residents}
        self._served = {holder: count for holder, count in self._served.items() if holder in known}
        commands: list[Command] = []
        for model, refusal in residency.refusals.items():
            if refusal.epoch > self._refused.get(model, -1):
                self._refused[model] = refusal.epoch
                commands += self._refuse_all(model, refusal, now)
        closing = {r.model for r in residency.residents if r.state is SeatState.CLOSING}
        for model, queue in self._queues.items():
            queue.mark = (queue.mark if queue.mark >= 0 else self._order) if model in closing else -1
        for model in self._open:
            commands += self._serve(model)
        return [*_without_reports(commands), *self._cut(residency), ReportDemand(urgent=True)]

    def _cut(self, residency: Residency) -> list[Command]:
        """End what is still in flight on holders that are being stopped."""
        why = {}
        for resident in residency.residents:
            if resident.state is SeatState.RELEASING and self._in_flight.get(resident.holder):
                ended = resident.leaving == "failed"
                why[resident.holder] = (
                    f"the engine of {resident.model} ended"
                    if ended
                    else f"{resident.model} is being stopped: the drain deadline is over"
                )
        if not why:
            return []
        return [Cut(request, why[known.holder]) for request, known in self._requests.items() if known.holder in why]

    def _refuse_all(self, model: str, refusal: Refusal, now: float) -> list[Command]:
        queue = self._queues.get(model)
        commands: list[Command] = []
        for request in list(queue.arrived) if queue else []:
            commands.append(_refuse(request, refusal, now))
            self._end(request)
        return commands

    def _change(self, models: Mapping[str, Limits], max_waiting: int) -> list[Command]:
        self._limits, self._max_waiting = models, max_waiting
        commands: list[Command] = []
        for model, queue in self._queues.items():
            if model not in models:
                for request in list(queue.arrived):
                    commands.append(Reject(request, UnknownModel, "model_not_found", f"{model} has been removed"))
                    self._end(request)
        for model in self._open:
            commands += self._serve(model)
        return [*_without_reports(commands), ReportDemand(urgent=True)]

    def _close(self) -> list[Command]:
        self._closed = True
        commands: list[Command] = []
        for queue in self._queues.values():
            for request in list(queue.arrived):
                commands.append(Reject(request, Unavailable, "shutting_down", "hotseat is shutting down", 5.0))
                self._end(request)
        return [*commands, ReportDemand(urgent=True)]


def _refuse(request: int, refusal: Refusal, now: float) -> Reject:
    retry = None if refusal.retry_at is None else max(1.0, refusal.retry_at - now)
    return Reject(request, Unavailable, refusal.code, refusal.message, retry)


def _without_reports(commands: list[Command]) -> list[Command]:
    return [c for c in commands if not isinstance(c, ReportDemand)]
