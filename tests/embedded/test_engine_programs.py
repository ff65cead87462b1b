"""Engines of other programs, by stand-ins for these: their flags, their health checks, their routes and their sleep."""

import http.server
import io
import os
import shutil
import threading
import wave
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from . import engine_programs
from .conftest import Up
from .harness import Document, Hotseat, chat, eventually

FORM = {"Content_Type": "multipart/form-data; boundary=limit"}


def model(engine: str, source: Path, name: str | None = None, **spec: Any) -> Document:
    return {
        "apiVersion": "hotseat.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": name or engine},
        "spec": {"engine": engine, "source": str(source)} | spec,
    }


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    engine_programs.install(tmp_path)
    return tmp_path


def start(up: Up, programs: Path, *documents: Document) -> Hotseat:
    """Start a hotseat that finds the stand-ins. They write into its log of mock engines."""
    env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "STAND_IN_LOG": str(programs / "mock.log")}
    hotseat = up(*documents, env=env)
    hotseat.mock_log = programs / "mock.log"
    return hotseat


def form(name: str, sound: bytes = b"sound") -> bytes:
    head = f'--limit\r\nContent-Disposition: form-data; name="model"\r\n\r\n{name}\r\n'
    file = '--limit\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head.encode() + file.encode() + sound + b"\r\n--limit--\r\n"


def test_servers_of_each_kind_take_turns(up: Up, programs: Path) -> None:
    weights = programs / "weights"
    weights.touch()
    hotseat = start(
        up,
        programs,
        model(
            "sglang", weights, command=[str(programs / "sglang")], names=["chat"], args=["--mem-fraction-static", "0.5"]
        ),
        model("tgi", weights, args=["--quantize", "fp8"]),
        model("tei", weights, names=["embed"]),
        model("whispercpp", weights, names=["whisper-1"]),
    )
    for _ in range(2):
        answer = hotseat.ask("chat")
        assert (answer.by, answer.json()["model"]) == ("sglang", "sglang")
        assert hotseat.ask("tgi").by == "text-generation-launcher"
        embedded = hotseat.post("/v1/embeddings", {"model": "embed", "input": "hi"})
        assert (embedded.status, len(embedded.json()["data"])) == (200, 1)
        heard = hotseat.post("/v1/audio/transcriptions", form("whisper-1"), **FORM)
        assert heard.status == 200
    assert hotseat.loads() == {
        "sglang": 2, "text-generation-launcher": 2, "text-embeddings-router": 2, "whisper-server": 2,
    }  # fmt: skip


def test_an_engine_of_one_kind_is_not_loaded_for_another(up: Up, programs: Path) -> None:
    weights = programs / "weights"
    weights.touch()
    hotseat = start(up, programs, model("tei", weights), model("whispercpp", weights))
    for name in ("tei", "whispercpp"):
        assert hotseat.ask(name).status == 400
    assert hotseat.loads() == {}


def test_sglang_sleeps_and_wakes(up: Up, programs: Path) -> None:
    weights = programs / "weights"
    weights.touch()
    park = {"command": [str(programs / "sglang")], "lifecycle": {"release": "Park"}}
    hotseat = start(up, programs, *(model("sglang", weights, name, **park) for name in ("a", "b")))
    for name in "abab":
        assert hotseat.ask(name).by == name
    assert hotseat.loads() == {"a": 1, "b": 1}
    assert [row["model"] for row in hotseat.mock_lines() if row["event"] == "wake"] == ["a", "b"]


