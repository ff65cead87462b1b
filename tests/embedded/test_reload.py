"""Editing the file: the difference is applied, and nothing else."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from hotseat.app import App, Settings
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import ConfigChanged
from hotseat.importing.loading import Inputs, load
from hotseat.manifests.loading import Manifest

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
    long = hotseat.send("a", stream=True, mock={"tokens": 200, "tokens_per_second": 40})
    long.begun()
    waiter = hotseat.send("c")
    eventually(lambda: hotseat.waiting("c"))

    hotseat.write(
        [model("a", description="now described", names=["a", "alpha"]), model("b", "--tokens", "3"), model("d")]
    )
    assert wait_reload(hotseat) == "reloaded: added d; removed c; changed a, b"
    answer = waiter.answer()
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert len(long.answer().data()) == 201
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
    long = hotseat.send("a", stream=True, mock={"tokens": 80, "tokens_per_second": 40})
    long.begun()
    hotseat.write([model("a", "--tokens", "3"), model("b")])
    wait_reload(hotseat)
    later = hotseat.send("a")
    assert len(long.answer().data()) == 81
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
    assert hotseat.wait_event("model.released", "b")["data"]["reason"] == "removed"
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
    settings = Settings(Inputs((file,)), tmp_path / "state", tmp_path / "cache")
    app = App(settings, load(settings.inputs), on_shutdown_time=lambda _: None, report=told.append)
    file.write_text(yaml.safe_dump_all([model("a"), model("b")]))
    app.begin()
    try:
        eventually(lambda: told)
    finally:
        app.close()
    assert told == ["reloaded: added b"]


def test_a_reload_is_told_when_the_scheduler_acts_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug once: a request after the message was answered by the engine of the old document."""
    file, seen = tmp_path / "models.yaml", list[bool]()
    file.write_text(yaml.safe_dump(model("a")))
    settings = Settings(Inputs((file,)), tmp_path / "state", tmp_path / "cache", watch=False)
    app = App(
        settings,
        load(settings.inputs),
        on_shutdown_time=lambda _: None,
        report=lambda _: seen.append(len(app.registry.handles[0].scheduler.status()) == 2),
    )
    step = Scheduler.step

    def slowly(machine: Scheduler, stimulus: Any) -> Any:
        if isinstance(stimulus, ConfigChanged):
            time.sleep(0.2)
        return step(machine, stimulus)

    monkeypatch.setattr(Scheduler, "step", slowly)
    app.begin()
    try:
        file.write_text(yaml.safe_dump_all([model("a"), model("b")]))
        app.reload()
        eventually(lambda: seen)
    finally:
        app.close()
    assert seen == [True]


def test_one_model_with_a_bad_source_fails_alone_at_the_start_and_by_a_reload(up: Up, tmp_path: Path) -> None:
    """A limit once: none was served, or those behind it waited for ever."""
    bad = model("bad", source="/" + "x" * 300)
    hotseat = up(model("a"), bad)
    assert hotseat.ask("a").by == "a"
    refused = hotseat.ask("bad")
    assert (refused.status, refused.code) == (503, "model_failed")
    assert "File name too long" in refused.body.decode()
    hotseat.write([model("a"), bad, model("worse", source="/" + "y" * 300), model("c")])
    assert wait_reload(hotseat) == "reloaded: added c, worse"
    assert hotseat.ask("c").by == "c"
    assert "yyy: File name" not in hotseat.ask("bad").body.decode()


def test_saving_the_same_file_again_tries_again(up: Up, tmp_path: Path) -> None:
    documents = [model("a", source=str(tmp_path / "w.gguf"))]
    hotseat = up(*documents)
    for _ in range(6):  # which makes for a back-off of half a minute
        hotseat.post("/api/models/a/load?wait=5s")
    assert hotseat.ask("a").status == 503
    (tmp_path / "w.gguf").touch()
    hotseat.write(documents)
    eventually(lambda: hotseat.ask("a").status == 200)
    assert not reloads(hotseat), "nothing is another"


def test_requests_that_wait_survive_the_moving_of_their_model(up: Up) -> None:
    """A bug once: 404, "a has been removed"."""
    hotseat = up(model("a", "--load-time", "3"))
    waiters = [hotseat.send("a"), hotseat.send("a", stream=True, headers={"X-Hotseat-Loading": "comments"})]
    eventually(lambda: hotseat.waiting("a") == len(waiters))
    hotseat.write([workspace("new"), model("a", "--load-time", "0.2", workspace="new")])
    wait_reload(hotseat)
    eventually(lambda: hotseat.waiting("a") == len(waiters) or hotseat.running().get("a") == "ready")
    hotseat.write([workspace("newer"), workspace("new"), model("a", "--load-time", "0.1", workspace="newer")])
    assert [waiter.answer().by for waiter in waiters] == ["a", "a"]


