"""Groups and sets: who leaves when a model is loaded, whom the policies choose for that, and what waits for whom."""

import json
from pathlib import Path

import pytest

from hotseat.api.model import Model, ModelSpec
from hotseat.api.types import Metadata
from hotseat.api.workspace import Workspace
from hotseat.cluster.switcher.status_objects import group_problem, workspace_conditions
from hotseat.control.scheduling_spec import capacity_of, groups_of
from hotseat.core.messages import CacheObserved, CacheState, InstanceState, Residency, Start, Stop
from hotseat.core.policy.api import NOTHING, Capacity, Claim, Decision, ModelView, Policy, Preference, View
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.groups import NO_MODELS, UNGROUPED, Group, Groups
from hotseat.core.policy.strict import Fifo, Priority
from hotseat.core.scheduler import preferences as granting
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec
from hotseat.manifests import ManifestErrors, load
from tests.unit.core.policy.test_policies import busy, idle, wants
from tests.unit.core.scheduler.story import Story

HOUSE = Groups((
    Group("chat", frozenset("ab")),
    Group("tools", frozenset("cd"), swap=False, exclusive=False),
    Group("always", frozenset("ef"), swap=False, exclusive=False, persistent=True),
))  # fmt: skip
SETS = Groups(sets=(frozenset("ab"), frozenset("ac"), frozenset("bc"), frozenset("d")))


# The rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resident", "comer", "leaves"),
    [
        ("a", "b", True),  # one of its group at a time
        ("c", "d", False),  # swap: false
        ("c", "a", True),  # exclusive
        ("a", "c", False),  # directed: c's group is not
        ("e", "a", False),  # persistent
        ("a", "e", False),
        ("a", "a", False),
        ("x", "a", False),  # no group: the capacity alone decides
        ("a", "x", False),
    ],
)
def test_who_must_leave_when_a_model_is_loaded(resident: str, comer: str, leaves: bool) -> None:
    assert HOUSE.must_leave(resident, comer) is leaves
    assert HOUSE.eviction_options(comer, [resident]) == (frozenset(resident) if leaves else NO_MODELS,)
    assert HOUSE.can_join(comer, [resident]) is not leaves
    assert not UNGROUPED.must_leave(resident, comer)


def test_a_persistent_member_leaves_for_its_own_group_at_most() -> None:
    assert not HOUSE.may_leave("e", "a")
    assert not HOUSE.may_leave("e", "x")
    assert HOUSE.may_leave("e", "f")
    assert HOUSE.may_leave("a", "x")
    assert HOUSE.may_leave("x", "a")


def test_of_sets_each_that_holds_the_model_is_a_way() -> None:
    """Each two of a, b and c go together, all three do not: no rule for pairs could say that."""
    assert SETS.eviction_options("c", ["a"]) == (NO_MODELS,)
    assert SETS.eviction_options("c", ["a", "b"]) == (frozenset("b"), frozenset("a"))
    assert SETS.eviction_options("d", ["a", "x"]) == (frozenset("a"),)
    assert SETS.eviction_options("x", ["a", "b", "d"]) == (NO_MODELS,)
    assert not SETS.can_join("c", ["a", "b"])
    assert SETS.must_leave("d", "a")
    assert not SETS.must_leave("c", "a")


@pytest.mark.parametrize(
    ("groups", "models", "count"),
    [
        (HOUSE, "ab", 1),
        (HOUSE, "abef", 3),  # one of the chats, and what is persistent
        (HOUSE, "acd", 2),  # the tools: the chat is exclusive
        (HOUSE, "axy", 3),
        (SETS, "abc", 2),
        (SETS, "dx", 2),
        (UNGROUPED, "abc", 3),
    ],
)
def test_how_many_may_be_there_at_a_time(groups: Groups, models: str, count: int) -> None:
    """A round of turns is as long as that says; see Batch."""
    assert groups.max_coresident(set(models)) == count


def test_a_bound_is_widened_by_the_turns_that_groups_make_necessary() -> None:
    waiting = [wants(name, switch_cost=30.0) for name in "abcd"]
    chats, tools = (Groups((Group("all", frozenset("abcd"), swap=swap),)) for swap in (True, False))
    bounds = [decide(groups, *waiting).effective_max_wait for groups in (tools, chats)]
    assert bounds[0] < bounds[1] / 3


# The policies ---------------------------------------------------------------------------------------------------------


def decide(groups: Groups, *models: ModelView, gpus: int | None = None, policy: Policy | None = None) -> Decision:
    return (policy or Batch()).decide(View(100.0, Capacity(gpus), models, groups))


