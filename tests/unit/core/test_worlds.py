"""Both machines in a simulated world, driven at random: what must hold after every step, and that all ends well.

The world (world.py) holds each command against what really is: nothing starts or wakes that does not fit beside everything
that is not proven gone or asleep, and nothing of which an earlier process is left; nothing is sent to an instance that has been told
to stop or to sleep; nothing is stopped under a request before its drain deadline, or told to sleep under one at all; sleepers hold
no more host memory than there is for them; nothing pinned makes room for others; no wish takes what
somebody uses; every request ends once; what is late or stale changes nothing. In the end the world
becomes fair, and then every request has to end, and every model that can be loaded has to be loaded for those who ask.
"""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hotseat.core.messages import InstanceParked, InstanceState, SleepFailed
from hotseat.core.policy.api import Capacity
from tests.unit.core.world import ACTIONS, CAPACITIES, MEMORIES, Pick, World, begin

WEIGHTED = [name for name, weight in ACTIONS.items() for _ in range(weight)]
CHOICES = st.integers(0, 2**40)


def picks(number: int) -> Pick:
    """Choices from one number, so that a smaller number is a simpler story."""
    rest = number

    def pick(n: int) -> int:
        nonlocal rest
        rest, choice = divmod(rest, n)
        return choice

    return pick


class Core(RuleBasedStateMachine):
    steps = starts = 0
    ended: dict[str, int]

    world: World | None = None

    @initialize(number=CHOICES)
    def begin(self, number: int) -> None:
        self.world = begin(picks(number))

    @rule(name=st.sampled_from(WEIGHTED), number=CHOICES)
    def something_happens(self, name: str, number: int) -> None:
        Core.steps += 1
        getattr(self.world, name)(picks(number))

    @precondition(lambda self: self.world is not None and self.world.count > 4)
    @rule(often=st.integers(0, 9))
    def perhaps_it_is_over(self, often: int) -> None:
        if not often:
            self.world.shut_down(picks(0))

    @invariant()
    def nothing_is_broken(self) -> None:
        if self.world is not None:
            self.world.check()

    def teardown(self) -> None:
        if self.world is not None:
            self.world.all_ends_well()
            Core.starts += self.world.starts


