"""Models of peers: which of a peer's list are served here, under which names."""

import json
import threading
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.peers import Peer
from hotseat.control import peers
from hotseat.control.peers import PeerList, models_of, without_conflicts
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.relay.fake_engine import Engine


def peer(**fields: Any) -> Peer:
    return Peer.model_validate({"name": "office", "url": "http://gpu-2:8000", **fields})


def row(name: str, *others: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "names": [name, *others], **more}


def listed(*rows: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(rows)}


def own(name: str, *names: str) -> Model:
    return Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "mock", "names": names}})


def names(models: Any) -> list[tuple[str, ...]]:
    return [model.spec.names for model in models]


def test_a_model_has_the_names_that_the_peer_knows_and_is_asked_for_by_its_first() -> None:
    [model] = models_of(
        peer(), "w", listed(row("Qwen/Qwen3", "qwen", capabilities=["chat"], description="d", metadata={"a": 1}))
    )
    assert (model.spec.names, model.spec.engine_model_name) == (("Qwen/Qwen3", "qwen"), "Qwen/Qwen3")
    assert (model.spec.engine, model.spec.url, model.spec.workspace) == ("external", "http://gpu-2:8000", "w")
    assert (model.spec.capabilities, model.spec.description, model.spec.metadata) == (("chat",), "d", {"a": 1})
    assert (model.peer, model.shown_name) == ("office", "Qwen/Qwen3")


def test_it_has_the_prefix_here_and_not_there() -> None:
    [model] = models_of(peer(prefix="office/"), "w", listed(row("qwen", "q")))
    assert (model.spec.names, model.spec.engine_model_name) == (("office/qwen", "office/q"), "qwen")


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["*"], ["a", "b-1", "b-2"]),
        (["b-*"], ["b-1", "b-2"]),
        (["a", "b-?"], ["a", "b-1", "b-2"]),
        (["c"], []),
        (["alias"], ["a"]),
    ],
)
def test_patterns_say_which(patterns: list[str], found: list[str]) -> None:
    models = models_of(peer(models=patterns), "w", listed(row("a", "alias"), row("b-1"), row("b-2")))
    assert [model.shown_name for model in models] == found


def test_object_names_are_valid_and_differ() -> None:
    given = ["Qwen/Qwen3:8B", "qwen-qwen3-8b", "模型", "x" * 1000, "-", "9"]
    models = models_of(peer(name="a" + "-" * 15 + "b"), "w", listed(*map(row, given)))
    assert len({model.name for model in models}) == len(given)
    again = models_of(peer(name="a" + "-" * 15 + "b"), "w", listed(*map(row, reversed(given))))
    assert {model.name for model in again} == {model.name for model in models}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "a",
        {},
        {"id": 1},
        {"id": ""},
        {"id": "x" * 2000},
        row("theirs", peer="third"),  # the peer's own peer
        row("openai/*"),
    ],
)
def test_a_row_that_is_not_a_model_of_the_peer_is_left_out(bad: Any) -> None:
    assert [model.shown_name for model in models_of(peer(), "w", listed(bad, row("good")))] == ["good"]


def test_strange_fields_do_not_leave_a_model_out() -> None:
    [model] = models_of(
        peer(),
        "w",
        listed(
            {"id": "a", "names": [1, "b", "c*"], "capabilities": ["chat", "flying"], "metadata": 1, "description": None}
        ),
    )
    assert (model.spec.names, model.spec.capabilities, model.spec.metadata) == (("a", "b"), ("chat",), {})


@pytest.mark.parametrize("body", [[], {}, {"data": {}}, None, "x"])
def test_what_is_no_list_is_an_error(body: Any) -> None:
    with pytest.raises(ValueError, match="has no list of models"):
        models_of(peer(), "w", body)


def test_own_models_go_before_those_of_peers_and_earlier_peers_before_later() -> None:
    first = models_of(peer(), "w", listed(row("a"), row("b", "shared"), row("c", "own")))
    second = models_of(peer(name="home"), "w", listed(row("b"), row("d", "shared")))
    kept = without_conflicts([own("a"), own("mine", "own")], (*first, *second))
    assert names(kept) == [("b", "shared"), ("c",), ("d",)]
    assert [model.peer for model in kept] == ["office", "office", "home"]


def test_names_of_virtual_models_stay_those_of_this_hotseat() -> None:
    there = models_of(peer(), "w", listed(row("smart"), row("b", "shared")))
    assert names(without_conflicts([], there, {"smart", "shared"})) == [("b",)]


def test_a_row_with_strange_capabilities_is_read() -> None:
    assert names(models_of(peer(), "w", {"data": [{"id": "a", "capabilities": [[], {}, "chat"]}]})) == [("a",)]


# The list of a peer ---------------------------------------------------------------------------------------------------------


def answer(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (answer(b"{}", "401 Unauthorized"), "got status 401"),
        (answer(b"", "302 Found", "Location: http://127.0.0.1:1/"), "got status 302"),
        (answer(b"<html>"), "Expecting value"),
        (answer(b"[]"), "has no list of models"),
        (answer(b"[" * 100_000), "recursion"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "IncompleteRead"),
        (b"", "closed"),
    ],
)
def test_while_a_list_cannot_be_read_the_models_stay(monkeypatch: pytest.MonkeyPatch, bad: bytes, problem: str) -> None:
    monkeypatch.setattr(peers, "SHORTEST_PERIOD", 0.01)
    good, asked = answer(json.dumps(listed(row("a"))).encode()), threading.Event()
    scripts = iter([good, bad])

    def script(peer: Any) -> None:
        if peer.request():
            peer.send(next(scripts, bad))

    with Engine(script) as engine:
        made = PeerList(peer(url=engine.address, key={"value": "secret"}, refreshPeriod="10ms"), "w", asked.set)
        try:
            assert asked.wait(30)
            eventually(lambda: made.problem)
            assert problem in made.problem
            assert [model.shown_name for model in made.models] == ["a"]
            assert b"Authorization: Bearer secret\r\n" in engine.requests[0]
            assert b"X-Hotseat-Peer: 1\r\n" in engine.requests[0]
            assert "secret" not in made.problem
        finally:
            made.stop()
            made._thread.join()


def test_a_key_that_is_missing_is_a_problem_and_nothing_is_sent() -> None:
    with Engine(lambda peer: peer.request()) as engine:
        made = PeerList(peer(url=engine.address, key={"env": "NO_SUCH_KEY"}), "w", lambda: None)
        try:
            eventually(lambda: made.problem)
            assert "spec.peers[office].key.env: the environment variable NO_SUCH_KEY is not set" in made.problem
            assert engine.requests == []
        finally:
            made.stop()
            made._thread.join()
