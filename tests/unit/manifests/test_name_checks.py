"""Names of virtual models and of profiles: none is taken, and each leads to a Model."""

import pytest

from hotseat.manifests import load
from tests.unit.manifests.test_loading import PLUGINS, model, problems, workspace, write  # noqa: F401 - a fixture


def virtual(name: str, *members: str, **more) -> dict:
    return {"name": name, "members": [{"model": each} for each in members], **more}


@pytest.mark.parametrize("name", ["a", "alias", "a:think"])
def test_a_virtual_model_has_no_name_of_a_model(write, name):  # noqa: F811
    named = model("a", names=["alias"], filters={"byName": {"a:think": {}}})
    (problem,) = problems(write(workspace("w", virtualModels=[virtual(name, "a")]), named))
    assert f"spec.virtualModels[0].name: Model/a has the name {name} already" in problem


def test_no_two_workspaces_have_a_virtual_model_of_one_name(write):  # noqa: F811
    spaces = [workspace(name, virtualModels=[virtual("v", "a")]) for name in ("w", "x")]
    path = write(*spaces, model("a", workspace="w"))
    (problem,) = problems(path)
    assert f"Workspace/x: spec.virtualModels[0].name: another virtual model has the name v: {path}:1" in problem


def test_members_and_targets_are_models(write):  # noqa: F811
    made = workspace(
        "w",
        virtualModels=[virtual("v", "a", "alias", "b"), virtual("u", "v")],
        profiles={"p": {"x": "v", "y": "", "z": "c"}},
    )
    found = problems(write(made, model("a", names=["alias"])))
    assert [problem.split(": ")[2] for problem in found] == [
        "spec.virtualModels[0].members[2].model",
        "spec.virtualModels[1].members[0].model",
        "spec.profiles.p.z",
    ]


def test_a_member_that_no_request_would_reach_is_told(write):  # noqa: F811
    made = workspace("w", virtualModels=[virtual("v", "a", "b", strategy="Spillover")])
    (problem,) = problems(write(made, model("a"), model("b")))
    assert "spec.virtualModels[0].members[0]: has no maxRequests" in problem


def test_members_may_be_of_another_workspace(write):  # noqa: F811
    spaces = [workspace("w", virtualModels=[virtual("v", "a", "b")]), workspace("x")]
    assert load([write(*spaces, model("a", workspace="x"), model("b", workspace="w"))], PLUGINS).workspaces
