"""Virtual models and profiles: names that stand for several Models, or for others for a time."""

import signal
from pathlib import Path
from typing import Any

from .conftest import Up
from .harness import Hotseat, model, workspace


def virtual(name: str, *members: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "members": [{"model": each} if isinstance(each, str) else each for each in members], **more}


def row(hotseat: Hotseat, name: str) -> dict[str, Any]:
    """What the list of models says of a name."""
    found = next(each for each in hotseat.get("/v1/models").json()["data"] if each["id"] == name)
    assert hotseat.get(f"/v1/models/{name}").json() == found
    return found


def switch(hotseat: Hotseat, body: Any) -> int:
    return hotseat.call("PUT", "/api/profiles/active", body).answer().status


def test_the_member_that_is_loaded_answers_and_none_is_evicted(up: Up) -> None:
    hotseat = up(
        workspace(virtualModels=[virtual("any", "a", "b:plain", description="whichever")]),
        model("a"),
        model("b", filters={"byName": {"b:plain": {"set": {"seed": 4}}}}),
    )
    assert row(hotseat, "any")["status"]["state"] == "unloaded"
    assert hotseat.ask("b").by == "b"
    answer = hotseat.ask("any")
    assert (answer.by, answer.headers["X-Hotseat-Model"]) == ("b", "b")
    assert hotseat.stats("b")["last"]["body"]["seed"] == 4, "the member's own name has its parameters"
    assert hotseat.loads() == {"b": 1}
    shown = row(hotseat, "any")
    assert (shown["strategy"], shown["members"], shown["status"]["state"]) == ("Warm", ["a", "b:plain"], "ready")
    assert (shown["description"], shown["engine"]) == ("whichever", "virtual")
    tags = {each["name"] for each in hotseat.get("/api/tags").json()["models"]}
    assert tags == {"a:latest", "b:latest", "b:plain", "any:latest"}
    told = hotseat.post(
        "/api/chat", {"model": "any:latest", "stream": False, "messages": [{"role": "user", "content": "hi"}]}
    )
    assert (told.status, told.json()["model"]) == (200, "any:latest")
    assert hotseat.post("/api/show", {"model": "any"}).status == 200
    refused = hotseat.post("/api/models/any/load")
    assert (refused.status, "name a Model" in refused.json()["error"]["message"]) == (404, True)


def test_requests_spill_over_and_turns_are_by_weight(up: Up) -> None:
    spills = virtual("spills", {"model": "a", "maxRequests": 1}, "b", strategy="Spillover")
    turns = virtual("turns", {"model": "a", "weight": 2}, "b", strategy="Weight")
    hotseat = up(
        workspace(capacity={"gpus": 2}, virtualModels=[spills, turns]),
        model("a"),
        model("b"),
        seats=2,
    )
    assert [hotseat.ask("turns").by for _ in range(6)] == ["a", "b", "a", "a", "b", "a"]
    long = hotseat.send("spills", stream=True, mock={"tokens": 600, "tokens_per_second": 10})
    assert long.begun().getheader("X-Hotseat-Model") == "a"
    assert hotseat.ask("spills").by == "b"
    long.leave()
    hotseat.wait_for(lambda: hotseat.ask("spills").by == "a")


def test_a_profile_switches_names_while_it_is_active(up: Up, tmp_path: Path) -> None:
    profiles = {"coding": {"llm": "b", "a": "b", "off": ""}, "writing": {"llm": "a"}}
    documents = [workspace(profiles=profiles), model("a"), model("b", names=["off"])]
    hotseat = up(*documents, folder=tmp_path)
    assert (hotseat.ask("llm").status, hotseat.ask("off").by) == (404, "b")
    assert hotseat.get("/api/profiles").json() == {
        "active": None,
        "profiles": [
            {"name": name, "workspace": "default", "active": False, "pins": pins} for name, pins in profiles.items()
        ],
    }
    assert (switch(hotseat, {"name": "coding"}), hotseat.get("/api/profiles/active").json()) == (
        200,
        {"active": "coding"},
    )
    assert [hotseat.ask(name).by for name in ("llm", "a", "b")] == ["b", "b", "b"]
    assert hotseat.ask("off").code == "model_not_found"
    shown = row(hotseat, "llm")
    assert (shown["engine"], shown["profile"], shown["members"]) == ("profile", "coding", ["b"])
    for wrong, status in (
        ({"name": "unknown"}, 404),
        ({"name": ""}, 400),
        ({}, 400),
        ([], 400),
        ({"name": "coding", "workspace": "x"}, 404),
    ):
        assert switch(hotseat, wrong) == status, wrong
    hotseat.write([*documents, model("c")])
    hotseat.wait_for(lambda: hotseat.ask("c").status == 200)
    assert hotseat.ask("llm").by == "b", "a change of documents keeps it"
    hotseat.signal(signal.SIGTERM)
    assert hotseat.ended() == 0

    again = up(*documents, folder=tmp_path)
    assert (again.ask("a").by, again.get("/api/profiles").json()["active"]) == ("b", "coding")
    assert switch(again, {"name": None}) == 200
    assert (again.ask("a").by, again.ask("llm").status) == ("a", 404)
    again.write([workspace(profiles=profiles, activeProfile="writing"), *documents[1:]])
    again.wait_for(lambda: again.ask("llm").status == 200)
    assert again.ask("llm").by == "a"
