"""Models that sleep instead of stopping, with real processes: mocks, whose seats are locks that a sleeper gives back."""

import signal
from typing import Any

import psutil
import pytest

from .conftest import Up
from .harness import Document, Hotseat, eventually, lives, model, quickest, workspace

MI = 2**20


def sleepy(name: str, *args: str, **spec: Any) -> Document:
    lifecycle = {"release": "Park", "stopTimeout": "2s"} | spec.pop("lifecycle", {})
    return model(name, *args, lifecycle=lifecycle, **spec)


def parked(hotseat: Hotseat) -> set[str]:
    return {row["model"] for row in hotseat.get("/running").json()["parked"]}


def state(hotseat: Hotseat, name: str) -> str:
    return hotseat.get(f"/v1/models/{name}").json()["status"]["state"]


def happened(hotseat: Hotseat, event: str) -> list[str]:
    return [row["model"] for row in hotseat.mock_lines() if row["event"] == event]


def engine(hotseat: Hotseat, name: str) -> psutil.Process:
    """The process of a model that was started once."""
    (pid,) = {row["pid"] for row in hotseat.mock_lines() if row["model"] == name}
    return psutil.Process(pid)


def test_two_models_that_alternate_are_loaded_once_each_and_then_woken(up: Up) -> None:
    hotseat = up(*(sleepy(name, "--load-time", "1.0", "--wake-time", "0.05") for name in "ab"))
    for name in "abababab":
        assert hotseat.ask(name).by == name
    assert hotseat.loads() == {"a": 1, "b": 1}
    assert happened(hotseat, "wake") == ["a", "b"] * 3
    assert (hotseat.running(), parked(hotseat)) == ({"b": "ready"}, {"a"})
    eventually(lambda: (state(hotseat, "a"), state(hotseat, "b")) == ("parked", "ready"))
    hotseat.wait_event("switch.completed", count=8)
    cold, _, *warm = (event["data"]["phases"]["total"] for event in hotseat.events("switch.completed"))
    assert cold > 1.0
    quickest(iter(warm).__next__, 0.5, trials=len(warm))


def test_parked_models_are_counted_apart(up: Up) -> None:
    hotseat = up(workspace(capacity={"hostMemory": "1Gi"}), *(sleepy(name) for name in "ab"))
    for name in "aba":
        hotseat.ask(name)
    row = hotseat.get("/running").json()
    assert [each["model"] for each in row["running"]] == ["a"]
    (sleeper,) = row["parked"]
    assert (sleeper["model"], sleeper["workspace"]) == ("b", "default")
    assert MI < sleeper["memory"] < 500 * MI
    assert row["workspaces"][0]["host_memory"] == 1024 * MI
    hotseat.wait_event("model.woken", "a")
    hotseat.wait_event("switch.completed", "a", count=2)
    metrics = hotseat.metrics()
    assert metrics["hotseat_parked_instances", "b", "default"] == 1
    assert ("hotseat_parked_instances", "a", "default") not in metrics
    assert metrics["hotseat_parked_host_memory_bytes", "b", "default"] == sleeper["memory"]
    assert metrics["hotseat_residents", "a", "ready", "default"] == 1
    assert ("hotseat_residents", "b", "parked", "default") not in metrics
    assert metrics["hotseat_parks_total", "a", "completed"] == metrics["hotseat_wakes_total", "a", "completed"] == 1
    assert (
        metrics["hotseat_park_duration_seconds_count", "b"] == metrics["hotseat_wake_duration_seconds_count", "a"] == 1
    )
    data = hotseat.wait_event("model.parked", "b")["data"]
    assert data["memory"] == sleeper["memory"]
    assert (
        hotseat.wait_event("model.woken", "a")["data"]["instance"]
        == hotseat.wait_event("model.parked", "a")["data"]["instance"]
    )


@pytest.mark.parametrize("kept", [True, False])
def test_a_parked_engine_says_whether_it_keeps_its_prompts(up: Up, kept: bool) -> None:
    slots = ["--slots", "2", *([] if kept else ["--sleep-clears-slots"])]
    hotseat = up(*(sleepy(name, *slots) for name in "ab"))
    said = "one two three four"
    for name in "ab":
        hotseat.ask(name, said)
    (sleeper,) = hotseat.get("/running").json()["parked"]
    assert (sleeper["model"], sleeper["keeps_prompts"]) == ("a", kept)
    assert hotseat.wait_event("model.parked", "a")["data"]["keeps_prompts"] is kept
    usage = hotseat.ask("a", said).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == (4 if kept else 0)
    metrics = hotseat.metrics()
    spared = [metrics.get((f"hotseat_prompt_cache_{each}_total", "a"), 0) for each in ("hits", "reused_tokens")]
    assert spared == ([1, 4] if kept else [0, 0])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sleep-fails", "POST /sleep?level=1 got status 500: "),
        ("sleep-hangs", "not asleep within 2 s (lifecycle.stopTimeout)"),
        ("sleep-lies", "not asleep within 2 s (lifecycle.stopTimeout)"),
    ],
)
def test_a_model_that_does_not_fall_asleep_is_stopped(up: Up, fault: str, said: str) -> None:
    hotseat = up(sleepy("a", "--fault", fault), model("b"))
    hotseat.ask("a")
    assert hotseat.ask("b").by == "b"
    assert hotseat.wait_event("model.failed", "a")["data"]["message"].startswith(said)
    assert hotseat.wait_event("model.released", "a")["data"]["reason"] == "park_failed"
    assert parked(hotseat) == set()
    eventually(lambda: state(hotseat, "a") == "unloaded")
    assert hotseat.metrics()["hotseat_parks_total", "a", "failed"] == 1
    assert hotseat.ask("a").by == "a"
    hotseat.ask("b")
    hotseat.catch_up()
    assert len(hotseat.events("model.failed", "a")) == 1, "it is not tried again at once"


