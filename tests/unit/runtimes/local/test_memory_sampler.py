"""Whose memory counts as an engine's, and when a figure is told."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hotseat.api.model import Model
from hotseat.core.messages import InstanceMeasured
from hotseat.engines.llamacpp import LlamaCpp
from hotseat.engines.mock import Mock
from hotseat.runtimes.local import memory as measuring
from hotseat.runtimes.local.memory import MemorySampler, SampledEngine
from tests.fakes import FakeAccelerators, Observations

GIB = 1 << 30
MODEL = Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}})
INSTANCE = ("w/a@3", 3)


@pytest.fixture
def stats() -> Iterator[list[bytes]]:
    """Body that a mock's server answers with, and its port."""
    body = [b'{"memory": "6Gi"}']

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/stats"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body[0])

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    body.append(f"http://127.0.0.1:{server.server_port}".encode())
    yield body
    server.shutdown()
    server.server_close()


def test_a_ready_engine_is_measured_at_once(stats: list[bytes]) -> None:
    seen = Observations()
    watching = MemorySampler(seen, lambda: 5.0, None)
    watching.add(SampledEngine(*INSTANCE, os.getpid(), stats[1].decode(), MODEL, Mock()))
    assert seen.await_one(InstanceMeasured) == InstanceMeasured(5.0, "w/a@3", 3, 6 * GIB)
    watching.remove("w/a@3")
    watching.add(SampledEngine("w/a@9", 9, os.getpid(), stats[1].decode(), MODEL, Mock()))
    assert (
        seen.await_one(InstanceMeasured, instance="w/a@9").memory == 6 * GIB
    )  # by a new thread, or the one that was about to end
    watching.remove("w/a@9")


def test_a_figure_is_told_again_once_it_has_moved(stats: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "INTERVAL", 0.01)
    seen = Observations()
    watching = MemorySampler(seen, lambda: 5.0, None)
    watching.add(SampledEngine(*INSTANCE, os.getpid(), stats[1].decode(), MODEL, Mock()))
    seen.await_one(InstanceMeasured, memory=6 * GIB)
    stats[0] = b'{"memory": "7Gi"}'
    seen.await_one(InstanceMeasured, memory=7 * GIB)
    watching.remove("w/a@3")
    assert [each.memory for each in seen.seen] == [6 * GIB, 7 * GIB]


def test_the_driver_counts_what_it_lists_for_the_processes_below_the_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeAccelerators()
    gpu.listed = {101: 2 * GIB, 102: GIB, 999: 50 * GIB}
    monkeypatch.setattr(measuring, "descendants", lambda root: [101, 102] if root == 100 else [])
    seen = Observations()
    watching = MemorySampler(seen, lambda: 5.0, gpu)
    watching.add(SampledEngine(*INSTANCE, 100, "http://127.0.0.1:1", MODEL, LlamaCpp()))
    assert seen.await_one(InstanceMeasured).memory == 3 * GIB
    watching.remove("w/a@3")


@pytest.mark.parametrize("body", [b"no JSON", b"{}", b'{"memory": "lots"}', b'{"memory": "0"}'])
def test_what_nobody_tells_is_not_told(body: bytes, stats: list[bytes]) -> None:
    stats[0] = body
    gpu = FakeAccelerators()
    gpu.problem = OSError("lost")
    seen = Observations()
    each = SampledEngine(*INSTANCE, os.getpid(), stats[1].decode(), MODEL, Mock())
    MemorySampler(seen, lambda: 5.0, gpu)._measure(each)
    assert not seen.seen
    assert each.reported == 0
