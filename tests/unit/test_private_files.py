"""What hotseat writes is for its own user only, whatever the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.control.stats_file import StatsFile
from hotseat.core.scheduler.stats import ModelStats
from hotseat.runtimes.local import weights
from hotseat.runtimes.local.logs import ModelLog
from hotseat.runtimes.local.orphans import StateDir
from hotseat.telemetry.logs import RequestLog, RequestRecord


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_logs_of_engines_also_after_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotseat.runtimes.local.logs.FILE_BYTES", 100)
    log = ModelLog(tmp_path / "a.log")
    for _ in range(3):
        log.write(["x" * 60])
    log.close()
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        "a.log": 0o600,
        "a.log.1": 0o600,
        "a.log.2": 0o600,
    }


def test_learned_statistics(tmp_path: Path) -> None:
    path = tmp_path / "state" / "learned.json"
    stats = StatsFile(path)
    stats.record({"a": ModelStats("mark")})
    stats.close()
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_the_request_log(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    log = RequestLog(path)
    log.write(RequestRecord(0.0, "a", "chat", None, 0.1, 200))
    log.close()
    assert mode(path) == 0o600


def test_the_state_directory(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.lock()
    state.save_stop_command("i", ["true"])
    state.unlock()
    assert mode(state.path) == 0o700
    assert {mode(path) for path in state.path.iterdir()} == {0o600}


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "fetch_command", lambda *_: ["false"])
    monkeypatch.setattr(weights, "ATTEMPTS", 1)
    cache = tmp_path / "cache"
    weights.WeightsFetch("a", "https://h/x", cache, {}, lambda _: None, clock=lambda: 0.0).run()
    assert mode(cache) == 0o700


def test_what_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "requests").touch(0o640)
    (tmp_path / "requests").chmod(0o640)
    log = RequestLog(tmp_path / "requests")
    log.write(RequestRecord(0.0, "a", "chat", None, 0.1, 200))
    log.close()
    state = StateDir(tmp_path)
    state.lock()
    state.unlock()
    assert (mode(tmp_path), mode(tmp_path / "requests")) == (0o755, 0o640)
