"""Logs on standard error, and the request log: one JSON line for each request that ended."""

import atexit
import errno
import json
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from hotseat.api.units import format_time
from hotseat.core.messages import message
from hotseat.private_files import opener
from hotseat.telemetry.answer_figures import NO_FIGURES, AnswerSample

log = logging.getLogger(__name__)


TRACE_IDS = ("trace_id", "span_id")  # of the traced request that a record concerns: attributes of the record (`extra`)


class TextLines(logging.Formatter):
    """Formats each record as one line, with the trace that it concerns at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 — its name in the library
        """Return the line for a record without its exception."""
        ids = [f" {name}={value}" for name in TRACE_IDS if (value := getattr(record, name, None))]
        return super().formatMessage(record) + "".join(ids)


class JsonLines(logging.Formatter):
    """Formats each record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record; an exception has its own field."""
        line = {
            "time": format_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: ids for name in TRACE_IDS if (ids := getattr(record, name, None))},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(level: str, *, json_lines: bool) -> None:
    """Log records from `level` on to standard error. Call this once in a serving process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


STDOUT = "-"
GATHER = 0.05  # seconds in which lines gather
MAX_QUEUED = 10_000  # lines that may wait for a slow disk
CLOSE_TIME = 2.0  # seconds that close() waits for the last lines


@message
class RequestRecord:
    """One ended request for a Model that exists."""

    arrived: float  # seconds since 1970
    model: str
    route: str
    waited: float | None  # seconds from its arrival until its dispatch; None: it was not dispatched
    seconds: float  # from its arrival until its end
    status: int  # of the response; 499: the client disconnected
    priority: int = 0
    tenant: str | None = None
    wanted: str | None = None  # the requested Model, if another Model answered
    switch: float | None = None  # seconds of `waited` in which its Model was switched to; None: it did not wait
    ttft: float | None = None  # seconds from its arrival until the first bytes of a stream; None: it is none
    sample: AnswerSample | None = None  # None: no engine has answered
    number: int = 0  # of the request, in this process
    kept_prompts: bool = False  # it waited for a switch after which its engine had prompts of before
    retries: int = 0  # how often it was sent again to a server of an external Model
    trace_id: str | None = None  # None: it is not traced

    def measured(self) -> dict[str, int | float | None]:
        """Return the times and tokens of its answer, by their names in the log. Call it off the event loop."""
        figures = NO_FIGURES if self.sample is None else self.sample.figures
        speed, tokens = figures.per_second, figures.completion
        if speed is None and self.ttft is not None and tokens is not None and tokens > 1 and self.seconds > self.ttft:
            speed = (tokens - 1) / (self.seconds - self.ttft)
        return {
            "switch_seconds": None if self.switch is None else round(self.switch, 4),
            "ttft": None if self.ttft is None else round(self.ttft, 4),
            "prompt_tokens": figures.prompt,
            "cached_tokens": figures.cached,
            "completion_tokens": tokens,
            "tokens_per_second": None if speed is None else round(speed, 2),
        }

    def line(self) -> str:
        """Return the line of the log: a JSON object."""
        waited = "null" if self.waited is None else round(self.waited, 4)
        more = "" if self.tenant is None else f', "tenant": {_quoted(self.tenant)}'
        more += "" if self.wanted is None else f', "wanted": {_quoted(self.wanted)}'
        more += f', "retries": {self.retries}' if self.retries else ""
        more += "" if self.trace_id is None else f', "trace_id": "{self.trace_id}"'
        more += "".join([f', "{name}": {value}' for name, value in self.measured().items() if value is not None])
        second = int(self.arrived)
        return (
            f'{{"time": "{_second(second)}.{int(1000 * (self.arrived - second)):03}Z", '
            f'"model": {_quoted(self.model)}, "route": {_quoted(self.route)}, '
            f'"waited": {waited}, "seconds": {round(self.seconds, 4)}, "status": {self.status}, '
            f'"priority": {self.priority}{more}}}\n'
        )


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return format_time(seconds, "seconds").removesuffix("Z")


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class RequestLog:
    """Appends to a file, or to standard output (`-`).

    Lines have no content of requests or responses, and no keys. `hotseat simulate --trace` reads them;
    docs/simulate.md describes the fields.

    It has its own thread, so that a slow disk does not delay requests. A file that was moved away
    is created again, so that log rotation needs no signal. Lines that cannot be written are lost,
    which is logged.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._records: list[RequestRecord] = []  # that wait to be written
        self._news = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._file: BinaryIO | None = None
        self._lost = 0
        self._cut = b""  # the rest of a line of which a part was written

    def write(self, record: RequestRecord) -> None:
        """Queue a line; returns at once and never raises."""
        if len(self._records) >= MAX_QUEUED:
            self._lost += 1
            return
        self._records.append(record)
        if not self._news.is_set():
            self._news.set()
        if self._thread is None:
            with self._lock, suppress(RuntimeError):  # no thread can be started: the next line tries again
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="request-log", daemon=True)
                    thread.start()
                    self._thread = thread
                    atexit.register(self.close)

    def close(self) -> None:
        """Write what is queued, for at most two seconds. Nothing is written afterwards."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._closed = True
            self._news.set()
            thread.join(CLOSE_TIME)
            if self._file is not None and not thread.is_alive():
                self._file.close()

    def _run(self) -> None:
        failed = over = False
        while not over:
            self._news.wait()
            if not self._closed:
                # To wake for each line would cost the thread that serves requests more than the line itself.
                time.sleep(GATHER)
            self._news.clear()  # what comes from now on sets it again
            over = self._closed
            records = self._records[:]
            del self._records[: len(records)]
            try:
                self._append("".join([record.line() for record in records]).encode())
                failed = False
            except OSError as error:
                if not failed:
                    log.warning("cannot write the request log %s, and lines are lost: %s", self._path, error)
                failed = True
        if lost := self._lost + bool(self._cut):
            log.warning("the request log %s has lost %d lines", self._path, lost)

    def _append(self, lines: bytes) -> None:
        """Append lines, after the rest of a line that was cut. Raise OSError if some are lost."""
        try:
            file = self._open()
        except OSError:
            self._lost += lines.count(b"\n")
            raise
        data, at, within = self._cut + lines, 0, bool(self._cut)
        try:
            while at < len(data):  # a disk that is nearly full, or a pipe, takes a part
                written = file.write(data[at:])
                if written is None:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                at += written
                within = not data.endswith(b"\n", 0, at)
        finally:
            end = data.index(b"\n", at) + 1 if within else at
            self._cut = data[at:end]
            self._lost += data.count(b"\n", end)

    def _open(self) -> BinaryIO:
        """Return the open file; open it again if it was moved or deleted."""
        if self._file is not None and self._path != STDOUT and not _is_same_file(self._file, self._path):
            self._file.close()
            self._file = None
        if self._file is None:
            self._cut = b""
            path = os.dup(sys.stdout.fileno()) if self._path == STDOUT else self._path
            self._file = open(path, "ab", buffering=0, opener=opener)  # noqa: SIM115 - it stays open
        return self._file


def _is_same_file(file: BinaryIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))  # noqa: PTH116 - the counterpart of fstat
    except FileNotFoundError:
        return False
