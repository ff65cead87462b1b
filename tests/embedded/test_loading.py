"""While a model is not ready: clients that give up without a byte are served if they stream, and refused ones get in."""

import http.client
import json
import time
from typing import Any

import pytest

from .conftest import Up
from .harness import CHAT, Hotseat, chat, eventually, model, workspace

LOAD = 9.0  # seconds


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a"),
        model("told", "--load-time", "5", names=["Told 1"]),
        model("thinks", "--load-time", str(LOAD), loading="Reasoning"),
        model("holds", "--load-time", "5", loading="Hold"),
        workspace(loading="Comments"),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def impatient(hotseat: Hotseat, name: str, timeout: float, **headers: str) -> str:
    """Stream as an agent that gives up after `timeout` seconds without a byte. Return the body."""
    connection = http.client.HTTPConnection(hotseat.address, timeout=timeout)
    try:
        connection.request(
            "POST", CHAT, json.dumps(chat(name, stream=True)), {"Content-Type": "application/json", **headers}
        )
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def deltas(body: str) -> list[dict[str, Any]]:
    """Return the deltas of a stream, its own and those of the engine."""
    rows = [row[6:] for row in body.split("\n") if row.startswith("data: ") and "[DONE]" not in row]
    return [json.loads(row)["choices"][0]["delta"] for row in rows]


def test_comments_keep_an_agent_that_gives_up_without_a_byte(hotseat: Hotseat) -> None:
    body = impatient(hotseat, "told", 3.0)
    assert body.startswith(': hotseat {"model": "Told 1"')
    assert "".join(delta.get("content", "") for delta in deltas(body)).startswith("told:")


def test_reasoning_keeps_it_too_and_says_what_happens(hotseat: Hotseat) -> None:
    body = impatient(hotseat, "thinks", LOAD - 1)
    said = "".join(delta.get("reasoning_content", "") for delta in deltas(body))
    assert "thinks is loading (" in said
    assert "thinks is ready after " in said
    assert "".join(delta.get("content", "") for delta in deltas(body)).startswith("thinks:")
    assert deltas(body)[0]["role"] == "assistant"


@pytest.mark.parametrize(("name", "headers"), [("holds", {}), ("told", {"X-Hotseat-Loading": "hold"})])
def test_held_it_gives_up(hotseat: Hotseat, name: str, headers: dict[str, str]) -> None:
    hotseat.ask("a")
    with pytest.raises(TimeoutError):
        impatient(hotseat, name, 1.0, **headers)


def served(hotseat: Hotseat, name: str) -> str:
    """Ask until a request is not refused. Return who has answered."""

    def ask() -> Any:
        answer = hotseat.ask(name)
        if answer.status == 200:
            return answer.by
        assert answer.code == "model_switching_in_progress"
        time.sleep(0.1)
        return None

    by: str = eventually(ask)
    return by


def test_a_refused_request_loads_its_model_and_gets_in(up: Up) -> None:
    hotseat = up(model("a"), model("b", "--load-time", "0.5"), workspace(loading="Refuse", policy={"maxWait": "1s"}))
    refused = hotseat.ask("a")
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "model_switching_in_progress", "30")
    assert refused.json()["error"]["type"] == "model_loading"
    assert served(hotseat, "a") == "a"
    busy = hotseat.send("a", mock={"tokens": 30, "tokens_per_second": 10}, stream=True)
    assert busy.begun().status == 200
    assert hotseat.ask("b").status == 503
    assert served(hotseat, "b") == "b"
    assert busy.answer().by == "a", "what was in flight is finished"
    switches = [(row["to"], row["outcome"]) for row in hotseat.get("/api/switches").json()["switches"]]
    assert switches == [("a", "completed"), ("b", "completed")]
    assert hotseat.ask("a", headers={"X-Hotseat-Loading": "hold"}).by == "a"
    assert int(hotseat.ask("b", stream=True).headers["Retry-After"]) < 30, "its load was measured"


def test_a_model_stays_for_its_refused_client(up: Up) -> None:
    hotseat = up(model("a", loading="Refuse"), model("b"))
    hotseat.ask("b")
    assert hotseat.ask("a").status == 503
    eventually(lambda: hotseat.running().get("a") == "ready")
    other = hotseat.send("b")
    eventually(lambda: hotseat.waiting("b") == 1)
    time.sleep(0.5)
    assert not other.has_answer(), "a has not had its client yet"
    assert hotseat.ask("a").by == "a"
    assert other.answer().by == "b"
