"""Why a policy does not have a queued model loaded: which residents stay, until when, and why."""

from collections.abc import Mapping

import pytest

from hotseat.core.messages import WaitReason
from hotseat.core.policy.api import Capacity, Claim, ModelView, Obstacle, Policy, View
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.groups import UNGROUPED, Group, Groups
from hotseat.core.policy.strict import Fifo, Priority
from tests.unit.core.policy.test_policies import UNPROVEN, busy, idle, wants


def obstacles(
    *models: ModelView, policy: Policy | None = None, gpus: int = 1, groups: Groups = UNGROUPED
) -> Mapping[str, Obstacle]:
    decision = (policy or Batch()).decide(View(100.0, Capacity(gpus), models, groups))
    return {name: obstacle() for name, obstacle in decision.obstacles.items()}


def test_the_first_in_the_queue_waits_for_the_resident_and_the_others_for_their_turn() -> None:
    found = obstacles(busy("a"), wants("b", since=90.0), wants("c", since=91.0))
    assert found == {"b": Obstacle(WaitReason.BATCH, ("a",), 120.0)}


@pytest.mark.parametrize("policy", [Batch(), Fifo(), Priority()])
def test_a_model_that_is_placed_has_none(policy: Policy) -> None:
    assert obstacles(idle("a"), wants("b"), policy=policy) == {}


def test_of_several_residents_that_must_leave_the_last_one_decides() -> None:
    early, late = busy("early", min_residency=95.0), busy("late", min_residency=110.0)
    both = wants("big", claim=Claim(2), since=60.0)
    assert obstacles(early, late, both, gpus=2) == {"big": Obstacle(WaitReason.MIN_RESIDENCY, ("late", "early"), 120.0)}
    one = wants("small", since=60.0)
    assert obstacles(early, late, one, gpus=2) == {"small": Obstacle(WaitReason.MIN_RESIDENCY, ("early",), 105.0)}


def test_a_pinned_resident_stays() -> None:
    assert obstacles(idle("a", pinned=True), wants("b")) == {"b": Obstacle(WaitReason.PINNED, ("a",))}


def test_what_is_not_proven_gone_stays() -> None:
    stuck = ModelView("a", state=UNPROVEN, leaving=True)
    assert obstacles(stuck, wants("b")) == {"b": Obstacle(WaitReason.UNPROVEN, ("a",))}
    apart = Groups((Group("g", frozenset("ab")),))
    assert obstacles(stuck, wants("b"), gpus=2, groups=apart) == {"b": Obstacle(WaitReason.UNPROVEN, ("a",))}


def test_a_persistent_group_stays() -> None:
    groups = Groups((Group("keep", frozenset("a"), persistent=True, exclusive=False),))
    assert obstacles(idle("a"), wants("b"), groups=groups) == {"b": Obstacle(WaitReason.GROUP, ("a",))}


def test_the_first_of_a_group_comes_first() -> None:
    groups = Groups((Group("g", frozenset("bc")),))
    found = obstacles(wants("b", since=80.0), wants("c", since=81.0), gpus=2, groups=groups)
    assert found == {"c": Obstacle(WaitReason.GROUP, ("b",))}


def test_the_place_is_for_one_that_comes_first() -> None:
    found = obstacles(idle("a"), wants("b", since=80.0), wants("c", since=81.0))
    assert found == {"c": Obstacle(WaitReason.TURN, ("b",))}


def test_what_another_workspace_has_not_given_back_is_missing() -> None:
    view = View(100.0, Capacity(1, devices=("0",), away=("0",)), (wants("b"),))
    assert Batch().decide(view).obstacles["b"]() == Obstacle(WaitReason.CAPACITY)


def test_a_preload_evicts_nothing() -> None:
    found = obstacles(idle("a"), wants("b", may_evict=False))
    assert found == {"b": Obstacle(WaitReason.CAPACITY, ("a",))}


def test_priority_keeps_a_busy_resident_until_the_other_has_aged_past_it() -> None:
    vip = busy("vip", priority=2)
    assert obstacles(vip, wants("b"), policy=Priority()) == {"b": Obstacle(WaitReason.PRIORITY, ("vip",))}
    ages = wants("b", since=90.0, ageing=20.0)
    assert obstacles(vip, ages, policy=Priority()) == {"b": Obstacle(WaitReason.PRIORITY, ("vip",), 130.0)}


def test_fifo_keeps_the_resident_whose_requests_are_older() -> None:
    first = busy("a", waiting=1, oldest=80.0)
    assert obstacles(first, wants("b", since=90.0), policy=Fifo()) == {"b": Obstacle(WaitReason.BATCH, ("a",))}
