"""How smoothly the page scrolls with 200 models, 10,000 requests and a day of switches: measured in Chromium's own trace.

The same page with few rows is measured in the same run, so it is about the page and not about the machine.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from .conftest import Up
from .harness import PATIENCE, Hotseat, model
from .test_page import CHROMIUM, playwright

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"), pytest.mark.timeout(300)]

Rows = list[dict[str, Any]]
LONG = 50.0  # milliseconds of CPU of a task of the main thread, after which a frame is late for people


def rows(models: int, switches: int, requests: int) -> dict[str, Rows]:
    """Return what the routes of the page answer, from now back over a day."""
    now = datetime.now(UTC)

    def at(number: int, of: int) -> str:
        return (now - timedelta(days=1) * (number + 1) / of).isoformat().replace("+00:00", "Z")

    names = [f"model-{number:03}" for number in range(models)]
    status = {"value": "unloaded", "state": "unloaded", "since": None, "message": "", "pinned": False, "progress": None}
    listed = [
        {
            "id": name,
            "metadata_name": name,
            "names": [name],
            "workspace": "default",
            "engine": "mock",
            "description": "",
        }
        | {"capabilities": [], "status": status}
        for name in names
    ]
    happened, past = [], []
    for number in reversed(range(switches)):
        before, to = names[(number + 1) % models], names[number % models]
        phases = {"wait": 3.0, "drain": 0.5, "release": 0.5, "load": 4.0, "total": 5.0}
        told = {"switch": f"s-{number}", "from": [before], "to": to, "reason": "demand", "waiting": 3}
        past.append(
            {"id": f"s-{number}", "workspace": "default", "from": [before], "to": to, "reason": "demand", "waiting": 3}
            | {"outcome": "completed", "started_at": at(number, switches), "phases": phases, "message": ""}
        )
        for kind, subject, data in (
            ("switch.started", None, told),
            ("model.released", before, {"instance": f"{before}-1", "reason": "evicted", "seconds": 0.5}),
            ("model.ready", to, {"instance": f"{to}-1", "seconds": 4.0}),
            ("switch.completed", None, told | {"phases": phases}),
        ):
            happened.append(
                {"id": f"e-{number}-{kind}", "type": f"dev.hotseat.{kind}.v1", "source": "/workspaces/default"}
                | {"time": at(number, switches), "subject": subject, "data": data}
            )
    ended = [
        {"id": f"1-{number}", "state": "ended", "model": names[number % models], "wanted": None, "tenant": "ada"}
        | {"route": "/v1/chat/completions", "priority": 0, "arrived_at": at(number, requests), "status": 200}
        | {"seconds": 4.2, "waited": 1.0, "switch_seconds": 0.5, "ttft": 1.2, "prompt_tokens": 100, "cached_tokens": 0}
        | {"completion_tokens": 200, "tokens_per_second": 66.0, "captured": False}
        for number in reversed(range(requests))
    ]
    return {"models": listed, "events": happened, "switches": past, "requests": ended}


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def scrolled(browser: playwright.Browser, hotseat: Hotseat, held: dict[str, Rows], folder: Path) -> dict[str, float]:
    """Scroll each long list and a time line of 24 hours; return by view the share of time in long tasks of the main thread."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(1000 * PATIENCE)

    def answer(route: playwright.Route) -> None:
        path = route.request.url.split("?")[0].rsplit("/", 1)[-1]
        key = "data" if path == "models" else path
        route.fulfill(json={key: held[path], "oldest": held["events"][0]["time"]})

    page.route("**/api/history/*", answer)
    page.route("**/v1/models", answer)
    shares = {}
    places = {"models": ".rows", "requests": ".rows", "switches": ".rows", "events": ".rows", "": ".plot"}
    for view, place in places.items():
        page.goto(f"http://{hotseat.address}/ui/#/{view}")
        if place == ".plot":
            page.get_by_role("button", name="24 h").click()
        box = page.locator(place).first
        box.wait_for()
        if view in ("requests", "switches", "events"):
            shown = f"{len(held[view]):,}"
            playwright.expect(page.locator("main header .dim").first).to_contain_text(shown)
        box.hover()
        trace = folder / f"{view or 'now'}-{len(held['models'])}.json"
        browser.start_tracing(page=page, path=trace, categories=["toplevel", "blink.user_timing", "devtools.timeline"])
        for step in range(30):
            page.mouse.wheel(0, 900 if step < 20 else -1300)
            page.evaluate("() => new Promise(requestAnimationFrame)")
        browser.stop_tracing()
        shares[view or "now"] = long_share(json.loads(trace.read_text())["traceEvents"])
    page.close()
    return shares


def long_share(events: Rows) -> float:
    """Return the share of its CPU time that the main thread of the page spent in long tasks. CPU time: others use the machine too."""
    main = {
        (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        e for e in events if e["name"] in ("RunTask", "ThreadControllerImpl::RunTask") and (e["pid"], e["tid"]) in main
    ]
    assert tasks, "the trace has no task of the page"
    used = [each.get("tdur", 0) / 1000 for each in tasks]
    return sum(each for each in used if each > LONG) / sum(used)


def test_long_lists_scroll_as_smoothly_as_short_ones(up: Up, browser: playwright.Browser, tmp_path: Path) -> None:
    hotseat = up(model("a"))
    few = scrolled(browser, hotseat, rows(5, 20, 20), tmp_path)
    many = scrolled(browser, hotseat, rows(200, 1440, 10_000), tmp_path)
    for view, share in many.items():
        assert share <= few[view] + 0.1, (view, few, many)
