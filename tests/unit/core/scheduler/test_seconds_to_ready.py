"""The soonest that a model can be ready: never too late, never guessed."""

import random

import pytest

from hotseat.core.messages import InstanceState, Residency, Resident
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.history import Estimate, StepDurations
from hotseat.core.scheduler.instance import SLEEP_STATES, Instance
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.core.scheduler.status import LEAST, min_seconds_to_ready, ready_in
from hotseat.simulation.simulator import SimulatedEngine as Engine
from hotseat.simulation.workload import SimRequest
from hotseat.simulation.world import World

LOADING, READY, RELEASING = InstanceState.LOADING, InstanceState.READY, InstanceState.RELEASING
STOPS = {"a": Estimate(4.0), "b": Estimate(2.0)}
COSTS = StepDurations(
    load={"a": Estimate(20.0), "b": Estimate(60.0)}, stop=STOPS, park={"a": Estimate(1.0)}, wake={"a": Estimate(6.0)}
)
TERMS = {
    "a": SchedulingSpec(),
    "b": SchedulingSpec(),
    "new": SchedulingSpec(),
    "outside": SchedulingSpec(external="http://outside"),
}


def instance(model: str, state: InstanceState, since: float = 0.0, *, claim: Claim | None = None) -> Instance:
    stop_asked = since if state is RELEASING else None
    terms = SchedulingSpec(claim or Claim(1), park=state in SLEEP_STATES)
    asleep = state is InstanceState.PARKED
    return Instance(model, f"w/{model}@1", 1, state, since, terms, stop_asked=stop_asked, asleep=asleep)


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        ([], {"a": 10.0, "b": 30.0}),
        ([instance("a", READY)], {"b": 2.0 + 30.0}),
        ([instance("a", InstanceState.QUIESCING)], {"b": 2.0 + 30.0}),  # a itself may be taken back at any moment
        ([instance("a", RELEASING, 99.5)], {"a": 1.5 + 10.0, "b": 1.5 + 30.0}),
        ([instance("a", RELEASING, 50.0)], {"a": 10.0, "b": 30.0}),  # it takes longer than it did
        ([instance("b", LOADING, 90.0)], {"a": 1.0 + 10.0, "b": 20.0}),
        ([instance("b", LOADING, 60.0)], {"a": 1.0 + 10.0}),
        ([instance("new", READY)], {"a": 10.0, "b": 30.0}),  # nobody knows how long it takes to stop
        ([instance("b", InstanceState.UNPROVEN)], {"a": 10.0}),
        ([instance("a", READY, claim=Claim(0))], {"b": 30.0}),  # there is room beside it
        ([instance("a", InstanceState.PARKED)], {"a": 3.0, "b": 30.0}),  # it is not in the way, and comes by a wake
        ([instance("a", InstanceState.PARKED), instance("b", READY)], {"a": 1.0 + 3.0}),
        ([instance("a", InstanceState.PARKING, 99.9)], {"a": 0.4 + 3.0, "b": 0.4 + 30.0}),
        ([instance("a", InstanceState.WAKING, 99.0)], {"a": 2.0, "b": 0.5 + 30.0}),  # it may be awake, and asleep again
    ],
)
def test_what_has_to_leave_and_what_has_to_load_is_counted_at_half_of_what_it_took(
    instances: list[Instance], expected: dict[str, float]
) -> None:
    assert LEAST == 0.5
    assert min_seconds_to_ready(100.0, TERMS, instances, COSTS, Capacity(1)) == pytest.approx(expected)


def test_of_those_in_the_way_the_quickest_is_reckoned_with() -> None:
    instances = [instance("a", READY), instance("new", LOADING)]
    costs = StepDurations(load=COSTS.load, stop=STOPS | {"new": Estimate(3.0)})
    assert min_seconds_to_ready(100.0, TERMS, instances, costs, Capacity(2)) == pytest.approx({"b": 1.5 + 30.0})


@pytest.mark.parametrize(
    ("took", "seconds"),
    [(Estimate(60.0), 30.0), (Estimate(60.0, 5.0), 30.0), (Estimate(60.0, 15.0), 15.0), (Estimate(60.0, 30.0), None)],
)
def test_a_load_that_takes_now_longer_and_now_shorter_counts_with_less_still(
    took: Estimate, seconds: float | None
) -> None:
    assert min_seconds_to_ready(100.0, TERMS, [], StepDurations(load={"b": took}), Capacity(1)).get("b") == seconds


def seen(model: str, state: InstanceState) -> Resident:
    return Resident(model, f"w/{model}@1", state, 1, 0.0)


@pytest.mark.parametrize(
    ("residents", "seconds"),
    [
        ((seen("a", READY),), 32.0),  # nothing has begun: an hour later it is as far away
        ((seen("a", RELEASING),), 22.0),
        ((seen("b", LOADING),), 22.0),
        ((seen("a", LOADING),), 32.0),  # that does not bring b nearer
    ],
)
def test_what_is_under_way_gets_nearer_with_time(residents: tuple[Resident, ...], seconds: float) -> None:
    residency = Residency(1, residents, outlook={"b": 32.0}, at=100.0)
    assert ready_in(residency, "b", 110.0) == pytest.approx(seconds)
    assert ready_in(residency, "b", 99.0) == 32.0, "a clock that is behind makes nothing longer"
    assert ready_in(residency, "unheard-of", 110.0) == 0.0
    assert ready_in(residency, "b", 5000.0) in (0.0, 32.0)


@pytest.mark.parametrize("seed", range(5))
def test_no_model_is_ever_ready_before_its_outlook_says(seed: int) -> None:
    """A thousand requests for three models that take turns on one seat: each outlook is held against what then happens."""
    chance = random.Random(seed)
    engines = {"a": Engine(4.0, 1.0), "b": Engine(20.0, 3.0), "c": Engine(1.0, 0.2)}
    world = Watched(Batch(), engines)
    at = 0.0
    load = [SimRequest(at := at + chance.expovariate(0.5), chance.choice("abc"), 0.5) for _ in range(1000)]
    world.run(load)
    assert world.compared > 500
    assert world.refusable > 100, "it has to be good for something, too"


class Watched(World):
    """A simulated world that remembers the outlooks of its router."""

    def __init__(self, *args: object) -> None:
        self.promises: dict[str, list[tuple[float, float]]] = {}  # by model: when it was said, and the soonest
        self.compared = self.refusable = 0
        super().__init__(*args)
        self._router = self.routers[0]
        self._really_update, self._router.update = self._router.update, self._update

    def _update(self, residency: Residency) -> None:
        now = self.simulator.now
        for resident in residency.residents:
            if resident.state is READY:
                for said, soonest in self.promises.pop(resident.model, ()):
                    assert resident.since >= said + soonest - 1e-6
                    self.compared += 1
        self._really_update(residency)
        for model in self.scheduler.parts.state.specs:
            if soonest := ready_in(self._router.machine.residency, model, now):
                self.promises.setdefault(model, []).append((now, soonest))
                self.refusable += soonest > 1.0
