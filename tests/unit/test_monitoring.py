"""monitoring/: its alert rules by a real promtool, and all that its rules, dashboards and manifests name is there."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring/rules/rules.yaml"
CASES = ROOT / "monitoring/rules/rules_test.yaml"
PROMTOOL = shutil.which("promtool")

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
