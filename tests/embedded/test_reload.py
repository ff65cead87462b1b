"""Editing the file: the difference is applied, and nothing else."""

import signal
from pathlib import Path

import yaml

from hotseat.app import App, Settings
from hotseat.manifests import load

from .conftest import Up
from .harness import CHAT, Hotseat, eventually, model, workspace


def reloads(hotseat: Hotseat) -> list[str]:
    return [message for message in hotseat.said() if "reloaded" in message]


def wait_reload(hotseat: Hotseat, count: int = 1) -> str:
    hotseat.wait_for(lambda: len(reloads(hotseat)) >= count)
    return reloads(hotseat)[count - 1]


def test_editing_the_file_leaves_alone_what_did_not_change(up: Up) -> None:
    hotseat = up(model("a"), model("b"), model("c"))
    hotseat.ask("a")
    pid = hotseat.stats("a")["pid"]
    long = hotseat.send("a", stream=True, mock={"tokens": 30, "tokens_per_second": 40})
    long.begun()
    waiter = hotseat.send("c")
    eventually(lambda: hotseat.waiting("c"))

    hotseat.write([model("a", description="now described", aliases=["alpha"]), model("b", "--tokens", "3"), model("d")])
    assert wait_reload(hotseat) == "reloaded: added d; removed c; changed a, b"
    answer = waiter.answer()
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert len(long.answer().data()) == 31
    assert hotseat.ask("alpha").by == "a"
    assert hotseat.stats("a")["pid"] == pid, "what people read changed, not what runs"
    assert [row["id"] for row in hotseat.get("/v1/models").json()["data"]] == ["a", "b", "d"]
    assert hotseat.get("/v1/models/a").json()["description"] == "now described"
    assert (hotseat.ask("c").status, hotseat.ask("d").by) == (404, "d")
    assert hotseat.ask("b").json()["usage"]["completion_tokens"] == 3


def test_sighup_does_the_same_where_files_are_not_watched(up: Up) -> None:
    hotseat = up(model("a"), options=("--no-watch",))
    hotseat.ask("a")
    hotseat.write([model("a"), model("b")])
    hotseat.signal(signal.SIGHUP)
    assert wait_reload(hotseat) == "reloaded: added b"
    assert hotseat.loads() == {"a": 1}
    assert hotseat.ask("b").by == "b"


def test_a_model_that_changed_is_restarted_once_it_has_drained(up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.ask("a")
    long = hotseat.send("a", stream=True, mock={"tokens": 12, "tokens_per_second": 40})
    long.begun()
    hotseat.write([model("a", "--tokens", "3"), model("b")])
    wait_reload(hotseat)
    later = hotseat.send("a")
    assert len(long.answer().data()) == 13
    assert later.answer().json()["usage"]["completion_tokens"] == 3
    assert hotseat.wait_event("model.released", "a")["data"]["reason"] == "changed"
    assert hotseat.loads() == {"a": 2}


def test_an_error_in_the_file_changes_nothing_and_is_told(up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.ask("a")
    hotseat.write([model("a", lifecycel={}), model("c")])
    told = wait_reload(hotseat)
    assert told.startswith("not reloaded")
    assert "lifecycel" in told
    assert "lifecycle" in told
    assert (hotseat.ask("b").by, hotseat.ask("c").status) == ("b", 404)
    hotseat.write([model("a"), model("c")])
    assert wait_reload(hotseat, 2) == "reloaded: added c; removed b"
    eventually(lambda: hotseat.running() == {})
    hotseat.catch_up()
    assert hotseat.events("model.released", "b")[-1]["data"]["reason"] == "removed"
    assert hotseat.ask("c").by == "c"


def test_workspaces_may_come_change_and_go(up: Up) -> None:
    hotseat = up(workspace("east"), model("a", workspace="east"), model("b", workspace="east"), seats=2)
    hotseat.ask("a")
    pid = hotseat.stats("a")["pid"]
    hotseat.write([
        workspace("east", queue={"maxWaiting": 0}),
        workspace("west", defaultModel="b"),
        model("a", workspace="east"),
        model("b", workspace="west"),
    ])  # fmt: skip
    wait_reload(hotseat)
    assert hotseat.post(CHAT, {"messages": []}).by == "b"
    assert hotseat.running() == {"a": "ready", "b": "ready"}
    assert hotseat.stats("a")["pid"] == pid
    hotseat.write([workspace("west"), model("b", workspace="west"), model("a", workspace="west")])
    wait_reload(hotseat, 2)
    eventually(lambda: hotseat.running() == {"b": "ready"})
    assert hotseat.ask("a").by == "a"
    assert hotseat.running() == {"a": "ready"}
    eventually(lambda: [row["name"] for row in hotseat.get("/running").json()["workspaces"]] == ["west"])


def test_what_was_edited_while_hotseat_began_is_taken_in(tmp_path: Path) -> None:
    """Between its first reading and the beginning of the watch nobody tells of a change."""
    file, told = tmp_path / "models.yaml", list[str]()
    file.write_text(yaml.safe_dump(model("a")))
    settings = Settings((file,), tmp_path / "state", tmp_path / "cache")
    app = App(settings, load(settings.files), ends_in=lambda _: None, tell=told.append)
    file.write_text(yaml.safe_dump_all([model("a"), model("b")]))
    app.begin()
    try:
        eventually(lambda: told)
    finally:
        app.close()
    assert told == ["reloaded: added b"]
