"""A fetch while hotseat runs: its progress is shown, nobody prunes it, and another hotseat resumes it after kill -9."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.origins import Origins, serve

from .conftest import Up
from .harness import Document, Hotseat, eventually, model
from .test_missing_files import engine

MIB = 1024 * 1024
WEIGHTS = random.Random(7).randbytes(4 * MIB)


@pytest.fixture
def origin() -> Iterator[Origins]:
    with serve() as origin:
        origin.files["/w.gguf"] = WEIGHTS
        origin.weights.add("/w.gguf")
        origin.stall_after = 3 * MIB
        yield origin


def documents(origin: Origins) -> list[Document]:
    return [engine("a", f"{origin.url}/w.gguf"), model("b")]


def fetched(hotseat: Hotseat) -> int:
    rows = hotseat.get("/running").json()["fetching"]
    return max([row["done"] or 0 for row in rows], default=0)


def test_a_fetch_is_shown_with_its_bytes_and_not_pruned(up: Up, origin: Origins) -> None:
    hotseat = up(*documents(origin))
    waiting = hotseat.send("a")
    assert origin.stalled.wait(30)
    eventually(lambda: fetched(hotseat) >= MIB)
    (row,) = hotseat.get("/running").json()["fetching"]
    assert (row["model"], row["total"]) == ("a", len(WEIGHTS))
    (listed,) = [each for each in hotseat.get("/v1/models").json()["data"] if each["id"] == "a"]
    assert listed["status"]["progress"]["total"] == len(WEIGHTS)
    (entry,) = hotseat.get("/api/cache").json()["entries"]
    assert (entry["state"], entry["in_use"]) == ("fetching", True)
    assert hotseat.post("/api/cache/prune").json()["entries"] == []
    origin.go_on.set()
    hotseat.wait_event("model.cached", "a")
    told = hotseat.events("model.fetching", "a")[-1]["data"]
    assert {"done", "total", "rate", "remaining"} <= told.keys()
    waiting.answer()
    assert hotseat.get("/running").json()["fetching"] == []


def test_a_fetch_resumes_after_kill_9_of_all_of_hotseat(up: Up, origin: Origins, tmp_path: Path) -> None:
    hotseat = up(*documents(origin), folder=tmp_path)
    hotseat.send("a")
    assert origin.stalled.wait(30)
    eventually(lambda: fetched(hotseat) >= MIB)
    os.killpg(hotseat.process.pid, signal.SIGKILL)
    hotseat.process.wait()
    origin.stall_after = 0
    origin.go_on.set()
    again = up(*documents(origin), folder=tmp_path)
    assert again.post("/api/models/a/load?wait=30s").status == 200
    ranges = [each.range for each in origin.asked if each.path == "/w.gguf"]
    begun = [int((each or "bytes=0-").removeprefix("bytes=").rstrip("-")) for each in ranges]
    assert begun[0] == 0
    assert all(byte >= MIB for byte in begun[1:]), "the child of the first one may have got all of it by then"
