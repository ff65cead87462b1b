"""The file that keeps statistics over restarts on one machine."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest

from hotseat.control import stats_file as learned
from hotseat.control.stats_file import StatsFile
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.stats import ModelStats

LESSONS = {"a": ModelStats("m", {"load": Estimate(20.0, 1.5), "stop": Estimate(2.0)}, 12, 7), "b": ModelStats("n")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "learned.json"


def eventually(true: Callable[[], bool]) -> None:
    end = monotonic() + 30
    while not true():
        assert monotonic() < end
        sleep(0.01)


def test_the_next_one_knows_what_the_last_one_wrote(path: Path) -> None:
    file = StatsFile(path)
    assert file.stats == {}
    file.record(LESSONS)
    file.close()
    assert StatsFile(path).stats == LESSONS
    assert [each.name for each in path.parent.iterdir()] == ["learned.json"]


def test_what_is_known_of_models_that_are_not_there_now_stays(path: Path) -> None:
    first = StatsFile(path)
    first.record(LESSONS)
    first.close()
    second = StatsFile(path)
    second.record({"c": ModelStats("o")})
    second.record({"a": ModelStats("changed")})
    second.close()
    assert StatsFile(path).stats == {"a": ModelStats("changed"), "b": ModelStats("n"), "c": ModelStats("o")}


def test_it_is_written_soon_and_once_for_many_news(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "GATHER", 0.2)
    writes: list[Path] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (writes.append(self), replace(self, target)))
    file = StatsFile(path)
    for number in range(50):
        file.record({f"m{number}": ModelStats("n")})
    assert not path.exists()
    eventually(path.exists)
    assert len(StatsFile(path).stats) == 50
    file.record({"m1": ModelStats("n")})
    file.close()
    assert len(writes) == 1, "there was nothing new"


def test_who_is_killed_while_it_writes_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StatsFile(path)
    file.record(LESSONS)
    file.close()
    file.record({"a": ModelStats("newer")})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            file.close()
    assert StatsFile(path).stats == LESSONS


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe\x00", "codec"),
        (b"[" * 100_000, "nested"),
        (b"[]", "version is None"),
        (b'{"version": 2, "models": []}', "version is 2; this hotseat reads version 1"),
        (b'{"version": 1}', "not statistics"),
        (b'{"version": 1, "models": [{"model": "a"}]}', "not statistics"),
        (
            b'{"version": 1, "models": [{"model": "a", "mark": "m", "load": {"mean": NaN, "spread": 0}}]}',
            "not a number",
        ),
    ],
)
def test_what_cannot_be_understood_is_set_aside_and_said(
    path: Path, content: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    other = path.with_name("a.stop.json")
    other.write_text("[]")
    with caplog.at_level(logging.WARNING):
        file = StatsFile(path)
    assert file.stats == {}
    assert why in caplog.text
    assert "learned.json to learned.json.bad and started with empty statistics" in caplog.text
    assert (path.exists(), path.with_name("learned.json.bad").read_bytes()) == (False, content)
    assert other.exists()
    file.record(LESSONS)
    file.close()
    assert StatsFile(path).stats == LESSONS


def test_a_disk_that_does_not_take_it_costs_a_warning_and_it_is_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    block = path.with_name("learned.json.new")
    block.mkdir()
    file = StatsFile(path)
    file.record(LESSONS)
    with caplog.at_level(logging.WARNING):
        file.close()
    assert "cannot write the learned statistics" in caplog.text
    block.rmdir()
    file.close()
    assert json.loads(path.read_text())["version"] == 1


def test_a_file_that_may_not_be_read_costs_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert StatsFile(path).stats == {}
    assert "cannot read the learned statistics" in caplog.text
