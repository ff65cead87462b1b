"""Another model answers while the wanted one cannot: at once where that is known, and the wanted one comes all the same."""

import json

import pytest

from .conftest import Up
from .harness import Answer, Hotseat, eventually, model, quickest, stopwatch, workspace
from .receiver import Receiver

STREAM = {"stream": True}
LONG = {"stream": True, "mock": {"tokens": 80, "tokens_per_second": 40}}  # an answer of 2 s


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
        model("small", names=["small", "tiny"], **small),
        model("vectors", capabilities=["embedding"], **small),
        model("big", "--load-time", "2", workspace="default", fallback={"model": "tiny", "after": "100ms"}),
        model("other", workspace="default"),
        model("slow", "--load-time", "2", workspace="default", fallback={"model": "small", "after": "1500ms"}),
        model("shown", "--load-time", "2", workspace="default", fallback={"model": "small", "after": "500ms"}),
        model("patient", "--load-time", "0.5", workspace="default", fallback={"model": "small", "after": "9s"}),
        model("broken", "--fault", "exit-loading:3", workspace="default", fallback={"model": "small"}),
        model("over", workspace="default", fallback={"model": "broken", "after": "0s"}),
        model("beside", workspace="default", fallback={"model": "other", "when": ["Waiting", "Failed"], "after": "0s"}),
        model(
            "strict",
            "--load-time",
            "0.5",
            workspace="default",
            fallback={"model": "small", "when": ["Failed"], "after": "0s"},
        ),
        model("talks", capabilities=["chat"], workspace="default", fallback={"model": "big"}),
        model(
            "routes", capabilities=["chat"], workspace="default", fallback={"model": "vectors", "when": ["Unsupported"]}
        ),
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
    assert (whole.status, whole.by, whole.json()["model"]) == (200, "small", "small")
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
    assert hotseat.wait_event("switch.requested", "big")["data"]["router"]
    (start,) = hotseat.events("switch.started", "big")
    assert start["data"]["reason"] == "demand"


def test_a_small_one_that_is_not_there_is_brought_beside_the_big_one(hotseat: Hotseat) -> None:
    answer = hotseat.ask("big")
    assert (answer.by, header(answer)) == ("small", by_fallback("big", "small", "loading"))
    eventually(lambda: hotseat.running() == {"small": "ready", "big": "ready"})


def test_a_wait_that_is_known_to_be_too_long_is_not_begun(hotseat: Hotseat) -> None:
    ready(hotseat, "small", "slow")

    def trial() -> float:
        assert hotseat.post("/api/models/slow/unload?wait=true").status == 200
        with stopwatch() as seconds:
            assert header(hotseat.ask("slow")) is not None
        return seconds()

    quickest(trial, 1)  # its bound is 1.5 s


