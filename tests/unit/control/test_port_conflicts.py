"""Who may state the port of another."""

from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.host_resources import port_conflicts


def model(name: str, **spec: Any) -> Model:
    spec = {"engine": "custom", "command": ["serve"], "port": 9000, **spec}
    return Model.model_validate({"metadata": {"name": name}, "spec": spec})


def workspace(name: str = "default", **spec: Any) -> Workspace:
    return Workspace.model_validate({"metadata": {"name": name}, "spec": spec})


HALF = {"resources": {"acceleratorMemory": "10Gi"}}
SHARED = {"capacity": {"gpus": 1, "acceleratorMemory": "24Gi"}}
TWO = {"capacity": {"gpus": 2}}


@pytest.mark.parametrize(
    ("one", "other", "home", "clash"),
    [
        ({}, {}, {}, False),  # they take turns
        ({}, {}, TWO, True),
        ({}, {"port": 9001}, TWO, False),
        ({}, {"port": None}, TWO, False),
        ({"resources": {"gpus": 2}}, {}, TWO, False),
        ({"resources": {"gpus": 0}}, {}, {}, True),
        (HALF, HALF, SHARED, True),
        (HALF, {"resources": {"acceleratorMemory": "20Gi"}}, SHARED, False),
        ({"lifecycle": {"release": "Park", "sleep": [{"path": "/s"}], "wake": [{"path": "/w"}]}}, {}, {}, True),
        ({}, {}, {**TWO, "groups": [{"name": "g", "members": ["a", "b"]}]}, False),
        ({}, {}, {**TWO, "groups": [{"name": "g", "members": ["a", "b"], "swap": False}]}, True),
        ({}, {"workspace": "second"}, {}, True),
    ],
)
def test_clashes(one: dict[str, Any], other: dict[str, Any], home: dict[str, Any], clash: bool) -> None:
    found = port_conflicts([model("a", **one), model("b", **other)], [workspace(**home), workspace("second")])
    assert len(found) == clash
    if found:
        assert found[0].startswith("the Models a and b both set port 9000 and may be loaded at once")


def test_a_server_that_is_not_ours_has_no_port_of_ours() -> None:
    external = {"engine": "external", "url": "http://127.0.0.1:9000", "command": []}
    assert port_conflicts([model("a", **external), model("b")], [workspace(**TWO)]) == []
