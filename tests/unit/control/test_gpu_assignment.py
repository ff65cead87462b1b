"""Which GPUs a model gets: of one Workspace, and of the machine that Workspaces share."""

import logging

import pytest

from hotseat.api.workspace import Workspace
from hotseat.control.host_resources import assign_gpus
from hotseat.control.scheduling_spec import capacity_of
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceAdopted,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    QueuedDemand,
    Start,
    Stop,
)
from hotseat.core.policy.api import NOTHING, Capacity, Claim, ModelView, View
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.availability import shortage
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import ConfigChanged, DemandReported, SchedulingSpec, UnloadOrdered

FOUR = Capacity(4, None, ("0", "1", "2", "3"))
TWO_OF_24 = Capacity(2, 48, ("0", "1"))  # each has 24


def held(*placed: tuple[Claim, tuple[str, ...]], capacity: Capacity = TWO_OF_24) -> Claim:
    return sum((claim.placed(devices, capacity) for claim, devices in placed), NOTHING)


# One claim ------------------------------------------------------------------------------------------------------------


def test_whole_gpus_go_to_one_instance_each() -> None:
    assert Claim(2).place(NOTHING, FOUR) == ("0", "1")
    taken = held((Claim(2), ("0", "1")), capacity=FOUR)
    assert Claim(2).place(taken, FOUR) == ("2", "3")
    assert Claim(3).place(taken, FOUR) is None
    assert (taken - Claim(2).placed(("0", "1"), FOUR)) == NOTHING


def test_what_needs_no_gpu_gets_none_and_always_fits() -> None:
    assert NOTHING.place(held((Claim(4), FOUR.devices), capacity=FOUR), FOUR) == ()


def test_claims_of_memory_share_a_gpu_and_the_fullest_that_does_goes_first() -> None:
    taken = held((Claim(1, 10), ("0",)))
    assert Claim(1, 14).place(taken, TWO_OF_24) == ("0",)  # leaves the other one whole
    assert Claim(1, 15).place(taken, TWO_OF_24) == ("1",)


def test_space_in_the_sum_that_no_gpu_has_is_no_space() -> None:
    taken = held((Claim(1, 14), ("0",)), (Claim(1, 14), ("1",)))
    assert taken.memory + 20 <= TWO_OF_24.memory
    assert Claim(1, 20).place(taken, TWO_OF_24) is None
    assert Claim(1, 10).place(taken, TWO_OF_24) == ("0",)
    assert Claim(2, 20).place(taken, TWO_OF_24) == ("0", "1")  # 10 on each


def test_no_gpu_holds_more_than_it_has() -> None:
    assert Claim(1, 25).place(NOTHING, TWO_OF_24) is None
    assert Claim(2, 48).place(NOTHING, TWO_OF_24) == ("0", "1")
    assert Claim(2, 49).place(NOTHING, TWO_OF_24) is None


def test_what_claims_no_memory_has_its_gpu_to_itself() -> None:
    assert Claim(1).place(held((Claim(1, 1), ("0",))), TWO_OF_24) == ("1",)
    assert Claim(1, 1).place(held((Claim(1), ("0",)), (Claim(1), ("1",))), TWO_OF_24) is None


def test_beside_what_may_be_on_any_gpu_nothing_is_placed() -> None:
    """One that was started before GPUs were handed out."""
    assert Claim(1).place(Claim(1), FOUR) is None
    assert NOTHING.place(Claim(1), FOUR) == ()


def test_what_is_placed_stays_where_it_is_or_not_at_all() -> None:
    placed = Claim(1).placed(("1",), FOUR)
    assert placed.place(NOTHING, FOUR) == ("1",)
    assert placed.place(held((Claim(1), ("1",)), capacity=FOUR), FOUR) is None
    assert placed.place(NOTHING, Capacity(1, None, ("0",))) is None  # the GPU does not belong to the Workspace any more


