"""Where other model switchers are known to fail: each a story that must end well here."""

import itertools
import os
import signal
import threading
import time
from datetime import datetime

import pytest

from .conftest import Up
from .harness import CHAT, Hotseat, eventually, model, quickest, workspace


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a"),
        model("b"),
        model("brief", "--load-time", "0.02", lifecycle={"idleTimeout": "40ms"}),
        model("idle", lifecycle={"idleTimeout": "200ms"}),
        model("stuck", "--fault", "hang-stop", "--child", lifecycle={"stopTimeout": "200ms"}),
        model("bad", "--fault", "exit-loading"),
        model("fragile"),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def test_an_unknown_model_evicts_nothing_and_is_told_so_at_once(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    pid = hotseat.stats("a")["pid"]
    answer = hotseat.ask("nobody")
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert hotseat.running() == {"a": "ready"}
    assert hotseat.stats("a")["pid"] == pid
    hotseat.catch_up()
    assert [event["subject"] for event in hotseat.events("switch.requested")] == ["a"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/a", "/metrics", "/running", "/ready", "/health"])
def test_looking_wakes_nothing(hotseat: Hotseat, path: str) -> None:
    assert hotseat.get(path).status == 200
    assert hotseat.call("HEAD", path).answer().status == 200
    assert (hotseat.running(), hotseat.catch_up()) == ({}, [])


def test_a_get_of_an_inference_route_wakes_nothing(hotseat: Hotseat) -> None:
    answer = hotseat.get(CHAT + "?model=a")
    assert (answer.status, set(answer.headers["Allow"].split(", "))) == (405, {"OPTIONS", "POST"})
    assert hotseat.running() == {}


def test_a_failure_while_loading_is_no_200_even_for_a_stream(hotseat: Hotseat) -> None:
    answer = hotseat.ask("bad", stream=True)
    assert (answer.status, answer.code) == (503, "model_failed")
    assert answer.headers["Content-Type"] == "application/json"


def test_an_idle_timeout_that_races_a_request_never_answers_503(hotseat: Hotseat) -> None:
    for number in range(20):
        assert hotseat.ask("brief").by == "brief"
        time.sleep(0.03 + number % 10 * 0.01)  # around the timeout, from before to behind it
    assert hotseat.loads()["brief"] > 2, "it was unloaded in between"


def test_a_stream_longer_than_the_idle_timeout_is_not_cut(hotseat: Hotseat) -> None:
    long = hotseat.ask("idle", stream=True, mock={"tokens": 6, "tokens_per_second": 8})
    assert len(long.data()) == 7
    assert hotseat.loads() == {"idle": 1}
    hotseat.wait_event("model.released", "idle")
    assert hotseat.running() == {}


def test_what_hangs_on_its_stop_is_killed_before_the_next_starts(hotseat: Hotseat) -> None:
    hotseat.ask("stuck")
    assert hotseat.ask("b").by == "b"
    assert hotseat.moment("start", "b") - hotseat.moment("term", "stuck") >= 0.2
    assert hotseat.wait_event("model.released", "stuck")["data"]["seconds"] >= 0.2


def test_an_engine_that_crashes_is_told_and_comes_back_on_demand_with_a_growing_pause(hotseat: Hotseat) -> None:
    hotseat.ask("fragile")
    os.kill(hotseat.stats("fragile")["pid"], signal.SIGKILL)
    failed = hotseat.wait_event("model.failed", "fragile")["data"]
    assert (failed["reason"], failed["retry_after"]) == ("Killed", None)
    eventually(lambda: hotseat.get("/v1/models/fragile").json()["status"]["state"] == "failed")
    assert "mock fragile listens" in hotseat.get("/v1/models/fragile").json()["status"]["message"]
    assert hotseat.ask("fragile").by == "fragile", "the first time at once"

    os.kill(hotseat.stats("fragile")["pid"], signal.SIGKILL)
    assert hotseat.wait_event("model.failed", "fragile", 2)["data"]["retry_after"] == 1.0
    answer = hotseat.ask("fragile", headers={"X-Request-Timeout": "0.2"})
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "model_failed", "1")
    call = hotseat.send("fragile")
    assert hotseat.ask("a").by == "a", "meanwhile another may have the seat"
    assert call.answer().status == 200, "it has waited the pause out"


def test_a_hot_model_starves_no_other(up: Up) -> None:
    hotseat = up(model("hot"), model("cold"), workspace(policy={"maxWait": "1s"}))
    hotseat.ask("hot")
    over = threading.Event()
    statuses: set[int] = set()

    def client(seconds: float) -> None:
        while not over.is_set():
            statuses.add(hotseat.ask("hot", mock={"first_token": seconds}).status)

    clients = [threading.Thread(target=client, args=(0.05 + number * 0.011,)) for number in range(4)]
    for thread in clients:
        thread.start()
    try:
        turns = itertools.count(1)

        def trial() -> float:
            turn = next(turns)
            hotseat.wait_event("model.ready", "hot", turn)
            eventually(lambda: hotseat.running().get("hot") == "ready" and hotseat.stats("hot")["requests"] > 8)
            asked = time.time()
            assert hotseat.ask("cold").by == "cold"
            to_cold = [each for each in hotseat.get("/api/switches").json()["switches"] if each["to"] == "cold"]
            assert hotseat.wait_event("model.ready", "hot", turn + 1), "and the hot one gets its next turn"
            return datetime.fromisoformat(to_cold[-1]["started_at"]).timestamp() - asked

        quickest(trial, 1 + 0.6)  # its maximum wait until the switch begins; and a slow machine
    finally:
        over.set()
        for thread in clients:
            thread.join()
    assert statuses == {200}
