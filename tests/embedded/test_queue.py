"""Those who wait: who goes before whom, how many may, who is told at once that it would be too late, and what each is told."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Up
from .harness import Call, Hotseat, eventually, model, quickest, stopwatch, workspace

SLOW = {"tokens": 1, "first_token": 0.15}  # an answer that takes long enough to wait for
LONG = {"first_token": 60}
COMMENTS = {"X-Hotseat-Loading": "comments"}


def team(name: str) -> dict[str, str]:
    return {"X-Team": name}


def order(calls: dict[str, Call]) -> list[str]:
    """Names of these calls, in the order in which the engine got them; the mock counts its requests."""
    answers = {name: call.answer() for name, call in calls.items()}
    assert {answer.status for answer in answers.values()} == {200}
    return sorted(answers, key=lambda name: int(answers[name].json()["id"].rpartition("-")[2]))


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    """One that answers a single request at a time, knows its clients' teams, and lets four of a team wait, with 4 KiB in all."""
    return shared_up(
        model("a", concurrency=1),
        model("b"),
        model("slow", "--load-time", "2"),
        workspace(
            tenants={"header": "X-Team", "weights": {"blue": 1}},
            queue={"maxWaitingPerTenant": 4, "maxWaitingBytes": "4Ki"},
        ),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


@pytest.fixture
def long(hotseat: Hotseat) -> Iterator[Call]:
    """A request that keeps `a` busy until it leaves."""
    call = hotseat.send("a", mock=LONG)
    eventually(lambda: hotseat.running() == {"a": "ready"} and hotseat.stats("a")["open"] == 1)
    yield call
    call.leave()


def held(hotseat: Hotseat, said: str, **headers: str) -> Call:
    """A request for `a`, once it waits."""
    before = hotseat.waiting("a")
    call = hotseat.send("a", said, headers=headers, mock=SLOW)
    eventually(lambda: hotseat.waiting("a") == before + 1)
    return call


def queue(hotseat: Hotseat, name: str) -> dict[str, Any]:
    return next(row for row in hotseat.get("/api/queue").json()["queue"] if row["model"] == name)


def test_one_team_with_many_requests_delays_another_by_one(hotseat: Hotseat, long: Call) -> None:
    calls = {f"red-{number}": held(hotseat, "x", **team("red")) for number in range(4)}
    calls["blue"] = held(hotseat, "x", **team("blue"))
    assert queue(hotseat, "a")["tenants"] == {"red": 4, "blue": 1}
    long.leave()
    assert order(calls) == ["red-0", "blue", "red-1", "red-2", "red-3"]


def test_a_higher_priority_goes_first_and_what_is_none_is_400(hotseat: Hotseat, long: Call) -> None:
    calls = {text: held(hotseat, "x", **{"X-Priority": text}) for text in ("-3", "0", "2000")}
    long.leave()
    assert order(calls) == ["2000", "0", "-3"]
    answer = hotseat.ask("a", headers={"X-Priority": "high"})
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_a_team_that_has_as_many_waiting_as_it_may_is_429_and_others_are_not(hotseat: Hotseat, long: Call) -> None:
    calls = {str(number): held(hotseat, "x", **team("red")) for number in range(4)}
    for name in ("a", "b"):
        answer = hotseat.ask(name, headers=team("red"))
        assert (answer.status, answer.code) == (429, "queue_full")
        assert "the queue of tenant red is full (queue.maxWaitingPerTenant: 4)" in answer.json()["error"]["message"]
        assert 1 <= int(answer.headers["Retry-After"]) <= 300
    calls["blue"] = held(hotseat, "x", **team("blue"))
    long.leave()
    assert len(order(calls)) == 5


def test_a_body_that_no_memory_is_left_for_is_429_until_another_is_forwarded(hotseat: Hotseat, long: Call) -> None:
    def waiting() -> float:
        return hotseat.metrics()["hotseat_queued_request_bytes", "default"]

    large = "x" * 3000
    calls = [held(hotseat, large), held(hotseat, "x")]
    assert 3000 < waiting() < 4096
    for name in ("a", "b"):
        answer = hotseat.ask(name, large)
        assert (answer.status, answer.code) == (429, "queue_full")
        assert 1 <= int(answer.headers["Retry-After"]) <= 300
        assert "queue.maxWaitingBytes: 4Ki" in answer.json()["error"]["message"]
    calls.pop(0).leave()
    eventually(lambda: waiting() < 1000)
    calls.append(held(hotseat, large))
    long.leave()
    assert [call.answer().status for call in calls] == [200, 200]
    assert waiting() == 0
    assert hotseat.ask("a", "x" * 5000).by == "a", "it need not wait"


def test_who_was_held_is_told_where_it_stood_and_how_long_it_looked(hotseat: Hotseat, long: Call) -> None:
    calls = [held(hotseat, "x", **team(f"team-{number}")) for number in range(6)]
    long.leave()
    answers = [call.answer() for call in calls]
    assert [answer.headers["X-Queue-Position"] for answer in answers] == ["1", "2", "3", "4", "5", "6"]
    rate = queue(hotseat, "a")["rate"]
    assert 0 < rate < 20
    long = hotseat.send("a", mock=LONG)
    eventually(lambda: hotseat.stats("a")["open"] == 1)
    call = hotseat.send("a", stream=True, headers=COMMENTS)
    line = next(call.lines())
    long.leave()
    state = json.loads(line.removeprefix(": hotseat "))
    assert state["position"] == 1
    assert state["estimate"] == pytest.approx(1 / rate, rel=0.5, abs=0.2)
    assert call.begun().headers["X-Queue-Position"] == "1"
    assert float(call.begun().headers["X-Queue-Estimate"]) == pytest.approx(1 / rate, rel=0.5, abs=0.2)
    call.answer()
    eventually(lambda: queue(hotseat, "a")["in_flight"] == 0)  # the client has its answer a moment earlier
    assert "X-Queue-Position" not in hotseat.ask("a", mock={"tokens": 1}).headers, "it was not held"


def test_who_could_not_be_served_in_time_is_told_at_once_and_loads_nothing(hotseat: Hotseat) -> None:
    """Once it is known how long the model takes; before, nobody is refused on a guess."""
    unknown = hotseat.ask("slow", headers={"X-Request-Timeout": "0.2"})
    assert (unknown.status, unknown.code) == (503, "wait_timeout")
    assert hotseat.ask("slow").by == "slow"
    assert hotseat.ask("a").by == "a"
    loads = hotseat.loads()["slow"]

    def trial() -> float:
        with stopwatch() as seconds:
            answer = hotseat.ask("slow", headers={"X-Request-Timeout": "500ms"})
        assert (answer.status, answer.code) == (503, "deadline_unreachable")
        assert "it needs at least 1." in answer.json()["error"]["message"], (
            "half of the two seconds that it took, and a moment"
        )
        assert int(answer.headers["Retry-After"]) >= 1
        return seconds()

    quickest(trial, 0.4)
    assert hotseat.running() == {"a": "ready"}
    assert hotseat.loads()["slow"] == loads
    assert hotseat.ask("slow", headers={"X-Request-Timeout": "8"}).by == "slow", "there is time enough"


def test_the_tenants_of_keys_have_names_that_tell_nothing_of_them(up: Up) -> None:
    hotseat = up(model("a", concurrency=1), options=("--api-key", "sk-first", "--api-key", "sk-second"))
    first, second = ({"Authorization": f"Bearer sk-{name}"} for name in ("first", "second"))
    hotseat.call("GET", "/ready", **first).answer()
    calls = [hotseat.send("a", headers=first, mock=LONG)]
    rows: list[dict[str, Any]] = []

    def tenants() -> dict[str, int]:
        rows[:] = hotseat.get("/api/queue", **first).json()["queue"]
        return rows[0]["tenants"]

    eventually(lambda: "ready" in json.dumps(hotseat.get("/running", **first).json()["running"]) and not tenants())
    calls += [hotseat.send("a", headers=headers, mock=SLOW) for headers in (first, second, second)]
    eventually(lambda: tenants() == {"key-1": 1, "key-2": 2})
    assert "sk-" not in json.dumps(rows)
    for call in calls:
        call.leave()
    eventually(lambda: not tenants())
