"""The history of events, switches and requests: what it keeps over restarts, and what it survives."""

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hotseat.control import history_store
from hotseat.control.history_store import (
    MAX_ROW,
    HistorySettings,
    HistoryStore,
    HistoryUnreadable,
    Kind,
    Row,
    is_foreign,
)

NOW = time.time()
DAY = 86_400.0


def row(number: int, *, kind: Kind = Kind.REQUESTS, ago: float = 0.0, model: str = "a", size: int = 0) -> Row:
    return Row(kind, NOW - ago, model, f'{{"n":{number}{" " * size}}}')


def one(item: Row) -> Iterable[Row]:
    return (item,)


def write(path: Path, *rows: Row, days: int = 7, size: int = 2**28) -> HistoryStore:
    """Write rows by a store of their own."""
    store = HistoryStore(HistorySettings(path, days, size))
    for each in rows:
        store.add(one, each)
    store.close()
    return store


def numbers(store: HistoryStore, kind: Kind = Kind.REQUESTS, *, limit: int = 10_000, **given: float | str) -> list[int]:
    return [int(data[5:-1]) for data in store.read(kind, limit=limit, **given)[0]]


def until(condition: object) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_store, "GATHER", 0.0)
    monkeypatch.setattr(history_store, "RETRY", 0.0)


def test_the_next_one_reads_what_the_last_one_wrote(path: Path) -> None:
    write(path, *(row(number, ago=10.0 - number) for number in range(10)))
    store = HistoryStore(HistorySettings(path))
    assert numbers(store) == [*range(10)], "oldest first"
    assert numbers(store, limit=3) == [7, 8, 9]
    assert numbers(store, since=NOW - 5.0, until=NOW - 3.0) == [5, 6, 7]
    assert store.read(Kind.REQUESTS, limit=0) == ([], NOW - 10.0)
    assert store.read(Kind.SWITCHES, limit=9) == ([], None)
    store.close()


def test_rows_are_selected_by_model(path: Path) -> None:
    write(path, *(row(number, model="ab"[number % 2]) for number in range(6)))
    store = HistoryStore(HistorySettings(path))
    assert numbers(store, model="b") == [1, 3, 5]
    assert numbers(store, model="b", limit=1) == [5]
    assert numbers(store, model="c") == []
    store.close()


def test_an_event_that_is_told_again_is_stored_once(path: Path) -> None:
    rows = [row(number, kind=Kind.EVENTS)._replace(key=f"id-{number}") for number in (1, 2, 1)]
    write(path, *rows)
    again = write(path, *rows)
    assert numbers(again, Kind.EVENTS) == [1, 2]


def test_only_the_owner_can_read_the_files(path: Path) -> None:
    store = HistoryStore(HistorySettings(path))
    store.add(one, row(1))
    until(lambda: path.with_name("history.db-wal").exists())
    for each in (path.parent, *path.parent.iterdir()):
        assert not stat.S_IMODE(each.stat().st_mode) & 0o077, each
    store.close()
    assert [each.name for each in path.parent.iterdir()] == ["history.db"], "a clean end leaves one file"


def test_rows_that_are_too_old_are_deleted(path: Path) -> None:
    write(path, row(1, ago=8 * DAY), row(2, ago=6 * DAY), row(3, kind=Kind.SWITCHES, ago=8 * DAY), days=7)
    store = write(path, row(4), days=7)
    assert numbers(store) == [2, 4]
    assert store.read(Kind.SWITCHES, limit=9) == ([], None)
    assert numbers(write(path, row(5), days=1)) == [4, 5], "the bound of the next start counts"


def test_the_file_stays_within_its_size_and_many_requests_do_not_push_out_switches(path: Path) -> None:
    size = 2**22
    switches = [row(number, kind=Kind.SWITCHES) for number in range(20)]
    write(path, *switches)
    for start in range(0, 20_000, 2000):
        store = write(path, *(row(number, size=400) for number in range(start, start + 2000)), size=size)
        assert store.lost == 0
        assert sum(each.stat().st_size for each in path.parent.iterdir()) <= size
    kept = numbers(store, limit=10**6)
    assert kept == [*range(kept[0], 20_000)], "the oldest are deleted"
    assert 2000 < len(kept) < 10_000
    assert numbers(store, Kind.SWITCHES) == [*range(20)]


