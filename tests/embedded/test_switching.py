"""Turns on the seat as clients see them: who is answered by whom, and what is loaded for it."""

import pytest

from .conftest import Up
from .harness import Hotseat, eventually, model

SLOW = {"stream": True, "mock": {"tokens": 12, "tokens_per_second": 30}}  # an answer of 0.4 s
LONG = {
    "stream": True,
    "mock": {"tokens": 80, "tokens_per_second": 40},
}  # of 2 s: nothing that has to happen meanwhile is late


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a"),
        model("b"),
        model("c"),
        model("low", scheduling={"priority": -5}),
        model("high", scheduling={"priority": 5}),
        model("one", concurrency=1),
        model("bad", "--fault", "exit-loading:3"),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def test_b_after_a_each_answered_by_its_own_model(hotseat: Hotseat) -> None:
    assert [hotseat.ask(name).by for name in ("a", "b", "a")] == ["a", "b", "a"]
    assert hotseat.running() == {"a": "ready"}
    assert hotseat.loads() == {"a": 2, "b": 1}


def test_three_models_at_once_are_all_answered(hotseat: Hotseat) -> None:
    calls = {name: hotseat.send(name) for name in ("a", "b", "c")}
    assert {name: call.answer().by for name, call in calls.items()} == {"a": "a", "b": "b", "c": "c"}


def test_abcabc_at_once_costs_one_load_a_model(hotseat: Hotseat) -> None:
    calls = [(name, hotseat.send(name)) for name in "abcabc"]
    assert all(call.answer().by == name for name, call in calls)
    assert hotseat.loads() == {"a": 1, "b": 1, "c": 1}


def test_requests_for_one_model_join_one_load(hotseat: Hotseat) -> None:
    calls = [hotseat.send("a", f"number {n}") for n in range(6)]
    assert [call.answer().status for call in calls] == [200] * 6
    assert hotseat.loads() == {"a": 1}
    hotseat.catch_up()
    assert len(hotseat.events("switch.started")) == 1


def test_no_switch_while_an_answer_is_on_its_way(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    long = hotseat.send("a", **SLOW)
    long.begun()
    assert hotseat.ask("b").by == "b"
    assert len(long.answer().data()) == 13, "the answer is whole"
    assert (
        hotseat.answered("a")
        <= hotseat.moment("term", "a")
        < hotseat.moment("exit", "a")
        <= hotseat.moment("start", "b")
    )


def test_b_that_comes_while_a_loads_never_loads_beside_it(hotseat: Hotseat) -> None:
    first = hotseat.send("a")
    hotseat.wait_event("switch.started", "a")
    second = hotseat.send("b")
    assert (first.answer().by, second.answer().by) == ("a", "b")
    assert hotseat.answered("a") < hotseat.moment("exit", "a") <= hotseat.moment("start", "b")


def test_a_failed_load_fails_every_waiter_with_the_reason(hotseat: Hotseat) -> None:
    calls = [hotseat.send("bad") for _ in range(3)] + [hotseat.send("bad", stream=True)]
    for answer in [call.answer() for call in calls]:
        assert (answer.status, answer.code) == (503, "model_failed")
        assert answer.headers["Content-Type"] == "application/json"
        assert int(answer.headers["Retry-After"]) >= 1
        assert "mock bad: failed to load, as it was told to" in answer.json()["error"]["message"]
    assert hotseat.loads() == {"bad": 1}
    assert hotseat.ask("a").by == "a", "others are not held up"


def test_a_queued_request_that_is_cancelled_starts_no_load(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    long = hotseat.send("a", **LONG)
    long.begun()
    waiting = [hotseat.send("b") for _ in range(3)]
    eventually(lambda: hotseat.waiting("b") == 3)
    for call in waiting:
        call.leave()
    eventually(lambda: hotseat.waiting("b") == 0)
    assert len(long.answer().data()) == 81
    assert hotseat.ask("a").by == "a"
    assert hotseat.loads() == {"a": 1}
    assert hotseat.running() == {"a": "ready"}


def test_one_clients_cancel_leaves_the_others_alone(hotseat: Hotseat) -> None:
    first, second, third = (hotseat.send("b") for _ in range(3))
    second.leave()
    assert (first.answer().by, third.answer().by) == ("b", "b")
    streams = [hotseat.send("b", **SLOW) for _ in range(3)]
    for stream in streams:
        stream.begun()
    streams[1].leave()
    assert [len(streams[n].answer().data()) for n in (0, 2)] == [13, 13]


def test_more_important_models_go_first(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    long = hotseat.send("a", **LONG)
    long.begun()
    calls = {}
    for number, name in enumerate(("low", "b", "high"), start=1):
        calls[name] = hotseat.send(name)
        eventually(lambda number=number: hotseat.waiting() == number)
    assert [call.answer().by for call in calls.values()] == ["low", "b", "high"]
    started = [row["model"] for row in hotseat.mock_lines() if row["event"] == "start"]
    assert started == ["a", "high", "b", "low"]


def test_unload_sends_waiters_away_and_lets_in_flight_finish(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    long = hotseat.send("a", **LONG)
    long.begun()
    waiter = hotseat.send("b")
    eventually(lambda: hotseat.waiting("b") == 1)
    assert hotseat.post("/api/models/b/unload").status == 202
    assert (waiter.answer().code, hotseat.loads()["b"]) == ("unloaded", 0)
    answer = hotseat.post("/api/models/a/unload?wait=true")
    assert (answer.status, answer.json()) == (200, {"model": "a", "state": "unloaded"})
    assert len(long.answer().data()) == 81, "it was in flight, and ended well"
    assert hotseat.running() == {}
    assert hotseat.wait_event("model.released", "a")["data"]["reason"] == "unloaded"


def test_a_model_takes_no_more_at_once_than_it_wants(hotseat: Hotseat) -> None:
    calls = [hotseat.send("one", mock={"first_token": 0.05}) for _ in range(4)]
    assert [call.answer().by for call in calls] == ["one"] * 4
    eventually(lambda: sum(row["event"] == "done" for row in hotseat.mock_lines()) == len(calls))
    requests, ends = ([row for row in hotseat.mock_lines() if row["event"] == each] for each in ("request", "done"))
    assert all(end["sent"] < request["time"] for end, request in zip(ends, requests[1:], strict=False))


def test_a_waiter_whose_model_was_taken_off_meanwhile_is_served_on_its_next_turn(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    calls = [hotseat.send(name) for name in ("b", "a", "b", "a", "c", "a")]
    assert [call.answer().by for call in calls] == ["b", "a", "b", "a", "c", "a"]
    assert hotseat.loads()["a"] <= 2
