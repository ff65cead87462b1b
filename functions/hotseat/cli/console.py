"""Output of `hotseat up`: a banner, a line for each switch and failure, and a live line with the current activity.

A separate thread writes, so that a stopped terminal (Ctrl-S) or a full pipe never blocks a switch. If the reader is too
slow, lines are dropped.
"""

import atexit
import json
import queue
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import click

from hotseat import __version__
from hotseat.cli.events import Activity, Event, clock, failure, kind, line, outgrown, passage, phases, subject
from hotseat.cli.terminal import REDRAW, LiveLine, is_live, table, took

BACKLOG = 1000  # queued lines
CLOSE_TIMEOUT = 1.0  # seconds that close() waits for queued lines
FETCH_LOG = 10.0  # seconds between two log lines about one download, without a live line

ModelRow = tuple[str, str, Sequence[str], str]  # name, engine, its other names, state


def chat_hints(url: str, model: str, *, with_key: bool = False) -> list[str]:
    """Return commands to try with a model that can chat."""
    there = "" if url == "http://127.0.0.1:8000" else f" --url {url}"
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
    return [_curl(f"{url}/v1/chat/completions", body, with_key=with_key), f"hotseat{there} chat {shlex.quote(model)}"]


def embedding_hints(url: str, model: str, *, with_key: bool = False) -> list[str]:
    """Return commands to try with an embedding model."""
    return [_curl(f"{url}/v1/embeddings", {"model": model, "input": "Hello!"}, with_key=with_key)]


def _curl(url: str, body: dict[str, Any], *, with_key: bool) -> str:
    key = ' -H "Authorization: Bearer $HOTSEAT_API_KEY"' if with_key else ""
    return f"curl {url}{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


