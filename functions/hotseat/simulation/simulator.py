"""Discrete-event simulation of engines: a clock, a queue of events, and a recording. It makes no decisions.

Random times depend on the seed only: the n-th load of a model takes the same time under every policy.
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
    """The engine of one model. Times are in seconds.

    `slots` is the number of requests that it serves at a time. Further requests wait in the engine. `limit` is
    the number of requests that a router dispatches to it at most: 0 for no limit, None for `slots`. `park` and
    `wake` apply if `spec` say that the model parks. None means the same as `stop` and `load`. `save` and `restore` apply if
    `spec` say that its prompts are kept. After a load with them, each request takes less by `prompt_share` of its service.
    """

    load: float
    stop: float
    slots: int = 8
    spec: SchedulingSpec = field(default_factory=SchedulingSpec)
    limit: int | None = None
    max_waiting: int | None = None  # limit on queued requests, over all routers
    park: float | None = None
    wake: float | None = None
    prompt_share: float = 0.0
    save: float = 0.0
    restore: float = 0.0


@dataclass(slots=True)
class _Instance:
    """One instance: its requests in flight, and those that wait in the engine."""

    engine: SimulatedEngine
    interval: ResidentInterval
    switching: bool = True  # loading or stopping
    restored: bool = False  # its prompts
    busy: int = 0
    inside: deque[int] = field(default_factory=deque)

    @property
    def gpus(self) -> int:
        return self.engine.spec.claim.gpus


class Simulator:
    """The event loop. `load_spread` is the coefficient of variation of load times."""

    def __init__(
        self, engines: Mapping[str, SimulatedEngine], *, gpus: int = 1, load_spread: float = 0.0, seed: int = 1
    ) -> None:
        self.now = 0.0
        self.engines, self.gpus = engines, gpus
        self.record = Recording.of(engines)
        self.waiting: dict[int, SimRequest] = {}  # requests that are not dispatched
        self._ids = itertools.count(1)
        self._load_spread, self._seed = load_spread, seed
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = itertools.count()
        self._workload: Iterator[SimRequest] = iter(())
        self._arrive: Callable[[int, SimRequest], None]
        self._dispatched: dict[int, tuple[SimRequest, str]] = {}  # with its instance
        self._done: dict[int, Callable[[int], None]] = {}  # callbacks for dispatched requests
        self._instances: dict[str, _Instance] = {}  # by instance
        self._serving = self._switching = 0  # GPUs

    def run(self, load: Iterable[SimRequest], arrive: Callable[[int, SimRequest], None]) -> Recording:
        """Run a workload, sorted by time, until no event is left."""
        self._workload, self._arrive = iter(load), arrive
        self._await_next()
        events = self._events
        while events:
            at, _, act, what = heapq.heappop(events)
            if at > self.now:
                self._advance(at)
            act(what)
        return self.record

    # Time -------------------------------------------------------------------------------------------------------------

    def at(self, time: float, act: Callable[[Any], None], what: Any) -> None:
        """Schedule `act(what)`. Events of the same time run in the order in which they were scheduled."""
        heapq.heappush(self._events, (time, next(self._order), act, what))

    def _advance(self, time: float) -> None:
        """Advance the clock, and count how the GPUs spent the time. Switching is counted from `intervals`."""
        passed, used = time - self.now, self.record.used
        unused = max(0, self.gpus - self._serving - self._switching) * passed
        used.serving += self._serving * passed
        if self.waiting:
            used.idle += unused
        else:
            used.spare += unused
        self.now = time

    # Requests ---------------------------------------------------------------------------------------------------------

    def _await_next(self) -> None:
        if asked := next(self._workload, None):
            self.at(asked.at, self._submit_next, asked)

    def _submit_next(self, asked: SimRequest) -> None:
        self.submit(asked)
        self._await_next()

    def submit(self, asked: SimRequest) -> None:
        """Submit a request now."""
        self.record.requests += 1
        self.record.last_arrival = self.now
        self._enqueue(asked)

    def _enqueue(self, asked: SimRequest) -> None:
        request = next(self._ids)
        self.waiting[request] = asked
        self._arrive(request, asked)

    def give_up(self, request: int, pause: float) -> None:
        """Remove a queued request, and submit it again after a pause. Its wait counts from the first attempt."""
        self.record.given_up += 1
        self.at(self.now + pause, self._enqueue, self.waiting.pop(request))

    def dispatch(self, request: int, instance: str, done: Callable[[int], None]) -> None:
        """Dispatch a queued request to a ready engine. Call `done(request)` once it is answered."""
        state, asked = self._instances[instance], self.waiting.pop(request)
        self._dispatched[request] = asked, instance
        self._done[request] = done
        if state.busy < state.engine.slots:
            self._begin(request, asked, state)
        else:
            state.inside.append(request)

    def _begin(self, request: int, asked: SimRequest, state: _Instance) -> None:
        waits, arrivals = self.record.waits[asked.model], self.record.arrivals[asked.model]
        waits.append(self.now - asked.at)
        arrivals.append(asked.at)
        if not state.busy and not state.switching:
            self._serving += state.gpus
        state.busy += 1
        spared = state.engine.prompt_share if state.restored else 0.0
        self.at(self.now + (1 - spared) * asked.seconds, self._finish, request)

    def _finish(self, request: int) -> None:
        if request not in self._dispatched:
            return  # it was aborted before
        self._end(request)
        self.record.answered += 1
        self.record.last_answer = self.now
        self.record.until_answer = self.record.used.copy()
        self._done.pop(request)(request)

    def _end(self, request: int) -> None:
        _, instance = self._dispatched.pop(request)
        state = self._instances[instance]
        state.busy -= 1
        if state.inside and state.interval.stopped is None:
            following = state.inside.popleft()
            self._begin(following, self._dispatched[following][0], state)
        elif not state.busy and not state.switching:
            self._serving -= state.gpus

    def refuse(self, request: int) -> None:
        """Reject a queued request."""
        del self.waiting[request]
        self.record.refused += 1

    def abort(self, request: int) -> None:
        """Abort a dispatched request, if its engine still has it."""
        _, instance = self._dispatched.get(request, (None, ""))
        if not instance:
            return
        del self._done[request]
        inside = self._instances[instance].inside
        if request in inside:
            inside.remove(request)
            del self._dispatched[request]
        else:
            self._end(request)
        self.record.cut += 1

    # Instances --------------------------------------------------------------------------------------------------------

    def start(self, model: str, instance: str, ready: Callable[[str], None]) -> None:
        """Load a model. Call `ready(instance)` unless it is stopped before."""
        count = self.record.loads[model] = self.record.loads[model] + 1
        random = Random(f"{self._seed}/{model}/{count}")  # noqa: S311 - it must be reproducible
        self._load(model, instance, varied(random, self.engines[model].load, self._load_spread), ready)

    def wake(self, model: str, instance: str, ready: Callable[[str], None]) -> None:
        """Wake a parked instance. Call `ready(instance)` unless it is stopped before."""
        engine = self.engines[model]
        self._load(model, instance, engine.load if engine.wake is None else engine.wake, ready)

    def _load(self, model: str, instance: str, seconds: float, ready: Callable[[str], None]) -> None:
        engine = self.engines[model]
        interval = ResidentInterval(model, self.now, gpus=engine.spec.claim.gpus)
        state = self._instances[instance] = _Instance(engine, interval)
        self.record.intervals.append(interval)
        self._switching += state.gpus
        self.at(self.now + seconds, self._get_ready, (instance, ready))

    def _get_ready(self, what: tuple[str, Callable[[str], None]]) -> None:
        instance, ready = what
        state = self._instances.get(instance)
        if state is None or state.interval.stopped is not None:
            return  # it was stopped while it loaded
        state.interval.ready = self.now
        state.switching = False
        self._switching -= state.gpus
        ready(instance)

    def save(self, model: str, instance: str, saved: Callable[[str], None]) -> None:
        """Save the prompts of an instance. Call `saved(instance)` then."""
        self.at(self.now + self.engines[model].save, saved, instance)

    def restore(self, model: str, instance: str, restored: Callable[[str], None]) -> None:
        """Restore the prompts of an instance that has loaded. Call `restored(instance)` then, unless it is stopped before."""
        self.at(self.now + self.engines[model].restore, self._get_restored, (instance, restored))

    def _get_restored(self, what: tuple[str, Callable[[str], None]]) -> None:
        instance, restored = what
        if (state := self._instances.get(instance)) is not None and state.interval.stopped is None:
            state.restored = True
            restored(instance)

    def stop(self, model: str, instance: str, released: Callable[[str], None]) -> None:
        """Stop an instance. Call `released(instance)` once it is gone."""
        self._unload(instance, self.engines[model].stop, released)

    def park(self, model: str, instance: str, asleep: Callable[[str], None]) -> None:
        """Park an instance. Call `asleep(instance)` once it is parked."""
        engine = self.engines[model]
        self._unload(instance, engine.stop if engine.park is None else engine.park, asleep)

    def _unload(self, instance: str, seconds: float, gone: Callable[[str], None]) -> None:
        if state := self._instances.get(instance):  # else it is parked
            state.interval.stopped = self.now
            if not state.switching:
                state.switching = True
                self._switching += state.gpus
                if state.busy:
                    self._serving -= state.gpus
        self.at(self.now + seconds, self._release, (instance, gone))

    def _release(self, what: tuple[str, Callable[[str], None]]) -> None:
        instance, gone = what
        for request in [id_ for id_, (_, target) in self._dispatched.items() if target == instance]:
            self.abort(request)
        if state := self._instances.pop(instance, None):
            self._switching -= state.gpus
            state.interval.released = self.now
        gone(instance)

    def record_turn(self, model: str, oldest: float | None) -> None:
        """Record that a model became ready for a request that was queued at `oldest`. None: there was none."""
        if oldest is not None:
            self.record.turns[model].append(self.now - oldest)
