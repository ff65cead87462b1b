"""The request log's writer: every line, in order, on whatever is at its path."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from hotseat.cli.main import main
from hotseat.telemetry import logs as requests
from hotseat.telemetry.logs import RequestLog, RequestRecord


def record(number: int) -> RequestRecord:
    return RequestRecord(1000.0 + number, "a", "chat", 0.123456, 2.0, 200, 1)


def lines(path: Path) -> list[dict]:
    return [json.loads(row) for row in path.read_text().splitlines()]


def test_a_line_says_when_which_model_how_long_and_how_it_ended(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "requests.jsonl")
    log.write(record(0))
    log.write(RequestRecord(1001.5, "b", "embeddings", None, 0.5, 429, 0, "tenant", "a"))
    log.close()
    assert lines(tmp_path / "requests.jsonl") == [
        {"time": "1970-01-01T00:16:40.000Z", "model": "a", "route": "chat", "waited": 0.1235, "seconds": 2.0, "status": 200,
         "priority": 1},
        {"time": "1970-01-01T00:16:41.500Z", "model": "b", "route": "embeddings", "waited": None, "seconds": 0.5, "status": 429,
         "priority": 0, "tenant": "tenant", "wanted": "a"},
    ]  # fmt: skip


def test_what_was_there_stays_and_a_thousand_lines_come_whole(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"earlier": true}\n')
    log = RequestLog(path)
    for number in range(1000):
        log.write(record(number))
    log.close()
    assert len(lines(path)) == 1001
    assert lines(path)[0] == {"earlier": True}


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    log = RequestLog(path)
    log._open().write(b"1\n")
    path.rename(tmp_path / "old")
    log._open().write(b"2\n")
    log._open().write(b"3\n")
    assert ((tmp_path / "old").read_text(), path.read_text()) == ("1\n", "2\n3\n")
    log._file.close()


def test_a_disk_that_takes_nothing_is_told_and_holds_nobody_up(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(requests, "MAX_QUEUED", 5)
    folder = tmp_path / "gone"
    log = RequestLog(folder / "requests.jsonl")
    with caplog.at_level(logging.WARNING):
        log.write(record(0))
        log.close()
    assert "cannot write the request log" in caplog.text
    assert "has lost 1 lines" in caplog.text


class SmallDisk:
    """A file that takes at most a hundred bytes at once, and `room` bytes in all."""

    def __init__(self, room: int) -> None:
        self.room, self.data = room, b""

    def write(self, data: bytes) -> int:
        size = min(len(data), 100, self.room)
        if not size:
            raise OSError(errno.ENOSPC, "full")
        self.room -= size
        self.data += data[:size]
        return size


def encoded(*numbers: int) -> bytes:
    return "".join(record(number).line() for number in numbers).encode()


def test_a_line_that_a_full_disk_cuts_is_completed_when_there_is_room(tmp_path: Path, monkeypatch) -> None:
    log = RequestLog(tmp_path / "requests.jsonl")
    disk = SmallDisk(room=len(encoded(0, 1)) + 20)
    monkeypatch.setattr(log, "_open", lambda: disk)
    for numbers, lost in (((0, 1, 2, 3), 1), ((4,), 2)):
        with pytest.raises(OSError, match="full"):
            log._append(encoded(*numbers))
        assert log._lost == lost
    disk.room = 10**6
    log._append(encoded(5))
    assert disk.data == encoded(0, 1, 2, 5)


def test_a_pipe_that_does_not_wait_and_is_full_loses_whole_lines(tmp_path: Path, monkeypatch) -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)
    log = RequestLog(tmp_path / "requests.jsonl")
    with os.fdopen(into, "wb", buffering=0) as pipe, os.fdopen(out, "rb", buffering=0) as reader:
        monkeypatch.setattr(log, "_open", lambda: pipe)
        lines = "".join(record(number).line() for number in range(1000)).encode()
        with pytest.raises(BlockingIOError):
            log._append(lines)
        read = reader.read(len(lines))
        log._append(record(2000).line().encode())
        read += reader.read(len(lines))
    rows = [json.loads(row) for row in read.decode().splitlines()]
    assert len(rows) == 1000 - log._lost + 1
    assert 0 < log._lost < 1000


def test_lines_that_pile_up_are_lost_and_not_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(requests, "MAX_QUEUED", 3)
    log = RequestLog(tmp_path / "requests.jsonl")
    log._thread = object()  # it never writes
    for number in range(10):
        log.write(record(number))
    assert len(log._records) == 3
    assert log._lost == 7


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("-", "standard output is used for events; name a file"),
        ("/nowhere/requests.jsonl", "cannot be written: No such file"),
    ],
)
def test_where_nothing_can_be_written_is_said_before_anything_is_served(where: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("apiVersion: hotseat.dev/v1alpha1\nkind: Model\nmetadata: {name: a}\nspec: {engine: mock}\n")
    result = CliRunner().invoke(main, ["up", "-f", str(file), "--request-log", where])
    assert result.exit_code == 2
    assert said in result.output


def test_the_standard_output_is_taken_as_it_is(capfd) -> None:
    log = RequestLog(requests.STDOUT)
    log.write(record(0))
    log.close()
    assert json.loads(capfd.readouterr().out)["model"] == "a"
