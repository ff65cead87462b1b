"""Routes for people and probes: what runs, load and unload, the list of models, logs, metrics, CORS."""

from typing import Any

import pytest

from tests.unit.gateway.relay.fake_engine import Engine, answers, sized

from .conftest import Up
from .harness import CHAT, Hotseat, chat, eventually, model, stopwatch, workspace


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("b", description="The second.", metadata={"size": "7B", "tags": ["x"]}, names=["b", "bee", "org/Bee:7b"]),
        model("a", capabilities=["chat", "completion"]),
        model("hidden", unlisted=True),
        model("bad", "--fault", "exit-loading"),
        model("slow", "--load-time", "1.5"),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def test_the_list_is_sorted_and_says_all_there_is_to_know(hotseat: Hotseat) -> None:
    hotseat.ask("b")
    eventually(lambda: hotseat.get("/v1/models/b").json()["status"]["state"] == "ready")
    listed = hotseat.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == ["a", "b", "bad", "slow"]
    a, b = listed["data"][:2]
    assert {"object": "model", "owned_by": "hotseat"}.items() <= a.items()
    assert isinstance(a["created"], int)
    assert (a["capabilities"], a["status"]["value"]) == (["chat", "completion"], "unloaded")
    assert (b["names"], b["description"]) == (["b", "bee", "org/Bee:7b"], "The second.")
    assert (b["metadata"], b["status"]["value"], b["status"]["state"]) == (
        {"size": "7B", "tags": ["x"]},
        "loaded",
        "ready",
    )
    assert hotseat.get("/v1/models/org/Bee:7b").json() == b == hotseat.get("/v1/models/b").json()


def test_other_names_and_unlisted_models_are_served(hotseat: Hotseat) -> None:
    assert [hotseat.ask(name).by for name in ("bee", "org/Bee:7b", "hidden")] == ["b", "b", "hidden"]
    assert hotseat.loads() == {"b": 1, "hidden": 1}
    assert hotseat.get("/v1/models/hidden").json()["id"] == "hidden"


def test_a_failed_model_is_unloaded_in_llama_servers_words_with_its_exit_code(hotseat: Hotseat) -> None:
    assert hotseat.ask("bad").code == "model_failed"
    status = hotseat.get("/v1/models/bad").json()["status"]
    assert (status["value"], status["state"], status["failed"], status["exit_code"]) == ("unloaded", "failed", True, 1)
    assert "failed" not in hotseat.get("/v1/models/b").json()["status"]


def test_operations_spell_all_keys_in_one_way(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    hotseat.ask("b")
    told = [hotseat.get(path).json() for path in ("/running", "/api/queue", "/api/switches")]
    assert "accelerator_memory" in told[0]["workspaces"][0]["capacity"]

    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value) | set().union(*map(keys, value.values())) if isinstance(value, dict) else set()

    assert [key for key in set().union(*map(keys, told)) if key != key.lower()] == []


def waits(hotseat: Hotseat) -> dict[str, dict[str, Any]]:
    fields = ("reason", "message", "expected_at", "behind")
    return {row["model"]: {key: row[key] for key in fields} for row in hotseat.get("/api/queue").json()["queue"]}


def test_running_says_who_holds_the_seat_and_who_waits(hotseat: Hotseat) -> None:
    assert hotseat.get("/running").json()["running"] == []
    hotseat.ask("a")
    long = hotseat.send("a", stream=True, mock={"tokens": 400, "tokens_per_second": 20})
    long.begun()
    waiter = hotseat.send("b")
    eventually(lambda: hotseat.waiting("b"))
    told = hotseat.get("/running").json()
    (row,) = told["running"]
    assert (row["model"], row["state"], row["in_flight"], row["gpus"], row["workspace"]) == (
        "a",
        "ready",
        1,
        1,
        "default",
    )
    assert row["address"].startswith("http://127.0.0.1:")
    assert [(row["model"], row["count"]) for row in told["waiting"]] == [("b", 1)]
    assert told["workspaces"][0]["capacity"]["gpus"] == 1
    eventually(lambda: waits(hotseat)["b"]["reason"] == "Batch")
    why = waits(hotseat)
    assert why["b"]["message"].startswith(
        "a is resident and serves 1 request in flight; it ends its turn at the latest"
    )
    assert why["b"]["behind"] == ["a"]
    assert why["a"] == {"reason": None, "message": None, "expected_at": None, "behind": []}
    long.leave()
    assert waiter.answer().by == "b"
    assert hotseat.running() == {"b": "ready"}


