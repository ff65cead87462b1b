"""`hotseat switches|requests|events --since`, and `hotseat simulate --trace` of a history: what they ask and print."""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hotseat.api.units import format_time
from hotseat.cli.main import main
from hotseat.control.history_store import HistorySettings, HistoryStore, Kind, Row
from tests.unit.cli.fake_hotseat import FakeHotseat, error
from tests.unit.cli.test_requests import ROW

ARRIVED = "2026-01-31T12:00:00.000Z"
SWITCH = {
    "id": "w/1", "workspace": "w", "from": ["qwen"], "to": "gemma", "reason": "demand", "outcome": "completed",
    "started_at": ARRIVED, "waiting": 2, "phases": {"wait": 0.1, "load": 2.0, "total": 2.5}, "saved": 0, "restored": 0, "message": "",
}  # fmt: skip
EVENT = {
    "type": "dev.hotseat.model.ready.v1", "subject": "gemma", "time": ARRIVED, "data": {"instance": "w/g@1", "seconds": 2.0},
}  # fmt: skip


def test_switches_of_the_history_are_listed(fake: FakeHotseat, hotseat: Callable[..., Result]) -> None:
    fake.answers["GET /api/history/switches"] = {"switches": [SWITCH], "oldest": ARRIVED}
    shown = hotseat("switches", "--since", "24h")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[1].split()[:4] == ["qwen", "gemma", "demand", "completed"]
    assert fake.last.query == {"since": "24h", "limit": "10000"}
    shown = hotseat("switches", "--since", "2026-01-31T00:00:00Z", "--until", "1h", "-o", "json")
    assert json.loads(shown.stdout) == {"switches": [SWITCH], "oldest": ARRIVED}
    assert fake.last.query == {"since": "2026-01-31T00:00:00Z", "until": "1h", "limit": "10000"}


def test_requests_of_the_history_are_listed_newest_first(fake: FakeHotseat, hotseat: Callable[..., Result]) -> None:
    rows = [{**ROW, "id": id_, "arrived_at": ARRIVED} for id_ in ("5c1e9a-1", "5c1e9a-2")]
    fake.answers["GET /api/history/requests"] = {"requests": rows, "oldest": ARRIVED}
    assert hotseat("requests", "--since", "24h", "-o", "name").stdout == "5c1e9a-2\n5c1e9a-1\n"
    assert fake.last.query == {"since": "24h", "limit": "10000"}
    assert hotseat("requests", "--since", "24h", "--model", "Gemma", "--limit", "2").exit_code == 0
    assert fake.last.query == {"since": "24h", "model": "Gemma", "limit": "2"}


def test_events_of_the_history_are_printed_and_not_followed(fake: FakeHotseat, hotseat: Callable[..., Result]) -> None:
    fake.answers["GET /api/history/events"] = {"events": [EVENT], "oldest": ARRIVED}
    assert "model.ready       gemma   after 2.00s" in hotseat("events", "--since", "24h").stdout
    assert json.loads(hotseat("events", "--since", "24h", "-o", "json").stdout) == EVENT
    for option in ("--follow", "--history=3"):
        refused = hotseat("events", "--since", "24h", option)
        assert (refused.exit_code, "--since excludes" in refused.output) == (2, True)


@pytest.mark.parametrize("command", ["switches", "requests", "events"])
def test_an_end_needs_a_begin(command: str, hotseat: Callable[..., Result]) -> None:
    refused = hotseat(command, "--until", "1h")
    assert (refused.exit_code, "--until needs --since" in refused.output) == (2, True)


def test_more_than_is_listed_is_said(fake: FakeHotseat, hotseat: Callable[..., Result]) -> None:
    fake.answers["GET /api/history/switches"] = {"switches": [SWITCH] * 10_000, "oldest": ARRIVED}
    shown = hotseat("switches", "--since", "24h", "-o", "name")
    assert shown.stderr == "only the newest 10000 are listed; --until selects earlier ones\n"


def test_a_hotseat_without_a_history_says_so(fake: FakeHotseat, hotseat: Callable[..., Result]) -> None:
    fake.answers["GET /api/history/events"] = error(404, "No history is kept here.", "history_disabled")
    shown = hotseat("events", "--since", "24h")
    assert (shown.exit_code, "No history is kept here" in shown.output) == (1, True)


def requests(path: Path, *rows: dict[str, Any]) -> Path:
    store = HistoryStore(HistorySettings(path))
    for number, row in enumerate(rows):
        whole = {**ROW, "arrived_at": format_time(time.time() - 100.0 + number), **row}
        store.add(lambda row: [Row(Kind.REQUESTS, time.time(), "gemma", json.dumps(row))], whole)
    store.close()
    return path


def test_the_requests_of_a_history_are_simulated(tmp_path: Path) -> None:
    path = requests(tmp_path / "kept", {}, {"waited": None, "status": 503}, {"waited": None, "status": 400})
    shown = CliRunner().invoke(main, ["simulate", "--trace", str(path), "-o", "json"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert told["trace"] == {"requests": 2, "assumed": 1, "left_out": 1}
    (model,) = told["results"][0]["models"]
    assert "gemma" in (model, *(model.values() if isinstance(model, dict) else ())), "by its metadata.name"


@pytest.mark.parametrize(
    ("prepare", "said"), [("empty", "has no requests"), ("other", "it is no history of version 1: its version is 0")]
)
def test_a_database_without_requests_is_no_trace(prepare: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    if prepare == "empty":
        requests(path)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE x(y)")
    shown = CliRunner().invoke(main, ["simulate", "--trace", str(path)])
    assert shown.exit_code != 0
    assert said in shown.output
