"""Answers on their way: bodies and heads as they were written, streams as they come, clients that leave."""

import http.client
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Up
from .harness import CHAT, Call, Hotseat, chat, eventually, model, quickest, stopwatch, workspace
from .receiver import Receiver

COMMENTS = {"X-Hotseat-Loading": "comments"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def shared(shared_up: Up, receiver: Receiver) -> Hotseat:
    return shared_up(
        model("a"),
        model("b", "--load-time", "0.6"),
        model("bad", "--load-time", "0.3", "--fault", "exit-loading"),
        model("ext", engine="external", url=receiver.url, args=[], names=["ext", "other/name:1"]),
        model(
            "renamed",
            engine="external",
            url=receiver.url,
            args=[],
            engineModelName="Ünlike/this",
            names=["renamed", "alias"],
        ),
        workspace(defaultModel="renamed"),
    )


@pytest.fixture
def hotseat(shared: Hotseat, receiver: Receiver) -> Hotseat:
    receiver.requests.clear()
    return shared.fresh()


ODD = b'{ "zeta":1.50, "model" : "%b","unknown":{"model":"inner"},\n"x":"\\u00e9\xc3\xa9" ,"n":1e400,"messages":[] }  '


def test_a_body_arrives_byte_for_byte_under_the_name_that_was_asked_for(hotseat: Hotseat, receiver: Receiver) -> None:
    for name in (b"ext", b"other/name:1"):
        assert hotseat.post(CHAT + "?x=%20y", ODD % name).status == 200
        path, headers, body = receiver.requests[-1]
        assert (path, body) == (CHAT + "?x=%20y", ODD % name)
        assert int(headers["Content-Length"]) == len(body)
        assert headers["Content-Type"] == "application/json"


def test_where_an_engine_wants_another_name_only_that_is_changed(hotseat: Hotseat, receiver: Receiver) -> None:
    for name in (b"renamed", b"alias"):
        assert hotseat.post(CHAT, ODD % name).headers["X-Hotseat-Model"] == "renamed"
        _, headers, body = receiver.requests[-1]
        assert body == ODD % json.dumps("Ünlike/this")[1:-1].encode()
        assert int(headers["Content-Length"]) == len(body)


def test_a_request_that_names_no_model_gets_the_default_one(hotseat: Hotseat, receiver: Receiver) -> None:
    for raw in (b'{"messages": []}', b"{}", b'{"messages": [], "model": null}'):
        assert hotseat.post(CHAT, raw).status == 200
        sent = json.loads(receiver.requests[-1][2])
        assert sent == {**json.loads(raw), "model": "Ünlike/this"}


def test_a_stream_comes_piece_by_piece_and_is_not_buffered_on_its_way(hotseat: Hotseat) -> None:
    hotseat.ask("a")

    def trial() -> float:
        """By how much the piece that was latest missed its time: the first comes at once, and then one every 0.1 s."""
        with stopwatch() as seconds:
            call = hotseat.send("a", stream=True, mock={"tokens": 5, "tokens_per_second": 10})
            head = call.begun()
            assert (head.status, head.headers["X-Accel-Buffering"]) == (200, "no")
            assert head.headers["Content-Type"].startswith("text/event-stream")
            times = [seconds() for line in call.lines() if "content" in line]
        assert len(times) == 5
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        return max(times[0], *(abs(gap - 0.1) for gap in gaps))

    quickest(trial, 0.06)


def test_a_client_that_leaves_ends_its_answer_upstream_within_100_ms(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    for more in ({"stream": True}, {}):
        for mock in ({"tokens": 1000, "tokens_per_second": 10}, {"first_token": 60}):

            def trial(mock: Any = mock, more: Any = more) -> float:
                cancelled = hotseat.stats("a")["cancelled"]
                call = hotseat.send("a", mock=mock, **more)
                eventually(lambda: hotseat.stats("a")["open"] == 1)
                left = time.time()
                call.leave()
                eventually(lambda: hotseat.stats("a")["open"] == 0)
                done = hotseat.mock_lines()[-1]
                assert (done["event"], done["cancelled"]) == ("done", True)
                assert hotseat.stats("a")["cancelled"] == cancelled + 1
                return done["time"] - left

            quickest(trial, 0.1)


def test_loading_is_told_in_comments_to_those_who_ask(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    call = hotseat.send("b", stream=True, headers=COMMENTS)
    assert (call.begun().status, call.begun().headers["X-Accel-Buffering"]) == (200, "no")
    lines = list(call.lines())
    states = [json.loads(line.removeprefix(": hotseat ")) for line in lines if line.startswith(": hotseat ")]
    assert (states[-1]["model"], states[-1]["resident"]) == ("b", None)
    assert [state["state"] for state in states if state["state"] != "ready"][-1] == "loading"
    assert states[-2]["state"] != "ready", "a Model that is ready gets its requests"
    assert [state["elapsed"] for state in states] == sorted(state["elapsed"] for state in states)
    fields = {"model", "state", "position", "estimate", "elapsed", "progress", "resident"}
    assert all(set(state) == fields for state in states)
    rest = [line for line in lines if not line.startswith(":")]
    assert (json.loads(rest[0][6:])["choices"][0]["delta"]["content"], rest[-1]) == ("b:", "data: [DONE]")


def test_loading_that_fails_after_a_comment_is_an_error_event(hotseat: Hotseat) -> None:
    answer = hotseat.ask("bad", stream=True, headers=COMMENTS)
    assert (answer.status, answer.data()[-1]["error"]["code"]) == (200, "model_failed")
    assert b"[DONE]" not in answer.body


def test_without_asking_nothing_comes_before_the_engines_own_first_byte(hotseat: Hotseat) -> None:
    plain, whole = hotseat.send("b", stream=True), hotseat.send("b", headers=COMMENTS)
    hotseat.wait_event("model.ready", "b")
    answers = [plain.answer(), whole.answer()]
    assert answers[0].body.startswith(b"data: ")
    assert answers[1].json()["object"] == "chat.completion"
    call = hotseat.send("a", stream=True)
    ready = False
    while not ready:
        answered = call.has_answer()
        ready = any((row["event"], row["model"]) == ("ready", "a") for row in hotseat.mock_lines())
        assert ready or not answered
    assert call.answer().by == "a"


def test_one_connection_serves_request_after_request(hotseat: Hotseat) -> None:
    connection = http.client.HTTPConnection(hotseat.address, timeout=30)
    said = []
    for number, stream in enumerate((False, True, True, False)):
        connection.request("POST", CHAT, json.dumps(chat("a", f"number {number}", stream=stream)))
        response = connection.getresponse()
        said.append((response.status, b" number" in response.read()))
        if number == 0:
            sock = connection.sock
    assert said == [(200, True)] * 4
    assert connection.sock is sock
    connection.close()


def test_embeddings_and_text_completions_take_the_same_way(hotseat: Hotseat) -> None:
    embedded = hotseat.post("/v1/embeddings", {"model": "a", "input": ["x", "y"]}).json()
    assert [row["index"] for row in embedded["data"]] == [0, 1]
    assert (
        hotseat.post("/v1/completions", {"model": "a", "prompt": "once"})
        .json()["choices"][0]["text"]
        .startswith("a: once")
    )


def test_a_client_that_sends_its_next_request_ahead_is_not_taken_for_one_that_left(hotseat: Hotseat) -> None:
    call = Call(hotseat.address, "POST", CHAT, chat("a"))
    body = json.dumps(chat("a", "again")).encode()
    call._http.sock.sendall(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
    )
    assert call.answer().by == "a"


def test_clients_that_do_not_close_their_side_hold_up_nobody(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    staying = [hotseat.send("a", headers={"Connection": "close"}) for _ in range(3)]
    assert [call.begun().status for call in staying] == [200] * 3

    def trial() -> float:
        with stopwatch() as seconds:
            for _ in range(5):
                hotseat.ask("a")
        return seconds()

    quickest(trial, 1)