@pytest.mark.parametrize("fault", ["wake-fails", "wake-hangs", "die-waking"])
def test_a_wake_that_fails_falls_back_to_a_cold_start_for_those_who_wait(up: Up, fault: str) -> None:
    hotseat = up(sleepy("a", "--fault", fault, lifecycle={"startTimeout": "2s"}), sleepy("b"))
    hotseat.ask("a")
    hotseat.ask("b")
    calls = [hotseat.send("a", f"number {n}") for n in range(3)]
    assert [call.answer().status for call in calls] == [200] * 3
    assert hotseat.loads() == {"a": 2, "b": 1}
    assert happened(hotseat, "wake") == []
    hotseat.wait_event("switch.completed", "a", count=2)
    hotseat.catch_up()
    assert [event["data"]["reason"][:4] for event in hotseat.events("model.failed", "a")] == ["Wake"]
    assert hotseat.metrics()["hotseat_wakes_total", "a", "failed"] == 1
    assert [event["data"]["outcome"] for event in hotseat.events() if "outcome" in event["data"]] == []
    assert [event["data"]["to"] for event in hotseat.events("switch.completed")] == ["a", "b", "a"]


def test_no_request_is_cut_by_a_park(up: Up) -> None:
    hotseat = up(sleepy("a"), sleepy("b"))
    hotseat.ask("a")
    long = hotseat.send("a", stream=True, mock={"tokens": 12, "tokens_per_second": 30})
    long.begun()
    assert hotseat.ask("b").by == "b"
    assert len(long.answer().data()) == 13
    assert hotseat.answered("a") < hotseat.moment("sleep", "a") <= hotseat.moment("start", "b")


def test_over_the_budget_the_least_recently_used_is_stopped(up: Up) -> None:
    hotseat = up(
        workspace(capacity={"hostMemory": "2500Mi"}),
        *(sleepy(name, resources={"memory": "1Gi"}) for name in "abcd"),
    )
    for name in "abc":
        hotseat.ask(name)
    assert parked(hotseat) == {"a", "b"}
    hotseat.ask("d")
    assert parked(hotseat) == {"b", "c"}
    assert hotseat.wait_event("model.released", "a")["data"]["reason"] == "host_memory"
    assert hotseat.moment("exit", "a") <= hotseat.moment("sleep", "c"), "there was room before"
    assert hotseat.ask("b").by == "b"
    assert happened(hotseat, "wake") == ["b"]


def test_unload_and_a_removed_document_end_a_parked_process(up: Up) -> None:
    documents = [sleepy("a"), sleepy("b"), sleepy("c")]
    hotseat = up(*documents)
    for name in "abc":
        hotseat.ask(name)
    first, second = engine(hotseat, "a"), engine(hotseat, "b")
    assert hotseat.post("/api/models/a/unload?wait=true").json()["state"] == "unloaded"
    assert not lives(first)
    assert parked(hotseat) == {"b"}
    hotseat.write([document for document in documents if document["metadata"]["name"] != "b"])
    hotseat.wait_event("model.released", "b")
    assert not lives(second)
    assert hotseat.running() == {"c": "ready"}


def test_a_shutdown_leaves_no_process_of_parked_models(up: Up) -> None:
    hotseat = up(*(sleepy(name, "--child") for name in "abc"))
    for name in "abc":
        hotseat.ask(name)
    assert parked(hotseat) == {"a", "b"}
    hotseat.signal(signal.SIGTERM)
    assert hotseat.ended() == 0
    assert hotseat.engines() == []


def test_a_parked_process_that_dies_is_noticed_and_loaded_anew_when_wanted(up: Up) -> None:
    hotseat = up(sleepy("a", "--fault", "die-asleep:0.2"), sleepy("b"))
    hotseat.ask("a")
    hotseat.ask("b")
    assert hotseat.wait_event("model.failed", "a")["data"]["reason"] == "Exited"
    hotseat.wait_event("model.released", "a")
    eventually(lambda: state(hotseat, "a") == "unloaded")
    assert (hotseat.running(), parked(hotseat)) == ({"b": "ready"}, set())
    assert hotseat.ask("a").by == "a"
    assert hotseat.loads() == {"a": 2, "b": 1}


def test_an_idle_model_is_parked_and_woken_by_a_request(up: Up) -> None:
    hotseat = up(sleepy("a", lifecycle={"idleTimeout": "300ms"}))
    hotseat.ask("a")
    hotseat.wait_event("model.parked", "a")
    assert (hotseat.running(), parked(hotseat)) == ({}, {"a"})
    assert hotseat.ask("a").by == "a"
    assert hotseat.loads() == {"a": 1}


def test_an_engine_of_ones_own_sleeps_by_the_requests_that_are_declared(up: Up) -> None:
    calls = {
        "sleep": [{"path": "/sleep", "timeout": "1s"}],
        "wake": [{"path": "/wake_up"}, {"path": "/is_sleeping", "method": "GET"}],
    }
    hotseat = up(sleepy("a", lifecycle=calls), sleepy("b"))
    for name in "aba":
        assert hotseat.ask(name).by == name
    assert hotseat.loads() == {"a": 1, "b": 1}
