"""monitoring/: its alert rules by a real promtool, and all that its rules, dashboards and manifests name is there."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat.telemetry.metrics import families
from tests.helm import tool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring/rules/rules.yaml"
CASES = ROOT / "monitoring/rules/rules_test.yaml"
PAGE = (ROOT / "docs/monitoring.md").read_text()
PROMTOOL = shutil.which("promtool")
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "monitoring/dashboards").glob("*.json"))
}
# Labels that targets bring: all series have them.
OF_TARGETS = {"namespace", "job", "instance"}

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed; on Debian: apt-get install prometheus"
)


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", RULES)


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", CASES)


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    for fires in (True, False):
        assert {each["alert"] for each in alerts()} == {
            case["alertname"] for case in cases if bool(case["exp_alerts"]) is fires
        }


def test_each_alert_says_how_grave_it_is_and_where_to_read_on() -> None:
    for alert in alerts():
        name = alert["alert"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+m", alert["for"])
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert "$value" in alert["annotations"]["description"] or name == "HotseatTargetDown", name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
        assert (ROOT / alert["annotations"]["runbook_url"]).is_file()


def test_each_alert_is_documented() -> None:
    rows = re.findall(r"(?m)^\| \[(\w+)\]\((.*?)\) \| (\w+) \|", PAGE)
    assert rows == [(each["alert"], f"runbooks/{each['alert']}.md", each["labels"]["severity"]) for each in alerts()]


@needs_promtool
def test_the_scrape_config_of_the_documentation_is_valid(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(# prometheus.yml\n.*?)```", PAGE, re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(text)
    shutil.copy(RULES, tmp_path / "hotseat.rules.yaml")
    promtool("check", "config", "--syntax-only", tmp_path / "prometheus.yml")


def known() -> dict[str, set[str]]:
    """Return the names of all series that hotseat has, with their labels."""
    names = {family.name: {*family.labels} for family in families()}
    for family in families():
        if family.kind == "histogram":
            names |= {f"{family.name}_{part}": {*family.labels} for part in ("sum", "count")}
            names[f"{family.name}_bucket"] = {*family.labels, "le"}
    return names


def test_rules_and_dashboards_name_metrics_and_labels_that_there_are() -> None:
    series = known()
    queries = [alert["expr"] for alert in alerts()]
    queries += [each["expr"] for made in DASHBOARDS.values() for panel in made["panels"] for each in panel["targets"]]
    for query in queries:
        found = dict(re.findall(r"\b(hotseat_\w+)(\{[^}]*\})?", query))
        assert found.keys() <= series.keys()
        for name, selector in found.items():
            assert set(re.findall(r"(\w+) *(?:!=|=~|!~|=)", selector)) <= series[name] | OF_TARGETS, query
        if found:
            grouped = {
                label for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in labels.split(", ")
            }
            assert grouped <= set.union(*(series[name] for name in found)) | OF_TARGETS, query


# Dashboards -----------------------------------------------------------------------------------------------------------


def test_the_dashboards_are_not_stale() -> None:
    command = [sys.executable, ROOT / "scripts/gen-dashboards", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_dashboards_are_in_both_installations() -> None:
    assert DASHBOARDS.keys() == {"overview", "switching", "model"}
    [made] = yaml.safe_load((ROOT / "monitoring/dashboards/kustomization.yaml").read_text())["configMapGenerator"]
    assert {Path(name).stem for name in made["files"]} == DASHBOARDS.keys()
    chart = ROOT / "charts/hotseat/files/monitoring/dashboards"
    assert {path.stem for path in chart.iterdir()} == DASHBOARDS.keys()


def test_each_dashboard_can_be_imported_and_asks_for_its_data_source() -> None:
    for name, dashboard in DASHBOARDS.items():
        assert dashboard["uid"] == f"hotseat-{name}"
        assert dashboard["schemaVersion"] >= 36, "data sources are objects since"
        first, *others = dashboard["templating"]["list"]
        assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
        asking = [
            *others,
            *dashboard["panels"],
            *(query for panel in dashboard["panels"] for query in panel["targets"]),
        ]
        assert {json.dumps(each["datasource"]) for each in asking} == {'{"type": "prometheus", "uid": "${datasource}"}'}
        text = json.dumps([panel["targets"] for panel in dashboard["panels"]])
        used = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval", "__range"}
        assert used == {each["name"] for each in others}


def test_panels_do_not_overlap_and_have_titles_of_their_own() -> None:
    for dashboard in DASHBOARDS.values():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
            assert not cells & taken, panel["title"]
            taken |= cells
        for field in ("id", "title"):
            values = [panel[field] for panel in dashboard["panels"]]
            assert len(set(values)) == len(values)


# Manifests ------------------------------------------------------------------------------------------------------------


def test_with_keys_prometheus_shows_one_to_the_router(tmp_path: Path) -> None:
    """A kustomization around monitoring/, as its own comment says, with the component and a label."""
    around = {
        "resources": [os.path.relpath(ROOT / "monitoring", tmp_path.resolve())],
        "components": [os.path.relpath(ROOT / "monitoring/keys", tmp_path.resolve())],
        "labels": [{"pairs": {"release": "prometheus"}}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(around))
    command = [tool("kubectl", "KUBECTL"), "kustomize", str(tmp_path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    made = {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(text)}
    [router] = made["ServiceMonitor/hotseat-router"]["spec"]["endpoints"]
    [switcher] = made["ServiceMonitor/hotseat-switcher"]["spec"]["endpoints"]
    assert router["authorization"] == {"credentials": {"name": "hotseat-monitoring-key", "key": "key"}}
    assert "authorization" not in switcher
    assert {each["metadata"]["labels"]["release"] for each in made.values()} == {"prometheus"}
    assert made["ConfigMap/hotseat-dashboards"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["PrometheusRule/hotseat"]["spec"] == yaml.safe_load(RULES.read_text())
