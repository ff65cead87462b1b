"""What a load needs goes away while hotseat runs: nobody makes room for a load that cannot begin, and what can be had again is."""

import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hotseat.sources.cache import prune

from .conftest import Up
from .harness import Document, Hotseat, model, workspace


class Origin:
    """A server that has weights, and counts who gets them."""

    def __init__(self) -> None:
        self.given = 0
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                origin.given += 1
                self.send_response(200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"GGUF")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/w.gguf"


@pytest.fixture
def origin() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.server.shutdown()
    origin.server.server_close()


def engine(name: str, source: str) -> Document:
    """Model of a program that looks for its weights."""
    command = [
        "sh",
        "-c",
        'test -e "$1" && exec "$3" -m http.server --bind 127.0.0.1 "$2"',
        "sh",
        "{model}",
        "{port}",
        sys.executable,
    ]
    document = model(name, source=source, health={"path": "/"})
    document["spec"] |= {"engine": "custom", "command": command}
    del document["spec"]["args"]
    return document


def test_weights_that_have_vanished_from_the_cache_are_fetched_again(up: Up, origin: Origin) -> None:
    hotseat = up(engine("a", origin.url), model("b"))
    assert hotseat.post("/api/models/a/load?wait=10s").status == 200
    assert hotseat.ask("b").status == 200
    assert origin.given == 1
    shutil.rmtree(hotseat.folder / "cache")
    assert hotseat.post("/api/models/a/load?wait=10s").status == 200
    assert origin.given == 2
    hotseat.wait_event("switch.completed", "a", count=2)  # and all before it has been printed
    assert hotseat.events("model.failed") == []


def test_weights_of_a_running_hotseat_are_shared_and_not_pruned(up: Up, origin: Origin) -> None:
    hotseat = up(engine("a", origin.url), engine("c", origin.url), model("b"))
    assert hotseat.post("/api/models/a/load?wait=10s").status == 200
    assert hotseat.post("/api/models/c/load?wait=10s").status == 200
    assert origin.given == 1
    assert prune(hotseat.folder / "cache") == [], "another process does not either"
    assert hotseat.post("/api/cache/prune").json()["entries"] == []
    (row,) = hotseat.get("/api/cache").json()["entries"]
    assert (row["models"], row["in_use"], row["state"]) == (["a", "c"], True, "complete")
    assert hotseat.post("/api/cache/prune?older_than=soon").status == 400


def test_nobody_makes_room_for_weights_that_are_gone(up: Up, tmp_path: Path) -> None:
    weights = tmp_path / "w.gguf"
    weights.touch()
    hotseat = up(engine("a", str(weights)), model("b"))
    assert hotseat.ask("b").status == 200
    weights.unlink()
    answer = hotseat.ask("a")
    assert (answer.status, answer.code) == (503, "model_failed")
    assert str(weights) in answer.json()["error"]["message"]
    assert hotseat.running() == {"b": "ready"}
    hotseat.catch_up()
    assert hotseat.events("switch.started", "a") == []


def test_nobody_makes_room_for_a_program_that_is_not_there(up: Up) -> None:
    document = engine("a", "/")
    document["spec"]["command"] = ["/nowhere/engine", "{port}"]
    hotseat = up(document, model("b"))
    assert hotseat.ask("b").status == 200
    answer = hotseat.ask("a")
    assert (answer.status, answer.code) == (503, "model_failed")
    assert "CommandNotFound: /nowhere/engine" in answer.json()["error"]["message"]
    assert hotseat.running() == {"b": "ready"}


def test_a_second_hotseat_takes_nothing_down_though_the_state_directory_has_been_deleted(
    up: Up, tmp_path: Path
) -> None:
    hotseat = up(model("a"))
    hotseat.ask("a")
    pid = hotseat.stats("a")["pid"]
    shutil.rmtree(hotseat.state)
    with pytest.raises(AssertionError, match=rf"another hotseat \(pid {hotseat.worker()}\) uses {hotseat.state}"):
        Hotseat(tmp_path, [model("b")], "--state-dir", str(hotseat.state))
    assert hotseat.ask("a").status == 200
    assert hotseat.stats("a")["pid"] == pid


def test_models_that_state_one_port_and_may_be_loaded_at_once_are_told(up: Up) -> None:
    port = free_port()
    two = workspace(capacity={"gpus": 2})
    hotseat = up(two, model("a", port=port), model("b", port=port), seats=2)
    assert [f"a and b both set port {port}" in said for said in hotseat.said() if "WARNING" in said] == [True]
    assert hotseat.ask("a").status == 200
    answer = hotseat.ask("b")
    assert answer.status == 503
    assert f"PortTaken: port {port} is used by the Model a, which is loaded" in answer.json()["error"]["message"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
