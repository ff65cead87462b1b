"""Whole stories of models that take turns: both machines, an engine that takes its time, and a clock that jumps."""

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable
from types import MappingProxyType

import pytest

from hotseat.control.codec import stats_from_json, stats_to_json
from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import (
    Dispatch,
    Limits,
    LimitsChanged,
    ReportDemand,
    RequestArrived,
    RequestFinished,
    ResidencySeen,
)
from hotseat.core.messages import CacheObserved, CacheState, InstanceReady, InstanceReleased, Start, Stop
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import (
    ConfigChanged,
    DemandReported,
    Publish,
    SchedulerStimulus,
    SchedulingSpec,
    Tick,
)
from hotseat.core.scheduler.stats import StatsByModel


class Theatre:
    """One router, one Workspace; loading takes `load` seconds, stopping `stop`, an answer `answer`."""

    def __init__(
        self,
        *models: str,
        load: float = 1.0,
        stop: float = 0.1,
        answer: float = 0.1,
        gpus: int = 1,
        remembered: StatsByModel = MappingProxyType({}),
        **terms: float,
    ) -> None:
        self.now = 0.0
        self.load, self.stop, self.answer = load, stop, answer
        self.router, self.switching = AdmissionMachine("r"), Scheduler("w", Batch(), remembered=remembered)
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.loads: Counter[str] = Counter()
        self.arrived: dict[int, float] = {}
        self.waited: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self.cut: list[int] = []
        self.on_answer: Callable[[str], None] = lambda _: None
        self.router.step(LimitsChanged(0.0, {m: Limits() for m in models}, 1000))
        self.tell(ConfigChanged(0.0, {m: SchedulingSpec(**terms) for m in models}, Capacity(gpus)))
        for model in models:
            self.tell(CacheObserved(0.0, model, CacheState.CACHED))

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (self.now + seconds, next(self.order), act))

    def tell(self, stimulus: SchedulerStimulus) -> None:
        for command in self.switching.step(stimulus):
            match command:
                case Start(model, instance, epoch):
                    self.loads[model] += 1
                    self.later(
                        self.load, lambda h=instance, e=epoch: self.tell(InstanceReady(self.now, h, e, "http://x"))
                    )
                case Stop(_, instance, epoch):
                    self.later(self.stop, lambda h=instance, e=epoch: self.tell(InstanceReleased(self.now, h, e)))
                case Publish(residency):
                    self.later(0.0, lambda r=residency: self.at(ResidencySeen(self.now, r)))
        if self.switching.wake_at is not None:
            self.later(self.switching.wake_at - self.now, lambda: self.tell(Tick(self.now)))

    def at(self, stimulus: ResidencySeen | RequestArrived | RequestFinished) -> None:
        for command in self.router.step(stimulus):
            match command:
                case Dispatch(request):
                    self.waited[request] = self.now - self.arrived[request]
                    self.later(self.answer, lambda r=request: self.finish(r))
                case ReportDemand():
                    demand = self.router.demand()
                    self.later(0.0, lambda d=demand: self.tell(DemandReported(self.now, d)))

    def ask(self, model: str) -> int:
        request = len(self.arrived) + 1
        self.arrived[request] = self.now
        self.models = getattr(self, "models", {}) | {request: model}
        self.at(RequestArrived(self.now, request, model))
        return request

    def finish(self, request: int) -> None:
        self.answered[request] = self.now
        self.at(RequestFinished(self.now, request))
        self.on_answer(self.models[request])

    def run(self, until: float) -> None:
        while self.agenda and self.agenda[0][0] <= until:
            self.now, _, act = heapq.heappop(self.agenda)
            act()
        self.now = until


def test_forty_alternating_requests_at_once_cost_two_loads() -> None:
    play = Theatre("a", "b", load=1.0, stop=0.1, answer=0.05)
    for n in range(40):
        play.ask("ab"[n % 2])
    play.run(60.0)
    assert play.loads == {"a": 1, "b": 1}
    assert len(play.answered) == 40
    assert max(play.answered.values()) < 2.3


def test_three_models_in_turn_cost_one_load_each() -> None:
    play = Theatre("a", "b", "c")
    for n in range(6):
        play.ask("abc"[n % 3])
    play.run(60.0)
    assert play.loads == {"a": 1, "b": 1, "c": 1}
    assert len(play.answered) == 6


