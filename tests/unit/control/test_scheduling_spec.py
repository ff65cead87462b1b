"""What a resident model has to be loaded anew for."""

import pytest

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.scheduling_spec import capacity_of, fingerprint, prompt_budget, scheduling_spec_of
from hotseat.core.policy.api import NOTHING, Claim

SPEC = {"engine": "mock", "source": "https://example.com/a.gguf"}
WORKSPACE = Workspace.model_validate({"metadata": {"name": "default"}, "spec": {}})


def model(**changes: object) -> Model:
    return Model.model_validate({"metadata": {"name": "a"}, "spec": {**SPEC, **changes}})


def test_replicas_are_for_one_machine_and_change_while_a_model_stays() -> None:
    several = model(scheduling={"replicas": 3}, concurrency=1)
    assert (
        scheduling_spec_of(several, WORKSPACE).replicas,
        scheduling_spec_of(several, WORKSPACE, fetch_ahead=True).replicas,
    ) == (3, 1)
    assert fingerprint(several) == fingerprint(model())


def test_an_instance_with_several_pods_claims_for_all_of_them() -> None:
    several = model(scheduling={"replicas": 3}, concurrency=1, resources={"gpus": 2, "acceleratorMemory": "5Gi"})
    counted = Workspace.model_validate(
        {"metadata": {"name": "default"}, "spec": {"capacity": {"gpus": 8, "acceleratorMemory": "80Gi"}}}
    )
    spec = scheduling_spec_of(several, counted, fetch_ahead=True, pods=3)
    assert (spec.claim, spec.replicas, spec.pods) == (Claim(6, 15 * 2**30), 1, 3)
    assert scheduling_spec_of(model(resources={"gpus": 0}), counted, pods=3).claim == NOTHING


@pytest.mark.parametrize(
    "changes",
    [
        {"cache": {"onDelete": "Delete"}},
        {"lifecycle": {"idleTimeout": "5m", "preload": True}},
        {"names": ["gpt-4o"], "concurrency": 3},
        {"fallback": {"model": "b"}},
        {"filters": {"set": {"a": 1}}},
    ],
)
def test_what_an_engine_never_sees_changes_while_it_stays(changes: dict) -> None:
    assert (
        scheduling_spec_of(model(**changes), WORKSPACE).fingerprint
        == scheduling_spec_of(model(), WORKSPACE).fingerprint
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"cache": {"fetchBy": "Engine"}},
        {"cache": {"existingClaim": "c"}},
        {"args": ["-v"]},
        {"source": "/b.gguf"},
        {"lifecycle": {"release": "Park"}},
    ],
)
def test_what_it_was_started_with_is_changed_by_a_reload(changes: dict) -> None:
    assert fingerprint(model(**changes)) != fingerprint(model())


def test_a_model_parks_where_it_says_so_and_the_runtime_can() -> None:
    parks = model(lifecycle={"release": "Park"}, resources={"memory": "2Gi"})
    terms = scheduling_spec_of(parks, WORKSPACE)
    assert (terms.park, terms.host_memory) == (True, 2 << 30)
    assert not scheduling_spec_of(parks, WORKSPACE, may_park=False).park
    assert not scheduling_spec_of(model(), WORKSPACE).park


def test_host_memory_is_what_the_workspace_states_else_its_share() -> None:
    stated = Workspace.model_validate({"metadata": {"name": "w"}, "spec": {"capacity": {"hostMemory": "0"}}})
    assert capacity_of(stated, host_memory=100).host_memory == 0
    assert capacity_of(WORKSPACE, host_memory=100).host_memory == 100
    assert capacity_of(WORKSPACE).host_memory is None


GI = 2**30


@pytest.mark.parametrize(
    ("stated", "host_memory", "room", "budget"),
    [
        ({}, 64 * GI, 64 * GI, 8 * GI),
        ({}, 8 * GI, 64 * GI, 2 * GI),
        ({}, 64 * GI, 2 * GI, GI),
        ({}, None, 64 * GI, 8 * GI),
        ({}, 64 * GI, 2**26, 0),  # as in a container
        ({}, 64 * GI, 0, 0),
        ({}, 0, 64 * GI, 0),
        ({"storage": "Memory"}, 64 * GI, 2**26, 2**25),
        ({"budget": "4Gi"}, 8 * GI, 64 * GI, 4 * GI),
        ({"budget": "4Gi"}, 8 * GI, GI, GI),
        ({"storage": "Disk"}, 0, 0, 10 * GI),
        ({"storage": "Disk", "budget": "1Gi"}, 0, 0, GI),
        ({"storage": "Off", "budget": "1Gi"}, 64 * GI, 64 * GI, 0),
    ],
)
def test_the_budget_of_prompts(stated: dict[str, str], host_memory: int | None, room: int, budget: int) -> None:
    document = Workspace.model_validate({"metadata": {"name": "w"}, "spec": {"promptCache": stated}})
    assert prompt_budget(document, host_memory, room) == budget
    capacity = capacity_of(document, host_memory=host_memory, prompt_room=room)
    assert (capacity.prompts, capacity.prompts_in_memory) == (budget, stated.get("storage") != "Disk")
    assert capacity_of(document, host_memory=host_memory).prompts == 0


def test_only_an_engine_that_can_save_has_a_bound_for_it() -> None:
    document = Workspace.model_validate({"metadata": {"name": "w"}, "spec": {"promptCache": {"timeout": "3s"}}})
    model = Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}})
    assert scheduling_spec_of(model, document).prompt_timeout == 0.0
    assert scheduling_spec_of(model, document, saves_prompts=True).prompt_timeout == 3.0
