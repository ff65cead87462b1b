"""Filters: names of one loaded model, each with its own parameters."""

import json

from .conftest import Up
from .harness import model

FILTERS = {
    "strip": ["top_k"],
    "default": {"temperature": 0.7},
    "byName": {
        "qwen:think": {"set": {"chat_template_kwargs": {"enable_thinking": True}}},
        "qwen:nothink": {"set": {"chat_template_kwargs.enable_thinking": False}},
    },
}


def test_two_names_are_one_load_and_the_engine_sees_the_parameters_of_each(up: Up) -> None:
    hotseat = up(model("qwen", filters=FILTERS))
    for name, thinks in (("qwen:think", True), ("qwen:nothink", False), ("qwen", None)):
        more = {"top_k": 5} if thinks is None else {"chat_template_kwargs": {"deep": 1}}
        answer = hotseat.ask(name, **more)
        assert (answer.status, answer.headers["X-Hotseat-Model"]) == (200, "qwen")
        body = hotseat.stats("qwen")["last"]["body"]
        assert (body["model"], body["temperature"]) == ("qwen", 0.7)
        assert "top_k" not in body
        wanted = {True: {"enable_thinking": True}, False: {"deep": 1, "enable_thinking": False}, None: None}[thinks]
        assert body.get("chat_template_kwargs") == wanted, json.dumps(body)
    assert hotseat.loads() == {"qwen": 1}
    assert hotseat.get("/v1/models").json()["data"][0]["names"] == ["qwen", "qwen:nothink", "qwen:think"]

    documents = [model("qwen", filters={"set": {"seed": 4}, "byName": {"qwen:new": {}}})]
    hotseat.write(documents)
    hotseat.wait_for(lambda: hotseat.ask("qwen:new").status == 200)
    assert hotseat.stats("qwen")["last"]["body"]["seed"] == 4
    assert hotseat.ask("qwen:think").status == 404
    assert hotseat.loads() == {"qwen": 1}, "a change of filters restarts nothing"