class Console:
    """Output of `hotseat up` on one stream: text for people, or one JSON object per line.

    Its methods return immediately, can be called from any thread, and never raise. It can be created before a
    fork: the writing thread starts with the first line in each process.
    """

    def __init__(self, stream: TextIO, json_lines: bool, color: bool) -> None:
        self._stream = stream
        self._json = json_lines
        self._color = color
        self._live = is_live(stream) and not json_lines
        self._line = LiveLine(stream)
        self._activity = Activity()
        self._waited: dict[str, int] = {}  # by switch: queued requests at its start
        self._printed: dict[str, str] = {}  # by model: the last printed failure, which events of switches repeat
        self._fetched: dict[str, float] = {}  # by model: time of the last log line about its download
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(BACKLOG)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def banner(
        self, url: str, models: Sequence[ModelRow], workspaces: Sequence[tuple[str, int | None]], hints: Sequence[str]
    ) -> None:
        """Print the address, the models, the GPUs of each Workspace (None: not counted), and commands to try."""
        self._enqueue(lambda: self._banner(url, models, workspaces, hints))

    def event(self, cloudevent: Event) -> None:
        """Print a switch or a failure, and update the live line for other events."""
        self._enqueue(lambda: self._event(cloudevent))

    def log(self, message: str) -> None:
        """Print another message."""
        now = datetime.now(UTC).isoformat()
        self._enqueue(lambda: self._write({"time": now}, "info", message, f"{clock({'time': now})}  {message}"))

    def close(self) -> None:
        """Write queued lines for at most a second, and erase the live line. Also called at exit."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=CLOSE_TIMEOUT)
                thread.join(CLOSE_TIMEOUT)

    def _enqueue(self, write: Callable[[], None]) -> None:
        with suppress(queue.Full, RuntimeError):  # RuntimeError: no thread can be started at exit
            self._queue.put_nowait(write)
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="console", daemon=True)
                    self._thread.start()
                    atexit.register(self.close)

    def _run(self) -> None:
        busy = ""
        while True:
            try:
                write = self._queue.get(timeout=REDRAW if busy else None)
            except queue.Empty:
                write = _nothing
            with suppress(Exception):  # a line that fails is dropped
                if write is None:
                    if self._live:
                        self._line.show("")
                    return
                write()
                busy = self._activity.text(time.monotonic()) if self._live else ""
                if self._live:
                    self._line.show(busy)

    def _banner(
        self, url: str, models: Sequence[ModelRow], workspaces: Sequence[tuple[str, int | None]], hints: Sequence[str]
    ) -> None:
        columns = ("name", "engine", "other_names", "state")
        rows = [(name, engine, list(others), state) for name, engine, others, state in models]
        known = {
            "url": url,
            "version": __version__,
            "models": [dict(zip(columns, row, strict=True)) for row in rows],
            "workspaces": [{"name": name, "gpus": gpus} for name, gpus in workspaces],
        }
        listed = table(["MODEL", "ENGINE", "STATE", "OTHER-NAMES"], [(n, e, s, ",".join(a)) for n, e, a, s in rows])
        capacities = ", ".join(f"{name} ({_capacity(gpus)})" for name, gpus in workspaces)
        text = "\n".join(
            [
                f"{self._styled(f'hotseat {__version__}', bold=True)} at {self._styled(url, bold=True)}, workspace {capacities}",
                "",
                *(f"  {row}" for row in listed.split("\n")),
                "",
                *(["Try:", *(f"  {hint}" for hint in hints), ""] if hints else []),
                "Ctrl-C lets requests in flight finish and stops; a second Ctrl-C stops immediately.",
                "",
            ]
        )
        self._write({"time": datetime.now(UTC).isoformat(), **known}, "info", f"hotseat is up at {url}", text)

    def _event(self, event: Event) -> None:
        what = kind(event)
        self._activity.update(event, time.monotonic())
        text = self._line_for(what, event)
        if self._json and not self._is_too_frequent(what, event):
            level = "error" if what.endswith(".failed") else "info"
            message = " ".join(line(event).split()[1:])
            self._write({"time": event.get("time")}, level, message, "", event=dict(event))
        elif text and not self._json:
            self._line.print(text)

    def _is_too_frequent(self, what: str, event: Event) -> bool:
        """Whether an event is too frequent for a log: demand, and progress of a download that was just reported."""
        if what == "model.fetching":
            model, now = subject(event), time.monotonic()
            if now - self._fetched.get(model, -FETCH_LOG) < FETCH_LOG:
                return True
            self._fetched[model] = now
        return what == "demand.reported"

    def _line_for(self, what: str, event: Event) -> str:
        """Return the lines for an event. Empty if only the live line shows it."""
        data, at = event.get("data") or {}, clock(event)
        match what:
            case "switch.started":
                self._waited[str(data.get("switch"))] = int(data.get("waiting") or 0)
                self._printed.pop(str(data.get("to")), None)
            case "switch.completed":
                waited = self._waited.pop(str(data.get("switch")), 0)
                word, models = passage(data)
                extra = f"  ({waited} waited)" if waited else ""
                return f"{at}  {self._styled(f'{word:<6}', fg='green')}  {models}   {phases(data)}{extra}"
            case "switch.failed" | "switch.cancelled":
                self._waited.pop(str(data.get("switch")), 0)
                word, models = passage(data)
                why = self._once(str(data.get("to") or ""), failure({**data, "reason": data.get("code")}))
                end = self._styled("failed", fg="red") if what == "switch.failed" else "cancelled"
                return f"{at}  {end}  {models}   while in {data.get('phase', '?')}: {why}"
            case "model.failed":
                model, again = subject(event), data.get("retry_after")
                first, _, log = self._once(model, failure(data)).partition("\n")
                rest = f"  (next try in {took(again)})" if again else ""
                return f"{at}  {self._styled('failed', fg='red')}  {model}{rest}   {first}" + (
                    f"\n{log}" if log else ""
                )
            case "model.outgrown":
                return f"{at}  {self._styled('grown ', fg='yellow')}  {subject(event)}   {outgrown(data)}"
            case "model.cached":
                return f"{at}  {'cached':<6}  {subject(event)}"
        return ""

    def _once(self, model: str, why: str) -> str:
        """Return a failure with the engine's last lines indented below, unless they were printed already."""
        first, _, log = why.partition("\n")
        if not log or self._printed.get(model) == log:
            return first
        self._printed[model] = log
        return "\n".join([first, *(f"          | {row}" for row in log.split("\n"))])

    def _write(self, head: dict[str, Any], level: str, message: str, text: str, **more: Any) -> None:
        if self._json:
            entry = {**head, "level": level, "message": message, **more}
            text = json.dumps(entry, ensure_ascii=False, default=str)
        self._line.print(text)

    def _styled(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self._color else text


def _nothing() -> None:
    """Do nothing: only the live line is redrawn."""


def _capacity(gpus: int | None) -> str:
    if gpus is None:
        return "limited by groups"
    return f"{gpus} GPU{'' if gpus == 1 else 's'}"
