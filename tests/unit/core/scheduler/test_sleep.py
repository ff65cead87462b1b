"""Models that sleep instead of stopping, as stories of the switching machine: what it hears, and exactly what it says."""

from types import SimpleNamespace

import pytest

from hotseat.core.events import Emit
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    InstanceFailed,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    Park,
    SleepFailed,
    Start,
    Stop,
    Wake,
)
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.eviction import parked_victims
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.messages import (
    LoadOrdered,
    ParkOrdered,
    PinOrdered,
    SchedulerCommand,
    SchedulingSpec,
    ShutdownOrdered,
    UnloadOrdered,
)
from hotseat.core.scheduler.sleep import NO_PARK_AFTER_FAILURE
from tests.unit.core.scheduler.story import Story, completed, has_failed, is_ready, is_released, started

SLEEPY = SchedulingSpec(park=True, fingerprint="1")


class Bedroom(Story):
    """Models that sleep, and short ways of saying that they do."""

    def __init__(self, *names: str, capacity: Capacity | None = None, **terms: SchedulingSpec) -> None:
        super().__init__(capacity, **(terms or dict.fromkeys(names or "ab", SLEEPY)))

    def turn(self, model: str) -> tuple[str, int, int]:
        instance = next(h for h in self.machine.instances.values() if h.model == model)
        return instance.id, instance.epoch, instance.turn

    def parked(self, now: float, model: str, memory: int | None = None) -> list[SchedulerCommand]:
        return self.machine.step(InstanceParked(now, *self.turn(model), memory))

    def woken(self, now: float, model: str) -> list[SchedulerCommand]:
        id_, epoch, turn = self.turn(model)
        return self.machine.step(InstanceReady(now, id_, epoch, "http://woken", turn))

    def balks(self, now: float, model: str) -> list[SchedulerCommand]:
        return self.machine.step(SleepFailed(now, *self.turn(model), "it answered 500"))

    def want(self, now: float, model: str) -> list[SchedulerCommand]:
        """Somebody waits for it, for two snapshots: the first has others close, the second sees them drained."""
        self.demand(now, {model: 1})
        return self.demand(now, {model: 1})

    def use(self, now: float, model: str) -> list[SchedulerCommand]:
        """Bring a model to ready, however that goes, and leave it idle."""
        self.demand(now, {model: 1})
        for _ in range(4):
            for instance in list(self.machine.instances.values()):
                if instance.state is InstanceState.PARKING:
                    self.parked(now, instance.model)
                elif instance.state is InstanceState.WAKING:
                    self.woken(now, instance.model)
                elif instance.state is InstanceState.LOADING:
                    self.ready(now, instance.model, instance.epoch)
                elif instance.state is InstanceState.RELEASING:
                    self.released(now, instance.model, instance.epoch)
            self.demand(now, {model: 1})
        assert self.states()[model] == "ready"
        return self.demand(now)


def orders(commands: list[SchedulerCommand]) -> list[SchedulerCommand]:
    """What the runtime is told."""
    return [each for each in commands if isinstance(each, Start | Stop | Park | Wake)]


def emitted(commands: list[SchedulerCommand]) -> list[Emit]:
    return [each for each in commands if isinstance(each, Emit)]


def asleep(**more: SchedulingSpec) -> Bedroom:
    """The model a is parked, b is ready."""
    story = Bedroom(**({"a": SLEEPY, "b": SchedulingSpec()} | more))
    story.use(1.0, "a")
    story.use(2.0, "b")
    assert story.states()["a"] == "parked"
    return story


def waking() -> Bedroom:
    """The model a wakes, b has fallen asleep for it."""
    story = asleep(b=SLEEPY)
    story.want(3.0, "a")
    story.parked(3.0, "b")
    assert story.states() == {"a": "waking", "b": "parked"}
    return story