def test_a_file_that_is_written_in_steps_is_taken_in_whole(up: Up) -> None:
    """A bug once: the second half's models were removed, and requests for them told so."""
    hotseat = up(model("a"), model("b", "--load-time", "3"))
    waiter = hotseat.send("b")
    eventually(lambda: hotseat.waiting("b"))
    text = hotseat.file.read_text()
    half = text.index("---\n")
    rest = text[half:] + "---\n" + json.dumps(model("c"))
    parts = [text[:half], *(rest[at : at + len(rest) // 7 + 1] for at in range(0, len(rest), len(rest) // 7 + 1))]
    with hotseat.file.open("w") as file:
        for part in parts:
            file.write(part)
            file.flush()
            time.sleep(0.15)  # all of them take longer than a file has to be quiet, none nearly as long
    assert wait_reload(hotseat) == "reloaded: added c"
    assert waiter.answer().by == "b"


def test_an_empty_or_vanished_file_keeps_the_last_good_models_and_says_so(up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.ask("a")
    hotseat.file.write_text("")
    assert "has no documents" in wait_reload(hotseat)
    hotseat.file.unlink()
    assert "cannot be read: No such file" in wait_reload(hotseat, 2)
    assert (hotseat.ask("b").by, hotseat.ask("a").by) == ("b", "a")
    assert all(message.startswith("not reloaded; the previous documents stay in use") for message in reloads(hotseat))
    hotseat.write([model("a"), model("c")])
    assert wait_reload(hotseat, 3) == "reloaded: added c; removed b"


def test_a_worker_that_starts_while_the_file_is_broken_says_so_in_the_log(up: Up) -> None:
    hotseat = up(model("a"))
    hotseat.ask("a")
    hotseat.file.write_text("models: [")
    wait_reload(hotseat)
    hotseat.expected_errors.append("was sent SIGKILL")
    os.kill(hotseat.worker(), signal.SIGKILL)
    said = "the documents from the start of hotseat stay in use"
    hotseat.wait_for(lambda: any(message.startswith(said) for message in hotseat.said()))
    assert hotseat.ask("a").by == "a"


def test_links_and_folders_that_are_replaced_are_noticed_each_time(up: Up, tmp_path: Path) -> None:
    """A file behind a ConfigMap's link, as the kubelet swaps it; then the folder with the link is another one."""
    folder = tmp_path / "config"

    def lay_out(version: str, *names: str) -> None:
        (folder / version).mkdir(parents=True)
        (folder / version / "models.yaml").write_text(yaml.safe_dump_all([model(name) for name in names]))
        (folder / "..tmp").symlink_to(version)
        (folder / "..tmp").replace(folder / "..data")

    lay_out("..v1", "a")
    (folder / "models.yaml").symlink_to("..data/models.yaml")
    hotseat = up(model("unused"), options=("-f", str(folder / "models.yaml")))
    lay_out("..v2", "a", "b")
    assert wait_reload(hotseat) == "reloaded: added b"
    for name in "cd":
        folder.rename(tmp_path / f"old-{name}")
        lay_out("..v1", name)
        (folder / "models.yaml").symlink_to("..data/models.yaml")
        hotseat.wait_for(lambda name=name: f"added {name}" in str(hotseat.said()))


def test_a_storm_of_sighups_costs_one_more_reading_and_no_threads(up: Up) -> None:
    hotseat = up(model("a"), options=("--no-watch",))
    worker = psutil.Process(hotseat.worker())
    threads = worker.num_threads()
    for _ in range(200):
        hotseat.signal(signal.SIGHUP)
        time.sleep(0.002)
    hotseat.write([model("a"), model("b")])
    hotseat.signal(signal.SIGHUP)
    assert wait_reload(hotseat) == "reloaded: added b"
    eventually(lambda: worker.num_threads() <= threads + 1)


def test_all_who_ask_while_documents_are_read_get_one_more_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reading, asked, readings = tmp_path / "models.yaml", threading.Event(), threading.Event(), list[Manifest]()
    file.write_text(yaml.safe_dump(model("a")))
    settings = Settings(Inputs((file,)), tmp_path / "state", tmp_path / "cache", watch=False)
    app = App(settings, load(settings.inputs), on_shutdown_time=lambda _: None)

    def slowly(*args: Any, **more: Any) -> Manifest:
        reading.set()
        assert asked.wait(30)
        readings.append(load(*args, **more))
        return readings[-1]

    monkeypatch.setattr("hotseat.app.load", slowly)
    app.begin()
    try:
        app.reload()
        assert reading.wait(30)
        for _ in range(100):
            app.reload()
        asked.set()
        eventually(lambda: len(readings) == 2)
        time.sleep(0.1)
    finally:
        app.close()
    assert len(readings) == 2
