"""The event loop: one router and one Workspace, engines that take their time, and a clock that jumps to what comes next.

Both machines are the real ones, and they hear of each other as they do on one machine: snapshots of demand at once where that is
urgent, else soon, and a new residency a moment after it was decided. Nothing is random here: a load gives the same run each time.
"""

import heapq
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hotseat.core import admission
from hotseat.core.admission import Admission, Arrive, Cut, Dispatch, Finish, Limits, Reject, ReportDemand, ResidencySeen
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    HolderReady,
    HolderReleased,
    Residency,
    SeatState,
    Start,
    Stop,
)
from hotseat.core.policy import Capacity, Policy
from hotseat.core.seats import DemandReported, Publish, Stimulus, Terms, TermsChanged, Tick
from hotseat.core.switching import Switching
from hotseat.simulation.figures import Record, Stay
from hotseat.simulation.load import Asked

SOON = 0.05  # seconds within which a change of demand is told that is not urgent


@dataclass(frozen=True, slots=True)
class Engine:
    """One model: seconds that its engine takes to start and to stop, how many it answers at a time, and its scheduling."""

    load: float
    stop: float
    slots: int = 8
    terms: Terms = field(default_factory=Terms)


class World:
    """One run. `carry`: seconds that a snapshot or a residency is on its way."""

    def __init__(self, policy: Policy, engines: Mapping[str, Engine], *, gpus: int = 1, carry: float = 0.001) -> None:
        self.now = 0.0
        self.router = Admission("simulated")
        self.switching = Switching("simulated", policy)
        self.record = Record({name: [] for name in engines}, {name: [] for name in engines})
        self._engines, self._gpus, self._carry = engines, gpus, carry
        self._agenda: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = itertools.count()
        self._load: Iterator[Asked] = iter(())
        self._waiting: dict[int, Asked] = {}  # requests that are not dispatched
        self._flying: dict[int, str] = {}  # requests that are, with their holders
        self._busy: Counter[str] = Counter()  # holders that answer somebody; none of them is 0
        self._stays: dict[str, Stay] = {}  # by holder, while it holds its seat
        self._moving: set[str] = set()  # holders that load or stop
        self._seen_ready: set[str] = set()  # holders that the router knows to be ready
        self._look_at: float | None = None  # when the next snapshot is taken
        self._tick_at: float | None = None
        limits = {name: Limits(engine.slots) for name, engine in engines.items()}
        self._ask(admission.LimitsChanged(0.0, limits, sys.maxsize))
        self._tell(TermsChanged(0.0, {name: engine.terms for name, engine in engines.items()}, Capacity(gpus)))
        for name in engines:
            self._tell(CacheObserved(0.0, name, CacheState.CACHED))

    def run(self, load: Iterable[Asked]) -> Record:
        """Let a load come, in the order of its times, and go on until nothing more happens."""
        self._load = iter(load)
        self._await_next()
        while self._agenda:
            at, _, act, what = heapq.heappop(self._agenda)
            self._pass(at)
            act(what)
        return self.record

    # Time -------------------------------------------------------------------------------------------------------------

    def _at(self, time: float, act: Callable[[Any], None], what: Any) -> None:
        heapq.heappush(self._agenda, (time, next(self._order), act, what))

    def _pass(self, time: float) -> None:
        """Jump, and count what is lost on the way."""
        if self._waiting and time > self.now:
            unused = self._gpus - len(self._moving) - len(self._busy)
            self.record.idle += max(0, unused) * (time - self.now)
        self.now = time

    # The router -------------------------------------------------------------------------------------------------------

    def _await_next(self) -> None:
        if asked := next(self._load, None):
            self._at(asked.at, self._arrive, asked)

    def _arrive(self, asked: Asked) -> None:
        record = self.record
        record.requests += 1
        record.last_arrival = self.now
        self._waiting[record.requests] = asked
        self._ask(Arrive(self.now, record.requests, asked.model, asked.priority))
        self._await_next()

    def _finish(self, request: int) -> None:
        holder = self._flying.pop(request, None)
        if holder is None:
            return  # it was cut before
        self._free(holder)
        self.record.answered += 1
        self.record.last_answer = self.now
        self._ask(Finish(self.now, request))

    def _free(self, holder: str) -> None:
        self._busy[holder] -= 1
        if not self._busy[holder]:
            del self._busy[holder]

    def _see(self, residency: Residency) -> None:
        ready = {r.holder: r.model for r in residency.residents if r.state is SeatState.READY}
        if fresh := {model for holder, model in ready.items() if holder not in self._seen_ready}:
            for model, waiting in self.router.waiting_by_model().items():
                if model in fresh:
                    self.record.turns[model].append(self.now - waiting.oldest)
        self._seen_ready = set(ready)
        self._ask(ResidencySeen(self.now, residency))

    def _ask(self, stimulus: admission.Stimulus) -> None:
        for command in self.router.step(stimulus):
            match command:
                case Dispatch(request, holder):
                    asked = self._waiting.pop(request)
                    self.record.waits[asked.model].append(self.now - asked.at)
                    self._flying[request] = holder
                    self._busy[holder] += 1
                    self._at(self.now + asked.seconds, self._finish, request)
                case ReportDemand(urgent):
                    self._report(urgent)
                case Reject(request):
                    del self._waiting[request]
                    self.record.refused += 1
                case Cut(request):
                    self._free(self._flying.pop(request))
                    self.record.cut += 1
                    self._at(self.now, self._ask, Finish(self.now, request))

    def _report(self, urgent: bool) -> None:
        due = self.now if urgent else self.now + SOON
        if self._look_at is None or due < self._look_at:
            self._look_at = due
            self._at(due, self._look, due)

    def _look(self, due: float) -> None:
        if due == self._look_at:  # else a more urgent one went before
            self._look_at = None
            self._at(self.now + self._carry, self._hear, self.router.demand())

    # The switcher and the runtime -------------------------------------------------------------------------------------

    def _hear(self, demand: Demand) -> None:
        self._tell(DemandReported(self.now, demand))

    def _tick(self, due: float) -> None:
        if due == self._tick_at:  # else it wanted another meanwhile
            self._tick_at = None
            self._tell(Tick(self.now))

    def _tell(self, stimulus: Stimulus) -> None:
        for command in self.switching.step(stimulus):
            match command:
                case Publish(residency):
                    self._at(self.now + self._carry, self._see, residency)
                case Start():
                    self._start(command)
                case Stop():
                    self._stop(command)
        bound = self.switching.effective_max_wait
        if bound is not None:
            self.record.widest = max(bound, self.record.widest or 0.0)
        wake_at = self.switching.wake_at
        if wake_at is not None and wake_at != self._tick_at:
            self._at(wake_at, self._tick, wake_at)
        self._tick_at = wake_at

    def _start(self, order: Start) -> None:
        stay = self._stays[order.holder] = Stay(order.model, self.now)
        self.record.stays.append(stay)
        self._moving.add(order.holder)
        self._at(self.now + self._engines[order.model].load, self._get_ready, order)

    def _get_ready(self, order: Start) -> None:
        stay = self._stays.get(order.holder)
        if stay is None or stay.stopped is not None:
            return  # it was stopped while it loaded
        stay.ready = self.now
        self._moving.discard(order.holder)
        self._tell(HolderReady(self.now, order.holder, order.epoch, "http://simulated"))

    def _stop(self, order: Stop) -> None:
        self._stays[order.holder].stopped = self.now
        self._moving.add(order.holder)
        self._at(self.now + self._engines[order.model].stop, self._release, order)

    def _release(self, order: Stop) -> None:
        self._stays.pop(order.holder).released = self.now
        self._moving.discard(order.holder)
        self._tell(HolderReleased(self.now, order.holder, order.epoch))