def test_a_hot_model_cannot_starve_a_cold_one_and_gets_its_turn_again() -> None:
    play = Theatre("hot", "cold", load=1.0, stop=0.2, answer=0.7, max_wait=5.0)
    play.on_answer = lambda model: play.ask(model) if model == "hot" and play.now < 30 else None
    for _ in range(4):
        play.ask("hot")
    play.run(3.0)
    cold = play.ask("cold")
    play.run(60.0)
    drain, switch = 0.7, 1.2
    assert 5.0 <= play.waited[cold] <= 5.0 + drain + switch + 0.001
    assert play.loads == {"hot": 2, "cold": 1}
    assert len(play.answered) == len(play.arrived)


def test_two_hot_models_share_the_seat_in_turns_of_about_the_bound() -> None:
    play = Theatre("a", "b", load=1.0, stop=0.2, answer=0.5, max_wait=5.0)
    play.on_answer = lambda model: play.ask(model) if play.now < 100 else None
    for model in "aabb":
        play.ask(model)
    play.run(200.0)
    assert 18 <= sum(play.loads.values()) <= 22  # five seconds from one's closing until the other's
    assert max(play.waited.values()) <= 5.0 + 0.5 + 1.2 + 0.001
    assert len(play.answered) == len(play.arrived)


def test_a_bound_shorter_than_a_switch_does_not_eat_up_the_throughput() -> None:
    play = Theatre("a", "b", load=4.0, stop=1.0, answer=0.5, max_wait=1.0)
    play.on_answer = lambda model: play.ask(model) if play.now < 300 else None
    for model in "aabb":
        play.ask(model)
    play.run(600.0)
    seconds_switching = 5.0 * sum(play.loads.values())
    assert seconds_switching < 0.5 * 300
    assert max(play.waited.values()) <= 1.5 * 10 + 0.5 + 5.0 + 0.001  # the widened bound, drain, switch


def test_models_whose_drain_may_not_take_any_time_still_get_something_done() -> None:
    """A bug once: with two overdue models each was stopped in the moment it became ready, for ever."""
    play = Theatre("a", "b", load=1.0, stop=0.1, answer=0.5, max_wait=0.0, drain_timeout=0.0)
    play.ask("a")
    play.ask("b")
    play.run(30.0)
    assert set(play.waited) == {1, 2}
    assert sum(play.loads.values()) <= 3


def test_a_minimum_residency_keeps_the_seat_for_what_may_still_come() -> None:
    play = Theatre("a", "b", load=1.0, stop=0.2, answer=0.1, min_residency=4.0)
    play.ask("a")
    play.run(2.0)
    other = play.ask("b")
    play.run(30.0)
    assert abs(play.waited[other] + 2.0 - (1.0 + 4.0 + 0.2 + 1.0)) < 0.001  # ready at 1, kept until 5, then the switch


def test_an_idle_model_leaves_after_its_timeout_and_a_request_puts_that_off() -> None:
    play = Theatre("a", load=1.0, stop=0.2, answer=0.5, idle_timeout=10.0)
    play.ask("a")
    play.run(8.0)
    play.ask("a")
    play.run(18.4)
    assert play.switching.status()[0].state == "ready"
    play.run(19.0)
    assert play.switching.status()[0].state == "unloaded"
    again = play.ask("a")
    play.run(30.0)
    assert again in play.answered


def test_with_two_seats_two_models_stay_and_the_third_takes_that_of_the_longest_idle() -> None:
    play = Theatre("a", "b", "c", gpus=2, load=1.0, stop=0.2)
    for at, model in ((0.0, "a"), (3.0, "b"), (6.0, "a"), (9.0, "c")):
        play.run(at)
        play.ask(model)
    play.run(20.0)
    assert [status.state for status in play.switching.status()] == ["ready", "unloaded", "ready"]
    assert play.loads == {"a": 1, "b": 1, "c": 1}


def test_after_a_restart_the_first_turns_are_as_long_as_the_last_ones_were() -> None:
    def busy(remembered: StatsByModel) -> tuple[Theatre, float | None, int]:
        """Keep two models busy for three minutes; also gives the bound on waiting at the first turn, and the loads."""
        play = Theatre("a", "b", load=20.0, stop=2.0, answer=0.5, max_wait=5.0, remembered=remembered)
        play.on_answer = lambda model: play.ask(model) if play.now < 180 else None
        for model in "aabb":
            play.ask(model)
        play.run(20.2)
        first = play.switching.effective_max_wait
        play.run(180.0)
        return play, first, sum(play.loads.values())

    before, guessed, loads = busy({})
    lessons = stats_from_json(json.loads(json.dumps(stats_to_json(before.switching.stats()))))
    _, known, fewer = busy(lessons)
    assert known == before.switching.effective_max_wait == pytest.approx(66.0)  # 1.5 times two switches of 22 s
    assert guessed == pytest.approx(30.0)  # of what is known of one load alone
    assert fewer < loads
