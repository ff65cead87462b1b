"""An instance's states: what the table allows takes place, what it does not is a bug that shows, and nothing else sets a state."""

import ast
from itertools import product
from pathlib import Path

import pytest

from hotseat import core
from hotseat.core.messages import InstanceReady, InstanceReleased, InstanceState
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.instance import STORY, TRANSITIONS, IllegalTransition, Instance, Trigger
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec


def instance(state: InstanceState = InstanceState.LOADING) -> Instance:
    return Instance("a", "w/a@1", 1, state, 0.0, SchedulingSpec())


LEGAL = [(before, trigger, edge.to) for trigger, edge in TRANSITIONS.items() for before in edge.sources if before]
ILLEGAL = [(b, t) for b, t in product(InstanceState, Trigger) if b not in TRANSITIONS[t].sources]


@pytest.mark.parametrize(("before", "trigger", "after"), LEGAL)
def test_an_edge_of_the_table_takes_place(before: InstanceState, trigger: Trigger, after: InstanceState | None) -> None:
    it = instance(before)
    it.transition(trigger, 7.0, "why so")
    assert it.state is (before if after is None else after)
    assert it.since == (0.0 if after is None else 7.0)
    (step,) = it.story
    assert (step.at, step.before, step.after, step.why) == (7.0, before, after, f"{trigger}: why so")


@pytest.mark.parametrize(("before", "trigger"), ILLEGAL)
def test_another_edge_raises_or_is_told_and_takes_place(before: InstanceState, trigger: Trigger) -> None:
    with pytest.raises(IllegalTransition, match=r"w/a@1: no transition"):
        instance(before).transition(trigger, 7.0)
    it, said = instance(before), list[str]()
    it.transition(trigger, 7.0, illegal=said.append)
    assert it.state is (TRANSITIONS[trigger].to or before)
    (message,) = said
    assert f"{before} → {TRANSITIONS[trigger].to or 'gone'} ({trigger})" in message
    assert len(it.story) == 1


def test_every_state_can_be_entered_and_left_and_every_trigger_has_its_row() -> None:
    assert TRANSITIONS.keys() == set(Trigger)
    assert {edge.to for edge in TRANSITIONS.values()} == {*InstanceState, None}
    assert {before for edge in TRANSITIONS.values() for before in edge.sources} == {*InstanceState, None}


@pytest.mark.parametrize("trigger", [t for t, edge in TRANSITIONS.items() if None in edge.sources])
def test_an_instance_begins_as_the_table_says(trigger: Trigger) -> None:
    it = Instance.begin(trigger, 3.0, model="a", id="w/a@1", epoch=1, spec=SchedulingSpec())
    assert (it.state, it.since, it.last_used) == (TRANSITIONS[trigger].to, 3.0, 3.0)
    assert [str(step) for step in it.story] == [f"3.0 new → {it.state} ({trigger})"]


@pytest.mark.parametrize("trigger", [t for t, edge in TRANSITIONS.items() if None not in edge.sources])
def test_an_instance_begins_in_no_other_way(trigger: Trigger) -> None:
    with pytest.raises(IllegalTransition):
        Instance.begin(trigger, 3.0, model="a", id="w/a@1", epoch=1, spec=SchedulingSpec())


def test_the_story_is_bounded() -> None:
    it = instance(InstanceState.READY)
    for second in range(STORY):
        it.transition(Trigger.QUIESCE, second)
        it.transition(Trigger.KEPT, second)
    assert len(it.story) == STORY
    assert it.story[0].at == STORY / 2


def test_a_story_is_known_a_while_longer_than_its_instance() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(preload=True)}, Capacity(1)))
    begun = Instance.begin(Trigger.STARTED, 1.0, model="a", id="w/a@1", epoch=1, spec=SchedulingSpec())
    machine.parts.state.add(begun)
    machine.step(InstanceReady(2.0, "w/a@1", 1, "http://a"))
    machine.step(InstanceReleased(3.0, "w/a@1", 1))
    assert "w/a@1" not in machine.instances
    assert [step.why for step in machine.parts.state.story("w/a@1")] == [
        "started",
        "ready",
        "failed: Vanished",
        "released",
    ]
    assert machine.parts.state.story("w/b@1") == ()


def test_only_the_table_s_module_sets_a_state() -> None:
    """No `x.state = …` of any object anywhere else in the core."""
    found = []
    for path in Path(core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            flat = [each for target in targets for each in getattr(target, "elts", [target])]
            found += [path.name for each in flat if isinstance(each, ast.Attribute) and each.attr == "state"]
    assert set(found) == {"instance.py"}
