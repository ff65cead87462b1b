"""How models come and go by themselves: idle timeouts, preload, minimum residency, start timeouts."""

import time

import pytest

from .conftest import Up
from .harness import Hotseat, eventually, model, workspace


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a"),
        model("impatient", scheduling={"maxWait": "100ms"}),
        model("idle", "--stop-time", "0.15", lifecycle={"idleTimeout": "250ms"}),
        model("late", "--fault", "never-ready", lifecycle={"startTimeout": "300ms", "stopTimeout": "1s"}),
        model("steady", scheduling={"minResidency": "600ms"}),
        model("slow-drain", lifecycle={"drainTimeout": "300ms", "stopTimeout": "1s"}),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def test_an_idle_model_leaves_and_a_request_starts_its_time_anew(hotseat: Hotseat) -> None:
    hotseat.ask("idle")
    for _ in range(3):
        time.sleep(0.15)
        assert hotseat.ask("idle").by == "idle"
    asked = time.time()
    assert hotseat.loads() == {"idle": 1}
    hotseat.wait_event("model.released", "idle")
    assert 0.2 < hotseat.moment("term", "idle") - asked < 0.5


def test_without_an_idle_timeout_a_model_stays(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    time.sleep(0.4)
    assert hotseat.running() == {"a": "ready"}


def test_a_request_during_the_idle_stop_restarts_the_model(hotseat: Hotseat) -> None:
    hotseat.ask("idle")
    eventually(lambda: [row for row in hotseat.mock_lines() if row["event"] == "term"])
    assert hotseat.running() == {"idle": "releasing"}
    assert hotseat.ask("idle").by == "idle"
    assert hotseat.loads() == {"idle": 2}


def test_loading_has_an_end(hotseat: Hotseat) -> None:
    began = time.monotonic()
    answer = hotseat.ask("late")
    assert (answer.status, answer.code) == (503, "model_failed")
    assert "not ready within 0.3 s (lifecycle.startTimeout)" in answer.json()["error"]["message"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert 0.3 <= time.monotonic() - began < 0.8
    assert hotseat.ask("a").by == "a"


def test_a_model_that_is_ready_keeps_its_seat_for_its_minimum_residency(hotseat: Hotseat) -> None:
    hotseat.ask("steady")
    assert hotseat.ask("a").by == "a"
    assert hotseat.moment("term", "steady") - hotseat.moment("ready", "steady") >= 0.55


def test_what_does_not_end_within_the_drain_timeout_is_cut_and_told(hotseat: Hotseat) -> None:
    hotseat.ask("slow-drain")
    endless = {"tokens": 1000, "tokens_per_second": 20}
    stream = hotseat.send("slow-drain", stream=True, mock=endless)
    whole = hotseat.send("slow-drain", mock=endless)
    stream.begun()
    assert hotseat.ask("impatient").by == "impatient"
    last = stream.answer().data()[-1]
    assert last["error"]["code"] == "model_stopped"
    cut = whole.answer()
    assert (cut.status, cut.code, cut.headers["Retry-After"]) == (503, "model_stopped", "1")
    assert hotseat.moment("term", "slow-drain") <= hotseat.moment("start", "impatient")


def test_preload_takes_free_seats_and_evicts_nobody(up: Up) -> None:
    documents = [model("a", lifecycle={"preload": True}), model("b", lifecycle={"preload": True}), model("c")]
    hotseat = up(*documents, workspace(capacity={"gpus": 1}))
    hotseat.wait_event("switch.completed")
    assert len(hotseat.running()) == 1
    assert "switch.requested" not in str(hotseat.catch_up())
    assert hotseat.events("switch.started")[0]["data"]["reason"] == "ordered"
    (first,) = hotseat.running()
    assert hotseat.ask(first).by == first
    assert hotseat.ask("c").by == "c"
    assert hotseat.loads() == {first: 1, "c": 1}


def test_what_fits_stays_side_by_side(up: Up) -> None:
    hotseat = up(
        model("small"),
        model("other"),
        model("big", resources={"gpus": 2}),
        model("cpu", resources={"gpus": 0}),
        workspace(capacity={"gpus": 2}),
        seats=2,
    )
    for name in ("small", "other", "cpu"):
        assert hotseat.ask(name).by == name
    assert set(hotseat.running()) == {"small", "other", "cpu"}
    assert hotseat.ask("big").by == "big"
    assert set(hotseat.running()) == {"big", "cpu"}
