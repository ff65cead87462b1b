"""Replicas: when a model gets another engine, who makes room first, and what becomes of them."""

from typing import Any

import pytest

from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import Dispatch, Limits, LimitsChanged, RequestArrived, ResidencySeen
from hotseat.core.events import Emit
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceAdopted,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    QueuedDemand,
    Residency,
    Resident,
    Start,
    Stop,
)
from hotseat.core.policy.api import Capacity, Claim, Policy
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.strict import Fifo, Priority
from hotseat.core.scheduler.instance import REPLICA_IDLE_TIMEOUT
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import (
    ConfigChanged,
    DemandReported,
    LoadOrdered,
    SchedulingSpec,
    Tick,
    UnloadOrdered,
)
from hotseat.core.scheduler.replicas import PATIENCE

THREE = SchedulingSpec(replicas=3)


class Story:
    """A machine with one router, which sees everything at once."""

    def __init__(self, gpus: int = 3, policy: Policy | None = None, **models: SchedulingSpec) -> None:
        self.machine = Scheduler("w", policy or Batch())
        self.models = models or {"a": THREE, "b": SchedulingSpec()}
        self.commands: list[Any] = []
        self.seq = 0
        self.tell(ConfigChanged(0.0, self.models, Capacity(gpus, None, tuple(map(str, range(gpus))))))
        for name in self.models:
            self.tell(CacheObserved(0.0, name, CacheState.CACHED))

    def tell(self, stimulus: Any) -> None:
        self.commands += self.machine.step(stimulus)

    def demand(
        self, now: float, *, since: float | None = None, flight: dict[str, int] | None = None, **waiting: int
    ) -> None:
        self.seq += 1
        rows = {model: QueuedDemand(count, now if since is None else since) for model, count in waiting.items()}
        busy = {self.instance(seat): count for seat, count in (flight or {}).items()}
        self.tell(DemandReported(now, Demand("r", self.seq, self.machine.epoch, rows, busy)))

    def ready(self, now: float, seat: str) -> None:
        instance = self.machine.instances[self.instance(seat)]
        self.tell(InstanceReady(now, instance.id, instance.epoch, f"http://{seat}"))

    def gone(self, now: float, seat: str) -> None:
        instance = self.machine.instances[self.instance(seat)]
        self.tell(InstanceReleased(now, instance.id, instance.epoch))

    def instance(self, seat: str) -> str:
        return next(h.id for h in self.machine.instances.values() if h.name == seat)

    def seats(self) -> dict[str, str]:
        return {h.name: h.state.value for h in self.machine.instances.values()}

    def told(self, kind: type) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    def with_two(self) -> "Story":
        """Let `a` have its main engine and one replica, both ready and seen to be, since 10.0."""
        self.demand(1.0, a=1)
        self.ready(2.0, "a")
        self.demand(3.0, flight={"a": 1}, a=1)
        self.tell(Tick(3.0 + PATIENCE))
        self.ready(10.0, "a#2")
        self.demand(10.0, flight={"a": 1, "a#2": 1})
        return self


# When one comes -------------------------------------------------------------------------------------------------------


def test_another_engine_starts_for_requests_that_wait_though_the_model_is_ready() -> None:
    story = Story()
    story.demand(1.0, a=5)
    story.demand(1.5, since=1.0, a=5)
    assert story.seats() == {"a": "loading"}  # it has not had its chance yet
    story.ready(2.0, "a")
    story.demand(2.1, since=1.0, flight={"a": 1}, a=4)
    assert story.machine.wake_at == 2.0 + PATIENCE
    story.tell(Tick(2.0 + PATIENCE))
    assert story.seats() == {"a": "ready", "a#2": "loading"}
    story.demand(4.0, since=2.0, flight={"a": 1}, a=4)
    assert story.seats() == {"a": "ready", "a#2": "loading"}  # one at a time
    story.ready(5.0, "a#2")
    story.demand(7.0, since=2.0, flight={"a": 1, "a#2": 1}, a=3)
    story.ready(8.0, "a#3")
    story.demand(10.0, since=2.0, flight={"a": 1, "a#2": 1, "a#3": 1}, a=2)
    assert story.seats() == {"a": "ready", "a#2": "ready", "a#3": "ready"}  # and no more than it may have
    assert [start.devices for start in story.told(Start)] == [("0",), ("1",), ("2",)]


def test_what_waited_before_the_router_knew_that_the_model_is_ready_brings_none() -> None:
    story = Story()
    story.demand(1.0, a=5)
    before = story.machine.epoch
    story.ready(50.0, "a")
    story.seq += 1
    story.tell(DemandReported(51.0, Demand("r", story.seq, before, {"a": QueuedDemand(5, 1.0)})))
    story.tell(Tick(55.0))
    assert story.seats() == {"a": "ready"}