def test_load_waits_or_does_not(hotseat: Hotseat) -> None:
    answer = hotseat.post("/api/models/slow/load")
    assert (answer.status, answer.json()["state"]) == (202, "unloaded")
    answer = hotseat.post("/api/models/slow/load?wait=100ms")
    assert (answer.status, answer.code) == (503, "loading")
    answer = hotseat.post("/api/models/slow/load?wait=true")
    assert (answer.status, answer.json()) == (200, {"model": "slow", "state": "ready"})
    assert hotseat.loads() == {"slow": 1}
    assert hotseat.post("/api/models/bee/load?wait=true").json() == {"model": "b", "state": "ready"}
    assert hotseat.running() == {"b": "ready"}
    assert hotseat.post("/api/models/b/load?wait=maybe").status == 400


def test_a_load_that_fails_says_why_and_may_be_tried_again_at_once(hotseat: Hotseat) -> None:
    for count in (1, 2):
        answer = hotseat.post("/api/models/bad/load?wait=true")
        assert (answer.status, answer.code) == (503, "model_failed")
        assert "as it was told to" in answer.json()["error"]["message"]
        assert hotseat.loads() == {"bad": count}


def test_a_load_that_is_taken_back_does_not_wait_for_ever(hotseat: Hotseat) -> None:
    waiting = hotseat.call("POST", "/api/models/slow/load?wait=true")
    hotseat.wait_event("switch.started", "slow")
    assert hotseat.post("/api/models/slow/unload?wait=true").json()["state"] == "unloaded"
    answer = waiting.answer()
    assert (answer.status, answer.code) == (503, "unloaded")


