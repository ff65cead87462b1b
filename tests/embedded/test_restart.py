"""What a hotseat knows that begins where another has ended."""

import json
import os
import signal
from pathlib import Path

from .conftest import Up
from .harness import Hotseat, eventually, model, workspace

SLOW = model("slow", "--load-time", "1")


def in_half_a_second(hotseat: Hotseat) -> str | None:
    """Ask for what takes a second to load."""
    return (
        hotseat.call("POST", "/v1/chat/completions", {"model": "slow", "messages": []}, X_Request_Timeout="0.45")
        .answer()
        .code
    )


def test_who_cannot_be_served_in_time_is_told_so_at_once_also_after_a_restart(up: Up, tmp_path: Path) -> None:
    first = up(SLOW, model("other"), folder=tmp_path)
    first.ask("slow")
    first.ask("other")
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    second = up(SLOW, model("other"), folder=tmp_path)
    assert in_half_a_second(second) == "deadline_unreachable"
    assert second.loads() == {"slow": 1, "other": 1}, "nothing was loaded for it"


def test_what_was_learned_is_there_after_a_kill_and_a_file_that_is_broken_costs_no_more_than_that(
    up: Up, tmp_path: Path
) -> None:
    first = up(SLOW, folder=tmp_path)
    first.ask("slow")
    learned = first.state / "learned.json"
    eventually(learned.exists)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    second = up(SLOW, folder=tmp_path)
    assert in_half_a_second(second) == "deadline_unreachable"
    second.signal(signal.SIGTERM)
    assert second.ended() == 0
    learned.write_text(learned.read_text()[:-20])
    third = up(SLOW, folder=tmp_path)
    for each in (first, second, third):  # they share one log
        each.expected_errors.append("started with empty statistics")
    assert third.ask("slow").by == "slow"
    assert "learned.json to learned.json.bad and started with empty statistics" in third.log()
    eventually(
        lambda: learned.exists() and [row["model"] for row in json.loads(learned.read_text())["models"]] == ["slow"]
    )


def test_what_was_learned_in_a_workspace_is_known_where_it_is_renamed(up: Up) -> None:
    """A bug once: the new one began with what was known at the start, and wrote that over what was learned since."""
    west, hotseat = {**SLOW, "spec": {**SLOW["spec"], "workspace": "west"}}, up(workspace(), SLOW)
    assert hotseat.ask("slow").by == "slow"
    hotseat.write([workspace("west"), west])
    eventually(lambda: [row["name"] for row in hotseat.get("/running").json()["workspaces"]] == ["west"])
    eventually(lambda: not hotseat.running())
    assert in_half_a_second(hotseat) == "deadline_unreachable"