def test_without_devices_there_are_only_sums_and_whole_gpus() -> None:
    assert Claim(1, 20).place(Claim(1, 20), Capacity(2, 48)) == ()
    assert Claim(1, 4).place(Claim(2, 8), Capacity(2, 48)) is None


# Policies and the machine ---------------------------------------------------------------------------------------------


def test_a_policy_evicts_nobody_where_going_would_leave_holes_on_two_gpus() -> None:
    def resident(name: str, memory: int, device: str, in_flight: int = 0) -> ModelView:
        claim = Claim(1, memory).placed((device,), TWO_OF_24)
        return ModelView(name, claim, state=InstanceState.READY, in_flight=in_flight, last_used=50.0)

    models = (
        resident("busy-0", 12, "0", in_flight=1),
        resident("idle-0", 6, "0"),
        resident("busy-1", 14, "1", in_flight=1),
        resident("idle-1", 4, "1"),
        ModelView("wants-12", Claim(1, 12), waiting=1, oldest=99.0),
    )
    decision = Batch().decide(View(100.0, TWO_OF_24, models))
    assert set(decision.resident) == {"busy-0", "busy-1", "idle-1", "wants-12"}
    larger = ModelView("wants-14", Claim(1, 14), waiting=1, oldest=99.0)
    waits = Batch().decide(View(100.0, TWO_OF_24, (*models[:-1], larger)))
    assert set(waits.resident) == {"busy-0", "idle-0", "busy-1", "idle-1"}


class Machine:
    """A switching machine whose engines do what they are told."""

    def __init__(self, capacity: Capacity, **models: SchedulingSpec) -> None:
        self.machine = Scheduler("w", Batch())
        self.models = models
        self.seq = 0
        self.starts: dict[str, Start] = {}
        self.stops: list[Stop] = []
        self.tell(ConfigChanged(0.0, models, capacity))
        for name in models:
            self.tell(CacheObserved(0.0, name, CacheState.CACHED))

    def tell(self, stimulus: object) -> None:
        for command in self.machine.step(stimulus):
            if isinstance(command, Start):
                self.starts[command.model] = command
            elif isinstance(command, Stop):
                self.stops.append(command)

    def want(self, now: float, *models: str) -> None:
        self.seq += 1
        waiting = {model: QueuedDemand(1, now) for model in models}
        self.tell(DemandReported(now, Demand("r", self.seq, self.machine.epoch, waiting)))

    def ready(self, now: float, model: str) -> None:
        start = self.starts[model]
        self.tell(InstanceReady(now, start.instance, start.epoch, f"http://{model}"))


def test_starts_name_gpus_that_nobody_else_has() -> None:
    registry = Machine(
        FOUR,
        a=SchedulingSpec(Claim(1)),
        b=SchedulingSpec(Claim(2)),
        c=SchedulingSpec(Claim(1)),
        cpu=SchedulingSpec(NOTHING),
    )
    registry.want(1.0, "a", "b", "c", "cpu")
    assert {name: start.devices for name, start in registry.starts.items()} == {
        "a": ("0",), "b": ("1", "2"), "c": ("3",), "cpu": ()
    }  # fmt: skip
    assert {r.model: r.devices for r in registry.machine.residency.residents}["b"] == ("1", "2")


def test_a_gpu_is_not_given_again_before_its_instance_is_proven_gone() -> None:
    registry = Machine(Capacity(2, None, ("0", "1")), a=SchedulingSpec(), b=SchedulingSpec(), c=SchedulingSpec())
    registry.want(1.0, "a", "b")
    registry.ready(2.0, "a")
    registry.ready(2.0, "b")
    registry.want(3.0, "b")
    registry.tell(UnloadOrdered(3.0, "a"))
    registry.want(3.1)
    assert [stop.model for stop in registry.stops] == ["a"]
    registry.want(4.0, "c", "b")
    assert "c" not in registry.starts
    gone = registry.stops[0]
    registry.tell(InstanceReleased(5.0, gone.instance, gone.epoch))
    assert registry.starts["c"].devices == ("0",)