def test_a_huge_row_pushes_out_no_others(path: Path) -> None:
    store = write(path, row(1), row(2, size=MAX_ROW), row(3))
    assert numbers(store) == [1, 3]


def test_a_smaller_bound_makes_the_file_smaller(path: Path) -> None:
    write(path, *(row(number, size=2000) for number in range(2000)))
    assert path.stat().st_size > 2**22
    store = write(path, row(2000), size=2**20)
    assert path.stat().st_size <= 2**20
    assert numbers(store, limit=10**6)[-1] == 2000


def test_rows_beyond_the_queue_are_lost_and_counted_and_nobody_waits(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history_store, "MAX_QUEUED", 10)
    store = HistoryStore(HistorySettings(path))
    reached, disk = threading.Event(), threading.Event()

    def stuck(item: Row) -> Iterable[Row]:
        reached.set()
        disk.wait(30)
        return (item,)

    store.add(stuck, row(0))
    reached.wait(30)
    for number in range(1, 31):
        store.add(one, row(number))
    assert store.lost == 20
    disk.set()
    store.close()
    assert numbers(store) == [*range(11)]
    assert "has lost 20 rows" in caplog.text


@pytest.mark.usefixtures("quick")
def test_many_requests_leave_room_for_events_and_are_written_little_by_little(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_store, "BATCH", 2)
    store, batches = HistoryStore(HistorySettings(path)), list[int]()
    reached, disk, store_batch = threading.Event(), threading.Event(), store._store
    monkeypatch.setattr(store, "_store", lambda batch: (batches.append(len(batch)), store_batch(batch)))
    store.add(lambda item: (reached.set(), disk.wait(30), one(item))[2], row(0))
    reached.wait(30)
    for number in range(1, 11):
        store.add(one, row(number), limit=4)
    store.add(one, row(1, kind=Kind.EVENTS))
    disk.set()
    until(lambda: numbers(store, Kind.EVENTS) == [1])
    store.close()
    assert (numbers(store), store.lost) == ([0, 1, 2, 3, 4], 6)
    assert batches[:4] == [1, 2, 2, 1]


def test_a_row_that_cannot_be_encoded_costs_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_item: Row) -> Iterable[Row]:
        raise KeyError("a bug")

    store = HistoryStore(HistorySettings(path))
    for encode, number in ((one, 1), (fail, 2), (one, 3)):
        store.add(encode, row(number))
    store.close()
    assert numbers(store) == [1, 3]
    assert "cannot be encoded" in caplog.text


@pytest.mark.parametrize("what", ["text", "version", "empty"])
def test_a_file_that_is_no_history_is_renamed(what: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    if what == "text":
        path.write_bytes(b"not a database" * 100)
    elif what == "version":
        write(path, row(1))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version=99")
    else:
        path.touch()
    store = write(path, row(2))
    assert numbers(store) == [2]
    bad = path.with_name("history.db.bad")
    assert bad.exists() == (what != "empty"), "an empty file is a new history"
    assert ("renamed" in caplog.text) == (what != "empty")
    if what == "version":
        assert "its version is 99; this hotseat reads version 1" in caplog.text
        with closing(sqlite3.connect(bad)) as connection:
            assert connection.execute("SELECT count(*) FROM requests").fetchone() == (1,)


def test_the_file_of_something_else_is_told_from_a_history(path: Path) -> None:
    assert not is_foreign(path)
    write(path, row(1))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    assert not is_foreign(path), "that of another version"
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))
    assert not is_foreign(path), "a corrupt one"
    (path.parent / "models.yaml").write_text("kind: Model")
    assert is_foreign(path.parent / "models.yaml")
    with closing(sqlite3.connect(path.parent / "app.db")) as connection:
        connection.execute("CREATE TABLE events(id)")
    assert is_foreign(path.parent / "app.db")