def test_an_unload_under_demand_state_ends_when_what_was_loaded_is_gone(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    long = hotseat.send("a", stream=True, mock={"tokens": 80, "tokens_per_second": 40})
    long.begun()
    unload = hotseat.call("POST", "/api/models/a/unload?wait=true")
    eventually(lambda: hotseat.running()["a"] != "ready")
    later = hotseat.send("a")
    assert unload.answer().status == 200
    assert len(long.answer().data()) == 81
    assert later.answer().by == "a", "what came later is served by its next engine"
    assert hotseat.loads() == {"a": 2}


def test_unload_of_all(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    answer = hotseat.post("/api/models/unload?wait=5s")
    assert answer.status == 200
    assert {row["model"]: row["state"] for row in answer.json()["models"]}["a"] == "unloaded"
    assert hotseat.running() == {}
    assert hotseat.post("/api/models/unload").status == 202


def test_switches_tell_their_phases(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    with stopwatch() as seconds:
        hotseat.ask("b")
    hotseat.wait_event("switch.completed", "b")
    switch = hotseat.get("/api/switches").json()["switches"][-1]
    assert (switch["from"], switch["to"], switch["outcome"], switch["reason"]) == (["a"], "b", "completed", "demand")
    phases = switch["phases"]
    assert set(phases) == {"wait", "drain", "release", "load", "total"}
    assert 0.1 <= phases["load"] <= phases["total"] < seconds()


def test_logs_whole_and_followed(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    eventually(lambda: b"mock a listens" in hotseat.get("/api/models/a/logs?lines=1").body)
    answer = hotseat.get("/api/models/a/logs?lines=2")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.body.decode().splitlines()[-1].startswith("mock a listens on http://")
    assert len(answer.body.decode().splitlines()) == 2
    follower = hotseat.get_stream("/api/models/a/logs?follow=true&lines=1")
    assert next(follower).startswith("data: mock a listens on")
    hotseat.ask("b")
    hotseat.ask("a")
    assert " ended with code 0" in next(follower)
    assert " started, pid " in next(follower)
    assert hotseat.get("/api/models/a/logs?lines=x").status == 400


def test_metrics_after_known_demand_state(up: Up) -> None:
    hotseat = up(model("a"), model("b"), model("bad", "--fault", "exit-loading"))
    with stopwatch() as first_load:
        hotseat.ask("a")
    for name in ("a", "b", "nobody", "bad"):
        hotseat.ask(name)
    hotseat.wait_event("model.released", "bad")  # else the next switch is one from it
    hotseat.post("/v1/embeddings", {"model": "b", "input": "x"})
    left = hotseat.send("b", stream=True, mock={"tokens": 1000, "tokens_per_second": 20})
    left.begun()
    with stopwatch() as waited:
        waiter = hotseat.send("a")
        eventually(lambda: hotseat.waiting("a"))
        now = hotseat.metrics()
    assert now["hotseat_requests_in_flight", "b"] == 1
    assert now["hotseat_queued_requests", "a"] == 1
    assert 0 < now["hotseat_oldest_queued_request_seconds", "a"] < waited()
    assert now["hotseat_residents", "b", "ready", "default"] == 1
    with stopwatch() as second_load:
        left.leave()
        waiter.answer()

    def counted(name: str) -> dict[tuple[str, ...], float]:
        return {key[1:]: n for key, n in hotseat.metrics().items() if key[0] == name}

    requests = {
        ("a", "chat", "200"): 3,
        ("b", "chat", "200"): 1,
        ("b", "embedding", "200"): 1,
        ("b", "chat", "499"): 1,
        ("bad", "chat", "503"): 1,
        ("", "chat", "404"): 1,
    }
    switches = {
        ("", "completed", "demand", "a"): 1,
        ("a", "completed", "demand", "b"): 1,
        ("b", "failed", "demand", "bad"): 1,
        ("", "completed", "demand", "b"): 1,
        ("b", "completed", "demand", "a"): 1,
    }
    eventually(lambda: counted("hotseat_requests_total") == requests)  # counted once answered
    eventually(lambda: counted("hotseat_switches_total") == switches)
    after = hotseat.metrics()
    assert after["hotseat_model_failures_total", "bad", "ExitedWhileLoading"] == 1
    assert after["hotseat_load_duration_seconds_count", "a"] == 2
    assert 0.2 <= after["hotseat_load_duration_seconds_sum", "a"] < first_load() + second_load()
    assert after["hotseat_switch_phase_duration_seconds_count", "load", "b"] == 2
    assert after["hotseat_request_duration_seconds_count", "a"] == 3
    assert after["hotseat_queue_wait_seconds_count", "a"] == 2, "of those that had to wait"
    assert after["hotseat_queued_requests", "a"] == after["hotseat_requests_in_flight", "b"] == 0
    assert 5.0 <= after["hotseat_effective_max_wait_seconds", "default"] <= hotseat.longest_auto_wait()
    assert after["hotseat_events_undelivered_total",] == 0


def test_what_is_refused_is_counted_too_without_a_model_where_none_is_known(up: Up) -> None:
    hotseat = up(model("vectors", capabilities=["embedding"]), options=("--api-key", "sk", "--max-body", "1Ki"))
    key = {"Authorization": "Bearer sk"}
    refused = [
        ({}, chat("vectors"), 401),
        ({"Authorization": "Bearer other"}, chat("vectors"), 401),
        (key, b"{", 400),
        (key, {"messages": []}, 400),
        (key, chat("x" * 2000), 413),
        *((key, chat(f"unheard-of-{number}"), 404) for number in range(3)),
        (key, chat("vectors"), 400),
    ]
    for headers, body, status in refused:
        assert hotseat.post(CHAT, body, **headers).status == status

    def counted() -> set[str]:
        lines = hotseat.get("/metrics", **key).body.decode().splitlines()
        return {
            line
            for line in lines
            if line.startswith(("hotseat_requests_total{", "hotseat_request_duration_seconds_count"))
        }

    wanted = {
        'hotseat_requests_total{model="",route="chat",status="400"} 2.0',
        'hotseat_requests_total{model="",route="chat",status="401"} 2.0',
        'hotseat_requests_total{model="",route="chat",status="404"} 3.0',
        'hotseat_requests_total{model="",route="chat",status="413"} 1.0',
        'hotseat_requests_total{model="vectors",route="chat",status="400"} 1.0',
    }
    eventually(lambda: counted() == wanted)
    assert not hotseat.loads()


class TestCors:
    def test_it_is_off(self, hotseat: Hotseat) -> None:
        for answer in (
            hotseat.call("POST", CHAT, chat("a"), Origin="http://page").answer(),
            hotseat.get("/v1/models", Origin="http://page"),
            hotseat.call("OPTIONS", CHAT, Origin="http://page", Access_Control_Request_Method="POST").answer(),
        ):
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]

    def test_it_lets_in_whom_it_is_told_to(self, up: Up) -> None:
        hotseat = up(model("a"), options=("--cors-origin", "http://page", "--api-key", "k"))
        asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,x-mine"}
        for path in (CHAT, "/api/models/a/load"):
            answer = hotseat.call("OPTIONS", path, Origin="http://page", **asked).answer()
            assert (answer.status, answer.body) == (204, b""), "browsers send no key with this"
            assert answer.headers["Access-Control-Allow-Origin"] == "http://page"
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-mine"
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        key = {"Authorization": "Bearer k"}
        for more in ({}, {"stream": True}):
            answer = hotseat.call("POST", CHAT, chat("a", **more), Origin="http://page", **key).answer()
            assert (answer.status, answer.headers.get_all("Access-Control-Allow-Origin")) == (200, ["http://page"])
            assert "Origin" in answer.headers["Vary"]
        for answer in (
            hotseat.get("/v1/models", Origin="http://page", **key),
            hotseat.get("/v1/models", Origin="http://page"),
            hotseat.call("POST", CHAT, chat("nobody"), Origin="http://page", **key).answer(),
            hotseat.call("POST", CHAT, chat("a"), Origin="http://page").answer(),
        ):
            assert answer.headers.get_all("Access-Control-Allow-Origin") == ["http://page"], "errors, too, can be read"
        assert hotseat.get("/v1/models", Origin="http://other", **key).headers["Access-Control-Allow-Origin"] is None

    def test_an_engine_has_no_say_in_it_also_if_it_is_a_hotseat(self, up: Up) -> None:
        inner = up(model("a"))
        says = b"Access-Control-Allow-Origin: *\r\nX-Hotseat-Model: lie\r\nX-Queue-Position: 9\r\n"
        with Engine(answers(sized(b'{"choices": []}', says))) as engine:
            outer = up(
                model("a", engine="external", url=inner.url, args=[]),
                model("b", engine="external", url=engine.address, args=[]),
                options=("--cors-origin", "http://page"),
            )
            for name in ("a", "b"):
                answer = outer.call("POST", CHAT, chat(name), Origin="http://page").answer()
                assert answer.status == 200, "an inner hotseat would refuse the page"
                assert answer.headers.get_all("Access-Control-Allow-Origin") == ["http://page"]
                assert answer.headers.get_all("Access-Control-Expose-Headers") == ["*"]
                assert answer.headers.get_all("X-Hotseat-Model") == [name]
                assert answer.headers["X-Queue-Position"] is None
                answer = outer.ask(name)
                assert not [field for field in answer.headers if field.lower().startswith("access-control")]


def test_two_workspaces_share_nothing_but_the_door(up: Up) -> None:
    documents = [workspace("east", policy={"maxWait": "5s"}), workspace("west", defaultModel="c")]
    hotseat = up(
        *documents,
        *(model(name, workspace=home) for name, home in zip("abcd", ("east",) * 2 + ("west",) * 2, strict=True)),
        seats=2,
    )
    calls = {name: hotseat.send(name) for name in "abcd"}
    assert {name: call.answer().by for name, call in calls.items()} == {name: name for name in "abcd"}
    assert len(hotseat.running()) == 2
    assert hotseat.post(CHAT, {"messages": []}).by == "c"
    assert hotseat.ask("a").by == "a"
    assert set(hotseat.running()) == {"a", "c"}
    hotseat.catch_up()
    sources = {event["subject"]: event["source"] for event in hotseat.events("switch.completed")}
    assert sources == {
        "a": "/workspaces/east",
        "b": "/workspaces/east",
        "c": "/workspaces/west",
        "d": "/workspaces/west",
    }
    told = {row["name"]: row["max_wait"] for row in hotseat.get("/running").json()["workspaces"]}
    assert told == {"east": 5, "west": "Auto"}
