"""Names of Models: whatever a client can send, with the first shown everywhere, and metadata.name underneath."""

from urllib.parse import quote, unquote

import pytest

from hotseat.cli.client import Client

from .conftest import Up
from .harness import CHAT, Hotseat, chat, eventually, model

NAMES = ["Qwen 3 30B A3B", "claude-opus-4-8[1m]", "Qwen/Qwen3-8B", "llama3.1:8b", "modèle", "模型-7b"]
ODD = ['say "hi", 100%', "a//b/../c", "/models/x.gguf", "..", " ", "two\nlines\t\x1b[31m", "C# 7b"]
SHOWN = NAMES[0]


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a", "--load-time", "0.4", names=NAMES),
        model("odd", names=ODD),
        model("b", fallback={"model": "模型-7b", "after": "0s"}),
        model("c", names=["no good"]),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


@pytest.mark.parametrize("name", [*NAMES, "a"])
def test_each_name_is_served_and_the_first_is_shown(hotseat: Hotseat, name: str) -> None:
    answer = hotseat.ask(name)
    assert (answer.status, answer.json()["model"]) == (200, "a"), "the engine is asked by metadata.name"
    assert unquote(answer.headers["X-Hotseat-Model"]) == SHOWN
    found = hotseat.get(f"/v1/models/{quote(name)}").json()
    assert (found["id"], found["names"], found["metadata_name"]) == (SHOWN, [*NAMES, "a"], "a")


@pytest.mark.parametrize("name", ODD)
def test_the_oddest_names_are_served_and_can_be_operated(hotseat: Hotseat, name: str) -> None:
    answer = hotseat.ask(name)
    assert (answer.status, unquote(answer.headers["X-Hotseat-Model"])) == (200, ODD[0])
    client = Client(hotseat.url)
    assert client.unload(name) == {"model": ODD[0], "state": "unloaded"}
    assert client.load(name) == {"model": ODD[0], "state": "ready"}
    assert any("mock odd" in line for line in client.log_lines(name, 100, follow=False))


@pytest.mark.parametrize(
    "name", ["qwen/qwen3-8B", "Qwen-3-30B-A3B", "LLAMA3.1_8b", "modele", "no-good", "Claude Opus 4 8 1M"]
)
def test_an_unknown_name_gets_a_near_one_and_nothing_is_guessed(hotseat: Hotseat, name: str) -> None:
    loads = len(hotseat.get("/api/switches").json()["switches"])
    for answer in (hotseat.ask(name), hotseat.get(f"/v1/models/{quote(name)}")):
        assert (answer.status, answer.code) == (404, "model_not_found")
        assert any(f"Did you mean `{near}`?" in answer.json()["error"]["message"] for near in [*NAMES, "no good"])
    assert len(hotseat.get("/api/switches").json()["switches"]) == loads


def test_the_list_events_metrics_and_operations_show_the_first_name(hotseat: Hotseat) -> None:
    hotseat.ask("b")
    hotseat.ask("a")
    listed = hotseat.get("/v1/models").json()["data"]
    assert [row["id"] for row in listed] == sorted([SHOWN, ODD[0], "b", "no good"])
    (row,) = hotseat.get("/running").json()["running"]
    assert (row["model"], row["instance"].partition("@")[0]) == (SHOWN, "default/a")
    switch = hotseat.get("/api/switches").json()["switches"][-1]
    assert (switch["from"], switch["to"]) == (["b"], SHOWN)
    event = hotseat.wait_event("switch.completed", SHOWN)
    assert (event["subject"], event["metadataname"], event["data"]["from"]) == (SHOWN, "a", ["b"])
    assert event["data"]["to"] == SHOWN
    assert {row["model"] for row in hotseat.get("/api/queue").json()["queue"]} == {SHOWN, ODD[0], "b", "no good"}
    key = ("hotseat_requests_total", SHOWN, "chat", "200")
    eventually(lambda: hotseat.metrics().get(key))
    assert hotseat.metrics()["hotseat_residents", SHOWN, "ready", "default"] == 1


def test_a_fallback_is_told_in_a_header_that_can_be_read(up: Up) -> None:
    fallback = {"model": "模型-7b", "when": ["Unsupported"]}
    hotseat = up(model("a", names=NAMES), model("b", names=["b, too"], fallback=fallback, capabilities=["embedding"]))
    answer = hotseat.ask("b, too")
    assert answer.headers["X-Hotseat-Fallback"] == "model=b%2C%20too, fallback=Qwen%203%2030B%20A3B, reason=unsupported"
    assert answer.headers["X-Hotseat-Model"].isascii()


def test_a_loading_stream_shows_it(hotseat: Hotseat) -> None:
    hotseat.ask("b")
    lines = list(
        hotseat.call("POST", CHAT, chat("a", stream=True), **{"X-Hotseat-Loading": "comments"}).lines(),
    )
    told = next(line for line in lines if line.startswith(": hotseat "))
    assert f'"model": "{SHOWN}"' in told
