"""Another model answers while the wanted one cannot: at once where that is known, and the wanted one comes all the same."""

import json

import pytest

from .conftest import Up
from .harness import Answer, Hotseat, eventually, model, workspace

STREAM = {"stream": True}
SLOW = {"stream": True, "mock": {"tokens": 12, "tokens_per_second": 30}}  # an answer of 0.4 s


def header(answer: Answer) -> str | None:
    return answer.headers["X-Hotseat-Fallback"]


def by_fallback(model: str, fallback: str, reason: str) -> str:
    return f"model={model}, fallback={fallback}, reason={reason}"


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    small = {"resources": {"gpus": 0}, "workspace": "cpu"}
    return shared_up(
        workspace("default"),
        workspace("cpu", capacity={"gpus": 0}),
        model("small", aliases=["tiny"], **small),
        model("vectors", capabilities=["embedding"], **small),
        model("big", "--load-time", "1", workspace="default", fallback={"model": "tiny", "after": "100ms"}),
        model("other", workspace="default"),
        model("patient", "--load-time", "1", workspace="default", fallback={"model": "small", "after": "5s"}),
        model("broken", "--fault", "exit-loading:3", workspace="default", fallback={"model": "small"}),
        model("over", workspace="default", fallback={"model": "broken", "after": "0s"}),
        model("beside", workspace="default", fallback={"model": "other", "when": ["Waiting", "Failed"], "after": "0s"}),
        model("talks", capabilities=["chat"], workspace="default", fallback={"model": "big"}),
        model("routes", capabilities=["chat"], workspace="default", fallback={"model": "vectors", "when": ["Unsupported"]}),
        model("one", concurrency=1, workspace="default", fallback={"model": "small", "after": "0s"}),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def embed(hotseat: Hotseat, model: str) -> Answer:
    return hotseat.post("/v1/embeddings", {"model": model, "input": "hi"})


def ready(hotseat: Hotseat, *models: str) -> None:
    for name in models:
        assert hotseat.post(f"/api/models/{name}/load?wait=true").status == 200


def test_the_small_one_answers_while_the_big_one_loads_and_says_so(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    whole = hotseat.ask("big", "hello")
    assert (whole.status, whole.by, whole.json()["model"]) == (200, "small", "tiny")
    assert header(whole) == by_fallback("big", "small", "loading")
    assert whole.headers["X-Hotseat-Model"] == "small"
    streamed = hotseat.ask("big", "hello", **STREAM)
    assert (streamed.by, {piece["model"] for piece in streamed.data()}) == ("small", {"small"})
    assert header(streamed) == by_fallback("big", "small", "loading")


def test_the_big_one_comes_without_anybody_waiting_for_it(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    assert hotseat.ask("big").by == "small"
    assert hotseat.waiting() == 0
    eventually(lambda: hotseat.running().get("big") == "ready")
    answer = hotseat.ask("big")
    assert (answer.by, answer.json()["model"], header(answer)) == ("big", "big", None)
    assert hotseat.loads() == {"small": 1, "big": 1}
    assert [e["subject"] for e in hotseat.events("switch.requested")] == ["big"]
    (start,) = hotseat.events("switch.started", "big")
    assert start["data"]["reason"] == "demand"
