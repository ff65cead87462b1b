"""Prompt caches that are saved before a stop and restored after a load: what the scheduler hears, and what it says."""

from dataclasses import replace
from typing import Any

import pytest

from hotseat.core.events import Emit
from hotseat.core.messages import (
    InstanceFailed,
    InstanceParked,
    InstanceReady,
    LimitPrompts,
    Park,
    PromptsDropped,
    PromptsRestored,
    PromptsSaved,
    RestorePrompts,
    SavePrompts,
    Start,
    Stop,
)
from hotseat.core.policy.api import Capacity
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.messages import Publish, SchedulerCommand, SchedulingSpec, ShutdownOrdered, UnloadOrdered
from hotseat.core.scheduler.prompts import NOT_AFTER_FAILURE
from tests.unit.core.scheduler.story import Story, completed, is_ready, is_released

KEPT = SchedulingSpec(prompt_timeout=2.0, fingerprint="1")
ROOM = Capacity(1, prompts=1000)


class Library(Story):
    """Two models of which prompts are kept."""

    def __init__(self, capacity: Capacity = ROOM, **models: SchedulingSpec) -> None:
        super().__init__(capacity, **(models or {"a": KEPT, "b": KEPT}))

    def use(self, now: float, model: str = "a") -> int:
        """Load a model for one request, which is answered; return its epoch."""
        of = self.load(now, model)
        self.demand(now, {}, served={f"w/{model}@{of}": 1})
        return of

    def want(self, now: float, model: str) -> list[SchedulerCommand]:
        """Have a request wait for it, for two snapshots: the second shows that the other is drained."""
        first = self.demand(now, {model: 1})
        return [*first, *self.demand(now, {model: 1})]

    def saved(self, now: float, model: str, of: int, size: int = 500) -> list[SchedulerCommand]:
        return self.machine.step(PromptsSaved(now, f"w/{model}@{of}", of, 50, size))

    def restored(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(PromptsRestored(now, f"w/{model}@{of}", of, 50, 500))

    def answers(self, now: float, model: str, of: int, prompts: int = 500) -> list[SchedulerCommand]:
        return self.machine.step(InstanceReady(now, f"w/{model}@{of}", of, f"http://{model}", prompts=prompts))


def commands(said: list[SchedulerCommand]) -> list[SchedulerCommand]:
    """What a runtime is told."""
    return [each for each in said if not isinstance(each, Emit | Publish)]


def emitted(said: list[SchedulerCommand], kind: str) -> list[Emit]:
    return [each for each in said if isinstance(each, Emit) and each.type == kind]


def test_saved_after_the_drain_and_restored_before_the_first_dispatch() -> None:
    story = Library()
    a = story.use(10.0)
    assert commands(story.want(20.0, "b")) == [SavePrompts("a", f"w/a@{a}", a, 2.0)]
    assert story.states()["a"] == "saving"
    said = story.saved(20.5, "a", a)
    data = {"instance": f"w/a@{a}", "seconds": 0.5, "tokens": 50, "bytes": 500}
    assert emitted(said, "model.prompts_saved") == [Emit("model.prompts_saved", "a", data)]
    assert commands(said) == [Stop("a", f"w/a@{a}", a, 10.0)]
    (start,) = commands(story.released(21.0, "a", a))
    assert isinstance(start, Start)
    b = start.epoch
    said = story.ready(22.0, "b", b)  # nothing is kept for it
    phases = {"drain": 0.0, "save": 0.5, "release": 0.5, "load": 1.0, "total": 2.0}
    assert [is_ready("b", b, 1.0), completed(2, "b", "a", **phases)] == emitted(said, "model.ready") + emitted(
        said, "switch.completed"
    )
    story.demand(22.0, {}, served={f"w/b@{b}": 1})

    story.want(30.0, "a")
    story.saved(30.1, "b", b)
    (start,) = commands(story.released(30.2, "b", b))
    a = start.epoch
    said = story.answers(31.2, "a", a)
    assert commands(said) == [RestorePrompts("a", f"w/a@{a}", a, 2.0)]
    assert story.states()["a"] == "restoring"
    assert not emitted(said, "model.ready")
    said = story.restored(31.3, "a", a)
    assert story.states()["a"] == "ready"
    assert emitted(said, "model.prompts_restored")[0].data["bytes"] == 500
    assert emitted(said, "model.ready") == [is_ready("a", a, 1.0)]
    switch = story.machine.switches[-1]
    assert switch.phases() == {
        "wait": 0.0,
        "drain": 0.0,
        "save": 0.1,
        "release": 0.1,
        "load": 1.0,
        "restore": 0.1,
        "total": 1.3,
    }
    assert (switch.leaving["b"].saved, switch.restored) == (500, 500)
    assert [str(step.after) for step in story.machine.residency.residents[0].story] == ["loading", "restoring", "ready"]


def test_both_are_learned_and_count_as_the_cost_of_a_switch() -> None:
    story = Library()
    a = story.use(10.0)
    story.want(20.0, "b")
    story.saved(20.5, "a", a)
    durations = story.machine.parts.history.durations
    assert durations.save == {"a": Estimate(0.5)}
    durations.record_prompts("a", "restore", 0.25)
    durations.record_load("a", 4.0)
    assert durations.of("a") - durations.of("a", parks=True) == pytest.approx(0.75)
    assert durations.known("a").keys() == {"load", "save", "restore"}


@pytest.mark.parametrize(
    "change",
    [
        {"a": replace(KEPT, fingerprint="2")},  # another document may save less
        {"a": replace(KEPT, prompt_timeout=0.0)},
        {"capacity": replace(ROOM, prompts=0)},
    ],
)
def test_they_cost_nothing_where_they_are_kept_no_longer(change: dict[str, Any]) -> None:
    story = Library()
    durations = story.machine.parts.history.durations
    for phase in ("save", "restore"):
        durations.record_prompts("a", phase, 0.5)
    durations.record_prompts("b", "save", 0.5)
    story.change(20.0, capacity=ROOM)
    assert durations.of("a") == 1.0
    story.change(21.0, **({"capacity": ROOM} | change))
    assert durations.of("a") == 0.0
    assert durations.of("b") == (0.0 if "capacity" in change else 0.5)


@pytest.mark.parametrize("answer", ["late", "dead"])
def test_what_does_not_save_in_time_or_ends_is_stopped_without(answer: str) -> None:
    story = Library()
    a = story.use(10.0)
    story.want(20.0, "b")
    if answer == "late":
        assert story.machine.wake_at == 22.0
        said = story.tick(22.0)
        assert commands(said) == [Stop("a", f"w/a@{a}", a, 10.0)]
        assert emitted(said, "model.prompts_dropped")[0].data["reason"] == "SaveTimeout"
    else:
        said = story.failed(21.0, "a", a)
        assert emitted(said, "model.prompts_dropped")[0].data["message"] == "Exited: exit code 1"
    assert not emitted(said, "model.failed")  # it was about to go
    assert not emitted(story.saved(22.5, "a", a), "model.prompts_saved")
    assert isinstance(commands(story.released(23.0, "a", a))[0], Start)


def test_what_does_not_restore_in_time_is_ready_without() -> None:
    story = Library()
    story.demand(10.0, {"a": 1})
    a = next(iter(story.machine.instances.values())).epoch
    story.answers(11.0, "a", a)
    assert story.machine.wake_at == 13.0
    said = story.tick(13.0)
    assert emitted(said, "model.prompts_dropped")[0].data["reason"] == "RestoreTimeout"
    assert emitted(said, "model.ready") == [is_ready("a", a, 1.0)]
    assert story.states()["a"] == "ready"
    assert story.restored(14.0, "a", a) == []


def test_an_engine_that_ends_while_it_restores_is_started_again_without() -> None:
    story = Library()
    story.demand(10.0, {"a": 1})
    a = next(iter(story.machine.instances.values())).epoch
    story.answers(11.0, "a", a)
    said = story.failed(11.5, "a", a)
    assert emitted(said, "model.prompts_dropped")[0].data["reason"] == "RestoreFailed"
    assert not emitted(said, "switch.failed")
    (start,) = commands(story.released(11.6, "a", a))
    assert isinstance(start, Start)
    said = story.answers(12.6, "a", start.epoch)
    assert emitted(said, "switch.completed")[0].data["phases"]["load"] == 1.0
    assert not commands(said)  # though the runtime would have some
    instance = story.machine.instances[f"w/a@{start.epoch}"]
    assert not story.machine.parts.prompts.may_save(instance, 11.5 + NOT_AFTER_FAILURE - 1)
    story.demand(13.0, {}, served={instance.id: 1})
    assert story.machine.parts.prompts.may_save(instance, 11.5 + NOT_AFTER_FAILURE)


def test_one_that_hangs_while_it_saves_is_told_to_stop() -> None:
    story = Library()
    a = story.use(10.0)
    story.want(20.0, "b")
    said = story.machine.step(InstanceFailed(21.0, f"w/a@{a}", a, "Unhealthy", "no answer", lives=True))
    assert commands(said) == [Stop("a", f"w/a@{a}", a, 10.0)]


def test_nothing_is_saved_that_was_not_used_or_is_not_kept() -> None:
    unused = Library()
    unused.demand(10.0, {"a": 1})
    a = next(iter(unused.machine.instances.values())).epoch
    unused.ready(11.0, "a", a)
    unused.demand(11.0)
    assert commands(unused.want(20.0, "b")) == [Stop("a", f"w/a@{a}", a, 10.0)]

    for capacity, spec in ((ROOM, replace(KEPT, prompt_timeout=0.0)), (replace(ROOM, prompts=0), KEPT)):
        story = Library(capacity, a=spec, b=spec)
        a = story.use(10.0)
        assert commands(story.want(20.0, "b")) == [Stop("a", f"w/a@{a}", a, 10.0)]


def test_a_document_that_changed_or_is_gone_saves_nothing() -> None:
    for spec in (replace(KEPT, fingerprint="2"), None):
        story = Library()
        a = story.use(10.0)
        story.change(20.0, a=spec)
        assert commands(story.demand(20.0)) == [Stop("a", f"w/a@{a}", a, 10.0)]


def test_an_unload_saves_and_a_shutdown_only_if_it_is_set() -> None:
    story = Library()
    a = story.use(10.0)
    story.machine.step(UnloadOrdered(20.0, "a"))
    assert commands(story.demand(20.0)) == [SavePrompts("a", f"w/a@{a}", a, 2.0)]
    assert emitted(story.saved(20.1, "a", a) + story.released(20.2, "a", a), "model.released") == [
        is_released("a", a, "unloaded", 0.1)
    ]
    for at_exit in (True, False):
        spec = replace(KEPT, prompts_at_exit=at_exit)
        story = Library(a=spec, b=spec)
        a = story.use(10.0)
        story.machine.step(ShutdownOrdered(20.0))
        (command,) = commands(story.demand(20.0))
        assert isinstance(command, SavePrompts if at_exit else Stop)


@pytest.mark.parametrize("end", ["shutdown", "shutdown, kept", "changed", "deleted"])
def test_a_save_that_has_become_useless_is_not_waited_for(end: str) -> None:
    spec = replace(KEPT, prompts_at_exit="kept" in end)
    story = Library(a=spec, b=spec)
    a = story.use(10.0)
    story.want(20.0, "b")
    assert story.states()["a"] == "saving"
    if "shutdown" in end:
        said = story.machine.step(ShutdownOrdered(20.5))
    else:
        said = story.change(20.5, a=replace(spec, fingerprint="2") if end == "changed" else None)
    stops = [each for each in commands(said) if isinstance(each, Stop)]
    assert stops == ([] if "kept" in end else [Stop("a", f"w/a@{a}", a, 10.0)])
    assert not emitted(said, "model.prompts_dropped")


def test_a_load_that_is_cancelled_while_it_restores_is_stopped() -> None:
    story = Library()
    story.demand(10.0, {"a": 1})
    a = next(iter(story.machine.instances.values())).epoch
    story.answers(11.0, "a", a)
    assert commands(story.machine.step(UnloadOrdered(11.1, "a"))) == [Stop("a", f"w/a@{a}", a, 10.0)]


def test_parked_engines_come_first_in_host_memory() -> None:
    sleepy = SchedulingSpec(park=True, host_memory=700, fingerprint="2")
    story = Library(Capacity(1, host_memory=1000, prompts=600), a=sleepy, b=KEPT)
    assert story.machine.parts.prompts.limit == 600
    a = story.use(10.0)
    (park, limit) = commands(story.want(20.0, "b"))
    assert isinstance(park, Park)
    assert limit == LimitPrompts("w", 300)
    story.machine.step(InstanceParked(21.0, f"w/a@{a}", a, 1))
    assert story.machine.parts.prompts.limit == 300
    assert commands(
        story.change(22.0, capacity=Capacity(1, host_memory=1000, prompts=600, prompts_in_memory=False))
    ) == [LimitPrompts("w", 600)]


def test_what_the_runtime_drops_is_an_event() -> None:
    story = Library()
    a = story.use(10.0)
    said = story.machine.step(PromptsDropped(11.0, f"w/a@{a}", a, "Mismatch", "the weights changed", 50, 500))
    data = {"instance": f"w/a@{a}", "reason": "Mismatch", "message": "the weights changed", "tokens": 50, "bytes": 500}
    assert said == [Emit("model.prompts_dropped", "a", data)]
