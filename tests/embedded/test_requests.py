"""Requests as an operator sees them at a hotseat that runs: what they took, how one is cancelled, and captured bodies."""

import json
from base64 import b64decode
from pathlib import Path

from .conftest import Up
from .harness import Hotseat, eventually, model

USAGE = {"stream_options": {"include_usage": True}, "stream": True}


def rows(hotseat: Hotseat, query: str = "") -> list[dict]:
    return hotseat.get(f"/api/requests{query}").json()["requests"]


def test_a_stream_that_caused_a_switch_tells_times_and_tokens_in_the_log_and_at_the_api(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    slow = ("--load-time", "0.3", "--first-token", "0.2", "--tokens-per-second", "100", "--slots", "1")
    hotseat = up(model("a", *slow), model("b"), options=("--request-log", str(path)))
    hotseat.ask("b")
    assert hotseat.ask("a", "three word prompt", mock={"tokens": 21}, **USAGE).status == 200
    eventually(lambda: len(path.read_text().splitlines()) == 2)
    line = json.loads(path.read_text().splitlines()[1])
    (row,) = rows(hotseat, "?model=a")
    for told in (line, row):
        assert told.items() >= {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 21, "status": 200}.items()
        assert 0.3 <= told["switch_seconds"] <= told["waited"] <= told["ttft"] - 0.199
        assert told["ttft"] < told["seconds"]
        assert told["tokens_per_second"] > 0
    assert "word" not in path.read_text()
    assert hotseat.metrics()["hotseat_tokens_total", "completion", "a"] == 21
    again = hotseat.ask("a", "three word prompt")
    assert again.json()["usage"]["prompt_tokens"] == rows(hotseat)[0]["prompt_tokens"]
    assert rows(hotseat)[0]["switch_seconds"] is None


def test_requests_that_wait_and_that_are_served_are_cancelled(up: Up) -> None:
    hotseat = up(model("a", "--fault", "hang"), model("b"))
    served = hotseat.send("a")
    eventually(lambda: [row["state"] for row in rows(hotseat)] == ["in_flight"])
    waits = hotseat.send("b")
    eventually(lambda: [row["state"] for row in rows(hotseat)] == ["waiting", "in_flight"])
    for row, call in zip(rows(hotseat), (waits, served), strict=True):
        assert hotseat.post(f"/api/requests/{row['id']}/cancel").status == 200
        assert (call.answer().status, call.begun().headers["Retry-After"]) == (410, None)
    assert [row["status"] for row in rows(hotseat)] == [410, 410]
    eventually(lambda: hotseat.stats("a")["cancelled"] == 1)


def test_bodies_are_captured_without_their_texts(up: Up) -> None:
    hotseat = up(model("a"), options=("--capture", "redacted"))
    hotseat.ask("a", "sesame", **USAGE)
    (row,) = eventually(lambda: [row for row in rows(hotseat) if row["captured"]])
    answer = hotseat.get(f"/api/captures/{row['id']}")
    assert b"sesame" not in answer.body
    told = answer.json()
    assert json.loads(told["request"]["body"])["messages"] == [{"role": "user", "content": "<6 characters>"}]
    assert '"prompt_tokens": 1' in told["response"]["body"]
    assert told["response"]["body"].endswith("data: [DONE]\n\n")


def test_bodies_are_captured_whole_if_that_is_wanted_also_of_an_error(up: Up) -> None:
    hotseat = up(model("a"), options=("--capture", "full"))
    said = hotseat.ask("a", "sesame")
    failed = hotseat.ask("a", "sesame", mock={"status": 500})
    first, second = eventually(lambda: len(found := [r for r in rows(hotseat) if r["captured"]]) == 2 and found)
    for row, answer in ((second, said), (first, failed)):
        told = hotseat.get(f"/api/captures/{row['id']}").json()
        assert "sesame" in told["request"]["body"]
        assert told["response"] == {"truncated": False, "body": answer.body.decode()}
    listed = hotseat.get("/api/metrics").json()
    assert [(row["id"], row["resp_status_code"], row["has_capture"]) for row in listed] == [
        (1, 200, True),
        (2, 500, True),
    ]
    told = hotseat.get("/api/captures/2").json()
    assert (told["id"], told["req_path"], told["req_headers"]) == (2, "/v1/chat/completions", {})
    assert b64decode(told["resp_body"]) == failed.body
    assert b"sesame" in b64decode(told["req_body"])
    assert hotseat.get("/api/captures/3").status == 404