@pytest.mark.usefixtures("quick")
def test_a_file_that_turns_corrupt_is_renamed_while_it_is_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, *(row(number, size=500) for number in range(500)))
    store = HistoryStore(HistorySettings(path))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with pytest.raises(HistoryUnreadable):
        store.read(Kind.REQUESTS, limit=10)
    until(lambda: "renamed" in caplog.text)
    store.add(one, row(7))
    store.close()
    assert numbers(store) == [7]
    assert path.with_name("history.db.bad").exists()
    assert store.lost == 0


@pytest.mark.usefixtures("quick")
def test_a_file_that_is_deleted_begins_anew(path: Path) -> None:
    store = HistoryStore(HistorySettings(path))
    store.add(one, row(1))
    until(lambda: numbers(store) == [1])
    for each in path.parent.iterdir():
        each.unlink()
    path.parent.rmdir()
    store.add(one, row(2))
    until(lambda: _count(path) == 1)
    assert numbers(store) == [2]
    store.close()


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written_is_said_once_and_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.write_text("a file is in the way")
    store = HistoryStore(HistorySettings(path))
    with pytest.raises(HistoryUnreadable):
        store.read(Kind.EVENTS, limit=1)
    for number in range(3):
        lost = store.lost
        store.add(one, row(number))
        until(lambda lost=lost: store.lost > lost)
    assert caplog.text.count("cannot write the history") == 1
    path.parent.unlink()
    store.add(one, row(9))
    until(lambda: path.exists() and "is written again; 3 rows have been lost" in caplog.text)
    store.close()
    assert numbers(store) == [9]


WRITER = """
import sys, threading, time
from pathlib import Path
from hotseat.control import history_store
from hotseat.control.history_store import HistorySettings, HistoryStore, Kind, Row
history_store.GATHER = 0.001
store = HistoryStore(HistorySettings(Path(sys.argv[1])))
number = 0
while True:
    if len(store._queue) < 500:
        store.add(lambda n: (Row(Kind.REQUESTS, time.time(), "a", '{"n":%d}' % n),), number)
        number += 1
        if number == 300:
            print("writes", flush=True)
    else:
        time.sleep(0.001)
"""


def test_a_sigkill_in_the_middle_of_writes_leaves_a_file_that_can_be_read(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = [0]
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"writes\n"
            until(lambda: _count(path) > counts[-1] + 1000)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        counts.append(_count(path))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = write(path, row(-1, ago=-3600.0))
    kept = numbers(store, limit=10**9)
    assert len(kept) == counts[-1] + 1
    assert kept[: counts[1]] == [*range(counts[1])], "all rows that were written, in order"
    assert "renamed" not in caplog.text


def _count(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM requests").fetchone()
            return int(count)
    except sqlite3.Error:  # it is not there yet
        return 0


@pytest.fixture
def full_disk(path: Path) -> Iterator[tuple[Path, int]]:
    """A history that has some rows, and a limit on the size of files just above it."""
    write(path, *(row(number) for number in range(100)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        yield path, soft
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("quick")
def test_a_full_disk_costs_rows_and_nothing_else(full_disk: tuple[Path, int], caplog: pytest.LogCaptureFixture) -> None:
    path, soft = full_disk
    store = HistoryStore(HistorySettings(path))
    for _ in range(3):
        lost = store.lost
        for number in range(100, 200):
            store.add(one, row(number, size=4000))
        until(lambda lost=lost: store.lost > lost)
    assert caplog.text.count("cannot write the history") == 1
    assert numbers(store)[:100] == [*range(100)], "what was there can be read"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.add(one, row(1000))
    until(lambda: "is written again" in caplog.text)
    store.close()
    kept = numbers(store)
    assert (kept[:100], kept[-1]) == ([*range(100)], 1000)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
