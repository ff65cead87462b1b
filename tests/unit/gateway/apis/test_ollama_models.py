"""The routes of Ollama's API that list and fetch models, and those that hotseat does not have."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.event_log import EventLog
from hotseat.control.local_workspaces import LocalWorkspaces
from hotseat.core.messages import CacheObserved, CacheState, Fetch
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.apis import ollama_models
from hotseat.gateway.auth import Keys
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.relay import Connections
from hotseat.gateway.wsgi import create_gateway
from hotseat.telemetry.metrics import Metrics
from tests.fakes import FakeRuntime

SOURCE = "https://example.invalid/a.gguf"
MODELS = {
    "a": {"engine": "llamacpp", "source": SOURCE, "names": ["llama3.2", "hub.example:5000/org/a", "llama3.2:3b"]},
    "b": {"resources": {"acceleratorMemory": "5Gi"}, "lifecycle": {"idleTimeout": "10m"}},
    "embedder": {"capabilities": ["embedding"]},
    "ext": {"engine": "external", "url": "http://127.0.0.1:9"},
    "hidden": {"unlisted": True},
}


class Caches:
    def cached_weights(self) -> dict[str, tuple[str, int]]:
        return {"a": ("/cache/a.gguf", 3825819519)}


class Fetching(FakeRuntime):
    """Keeps a fetch of `a` waiting until `tell`."""

    def fetch(self, order: Fetch) -> None:
        if order.model == "a":
            self.commands.append(order)
        else:
            super().fetch(order)

    def tell(self, state: CacheState, message: str = "", **progress: Any) -> None:
        self._tell(CacheObserved(time.monotonic(), "a", state, message, **progress))


@pytest.fixture
def runtime() -> Fetching:
    runtime = Fetching()
    runtime.remote["a"] = None
    return runtime


@pytest.fixture
def registry(runtime: Fetching) -> Iterator[LocalWorkspaces]:
    registry = LocalWorkspaces(runtime, EventLog(), time.monotonic)
    models = [
        Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "mock", **spec}})
        for name, spec in MODELS.items()
    ]
    registry.apply([Workspace.model_validate({"metadata": {"name": "default"}, "spec": {}})], models)
    registry.wait_applied(5)
    yield registry
    registry.close(5)


@pytest.fixture
def concurrency() -> ConcurrencyLimit:
    return ConcurrencyLimit(10)


@pytest.fixture
def client(registry: LocalWorkspaces, concurrency: ConcurrencyLimit, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr(ollama_models, "POLL", 0.0)
    monkeypatch.setattr(ollama_models, "GRACE", 0.0)
    gateway = create_gateway(
        registry,
        EventLog(),
        Metrics(lambda: iter(())),
        Keys(),
        Connections(registry.owner),
        max_body=1000,
        cors=frozenset(),
        concurrency=concurrency,
        caches=Caches(),  # type: ignore[arg-type]
    )
    return gateway.test_client()


def post(client: FlaskClient, path: str, **body: Any) -> tuple[int, Any]:
    answer = client.post(path, data=json.dumps(body))  # as `curl -d` sends it
    return answer.status_code, answer.get_json()


# The list -------------------------------------------------------------------------------------------------------------


def test_clients_find_the_server(client: FlaskClient) -> None:
    assert (client.get("/").status_code, client.get("/").text) == (200, "Ollama is running")
    assert client.head("/").status_code == 200
    assert {"version", "hotseat"} == set(client.get("/api/version").json or ())


def test_each_name_is_listed_with_a_tag(client: FlaskClient) -> None:
    rows = (client.get("/api/tags").json or {})["models"]
    assert [row["name"] for row in rows] == [
        "b:latest",
        "embedder:latest",
        "ext:latest",
        "hub.example:5000/org/a:latest",
        "llama3.2:3b",
        "llama3.2:latest",
    ]
    assert all(row["model"] == row["name"] and len(row["digest"]) == 64 for row in rows)
    by_name = {row["name"]: row for row in rows}
    mine = by_name["llama3.2:latest"]
    assert mine["digest"] == by_name["llama3.2:3b"]["digest"] != by_name["b:latest"]["digest"]
    assert (mine["size"], mine["details"]["format"]) == (3825819519, "gguf")
    assert (by_name["b:latest"]["size"], by_name["b:latest"]["details"]["families"]) == (0, [])
    assert mine["modified_at"].endswith("Z")


def test_what_is_loaded_is_listed(client: FlaskClient, registry: LocalWorkspaces) -> None:
    assert client.get("/api/ps").json == {"models": []}
    registry.find("b").handle.load("b", 10)
    (row,) = (client.get("/api/ps").json or {})["models"]
    assert (row["name"], row["model"], row["size"], row["size_vram"]) == ("b:latest", "b:latest", 5 * 2**30, 5 * 2**30)
    assert time.strftime("%Y-", time.gmtime()) <= row["expires_at"] < "9999"
    registry.find("b").handle.unload("b", 10)
    registry.find("hidden").handle.load("hidden", 10)
    (row,) = (client.get("/api/ps").json or {})["models"]
    assert row["expires_at"] == "9999-12-31T23:59:59Z"


@pytest.mark.parametrize("body", [{"model": "llama3.2"}, {"name": "llama3.2:latest"}, {"model": "a", "verbose": True}])
def test_a_model_is_shown_by_each_of_its_names(client: FlaskClient, body: dict[str, Any]) -> None:
    status, shown = post(client, "/api/show", **body)
    assert (status, shown["capabilities"], shown["details"]["format"]) == (200, ["completion", "tools"], "gguf")
    assert (shown["model_info"], shown["modelfile"]) == ({}, "# A Model of hotseat\nFROM llama3.2\n")


def test_a_model_can_do_what_it_states(client: FlaskClient) -> None:
    assert post(client, "/api/show", model="embedder")[1]["capabilities"] == ["embedding"]


@pytest.mark.parametrize("path", ["/api/show", "/api/pull"])
@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b'{"model": "gpt"}', 404, "hotseat fetches no other ones."),
        (b'{"model": 1}', 400, "`model` must be a string"),
        (b"{}", 400, "`model` must be a string"),
        (b"", 400, "`model` must be a string"),
        (b"[]", 400, "must be a JSON object"),
        (b"{", 400, "not valid JSON"),
    ],
)
def test_what_is_asked_for_must_exist(client: FlaskClient, path: str, body: bytes, status: int, told: str) -> None:
    answer = client.post(path, data=body)
    assert answer.status_code == status
    assert told in (answer.json or {})["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/create"), ("POST", "/api/push"), ("POST", "/api/copy"), ("DELETE", "/api/delete")],
)
def test_models_are_not_changed(client: FlaskClient, method: str, path: str) -> None:
    answer = client.open(path, method=method, json={"model": "a"})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "OPTIONS")
    assert "document of kind Model" in (answer.json or {})["error"]


# Fetching -------------------------------------------------------------------------------------------------------------


def lines(answer: Any) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for piece in answer.response for line in piece.splitlines())


def reached(registry: LocalWorkspaces, state: str) -> None:
    end = time.monotonic() + 10
    while registry.find("a").handle.status("a").state != state:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("name", ["b", "ext", "hidden"])
def test_a_model_that_is_there_is_not_fetched(client: FlaskClient, runtime: Fetching, name: str) -> None:
    answer = client.post("/api/pull", json={"model": name})
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    assert list(lines(answer)) == [{"status": "pulling manifest"}, {"status": "success"}]
    assert post(client, "/api/pull", model=name, stream=False) == (200, {"status": "success"})
    assert runtime.commands == []


def test_a_fetch_is_followed_and_loads_nothing(
    client: FlaskClient, registry: LocalWorkspaces, runtime: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_models, "GRACE", 10.0)
    told = lines(client.post("/api/pull", json={"model": "llama3.2:latest"}, buffered=False))
    assert next(told) == {"status": "pulling manifest"}
    assert runtime.commands == [Fetch("a")]
    runtime.tell(CacheState.FETCHING, done=10, total=None)
    part = next(told)
    digest = part["digest"]
    assert part == {"status": f"pulling {digest[7:19]}", "digest": digest, "completed": 10}
    runtime.tell(CacheState.FETCHING, done=20, total=100)
    assert next(told) == {"status": f"pulling {digest[7:19]}", "digest": digest, "completed": 20, "total": 100}
    runtime.tell(CacheState.CACHED)
    assert list(told) == [{"status": "success"}]
    assert registry.find("a").handle.status("a").state == "unloaded"


def test_a_fetch_that_fails_is_told_and_can_be_repeated(
    client: FlaskClient, registry: LocalWorkspaces, runtime: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = lines(client.post("/api/pull", json={"model": "a"}, buffered=False))
    next(told)
    runtime.tell(CacheState.FAILED, "404 Not Found")
    reached(registry, "failed")
    assert "404 Not Found" in list(told)[-1]["error"]
    handle = registry.find("a").handle
    order = handle.fetch

    def fails(model: str) -> ModelStatus:
        status = order(model)
        runtime.tell(CacheState.FAILED, "404 Not Found")
        reached(registry, "failed")
        return status

    monkeypatch.setattr(type(handle), "fetch", lambda _, model: fails(model))
    status, body = post(client, "/api/pull", model="a", stream=False)
    assert (status, "404 Not Found" in body["error"], body["code"]) == (503, True, "model_failed")
    assert runtime.commands == [Fetch("a")] * 2


def test_a_client_that_leaves_ends_its_wait_and_not_the_fetch(
    client: FlaskClient, registry: LocalWorkspaces, concurrency: ConcurrencyLimit
) -> None:
    answer = client.post("/api/pull", json={"model": "a"}, buffered=False)
    told = lines(answer)
    next(told)
    assert concurrency.in_thread.taken == 1
    answer.close()
    assert concurrency.in_thread.taken == 0
    assert registry.find("a").handle.status("a").state == "fetching"
