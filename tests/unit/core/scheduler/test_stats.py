"""What outlives a restart, or a document that comes back: what steps take, and the memory that models turned out to need."""

import dataclasses
import json

import pytest

from hotseat.control.codec import stats_from_json, stats_to_json
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceAdopted,
    InstanceMeasured,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    Park,
    QueuedDemand,
    Start,
    Stop,
)
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import ConfigChanged, DemandReported, LoadOrdered, SchedulingSpec, UnloadOrdered
from hotseat.core.scheduler.stats import ModelStats, StatsByModel

ROOM = Capacity(1, 48, ("0",))
A, B = SchedulingSpec(Claim(1, 10), fingerprint="a"), SchedulingSpec(Claim(1, 40), fingerprint="b", park=True)


class Story:
    """A machine, and the models that it begins with."""

    def __init__(self, remembered: StatsByModel | None = None, **models: SchedulingSpec) -> None:
        self.machine = Scheduler("w", Batch(), remembered=remembered or {})
        self.starts: dict[str, Start] = {}
        self.parks: list[Park] = []
        self.stops: list[Stop] = []
        self.change(0.0, **(models or {"a": A, "b": B}))

    def change(self, now: float, **models: SchedulingSpec) -> None:
        self.tell(ConfigChanged(now, models, ROOM))
        for name in models:
            self.tell(CacheObserved(now, name, CacheState.CACHED))

    def tell(self, stimulus: object) -> None:
        for command in self.machine.step(stimulus):
            match command:
                case Start():
                    self.starts[command.model] = command
                case Park():
                    self.parks.append(command)
                case Stop():
                    self.stops.append(command)

    def load(self, now: float, model: str, seconds: float) -> Start:
        self.tell(LoadOrdered(now, model))
        start = self.starts[model]
        self.tell(InstanceReady(now + seconds, start.instance, start.epoch, f"http://{model}"))
        return start

    def unload(self, now: float, model: str, seconds: float) -> None:
        self.tell(UnloadOrdered(now, model))
        stop = self.stops.pop()
        self.tell(InstanceReleased(now + seconds, stop.instance, stop.epoch))

    def cost(self, model: str) -> float:
        return self.machine.parts.history.durations.of(model)


def learned() -> Story:
    """a took 20 s to load and 2 s to stop, and 12 bytes; b slept after 3 s, with 7 bytes of the host."""
    story = Story()
    start = story.load(1.0, "a", 20.0)
    story.tell(InstanceMeasured(22.0, start.instance, start.epoch, 12))
    story.unload(30.0, "a", 2.0)
    story.load(40.0, "b", 5.0)
    story.tell(LoadOrdered(50.0, "a"))
    story.tell(DemandReported(50.0, Demand("r", 1, story.machine.epoch)))  # nothing is in flight
    (park,) = story.parks
    story.tell(InstanceParked(53.0, park.instance, park.epoch, park.turn, memory=7))
    return story


def after_restart(**models: SchedulingSpec) -> Story:
    return Story(stats_from_json(json.loads(json.dumps(stats_to_json(learned().machine.stats())))), **models)


def test_a_restart_forgets_nothing_that_was_learned_of_models() -> None:
    before, now = learned(), after_restart()
    assert now.cost("a") == before.cost("a") == pytest.approx(22.0)
    assert now.machine.parts.history.durations == before.machine.parts.history.durations
    assert now.machine.parts.state.specs["a"].claim == Claim(1, 12), "what it turned out to need"
    assert now.machine.parts.sleep.measured == {"b": 7}
    assert now.machine.stats() == before.machine.stats()


def test_requests_are_told_at_once_how_long_a_load_takes_at_the_least() -> None:
    now = after_restart()
    now.tell(DemandReported(1.0, Demand("r", 1, now.machine.epoch, {"b": QueuedDemand(1, 1.0)})))
    assert now.machine.residency.outlook["a"] == pytest.approx(10.0), "half of what it took"
    assert not Story().machine.residency.outlook


def test_a_model_that_was_changed_meanwhile_begins_anew() -> None:
    now = after_restart(a=dataclasses.replace(A, fingerprint="other"), b=B)
    assert now.cost("a") == 0.0
    assert now.machine.parts.state.specs["a"].claim == A.claim
    assert set(now.machine.stats()) == {"b"}