def test_vllm_wakes_from_level_2_with_its_weights_read_again(up: Up, programs: Path) -> None:
    """In the order of vllm-project/vllm, docs/features/sleep_mode.md, and then its prefix cache is reset."""
    weights = programs / "weights"
    weights.touch()
    park = {"vllm": {"sleepLevel": 2}, "lifecycle": {"release": "Park"}}
    hotseat = start(up, programs, *(model("vllm", weights, name, **park) for name in ("a", "b")))
    for name in "aba":
        assert hotseat.ask(name).by == name
    told = [(row["event"], row.get("query"), row.get("body")) for row in hotseat.mock_lines() if row["model"] == "a"]
    slept = told.index(("sleep", None, None))
    assert told[slept + 1 : slept + 5] == [
        ("wake_up", "tags=weights", ""),
        ("collective_rpc", "", '{"method": "reload_weights"}'),
        ("wake", None, None),
        ("reset_prefix_cache", "", ""),
    ]
    assert hotseat.loads() == {"a": 1, "b": 1}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """A server that has an adapter."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "sql.bin").write_bytes(b"adapter")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/sql.bin"
        server.shutdown()
        thread.join()


def test_adapters_are_models_that_share_an_instance(up: Up, programs: Path, elsewhere: str) -> None:
    weights = programs / "weights"
    weights.touch()
    loras = [{"name": "Sql writer", "source": elsewhere}, {"name": "qa", "source": "qa"}]
    base = model("vllm", weights, "base", names=["gpt"], loras=loras, args=["--max-loras", "2"])
    (programs / "qa").mkdir()
    base["spec"]["loras"][1]["source"] = str(programs / "qa")
    hotseat = start(up, programs, base)
    for asked, got in {"base": "base", "gpt": "base", "Sql writer": "Sql writer", "qa": "qa"}.items():
        assert hotseat.ask(asked).json()["model"] == got
    assert hotseat.loads() == {"base": 1}
    rows = hotseat.get("/v1/models").json()["data"]
    assert [(row["id"], row["names"], row.get("parent")) for row in rows] == [
        ("Sql writer", ["Sql writer"], "gpt"), ("gpt", ["gpt", "base"], None), ("qa", ["qa"], "gpt"),
    ]  # fmt: skip
    assert {row["status"]["state"] for row in rows} == {"ready"}
    assert [hotseat.get(f"/v1/models/{name}").json()["id"] for name in ("qa", "base")] == ["qa", "gpt"]
    listed = [row["name"] for row in hotseat.get("/api/tags").json()["models"]]
    assert listed == ["Sql writer:latest", "gpt:latest", "qa:latest"]
    answer = hotseat.post("/api/chat", chat("qa:latest", stream=False)).json()
    assert answer["model"] == "qa:latest"
    assert hotseat.stats("gpt")["last"]["body"]["model"] == "qa"
    assert hotseat.ask("sql").status == 404


def test_an_adapter_that_cannot_be_had_is_said(up: Up, programs: Path, elsewhere: str) -> None:
    weights = programs / "weights"
    weights.touch()
    missing = elsewhere.replace("sql", "none")
    hotseat = start(up, programs, model("vllm", weights, "base", loras=[{"name": "sql", "source": missing}]))
    answer = hotseat.ask("sql")
    assert answer.status == 503
    assert "none.bin" in answer.json()["error"]["message"]
    assert hotseat.loads() == {}
    eventually(lambda: hotseat.get("/v1/models/base").json()["status"]["state"] == "failed")


@pytest.mark.skipif(
    shutil.which("whisper-server") is None or "HOTSEAT_TEST_WHISPER_MODEL" not in os.environ,
    reason="there is no whisper-server on the PATH, or HOTSEAT_TEST_WHISPER_MODEL has no ggml file",
)
def test_the_real_whisper_server(up: Up) -> None:
    """It need not understand: models for tests of whisper.cpp have random weights."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as target:
        target.setparams((1, 2, 16000, 16000, "NONE", ""))
        target.writeframes(bytes(32000))
    hotseat = up(model("whispercpp", Path(os.environ["HOTSEAT_TEST_WHISPER_MODEL"]), resources={"gpus": 0}))
    answer = hotseat.post("/v1/audio/transcriptions", form("whispercpp", sound.getvalue()), **FORM)
    assert (answer.status, answer.json().keys()) == (200, {"text"})
