"""Corners that a review found: each hung, lost something, or was told as a bug of ours."""

from .harness import chat, eventually, model, workspace


def test_a_model_that_becomes_external_leaves_its_seat(up):
    hotseat = up([model("a"), model("b")])
    assert hotseat.ask("a").status == 200
    hotseat.edit([{**model("a"), "spec": {"engine": "external", "url": "http://127.0.0.1:9"}}, model("b")])
    assert hotseat.ask("b").status == 200


def test_a_new_worker_serves_the_documents_of_now(up):
    hotseat = up([model("a")])
    hotseat.edit([model("a"), model("added")])
    assert hotseat.ask("added").status == 200
    hotseat.kill_worker()
    assert eventually(lambda: hotseat.get("/v1/models/added").status == 200)


def test_a_client_may_allow_a_month_of_waiting(up):
    hotseat = up([model("a")])
    assert hotseat.post("/v1/chat/completions", chat("a"), {"X-Hotseat-Max-Wait": "3000000"}).status == 200


def test_odd_numbers_are_the_clients_mistake(up):
    hotseat = up([model("a")])
    assert hotseat.get("/api/events?follow=false&history=%C2%B2").status == 400
    assert hotseat.get("/api/models/a/logs?lines=99999999999999999999").status == 400


def test_a_web_page_of_somebody_else_may_not_use_the_accelerator(up):
    hotseat = up([model("a")])
    answer = hotseat.post("/v1/chat/completions", chat("a"), {"Origin": "https://evil.example"})
    assert answer.status == 403
    assert hotseat.post("/api/models/unload", {}, {"Origin": "https://evil.example"}).status == 403
    assert hotseat.loads("a") == 0


def test_a_load_that_can_never_fit_is_answered(up):
    hotseat = up([workspace("default", capacity={"gpus": 1}), model("a")])
    assert hotseat.post("/api/models/a/load?wait=true").status == 200
