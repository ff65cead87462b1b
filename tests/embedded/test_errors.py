"""What a client is told when it cannot have what it asked for: a status, OpenAI's shape, and whether to try again."""

import json
import socket
from collections.abc import Iterator

import pytest

from .conftest import Up
from .harness import CHAT, Call, Hotseat, chat, eventually, model, quickest, stopwatch, workspace
from .receiver import Receiver

LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a"),
        model("b"),
        model("fragile"),
        model("vectors", capabilities=["embedding"]),
        options=("--max-body", "64Ki"),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


@pytest.fixture
def busy(hotseat: Hotseat) -> Iterator[Hotseat]:
    """A hotseat whose seat `a` keeps for as long as the test lasts."""
    long = hotseat.send("a", stream=True, mock={"tokens": 400, "tokens_per_second": 20})
    long.begun()
    yield hotseat
    long.leave()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model": "a"', "invalid_json"),
        (b"", "invalid_json"),
        (b"\xff\xfe\xff", "invalid_json"),
        (b"[" * 100_00, "invalid_json"),
        (b'["a"]', "invalid_request"),
        (b'{"model": 3}', "invalid_request"),
        (b'{"model": ["a"]}', "invalid_request"),
        (b'{"model": ""}', "invalid_request"),
        (b'{"messages": []}', "invalid_request"),
        (b'{"model": null}', "invalid_request"),
    ],
)
def test_a_body_that_makes_no_sense_is_400_and_wakes_nobody(hotseat: Hotseat, body: bytes, code: str) -> None:
    answer = hotseat.post(CHAT, body)
    assert (answer.status, answer.code) == (400, code)
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert hotseat.catch_up() == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_413(hotseat: Hotseat, chunked: bool) -> None:
    body = json.dumps(chat("a", "x" * LIMIT)).encode()
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % CHAT.encode()
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        head += b"Transfer-Encoding: chunked\r\n\r\n"
    else:
        head += b"Content-Length: %d\r\n\r\n" % len(body)
    host, port = hotseat.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(head + body)
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert hotseat.ask("a", "x" * (LIMIT - 1000)).by == "a", "one that just fits is served"


def test_other_methods_and_other_paths(hotseat: Hotseat) -> None:
    answer = hotseat.call("PUT", CHAT, chat("a")).answer()
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    answer = hotseat.post("/v1/nothing", chat("a"))
    assert (answer.status, answer.code) == (404, "not_found")
    answer = hotseat.get("/v1/models/nobody")
    assert (answer.status, answer.code) == (404, "model_not_found")
    for path in ("/api/models/nobody/load", "/api/models/nobody/unload"):
        assert (hotseat.post(path).status, hotseat.post(path).code) == (404, "model_not_found")
    assert hotseat.get("/api/models/nobody/logs").code == "model_not_found"
    assert hotseat.running() == {}


def test_a_model_is_not_asked_for_what_it_cannot_do(hotseat: Hotseat) -> None:
    answer = hotseat.ask("vectors")
    assert (answer.status, answer.code) == (400, "unsupported")
    assert hotseat.running() == {}
    assert hotseat.post("/v1/embeddings", {"model": "vectors", "input": "x"}).json()["data"][0]["object"] == "embedding"


def test_a_client_may_limit_its_wait_and_its_demand_goes_with_it(busy: Hotseat) -> None:
    def trial() -> float:
        with stopwatch() as seconds:
            calls = [busy.send("b", headers={"X-Hotseat-Max-Wait": text}) for text in ("200ms", "0.3")]
            answers = [call.answer() for call in calls]
        assert seconds() >= 0.3
        for answer in answers:
            assert (answer.status, answer.code) == (503, "wait_timeout")
            assert "Retry-After" in answer.headers
        return seconds()

    quickest(trial, 0.8)
    assert busy.waiting() == 0
    assert busy.loads()["b"] == 0
    assert busy.ask("b", headers={"X-Hotseat-Max-Wait": "0s"}).code == "wait_timeout", "not now is not at all"
    assert busy.ask("a", headers={"X-Hotseat-Max-Wait": "0s"}).by == "a", "nothing to wait for"


@pytest.mark.parametrize("text", ["soon", "-1", "", "1e3", "inf", "nan"])
def test_a_limit_that_is_none_is_400(hotseat: Hotseat, text: str) -> None:
    answer = hotseat.ask("a", headers={"X-Hotseat-Max-Wait": text})
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert hotseat.running() == {}


def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error_event(hotseat: Hotseat) -> None:
    answer = hotseat.ask("fragile", stream=True, mock={"fault": "die-midstream:2", "tokens_per_second": 50})
    *pieces, last = answer.data()
    assert (answer.status, len(pieces)) == (200, 2)
    assert last["error"]["type"] == "server_error"
    assert b"[DONE]" not in answer.body
    hotseat.wait_event("model.failed", "fragile")


def test_an_engine_that_breaks_off_before_its_first_byte_is_502(hotseat: Hotseat) -> None:
    for fault in ("garbage", "cut-midstream:0"):
        answer = hotseat.ask("a", mock={"fault": fault})
        assert (answer.status, answer.code) == (502, "upstream_failed")
    assert hotseat.ask("a").by == "a", "it goes on"
    assert hotseat.loads() == {"a": 1}


def test_an_engines_own_error_is_passed_on(hotseat: Hotseat) -> None:
    answer = hotseat.ask("a", mock={"status": 422})
    assert (answer.status, answer.json()["error"]["message"]) == (422, "a was told to answer 422")


def test_a_full_queue_is_429_before_any_stream_begins(up: Up) -> None:
    hotseat = up(model("a"), model("b"), model("c"), workspace(queue={"maxWaiting": 3, "maxWaitingPerModel": 2}))
    long = hotseat.send("a", stream=True, mock={"tokens": 400, "tokens_per_second": 20})
    long.begun()
    held = [hotseat.send("b"), hotseat.send("b")]
    eventually(lambda: hotseat.waiting("b") == 2)
    held.append(hotseat.send("c"))
    eventually(lambda: hotseat.waiting("c") == 1)
    for name in ("b", "c"):
        answer = hotseat.ask(name, stream=True, headers={"X-Hotseat-Loading": "comments"})
        assert (answer.status, answer.code) == (429, "queue_full")
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Content-Type"] == "application/json"
    assert hotseat.ask("a", mock={"tokens": 1}).by == "a", "what need not wait is served"
    long.leave()
    assert [call.answer().by for call in held] == ["b", "b", "c"], "who waited is served"


def test_an_external_server_that_is_not_there_is_502_and_never_loaded(up: Up) -> None:
    there = Receiver()
    documents = [model("here", engine="external", url=there.url, args=[]), model("gone", engine="external", args=[])]
    documents[1]["spec"]["url"] = "http://127.0.0.1:9"
    hotseat = up(*documents)
    try:
        assert hotseat.ask("here").json() == {"object": "mine"}
        assert (hotseat.ask("gone").status, hotseat.ask("gone").code) == (502, "upstream_failed")
        assert hotseat.post("/api/models/here/unload").status == 409
        assert hotseat.get("/v1/models/here").json()["status"]["state"] == "ready"
        assert hotseat.catch_up() == []
    finally:
        there.close()


def test_a_client_that_sends_half_a_body_and_leaves_harms_nobody(hotseat: Hotseat) -> None:
    host, port = hotseat.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{" % CHAT.encode())
    assert Call(hotseat.address, "GET", "/health").answer().status == 200
    assert hotseat.running() == {}
