"""Who is loaded though nobody asks: pinned models, open windows, the default after a quiet time; and idle stops that lose."""

import time
from typing import Any

import pytest

from .conftest import Up
from .harness import PATIENCE, Hotseat, eventually, model, workspace

PINNED = {"hotseat.dev/pinned": "true"}
ALWAYS = [{"start": "* * * * *", "duration": "1h"}]


def annotated(document: dict[str, Any], annotations: dict[str, str]) -> dict[str, Any]:
    return document | {"metadata": document["metadata"] | {"annotations": annotations}}


def pins(hotseat: Hotseat) -> list[str]:
    return [row["id"] for row in hotseat.get("/v1/models").json()["data"] if row["status"]["pinned"]]


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a"),
        model("b"),
        model("cpu", resources={"gpus": 0}),
        model("racer", "--load-time", "0.02", lifecycle={"idleTimeout": "40ms", "drainTimeout": "0s"}),
        model("elsewhere", engine="external", url="http://127.0.0.1:1", args=[]),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    for name in pins(shared):
        shared.post(f"/api/models/{name}/unpin")
    return shared.fresh()


def test_a_pinned_model_keeps_its_seat_and_who_has_no_room_beside_it_is_told(hotseat: Hotseat) -> None:
    answer = hotseat.post("/api/models/a/pin?wait=true")
    assert (answer.status, answer.json()) == (200, {"model": "a", "state": "ready", "pinned": True})
    hotseat.wait_event("model.pinned", "a")
    assert [row["pinned"] for row in hotseat.get("/running").json()["running"] if row["model"] == "a"] == [True]
    assert hotseat.metrics()["hotseat_pinned_models", "a", "default"] == 1
    began = time.monotonic()
    refused = hotseat.ask("b")
    assert (refused.status, refused.code) == (503, "pinned")
    assert "hotseat unpin a" in refused.json()["error"]["message"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert time.monotonic() - began < 5, "at once, not when it has waited in vain"
    assert hotseat.ask("cpu").by == "cpu", "what fits beside it is served"
    assert hotseat.ask("a").by == "a"
    assert hotseat.loads() == {"a": 1, "cpu": 1}
    assert hotseat.post("/api/models/a/unpin").json() == {"model": "a", "state": "ready", "pinned": False}
    assert hotseat.ask("b").by == "b"
    assert ("hotseat_pinned_models", "a", "default") not in hotseat.metrics()


def test_a_pin_is_an_order_that_may_be_refused(hotseat: Hotseat) -> None:
    assert hotseat.post("/api/models/a/pin").status == 202
    eventually(lambda: hotseat.running().get("a") == "ready")
    for wait in ("false", "true"):
        refused = hotseat.post(f"/api/models/b/pin?wait={wait}")
        assert (refused.status, refused.code) == (503, "pinned")
    assert pins(hotseat) == ["a"]
    assert hotseat.post("/api/models/elsewhere/pin").status == 409
    assert hotseat.post("/api/models/nobody/pin").status == 404


def test_an_unload_is_obeyed_and_a_request_brings_the_pinned_back(hotseat: Hotseat) -> None:
    hotseat.post("/api/models/a/pin?wait=true")
    assert hotseat.post("/api/models/a/unload?wait=true").json()["state"] == "unloaded"
    assert hotseat.ask("b").by == "b"
    assert "a" not in hotseat.running()
    assert hotseat.ask("a").by == "a"
    assert hotseat.ask("b").code == "pinned"


def test_an_idle_stop_that_races_a_request_loses(hotseat: Hotseat) -> None:
    """Requests come just when the model goes for idleness, and its drain timeout is no time at all."""
    answers: list[tuple[int, str]] = []
    for step in range(40):
        answer = hotseat.ask("racer")
        answers.append((answer.status, answer.body.decode()[:200]))
        time.sleep(0.02 + 0.003 * step)
    assert [answer for answer in answers if answer[0] != 200] == []
    assert hotseat.loads()["racer"] > 10, "it did go for idleness meanwhile"


def test_annotations_and_windows_of_the_file_are_followed(up: Up) -> None:
    idle = {"idleTimeout": "50ms"}
    hotseat = up(annotated(model("a", lifecycle=idle), PINNED), model("b", lifecycle=idle))
    hotseat.wait_event("model.ready", "a")
    assert pins(hotseat) == ["a"]
    assert hotseat.ask("b").code == "pinned"
    hotseat.write([model("a", lifecycle=idle), model("b", lifecycle={"schedule": ALWAYS} | idle)])
    hotseat.wait_event("model.unpinned", "a")
    hotseat.wait_event("model.ready", "b")
    assert [e["data"]["reason"] for e in hotseat.events("switch.started", "b")] == ["schedule"]
    time.sleep(0.3)
    assert hotseat.running() == {"b": "ready"}, "in its window it stays, however idle"
    assert hotseat.ask("a").by == "a", "but it makes room for demand"
    hotseat.wait_event("model.ready", "b", count=2)
    hotseat.write([model("a", lifecycle=idle), model("b", lifecycle=idle)])
    hotseat.wait_event("model.released", "b", count=2)
    assert hotseat.running() == {}


def test_a_window_that_pins_keeps_others_out(up: Up) -> None:
    hotseat = up(model("a", lifecycle={"schedule": [{**ALWAYS[0], "pinned": True}]}), model("b"))
    hotseat.wait_event("model.ready", "a")
    assert hotseat.ask("b").code == "pinned"
    hotseat.post("/api/models/a/unpin")
    assert hotseat.ask("b").by == "b"


def test_the_default_returns_when_the_workspace_has_been_quiet(up: Up) -> None:
    hotseat = up(model("a"), model("b"), workspace(defaultModel="a", returnToDefault="2s"))
    assert hotseat.ask("b").by == "b"
    long = hotseat.send("b", stream=True, mock={"tokens": 16, "tokens_per_second": 20})
    long.begun()
    assert len(long.answer().data()) == 17
    quiet = time.time()
    assert hotseat.running() == {"b": "ready"}, "it has not been quiet while it answered"
    hotseat.wait_event("model.ready", "a", count=1)
    eventually(lambda: hotseat.running() == {"a": "ready"}, PATIENCE)
    assert hotseat.moment("term", "b") - quiet >= 1.9
    assert hotseat.events("switch.started", "a")[-1]["data"]["reason"] == "default"