def test_a_model_that_makes_space_falls_asleep_and_its_next_load_is_a_wake() -> None:
    story = Bedroom()
    story.use(1.0, "a")
    story.demand(2.0, {"b": 1})  # a closes
    assert orders(story.demand(3.0, {"b": 1})) == [Park("a", "w/a@2", 2, 1)]
    assert story.states() == {"a": "parking", "b": "unloaded"}
    said = story.parked(3.5, "a", memory=700)
    data = {"instance": "w/a@2", "seconds": 0.5, "memory": 700, "keeps_prompts": None}
    assert emitted(said) == [Emit("model.parked", "a", data)]
    assert [order.model for order in orders(said)] == ["b"]
    assert story.states() == {"a": "parked", "b": "loading"}
    story.ready(5.0, "b", story.turn("b")[1])
    story.demand(6.0, {"a": 1})  # b closes
    story.demand(6.0, {"a": 1})
    assert orders(story.parked(6.25, "b")) == [Wake("a", "w/a@2", 2, 2)]
    assert story.states() == {"a": "waking", "b": "parked"}
    said = story.woken(6.75, "a")
    assert emitted(said) == [
        Emit("model.woken", "a", {"instance": "w/a@2", "seconds": 0.5}),
        completed(3, "a", "b", release=0.25, load=0.5, total=0.75),
    ]
    assert story.states() == {"a": "ready", "b": "parked"}


def test_costs_of_sleeping_are_learned_apart() -> None:
    story = Bedroom(a=SLEEPY, b=SchedulingSpec())
    story.use(1.0, "a")
    costs = story.machine.parts.history.durations
    costs.load["a"], costs.stop["a"] = Estimate(60.0), Estimate(4.0)
    assert costs.of("a", parks=True) == 64.0  # not known yet: as bad as it can be
    story.want(2.0, "b")
    story.parked(2.5, "a")
    story.use(3.0, "b")
    story.want(4.0, "a")
    story.released(4.0, "b", story.turn("b")[1])
    story.woken(5.0, "a")
    assert costs.of("a", parks=True) == 1.5
    assert costs.of("a") == 64.0


def test_a_parked_model_claims_nothing_of_the_accelerator_and_takes_no_requests() -> None:
    story = Bedroom(a=SLEEPY, b=SLEEPY, c=SchedulingSpec(Claim(2)), capacity=Capacity(2))
    for name in "abc":
        story.use(1.0, name)
    assert story.states() == {"a": "parked", "b": "parked", "c": "ready"}
    assert story.machine.residency.residents[0].state is InstanceState.PARKED


def test_what_is_in_flight_at_the_drain_deadline_is_ended_by_a_stop_never_by_a_park() -> None:
    story = Bedroom(a=SchedulingSpec(park=True, drain_timeout=20.0), b=SLEEPY)
    of = story.load(1.0, "a")
    flight = {f"w/a@{of}": 1}
    story.demand(2.0, {"b": 1}, flight)
    story.demand(40.0, {"b": 1}, flight, since=2.0)  # overdue: a closes
    assert orders(story.tick(59.0)) == []
    assert orders(story.tick(60.0)) == [Stop("a", f"w/a@{of}", of, 10.0)]


def test_a_model_that_is_wanted_again_while_it_falls_asleep_wakes_next() -> None:
    story = Bedroom()
    story.use(1.0, "a")
    story.want(2.0, "b")
    assert story.states()["a"] == "parking"
    assert orders(story.demand(2.1, {"a": 1})) == []  # b's client left
    assert orders(story.parked(2.5, "a")) == [Wake("a", "w/a@2", 2, 2)]


def test_a_wake_that_nobody_wants_any_longer_ends_well() -> None:
    story = waking()
    assert orders(story.demand(3.1, {"b": 1})) == []
    assert orders(story.woken(3.5, "a")) == []
    story.demand(3.6, {"b": 1})
    assert orders(story.demand(3.7, {"b": 1})) == [Park("a", "w/a@2", 2, 3)]


def test_a_park_that_fails_becomes_a_stop() -> None:
    story = Bedroom()
    story.use(1.0, "a")
    story.want(2.0, "b")
    said = story.balks(2.5, "a")
    assert orders(said) == [Stop("a", "w/a@2", 2, 10.0)]
    assert emitted(said) == [has_failed("a", 2, "ParkFailed", "it answered 500")]
    assert emitted(story.released(3.0, "a", 2))[0] == is_released("a", 2, "park_failed", 0.5)
    assert story.states() == {"a": "unloaded", "b": "loading"}


def test_a_park_that_takes_longer_than_the_stop_timeout_becomes_a_stop() -> None:
    story = Bedroom()
    story.use(1.0, "a")
    story.want(2.0, "b")
    assert story.machine.wake_at == 12.0
    said = story.tick(12.0)
    assert orders(said) == [Stop("a", "w/a@2", 2, 10.0)]
    assert emitted(said) == [has_failed("a", 2, "ParkTimeout", "not asleep within 10 s (lifecycle.stopTimeout)")]
    assert story.parked(12.1, "a") == []  # too late: it is being stopped
    assert story.states()["a"] == "releasing"


