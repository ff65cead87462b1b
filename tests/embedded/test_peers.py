"""Two hotseats whose models are served by each other."""

import signal
from typing import Any

from .conftest import Up
from .harness import Hotseat, eventually, model, workspace


def of_peer(peer: Hotseat | str, name: str = "office", **fields: Any) -> dict[str, Any]:
    url = peer if isinstance(peer, str) else peer.url
    return workspace(peers=[{"name": name, "url": url, "refreshPeriod": "1s", **fields}])


def listed(hotseat: Hotseat, **headers: str) -> dict[str, str | None]:
    """The peer of each model that is listed."""
    return {row["id"]: row["peer"] for row in hotseat.get("/v1/models", **headers).json()["data"]}


def test_models_of_a_peer_are_served_under_the_names_that_it_knows(up: Up) -> None:
    office = up(model("qwen", names=["Qwen/Qwen3"]), model("hidden"), options=("--api-key", "secret"))
    here = up(
        of_peer(office, key={"value": "secret"}, models=["Qwen/*"], prefix="office/"),
        model("own"),
    )
    eventually(lambda: listed(here) == {"office/Qwen/Qwen3": "office", "own": None})
    for name in ("office/Qwen/Qwen3", "office/qwen"):
        answer = here.ask(name)
        assert (answer.status, answer.by) == (200, "qwen"), answer.body
        assert answer.headers["X-Hotseat-Model"] == "office/Qwen/Qwen3"
    messages = {"model": "office/qwen", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    assert here.post("/v1/messages", messages).json()["type"] == "message"
    [row] = here.get("/v1/models").json()["data"][:1]
    assert (row["owned_by"], row["engine"]) == ("office", "external")


def test_two_that_list_each_other_do_not_go_round_in_a_circle(up: Up) -> None:
    first = up(model("a"))
    second = up(of_peer(first, "first"), model("b"))
    first.write([of_peer(second, "second"), model("a")])
    eventually(lambda: listed(first) == {"a": None, "b": "second"})
    eventually(lambda: listed(second) == {"a": "first", "b": None})
    for each in (first, second):
        each.expected_errors.append("cannot read its models")  # one ends before the other
    assert (first.ask("b").by, second.ask("a").by) == ("b", "a")
    assert listed(first, X_Hotseat_Peer="1") == {"a": None}
    refused = first.ask("b", headers={"X-Hotseat-Peer": "1"})
    assert (refused.status, refused.code) == (404, "model_not_found")
    # A document that sends it back, which no list shows.
    first.write([of_peer(second, "second"), model("a"), model("round", engine="external", url=second.url, args=[])])
    eventually(lambda: "round" in listed(second))
    refused = second.ask("round")
    assert (refused.status, refused.code) == (404, "model_not_found")


def test_a_peer_that_is_away_hurts_nothing_else(up: Up) -> None:
    office = up(model("theirs"))
    here = up(of_peer(office), model("own"))
    eventually(lambda: "theirs" in listed(here))
    here.expected_errors.append("peer office: cannot read its models")
    office.signal(signal.SIGTERM)
    office.ended()
    assert here.ask("own").status == 200
    eventually(lambda: here.ask("theirs").status == 503)  # its circuit is open
    assert "theirs" in listed(here)
    eventually(lambda: "peer office: cannot read its models" in here.log())
    here.write([model("own")])
    eventually(lambda: listed(here) == {"own": None})
    assert here.ask("own").status == 200


def test_models_come_and_go_with_those_of_the_peer_and_stand_in_for_own_ones(up: Up) -> None:
    office = up(model("theirs"))
    here = up(
        of_peer(office),
        model("own", engine="external", url="http://127.0.0.1:9", args=[], fallback={"model": "theirs"}),
    )
    eventually(lambda: "theirs" in listed(here))
    answer = here.ask("own")
    assert (answer.status, answer.by) == (200, "theirs")
    office.write([model("theirs"), model("new")])
    eventually(lambda: here.ask("new").status == 200)
    office.write([model("new")])
    eventually(lambda: set(listed(here)) == {"own", "new"})