@pytest.mark.parametrize("policy", [Batch(), Fifo(), Priority()], ids=["batch", "fifo", "priority"])
def test_every_policy_swaps_within_a_group_and_lets_the_others_stay(policy: Policy) -> None:
    there = (idle("a"), idle("c"), idle("d"), idle("e"))
    assert decide(HOUSE, *there, wants("b"), policy=policy).resident == ("e", "b")
    assert decide(HOUSE, idle("a"), idle("c"), wants("d"), policy=policy).resident == ("a", "c", "d")


def test_a_model_whose_group_mate_is_busy_waits_for_its_bound_and_others_go_on_beside_it() -> None:
    assert decide(HOUSE, busy("a"), wants("b"), wants("e", since=95.0)) == Decision(("a", "e"), 120.0, 30.0)
    late = wants("b", since=60.0)
    assert decide(HOUSE, busy("a"), late).resident == ("b",)


def test_who_would_have_to_leave_for_the_first_does_not_overtake_it() -> None:
    """Loading c beside a, only to stop it for b, would be for nothing. One whose residency has begun waits with its bound."""
    exclusive = Groups((Group("one", frozenset("ab")), Group("two", frozenset("c"), exclusive=False)))
    assert decide(exclusive, busy("a"), wants("b"), wants("c", since=95.0)).resident == ("a",)
    assert decide(exclusive, busy("a"), wants("c", since=95.0)).resident == ("a", "c")
    assert decide(exclusive, wants("b"), wants("c", since=95.0)).resident == ("b",)


def test_space_is_kept_for_one_whose_group_cannot_make_way_yet() -> None:
    """B wants both GPUs when a is gone: what needs the second one now would only be in its way. With three there is room."""
    swap = Groups((Group("one", frozenset("ab")),))
    waiting = (wants("b", claim=Claim(2)), wants("x", since=95.0))
    assert decide(swap, busy("a"), *waiting, gpus=2).resident == ("a",)
    assert decide(swap, busy("a"), *waiting, gpus=3).resident == ("a", "x")


def test_both_group_and_space_may_ask_for_victims_and_no_more_leave_than_that() -> None:
    swap = Groups((Group("one", frozenset("ab")),))
    two = wants("b", claim=Claim(2))
    assert decide(swap, idle("a"), idle("x"), idle("y", last_used=40.0), two, gpus=3).resident == ("x", "b")
    assert decide(swap, idle("a"), idle("x"), wants("b"), gpus=2).resident == ("x", "b")
    assert decide(swap, idle("a", claim=NOTHING), wants("b", claim=NOTHING), gpus=1).resident == ("b",)


def test_no_space_is_made_by_a_persistent_one() -> None:
    assert decide(HOUSE, idle("e"), idle("x"), wants("a"), gpus=2).resident == ("e", "a")
    assert decide(HOUSE, idle("e"), wants("x"), gpus=1).resident == ("e",)
    assert decide(HOUSE, idle("e"), wants("f"), gpus=1).resident == ("f",)


def test_of_sets_the_way_is_taken_that_loses_least() -> None:
    assert decide(SETS, idle("a"), idle("b", last_used=40.0), wants("c")).resident == ("a", "c")
    dear = {"switch_cost": 60.0, "arrivals": 1.0}
    assert decide(SETS, idle("a"), idle("b", last_used=40.0, **dear), wants("c")).resident == ("b", "c")
    assert decide(SETS, idle("a"), busy("b"), wants("c")).resident == ("b", "c")
    assert decide(SETS, busy("a"), busy("b"), wants("c")) == Decision(("a", "b"), 120.0, 30.0)
    triple = Groups(sets=(frozenset("xa"), frozenset("xbcd")))
    assert decide(triple, idle("b"), idle("c"), idle("d"), wants("x")).resident == ("b", "c", "d", "x")


@pytest.mark.parametrize(
    "wish", [wants("c"), ModelView("c", preference=Preference.SCHEDULED)], ids=["queued", "preferred"]
)
def test_of_ways_that_cost_the_same_the_least_recently_used_leaves(wish: ModelView) -> None:
    for used, stays in (((60.0, 40.0), "a"), ((40.0, 60.0), "b")):
        there = (idle("a", last_used=used[0]), idle("b", last_used=used[1]))
        assert wished(SETS, *there, wish) == (stays, "c")


def test_one_that_cannot_be_proven_gone_does_not_leave_for_a_set() -> None:
    stuck = ModelView("b", state=InstanceState.UNPROVEN, leaving=True)
    assert decide(SETS, stuck, idle("a"), wants("c")).resident == ("c",)


