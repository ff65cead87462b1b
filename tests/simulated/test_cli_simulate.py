"""`hotseat simulate`: what it prints, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hotseat.cli.main import main

DOCUMENTS = """
apiVersion: hotseat.dev/v1alpha1
kind: Workspace
metadata: {name: gpu-box}
spec:
  capacity: {gpus: 2}
  policy: {name: fifo, maxWait: 20s}
---
apiVersion: hotseat.dev/v1alpha1
kind: Model
metadata: {name: small}
spec: {engine: mock, concurrency: 4, scheduling: {priority: 5}}
---
apiVersion: hotseat.dev/v1alpha1
kind: Model
metadata: {name: large}
spec: {engine: mock, resources: {gpus: 2}}
"""
LOG = [
    {"time": "2026-03-01T12:00:00Z", "model": "small", "waited": 0, "seconds": 2, "status": 200},
    {"time": "2026-03-01T12:00:05Z", "model": "large", "waited": 3, "seconds": 9, "status": 200},
    {"time": "2026-03-01T12:00:06Z", "model": "large", "waited": None, "seconds": 1, "status": 499},
    {"time": "2026-03-01T12:00:07Z", "model": "large", "waited": None, "seconds": 0, "status": 400},
]


def run(*args: str):
    return CliRunner().invoke(main, ["simulate", *args])


def results(*args: str):
    result = run("-o", "json", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["results"]


def figures(*args: str):
    return results("--requests", "300", *args)[0]


@pytest.fixture
def documents(tmp_path: Path) -> str:
    path = tmp_path / "models.yaml"
    path.write_text(DOCUMENTS)
    return str(path)


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LOG))
    return str(path)


# What comes out -------------------------------------------------------------------------------------------------------


def test_json_has_the_options_and_every_figure():
    result = run("--models", "2", "--requests", "200", "--compare", "batch,fifo", "--load-time", "500ms", "-o", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["options"] == {
        "models": 2, "given": {}, "files": [], "workspace": None, "trace": None, "load": 0.8, "requests": 200, "duration": None,
        "shape": "poisson", "gpus": 1, "slots": 8, "load_time": 0.5, "stop_time": 1.0, "service_time": 2.0, "max_wait": "Auto",
        "min_residency": 0.0, "drain_timeout": 120.0, "service_spread": 0.0, "load_spread": 0.0, "routers": 1, "patience": None,
        "retry_after": 1.0, "seed": 1, "prompt_share": 0.0, "save_time": 0.1, "restore_time": 0.1,
    }  # fmt: skip
    assert [each["policy"] for each in told["results"]] == ["batch", "fifo"]
    waits = {"count", "mean", "p50", "p99", "max"}
    for each in told["results"]:
        assert set(each) == {
            "policy", "requests", "answered", "refused", "cut", "given_up", "unanswered", "seconds", "offered", "throughput", "switches",
            "serving", "switching", "idle", "spare", "lost", "effective_max_wait", "waits", "turns", "models",
        }  # fmt: skip
        assert each["answered"] == each["waits"]["count"] == 200
        assert list(each["models"]) == ["model-1", "model-2"]
        for part in (each, *each["models"].values()):
            assert set(part["waits"]) == set(part["turns"]) == waits
        assert sum(part["loads"] for part in each["models"].values()) == each["switches"]


def test_the_tables_have_a_line_for_each_policy_and_each_model():
    result = run("--models", "3", "--requests", "50", "--compare", "batch,naive")
    assert result.exit_code == 0, result.output
    summary, gpus, models = result.stdout.split("\n\n")
    for part in (summary, gpus):
        assert [line.split()[0] for line in part.splitlines()] == ["POLICY", "batch", "naive"]
    assert "50 of 50" in summary
    for line in gpus.splitlines()[1:]:
        shares = [float(cell.rstrip("%")) for cell in line.split()[2:6]]
        assert sum(shares) == pytest.approx(100, abs=0.2)
    assert len(models.splitlines()) == 1 + 2 * 3


def test_the_options_reach_the_simulation():
    plain = figures()
    assert figures("--seed", "1") == plain
    assert figures("--seed", "2") != plain
    assert figures("--policy", "fifo")["effective_max_wait"] is None
    assert figures("--max-wait", "1000s")["effective_max_wait"] == 1000.0
    assert figures("--load", "0.4")["offered"] < plain["offered"] * 0.6
    assert figures("--load-time", "20s")["switching"] > plain["switching"]
    assert figures("--gpus", "4")["switches"] == 4
    assert figures("--shape", "hot-cold")["models"]["model-1"]["waits"]["count"] > 280
    assert figures("--service-spread", "1")["waits"] != plain["waits"]
    assert figures("--load-spread", "1")["switching"] != plain["switching"]
    assert figures("--routers", "3")["answered"] == 300


def test_a_burst_of_forty_costs_a_switch_under_a_policy_and_forty_without():
    naive, fifo, batch = results(
        *("--shape", "alternate", "--models", "2", "--load-time", "3s", "--stop-time", "0s"),
        *("--compare", "naive,fifo,batch"),
    )
    assert [it["switches"] for it in (naive, fifo, batch)] == [40, 2, 2]
    assert naive["seconds"] == 200.0
    assert fifo["seconds"] == pytest.approx(18.0, abs=0.1)
    assert batch["seconds"] == pytest.approx(18.0, abs=0.1)


def test_a_day_is_simulated_whole():
    (day,) = results("--shape", "day", "--load", "0.05", "--load-time", "3s", "--service-time", "20s")
    assert day["seconds"] == pytest.approx(24 * 3600, rel=0.02)
    (hour,) = results("--duration", "1h", "--load", "0.1", "--service-time", "5s")
    assert hour["seconds"] == pytest.approx(3600, rel=0.02)


def test_models_are_as_they_are_described():
    small, large = "small=weight=9,service-time=500ms,slots=4", "large=gpus=2,load-time=30s,max-wait=1m"
    it = figures("--model", small, "--model", large, "--gpus", "2")
    assert list(it["models"]) == ["small", "large"]
    assert it["models"]["small"]["waits"]["count"] == pytest.approx(270, abs=20)
    assert it["effective_max_wait"] >= 60.0
    assert it["switching"] >= it["models"]["large"]["loads"] * 30.0 * 2


def test_documents_are_taken_with_their_scheduling(documents):
    it = figures("-f", documents)
    assert (it["policy"], list(it["models"])) == ("fifo", ["small", "large"])
    assert figures("-f", documents, "--policy", "batch")["effective_max_wait"] >= 20.0
    slow = figures("-f", documents, "--model", "large=load-time=30s")
    assert slow["switching"] >= slow["models"]["large"]["loads"] * 60.0


# Request logs ---------------------------------------------------------------------------------------------------------


def test_a_request_log_is_a_load(log):
    told = json.loads(run("--trace", log, "--load-time", "1s", "-o", "json").stdout)
    (it,) = told["results"]
    assert told["trace"] == {"requests": 3, "assumed": 1, "left_out": 1}
    assert (it["requests"], it["answered"], list(it["models"])) == (3, 3, ["small", "large"])
    assert it["seconds"] == pytest.approx(5.0 + 1.0 + 1.0 + 6.0, abs=0.1)  # the one that left takes 6 s, too
    result = run("--trace", log)
    assert "3 requests; not dispatched: 1 (the median" in result.stderr
    assert "; invalid: 1 (left out)" in result.stderr


def test_a_request_log_and_the_documents_go_together(log, documents):
    (it,) = results("--trace", log, "-f", documents, "--compare", "batch")
    assert it["models"]["large"]["loads"] == 1


def test_a_line_that_cannot_be_read_is_said(log):
    with Path(log).open("a") as more:
        more.write('{"time": "now"}\n')
    result = run("--trace", log)
    assert result.exit_code == 2
    assert f'{log}:5: `time` is "now"; allowed: a time such as' in result.output


# Pictures -------------------------------------------------------------------------------------------------------------


def test_a_picture_on_the_terminal_has_two_lines_a_model():
    result = run("--models", "2", "--requests", "200", "--plot", "-")
    picture = result.stdout.split("\n\n")[3].splitlines()
    assert picture[0].startswith("batch: ready ░ to █")
    assert [line[:9] for line in picture[2::2]] == ["model-1  ", "model-2  "]
    assert all(set(line[9:]) & set("▒▓█") for line in picture[2::2])
    assert any("█" in line for line in picture[3::2])


def test_a_png_is_drawn_where_matplotlib_is(tmp_path):
    path = tmp_path / "run.png"
    result = run("--models", "2", "--requests", "200", "--compare", "batch,naive", "--plot", str(path))
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--requests", "200", "--plot", str(tmp_path / "run.png"))
    assert result.exit_code == 1
    assert "pip install 'hotseat[plot]'; --plot - draws on the terminal" in result.output


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--policy", "nonsense"), "the policy 'nonsense' does not exist; allowed: batch, fifo, priority"),
        (("--compare", "batch,nonsense"), "the policy 'nonsense' does not exist"),
        (("--load-time", "3"), "'3' is not a duration such as 90s"),
        (("--service-time", "0s"), "--service-time must be above 0s"),
        (("--shape", "hot-cold", "--models", "1"), "needs --models 2 or more"),
        (("--load", "0"), "0.0 is not in the range x>0"),
        (("--requests", "5", "--duration", "1h"), "--duration excludes --requests"),
        (("--duration", "0s"), "--duration must be above 0s"),
        (("--shape", "alternate", "--load", "0.5"), "alternate sends all requests at once, and excludes --load"),
        (("--models", "2", "--model", "a"), "--model excludes --models"),
        (("--model", "a", "--model", "a=gpus=1"), "a is given twice"),
        (("--model", "=gpus=1"), "has no model name"),
        (("--model", "a=wieght=2"), "a: 'wieght' is not a key; allowed: weight, load-time, stop-time"),
        (("--model", "a=wieght=2"), "did you mean weight?"),
        (("--model", "a=weight"), "a: weight has no value; allowed: weight=VALUE"),
        (("--model", "a=weight=0"), "a: weight is '0', which is not a number of at least 0.001"),
        (("--model", "a=gpus=1.5"), "a: gpus is '1.5', which is not an integer of at least 0"),
        (("--model", "a=load-time=3"), "a: load-time is '3', which is not a duration such as 90s"),
        (("--model", "a=service-time=0s"), "a: service-time is '0s', which is not a duration above 0s"),
        (("--model", "a=gpus=2"), "a claims 2 GPUs, but there are 1"),
        (("--model", "a=gpus=0"), "no model uses a GPU"),
        (("--model", "a=weight=2", "--model", "b", "--shape", "hot-cold"), "a: --shape hot-cold defines the shares"),
        (("--workspace", "a"), "--workspace needs documents"),
        (("--plot", "run.pdf"), "run.pdf is not a PNG file"),
        (("--plot", "/nowhere/run.png"), "the folder /nowhere does not exist"),
        (("--trace", "/nowhere.jsonl"), "does not exist"),
    ],
)
def test_what_makes_no_sense_is_said(args, message):
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--gpus", "2"), "--file excludes --gpus"),
        (("--max-wait", "2s"), "--file excludes --max-wait"),
        (("--workspace", "other"), "Workspace 'other' does not exist; allowed: gpu-box"),
        (("--model", "medium"), "'medium' is not in the documents; allowed: small, large"),
        (("--model", "large=gpus=3"), "large claims 3 GPUs, but there are 2"),
    ],
)
def test_what_makes_no_sense_with_documents_is_said(args, message, documents):
    result = run("-f", documents, *args)
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--load", "0.5"), "--trace excludes --load"),
        (("--shape", "day"), "--trace excludes --shape"),
        (("--model", "other"), "'other' is not in the trace; allowed: small, large"),
        (("--model", "small=weight=2"), "small: --trace defines the shares"),
    ],
)
def test_what_makes_no_sense_with_a_request_log_is_said(args, message, log):
    result = run("--trace", log, *args)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_a_request_log_of_other_models_than_the_documents_is_said(log, documents):
    Path(documents).write_text(DOCUMENTS.replace("name: large", "name: other"))
    result = run("--trace", log, "-f", documents)
    assert result.exit_code == 2
    assert "requests large, which the documents do not have" in result.output


def test_documents_that_are_wrong_are_told_as_everywhere(documents):
    Path(documents).write_text(DOCUMENTS.replace("engine: mock", "engine: mokc"))
    result = run("-f", documents)
    assert result.exit_code == 2
    assert "models.yaml:12:16: Model/small: spec.engine:" in result.output
    assert "did you mean mock?" in result.output
