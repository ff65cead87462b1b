"""Names beside those of Models: which Model a request by one of them is for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from hotseat.api.model import Capability
from hotseat.api.workspace import Workspace
from hotseat.control.request_names import RequestNames
from hotseat.core.errors import UnknownModel


@dataclass
class It:
    state: str = "unloaded"
    requests: int = 0
    capabilities: Sequence[Capability] = ()


class There(dict[str, It]):
    def candidate(self, name: str) -> It | None:
        return self.get(name)


def space(name: str = "w", **spec: Any) -> Workspace:
    return Workspace.model_validate({"metadata": {"name": name}, "spec": spec})


def virtual(name: str, *members: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "members": [{"model": each} if isinstance(each, str) else each for each in members], **more}


def test_a_virtual_model_is_the_warmest_of_its_members() -> None:
    there = There(a=It(), b=It("ready"))
    names = RequestNames([space(virtualModels=[virtual("v", "a", "b")])], {}, there)
    assert (names.resolve("v", None), names.resolve("a", None), names.resolve("unknown", None)) == ("b", "a", "unknown")
    there["b"].state = "loading"
    assert names.resolve("v", None) == "b"
    there["a"].state = "ready"
    assert names.resolve("v", None) == "a"


def test_members_that_are_not_there_or_cannot_do_it_are_left_out() -> None:
    there = There(a=It("ready", capabilities=[Capability.CHAT]), b=It(capabilities=[Capability.EMBEDDING]))
    names = RequestNames([space(virtualModels=[virtual("v", "gone", "a", "b"), virtual("x", "gone")])], {}, there)
    assert names.resolve("v", Capability.EMBEDDING) == "b"
    assert names.resolve("v", Capability.SPEECH) == "a", "that Model says what it supports"
    with pytest.raises(UnknownModel, match="has no member"):
        names.resolve("x", None)
    assert (names.peek("v"), names.peek("x"), names.peek("a"), names.peek("gone")) == ("a", None, "a", None)


def test_requests_spill_over() -> None:
    there = There(a=It(requests=1), b=It(requests=7), c=It())
    members = {"model": "a", "maxRequests": 2}, {"model": "b", "maxRequests": 7}, "c"
    names = RequestNames([space(virtualModels=[virtual("v", *members, strategy="Spillover")])], {}, there)
    assert names.resolve("v", None) == "a"
    there["a"].requests = 2
    assert names.resolve("v", None) == "c"


def test_turns_go_on_after_a_change_of_other_documents() -> None:
    there = There(a=It(), b=It())
    made = virtual("v", {"model": "a", "weight": 2}, "b", strategy="Weight")
    names = RequestNames([space(virtualModels=[made])], {}, there)
    assert [names.resolve("v", None) for _ in range(4)] == ["a", "b", "a", "a"]
    again = RequestNames([space(virtualModels=[made], profiles={"p": {}})], {}, there, names)
    assert [again.resolve("v", None) for _ in range(2)] == ["b", "a"]
    other = RequestNames([space(virtualModels=[{**made, "description": "new"}])], {}, there, again)
    assert [other.resolve("v", None) for _ in range(3)] == ["a", "b", "a"]


def test_an_active_profile_switches_names_to_models_and_virtual_models_or_off() -> None:
    there = There(a=It(), b=It("ready"), c=It())
    spec = {
        "virtualModels": [virtual("v", "a", "b")],
        "profiles": {"p": {"new": "v", "a": "c", "off": "", "v2": "a"}, "q": {"new": "c"}},
    }
    names = RequestNames([space(**spec)], {"w": "p"}, there)
    assert [names.resolve(name, None) for name in ("new", "a", "v2", "b")] == ["b", "c", "a", "b"]
    with pytest.raises(UnknownModel, match="switched off by the profile p"):
        names.resolve("off", None)
    assert RequestNames([space(**spec)], {"w": "q"}, there).resolve("new", None) == "c"
    assert RequestNames([space(**spec)], {"w": None}, there).resolve("new", None) == "new"


def test_a_model_goes_before_a_virtual_model_of_its_name() -> None:
    names = RequestNames([space(virtualModels=[virtual("a", "b")])], {}, There(a=It(), b=It()))
    assert names.resolve("a", None) == "a"


def test_without_such_names_there_are_none() -> None:
    assert not RequestNames([space(), space("x", profiles={"p": {"a": "b"}})], {"x": None}, There())
