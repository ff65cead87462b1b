"""Who may come in, and what becomes of the key: nothing that anybody else sees."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Up
from .harness import CHAT, Hotseat, chat, model
from .receiver import Receiver

KEYS = ("sk-first", "sk-sécond")
FIRST = {"Authorization": "Bearer sk-first"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def hotseat(shared_up: Up, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Hotseat:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# those who may\n{KEYS[1]}\n\n")
    return shared_up(
        model("a"),
        model("ext", engine="external", url=receiver.url, args=[]),
        options=("--api-key", KEYS[0], "--api-key-file", str(keys), "--log-level", "debug"),
    )


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"user:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        FIRST,
        {"Authorization": "bearer  sk-first"},
        basic("sk-first"),
        {"X-Api-Key": "sk-first"},
        {"X-Api-Key": KEYS[1].encode().decode("latin-1")},
    ],
)
def test_a_key_opens_in_any_form(hotseat: Hotseat, headers: dict[str, str]) -> None:
    assert hotseat.call("POST", CHAT, chat("ext"), **headers).answer().status == 200
    assert hotseat.get("/v1/models", **headers).status == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Bearer "}, "missing_api_key"),
        ({"Authorization": "Basic !!"}, "missing_api_key"),
        ({"Authorization": "Basic \xe9"}, "missing_api_key"),
        ({"Authorization": "Bearer sk-firs"}, "invalid_api_key"),
        ({"Authorization": "Bearer sk-firstx"}, "invalid_api_key"),
        (basic(""), "invalid_api_key"),
        ({"X-Api-Key": "# those who may"}, "invalid_api_key"),
    ],
)
def test_without_one_there_is_401_and_no_switch(hotseat: Hotseat, headers: dict[str, str], code: str) -> None:
    answer = hotseat.call("POST", CHAT, chat("a"), **headers).answer()
    assert (answer.status, answer.code) == (401, code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert hotseat.events() == []


@pytest.mark.parametrize(
    "route",
    [
        "GET /running", "GET /metrics", "GET /metrics/engines", "GET /v1/models", "GET /v1/models/a", "GET /api/events?follow=false",
        "GET /api/switches", "GET /api/models/a/logs", "POST /api/models/a/load", "POST /api/models/a/unload",
        "POST /api/models/unload", "POST /v1/completions", "POST /v1/embeddings", "GET /nowhere", "GET /health/",
    ],
)  # fmt: skip
def test_every_route_but_probes_wants_one(hotseat: Hotseat, route: str) -> None:
    method, _, path = route.partition(" ")
    assert hotseat.call(method, path).answer().status == 401
    assert [hotseat.get(path).json() for path in ("/health", "/ready")] == [{"status": "ok"}, {"status": "ready"}]


def test_the_key_goes_no_further(hotseat: Hotseat, receiver: Receiver) -> None:
    receiver.requests.clear()
    for headers in (FIRST, basic("sk-first"), {"X-Api-Key": "sk-first"}):
        more = {**headers, "X-Mine": "kept", "Cookie": "session=1"}
        assert hotseat.call("POST", CHAT, chat("ext"), **more).answer().status == 200
    for _, headers, _ in receiver.requests:
        assert not {"authorization", "x-api-key"} & {name.lower() for name in headers}
        assert headers["X-Mine"] == "kept"
    hotseat.call("POST", CHAT, chat("a"), **FIRST).answer()
    assert "sk-first" not in hotseat.log() + str(hotseat.lines), "nor into a log"


def test_engines_do_not_see_it_in_their_environment(hotseat: Hotseat) -> None:
    hotseat.call("POST", CHAT, chat("a"), **FIRST).answer()
    for pid in hotseat.engines():
        assert b"sk-first" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_the_environment_gives_keys_too(up: Up) -> None:
    hotseat = up(model("a"), env={"HOTSEAT_API_KEY": "sk-env"})
    assert hotseat.get("/v1/models").status == 401
    headers = {"Authorization": "Bearer sk-env"}
    assert hotseat.call("POST", CHAT, chat("a"), **headers).answer().by == "a"
    assert not any(b"sk-env" in Path(f"/proc/{pid}/environ").read_bytes() for pid in hotseat.engines())
