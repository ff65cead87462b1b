"""What `batch` promises, held against whole simulated runs: a bound that is kept, or widened and said so, and no more than that."""

from collections.abc import Callable, Iterator
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotseat.core.messages import Start
from hotseat.core.policy.api import Policy
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.strict import Fifo, Priority
from hotseat.core.scheduler.messages import SchedulerStimulus, SchedulingSpec
from hotseat.simulation.results import Figures, figures
from hotseat.simulation.simulator import SimulatedEngine
from hotseat.simulation.workload import SHAPES, SimRequest, Stream, WorkloadPlan
from hotseat.simulation.world import World

SLOTS, SERVICE = 8, 2.0
DRAIN = 2 * SERVICE + 0.1  # what is in flight, after the last of the batch, and word of it


class Witness(World):
    """Notes by how much each turn came later than the bound that was in force at some time of the wait for it."""

    def __init__(self, *args: object, **more: object) -> None:
        self.said: list[tuple[float, float]] = []
        self.over: list[float] = []
        super().__init__(*args, **more)  # type: ignore[arg-type]

    def _step(self, stimulus: SchedulerStimulus) -> None:
        super()._step(stimulus)
        bound = self.scheduler.effective_max_wait
        if bound is not None and (not self.said or self.said[-1][1] != bound):
            self.said.append((self.simulator.now, bound))

    def _get_ready(self, order: Start, instance: str) -> None:
        waiting = self.routers[0].machine.waiting_by_model().get(order.model)
        if waiting is not None:
            said = max(self._said_since(waiting.oldest), default=0.0)
            self.over.append(self.simulator.now - waiting.oldest - said)
        super()._get_ready(order, instance)

    def _said_since(self, time: float) -> Iterator[float]:
        for at, bound in reversed(self.said):
            yield bound
            if at < time:
                return


def play(
    *,
    models: int = 2,
    switch: float = 10.0,
    load: float = 0.8,
    max_wait: float = 30.0,
    shape: str = "poisson",
    requests: int = 3000,
    seed: int = 1,
    policy: Policy | None = None,
) -> tuple[Figures, float]:
    """Run it; give the figures, and the seconds by which a turn came later than promised at most."""
    terms = SchedulingSpec(max_wait=max_wait, start_timeout=inf, drain_timeout=120.0)
    names = [f"m{number}" for number in range(models)]
    engine = SimulatedEngine(0.9 * switch, 0.1 * switch, SLOTS, terms)
    world = Witness(policy or Batch(), dict.fromkeys(names, engine))
    parts = [Stream(name, seconds=SERVICE, gpus=1 / SLOTS) for name in names]
    record = world.run(SHAPES[shape](WorkloadPlan(parts, load, requests=requests, seed=seed)))
    return figures("it", record, 1), max(world.over)


loads = st.fixed_dictionaries({
    "models": st.integers(2, 6),
    "switch": st.sampled_from([4.0, 8.0, 30.0]),
    "load": st.sampled_from([0.1, 0.3, 0.6, 0.8, 0.9]),
    "seed": st.integers(1, 10_000),
})  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(loads, st.sampled_from([0.0, 10.0, 60.0, 300.0]), st.sampled_from(sorted(SHAPES)))
def test_no_turn_comes_later_than_said_but_for_one_switch_and_drain(case: dict, max_wait: float, shape: str) -> None:
    told, over = play(**case, max_wait=max_wait, shape=shape, requests=400)
    assert (told.answered, told.cut, told.refused) == (400, 0, 0)
    assert over <= case["switch"] + DRAIN


@settings(max_examples=8, deadline=None)
@given(loads, st.floats(0.1, 3.0))
def test_a_bound_is_widened_no_more_than_twice_what_a_round_takes(case: dict, share: float) -> None:
    """For arrivals that come one by one: what waits after a burst has to be served, whatever anybody wants."""
    round_ = case["models"] * case["switch"] / (1 - case["load"])
    told, _ = play(**case, max_wait=share * round_, requests=1000)
    assert told.effective_max_wait is not None
    assert told.effective_max_wait <= 2 * max(share * round_, round_)


@settings(max_examples=10, deadline=None)
@given(loads, st.sampled_from([Batch(), Fifo(), Priority()]), st.sampled_from(sorted(SHAPES)))
def test_under_any_policy_every_request_ends_once(case: dict, policy: Policy, shape: str) -> None:
    told, _ = play(**case, policy=policy, shape=shape, requests=300)
    assert told.answered + told.cut == 300
    assert told.unanswered == 0


@pytest.mark.parametrize(("models", "switch"), [(2, 10.0), (4, 30.0), (4, 3.0)])
def test_throughput_is_that_of_exhaustive_service(models: int, switch: float) -> None:
    exhaustive, _ = play(models=models, switch=switch, max_wait=1e9, requests=3000)
    infeasible, _ = play(models=models, switch=switch, max_wait=1.0, requests=3000)
    assert infeasible.throughput >= 0.95 * exhaustive.throughput


@pytest.mark.parametrize(("models", "switch"), [(2, 10.0), (4, 30.0), (4, 3.0)])
def test_a_bound_that_can_be_met_is_met(models: int, switch: float) -> None:
    max_wait = 1.5 * models * switch / 0.2
    told, _ = play(models=models, switch=switch, max_wait=max_wait, requests=4000)
    assert told.turns.p99 is not None
    assert told.turns.p99 <= max_wait + DRAIN + switch


def test_a_cold_model_beside_a_hot_one_waits_for_no_more_than_the_bound() -> None:
    max_wait = 1.5 * 2 * 10.0 / 0.3
    told, _ = play(shape="hot-cold", load=0.7, max_wait=max_wait, requests=4000)
    cold = told.models["m1"]
    assert cold.turns.count > 10
    assert cold.turns.p99 is not None
    assert cold.turns.p99 <= max_wait + DRAIN + 10.0


class Loop(Witness):
    """Beside its load a client that asks one model again as soon as it has its answer, `pause` seconds later."""

    def follow(self, model: str, pause: float, times: int) -> None:
        give, self._left = self.simulator.dispatch, times

        def ask(model: str) -> None:
            self._left -= 1
            self.simulator.submit(SimRequest(self.simulator.now, model, 0.5))

        def watched(request: int, instance: str, done: Callable[[int], None]) -> None:
            def and_again(request: int) -> None:
                done(request)
                if instance.startswith(f"simulated/{model}@") and self._left > 0:
                    self.simulator.at(self.simulator.now + pause, ask, model)

            give(request, instance, and_again)

        self.simulator.dispatch = watched  # type: ignore[method-assign]
        self.simulator.at(self.simulator.now, ask, model)


@pytest.mark.parametrize(("pause", "loads"), [(0.05, range(2, 40)), (5.0, range(80, 200))])
def test_it_lingers_for_one_who_asks_again_at_once_and_for_nobody_else(pause: float, loads: range) -> None:
    terms = SchedulingSpec(max_wait=30.0, start_timeout=inf)
    world = Loop(
        Batch(), {"m0": SimulatedEngine(5.0, 0.5, SLOTS, terms), "m1": SimulatedEngine(5.0, 0.5, SLOTS, terms)}
    )
    world.follow("m0", pause, 400)
    record = world.run(SimRequest(20.0 + 20.0 * number, "m1", 0.5) for number in range(40))
    assert len(record.intervals) in loads
    assert record.answered == 440