def test_a_preload_makes_nobody_leave() -> None:
    assert decide(HOUSE, idle("a"), wants("b", may_evict=False)).resident == ("a",)
    assert decide(HOUSE, idle("a"), wants("c", may_evict=False)).resident == ("a", "c")


# Wishes ---------------------------------------------------------------------------------------------------------------


def wished(groups: Groups, *models: ModelView) -> tuple[str, ...]:
    return granting.decide_with_preferences(Batch(), View(100.0, Capacity(None), models, groups)).resident


def test_a_wish_makes_its_idle_group_mate_leave_and_waits_for_one_that_is_pinned_or_used() -> None:
    wish = ModelView("b", preference=Preference.SCHEDULED)
    assert wished(HOUSE, idle("a"), idle("e"), wish) == ("e", "b")
    assert wished(HOUSE, idle("a", claim=NOTHING), wish) == ("b",)
    assert wished(HOUSE, busy("a"), wish) == ("a",)
    assert wished(HOUSE, idle("a", pinned=True, preference=Preference.PINNED), wish) == ("a",)
    assert wished(
        SETS, idle("a"), idle("b", last_used=99.0, switch_cost=9.0), ModelView("c", preference=Preference.PINNED)
    ) == (
        "b",
        "c",
    )


def test_a_preload_that_is_pinned_is_not_put_off_for_a_lesser_wish() -> None:
    """A bug once: the two took turns for ever, and neither was used."""
    pinned = wants("a", may_evict=False, pinned=True, preference=Preference.PINNED)
    assert wished(HOUSE, pinned, ModelView("b", preference=Preference.SCHEDULED)) == ("a",)


def test_nobody_is_loaded_for_whom_a_pinned_one_would_have_to_leave() -> None:
    assert decide(HOUSE, idle("a", pinned=True), wants("b", since=10.0)).resident == ("a",)
    story = Grouped(HOUSE, "ab")
    story.terms["a"] = SchedulingSpec(pinned=True)
    story.machine.step(ConfigChanged(0.0, story.terms, story.capacity, HOUSE))
    (instance,) = story.machine.instances.values()
    story.ready(1.0, "a", instance.epoch)
    story.demand(2.0, {"b": 1})
    assert story.machine.residency.refusals["b"].code == "pinned"


# The machine ----------------------------------------------------------------------------------------------------------


class Grouped(Story):
    """A switching machine whose Workspace counts no capacity."""

    def __init__(self, groups: Groups, names: str, capacity: Capacity | None = None) -> None:
        super().__init__(capacity or Capacity(None, None), **{name: SchedulingSpec() for name in names})
        self.machine.step(ConfigChanged(0.0, self.terms, self.capacity, groups))
        for name in names:
            self.machine.step(CacheObserved(0.0, name, CacheState.CACHED))


def starts(commands: list) -> list[str]:
    return [c.model for c in commands if isinstance(c, Start)]


def test_the_next_of_a_group_starts_when_the_last_is_proven_gone_and_not_before() -> None:
    story = Grouped(HOUSE, "abc")
    epoch = next(c.epoch for c in story.demand(1.0, {"a": 1}) if isinstance(c, Start))
    story.ready(2.0, "a", epoch)
    assert starts(story.demand(3.0, {"c": 1})) == ["c"]  # beside it
    story.demand(4.0, {"b": 1})
    story.demand(5.0, {"b": 1})  # for as long as c's client had waited, it was expected back
    said = story.demand(5.5, {"b": 1})
    assert "a" in [c.model for c in said if isinstance(c, Stop)]
    assert not starts(said)
    third = next(h for h in story.machine.instances.values() if h.model == "c")
    assert not starts(story.released(6.0, "a", epoch))  # c, which loads, must leave for b as well
    assert starts(story.released(7.0, "c", third.epoch)) == ["b"]


def test_two_of_a_group_that_do_not_swap_load_together() -> None:
    story = Grouped(HOUSE, "cd")
    assert sorted(starts(story.demand(1.0, {"c": 1, "d": 1}))) == ["c", "d"]


def test_who_waits_for_space_that_a_persistent_group_keeps_is_told_and_served_when_it_goes() -> None:
    story = Grouped(HOUSE, "ae", Capacity(1))
    story.load(1.0, "e")
    story.demand(3.0, {"a": 1})
    refusal = story.machine.residency.refusals["a"]
    assert (refusal.code, refusal.message) == (
        "no_room",
        "there is no room for a: its Workspace keeps e loaded (groups.persistent)",
    )
    (instance,) = story.machine.instances.values()
    story.failed(5.0, "e", instance.epoch)
    assert starts([*story.released(5.0, "e", instance.epoch), *story.demand(6.0, {"a": 1})]) == ["a"]
    assert "a" not in story.machine.residency.refusals


