"""Observations and snapshots that are stale, late or repeated."""

import pytest

from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceAdopted,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    QueuedDemand,
    Start,
    Stop,
)
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import (
    ConfigChanged,
    DemandReported,
    LoadOrdered,
    RouterLeft,
    RoutersEnrolled,
    SchedulingSpec,
    Tick,
    UnloadOrdered,
)
from tests.unit.core.scheduler.story import Story


@pytest.mark.parametrize(
    "stale",
    [
        InstanceReady(9.0, "w/a@2", 1, "http://stale"),
        InstanceFailed(9.0, "w/a@2", 3, "Exited", ""),
        InstanceReleased(9.0, "w/a@2", 1),
        InstanceUnproven(9.0, "w/a@2", 1, ""),
        InstanceReleased(9.0, "w/a@1", 1),
        InstanceReady(9.0, "w/a@2", 2, "http://again"),
    ],
)
def test_news_of_another_epoch_or_an_unknown_instance_changes_nothing(stale: InstanceReleased) -> None:
    story = Story()
    story.load(1.0)
    before = story.machine.residency
    assert story.machine.step(stale) == []
    assert story.machine.residency is before
    assert story.machine.instances["w/a@2"].address == "http://a2"


def test_snapshots_count_by_their_number_only() -> None:
    story = Story(Capacity(2))
    story.machine.step(DemandReported(1.0, Demand("r", 2, 0, {"a": QueuedDemand(1, 0.0)})))
    for late in (1, 2):
        assert story.machine.step(DemandReported(2.0, Demand("r", late, 0, {"b": QueuedDemand(1, 0.0)}))) == []
    assert story.machine.step(DemandReported(2.0, Demand("r", 3, 0, {"b": QueuedDemand(1, 0.0)}))) != []


def test_a_late_snapshot_of_a_router_that_left_does_not_bring_it_back() -> None:
    """A bug once: nobody would have seen it leave again, and every switch would have waited for its drain deadline."""
    story = Story()
    story.machine.step(DemandReported(1.0, Demand("gone", 1, 0)))
    story.machine.step(RouterLeft(2.0, "gone"))
    assert story.machine.step(DemandReported(3.0, Demand("gone", 7, 0, {"b": QueuedDemand(1, 0.0)}))) == []


def test_nothing_is_drained_before_every_enrolled_router_was_heard() -> None:
    machine = Scheduler("w", Batch(), epoch=7)
    machine.step(RoutersEnrolled(0.0, ("r1",)))
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(), "b": SchedulingSpec()}, Capacity(1)))
    for model in ("a", "b"):
        machine.step(CacheObserved(0.0, model, CacheState.CACHED))
    machine.step(InstanceAdopted(0.0, "a", "w/a@5", 5, "http://a"))
    machine.step(UnloadOrdered(1.0, "a"))
    assert machine.instances["w/a@5"].state is InstanceState.QUIESCING  # r1 may have requests in flight there
    said = machine.step(DemandReported(2.0, Demand("r1", 1, machine.epoch)))
    assert any(isinstance(command, Stop) for command in said)


def test_an_adopted_instance_that_runs_an_older_document_is_started_anew() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(fingerprint="new")}, Capacity(1)))
    machine.step(CacheObserved(0.0, "a", CacheState.CACHED))
    machine.step(InstanceAdopted(0.0, "a", "w/a@5", 5, "http://a", fingerprint="old"))
    said = [*machine.step(Tick(10.0)), *machine.step(Tick(20.0))]
    stopped = [h for h in machine.instances.values() if h.leaving]
    assert [h.leaving for h in stopped] == ["changed"]
    said = machine.step(InstanceReleased(21.0, "w/a@5", 5))
    assert any(isinstance(command, Start) for command in said)


def test_an_adopted_instance_that_is_going_already_keeps_its_seat_until_it_is_gone() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(), "b": SchedulingSpec()}, Capacity(1)))
    for model in ("a", "b"):
        machine.step(CacheObserved(0.0, model, CacheState.CACHED))
    machine.step(InstanceAdopted(0.0, "a", "w/a@5", 5, None, releasing=True, gpus=1))
    said = machine.step(LoadOrdered(1.0, "b"))
    assert not any(isinstance(command, Start) for command in said)
    said = machine.step(InstanceReleased(2.0, "w/a@5", 5))
    assert [command.model for command in said if isinstance(command, Start)] == ["b"]


def test_of_two_adopted_instances_the_one_with_the_older_document_leaves() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(fingerprint="new")}, Capacity(2)))
    machine.step(InstanceAdopted(0.0, "a", "w/a@5", 5, "http://a", fingerprint="old"))
    assert machine.instances["w/a@5"].leaving is None, "its successor's weights are not known to be there"
    machine.step(InstanceAdopted(0.0, "a", "w/a@6", 6, "http://b", fingerprint="new"))
    assert {h.id: h.leaving for h in machine.instances.values()} == {"w/a@5": "duplicate", "w/a@6": None}