@pytest.mark.parametrize("how", ["fails", "hangs", "dies"])
def test_a_wake_that_fails_falls_back_to_a_cold_start_and_its_requests_go_on_waiting(how: str) -> None:
    story = waking()
    match how:
        case "fails":
            said, why = story.balks(4.0, "a"), ("WakeFailed", "it answered 500")
        case "hangs":
            said, why = story.tick(303.0), ("WakeTimeout", "not awake within 300 s (lifecycle.startTimeout)")
        case _:
            said, why = story.failed(4.0, "a", 2), ("WakeFailed", "Exited: exit code 1")
    assert emitted(said) == [has_failed("a", 2, *why)]
    assert orders(said) == ([] if how == "dies" else [Stop("a", "w/a@2", 2, 10.0)])
    assert story.machine.residency.refusals == {}
    said = story.released(304.0, "a", 2)
    start = orders(said)[0]
    assert isinstance(start, Start)
    assert start.model == "a"
    assert emitted(said)[1:] == []  # the switch goes on
    said = story.ready(306.0, "a", start.epoch)
    assert emitted(said)[0] == is_ready("a", start.epoch, 2.0)
    assert emitted(said)[1].data["phases"]["total"] == 303.0


def test_a_model_that_failed_to_sleep_is_stopped_for_a_while_and_then_trusted_again() -> None:
    story = Bedroom(a=SLEEPY, b=SchedulingSpec())
    story.use(1.0, "a")
    story.want(2.0, "b")
    story.balks(2.0, "a")
    story.released(2.0, "a", 2)
    for now, order in ((10.0, Stop), (2.0 + NO_PARK_AFTER_FAILURE, Park)):
        story.use(now, "b")
        story.use(now + 50, "a")
        assert [type(each) for each in orders(story.want(now + 100, "b"))] == [order]


def test_a_changed_document_mends_the_distrust() -> None:
    story = Bedroom(a=SLEEPY, b=SchedulingSpec())
    story.use(1.0, "a")
    story.want(2.0, "b")
    story.balks(2.0, "a")
    story.released(2.0, "a", 2)
    story.change(3.0, a=SchedulingSpec(park=True, fingerprint="2"))
    story.machine.step(CacheObserved(3.0, "a", CacheState.CACHED))
    story.use(4.0, "b")
    story.use(5.0, "a")
    assert [type(each) for each in orders(story.want(6.0, "b"))] == [Park]


def test_unload_stops_a_parked_model() -> None:
    story = asleep()
    assert orders(story.machine.step(UnloadOrdered(3.0, "a"))) == [Stop("a", "w/a@2", 2, 10.0)]
    assert emitted(story.released(3.5, "a", 2)) == [is_released("a", 2, "unloaded", 0.5)]
    assert story.states() == {"a": "unloaded", "b": "ready"}
    assert "a" not in story.machine.parts.history.durations.stop  # a sleeper's end says nothing of what a stop costs


def test_load_wakes_a_parked_model() -> None:
    story = asleep()
    story.machine.step(LoadOrdered(3.0, "a"))
    story.demand(3.0)
    assert orders(story.released(3.5, "b", story.turn("b")[1])) == [Wake("a", "w/a@2", 2, 2)]


def test_a_parked_model_ends_with_its_document_and_is_not_loaded_for_a_new_one() -> None:
    story = asleep()
    assert orders(story.change(3.0, a=SchedulingSpec(park=True, fingerprint="2"))) == [Stop("a", "w/a@2", 2, 10.0)]
    assert orders(story.released(3.5, "a", 2)) == []
    assert story.states() == {"a": "unloaded", "b": "ready"}
    story = asleep()
    assert orders(story.change(3.0, a=None)) == [Stop("a", "w/a@2", 2, 10.0)]


def test_a_shutdown_stops_what_sleeps_what_falls_asleep_and_what_wakes() -> None:
    story = asleep(b=SLEEPY, c=SLEEPY)
    story.want(3.0, "c")
    assert story.states() == {"a": "parked", "b": "parking", "c": "unloaded"}
    assert [each.model for each in orders(story.machine.step(ShutdownOrdered(4.0)))] == ["b", "a"]
    story = waking()
    assert {each.model for each in orders(story.machine.step(ShutdownOrdered(4.0)))} == {"a", "b"}


