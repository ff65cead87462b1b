"""The arbiter's end, and what bounds a process."""

import queue
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hotseat.gateway import limits, server
from hotseat.gateway.http.interfaces import HttpLimits
from hotseat.gateway.server import Bounds, Server, _Arbiter
from hotseat.gateway.threads import Threads


def arbiter(graceful: float, *, looks: int) -> tuple[_Arbiter, list[int]]:
    """An arbiter whose worker ends after so many looks, and the signals that it sends."""
    made, sent = object.__new__(_Arbiter), []
    made.app = SimpleNamespace(graceful=lambda: graceful)
    made.LISTENERS, made.WORKERS, made.SIG_QUEUE = [], {7: None}, queue.SimpleQueue()
    made.kill_workers = sent.append
    left = iter(range(looks))
    made.reap_workers = lambda: next(left, None) is None and made.WORKERS.clear()
    return made, sent


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    wall = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))  # an hour ahead each time it is asked
    return now


def test_the_end_goes_by_a_clock_that_nobody_sets(clock) -> None:
    made, sent = arbiter(30, looks=200)
    made.stop()
    assert clock[0] - 1000 == pytest.approx(20, abs=0.2)
    assert sent == [signal.SIGTERM, signal.SIGKILL]


def test_the_end_has_an_end(clock) -> None:
    made, sent = arbiter(30, looks=10**6)
    made.stop()
    assert clock[0] - 1000 == pytest.approx(30, abs=0.2)
    assert sent[-1] == signal.SIGKILL


def test_a_second_signal_ends_it_at_once(clock) -> None:
    made, sent = arbiter(30, looks=10**6)
    made.SIG_QUEUE.put(signal.SIGCHLD)
    made.SIG_QUEUE.put(signal.SIGINT)
    made.stop()
    assert sent == [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL]
    assert clock[0] - 1000 == pytest.approx(server.FORCED_EXIT, abs=0.3)


def test_no_pause_is_long_enough_for_the_worker_to_be_killed() -> None:
    made = Server(
        lambda: None, lambda: None, bind=["127.0.0.1:0"], threads=Threads(1), limits=HttpLimits(), graceful=lambda: 1
    )
    assert made.cfg.timeout == 0


@pytest.mark.parametrize(
    ("files", "places", "why"),
    [(10**6, 20000, "20000 requests"), (256, 64, "open files is 256"), (1024, 256, "open files is 1024")],
)
def test_what_is_let_in_fits_what_there_is(monkeypatch: pytest.MonkeyPatch, files: int, places: int, why: str) -> None:
    monkeypatch.setattr(server, "allow_files", lambda wanted: min(files, wanted))
    bounds = Bounds.of_this_process()
    assert bounds.max_requests == places < bounds.connections, "and connections without a request"
    assert bounds.connections + places < files, "a request has a connection, and one to its engine"
    assert why in bounds.why


def test_the_least_limit_on_tasks_counts(monkeypatch, tmp_path: Path) -> None:
    for folder, text in (("a", "300"), ("a/b", "max"), ("a/b/c", "2048")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pids.max").write_text(f"{text}\n")
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr(limits, "_own_cgroups", lambda: [tmp_path / "a/b/c", tmp_path / "none"])
    monkeypatch.setattr(limits.os, "geteuid", lambda: 0)
    assert limits.tasks_limit() == 300
