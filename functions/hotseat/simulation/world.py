"""Simulation of routers and one Workspace, with the real admission machines and the real scheduler.

They exchange messages as on one machine: urgent demand immediately, other demand after a short time, and a new
residency as soon as it is published.
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
    PromptsRestored,
    PromptsSaved,
    Residency,
    RestorePrompts,
    SavePrompts,
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

REPORT_AFTER = 0.05  # seconds until demand that is not urgent is reported


class _Router:
    """One admission machine, and its reports of demand."""

    def __init__(self, name: str, simulator: Simulator, receive: Callable[[Demand], None], delay: float) -> None:
        self.machine = AdmissionMachine(name)
        self._simulator, self._receive, self._delay = simulator, receive, delay
        self._report_at: float | None = None  # time of the next snapshot

    def step(self, stimulus: intake.AdmissionStimulus) -> None:
        for command in self.machine.step(stimulus):
            match command:
                case Dispatch(request, instance):
                    self._simulator.dispatch(request, instance, self._finish)
                case ReportDemand(urgent):
                    self._report(urgent)
                case Reject(request):
                    self._simulator.refuse(request)
                case AbortRequest(request):
                    self._simulator.abort(request)
                    self._simulator.at(self._simulator.now, self._finish, request)

    def update(self, residency: Residency) -> None:
        self.step(ResidencySeen(self._simulator.now, residency))

    def _finish(self, request: int) -> None:
        self.step(RequestFinished(self._simulator.now, request))

    def _report(self, urgent: bool) -> None:
        due = self._simulator.now if urgent else self._simulator.now + REPORT_AFTER
        if self._report_at is None or due < self._report_at:
            self._report_at = due
            self._simulator.at(due, self._send, due)

    def _send(self, due: float) -> None:
        if due == self._report_at:  # else a more urgent report was sent
            self._report_at = None
            self._simulator.at(self._simulator.now + self._delay, self._receive, self.machine.demand())


class World:
    """One run. `delay` is the latency of messages in seconds. Requests go to the routers in turn."""

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
        delay: float = 0.001,
        impatience: Impatience | None = None,
    ) -> None:
        gpus = groups.max_coresident(set(engines)) if capacity.gpus is None else capacity.gpus
        self.simulator = Simulator(engines, gpus=gpus, load_spread=load_spread, seed=seed)
        self.scheduler = Scheduler("simulated", policy)
        self._delay = delay
        self._impatience = impatience
        self._tick_at: float | None = None
        self._kept: set[str] = set()  # models whose prompts are saved
        names = [f"router-{number}" for number in range(1, routers + 1)]
        self.routers = [_Router(name, self.simulator, self._receive, delay) for name in names]
        self._step(RoutersEnrolled(0.0, tuple(names)))
        limits = {
            name: Limits(engine.slots if engine.limit is None else engine.limit, engine.max_waiting)
            for name, engine in engines.items()
        }
        for router in self.routers:
            router.step(intake.LimitsChanged(0.0, limits, max_waiting, routers=routers))
        self._step(ConfigChanged(0.0, {name: engine.spec for name, engine in engines.items()}, capacity, groups))
        for name in engines:
            self._step(CacheObserved(0.0, name, CacheState.CACHED))

    def run(self, load: Iterable[SimRequest]) -> Recording:
        """Run a workload, sorted by time, until no event is left."""
        return self.simulator.run(load, self._arrive)

    def _arrive(self, request: int, asked: SimRequest) -> None:
        router = self.routers[request % len(self.routers)]
        router.step(RequestArrived(self.simulator.now, request, asked.model, asked.priority))
        if self._impatience is not None and request in self.simulator.waiting:
            self.simulator.at(
                self.simulator.now + self._impatience.patience, self._give_up, (request, router, self._impatience.pause)
            )

    def _give_up(self, what: tuple[int, _Router, float]) -> None:
        request, router, pause = what
        if request in self.simulator.waiting:
            self.simulator.give_up(request, pause)
            router.step(ClientDisconnected(self.simulator.now, request))

    # The scheduler and the runtime ------------------------------------------------------------------------------------

    def _receive(self, demand: Demand) -> None:
        self._step(DemandReported(self.simulator.now, demand))

    def _tick(self, due: float) -> None:
        if due == self._tick_at:  # else the scheduler asked for another time
            self._tick_at = None
            self._step(Tick(self.simulator.now))

    def _step(self, stimulus: SchedulerStimulus) -> None:  # noqa: C901 — one arm a command
        simulator = self.simulator
        for command in self.scheduler.step(stimulus):
            match command:
                case Publish(residency):
                    for router in self.routers:
                        simulator.at(simulator.now + self._delay, router.update, residency)
                case Fetch(model):  # weights are always cached
                    simulator.at(simulator.now, self._step, CacheObserved(simulator.now, model, CacheState.CACHED))
                case Start(model, instance):
                    simulator.start(model, instance, partial(self._get_ready, command))
                case Wake(model, instance):
                    simulator.wake(model, instance, partial(self._get_ready, command))
                case Park(model, instance):
                    simulator.park(model, instance, partial(self._sleep, command))
                case SavePrompts(model, instance):
                    simulator.save(model, instance, partial(self._save, command))
                case RestorePrompts(model, instance):
                    simulator.restore(model, instance, partial(self._restore, command))
                case Stop(model, instance):
                    simulator.stop(model, instance, partial(self._release, command))
        bound = self.scheduler.effective_max_wait
        if bound is not None:
            simulator.record.widest = max(bound, simulator.record.widest or 0.0)
        wake_at = self.scheduler.wake_at
        if wake_at is not None and wake_at != self._tick_at:
            simulator.at(wake_at, self._tick, wake_at)
        self._tick_at = wake_at

    def _get_ready(self, order: Start | Wake, instance: str) -> None:
        queues = [router.machine.waiting_by_model().get(order.model) for router in self.routers]
        self.simulator.record_turn(order.model, min((queue.oldest for queue in queues if queue), default=None))
        turn = order.turn if isinstance(order, Wake) else 0
        prompts = int(order.model in self._kept)
        self._step(InstanceReady(self.simulator.now, instance, order.epoch, "http://simulated", turn, prompts))

    def _save(self, order: SavePrompts, instance: str) -> None:
        self._kept.add(order.model)
        self._step(PromptsSaved(self.simulator.now, instance, order.epoch))

    def _restore(self, order: RestorePrompts, instance: str) -> None:
        self._step(PromptsRestored(self.simulator.now, instance, order.epoch))

    def _sleep(self, order: Park, instance: str) -> None:
        self._step(InstanceParked(self.simulator.now, instance, order.epoch, order.turn))

    def _release(self, order: Stop, instance: str) -> None:
        self._step(InstanceReleased(self.simulator.now, instance, order.epoch))
