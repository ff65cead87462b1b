"""The event loop: routers and one Workspace, engines that take their time, and a clock that jumps to what comes next.

Both machines are the real ones, and they hear of each other as they do on one machine: snapshots of demand at once where that is
urgent, else soon, and a new residency a moment after it was decided.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from hotseat.core.admission import messages as intake
from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import (
    AbortRequest,
    ClientDisconnected,
    Dispatch,
    Limits,
    Reject,
    ReportDemand,
    RequestArrived,
    RequestFinished,
    ResidencySeen,
)
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    Fetch,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    Park,
    Residency,
    Start,
    Stop,
    Wake,
)
from hotseat.core.policy.api import Capacity, Policy
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import (
    ConfigChanged,
    DemandReported,
    Publish,
    RoutersEnrolled,
    SchedulerStimulus,
    Tick,
)
from hotseat.simulation.results import Recording
from hotseat.simulation.simulator import SimulatedEngine, Simulator
from hotseat.simulation.workload import Impatience, SimRequest

SOON = 0.05  # seconds within which a change of demand is told that is not urgent


class _Router:
    """One admission machine, and what it has to tell."""

    def __init__(self, name: str, floor: Simulator, hear: Callable[[Demand], None], carry: float) -> None:
        self.machine = AdmissionMachine(name)
        self._floor, self._hear, self._carry = floor, hear, carry
        self._look_at: float | None = None  # when the next snapshot is taken

    def ask(self, stimulus: intake.AdmissionStimulus) -> None:
        for command in self.machine.step(stimulus):
            match command:
                case Dispatch(request, instance):
                    self._floor.give(request, instance, self._finish)
                case ReportDemand(urgent):
                    self._report(urgent)
                case Reject(request):
                    self._floor.refuse(request)
                case AbortRequest(request):
                    self._floor.cut(request)
                    self._floor.at(self._floor.now, self._finish, request)

    def see(self, residency: Residency) -> None:
        self.ask(ResidencySeen(self._floor.now, residency))

    def _finish(self, request: int) -> None:
        self.ask(RequestFinished(self._floor.now, request))

    def _report(self, urgent: bool) -> None:
        due = self._floor.now if urgent else self._floor.now + SOON
        if self._look_at is None or due < self._look_at:
            self._look_at = due
            self._floor.at(due, self._look, due)

    def _look(self, due: float) -> None:
        if due == self._look_at:  # else a more urgent one went before
            self._look_at = None
            self._floor.at(self._floor.now + self._carry, self._hear, self.machine.demand())


class World:
    """One run. `carry`: seconds that a snapshot or a residency is on its way. Requests go to the routers in turn."""

    def __init__(
        self,
        policy: Policy,
        engines: Mapping[str, SimulatedEngine],
        *,
        capacity: Capacity = Capacity(),  # noqa: B008 - it is frozen
        groups: Groups = UNGROUPED,
        routers: int = 1,
        max_waiting: int = sys.maxsize,
        load_spread: float = 0.0,
        seed: int = 1,
        carry: float = 0.001,
        impatience: Impatience | None = None,
    ) -> None:
        gpus = groups.max_coresident(set(engines)) if capacity.gpus is None else capacity.gpus
        self.floor = Simulator(engines, gpus=gpus, load_spread=load_spread, seed=seed)
        self.switching = Scheduler("simulated", policy)
        self._carry = carry
        self._impatience = impatience
        self._tick_at: float | None = None
        names = [f"router-{number}" for number in range(1, routers + 1)]
        self.routers = [_Router(name, self.floor, self._hear, carry) for name in names]
        self._tell(RoutersEnrolled(0.0, tuple(names)))
        limits = {
            name: Limits(engine.slots if engine.limit is None else engine.limit, engine.max_waiting)
            for name, engine in engines.items()
        }
        for router in self.routers:
            router.ask(intake.LimitsChanged(0.0, limits, max_waiting, routers=routers))
        self._tell(ConfigChanged(0.0, {name: engine.terms for name, engine in engines.items()}, capacity, groups))
        for name in engines:
            self._tell(CacheObserved(0.0, name, CacheState.CACHED))

    def run(self, load: Iterable[SimRequest]) -> Recording:
        """Let a load come, in the order of its times, and go on until nothing more happens."""
        return self.floor.play(load, self._arrive)

    def _arrive(self, request: int, asked: SimRequest) -> None:
        router = self.routers[request % len(self.routers)]
        router.ask(RequestArrived(self.floor.now, request, asked.model, asked.priority))
        if self._impatience is not None and request in self.floor.waiting:
            self.floor.at(
                self.floor.now + self._impatience.patience, self._give_up, (request, router, self._impatience.pause)
            )

    def _give_up(self, what: tuple[int, _Router, float]) -> None:
        request, router, pause = what
        if request in self.floor.waiting:
            self.floor.give_up(request, pause)
            router.ask(ClientDisconnected(self.floor.now, request))

    # The switcher and the runtime -------------------------------------------------------------------------------------

    def _hear(self, demand: Demand) -> None:
        self._tell(DemandReported(self.floor.now, demand))

    def _tick(self, due: float) -> None:
        if due == self._tick_at:  # else it wanted another meanwhile
            self._tick_at = None
            self._tell(Tick(self.floor.now))

    def _tell(self, stimulus: SchedulerStimulus) -> None:  # noqa: C901 — one arm a command
        floor = self.floor
        for command in self.switching.step(stimulus):
            match command:
                case Publish(residency):
                    for router in self.routers:
                        floor.at(floor.now + self._carry, router.see, residency)
                case Fetch(model):  # nothing is ever missing
                    floor.at(floor.now, self._tell, CacheObserved(floor.now, model, CacheState.CACHED))
                case Start(model, instance):
                    floor.start(model, instance, partial(self._get_ready, command))
                case Wake(model, instance):
                    floor.wake(model, instance, partial(self._get_ready, command))
                case Park(model, instance):
                    floor.park(model, instance, partial(self._sleep, command))
                case Stop(model, instance):
                    floor.stop(model, instance, partial(self._release, command))
        bound = self.switching.effective_max_wait
        if bound is not None:
            floor.record.widest = max(bound, floor.record.widest or 0.0)
        wake_at = self.switching.wake_at
        if wake_at is not None and wake_at != self._tick_at:
            floor.at(wake_at, self._tick, wake_at)
        self._tick_at = wake_at

    def _get_ready(self, order: Start | Wake, instance: str) -> None:
        queues = [router.machine.waiting_by_model().get(order.model) for router in self.routers]
        self.floor.take_turn(order.model, min((queue.oldest for queue in queues if queue), default=None))
        turn = order.turn if isinstance(order, Wake) else 0
        self._tell(InstanceReady(self.floor.now, instance, order.epoch, "http://simulated", turn))

    def _sleep(self, order: Park, instance: str) -> None:
        self._tell(InstanceParked(self.floor.now, instance, order.epoch, order.turn))

    def _release(self, order: Stop, instance: str) -> None:
        self._tell(InstanceReleased(self.floor.now, instance, order.epoch))