def test_a_parked_process_that_dies_is_told_and_forgotten_without_a_back_off() -> None:
    story = asleep()
    said = story.failed(3.0, "a", 2)
    assert emitted(said) == [has_failed("a", 2, "Exited", "exit code 1")]
    story.released(3.1, "a", 2)
    assert story.states() == {"a": "unloaded", "b": "ready"}
    story.want(4.0, "a")
    assert [type(each) for each in orders(story.released(4.1, "b", story.turn("b")[1]))] == [Start]


def test_a_sleeper_that_cannot_be_proven_gone_holds_no_seat_but_is_not_started_twice() -> None:
    story = asleep()
    story.machine.step(UnloadOrdered(3.0, "a"))
    story.unproven(4.0, "a", 2)
    assert story.states()["a"] == "unproven"
    story.demand(5.0, {"a": 1})
    assert story.machine.residency.refusals["a"].code == "release_unproven"
    story.change(6.0, c=SLEEPY)
    assert story.states()["b"] == "ready"  # it is not shed for a claim that is none


# Host memory ----------------------------------------------------------------------------------------------------------


def sized(memory: int | None) -> SchedulingSpec:
    return SchedulingSpec(park=True, host_memory=memory, fingerprint="1")


def test_the_least_recently_used_sleeper_is_stopped_before_another_falls_asleep() -> None:
    story = Bedroom(capacity=Capacity(1, host_memory=10), a=sized(4), b=sized(4), c=sized(4), d=sized(4))
    for now, name in enumerate("bac", start=1):
        story.use(now, name)
    assert story.states() == {"a": "parked", "b": "parked", "c": "ready", "d": "unloaded"}
    assert [(type(each), each.model) for each in orders(story.want(4.0, "d"))] == [(Stop, "b")]
    assert story.states()["c"] == "draining"  # not before there is room
    of = story.turn("b")[1]
    said = story.released(4.5, "b", of)
    assert emitted(said)[0] == is_released("b", of, "host_memory", 0.5)
    assert [(type(each), each.model) for each in orders(said)] == [(Park, "c")]


def test_one_that_would_not_fit_at_all_is_stopped() -> None:
    story = Bedroom(capacity=Capacity(1, host_memory=10), a=sized(4), b=sized(11))
    story.use(1.0, "a")
    story.use(2.0, "b")
    assert [(type(each), each.model) for each in orders(story.want(3.0, "a"))] == [(Stop, "b")]
    assert story.states()["a"] == "parked"


def test_a_sleeper_that_somebody_waits_for_is_woken_rather_than_stopped_for_space() -> None:
    story = Bedroom(capacity=Capacity(1, host_memory=4), a=sized(4), b=sized(4))
    story.use(1.0, "a")
    story.use(2.0, "b")
    assert [(type(each), each.model) for each in orders(story.want(3.0, "a"))] == [(Stop, "b")]
    said = story.released(3.5, "b", story.turn("b")[1])
    assert [(type(each), each.model) for each in orders(said)] == [(Wake, "a")]


def test_memory_that_no_document_states_is_what_was_measured() -> None:
    story = Bedroom(capacity=Capacity(1, host_memory=10), a=sized(None), b=sized(None), c=sized(None))
    story.use(1.0, "a")
    for model, then in (("a", "b"), ("b", "c")):
        story.want(2.0, then)
        said = story.parked(2.0, model, memory=6)
        if model == "a":
            story.use(2.0, then)
    stops = [each for each in orders(said) if isinstance(each, Stop)]
    assert [each.model for each in stops] == ["a"]  # 12 of 10: known only now
    assert story.states() == {"a": "releasing", "b": "parked", "c": "loading"}


def test_a_sleeper_with_queued_requests_is_stopped_last() -> None:
    first, second, third = (
        SimpleNamespace(model=name, id=name, last_used=at) for name, at in (("a", 1), ("b", 2), ("c", 3))
    )
    sleepers = [third, first, second]
    assert parked_victims(sleepers, 2.0, lambda _: 1, queued=()) == [first, second]
    assert parked_victims(sleepers, 2.0, lambda _: 1, queued={"a"}) == [second, third]
    assert parked_victims(sleepers, 9.0, lambda _: 1, queued={"a"}) == [second, third, first]


def test_a_budget_that_shrinks_stops_the_least_recently_used() -> None:
    story = Bedroom(capacity=Capacity(1, host_memory=10), a=sized(4), b=sized(4), c=sized(4))
    for now, name in enumerate("abc", start=1):
        story.use(now, name)
    said = story.change(4.0, capacity=Capacity(1, host_memory=5))
    assert [(type(each), each.model) for each in orders(said)] == [(Stop, "a")]
    assert orders(story.tick(5.0)) == []  # one that goes is enough


