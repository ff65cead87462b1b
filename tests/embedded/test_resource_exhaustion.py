"""Out of descriptors, threads or memory: new work is refused, what runs goes on, counts stay exact, and it passes."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import Up
from .harness import CHAT, Answer, Hotseat, chat, eventually, model, workspace

FEW_FILES = "-n 256"
REFUSED = {429: "too_many_requests", 503: "overloaded"}


def check_refusals(answers: list[Answer]) -> Counter[int]:
    """Each is served or refused, and a refusal says when to try again."""
    for answer in answers:
        if answer.status != 200:
            assert answer.code == REFUSED[answer.status]
            assert int(answer.headers["Retry-After"]) >= 1
    return Counter(answer.status for answer in answers)


def check_all_is_well(hotseat: Hotseat, worker: int) -> None:
    """Nothing is left of what was, and it serves as before."""
    eventually(lambda: hotseat.get("/running").json()["waiting"] == [])
    eventually(lambda: all(row["in_flight"] == 0 for row in hotseat.get("/running").json()["running"]))
    began = time.monotonic()
    assert hotseat.ask("b").by == "b"
    assert time.monotonic() - began < 5, "nobody had to be waited for"
    assert hotseat.worker() == worker
    assert hotseat.loads()["a"] == 1


def test_with_few_descriptors_what_does_not_fit_is_refused(up: Up) -> None:
    hotseat = up(model("a", "--load-time", "3"), model("b"), limits=FEW_FILES)
    worker = hotseat.worker()
    calls = [hotseat.send("a") for _ in range(150)]
    assert hotseat.get("/health").status == 200
    statuses = check_refusals([call.answer() for call in calls])
    assert statuses[200] >= 40
    assert statuses[429] >= 40
    check_all_is_well(hotseat, worker)


def test_a_clients_pool_of_connections_leaves_nothing_in_flight(up: Up) -> None:
    """A bug once: each request that found no descriptor to wait with stayed in flight for ever."""
    hotseat = up(model("a", "--load-time", "3"), model("b"), limits=FEW_FILES)
    worker = hotseat.worker()
    pool = [http.client.HTTPConnection(hotseat.address, timeout=30) for _ in range(90)]
    for connection in pool:
        connection.request("GET", "/health")
        assert connection.getresponse().read()
    for connection in pool:
        connection.request("POST", CHAT, json.dumps(chat("a")))
    responses = [connection.getresponse() for connection in pool]
    statuses = check_refusals([Answer(each.status, each.headers, each.read()) for each in responses])
    assert statuses[200] >= 40
    for connection in pool:
        connection.close()
    check_all_is_well(hotseat, worker)


def test_without_any_descriptor_what_runs_goes_on_and_connections_are_taken_again_later(up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.expected_errors = ["cannot accept connections", "Too many open files", "the history"]
    worker = psutil.Process(hotseat.worker())
    stream = hotseat.send("a", stream=True, mock={"tokens": 30, "tokens_per_second": 20})
    stream.begun()
    limits = worker.rlimit(resource.RLIMIT_NOFILE)
    worker.rlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    early = [hotseat.send("a") for _ in range(5)]
    assert len(stream.answer().data()) == 31
    worker.rlimit(resource.RLIMIT_NOFILE, limits)
    assert hotseat.ask("a").by == "a"
    for call in early:  # told so, or served when there were descriptors again
        try:
            check_refusals([call.answer()])
        except (ConnectionError, http.client.BadStatusLine):
            call.leave()
    check_all_is_well(hotseat, worker.pid)


def test_without_memory_for_threads_requests_are_served(up: Up) -> None:
    """Only long requests to other routes need a thread."""
    hotseat = up(model("a", "--load-time", "3"), model("b"))
    hotseat.expected_errors = ["MemoryError", "start new thread", "start a thread"]
    worker = psutil.Process(hotseat.worker())
    first = hotseat.send("a")
    eventually(lambda: hotseat.loads()["a"])
    limits = worker.rlimit(resource.RLIMIT_AS)
    worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms + 30 * 2**20, limits[1]))
    calls = [hotseat.send("a") for _ in range(60)]
    followers = [hotseat.call("GET", "/api/events") for _ in range(60)]
    assert hotseat.get("/health").status == 200
    statuses = [follower.begun().status for follower in followers]
    assert statuses.count(503) >= 20
    assert check_refusals([call.answer() for call in calls])[200] >= 40
    assert first.answer().by == "a"
    for follower in followers:
        follower.leave()
    worker.rlimit(resource.RLIMIT_AS, limits)
    check_all_is_well(hotseat, worker.pid)
    more = [hotseat.send("a") for _ in range(60)]
    assert check_refusals([call.answer() for call in more]) == {200: 60}


@pytest.fixture
def tasks() -> Iterator[Path]:
    """A cgroup that can limit processes and threads."""
    for folder in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = folder / f"hotseat-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / "pids.max").exists():
                yield group
                return
        finally:
            eventually(lambda group=group: _removed(group))
    pytest.skip("no cgroup for pids can be made here")


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def test_without_threads_what_does_not_fit_is_refused_and_the_end_is_orderly(tasks: Path, up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.expected_errors = [
        "statistics: cannot start a thread"
    ]  # they are written at the next change, or at the end
    hotseat.ask("a")
    worker = psutil.Process(hotseat.worker())
    (tasks / "cgroup.procs").write_text(str(worker.pid))
    (tasks / "pids.max").write_text(str(worker.num_threads() + 20))
    slow = {"mock": {"first_token": 2}}
    calls = [hotseat.send("a", **slow) for _ in range(80)]
    followers = [hotseat.call("GET", "/api/events") for _ in range(80)]
    assert hotseat.get("/health").status == 200
    assert [follower.begun().status for follower in followers].count(503) >= 20
    assert check_refusals([call.answer() for call in calls]) == {200: 80}, "a request needs no thread"
    for follower in followers:
        follower.leave()
    (tasks / "pids.max").write_text("max")
    check_all_is_well(hotseat, worker.pid)
    stream = hotseat.send("b", stream=True, mock={"tokens": 20, "tokens_per_second": 40})
    stream.begun()
    (tasks / "pids.max").write_text("1")
    hotseat.signal(signal.SIGTERM)
    assert len(stream.answer().data()) == 21
    assert hotseat.ended() == 0


@pytest.mark.parametrize(
    "head", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "], ids=["silent", "half"]
)
def test_connections_that_bring_no_request_keep_nobody_out(up: Up, head: bytes) -> None:
    """More of them than are let in, and than there are threads; nobody needs a key to open one."""
    hotseat = up(model("a"), options=("--api-key", "k"), limits=FEW_FILES)
    key = {"Authorization": "Bearer k"}
    threads = psutil.Process(hotseat.worker()).num_threads()
    host, port = hotseat.address.split(":")
    strangers = []
    for _ in range(300):
        strangers.append(socket.create_connection((host, int(port)), timeout=30))
        strangers[-1].sendall(head)
    for _ in range(3):
        assert hotseat.get("/health").status == 200
        assert hotseat.ask("a", headers=key).by == "a"
    assert psutil.Process(hotseat.worker()).num_threads() < threads + 20
    for stranger in strangers:
        stranger.close()


def test_more_requests_than_this_machine_holds_are_said_at_the_start_and_at_a_reload(up: Up) -> None:
    def told() -> list[str]:
        return [message for message in hotseat.said() if "queue.maxWaiting" in message]

    hotseat = up(model("a"), workspace(queue={"maxWaiting": 500}), limits=FEW_FILES)
    assert len(told()) == 1
    assert "500" in told()[0]
    assert "the limit on open files is 256" in told()[0]
    hotseat.write([model("a"), workspace(queue={"maxWaiting": 10})])
    hotseat.wait_for(lambda: any("reloaded" in message for message in hotseat.said()))
    assert len(told()) == 1
    hotseat.write([model("a"), workspace(queue={"maxWaiting": 600})])
    hotseat.wait_for(lambda: len(told()) == 2)
    assert "600" in told()[1]