@pytest.mark.parametrize("policy", [Batch(), Fifo(), Priority()], ids=["batch", "fifo", "priority"])
def test_it_evicts_nobody(policy: Policy) -> None:
    story = Story(2, policy)
    story.demand(1.0, a=1, b=1)
    story.ready(2.0, "a")
    story.ready(2.0, "b")
    story.demand(3.0)  # b is idle
    story.demand(500.0, since=3.0, flight={"a": 1}, a=100)
    assert story.seats() == {"a": "ready", "b": "ready"}
    assert not story.told(Stop)


def test_a_seat_that_somebody_waits_for_is_not_for_a_replica() -> None:
    story = Story(2, a=THREE, b=SchedulingSpec(), c=SchedulingSpec())
    story.demand(1.0, a=1)
    story.ready(2.0, "a")
    story.demand(3.0, since=2.0, flight={"a": 1}, a=4, b=1)
    story.tell(Tick(3.5))
    assert story.seats() == {"a": "ready", "b": "loading"}


def test_a_model_that_may_have_one_engine_has_one() -> None:
    story = Story(a=SchedulingSpec())
    story.demand(1.0, a=1)
    story.ready(2.0, "a")
    story.demand(100.0, since=2.0, flight={"a": 1}, a=9)
    assert story.seats() == {"a": "ready"}


# Who makes room -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Batch(), Fifo(), Priority()], ids=["batch", "fifo", "priority"])
def test_a_replica_makes_space_at_once_and_drains_as_any_other(policy: Policy) -> None:
    story = Story(2, policy).with_two()
    story.demand(11.0, flight={"a": 1, "a#2": 1}, b=1)
    assert story.seats() == {"a": "ready", "a#2": "draining"}
    assert not story.told(Stop)
    story.demand(12.0, flight={"a": 1, "a#2": 1}, b=1, a=7)  # it owes nothing of what waits
    assert not story.told(Stop)
    story.demand(13.0, flight={"a": 1}, b=1, a=7)
    assert story.seats() == {"a": "ready", "a#2": "releasing"}
    story.gone(14.0, "a#2")
    assert story.seats() == {"a": "ready", "b": "loading"}
    started = next(e for e in story.told(Emit) if e.type == "switch.started" and e.subject == "b")
    assert started.data["from"] == ["a#2"]


def test_one_that_loads_is_stopped_for_whoever_needs_the_seat() -> None:
    story = Story(2)
    story.demand(1.0, a=1)
    story.ready(2.0, "a")
    story.demand(4.0, since=2.0, flight={"a": 1}, a=1)
    assert story.seats() == {"a": "ready", "a#2": "loading"}
    story.demand(5.0, since=2.0, flight={"a": 1}, a=1, b=1)
    assert story.seats() == {"a": "ready", "a#2": "releasing"}


def test_a_replica_goes_before_an_idle_model() -> None:
    story = Story(3, a=SchedulingSpec(replicas=2), b=SchedulingSpec(), c=SchedulingSpec()).with_two()
    story.demand(11.0, b=1)
    story.ready(12.0, "b")
    story.demand(13.0, flight={"a": 1, "a#2": 1})
    story.demand(14.0, flight={"a": 1, "a#2": 1}, c=1)
    assert story.seats() == {"a": "ready", "a#2": "draining", "b": "ready"}


def test_one_that_nobody_uses_goes_after_a_while() -> None:
    story = Story().with_two()
    story.demand(20.0)
    assert story.machine.wake_at == 20.0 + REPLICA_IDLE_TIMEOUT  # both were used until then
    story.tell(Tick(20.0 + REPLICA_IDLE_TIMEOUT))
    story.demand(20.1 + REPLICA_IDLE_TIMEOUT)
    assert story.seats() == {"a": "ready", "a#2": "releasing"}
    assert [stop.instance for stop in story.told(Stop)] == [story.instance("a#2")]


# What becomes of them -------------------------------------------------------------------------------------------------


def test_a_replica_takes_the_place_of_a_main_engine_that_fails() -> None:
    story = Story(2).with_two()
    main = story.machine.instances[story.instance("a")]
    story.tell(InstanceFailed(11.0, main.id, main.epoch, "Exited", "exit code 1"))
    assert story.machine.status()[0].state == "ready"
    assert not [e for e in story.told(Emit) if e.type == "switch.started"][1:]
    story.tell(InstanceReleased(12.0, main.id, main.epoch))
    assert story.seats() == {"a": "ready"}
    assert story.machine.queue() == {"a": (0, 0.0, 1)}


def test_main_engines_that_crash_again_and_again_refuse_nobody_while_another_is_ready() -> None:
    """A bug once: the second crash sent every request away, though a replica was ready."""
    story = Story().with_two()
    for now in (20.0, 30.0, 40.0):
        main = story.machine.instances[story.instance("a")]
        story.tell(InstanceFailed(now, main.id, main.epoch, "Exited", "killed"))
        story.tell(InstanceReleased(now, main.id, main.epoch))
        assert story.seats()["a"] == "ready"
        assert story.machine.residency.refusals == {}
        story.demand(now + 6.0, since=now, flight={"a": 1}, a=1)
        story.tell(Tick(now + 9.0))
        if "a#2" in story.seats():
            story.ready(now + 9.5, "a#2")
    assert "a" not in story.machine.parts.availability.failures


