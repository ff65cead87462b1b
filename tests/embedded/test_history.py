"""The history of a hotseat that runs: what was before a kill is there after it, for the routes, the commands and the simulator."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from .conftest import Up
from .harness import Hotseat, eventually, model

PROGRAM = str(Path(sys.executable).with_name("hotseat"))
KEYS = """
- {name: all, key: all-of-it}
- {name: some, key: some-of-it, models: [a], operations: [read]}
- {name: none, key: none-of-it, operations: [infer]}
"""


def history(hotseat: Hotseat, kind: str, query: str = "", key: str = "all-of-it") -> Any:
    answer = hotseat.get(f"/api/history/{kind}{query}", Authorization=f"Bearer {key}")
    return answer.json()[kind] if answer.status == 200 else (answer.status, answer.code)


def command(hotseat: Hotseat, *args: str) -> str:
    done = subprocess.run(
        [PROGRAM, "--url", hotseat.url, *args],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HOTSEAT_API_KEY": "all-of-it"},
    )
    return done.stdout


def kill(hotseat: Hotseat) -> None:
    os.killpg(hotseat.process.pid, signal.SIGKILL)
    hotseat.process.wait()


def test_what_was_before_a_kill_is_there_after_it(up: Up, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(KEYS)
    documents, options = (model("a", names=["a", "Ay"]), model("b")), ("--api-key-file", str(keys))
    first = up(*documents, options=options, folder=tmp_path)
    first.expected_errors.append("is stored as it is")
    asked = {"Authorization": "Bearer all-of-it"}
    for name in ("a", "b", "a"):
        assert first.send(name, "a private matter", headers=asked).answer().status == 200
    live = first.get("/api/requests", **asked).json()["requests"]
    switches = first.get("/api/switches", **asked).json()["switches"]
    eventually(lambda: len(history(first, "requests")) == 3 and len(history(first, "switches")) == 3)
    kill(first)

    second = up(*documents, options=options, folder=tmp_path)
    second.expected_errors.append("is stored as it is")
    assert second.get("/api/requests", **asked).json()["requests"] == []
    assert history(second, "requests") == live[::-1], "the same rows, newest last"
    for row, was in zip(history(second, "switches"), switches, strict=True):
        assert row.keys() == was.keys()
        assert row | {"started_at": ""} == was | {"started_at": ""}
        apart = datetime.fromisoformat(row["started_at"]) - datetime.fromisoformat(was["started_at"])
        assert abs(apart.total_seconds()) < 2.0, "it is found by the time of its end"
    kinds = [event["type"] for event in history(second, "events", "?since=1h")]
    assert kinds.count("dev.hotseat.switch.completed.v1") == 3
    assert "dev.hotseat.demand.reported.v1" not in kinds
    followed = [row for row in second.get_stream("/api/events?follow=false", **asked) if row.startswith("id: ")]
    assert followed[:1] in ([], ["id: 1"]), "the stream has the events of this process"

    assert [row["model"] for row in history(second, "requests", "?model=b&limit=5")] == ["b"]
    assert history(second, "requests", "?until=1h") == []
    assert history(second, "requests", "?model=Ay", "some-of-it") == [row for row in live[::-1] if row["model"] == "a"]
    assert history(second, "requests", "?model=b", "some-of-it") == (403, "model_not_allowed")
    assert history(second, "events", "", "none-of-it") == (403, "operation_not_allowed")

    assert len(json.loads(command(second, "switches", "--since", "24h", "-o", "json"))["switches"]) == 3
    assert command(second, "requests", "--since", "24h", "-o", "name").split() == [row["id"] for row in live]
    printed = command(second, "events", "--since", "24h")
    assert printed.count("switch.completed") == 3

    stored = second.state / "history.db"
    played = subprocess.run(
        [PROGRAM, "simulate", "--trace", str(stored), "-f", str(second.file), "-o", "json"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(played.stdout)["trace"] == {"requests": 3, "assumed": 0, "left_out": 0}, "while hotseat runs"
    for each in second.state.glob("history.db*"):
        assert not each.stat().st_mode & 0o077, f"{each}: others can read it"
        assert not [word for word in (b"private", b"all-of-it") if word in each.read_bytes()]


def test_a_history_that_is_off_keeps_nothing(up: Up) -> None:
    hotseat = up(model("a"), options=("--history", "off"))
    hotseat.ask("a")
    answer = hotseat.get("/api/history/requests")
    assert (answer.status, answer.code) == (404, "history_disabled")
    assert not [*hotseat.state.glob("history*")]


def test_a_corrupt_history_costs_no_more_than_that(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "kept.db"
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    hotseat = up(model("a"), env={"HOTSEAT_HISTORY": str(path), "HOTSEAT_HISTORY_DAYS": "1"})
    assert hotseat.ask("a").by == "a"
    eventually(lambda: hotseat.get("/api/history/requests").json()["requests"])
    assert f"renamed {path} to kept.db.bad and started with an empty history" in hotseat.log()
    hotseat.expected_errors.append("started with an empty history")
    hotseat.signal(signal.SIGTERM)
    assert hotseat.ended() == 0
    assert sorted(each.name for each in path.parent.iterdir()) == ["kept.db", "kept.db.bad"]
    with sqlite3.connect(path) as connection:
        (types,) = connection.execute("SELECT group_concat(json_extract(data, '$.type')) FROM events").fetchone()
    connection.close()
    assert "model.released" in types, "the events of the end are stored too"
