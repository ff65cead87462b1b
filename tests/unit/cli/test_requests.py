"""`hotseat requests`: what it asks, and what it prints."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import Result

from tests.unit.cli.fake_hotseat import FakeHotseat, error

ROW = {
    "id": "5c1e9a-17", "state": "ended", "model": "Gemma", "wanted": None, "route": "chat", "tenant": None, "priority": 0,
    "status": 200, "seconds": 4.25, "waited": 2.5, "switch_seconds": 2.25, "ttft": 2.75, "prompt_tokens": 1200,
    "cached_tokens": 1000, "completion_tokens": 80, "tokens_per_second": 53.333, "captured": False,
}  # fmt: skip


def test_requests_are_listed(fake: FakeHotseat, hotseat: Callable[..., Result]) -> None:
    arrived = (datetime.now(UTC) - timedelta(seconds=5, milliseconds=100)).isoformat()
    waiting = {
        **dict.fromkeys(ROW),
        "id": "5c1e9a-18",
        "state": "waiting",
        "model": "Gemma",
        "route": "chat",
        "seconds": 1.0,
    }
    fake.answers["GET /api/requests"] = {"requests": [{**each, "arrived_at": arrived} for each in (waiting, ROW)]}
    shown = hotseat("requests", "--model", "Gemma", "--limit", "2")
    assert [re.split(r" {3,}", line) for line in shown.stdout.splitlines()] == [
        ["ID", "STATE", "MODEL", "ROUTE", "STATUS", "WAITED", "SWITCH", "TTFT", "TIME", "PROMPT", "CACHED", "GENERATED", "TOKENS/S", "AGE"],
        ["5c1e9a-18", "waiting", "Gemma", "chat", "-", "-", "-", "-", "1.00s", "-", "-", "-", "-", "5s"],
        ["5c1e9a-17", "ended", "Gemma", "chat", "200", "2.50s", "2.25s", "2.75s", "4.25s", "1200", "1000", "80", "53.33", "5s"],
    ]  # fmt: skip
    assert fake.last.query == {"model": "Gemma", "limit": "2"}
    assert hotseat("requests", "-o", "name").stdout == "5c1e9a-18\n5c1e9a-17\n"
    assert fake.last.query == {"limit": "50"}


def test_requests_are_cancelled(fake: FakeHotseat, hotseat: Callable[..., Result]) -> None:
    def cancelled(request: Any) -> dict[str, str]:
        return {"id": request.path.split("/")[3], "state": "cancelled"}

    fake.answers |= {f"POST /api/requests/{id_}/cancel": cancelled for id_ in ("5c1e9a-17", "5c1e9a-18")}
    assert (
        hotseat("requests", "cancel", "5c1e9a-17", "5c1e9a-18").stdout == "5c1e9a-17 cancelled\n5c1e9a-18 cancelled\n"
    )
    fake.answers["POST /api/requests/x/cancel"] = error(404, "No request.", "not_found")
    assert hotseat("requests", "cancel", "x").exit_code == 1


@pytest.mark.parametrize("args", [["cancel"], ["list"], ["5c1e9a-17"]])
def test_other_words_are_a_usage_error(hotseat: Callable[..., Result], args: list[str]) -> None:
    result = hotseat("requests", *args)
    assert result.exit_code == 2
    assert "`cancel` and one or more ids" in result.stderr
