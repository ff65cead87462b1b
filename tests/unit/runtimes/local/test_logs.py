"""Engines write whatever they like; what is kept of it is bounded, readable and in order."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.runtimes.local import logs
from hotseat.runtimes.local.logs import KEPT_LINES, MAX_LINE, Lines, ModelLog


def test_lines_come_out_when_they_are_complete() -> None:
    lines = Lines()
    assert lines.feed(b"one\r\ntw") == ["one"]
    assert lines.feed(b"o\nthree") == ["two"]
    assert lines.rest() == ["three"]
    assert lines.rest() == []


def test_undecodable_bytes_are_replaced() -> None:
    assert Lines().feed(b"caf\xe9\n") == ["caf\ufffd"]


def test_a_character_may_come_in_two_pieces() -> None:
    lines = Lines()
    assert lines.feed("é".encode()[:1]) == []
    assert lines.feed("é".encode()[1:] + b"\n") == ["é"]


def test_a_progress_bar_is_kept_as_last_seen() -> None:
    assert Lines().feed(b"\r 10%\r 50%\r100%\n") == ["100%"]


def test_a_progress_bar_that_never_ends_its_line_takes_no_memory() -> None:
    lines = Lines()
    for percent in range(10_000):
        assert lines.feed(b"\rloading %d" % percent) == []
    assert lines.rest() == ["loading 9999"]


def test_a_long_line_is_cut_and_the_next_one_is_whole() -> None:
    lines = Lines()
    shown = [line for _ in range(10) for line in lines.feed(b"x" * MAX_LINE)]
    assert shown == ["x" * MAX_LINE]
    assert lines.feed(b"xxx\nnext\n") == ["next"]


@given(st.lists(st.binary(max_size=20)))
def test_pieces_make_no_difference(pieces: list[bytes]) -> None:
    whole, cut = Lines(), Lines()
    at_once = whole.feed(b"".join(pieces)) + whole.rest()
    assert [line for piece in pieces for line in cut.feed(piece)] + cut.rest() == at_once


def test_positions_count_what_was_ever_written() -> None:
    log = ModelLog()
    log.write([str(number) for number in range(KEPT_LINES + 10)])
    position, kept = log.read_after(0, timeout=0)
    assert position == KEPT_LINES + 10
    assert len(kept) == KEPT_LINES
    assert kept[0] == "10"
    assert log.read_after(position - 2, timeout=0) == (position, kept[-2:])
    assert log.read_after(5, timeout=0) == (position, kept)  # what is lost cannot be read
    assert log.tail(2) == kept[-2:]
    assert log.tail(0) == []


def test_a_position_of_an_earlier_process_starts_over() -> None:
    log = ModelLog()
    log.write(["one"])
    assert log.read_after(77, timeout=0) == (1, ["one"])


def test_a_follower_is_woken() -> None:
    log = ModelLog()
    writer = threading.Thread(target=log.write, args=(["news"],))
    writer.start()
    assert log.read_after(0, timeout=10) == (1, ["news"])
    writer.join()


def test_the_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    log = ModelLog(tmp_path / "a.log")
    for number in range(500):
        log.write([f"line {number}"])
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.log", "a.log.1", "a.log.2"]
    assert max(file.stat().st_size for file in files) <= 1000
    assert (tmp_path / "a.log").read_text().endswith("line 499\n")


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = ModelLog(tmp_path / "nowhere" / "a.log")
    log.write(["one"])
    log.write(["two"])
    assert log.tail(2) == ["one", "two"]
    assert len(caplog.records) == 1
    log.close()
