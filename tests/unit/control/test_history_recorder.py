"""What the history makes of events: a switch has the row of GET /api/switches."""

import json
from pathlib import Path
from typing import Any

from hotseat.control.event_log import EventLog
from hotseat.control.history_recorder import HistoryRecorder
from hotseat.control.history_store import HistorySettings, HistoryStore, Kind
from hotseat.core.events import Emit

SWITCH = {"switch": "w/4", "workspace": "w", "from": ["a"], "to": "b", "reason": "demand"}
PHASES = {"wait": 0.5, "drain": 1.0, "release": 0.5, "load": 2.0, "total": 3.5}


def recorded(path: Path, *emits: Emit) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Publish events. Return all that were published, and the events and the switches that are stored."""
    store, log = HistoryStore(HistorySettings(path / "history.db")), EventLog()
    log.add_shown_names({"a": "Model A", "b": "Model B"})
    log.subscribe(HistoryRecorder(store).event)
    for each in emits:
        log.emit("w", 3, each)
    store.close()
    kept = [[json.loads(row) for row in store.read(kind, limit=100)[0]] for kind in (Kind.EVENTS, Kind.SWITCHES)]
    return [event for _, event in log.after(0)], kept[0], kept[1]


def test_all_events_are_stored_but_those_about_demand_and_progress(tmp_path: Path) -> None:
    fetching = Emit("model.fetching", "a", {"done": 1})
    demand = Emit("demand.reported", "", {"router": "r"})
    published, events, switches = recorded(tmp_path, fetching, Emit("model.pinned", "a", {}), demand)
    assert events == [published[1]]
    assert switches == []


def test_the_row_of_a_switch_is_put_together_from_its_events(tmp_path: Path) -> None:
    published, events, switches = recorded(
        tmp_path,
        Emit("switch.started", "b", {**SWITCH, "waiting": 3}),
        Emit("model.prompts_saved", "a", {"instance": "w/a@1", "seconds": 0.1, "tokens": 9, "bytes": 700}),
        Emit("model.prompts_restored", "b", {"instance": "w/b@2", "seconds": 0.1, "tokens": 9, "bytes": 800}),
        Emit("switch.completed", "b", {**SWITCH, "phases": PHASES}),
        Emit("switch.started", "b", {**SWITCH, "switch": "w/5", "waiting": 1}),
        Emit(
            "switch.failed",
            "b",
            {**SWITCH, "switch": "w/5", "phases": {"total": 0.0}, "phase": "load", "message": "no"},
        ),
    )
    assert events == published
    first, second = switches
    assert first.pop("started_at").endswith("Z")
    assert first == {
        "id": "w/4",
        "workspace": "w",
        "from": ["Model A"],
        "to": "Model B",
        "reason": "demand",
        "outcome": "completed",
        "waiting": 3,
        "phases": PHASES,
        "saved": 700,
        "restored": 800,
        "message": "",
    }
    assert (second["outcome"], second["message"], second["waiting"]) == ("failed", "no", 1)
    assert (second["saved"], second["restored"]) == (0, 0), "those were of the switch before"
    assert second["started_at"] == f"{published[-1]['time'][:23]}Z"


def test_what_a_model_saved_before_it_was_loaded_again_is_not_of_the_next_switch(tmp_path: Path) -> None:
    _, _, (row,) = recorded(
        tmp_path,
        Emit("model.prompts_saved", "a", {"instance": "w/a@1", "seconds": 0.1, "tokens": 9, "bytes": 700}),
        Emit("model.ready", "a", {"instance": "w/a@3", "seconds": 2.0}),
        Emit("switch.started", "b", {**SWITCH, "waiting": 3}),
        Emit("switch.completed", "b", {**SWITCH, "phases": PHASES}),
    )
    assert row["saved"] == 0


def test_a_switch_whose_start_was_not_seen_is_stored_too(tmp_path: Path) -> None:
    _, _, (row,) = recorded(tmp_path, Emit("switch.cancelled", "b", {**SWITCH, "phases": PHASES, "message": "gone"}))
    assert (row["outcome"], row["waiting"], row["message"]) == ("cancelled", 0, "gone")