def test_without_a_budget_nothing_is_stopped_for_memory() -> None:
    story = Bedroom(capacity=Capacity(1), a=sized(10**15), b=sized(10**15), c=sized(10**15))
    for now, name in enumerate("abc", start=1):
        story.use(now, name)
    assert story.states() == {"a": "parked", "b": "parked", "c": "ready"}


def test_an_idle_model_parks_and_stays_parked() -> None:
    story = Bedroom(a=SchedulingSpec(park=True, idle_timeout=10.0), b=SchedulingSpec())
    story.use(1.0, "a")
    story.tick(11.0)
    assert [type(each) for each in orders(story.demand(11.0))] == [Park]
    story.parked(11.5, "a")
    assert orders(story.tick(1000.0)) == []
    assert story.states()["a"] == "parked"
    assert started(2, "a") in story.demand(1001.0, {"a": 1})
    assert story.states()["a"] == "waking"


def test_an_engine_that_hangs_as_it_is_told_to_sleep_is_stopped() -> None:
    """A bug once: it was given up without being stopped, and its place was lost for good."""
    story = Bedroom()
    story.use(1.0, "a")
    story.demand(2.0, {"b": 1})
    story.demand(3.0, {"b": 1})
    instance, epoch, _ = story.turn("a")
    said = story.machine.step(InstanceFailed(3.5, instance, epoch, "Unhealthy", "it does not answer", lives=True))
    assert [c for c in said if isinstance(c, Stop)] == [Stop("a", instance, epoch, 10.0)]
    said = story.machine.step(InstanceReleased(4.0, instance, epoch))
    assert [c.model for c in said if isinstance(c, Start)] == ["b"]


# Ordered --------------------------------------------------------------------------------------------------------------

CAN = SchedulingSpec(can_park=True)


def test_an_operator_parks_a_model_and_its_next_request_wakes_it() -> None:
    story = Bedroom(a=CAN)
    story.use(1.0, "a")
    story.machine.step(ParkOrdered(2.0, "a"))
    assert orders(story.demand(2.1)) == [Park("a", "w/a@2", 2, 1)]
    assert [e.type for e in emitted(story.parked(2.5, "a", 700))] == ["model.parked"]
    assert story.states() == {"a": "parked"}
    assert orders(story.demand(3.0, {"a": 1})) == [Wake("a", "w/a@2", 2, 2)]
    story.woken(3.1, "a")
    story.demand(4.0)
    assert story.states() == {"a": "ready"}  # the order is carried out


def test_what_is_in_flight_ends_before_it_sleeps() -> None:
    story = Bedroom(a=CAN)
    story.use(1.0, "a")
    story.demand(1.5, {}, {"w/a@2": 1})
    story.machine.step(ParkOrdered(2.0, "a"))
    assert orders(story.demand(3.0, {}, {"w/a@2": 1})) == []
    assert orders(story.demand(4.0)) == [Park("a", "w/a@2", 2, 1)]


def test_a_pinned_model_is_parked_and_stays_so_until_it_is_requested() -> None:
    story = Bedroom(a=CAN)
    story.use(1.0, "a")
    story.machine.step(PinOrdered(1.5, "a"))
    story.machine.step(ParkOrdered(2.0, "a"))
    story.demand(2.1)
    story.parked(2.5, "a")
    story.tick(60.0)
    assert story.states() == {"a": "parked"}
    story.demand(61.0, {"a": 1})
    assert story.states() == {"a": "waking"}


def test_a_model_that_cannot_park_or_is_not_loaded_is_left_alone() -> None:
    story = Bedroom(a=SchedulingSpec(), b=CAN)
    story.use(1.0, "a")
    for model in "ab":
        story.machine.step(ParkOrdered(2.0, model))
        story.demand(2.1)
    assert story.states() == {"a": "ready", "b": "unloaded"}
    story.demand(3.0, {"b": 1})
    assert story.machine.instances


def test_one_that_does_not_fall_asleep_is_stopped() -> None:
    story = Bedroom(a=CAN)
    story.use(1.0, "a")
    story.machine.step(ParkOrdered(2.0, "a"))
    story.demand(2.1)
    assert orders(story.balks(3.0, "a")) == [Stop("a", "w/a@2", 2, 10.0)]