def test_what_engines_need_not_restart_for_changes_nothing() -> None:
    now = after_restart(a=dataclasses.replace(A, priority=5, max_wait=1.0), b=B)
    assert now.cost("a") == pytest.approx(22.0)


def test_a_document_that_changes_while_it_runs_begins_anew_and_finds_what_it_knew_when_it_is_back() -> None:
    story = learned()
    story.unload(60.0, "b", 1.0)
    before = story.machine.stats()
    story.change(70.0, a=dataclasses.replace(A, fingerprint="other"))
    assert not story.machine.stats()
    story.change(71.0, a=A)
    assert story.machine.stats()["a"] == before["a"]
    story.change(72.0, a=A, b=B)
    assert story.machine.stats() == before
    story.change(73.0, a=A, b=dataclasses.replace(B, fingerprint="other"))
    story.change(74.0, a=A, b=B)
    assert story.machine.stats() == before, "though the model was there all the time"


def test_an_engine_of_an_older_document_teaches_nothing_of_the_newer_one() -> None:
    story = Story(a=A)
    start = story.load(1.0, "a", 20.0)
    story.change(30.0, a=dataclasses.replace(A, fingerprint="leaner"))
    story.tell(InstanceMeasured(31.0, start.instance, start.epoch, 48))
    assert story.machine.parts.state.specs["a"].claim == A.claim
    story.tell(DemandReported(32.0, Demand("r", 1, story.machine.epoch)))
    (stop,) = story.stops
    story.tell(InstanceReleased(39.0, stop.instance, stop.epoch))
    assert not story.machine.stats()


def test_what_is_found_halfway_does_not_tell_how_long_it_takes() -> None:
    story = after_restart()
    story.tell(InstanceAdopted(1.0, "a", "w/a@7", 7, None, fingerprint="a"))
    story.tell(InstanceReady(1.5, "w/a@7", 7, "http://a"))
    assert story.cost("a") == pytest.approx(22.0), "not the half second that was left of a load"
    story.unload(10.0, "a", 4.0)
    assert story.machine.parts.history.durations.stop["a"].mean == pytest.approx(2.6), (
        "but this stop was seen as a whole"
    )
    story.tell(InstanceAdopted(20.0, "a", "w/a@8", 8, None, releasing=True, fingerprint="a"))
    story.tell(InstanceReleased(20.1, "w/a@8", 8))
    assert story.machine.parts.history.durations.stop["a"].mean == pytest.approx(2.6)


def test_secrets_of_documents_do_not_leave_with_lessons() -> None:
    story = Story(a=dataclasses.replace(A, fingerprint='{"env": "HF_TOKEN=hf_secret"}'))
    story.load(1.0, "a", 1.0)
    assert "secret" not in json.dumps(stats_to_json(story.machine.stats()))


GOOD = {"model": "a", "mark": "m", "load": {"mean": 1, "spread": 0.5}, "memory": 5}


def test_lessons_are_read_as_they_were_written_whatever_else_stands_there() -> None:
    assert stats_from_json([{**GOOD, "more": 1}]) == {"a": ModelStats("m", {"load": Estimate(1.0, 0.5)}, 5)}
    assert stats_from_json([]) == {}


@pytest.mark.parametrize(
    "rows",
    [
        None,
        3,
        ["a"],
        [{"model": "a"}],
        [{**GOOD, "load": 3}],
        [{**GOOD, "load": {"mean": 1}}],
        [{**GOOD, "load": {"mean": "soon", "spread": 0}}],
        [{**GOOD, "load": {"mean": -1, "spread": 0}}],
        [{**GOOD, "load": {"mean": float("nan"), "spread": 0}}],
        [{**GOOD, "memory": float("inf")}],
        [{**GOOD, "memory": None}],
        [{**GOOD, "load": {"mean": 1e308, "spread": 1e308}}],  # their sum would be in a status, and no JSON
        [{**GOOD, "stop": {"mean": 10**400, "spread": 0}}],
    ],
)
def test_what_are_no_lessons_is_refused(rows: object) -> None:
    with pytest.raises(ValueError, match=r"no|could not"):
        stats_from_json(rows)
