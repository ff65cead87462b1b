"""Keys towards engines and upstreams, https, wildcard names, mock responses and limits by kind, through a whole hotseat."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat.importing import convert
from tests.certificates import Authority

from .conftest import Up
from .harness import CHAT, Call, Document, Hotseat, chat, model
from .upstream_server import Upstream

KEY = "upstream-key-7d1f"


def external(name: str, url: str | None = None, **spec: Any) -> Document:
    return model(name, engine="external", args=[], **({} if url is None else {"url": url}), **spec)


def everything(hotseat: Hotseat) -> str:
    """All that hotseat says of itself."""
    hotseat.catch_up()
    paths = (
        "/api/status",
        "/api/models",
        "/api/requests",
        "/api/events?follow=false",
        "/running",
        "/v1/models",
        "/metrics",
    )
    told = [hotseat.get(path).body.decode() for path in paths]
    return "\n".join([*told, hotseat.log(), json.dumps(hotseat.lines)])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def test_an_https_upstream_gets_its_own_key_and_not_the_clients(up: Up, authority: Authority) -> None:
    with Upstream(authority.server("IP:127.0.0.1"), value=f"Bearer {KEY}") as upstream:
        cloud = external(
            "cloud",
            f"{upstream.url}/v1?api-version=7",
            names=["openai/*"],
            engineModelName="*",
            engineKey={"env": "CLOUD_KEY"},
            headers=[{"name": "X-Team", "value": "blue"}],
            tls={"caFile": str(authority.file)},
        )
        hotseat = up(cloud, env={"CLOUD_KEY": KEY}, options=("--api-key", "clients-key"))
        headers = {"Authorization": "Bearer clients-key", "X_Team": "red", "X_Other": "mine"}
        heard = hotseat.send("openai/gpt-4o", headers=headers).answer().json()
        assert heard["path"] == "/v1/chat/completions?api-version=7"
        assert json.loads(heard["body"])["model"] == "gpt-4o"
        assert heard["headers"]["Authorization"] == f"Bearer {KEY}"
        assert (heard["headers"]["X-Team"], heard["headers"]["X-Other"]) == ("blue", "mine")
        assert "clients-key" not in json.dumps(heard)
        shown = hotseat.get("/v1/models", Authorization="Bearer clients-key").json()["data"]
        assert [(each["id"], each["names"]) for each in shown] == [("cloud", ["openai/*", "cloud"])]
        page = hotseat.get("/upstream/cloud/v1/models?a=b", Authorization="Bearer clients-key").json()
        assert page["path"] == "/v1/models?api-version=7&a=b"
        assert page["headers"]["Authorization"] == f"Bearer {KEY}"
        assert (
            hotseat.get("/upstream/cloud/props", Authorization="Bearer clients-key").json()["path"]
            == "/props?api-version=7"
        )


def test_an_upstream_with_an_unknown_certificate_is_not_sent_anything(up: Up, authority: Authority) -> None:
    with Upstream(authority.server("IP:127.0.0.1")) as upstream:
        hotseat = up(external("cloud", upstream.url), external("open", upstream.url, tls={"insecureSkipVerify": True}))
        refused = hotseat.ask("cloud")
        assert refused.status == 502
        assert "certificate of the upstream is not accepted" in refused.json()["error"]["message"]
        assert not upstream.requests
        assert hotseat.ask("open").status == 200


def test_an_exact_name_goes_before_a_wildcard_and_a_longer_one_before_a_shorter(up: Up) -> None:
    with Upstream() as upstream:
        models = [
            external("all", f"{upstream.url}/all", names=["*"]),
            external("some", f"{upstream.url}/some", names=["openai/*"]),
            external("one", f"{upstream.url}/one", names=["openai/gpt-4o"]),
        ]
        hotseat = up(*models)
        found = {name: hotseat.ask(name).json() for name in ("openai/gpt-4o", "openai/o3", "other", "some")}
        assert {name: each["path"].split("/")[1] for name, each in found.items()} == {
            "openai/gpt-4o": "one", "openai/o3": "some", "other": "all", "some": "some",
        }  # fmt: skip
        assert json.loads(found["openai/o3"]["body"])["model"] == "openai/o3"


def test_a_key_that_is_missing_is_named_and_a_fallback_answers(up: Up) -> None:
    with Upstream() as upstream:
        cloud = external("cloud", upstream.url, engineKey={"env": "CLOUD_KEY"})
        backed = external("backed", upstream.url, engineKey={"file": "no-such-key"}, fallback={"model": "spare"})
        hotseat = up(cloud, backed, external("spare", mockResponse="spare"))
        refused = hotseat.ask("cloud")
        assert (refused.status, refused.code) == (502, "upstream_failed")
        assert "Model/cloud: spec.engineKey.env: the environment variable CLOUD_KEY is not set" in refused.body.decode()
        assert hotseat.ask("backed").said == "spare"
        assert not upstream.requests
        said = json.dumps(hotseat.lines)
        assert "WARNING: Model/cloud: spec.engineKey.env: the environment variable CLOUD_KEY is not set" in said
        assert f"cannot read the file {hotseat.folder / 'no-such-key'}" in said


def test_a_key_in_a_file_is_read_again_when_it_changes(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one\n")
    with Upstream(header="X-Api-Key", value="one") as upstream:
        hotseat = up(external("cloud", upstream.url, engineKey={"header": "X-Api-Key", "file": str(file)}))
        assert hotseat.ask("cloud").status == 200
        new = tmp_path / "new"
        new.write_text("two")
        new.replace(file)
        upstream.value = "two"
        hotseat.wait_for(lambda: hotseat.ask("cloud").status == 200)


KEYED = """
import http.server, json, os, sys
KEY = os.environ[sys.argv[2]]
class Engine(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        allowed = self.headers.get("Authorization") == f"Bearer {KEY}"
        message = {"role": "assistant", "content": " ".join(sorted(n for n in os.environ if n.endswith("_KEY")))}
        data = json.dumps({"choices": [{"index": 0, "message": message}]} if allowed else {"error": "no key"}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_POST = answer
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Engine).serve_forever()
"""


def test_an_engine_that_wants_a_key_even_for_its_health_gets_it_and_no_key_of_another(up: Up, tmp_path: Path) -> None:
    script = tmp_path / "keyed.py"
    script.write_text(KEYED)
    (tmp_path / "key").write_text(KEY)

    def keyed(name: str, variable: str, **key: str) -> Document:
        command = [sys.executable, str(script), "{port}", variable]
        health = {"period": "100ms", "failureThreshold": 1}
        return model(
            name, engine="custom", args=[], command=command, engineKey=key, health=health, resources={"gpus": 0}
        )

    one = keyed("one", "ONE_KEY", env="ONE_KEY")
    two = keyed("two", "ENGINE_API_KEY", file=str(tmp_path / "key"))
    cloud = external(
        "cloud", "http://127.0.0.1:9", engineKey={"env": "CLOUD_KEY"}, headers=[{"name": "X", "value": KEY}]
    )
    hotseat = up(one, two, cloud, env={"ONE_KEY": KEY, "CLOUD_KEY": "cloud", "PLAIN_KEY": "x"})
    assert hotseat.ask("one").said == "ENGINE_API_KEY ONE_KEY PLAIN_KEY"
    assert hotseat.ask("two").said == "ENGINE_API_KEY PLAIN_KEY"
    assert hotseat.get("/upstream/two/health").status == 200
    assert KEY not in everything(hotseat)
    assert hotseat.running() == {"one": "ready", "two": "ready", "cloud": "ready"}


def test_prompts_are_saved_and_models_parked_by_requests_with_the_key(up: Up, tmp_path: Path) -> None:
    """The mock answers no request without its key: not for its health, its memory or its slots, nor to sleep."""
    (tmp_path / "key").write_text(KEY)
    slots = ("--slots", "2", "--token-bytes", "1000", "--prompt-rate", "100", "--memory", "1Gi")
    keyed: dict[str, Any] = {"engineKey": {"file": str(tmp_path / "key")}, "health": {"period": "100ms"}}
    saves = [model(name, *slots, **keyed) for name in "ab"]
    parks = model("c", lifecycle={"release": "Park"}, **keyed)
    hotseat = up(*saves, parks)
    for name in "abcabc":
        assert hotseat.ask(name, " ".join(map(str, range(200)))).by == name
    assert hotseat.loads() == {"a": 2, "b": 2, "c": 1}
    hotseat.wait_event("model.prompts_restored", "b")
    assert Call(hotseat.address_of("c"), "GET", "/health").answer().status == 401
    assert KEY not in everything(hotseat)


STARTED_WITH_A_KEY = """
import http.server, json, sys
KEY = sys.argv[sys.argv.index("--api-key") + 1]
class Engine(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.answer(200, {"status": "ok"})
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        allowed = self.headers.get("Authorization") == f"Bearer {KEY}"
        self.answer(200 if allowed else 401, {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]})
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Engine).serve_forever()
"""


def test_an_engine_of_llama_swap_that_is_started_with_a_key_is_imported_and_answers(up: Up, tmp_path: Path) -> None:
    script = tmp_path / "keyed.py"
    script.write_text(STARTED_WITH_A_KEY)
    command = f"{sys.executable} {script} ${{PORT}} --api-key engine-key"
    made = convert(
        yaml.safe_dump({"models": {"keyed": {"cmd": command, "checkEndpoint": "/health"}}}), "config.yaml", {}
    )
    hotseat = up(*[document for document in yaml.safe_load_all(made.text) if document])
    assert hotseat.ask("keyed").json()["choices"][0]["message"]["content"] == "hi"


@pytest.fixture
def mocked(up: Up) -> Iterator[Hotseat]:
    with Upstream() as upstream:
        yield up(
            external("mock", mockResponse="Good day to you"),
            external("asked", upstream.url, allowMockResponse=True),
            external("strict", upstream.url),
        )


def test_a_mock_response_is_given_in_the_form_of_each_api(mocked: Hotseat) -> None:
    assert mocked.ask("mock").said == "Good day to you"
    streamed = mocked.ask("mock", stream=True, stream_options={"include_usage": True})
    assert streamed.headers["Content-Type"] == "text/event-stream"
    words = [each["choices"][0]["delta"].get("content") for each in streamed.data() if each["choices"]]
    assert words == ["Good ", "day ", "to ", "you", None]
    assert streamed.data()[-1]["usage"]["completion_tokens"] == 4
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert (
        mocked.post("/v1/completions", {"model": "mock", "prompt": "a"}).json()["choices"][0]["text"]
        == "Good day to you"
    )
    vectors = mocked.post("/v1/embeddings", {"model": "mock", "input": ["a", "b", "a"], "dimensions": 16}).json()[
        "data"
    ]
    assert [len(each["embedding"]) for each in vectors] == [16, 16, 16]
    assert vectors[0]["embedding"] == vectors[2]["embedding"] != vectors[1]["embedding"]
    message = mocked.post("/v1/messages", {**chat("mock"), "max_tokens": 10}).json()
    assert message["content"][0]["text"] == "Good day to you"
    assert mocked.post("/api/chat", {**chat("mock"), "stream": False}).json()["message"]["content"] == "Good day to you"
    events = [
        line.removeprefix("data: ")
        for line in mocked.post("/v1/responses", {"model": "mock", "input": "x", "stream": True})
        .body.decode()
        .splitlines()
        if line.startswith("data: ")
    ]
    assert json.loads(events[-1])["response"]["output"][0]["content"][0]["text"] == "Good day to you"
    drawn = mocked.post("/v1/images/generations", {"model": "mock", "prompt": "x"})
    assert (drawn.status, drawn.code) == (501, "not_implemented")
    assert mocked.post(CHAT, {"model": "mock", "messages": 7}).status == 400


def test_a_mock_response_of_a_request_counts_only_where_the_model_allows_it(mocked: Hotseat) -> None:
    assert mocked.ask("asked", mock_response="as you like").said == "as you like"
    assert mocked.ask("asked").json()["path"] == CHAT
    assert mocked.ask("strict", mock_response="as you like").json()["path"] == CHAT


def test_each_kind_of_request_has_a_time_limit_of_its_own(up: Up) -> None:
    with Upstream() as upstream:
        limits = {"responseStartTimeouts": {"chat": "100ms"}, "responseStartTimeout": "60s"}
        hotseat = up(external("cloud", upstream.url, lifecycle=limits))
        upstream.delay.clear()
        embeddings = hotseat.call("POST", "/v1/embeddings", {"model": "cloud", "input": "a"})
        late = hotseat.ask("cloud")
        assert (late.status, late.code) == (504, "upstream_timeout")
        assert "0.1 s (lifecycle.responseStartTimeouts.chat)" in late.body.decode()
        assert not embeddings.has_answer()
        upstream.delay.set()
        assert embeddings.answer().status == 200