def test_one_that_is_not_proven_gone_keeps_its_group_closed() -> None:
    story = Grouped(HOUSE, "abc")
    epoch = story.load(1.0, "a")
    story.unproven(3.0, "a", epoch)
    story.demand(4.0, {"b": 1, "c": 1})
    assert story.machine.residency.refusals["b"].code == "release_unproven"
    assert [h.model for h in story.machine.instances.values()] == ["a", "c"]


# The documents --------------------------------------------------------------------------------------------------------


def workspace(**spec: object) -> Workspace:
    return Workspace.model_validate({"metadata": {"name": "w"}, "spec": spec})


def test_what_a_workspace_says_is_what_the_core_hears() -> None:
    groups = [{"name": "one", "members": ["a", "b"], "swap": False}, {"name": "two", "persistent": True}]
    found = groups_of(workspace(groups=groups))
    assert found == Groups((Group("one", frozenset("ab"), swap=False), Group("two", frozenset(), persistent=True)))
    assert groups_of(workspace(sets=[["a", "b"], ["c"]])) == Groups(sets=(frozenset("ab"), frozenset("c")))
    assert groups_of(workspace()) == UNGROUPED
    assert capacity_of(workspace(capacity={"counted": False}, sets=[[]])) == Capacity(None, None)


def of(name: str, kind: str = "Model", **spec: object) -> dict:
    spec = spec if kind == "Workspace" else {"engine": "mock", **spec}
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


A, B = of("a", workspace="w", names=["a", "gpt-4"]), of("b", workspace="v")
EXTERNAL = of("x", workspace="w", engine="external", url="http://h:1")
LONELY = "no group and no set of the Workspace w names it, and that counts no capacity"


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"groups": [{"name": "g", "members": ["a", "aa"]}]}, "spec.groups[0].members[1]", "no such Model"),
        ({"groups": [{"name": "g", "members": ["b"]}]}, "spec.groups[0].members[0]", "b belongs to the Workspace v"),
        (
            {"sets": [["a"], ["gpt-4"]]},
            "spec.sets[1][0]",
            "gpt-4 is in spec.names of Model/a; members are named by metadata.name",
        ),
        ({"groups": [{"name": "g", "members": ["a"]}] * 2}, "spec.groups", "groups has g twice"),
        (
            {"groups": [{"name": "g", "members": ["a"]}, {"name": "h", "members": ["a"]}]},
            "spec.groups",
            "a is in g and in h; allowed: one group",
        ),
        ({"groups": [{"name": "g", "members": ["a", "a"]}]}, "spec.groups", "a is in g twice"),
        ({"capacity": {"counted": False}, "groups": [{"name": "g"}]}, "metadata.name", LONELY),
    ],
)
def test_what_is_wrong_is_told_by_its_field(tmp_path: Path, spec: dict, field: str, words: str) -> None:
    for index, document in enumerate((A, B, EXTERNAL, of("v", "Workspace"), of("w", "Workspace", **spec))):
        (tmp_path / f"{index}.json").write_text(json.dumps(document))
    with pytest.raises(ManifestErrors) as caught:
        load([tmp_path])
    assert [(p.field, p.message) for p in caught.value.problems] == [(field, caught.value.problems[0].message)]
    assert words in caught.value.problems[0].message
    assert Path(caught.value.problems[0].file).name in {"0.json", "4.json"}


def test_on_a_cluster_a_condition_says_what_no_api_server_can_check() -> None:
    models = [Model(metadata=Metadata(name=n), spec=ModelSpec(engine="mock")) for n in "ac"]
    models.append(Model(metadata=Metadata(name="x"), spec=ModelSpec(engine="external", url="http://h:1")))
    handle = workspace(capacity={"counted": False}, groups=[{"name": "g", "members": ["a", "b"]}])
    problem = group_problem(handle, models)
    assert problem == (
        "groups or sets name b, which is not a Model of this Workspace; capacity is not counted, and no group or set names c"
    )
    ready, _ = workspace_conditions(1, Residency(), broker_ok=None, group_problem=problem)
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "UnknownMember", problem)
    assert group_problem(workspace(groups=[{"name": "g", "members": ["a"]}]), models) == ""