def test_adoption_keeps_the_gpus() -> None:
    registry = Machine(Capacity(2, None, ("0", "1")), a=SchedulingSpec(), b=SchedulingSpec())
    registry.tell(InstanceAdopted(1.0, "a", "w/a@7", 7, "http://a", devices=("0",)))
    registry.want(2.0, "b")
    assert registry.starts["b"].devices == ("1",)
    assert registry.machine.residency.residents[0].devices == ("0",)


def test_a_workspace_that_gets_other_gpus_empties_the_old_ones() -> None:
    registry = Machine(Capacity(1, None, ("0",)), a=SchedulingSpec())
    registry.want(1.0, "a")
    registry.ready(2.0, "a")
    registry.want(3.0)
    registry.tell(ConfigChanged(4.0, registry.models, Capacity(1, None, ("1",))))
    registry.want(4.1)
    registry.want(4.2)
    assert [stop.model for stop in registry.stops] == ["a"]


def test_nothing_starts_on_a_gpu_that_another_workspace_has_not_given_back() -> None:
    """A request that comes meanwhile waits: it is no fault of its model's."""
    machine, terms = Scheduler("w", Batch()), {"a": SchedulingSpec()}
    machine.step(ConfigChanged(0.0, terms, Capacity(1, None, ("0",), away=("0",))))
    machine.step(CacheObserved(0.0, "a", CacheState.CACHED))
    said = machine.step(DemandReported(1.0, Demand("r", 1, machine.epoch, {"a": QueuedDemand(1, 1.0)})))
    assert not [each for each in said if isinstance(each, Start)]
    assert not machine.residency.refusals
    said = machine.step(ConfigChanged(2.0, terms, Capacity(1, None, ("0",))))
    assert [each.devices for each in said if isinstance(each, Start)] == [("0",)]


# Workspaces of one machine --------------------------------------------------------------------------------------------


def workspace(name: str, gpus: int, *devices: str) -> Workspace:
    capacity = {"gpus": gpus, **({"devices": devices} if devices else {})}
    return Workspace.model_validate({"metadata": {"name": name}, "spec": {"capacity": capacity}})


def test_workspaces_get_gpus_one_after_the_other() -> None:
    assert assign_gpus([workspace("a", 2), workspace("b", 1)], {}, None) == {"a": ("0", "1"), "b": ("2",)}


def test_what_a_workspace_states_is_its_own() -> None:
    assert assign_gpus([workspace("a", 2), workspace("b", 1, "0")], {}, None) == {"b": ("0",), "a": ("1", "2")}


def test_a_workspace_keeps_its_gpus_while_others_come_and_go() -> None:
    before = {"old": ("0",), "b": ("1", "2")}  # the old one still holds something
    assert assign_gpus([workspace("a", 1), workspace("b", 1)], before, None) == {"a": ("0",), "b": ("1",)}
    assert assign_gpus([workspace("a", 1), workspace("b", 1)], before, ("0", "1", "2")) == {"a": ("0",), "b": ("1",)}
    assert assign_gpus([workspace("a", 1), workspace("b", 1)], before, ("0", "1", "3")) == {"a": ("3",), "b": ("1",)}
    assert assign_gpus([workspace("b", 3)], {"b": ("1", "2")}, None) == {"b": ("1", "2", "0")}


def test_of_two_that_had_one_gpu_one_keeps_it() -> None:
    """A bug once: both did."""
    had = {"a": ("0",), "b": ("0", "1")}
    assert assign_gpus([workspace("a", 1), workspace("b", 2)], had, None) == {"a": ("0",), "b": ("1", "2")}
    assert assign_gpus([workspace("b", 2), workspace("a", 1)], had, None) == {"b": ("0", "1"), "a": ("2",)}