def test_one_that_fails_harms_nobody_and_the_next_waits_for_a_growing_time() -> None:
    story = Story(2)
    story.demand(1.0, a=1)
    story.ready(2.0, "a")
    story.demand(4.0, since=2.0, flight={"a": 1}, a=3)
    replica = story.machine.instances[story.instance("a#2")]
    story.tell(InstanceFailed(5.0, replica.id, replica.epoch, "OutOfMemory", "no room"))
    story.tell(InstanceReleased(5.5, replica.id, replica.epoch))
    assert story.machine.residency.refusals == {}
    assert story.machine.status()[0].state == "ready"
    failed = next(e for e in story.told(Emit) if e.type == "model.failed")
    assert (failed.data["reason"], failed.data["retry_after"]) == ("OutOfMemory", 2.0)
    assert story.machine.wake_at == 7.0
    story.tell(Tick(7.0))
    assert story.seats() == {"a": "ready", "a#2": "loading"}


def test_unloading_takes_all_and_loading_brings_one() -> None:
    story = Story(2).with_two()
    story.tell(UnloadOrdered(11.0, "a"))
    story.demand(12.0)
    assert len(story.told(Stop)) == 2
    for seat in ("a", "a#2"):
        story.gone(13.0, seat)
    story.tell(LoadOrdered(14.0, "a"))
    assert story.seats() == {"a": "loading"}


def test_documents_that_allow_fewer_send_some_away() -> None:
    story = Story(2).with_two()
    story.tell(ConfigChanged(11.0, {"a": SchedulingSpec(), "b": SchedulingSpec()}, story.machine.parts.state.capacity))
    story.demand(12.0)
    assert story.seats() == {"a": "ready", "a#2": "releasing"}


def test_adoption_finds_as_many_as_there_may_be() -> None:
    story = Story(4)
    for number in range(4):
        story.tell(InstanceAdopted(1.0, "a", f"w/a@{number + 5}", number + 5, "http://a", devices=(str(number),)))
    assert story.seats() == {"a": "ready", "a#2": "ready", "a#3": "ready", "a#4": "releasing"}


# Routers --------------------------------------------------------------------------------------------------------------


def test_requests_go_to_the_least_loaded_each_within_the_bound() -> None:
    router = AdmissionMachine("r")
    router.step(LimitsChanged(0.0, {"a": Limits(2)}, 100))
    residents = tuple(Resident("a", f"w/a@{n}", InstanceState.READY, n, 0.0, f"http://{n}") for n in (1, 2))
    router.step(ResidencySeen(0.0, Residency(2, residents)))
    went = [c.instance for n in range(5) for c in router.step(RequestArrived(1.0, n, "a")) if isinstance(c, Dispatch)]
    assert went == ["w/a@1", "w/a@2", "w/a@1", "w/a@2"]
    assert router.waiting("a") == 1


@pytest.mark.parametrize("parks", [False, True], ids=["stops", "parks"])
def test_a_model_is_not_idle_while_a_replica_of_it_answers(parks: bool) -> None:
    """A bug once: the main engine fell asleep, and the replica had to go with it, busy as it was."""
    a = SchedulingSpec(replicas=3, park=parks, idle_timeout=20.0, drain_timeout=60.0)
    story = Story(a=a, b=SchedulingSpec()).with_two()
    for now in range(12, 120, 2):
        story.demand(float(now), flight={"a#2": 1})
        story.tell(Tick(now + 0.5))
    assert story.seats() == {"a": "ready", "a#2": "ready"}
    story.demand(120.0)
    story.tell(Tick(139.0))
    assert story.seats() == {"a": "ready", "a#2": "ready"}
    story.tell(Tick(140.0))
    assert "ready" not in story.seats().values()


def test_a_preload_that_finds_no_space_keeps_no_replica_out() -> None:
    """It has no seat to wait for as long as anybody holds one; the replica would wait with it for ever."""
    story = Story(a=THREE, large=SchedulingSpec(claim=Claim(3)))
    story.demand(1.0, a=1)
    story.ready(2.0, "a")
    preload = {**story.models, "later": SchedulingSpec(claim=Claim(3), preload=True)}
    story.tell(ConfigChanged(2.0, preload, story.machine.parts.state.capacity))
    story.tell(CacheObserved(2.0, "later", CacheState.CACHED))
    story.demand(3.0, flight={"a": 1}, a=1)
    story.tell(Tick(3.0 + PATIENCE))
    assert story.seats() == {"a": "ready", "a#2": "loading"}
