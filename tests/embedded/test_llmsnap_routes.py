"""Routes of llama-swap and llmsnap by their spelling."""

import pytest

from .conftest import Up
from .harness import Call, Hotseat, eventually, model


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    bad = model("bad", "--fault", "exit-loading")
    sleeper = model("sleeper", lifecycle={"release": "Park"})
    return shared_up(model("a", names=["org/A 1", "a"]), model("b"), bad, sleeper, options=("--log-level", "info"))


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/unload"), ("GET", "/models/unload"), ("POST", "/models/unload")]
)
def test_all_models_are_unloaded_when_it_says_so(hotseat: Hotseat, method: str, path: str) -> None:
    hotseat.ask("a")
    answer = hotseat.call(method, path).answer()
    assert (answer.status, answer.body) == (200, b"OK\n")
    assert hotseat.running() == {}


def test_a_page_of_another_origin_unloads_nothing(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    assert hotseat.get("/unload", Sec_Fetch_Site="cross-site").status == 403
    assert hotseat.running() == {"org/A 1": "ready"}


def test_one_model_is_unloaded(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    assert hotseat.post("/api/models/unload/b?wait=true").json() == {"model": "b", "state": "unloaded"}
    assert hotseat.running() == {"org/A 1": "ready"}
    assert hotseat.post("/api/models/unload/org/A%201?wait=true").json() == {"model": "org/A 1", "state": "unloaded"}
    assert hotseat.running() == {}


@pytest.mark.parametrize(
    "path", ["/models/sleep/{}", "/api/models/sleep/{}?wait=true", "/api/models/{}/park?wait=true"]
)
def test_one_model_is_put_to_sleep(hotseat: Hotseat, path: str) -> None:
    hotseat.ask("sleeper")
    answer = hotseat.post(path.format("sleeper"))
    assert answer.status == 200
    if path.startswith("/api"):
        row = answer.json()
        assert (row["model"], row["state"], row["gpus"]) == ("sleeper", "parked", 1)
        assert row["host_memory"] > 0
    assert hotseat.running() == {}
    assert [row["model"] for row in hotseat.get("/running").json()["parked"]] == ["sleeper"]
    assert hotseat.post(path.format("sleeper")).status == 200  # it is already
    assert hotseat.ask("sleeper").by == "sleeper"
    assert hotseat.running() == {"sleeper": "ready"}


def test_what_cannot_be_done_is_said(hotseat: Hotseat) -> None:
    for path in ("/models/sleep/org/A%201", "/api/models/sleep/org/A%201", "/api/models/org/A%201/park"):
        answer = hotseat.post(path)
        assert (answer.status, answer.code) == (409, "conflict")
        assert "lifecycle.release is Stop" in answer.json()["error"]["message"]
    unloaded = hotseat.post("/api/models/sleeper/park?wait=true")
    assert "it is unloaded" in unloaded.json()["error"]["message"]
    assert hotseat.post("/models/sleep/sleeper", Sec_Fetch_Site="cross-site").status == 403
    assert hotseat.post("/models/sleep/nobody").code == "model_not_found"
    assert hotseat.get("/logs/stream/nobody").code == "model_not_found"


def test_logs_are_shown_together(hotseat: Hotseat) -> None:
    assert hotseat.ask("bad").code == "model_failed"
    hotseat.ask("a")
    lines = hotseat.get("/logs").body.decode().splitlines()
    assert any(line.startswith("org/A 1: mock a listens") for line in lines)
    assert any(line.startswith("hotseat: ") for line in lines)


def follow(hotseat: Hotseat, path: str) -> Call:
    call = hotseat.call("GET", path)
    assert call.begun().headers["Content-Type"].startswith("text/plain")
    return call


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/logs/stream", "org/A 1: mock a listens"),
        ("/logs/stream/upstream", "org/A 1: mock a listens"),
        ("/logs/stream/a", "mock a listens"),
        ("/logs/stream/org/A%201", "mock a listens"),
        ("/logs/stream/proxy", ""),
    ],
)
def test_logs_are_followed_with_or_without_what_was_before(hotseat: Hotseat, path: str, line: str) -> None:
    hotseat.ask("a")
    hotseat.ask("b")
    seen = hotseat.get("/api/models/a/logs?lines=1000").body.decode()
    before = follow(hotseat, path)
    assert next(text for text in before.lines() if line in text)
    news = follow(hotseat, f"{path}?no-history")
    if path != "/logs/stream/proxy":
        hotseat.ask("a")
        hotseat.ask("b")
        # The port differs.
        assert next(text for text in news.lines() if line in text).removeprefix("org/A 1: ") not in seen
    for call in (before, news):
        call.leave()
    eventually(lambda: hotseat.get("/health").status == 200)