def test_ten_thousand_random_steps_break_nothing() -> None:
    Core.steps = Core.starts = 0
    run_state_machine_as_test(
        Core,
        settings=settings(
            max_examples=250,
            stateful_step_count=60,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # What is rarer is counted below: Hypothesis tries numbers of the modules that are loaded, so this test's stories are not its own.
    assert Core.steps >= 10_000
    assert Core.starts >= 500  # else the world was too poor to try anything


@pytest.mark.parametrize("seed", range(100))
def test_longer_stories_break_nothing(seed: int) -> None:
    """Without shrinking, hence fast: some hundred steps each, each world with habits of its own."""
    chance = random.Random(seed)
    names = list(ACTIONS)
    weights = [weight * chance.choice((0.3, 1, 1, 3)) for weight in ACTIONS.values()]
    world = begin(chance.randrange)
    for _ in range(chance.randrange(20, 300)):
        getattr(world, chance.choices(names, weights)[0])(chance.randrange)
        world.check()
    world.all_ends_well()


def test_crowds_bring_replicas_and_models_outgrow_their_claims() -> None:
    """Stories with room and crowds, so that what is rare above happens often enough to break something."""
    replicas = outgrown = left_for_preferences = 0
    names = list(ACTIONS)
    weights = [weight * {"crowd": 5, "measure": 4}.get(name, 1) for name, weight in ACTIONS.items()]
    for seed in range(60):
        chance = random.Random(seed)
        world = begin(chance.randrange)
        capacity = CAPACITIES[-1 - seed % 2]
        world.apply(world.terms, world.limits, capacity, cache_first=False)
        for _ in range(100):
            getattr(world, chance.choices(names, weights)[0])(chance.randrange)
            world.check()
        world.all_ends_well()
        replicas += world.replicas
        outgrown += world.outgrown
        left_for_preferences += world.left_for_preferences
    assert replicas >= 5
    assert outgrown >= 10
    assert left_for_preferences >= 10


def test_a_fault_of_the_world_is_told_with_the_story_of_each_instance() -> None:
    chance = random.Random(1)
    world = begin(chance.randrange)
    for _ in range(4):
        world.arrive(chance.randrange)
    world.calm(chance.randrange)
    assert world.starts
    world.requests.clear()  # the router knows of some that the world does not
    world.submit(next(iter(world.routers)), "a")
    world.requests.clear()
    with pytest.raises(AssertionError) as fault:
        world.check()
    (note,) = fault.value.__notes__
    assert "new → loading (started); " in note
    assert "loading → ready (ready)" in note


PARKING, WAKING = InstanceState.PARKING, InstanceState.WAKING
ROUND = ("deliver_demand", "deliver_residency", "finish", "become_ready", "observe", "turn", "turn")
TROUBLE = (
    "release",
    "settle",
    "fail",
    "order_load",
    "order_unload",
    "order_park",
    "repeat_observation",
    "stale_observation",
    "leave",
)


def test_engines_that_sleep_break_nothing() -> None:
    """Models that all park, requests that want them by turns, and little else: so that each of their transitions is seen."""
    seen: Counter[str] = Counter()
    for seed in range(40):
        chance = random.Random(seed)
        world = sleepy(chance)
        for _ in range(25):
            world.arrive(chance.randrange)
            world.arrive(chance.randrange)
            for name in [*chance.choices(ROUND, k=12), chance.choice(TROUBLE), *chance.choices(ROUND, k=6)]:
                getattr(world, name)(chance.randrange)
                world.check()
                for instance in [h for h in world.switching.instances.values() if h.state in (PARKING, WAKING)]:
                    world.stale_turn(instance, chance.randrange)
            if chance.randrange(2):
                world.calm(chance.randrange)
        world.all_ends_well()
        told = [type(news) for body in world.bodies.values() for news in body.told_news]
        seen.update(parks=world.parks, wakes=world.wakes, sleeps=told.count(InstanceParked), no=told.count(SleepFailed))
    assert seen["parks"] > 100, seen  # else they told of nothing
    assert seen["sleeps"] > 90, seen
    assert seen["wakes"] > 40, seen
    assert seen["no"] > 10, seen


def sleepy(chance: random.Random) -> World:
    world = begin(chance.randrange)
    terms = {
        name: each
        if each.external
        else replace(each, park=True, host_memory=chance.choice(MEMORIES), drain_timeout=1000.0, stop_timeout=100.0)
        for name, each in world.terms.items()
    }
    capacity = Capacity(1 + chance.randrange(2), host_memory=chance.choice((None, 4, 10, 20)))
    world.apply(terms, {}, capacity, cache_first=False)
    return world


MOVING = (InstanceState.SAVING, InstanceState.RESTORING)


def test_engines_that_save_their_prompts_break_nothing() -> None:
    """Models whose prompts are all kept, requests that want them by turns, and trouble; some never answer, and are given up."""
    saves = restores = late = 0
    for seed in range(30):
        chance = random.Random(seed)
        world = begin(chance.randrange)
        terms = {
            name: each
            if each.external
            else replace(each, prompt_timeout=chance.choice((0.5, 3.0)), drain_timeout=1000.0)
            for name, each in world.terms.items()
        }
        world.apply(terms, {}, Capacity(1 + chance.randrange(2), host_memory=20, prompts=100), cache_first=False)
        for _ in range(25):
            world.arrive(chance.randrange)
            world.arrive(chance.randrange)
            for name in [
                *chance.choices(ROUND, k=12),
                chance.choice((*TROUBLE, "hang")),
                *chance.choices(ROUND, k=6),
            ]:
                getattr(world, name)(chance.randrange)
                world.check()
                if not chance.randrange(4) and any(h.state in MOVING for h in world.switching.instances.values()):
                    world.tick(lambda _: 1)  # to the time at which the scheduler wants to decide again
            if chance.randrange(2):
                world.calm(chance.randrange)
        world.all_ends_well()
        saves, restores, late = saves + world.saves, restores + world.restores, late + world.late_prompts
    assert saves > 80, (saves, restores, late)  # else they told of nothing
    assert restores > 30, (saves, restores, late)
    assert late > 5, (saves, restores, late)
