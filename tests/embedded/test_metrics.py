"""Metrics of a whole course: two models, a switch, a failed load and its back-off, and what the engines tell themselves."""

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

import hotseat as package

from .conftest import Up
from .harness import Hotseat, eventually, model, workspace


def samples(hotseat: Hotseat, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a name, by the values of their labels in the order of the labels' names."""
    return {key[1:]: value for key, value in hotseat.metrics().items() if key[0] == name}


def test_a_course_with_a_switch_and_a_failed_load(up: Up) -> None:
    hotseat = up(
        model("a", "--load-time", "0.2", "--tokens-per-second", "100"),
        model("b", "--load-time", "0.2"),
        model("bad", "--fault", "exit-loading"),
    )
    before = hotseat.metrics()
    assert before["hotseat_build_info", package.__version__] == 1
    assert before["hotseat_events_queued",] == before["hotseat_events_undelivered_total",] == 0
    assert before["hotseat_switching_gpu_seconds_total", "default"] == 0
    stream = hotseat.send("a", stream=True, stream_options={"include_usage": True}, mock={"tokens": 20})
    stream.begun()
    first = eventually(lambda: samples(hotseat, "hotseat_resident_seconds_total"))
    assert stream.answer().status == 200
    assert hotseat.ask("b").by == "b"
    assert hotseat.ask("bad").code == "model_failed"
    loads = {("a", "completed"): 1, ("b", "completed"): 1, ("bad", "failed"): 1}
    eventually(lambda: samples(hotseat, "hotseat_loads_total") == loads)
    assert samples(hotseat, "hotseat_switches_total") == {
        ("", "completed", "demand", "a"): 1,
        ("a", "completed", "demand", "b"): 1,
        ("b", "failed", "demand", "bad"): 1,
    }
    eventually(lambda: samples(hotseat, "hotseat_time_to_first_token_seconds_count") == {("a",): 1})
    assert samples(hotseat, "hotseat_time_to_first_token_seconds_sum")["a",] >= 0.2, "with its load"
    assert eventually(lambda: samples(hotseat, "hotseat_tokens_per_second_count")).keys() >= {("a",)}
    ((name,), backoff), *others = samples(hotseat, "hotseat_backoff_seconds").items()
    assert (name, others) == ("bad", [])
    assert 0 < backoff < 60
    now = hotseat.metrics()
    resident = {model: now["hotseat_resident_seconds_total", model, "default"] for model in ("a", "b")}
    assert resident["a"] > first["a", "default"] >= 0
    assert resident["b"] > 0
    assert 0 <= now["hotseat_idle_seconds_total", "a", "default"] < resident["a"], "its stream took a while"
    assert ("hotseat_resident_seconds_total", "bad", "default") not in now
    assert now["hotseat_switching_gpu_seconds_total", "default"] >= 0.4, "two loads on one GPU"
    body = hotseat.get("/metrics", Accept="application/openmetrics-text;version=1.0.0").body.decode()
    assert {"hotseat_loads", "hotseat_time_to_first_token_seconds"} <= {each.name for each in parse_openmetrics(body)}
    if shutil.which("promtool") is not None:
        text = hotseat.get("/metrics").body
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_an_idle_resident_goes_on_counting(up: Up) -> None:
    hotseat = up(model("a"))
    hotseat.ask("a")

    def idle() -> float:
        return samples(hotseat, "hotseat_idle_seconds_total").get(("a", "default"), 0.0)

    begun = eventually(idle)
    assert (
        eventually(lambda: (now := idle()) > begun + 0.5 and now)
        <= samples(hotseat, "hotseat_resident_seconds_total")["a", "default"]
    )


@pytest.mark.parametrize("gpus", [0, 2])
def test_switching_counts_by_gpus(up: Up, gpus: int) -> None:
    hotseat = up(model("a", "--load-time", "0.3", resources={"gpus": gpus}), workspace(capacity={"gpus": 2}))
    hotseat.ask("a")
    assert (samples(hotseat, "hotseat_switching_gpu_seconds_total")["default",] >= 0.6) is bool(gpus)


def engine_samples(hotseat: Hotseat) -> dict[tuple[str, ...], float]:
    return hotseat.metrics("/metrics/engines")


def test_engines_tell_of_themselves_and_none_is_loaded_for_it(up: Up) -> None:
    hotseat = up(model("a"), model("b"), model("c", "--fault", "metrics-fail"))
    assert engine_samples(hotseat) == {}
    assert hotseat.loads() == {}
    hotseat.ask("a")
    hotseat.ask("a")
    assert engine_samples(hotseat) == {
        ("hotseat_engine_scrape_success", "a", "default"): 1,
        ("mock_requests_total", "a", "default"): 2,
    }
    hotseat.ask("b")
    assert engine_samples(hotseat)["mock_requests_total", "b", "default"] == 1
    hotseat.ask("c")
    assert engine_samples(hotseat) == {("hotseat_engine_scrape_success", "c", "default"): 0}
    assert hotseat.loads() == {"a": 1, "b": 1, "c": 1}
    hotseat.post("/api/models/c/unload?wait=true")
    assert engine_samples(hotseat) == {}
    assert hotseat.loads() == {"a": 1, "b": 1, "c": 1}
