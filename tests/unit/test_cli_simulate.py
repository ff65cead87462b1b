"""`hotseat simulate`: what it prints, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from hotseat.cli.main import main


def run(*args: str):
    return CliRunner().invoke(main, ["simulate", *args])


def test_json_has_the_options_and_every_figure():
    result = run("--models", "2", "--requests", "200", "--compare", "batch,fifo", "--load-time", "500ms", "-o", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["options"] == {
        "models": 2, "load": 0.8, "requests": 200, "shape": "poisson", "gpus": 1, "slots": 8, "load_time": 0.5, "stop_time": 1.0,
        "service_time": 2.0, "max_wait": 30.0, "min_residency": 0.0, "drain_timeout": 120.0, "seed": 1,
    }  # fmt: skip
    assert [each["policy"] for each in told["results"]] == ["batch", "fifo"]
    waits = {"count", "mean", "p50", "p99", "max"}
    for each in told["results"]:
        assert set(each) == {
            "policy", "requests", "answered", "refused", "cut", "unanswered", "seconds", "offered", "throughput", "switches",
            "switching", "idle", "lost", "effective_max_wait", "waits", "turns", "models",
        }  # fmt: skip
        assert each["answered"] == each["waits"]["count"] == 200
        assert list(each["models"]) == ["model-1", "model-2"]
        for part in (each, *each["models"].values()):
            assert set(part["waits"]) == set(part["turns"]) == waits
        assert sum(part["loads"] for part in each["models"].values()) == each["switches"]


def test_the_table_has_a_line_for_each_policy_and_each_model():
    result = run("--models", "3", "--requests", "50", "--compare", "batch,priority")
    assert result.exit_code == 0, result.output
    summary, models = result.stdout.split("\n\n")
    assert [line.split()[0] for line in summary.splitlines()] == ["POLICY", "batch", "priority"]
    assert "50 of 50" in summary
    assert len(models.splitlines()) == 1 + 2 * 3


def test_the_options_reach_the_simulation():
    def figures(*args: str):
        return json.loads(run("--requests", "300", "-o", "json", *args).stdout)["results"][0]

    plain = figures()
    assert figures("--seed", "1") == plain
    assert figures("--seed", "2") != plain
    assert figures("--policy", "fifo")["effective_max_wait"] is None
    assert figures("--max-wait", "1000s")["effective_max_wait"] == 1000.0
    assert figures("--load", "0.4")["offered"] < plain["offered"] * 0.6
    assert figures("--load-time", "20s")["switching"] > plain["switching"]
    assert figures("--gpus", "4")["switches"] == 4
    assert figures("--shape", "hot-cold")["models"]["model-1"]["waits"]["count"] > 280


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--policy", "nonsense"), "there is no policy 'nonsense'; there is: batch, fifo, priority"),
        (("--compare", "batch,nonsense"), "there is no policy 'nonsense'"),
        (("--load-time", "3"), "'3' is not a duration such as 90s"),
        (("--service-time", "0s"), "an answer takes some time"),
        (("--shape", "hot-cold", "--models", "1"), "needs --models 2 or more"),
        (("--load", "0"), "0.0 is not in the range x>0"),
    ],
)
def test_what_makes_no_sense_is_said(args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.output
