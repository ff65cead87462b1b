"""A real Prometheus beside a real cluster: the ServiceMonitors select what has metrics, and a missing leader is noticed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus_server import PROGRAM, Prometheus

from .harness import ROOT, Hotseat, model, wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(PROGRAM is None, reason="Prometheus is not installed; on Debian: apt-get install prometheus"),
]


def scrape_configs(hotseat: Hotseat) -> list[dict[str, Any]]:
    """Return what Prometheus Operator makes of the ServiceMonitors: a target for each address behind a Service that one selects."""
    found = []
    for component in ("router", "switcher"):
        spec = yaml.safe_load((ROOT / f"monitoring/servicemonitors/{component}.yaml").read_text())["spec"]
        [endpoint] = spec["endpoints"]
        labels = ",".join(f"{name}={value}" for name, value in spec["selector"]["matchLabels"].items())
        kept = "|".join(rule["regex"] for rule in endpoint.get("relabelings", ())) or ".*"
        for item in json.loads(hotseat.kubectl("get", "endpoints", "-l", labels, "-o", "json"))["items"]:
            name = item["metadata"]["name"]
            targets = [
                f"{address['ip']}:{port['port']}"
                for subset in item.get("subsets", ())
                for port in subset["ports"]
                if port.get("name") == endpoint["port"]
                for address in subset.get("addresses", ())
            ]
            if targets and re.fullmatch(kept, name):
                at = {"targets": targets, "labels": {"namespace": hotseat.namespace}}
                found.append({"job_name": name, "metrics_path": endpoint["path"], "static_configs": [at]})
    return found


@pytest.fixture
def prometheus(hotseat: Hotseat, tmp_path: Path) -> Iterator[Prometheus]:
    hotseat.component("switcher")
    configs = scrape_configs(hotseat)
    assert [each["job_name"] for each in configs] == ["hotseat-router-admin", "hotseat-switcher-direct"]
    prometheus = Prometheus(tmp_path, configs)
    yield prometheus
    prometheus.close()


def test_router_and_switcher_are_scraped_and_a_missing_switcher_is_noticed(
    hotseat: Hotseat, prometheus: Prometheus
) -> None:
    hotseat.apply(model("a"))
    hotseat.await_model("a")
    assert hotseat.served("a").status == 200

    def value(query: str) -> float | None:
        found = prometheus.query(query)
        return float(found[0]["value"][1]) if found else None

    for query, expected in (
        ('count(up{job=~"hotseat.*"} == 1)', 2),
        ('hotseat_leader{job="hotseat-switcher-direct"}', 1),
        ('hotseat_residents{job="hotseat-switcher-direct", model="a", state="ready"}', 1),
        ('sum(hotseat_requests_total{job="hotseat-router-admin", model="a", status="200"})', 1),
    ):
        wait_until(lambda query=query, expected=expected: value(query) == expected, 30, query)
    for panel in json.loads((ROOT / "monitoring/dashboards/overview.json").read_text())["panels"]:
        if panel["title"] in ("Leading switchers", "Reconciliation of documents", "Who is resident", "Version"):
            for target in panel["targets"]:
                wait_until(lambda target=target: prometheus.has_data(target), 30, panel["title"])
    assert all(rule["health"] == "ok" for rule in prometheus.rules())

    def firing() -> set[str]:
        return {each["labels"]["alertname"] for each in prometheus.get("alerts")["alerts"] if each["state"] == "firing"}

    assert not firing() - {"HotseatTargetDown"}, "of the time before the first scrape"
    hotseat.delete("ksvc", "hotseat-switcher")
    wait_until(lambda: firing() >= {"HotseatNoLeader", "HotseatTargetDown"}, 120, "both alerts")