def test_where_there_are_too_few_a_workspace_gets_what_is_left_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert assign_gpus([workspace("a", 1), workspace("b", 2)], {}, ("5", "7")) == {"a": ("5",), "b": ("7",)}
    assert "Workspace b states 2 GPUs (capacity.gpus), but of the GPUs on this machine (5, 7) it gets 7" in caplog.text
    assert "Workspace a" not in caplog.text


def test_what_is_stated_and_is_not_there_or_is_another_ones_is_not_handed_out(caplog: pytest.LogCaptureFixture) -> None:
    ids = {"0": "GPU-aa", "1": "GPU-bb"}

    def given(*workspaces: Workspace) -> dict[str, tuple[str, ...]]:
        return assign_gpus(workspaces, {}, ("0", "1"), ids)

    assert given(workspace("a", 2, "0", "7")) == {"a": ("0",)}
    assert given(workspace("a", 1, "0"), workspace("b", 1, "GPU-aa")) == {"a": ("0",), "b": ()}
    assert given(workspace("a", 1, "GPU-b"), workspace("b", 1)) == {"a": ("1",), "b": ("0",)}
    assert given(workspace("a", 2, "1", "GPU-bb")) == {"a": ("1",)}
    assert given(workspace("a", 1, "MIG-cc")) == {"a": ("MIG-cc",)}  # no list has those
    assert given(workspace("a", 1, "GPU-cc")) == {"a": ()}
    assert given(workspace("a", 1, "GPU-")) == {"a": ()}, "it may be any"
    assert assign_gpus([workspace("a", 1, "1")], {}, ("3", "2")) == {"a": ()}, "it was given others"
    assert "Workspace b states 1 GPUs" in caplog.text


def test_without_any_gpu_nothing_is_handed_out_and_counts_are_taken_on_trust() -> None:
    assert assign_gpus([workspace("a", 1), workspace("b", 1, "0")], {}, ()) == {"b": ()}
    assert capacity_of(workspace("a", 4), None) == Capacity(4)


def test_a_workspace_has_no_more_to_give_than_the_gpus_that_it_gets() -> None:
    four = Workspace.model_validate(
        {"metadata": {"name": "w"}, "spec": {"capacity": {"gpus": 4, "acceleratorMemory": 96}}}
    )
    assert capacity_of(four, ("0", "1", "2", "3")) == Capacity(4, 96, ("0", "1", "2", "3"))
    assert capacity_of(four, ("0",)) == Capacity(1, 24, ("0",), missing=3)
    assert capacity_of(four, ()) == Capacity(0, 0, missing=4)


def test_who_needs_gpus_that_are_not_there_is_refused_and_told_why_and_the_others_run() -> None:
    short = Capacity(1, None, ("0",), missing=1)
    registry = Machine(short, large=SchedulingSpec(Claim(2)), small=SchedulingSpec(Claim(1)))
    registry.want(1.0, "large", "small")
    assert list(registry.starts) == ["small"]
    refusal = registry.machine.residency.refusals["large"]
    assert refusal.code == "too_large"
    assert refusal.message == (
        "large claims more than its Workspace has: 2 GPUs "
        "(available: 1 GPU; capacity.gpus states 2, but no more are available)"
    )
    shared = Capacity(2, 48, ("0", "1"), missing=2)
    assert shortage("m", Claim(1, 30), shared, (), now=0.0, epoch=1).message == (
        "m claims more than its Workspace has: 1 GPU with 30 of memory "
        "(available: 2 GPUs with 24 of memory each; capacity.gpus states 4, but no more are available)"
    )
    nothing = Machine(
        Capacity(0, 0, missing=1),
        a=SchedulingSpec(Claim(1)),
        b=SchedulingSpec(Claim(1, 5)),
        cpu=SchedulingSpec(NOTHING),
    )
    nothing.want(1.0, "a", "b", "cpu")
    assert list(nothing.starts) == ["cpu"]
    assert set(nothing.machine.residency.refusals) == {"a", "b"}
