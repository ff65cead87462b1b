"""The request log of a hotseat that runs, and the simulator that plays it again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from .conftest import Up
from .harness import eventually, model, workspace


def test_what_was_asked_is_logged_and_can_be_played_again(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    pool = workspace(queue={"maxWaitingPerModel": 2})
    documents = (pool, model("a", "--first-token", "0.2"), model("b", names=["b", "other"]))
    hotseat = up(*documents, options=("--request-log", str(path), "--api-key", "sk-secret"))
    key = {"Authorization": "Bearer sk-secret"}
    asked = [
        hotseat.send("a", "a private matter", headers={**key, "X-Priority": "3"}),
        hotseat.send("other", "another", headers=key),
    ]
    assert [call.answer().status for call in asked] == [200, 200]
    assert hotseat.send("nobody", headers=key).answer().status == 404
    assert hotseat.send("a", headers={**key, "X-Hotseat-Max-Wait": "soon"}).answer().status == 400

    def lines() -> list[dict]:
        return [json.loads(row) for row in path.read_text().splitlines()]

    eventually(lambda: len(lines()) == 3)
    for each in (path, *hotseat.state.rglob("*"), hotseat.state):
        assert not each.stat().st_mode & 0o077, f"{each}: others can read it"
    told = {(line["model"], line["status"]): line for line in lines()}
    assert set(told) == {("a", 200), ("b", 200), ("a", 400)}
    first = told["a", 200]
    assert first.items() >= {"route": "chat", "priority": 3, "tenant": "key-1"}.items()
    assert 0.1 <= first["waited"] <= first["seconds"] - 0.2, "it waited for the load, and the answer takes 0.2 s"
    assert told["a", 400]["waited"] is None
    assert not [word for word in ("private", "another", "secret") if word in path.read_text()]

    program = str(Path(sys.executable).with_name("hotseat"))
    played = subprocess.run(
        [program, "simulate", "--trace", str(path), "-f", str(hotseat.file), "-o", "json", "--load-time", "100ms"],
        capture_output=True,
        check=True,
        text=True,
    )
    report = json.loads(played.stdout)
    assert report["trace"] == {"requests": 2, "assumed": 0, "left_out": 1}
    assert report["results"][0]["answered"] == 2


def test_a_fifo_that_nobody_reads_yet_holds_nothing_up(up: Up, tmp_path: Path) -> None:
    fifo = tmp_path / "requests"
    os.mkfifo(fifo)
    hotseat = up(model("a"), options=("--request-log", str(fifo)))
    assert hotseat.ask("a").by == "a"
    with fifo.open() as reader:
        assert json.loads(reader.readline())["model"] == "a", "and its lines wait for a reader"


def test_what_the_end_sends_away_is_logged(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    hotseat = up(model("a", "--load-time", "60"), options=("--request-log", str(path)))
    calls = [hotseat.send("a") for _ in range(300)]
    eventually(lambda: sum(row["count"] for row in hotseat.get("/running").json()["waiting"]) == 300)
    hotseat.signal(signal.SIGTERM)
    assert [call.answer().status for call in calls] == [503] * 300
    assert hotseat.ended() == 0
    assert [json.loads(row)["status"] for row in path.read_text().splitlines()] == [503] * 300
