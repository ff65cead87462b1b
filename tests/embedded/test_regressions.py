"""Corners that a review found: each hung, lost something, or was told as a bug of ours."""

import os
import signal

from .conftest import Up
from .harness import CHAT, chat, eventually, model, workspace


def test_a_model_that_becomes_external_leaves_its_seat(up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.ask("a")
    gone = model("a")
    gone["spec"] = {"engine": "external", "url": "http://127.0.0.1:9"}
    hotseat.write([gone, model("b")])
    hotseat.wait_event("model.released", "a")
    assert hotseat.ask("b").by == "b"


def test_a_worker_that_takes_a_dead_ones_place_serves_the_documents_of_now(up: Up) -> None:
    hotseat = up(model("a"))
    hotseat.expected_errors.append("was sent SIGKILL")
    hotseat.write([model("a"), model("added")])
    hotseat.wait_for(lambda: any("reloaded" in message for message in hotseat.said()))
    os.kill(hotseat.worker(), signal.SIGKILL)
    hotseat.wait_for(lambda: sum("url" in line for line in hotseat.lines) == 2)
    assert hotseat.ask("added").by == "added"


def test_a_client_may_allow_a_month_of_waiting(up: Up) -> None:
    hotseat = up(model("a"))
    assert hotseat.post(CHAT, chat("a"), X_Hotseat_Max_Wait="3000000").status == 200


def test_odd_numbers_are_the_clients_mistake(up: Up) -> None:
    hotseat = up(model("a"))
    assert hotseat.get("/api/events?follow=false&history=%C2%B2").status == 400
    assert hotseat.get("/api/models/a/logs?lines=99999999999999999999").status == 400


def test_web_pages_of_others_may_not_use_the_accelerator(up: Up) -> None:
    hotseat = up(model("a"))
    page = {"Origin": "https://evil.example"}
    assert hotseat.post(CHAT, chat("a"), **page).code == "origin_not_allowed"
    assert hotseat.post("/api/models/a/load", **page).status == 403
    assert not hotseat.loads()
    assert hotseat.post(CHAT, chat("a"), Origin=f"http://{hotseat.address}").status == 200


def test_what_is_too_much_at_once_is_told_so_and_probes_are_answered(up: Up) -> None:
    """As many followers as there are threads: the next one is refused, and nothing else notices."""
    hotseat = up(workspace(queue={"maxWaiting": 0}), model("a"))
    followers = []
    while len(followers) < 1000:
        call = hotseat.call("GET", "/api/events")
        followers.append(call)
        if call.begun().status != 200:
            break
    assert call.answer().code == "too_many_requests"
    assert hotseat.get("/health").status == 200
    for follower in followers:
        follower.leave()
    eventually(lambda: hotseat.post("/api/models/a/unload").status == 202)


def test_an_alias_is_for_clients_and_engines_know_one_name(up: Up) -> None:
    hotseat = up(model("a", names=["a", "gpt-4o-mini"]))
    assert hotseat.ask("gpt-4o-mini").json()["model"] == "a"
