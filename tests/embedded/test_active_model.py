"""`spec.activeModel`: editing the file is a switch, without any request."""

from .conftest import Up
from .harness import eventually, model, workspace


def test_editing_the_file_loads_the_active_model_once(up: Up) -> None:
    hotseat = up(workspace(activeModel="a"), model("a"), model("b", names=["b", "bee"]))
    hotseat.wait_event("model.ready", "a")
    hotseat.write([workspace(activeModel="bee"), model("a"), model("b", names=["b", "bee"])])
    eventually(lambda: hotseat.running() == {"b": "ready"})
    assert [e["data"]["reason"] for e in hotseat.events("switch.started")] == ["ordered", "ordered"]
    assert hotseat.ask("a").by == "a", "it makes room for demand"
    hotseat.write([workspace(activeModel="bee", queue={"maxWaiting": 7}), model("a"), model("b", names=["b", "bee"])])
    hotseat.wait_for(lambda: sum("reloaded" in each for each in hotseat.said()) == 2)
    assert hotseat.ask("a").by == "a"
    assert hotseat.loads() == {"a": 2, "b": 1}, "an unchanged field loads nothing again"


def test_a_name_of_no_model_is_not_taken_in(up: Up) -> None:
    hotseat = up(workspace(activeModel="a"), model("a"), model("b"))
    hotseat.wait_event("model.ready", "a")
    hotseat.write([workspace(activeModel="c"), model("a"), model("b")])
    hotseat.wait_for(lambda: any("not reloaded" in each for each in hotseat.said()))
    (told,) = [each for each in hotseat.said() if "not reloaded" in each]
    assert "Workspace/default: spec.activeModel: no Model has this name" in told
    assert "allowed: a, b" in told
    assert hotseat.running() == {"a": "ready"}
