"""Alert rules and dashboards in a real Prometheus that scrapes a real hotseat in trouble."""

import contextlib
import functools
import itertools
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.prometheus_server import PROGRAM, ROOT, Prometheus

from .conftest import Up
from .harness import Hotseat, eventually, model, workspace
from .receiver import Receiver

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="Prometheus is not installed; on Debian: apt-get install prometheus"),
    pytest.mark.timeout(300),
]

DASHBOARDS = sorted((ROOT / "monitoring/dashboards").glob("*.json"))
# Panels about what this hotseat does not have: GPUs of NVIDIA, and a cluster.
NOT_HERE = {
    "GPU memory",
    "GPU utilization",
    "GPU temperature",
    "GPU power",
    "Leading switchers",
    "Reconciliation of documents",
}
LONG = " ".join(map(str, range(200)))  # a prompt that is worth saving
# Who is asked in turns, and the seconds between: those after the first get most of the time in spite of their switches.
PAIRS = {("left", "right"): 0.05, ("broken",): 0.2, ("sleeper", "waker"): 1.5, ("keeper", "forgetter"): 1.5}
DEAD = "127.0.0.1:1"
EXPECTED = {
    "HotseatModelStarving": {"model": "starved"},
    "HotseatThrashing": {"workspace": "thrash"},
    "HotseatLoadFailures": {"model": "broken"},
    "HotseatLongDrain": {"model": "holder"},
    "HotseatEventDeliveryFailing": {"job": "hotseat"},
    "HotseatTargetDown": {"instance": DEAD},
}


@dataclass
class World:
    """A hotseat, and the Prometheus that scrapes it."""

    hotseat: Hotseat
    prometheus: Prometheus
    fired: dict[str, dict[str, Any]]  # by name: alerts that fired, as they were at last

    def all_fired(self) -> bool:
        """Look what fires, and return whether each expected alert has. One about something else fails the test."""
        for alert in self.prometheus.get("alerts")["alerts"]:
            name = alert["labels"]["alertname"]
            is_late = (
                name == "HotseatTargetDown" and alert["labels"]["instance"] != DEAD
            )  # beside much else on the machine
            if alert["state"] == "firing" and not is_late:
                assert alert["labels"].items() >= EXPECTED[name].items(), alert
                self.fired[name] = alert
        return self.fired.keys() >= EXPECTED.keys()


@pytest.fixture(scope="module")
def world(shared_up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start them, and wait until all the trouble has made its alert fire."""
    with contextlib.ExitStack() as stack:
        sink = Receiver(*[400] * 10_000)  # it refuses each event for good
        stack.callback(sink.close)
        thrash = {"workspace": "thrash", "lifecycle": {"drainTimeout": "0s"}}
        external = {"engine": "external", "url": "http://127.0.0.1:1", "args": [], "workspace": "bad"}
        slots = ("--slots", "2", "--token-bytes", "1000", "--prompt-rate", "1000")
        hotseat = shared_up(
            workspace("stuck", policy={"maxWait": "1s"}),
            model("holder", "--tokens-per-second", "1", workspace="stuck", lifecycle={"drainTimeout": "10m"}),
            model("starved", workspace="stuck"),
            workspace("thrash", policy={"maxWait": "1s"}),
            model("left", "--load-time", "0.6", **thrash, resources={"acceleratorMemory": "1Gi"}),
            model("right", "--load-time", "0.6", **thrash),
            workspace("bad"),
            model("broken", "--fault", "exit-loading", workspace="bad", fallback={"model": "far"}),
            model(
                "far", **external, circuitBreaker={"failureThreshold": 100}, retries={"attempts": 2, "backoff": "1ms"}
            ),
            workspace("asleep"),
            *(model(name, workspace="asleep", lifecycle={"release": "Park"}) for name in ("sleeper", "waker")),
            workspace("kept"),
            model("keeper", *slots, workspace="kept"),
            model("forgetter", *slots, "--fault", "save-fails", workspace="kept"),
            options=("--sink", sink.url),
            seats=5,
        )
        hotseat.expected_errors += ["broken", "was not delivered to", "far"]
        config = {"job_name": "hotseat", "static_configs": [{"targets": [hotseat.address, DEAD]}]}
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), [config])
        stack.callback(prometheus.close)
        eventually(
            lambda: prometheus.query(f'ALERTS{{instance="{DEAD}"}}')
        )  # before its first scrape there is no target at all
        eventually(lambda: not prometheus.query('ALERTS{instance=""}'))
        hotseat.ask("starved")  # its Workspace is known from then on
        hotseat.send("holder", max_tokens=600, stream=True).begun()
        hotseat.send("starved")
        over = threading.Event()
        asking = [threading.Thread(target=_ask, args=(hotseat, over, names, pause)) for names, pause in PAIRS.items()]
        stack.callback(lambda: [over.set(), *(thread.join() for thread in asking)])
        for thread in asking:
            thread.start()
        world = World(hotseat, prometheus, {})
        try:
            eventually(world.all_fired, 150, pause=0.25)
        except AssertionError as error:
            raise AssertionError(f"of all alerts, these fired: {sorted(world.fired)}") from error
        yield world


def _ask(hotseat: Hotseat, over: threading.Event, names: tuple[str, ...], pause: float) -> None:
    for name in itertools.cycle(names):
        if over.wait(pause):
            return
        hotseat.ask(name, LONG, stream=True, stream_options={"include_usage": True})


def test_every_rule_is_evaluated_without_an_error(world: World) -> None:
    rules = world.prometheus.rules()
    assert len(rules) == 8
    eventually(lambda: all(rule["health"] == "ok" for rule in world.prometheus.rules()))
    assert not [rule["lastError"] for rule in rules if rule.get("lastError")]


def test_alerts_fire_about_what_is_in_trouble_and_about_nothing_else(world: World) -> None:
    world.all_fired()
    assert {name: alert["labels"]["severity"] for name, alert in world.fired.items()} == {
        name: "critical" if name == "HotseatTargetDown" else "warning" for name in EXPECTED
    }


def test_their_texts_have_the_numbers(world: World) -> None:
    texts = {name: alert["annotations"]["description"] for name, alert in world.fired.items()}
    assert re.search("queued for [0-9.]+s, and", texts["HotseatModelStarving"])
    assert re.search("1 of its requests are still in flight", texts["HotseatLongDrain"])
    assert re.search("failed [3-9] times in the last", texts["HotseatLoadFailures"])
    assert re.search("lost [1-9][0-9]* events in the last", texts["HotseatEventDeliveryFailing"])
    assert re.search("[0-9.]+% of the time of Workspace thrash", texts["HotseatThrashing"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_each_query_of_a_dashboard_is_valid_and_has_data(world: World, path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    for title, target in [(panel["title"], target) for panel in panels for target in panel["targets"]]:
        has_data = functools.partial(world.prometheus.has_data, target)
        if not has_data() and title not in NOT_HERE:
            try:
                eventually(has_data, pause=0.25)
            except AssertionError:
                raise AssertionError(f"{title!r} shows nothing: {target['expr']}") from None


def test_metrics_follow_the_conventions_of_prometheus(world: World) -> None:
    text = world.hotseat.get("/metrics").body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_variables_of_dashboards_find_their_values(world: World) -> None:
    names = world.prometheus.get("label/model/values", **{"match[]": "hotseat_queued_requests"})
    assert set(names) == {"holder", "starved", "far", *itertools.chain(*PAIRS)}
    assert world.prometheus.query("hotseat_build_info")
