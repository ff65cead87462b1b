"""The floor: engines that take their time, and a clock that jumps to what comes next. It keeps the record, and decides nothing.

Nothing is random here but what a seed gives: the n-th load of a model takes the same time under every policy.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.simulation.results import Recording, ResidentInterval
from hotseat.simulation.workload import SimRequest, varied


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """One model: seconds that its engine takes to start and to stop, how many it answers at a time, and its scheduling.

    A request beyond `slots` waits in the engine. `limit`: what a router sends it at most, 0 for all; None: `slots`.
    `park` and `wake`: seconds that it takes to fall asleep and to wake, where its terms say that it parks; None: `stop` and `load`.
    """

    load: float
    stop: float
    slots: int = 8
    terms: SchedulingSpec = field(default_factory=SchedulingSpec)
    limit: int | None = None
    max_waiting: int | None = None  # requests at all routers
    park: float | None = None
    wake: float | None = None


@dataclass(slots=True)
class _Seat:
    """One instance: what it answers, and what waits inside of it."""

    engine: SimulatedEngine
    stay: ResidentInterval
    moving: bool = True  # it loads or stops
    busy: int = 0
    inside: deque[int] = field(default_factory=deque)

    @property
    def gpus(self) -> int:
        return self.engine.terms.claim.gpus


class Simulator:
    """Everything that takes time. `spread`: how much loads vary, as a coefficient of variation."""

    def __init__(
        self, engines: Mapping[str, SimulatedEngine], *, gpus: int = 1, load_spread: float = 0.0, seed: int = 1
    ) -> None:
        self.now = 0.0
        self.engines, self.gpus = engines, gpus
        self.record = Recording.of(engines)
        self.waiting: dict[int, SimRequest] = {}  # requests that no engine has
        self._ids = itertools.count(1)
        self._load_spread, self._seed = load_spread, seed
        self._agenda: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = itertools.count()
        self._load: Iterator[SimRequest] = iter(())
        self._arrive: Callable[[int, SimRequest], None]
        self._given: dict[int, tuple[SimRequest, str]] = {}  # requests that an engine has, with its instance
        self._done: dict[int, Callable[[int], None]] = {}  # those of them that are being answered, and whom to tell
        self._seats: dict[str, _Seat] = {}  # by instance
        self._serving = self._moving = 0  # GPUs

    def play(self, load: Iterable[SimRequest], arrive: Callable[[int, SimRequest], None]) -> Recording:
        """Let a load come, in the order of its times, and go on until nothing more happens."""
        self._load, self._arrive = iter(load), arrive
        self._await_next()
        agenda = self._agenda
        while agenda:
            at, _, act, what = heapq.heappop(agenda)
            if at > self.now:
                self._pass(at)
            act(what)
        return self.record

    # Time -------------------------------------------------------------------------------------------------------------

    def at(self, time: float, act: Callable[[Any], None], what: Any) -> None:
        """Do something later; at the same time, in the order in which it was said."""
        heapq.heappush(self._agenda, (time, next(self._order), act, what))

    def _pass(self, time: float) -> None:
        """Jump, and count how the GPUs spend the time. What is switched is counted from the stays."""
        passed, used = time - self.now, self.record.used
        unused = max(0, self.gpus - self._serving - self._moving) * passed
        used.serving += self._serving * passed
        if self.waiting:
            used.idle += unused
        else:
            used.spare += unused
        self.now = time

    # Requests ---------------------------------------------------------------------------------------------------------

    def _await_next(self) -> None:
        if asked := next(self._load, None):
            self.at(asked.at, self._come_of_load, asked)

    def _come_of_load(self, asked: SimRequest) -> None:
        self.come(asked)
        self._await_next()

    def come(self, asked: SimRequest) -> None:
        """Let a request come now: the load's, or another."""
        self.record.requests += 1
        self.record.last_arrival = self.now
        self._ask(asked)

    def _ask(self, asked: SimRequest) -> None:
        request = next(self._ids)
        self.waiting[request] = asked
        self._arrive(request, asked)

    def give_up(self, request: int, pause: float) -> None:
        """Let the client of a waiting request leave; it asks again after a pause, and its wait counts from its first try."""
        self.record.given_up += 1
        self.at(self.now + pause, self._ask, self.waiting.pop(request))

    def give(self, request: int, instance: str, done: Callable[[int], None]) -> None:
        """Send a waiting request to an engine that is ready; `done(request)` once it is answered."""
        seat, asked = self._seats[instance], self.waiting.pop(request)
        self._given[request] = asked, instance
        self._done[request] = done
        if seat.busy < seat.engine.slots:
            self._begin(request, asked, seat)
        else:
            seat.inside.append(request)

    def _begin(self, request: int, asked: SimRequest, seat: _Seat) -> None:
        waits, arrivals = self.record.waits[asked.model], self.record.arrivals[asked.model]
        waits.append(self.now - asked.at)
        arrivals.append(asked.at)
        if not seat.busy and not seat.moving:
            self._serving += seat.gpus
        seat.busy += 1
        self.at(self.now + asked.seconds, self._finish, request)

    def _finish(self, request: int) -> None:
        if request not in self._given:
            return  # it was cut before
        self._end(request)
        self.record.answered += 1
        self.record.last_answer = self.now
        self.record.until_answer = self.record.used.copy()
        self._done.pop(request)(request)

    def _end(self, request: int) -> None:
        _, instance = self._given.pop(request)
        seat = self._seats[instance]
        seat.busy -= 1
        if seat.inside and seat.stay.stopped is None:
            following = seat.inside.popleft()
            self._begin(following, self._given[following][0], seat)
        elif not seat.busy and not seat.moving:
            self._serving -= seat.gpus

    def refuse(self, request: int) -> None:
        """Send a waiting request away."""
        del self.waiting[request]
        self.record.refused += 1

    def cut(self, request: int) -> None:
        """End one that an engine has, or had until it was gone."""
        _, instance = self._given.get(request, (None, ""))
        if not instance:
            return
        del self._done[request]
        inside = self._seats[instance].inside
        if request in inside:
            inside.remove(request)
            del self._given[request]
        else:
            self._end(request)
        self.record.cut += 1

    # Seats ------------------------------------------------------------------------------------------------------------

    def start(self, model: str, instance: str, ready: Callable[[str], None]) -> None:
        """Load a model; `ready(instance)` unless it is stopped before."""
        count = self.record.loads[model] = self.record.loads[model] + 1
        random = Random(f"{self._seed}/{model}/{count}")  # noqa: S311 - it has to come again
        self._come(model, instance, varied(random, self.engines[model].load, self._load_spread), ready)

    def wake(self, model: str, instance: str, ready: Callable[[str], None]) -> None:
        """Have one that sleeps come back; as `start`."""
        engine = self.engines[model]
        self._come(model, instance, engine.load if engine.wake is None else engine.wake, ready)

    def _come(self, model: str, instance: str, seconds: float, ready: Callable[[str], None]) -> None:
        engine = self.engines[model]
        stay = ResidentInterval(model, self.now, gpus=engine.terms.claim.gpus)
        seat = self._seats[instance] = _Seat(engine, stay)
        self.record.stays.append(stay)
        self._moving += seat.gpus
        self.at(self.now + seconds, self._get_ready, (instance, ready))

    def _get_ready(self, what: tuple[str, Callable[[str], None]]) -> None:
        instance, ready = what
        seat = self._seats.get(instance)
        if seat is None or seat.stay.stopped is not None:
            return  # it was stopped while it loaded
        seat.stay.ready = self.now
        seat.moving = False
        self._moving -= seat.gpus
        ready(instance)

    def stop(self, model: str, instance: str, released: Callable[[str], None]) -> None:
        """Take an instance off; `released(instance)` once nothing is left of it."""
        self._leave(instance, self.engines[model].stop, released)

    def park(self, model: str, instance: str, asleep: Callable[[str], None]) -> None:
        """Have it leave its seat and sleep; `asleep(instance)` once it does."""
        engine = self.engines[model]
        self._leave(instance, engine.stop if engine.park is None else engine.park, asleep)

    def _leave(self, instance: str, seconds: float, gone: Callable[[str], None]) -> None:
        if seat := self._seats.get(instance):  # else it sleeps, and has none
            seat.stay.stopped = self.now
            if not seat.moving:
                seat.moving = True
                self._moving += seat.gpus
                if seat.busy:
                    self._serving -= seat.gpus
        self.at(self.now + seconds, self._release, (instance, gone))

    def _release(self, what: tuple[str, Callable[[str], None]]) -> None:
        instance, gone = what
        for request in [it for it, (_, its) in self._given.items() if its == instance]:
            self.cut(request)  # nobody answers it any longer
        if seat := self._seats.pop(instance, None):
            self._moving -= seat.gpus
            seat.stay.released = self.now
        gone(instance)

    def take_turn(self, model: str, oldest: float | None) -> None:
        """Note that a model has got ready for somebody who has waited since `oldest`."""
        if oldest is not None:
            self.record.turns[model].append(self.now - oldest)
