"""The history of events, switches and requests over restarts: a SQLite file of bounded age and size.

One thread writes. What is to be stored is queued, which takes about a microsecond and never waits; rows of about a fifth of a second
go into one transaction. If the queue is full, or the disk, rows are lost and counted, and nothing else happens. That bounds what the
history takes from the threads that serve: a row costs about 20 microseconds of CPU, and at most 500 of them are written in a second.
The file survives a SIGKILL (write-ahead log); a power failure may cost the last rows.
"""

import json
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

from hotseat.private_files import make_directory

T = TypeVar("T")

log = logging.getLogger(__name__)

VERSION: Final = 1  # of the tables
NAME: Final = "history.db"
DAYS: Final = 7
SIZE: Final = 256 * 2**20
LEAST_SIZE: Final = 16 * 2**20  # with which the write-ahead log is a small part
MAX_QUEUED = 2000  # items that may wait: for a slow disk, or because there are too many of them
MAX_REQUESTS = 1000  # of them that are no events. Each holds some KiB of its answer until it is written
GATHER = 0.2  # seconds in which rows gather
BATCH = 100  # items that are written then
RETRY = 5.0  # seconds after a failure until the next try
PRUNE_INTERVAL = 60.0  # seconds between looks for rows that are too old
CLOSE_TIME = 2.0  # seconds that close() waits for the last rows
_WAL_SIZE = 2 * 2**20  # bytes of the write-ahead log, after which it is copied into the file and used again
_CHUNK = 5000  # rows that are deleted in one transaction
_DAY = 86_400.0
_MAGIC = b"SQLite format 3\0"
_BUSY_TIME = 5.0  # seconds to wait for a lock of another process


class Kind(StrEnum):
    """What a row is. The value is the name of its table."""

    EVENTS = "events"
    SWITCHES = "switches"
    REQUESTS = "requests"


MAX_ROW = 2**18  # characters of a row; a longer one is not stored


class Row(NamedTuple):
    """One row. `data` is a JSON object. Of two rows of a kind with the same `key`, the second is not stored."""

    kind: Kind
    time: float  # seconds since 1970: of an event, or of the end of a switch or a request
    model: str | None  # metadata.name
    data: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """Where the history is, and its bounds. `size` is in bytes, with the write-ahead log."""

    path: Path
    days: int = DAYS
    size: int = SIZE


class HistoryUnreadable(Exception):
    """The history cannot be read now. The message says why."""


_SCHEMA = "".join(
    f"CREATE TABLE {kind}(id INTEGER PRIMARY KEY, time REAL NOT NULL, model TEXT, data TEXT NOT NULL, key TEXT UNIQUE);"
    f"CREATE INDEX {kind}_by_time ON {kind}(time); CREATE INDEX {kind}_by_model ON {kind}(model, time);"
    for kind in Kind
)
_INSERT = {kind: f"INSERT OR IGNORE INTO {kind}(time, model, data, key) VALUES (?, ?, ?, ?)" for kind in Kind}  # noqa: S608