def test_a_wait_that_is_short_enough_is_waited(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    answer = hotseat.ask("patient")
    assert (answer.by, header(answer)) == ("patient", None)
    assert hotseat.ask("strict").by == "strict", "it falls back where it has failed, and else not"


def test_a_client_that_will_not_wait_so_long_is_answered_where_it_would_be_sent_away(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    answer = hotseat.ask("patient", headers={"X-Hotseat-Max-Wait": "100ms"})
    assert (answer.status, answer.by) == (200, "small")


def test_what_holds_the_seat_answers_for_what_waits_for_it(hotseat: Hotseat) -> None:
    ready(hotseat, "other")
    long = hotseat.send("other", **LONG)
    long.begun()
    answer = hotseat.ask("beside")
    assert (answer.by, header(answer)) == ("other", by_fallback("beside", "other", "waiting"))
    assert len(long.answer().data()) == 81
    eventually(lambda: hotseat.running() == {"beside": "ready"})
    assert hotseat.loads() == {"other": 1, "beside": 1}


def test_no_seat_is_taken_for_a_fallback(hotseat: Hotseat) -> None:
    answer = hotseat.ask("beside")
    assert (answer.by, header(answer)) == ("beside", None)
    assert hotseat.loads() == {"beside": 1}


def test_a_place_that_is_taken_is_waited_for_elsewhere(hotseat: Hotseat) -> None:
    ready(hotseat, "small", "one")
    long = hotseat.send("one", **LONG)
    long.begun()
    assert header(hotseat.ask("one")) == by_fallback("one", "small", "waiting")
    assert len(long.answer().data()) == 81


@pytest.mark.parametrize("more", [{}, STREAM], ids=["whole", "stream"])
def test_a_failed_load_is_answered_by_the_fallback_which_loads_for_that(hotseat: Hotseat, more: dict) -> None:
    for _ in range(2):  # as it fails, and while it is left alone for that
        answer = hotseat.ask("broken", **more)
        assert (answer.status, answer.by) == (200, "small")
        assert header(answer) == by_fallback("broken", "small", "failed")
    eventually(lambda: hotseat.running() == {"small": "ready"})


def test_a_chain_is_followed_to_whoever_can_answer(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    answer = hotseat.ask("over")
    assert (answer.by, answer.headers["X-Hotseat-Model"]) == ("small", "small")
    assert header(answer).startswith("model=over, fallback=small, reason=")
    assert hotseat.loads()["broken"] == 0


def test_requests_of_a_kind_go_to_the_model_that_does_it(hotseat: Hotseat) -> None:
    answer = embed(hotseat, "routes")
    assert (answer.status, answer.json()["model"], answer.json()["data"][0]["index"]) == (200, "vectors", 0)
    assert header(answer) == by_fallback("routes", "vectors", "unsupported")
    assert hotseat.loads() == {"vectors": 1}
    assert hotseat.ask("routes").by == "routes"
    assert hotseat.ask("vectors").code == "unsupported"


def test_nobody_answers_what_he_does_not_do(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    assert embed(hotseat, "talks").code == "unsupported"
    answer = embed(hotseat, "big")
    assert (answer.status, answer.json()["model"], header(answer)) == (200, "big", None), "it waited"


def test_comments_tell_who_answers_where_headers_are_gone(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    answer = hotseat.ask("shown", headers={"X-Hotseat-Loading": "comments"}, **STREAM)
    comments = [json.loads(row[10:]) for row in answer.body.decode().splitlines() if row.startswith(": hotseat {")]
    assert (answer.by, comments[0]["model"]) == ("small", "shown")
    told = comments[-1]
    assert (told["state"], told["model"], told["fallback"], told["reason"]) == ("fallback", "shown", "small", "loading")


def test_an_unload_ends_the_wish_for_a_model(hotseat: Hotseat) -> None:
    ready(hotseat, "small")
    assert hotseat.ask("big").by == "small"
    eventually(lambda: hotseat.running().get("big") == "loading")
    assert hotseat.post("/api/models/big/unload?wait=true").status == 200
    assert hotseat.ask("small").by == "small"
    hotseat.catch_up()
    assert (hotseat.running(), len(hotseat.events("switch.started", "big"))) == ({"small": "ready"}, 1)


def test_fallbacks_are_counted(hotseat: Hotseat) -> None:
    sample = ("hotseat_fallbacks_total", "small", "big", "loading")
    ready(hotseat, "small")
    before = hotseat.metrics().get(sample, 0)
    hotseat.ask("big")
    eventually(lambda: hotseat.metrics().get(sample, 0) == before + 1)


def test_external_servers_stand_in_and_are_stood_in_for(up: Up) -> None:
    there = Receiver()
    gone = model("gone", engine="external", args=[], url="http://127.0.0.1:9", fallback={"model": "local"})
    hotseat = up(
        model("local", "--load-time", "1", resources={"gpus": 0}, fallback={"model": "vendor/x", "after": "0s"}),
        model("there", engine="external", args=[], url=there.url, names=["there", "vendor/x"]),
        gone,
    )
    try:
        answer = hotseat.ask("local")
        assert (answer.json(), header(answer)) == ({"object": "mine"}, by_fallback("local", "there", "loading"))
        assert json.loads(there.requests[-1][2])["model"] == "vendor/x", "it is asked by the name that it knows"
        eventually(lambda: hotseat.running().get("local") == "ready")
        answer = hotseat.ask("gone")
        assert (answer.by, header(answer)) == ("local", by_fallback("gone", "local", "failed"))
    finally:
        there.close()
