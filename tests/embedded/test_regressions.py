"""Corners that a review found: each hung, lost something, or was told as a bug of ours."""

import gzip
import json
import os
import signal

from .conftest import Up
from .harness import CHAT, chat, eventually, model, workspace
from .receiver import Receiver


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
    for odd in ("http://[", "null"):
        assert hotseat.post(CHAT, chat("a"), Origin=odd).code == "origin_not_allowed"
    assert hotseat.post(CHAT, chat("a"), Origin=f"http://{hotseat.address}").status == 200


def test_a_page_whose_name_was_rebound_to_this_machine_gets_nothing(up: Up) -> None:
    hotseat = up(model("a"), options=("--allowed-host", "gpu-box"))
    page = {"Host": "attacker.example:18207", "Origin": "http://attacker.example:18207"}
    for method, path in (
        ("POST", CHAT), ("POST", "/api/models/unload"), ("GET", "/v1/models"), ("GET", "/api/models/a/logs"), ("GET", "/metrics"),
        ("GET", "/api/events?follow=false"), ("GET", "/running"), ("GET", "/nowhere"), ("OPTIONS", CHAT),
    ):  # fmt: skip
        answer = hotseat.call(method, path, chat("a"), **page).answer()
        assert (answer.status, answer.code) == (403, "host_not_allowed"), path
    assert "--allowed-host attacker.example" in answer.json()["error"]["message"]
    assert not hotseat.loads()
    assert hotseat.get("/health", Host="anything").status == 200
    for own in ("gpu-box:8000", "localhost:1", "a.localhost", "[::1]"):
        assert hotseat.get("/v1/models", Host=own).status == 200
    for host in ("a b", "a/<>"):
        assert hotseat.get("/health", Host=host).code == "invalid_request"


def test_the_name_of_a_server_for_others_is_not_checked(up: Up) -> None:
    """With keys, and on another address than loopback."""
    with_keys = up(model("a"), options=("--api-key", "k"))
    assert with_keys.get("/v1/models", Host="gpu-box:8000", X_Api_Key="k").status == 200
    for_others = up(model("a"), options=("--host", "0.0.0.0", "--no-auth"))
    assert for_others.get("/v1/models", Host="gpu-box:8000").status == 200


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


def test_an_engine_gets_the_path_of_the_route_however_the_client_wrote_it(up: Up) -> None:
    receiver = Receiver()
    hotseat = up(model("ext", engine="external", url=receiver.url, args=[]))
    try:
        for path in (CHAT, f"/{CHAT}", "/v1//chat/completions", "/v1/%63hat/completions", "/v1/chat%2Fcompletions"):
            assert hotseat.post(f"{path}?a=%2F&b", chat("ext")).status == 200, path
        assert {path for path, _, _ in receiver.requests} == {f"{CHAT}?a=%2F&b"}
    finally:
        receiver.close()
    assert hotseat.get("//health").status == 200


def test_bodies_that_engines_may_read_otherwise_are_refused_and_load_nothing(up: Up) -> None:
    hotseat = up(model("a"))
    raw = json.dumps(chat("a")).encode()
    refused = hotseat.post(CHAT, gzip.compress(raw), Content_Encoding="gzip")
    assert (refused.status, refused.code, refused.headers["Accept-Encoding"]) == (
        415,
        "unsupported_encoding",
        "identity",
    )
    assert hotseat.post(CHAT, raw.decode().encode("utf-16")).code == "invalid_json"
    assert hotseat.post(CHAT, raw[:-1] + b', "model": "a"}').status == 400
    assert len(hotseat.ask("n" * 10**6).body) < 1000
    assert not hotseat.loads()
    assert hotseat.post(CHAT, raw, Content_Encoding="identity").status == 200
    for long in ("9" * 30, "9" * 400):
        answer = hotseat.ask("a", headers={"X-Priority": long, "X-Hotseat-Max-Wait": long, "X-Request-Timeout": long})
        assert answer.status in {200, 400}, long