class HistoryStore:
    """Stores rows, and reads them. Its methods can be called from any thread, and `add` never waits or raises."""

    def __init__(self, settings: HistorySettings) -> None:
        self.settings = settings
        self._path = settings.path
        self._limit = max(settings.size - _WAL_SIZE, settings.size // 2)  # bytes of the file itself
        self._queue: deque[tuple[Callable[[Any], Iterable[Row]], Any]] = deque()
        self._news, self._closing = threading.Event(), threading.Event()
        self._lock = threading.Lock()  # over the start of the thread
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None  # of the file
        self._unusable = ""  # what a reader has found wrong with the file
        self._lost = self._told = 0  # rows; and of how many of them the log has told
        self._failing = False
        self._pruned = 0.0
        try:
            self._connect()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)

    @property
    def lost(self) -> int:
        """Number of rows that were not stored since the start, because the queue or the disk was full."""
        return self._lost

    def add(self, encode: Callable[[T], Iterable[Row]], item: T, *, limit: int | None = None) -> None:
        """Queue an item, unless `limit` items are queued. `encode` is called with it on the writing thread, and returns its rows."""
        if len(self._queue) >= (limit or MAX_QUEUED):
            self._lost += 1
            return
        self._queue.append((encode, item))
        if not self._news.is_set():
            self._news.set()
        if self._thread is None:
            self._start()

    def read(
        self,
        kind: Kind,
        *,
        since: float | None = None,
        until: float | None = None,
        model: str | None = None,
        limit: int,
    ) -> tuple[list[str], float | None]:
        """Return the newest rows, oldest first, as JSON, and the time of the oldest row that is kept, None if there is none.

        `since` and `until` are seconds since 1970. `model` is a metadata.name. Raise HistoryUnreadable if the file cannot be read.
        """
        conditions = [
            (text, value)
            for text, value in (("time >= ?", since), ("time <= ?", until), ("model = ?", model))
            if value is not None
        ]
        where = " AND ".join(text for text, _ in conditions) or "1"
        query = f"SELECT data FROM {kind} WHERE {where} ORDER BY time DESC, id DESC LIMIT ?"  # noqa: S608 — of constants
        try:
            with closing(_reader(self._path)) as connection:
                rows = connection.execute(query, (*(value for _, value in conditions), limit)).fetchall()
                (oldest,) = connection.execute(f"SELECT min(time) FROM {kind}").fetchone()  # noqa: S608
        except sqlite3.Error as error:
            if _is_corrupt(error):
                self._unusable = str(error)
                self._news.set()
                self._start()
            raise HistoryUnreadable(f"the history {self._path} cannot be read: {error}") from error
        return [data for (data,) in reversed(rows)], oldest

    def close(self) -> None:
        """Write what is queued, for at most two seconds. Nothing is written afterwards."""
        self._closing.set()
        self._news.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_TIME)
        elif self._connection is not None:
            self._disconnect()

    # The writing thread -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock, suppress(RuntimeError):  # no thread can be started: the next row tries again
            if self._thread is None and not self._closing.is_set():
                thread = threading.Thread(target=self._run, name="history", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        over = False
        while not over:
            self._news.wait(PRUNE_INTERVAL)
            # To wake for each row would cost the thread that serves requests more than the row itself.
            self._closing.wait(RETRY if self._failing else GATHER)
            self._news.clear()  # what comes from now on sets it again
            over, count = self._closing.is_set(), len(self._queue)
            batch = [self._queue.popleft() for _ in range(count if over else min(count, BATCH))]
            if count > BATCH:
                self._news.set()
            try:
                self._store_or_begin_anew(batch)
                batch = []
                self._prune()
                self._succeeded()
            except (sqlite3.Error, OSError) as error:
                self._lost += len(batch)
                self._unusable = str(error) if _is_corrupt(error) else ""
                self._failed(error)
                self._disconnect()  # what SQLite knows of a file that it could not write may be wrong
        self._disconnect()
        if self._lost > self._told:
            log.warning("the history %s has lost %d rows", self._path, self._lost)

    def _store_or_begin_anew(self, batch: list[tuple[Callable[[Any], Iterable[Row]], Any]]) -> None:
        """Store a batch, in a new file if this one is corrupt."""
        try:
            self._store(batch)
        except sqlite3.Error as error:
            if not _is_corrupt(error):
                raise
            self._unusable = str(error)
            self._store(batch)

    def _store(self, batch: list[tuple[Callable[[Any], Iterable[Row]], Any]]) -> None:
        """Store a batch, all of it or nothing."""
        if self._unusable or not self._is_there():
            self._disconnect()
        if self._unusable:
            self._set_aside(self._unusable)
        connection = self._connection or self._connect()
        if not batch:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for row in _rows(batch):
                # Each of these lets other threads run, so none waits for the whole batch.
                connection.execute(_INSERT[row.kind], row[1:])
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            raise

    def _failed(self, error: Exception) -> None:
        """Log, once, that nothing can be stored now. It is tried again."""
        if not self._failing:
            log.warning("cannot write the history %s, and rows are lost: %s", self._path, error)
        self._failing = True

    def _succeeded(self) -> None:
        if self._failing:
            self._failing, self._told = False, self._lost
            log.warning("the history %s is written again; %d rows have been lost", self._path, self._lost)

    def _connect(self) -> sqlite3.Connection:
        """Open the file. One that is no history of this version is renamed, and a new one begins. Raise if neither is possible."""
        try:
            self._connection = _writer(self._path)
        except _Unusable as error:
            self._set_aside(str(error))
            self._connection = _writer(self._path)
        self._opened = self._path.stat()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # such as a full disk, which the log has told of
                connection.close()

    def _set_aside(self, why: str) -> None:
        """Rename the file, with its write-ahead log, which may have what the file lacks."""
        self._unusable = ""
        aside = self._path.with_name(f"{self._path.name}.bad")
        log.warning("renamed %s to %s and started with an empty history: %s", self._path, aside.name, why)
        for end in ("-wal", "-shm"):
            aside.with_name(aside.name + end).unlink(missing_ok=True)
        for end in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self._path.with_name(self._path.name + end).replace(aside.with_name(aside.name + end))

    def _is_there(self) -> bool:
        """Whether the file has been neither deleted nor replaced since it was opened."""
        with suppress(FileNotFoundError):
            return self._opened is not None and os.path.samestat(self._opened, self._path.stat())
        return False

    def _prune(self) -> None:
        """Delete rows that are too old, and the oldest ones of a file that is too large."""
        connection, now = self._connection, time.monotonic()
        if connection is None:
            return
        if not self._pruned or now - self._pruned >= PRUNE_INTERVAL:
            before = time.time() - self.settings.days * _DAY
            for kind in Kind:
                old = f"SELECT id FROM {kind} WHERE time < ? ORDER BY time LIMIT {_CHUNK}"  # noqa: S608 — of constants
                while connection.execute(f"DELETE FROM {kind} WHERE id IN ({old})", (before,)).rowcount == _CHUNK:  # noqa: S608
                    pass
            self._pruned = now
        while _used(connection) > self._limit:
            # Of the kind with the most rows, so that many requests do not push out the few switches.
            count, first, kind = max((*_span(connection, kind), kind) for kind in Kind)
            if not count:
                break
            connection.execute(f"DELETE FROM {kind} WHERE id < ?", (first + min(_CHUNK, 1 + count // 10),))  # noqa: S608
        beyond = _number(connection, "page_count") - self._limit // _number(connection, "page_size")
        if beyond > 0:
            connection.executescript(f"PRAGMA incremental_vacuum({beyond})")  # `execute` would free one page only


def is_history(path: Path) -> bool:
    """Whether a file is a SQLite database. Raise OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def history_at(path: Path, days: int, size: int) -> HistorySettings:
    """Return settings with a path that a user has named. Raise ValueError if something else is there, which would be renamed."""
    try:
        foreign = is_foreign(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    if foreign:
        raise ValueError(f"{path} is no history of hotseat; allowed: a file that does not exist yet, a history, or off")
    return HistorySettings(path.absolute(), days, size)


def is_foreign(path: Path) -> bool:
    """Whether something is there that is no history of any version, corrupt or not. Raise OSError if it cannot be read."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return False
    if not is_history(path):
        return True
    try:
        with closing(_reader(path)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return False
    return bool(tables) and not tables.issuperset(Kind)


def trace_lines(path: Path) -> Iterator[str]:
    """Yield the requests of a history as lines of a request log, for the simulation. Raise HistoryUnreadable if it has none.

    The hotseat that writes it may run.
    """
    try:
        with closing(_reader(path)) as connection:
            if (version := _number(connection, "user_version")) != VERSION:
                raise HistoryUnreadable(f"it is no history of version {VERSION}: its version is {version}")
            for model, data in connection.execute(f"SELECT model, data FROM {Kind.REQUESTS} ORDER BY id"):  # noqa: S608
                row = json.loads(data)
                kept = {name: row[name] for name in ("waited", "seconds", "status", "priority")}
                yield json.dumps({"time": row["arrived_at"], "model": model, **kept})
    except sqlite3.Error as error:
        raise HistoryUnreadable(str(error)) from error


class _Unusable(Exception):
    """The file is no history of this version. The message says what it is."""


def _writer(path: Path) -> sqlite3.Connection:
    """Open the file, or create it with its tables. Raise _Unusable if it is something else."""
    make_directory(path.parent)  # it may have been deleted
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite would let others read it
    connection = sqlite3.connect(path, timeout=_BUSY_TIME, isolation_level=None, check_same_thread=False)
    try:
        if _number(connection, "schema_version") == 0:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before there is a table
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
        elif (version := _number(connection, "user_version")) != VERSION:
            raise _Unusable(f"its version is {version}; this hotseat reads version {VERSION}")  # noqa: TRY301
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_SIZE // 2 // _number(connection, 'page_size')}")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_SIZE}").fetchall()
    except (sqlite3.Error, _Unusable) as error:
        connection.close()
        if _is_corrupt(error):
            raise _Unusable(str(error)) from error
        raise
    return connection


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_BUSY_TIME)


def _rows(batch: Iterable[tuple[Callable[[Any], Iterable[Row]], Any]]) -> Iterator[Row]:
    """Yield the rows of all items but those that cannot be encoded, which is a bug, and those that would push out many others."""
    for encode, item in batch:
        try:
            yield from [row for row in encode(item) if len(row.data) <= MAX_ROW]
        except Exception:
            log.exception("a row of the history cannot be encoded")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(found)


def _used(connection: sqlite3.Connection) -> int:
    """Return the bytes of the file that are in use."""
    pages = _number(connection, "page_count") - _number(connection, "freelist_count")
    return pages * _number(connection, "page_size")


def _span(connection: sqlite3.Connection, kind: Kind) -> tuple[int, int]:
    """Return about how many rows there are of a kind, and the id of the first. To count them would take long."""
    first, last = connection.execute(f"SELECT min(id), max(id) FROM {kind}").fetchone()  # noqa: S608
    return (0, 0) if first is None else (last - first + 1, first)


def _is_corrupt(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
