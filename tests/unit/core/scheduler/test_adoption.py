"""Instances that are adopted at the start, and the shutdown."""

from hotseat.core.events import Emit
from hotseat.core.messages import CacheObserved, InstanceAdopted, InstanceReady, InstanceReleased, Resident, Stop
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import ConfigChanged, LoadOrdered, SchedulingSpec, ShutdownOrdered, UnloadOrdered
from tests.unit.core.scheduler.story import (
    CACHED,
    LOADING,
    QUIESCING,
    READY,
    RELEASING,
    Story,
    cancelled,
    publish,
    unready,
    who,
)


def test_what_runs_already_is_adopted() -> None:
    story = Story(Capacity(2))
    assert story.machine.step(InstanceAdopted(1.0, "a", "pod-1", 41, "http://pod1")) == [
        publish(42, Resident("a", "pod-1", READY, 41, 1.0, "http://pod1"))
    ]
    assert story.machine.step(InstanceAdopted(1.0, "b", "pod-2", 40, None)) == [
        publish(
            43, Resident("a", "pod-1", READY, 41, 1.0, "http://pod1"), Resident("b", "pod-2", LOADING, 40, 1.0, None)
        )
    ]
    assert story.machine.wake_at == 301.0
    ready = story.machine.step(InstanceReady(2.0, "pod-2", 40, "http://pod2"))
    assert ready[0] == Emit("model.ready", "b", {"instance": "pod-2", "seconds": 1.0})


def test_a_model_that_nobody_knows_or_that_is_there_twice_is_taken_off() -> None:
    story = Story(Capacity(4))
    story.machine.step(InstanceAdopted(1.0, "a", "pod-1", 5, "http://pod1"))
    for model, instance, why in (("z", "pod-2", "removed"), ("a", "pod-3", "duplicate")):
        said = story.machine.step(InstanceAdopted(1.0, model, instance, 6, f"http://{instance}"))
        assert Stop(model, instance, 6, 10.0) in said  # nobody is there to wait for
        assert story.machine.instances[instance].leaving == why
    story.demand(2.0, {"b": 1})
    assert story.states() == {"a": "ready", "b": "loading"}


def test_what_is_adopted_is_not_preloaded_again() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"p": SchedulingSpec(preload=True)}, Capacity(1)))
    machine.step(InstanceAdopted(0.0, "p", "pod", 3, "http://pod"))
    machine.step(CacheObserved(0.0, "p", CACHED))
    machine.step(UnloadOrdered(1.0, "p"))
    assert machine.step(InstanceReleased(2.0, "pod", 3))[-1] == publish(6)


def test_adopting_what_is_known_changes_nothing() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.machine.step(UnloadOrdered(1.0, "a"))
    assert story.machine.step(InstanceAdopted(1.0, "a", "w/a@2", 2, "http://a")) == []
    assert story.states()["a"] == "releasing"


def test_at_the_end_everything_goes_and_nothing_comes() -> None:
    story = Story(Capacity(2))
    story.load(1.0, "a")
    story.demand(2.0, {"b": 1}, {"w/a@2": 1})
    message = "the load of b was cancelled after 1.0 s"
    assert story.machine.step(ShutdownOrdered(3.0)) == [
        cancelled(2, "b", phase="load", code="Shutdown", message=message, load=1.0, total=1.0),
        Stop("b", "w/b@4", 4, 10.0),
        publish(5, who("a", QUIESCING, 3.0, 2, "shutdown"), unready("b", RELEASING, 3.0, 4, "shutdown")),
    ]
    assert story.demand(3.0, {"b": 1})[0] == Stop("a", "w/a@2", 2, 10.0)
    story.released(4.0, "a", 2)
    story.released(4.0, "b", 4)
    assert story.demand(5.0, {"a": 1, "b": 1}) == []
    assert story.machine.step(LoadOrdered(5.0, "a")) == []
    adopted = story.machine.step(InstanceAdopted(6.0, "a", "late", 3, "http://late"))
    assert Stop("a", "late", 3, 10.0) not in adopted  # not before its router has seen it close
    assert story.demand(6.0)[0] == Stop("a", "late", 3, 10.0)


def test_documents_that_change_during_the_shutdown_keep_nothing() -> None:
    story = Story()
    story.load(1.0)
    story.change(1.0, a=None)
    story.machine.step(ShutdownOrdered(2.0))
    story.change(3.0, a=SchedulingSpec())
    assert story.demand(3.0)[0] == Stop("a", "w/a@2", 2, 10.0)
