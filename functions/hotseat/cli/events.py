"""What the command line prints of CloudEvents: one line each, and the console of `hotseat up`."""

import atexit
import json
import queue
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

import click

from hotseat import __version__
from hotseat.cli.terminal import REDRAW, LiveLine, escape_controls, is_live, printable, share, table, took, transfer
from hotseat.core.events import PREFIX, shown_model_of

NEGLIGIBLE = 0.005  # seconds that are printed as 0.00s
PHASES = ("wait", "drain", "save", "release", "load", "restore", "total")

Event = Mapping[str, Any]
Data = Mapping[str, Any]


def kind(event: Event) -> str:
    """Return `switch.completed` for type `dev.hotseat.switch.completed.v1`."""
    return str(event.get("type", "")).removeprefix(PREFIX).rpartition(".v")[0]


def clock(event: Event) -> str:
    """Return the local time of day."""
    try:
        return datetime.fromisoformat(str(event["time"])).astimezone().strftime("%H:%M:%S")
    except (KeyError, ValueError):
        return "--:--:--"


def subject(event: Event) -> str:
    """Return the printable name of the model of an event. Empty if it has none."""
    return printable(str(event.get("subject") or ""))


def models_of(value: Any) -> list[str]:
    """Return the printable names in a field with one name, several or none."""
    return [printable(name) for name in ([value] if isinstance(value, str) else value or ()) if name]


def passage(data: Data) -> tuple[str, str]:
    """Return the kind of a switch and its models: (`switch`, `qwen → gemma`)."""
    old, new = ", ".join(models_of(data.get("from"))), ", ".join(models_of(data.get("to")))
    if old and new:
        return "switch", f"{old} → {new}"
    return ("load", new) if new else ("unload", old)


def phases(data: Data) -> str:
    """Return the durations of the phases: `drain 0.01s  release 0.12s  load 1.31s  total 1.44s`.

    A wait that rounds to zero is left out, and so are drain and release if no model was evicted.
    """
    times = {phase: seconds for phase, seconds in (data.get("phases") or {}).items() if seconds is not None}
    hidden = {"wait"} if times.get("wait", 0) < NEGLIGIBLE else set()
    hidden |= set() if models_of(data.get("from")) else {"drain", "release"}
    return "  ".join(f"{phase} {took(times[phase])}" for phase in PHASES if phase in times.keys() - hidden)


def line(event: Event) -> str:
    """Return one line for an event: `12:31:07  switch.completed   gemma   qwen → gemma   load 1.31s …`."""
    data = event.get("data") or {}
    text = escape_controls(_FORMATTERS.get(kind(event), _anything)(data))
    return f"{clock(event)}  {kind(event):<16}  {subject(event) or '-'}   {' '.join(text.split(chr(10)))}".rstrip()


def _requested(data: Data) -> str:
    return f"{data.get('waiting', '?')} waiting"


def _started(data: Data) -> str:
    return f"{passage(data)[1]}   {data.get('reason') or ''}"


def _completed(data: Data) -> str:
    return f"{passage(data)[1]}   {phases(data)}"


def _switch_failed(data: Data) -> str:
    return f"{passage(data)[1]}   while in {data.get('phase', '?')}: {data.get('message') or data.get('code') or '?'}"


def _ready(data: Data) -> str:
    return f"after {took(data.get('seconds'))}"


def _released(data: Data) -> str:
    return f"{data.get('reason') or ''}   after {took(data.get('seconds'))}"


def _parked(data: Data) -> str:
    return f"{_ready(data)}   {share(data.get('memory'), None)}"


def _model_failed(data: Data) -> str:
    again = data.get("retry_after")
    return failure(data) + (f"   (next try in {took(again)})" if again else "")


def _fetching(data: Data) -> str:
    return f"{transfer(data)}   {data.get('message') or ''}"


def outgrown(data: Data) -> str:
    """Return what a model uses and what it claims."""
    seen, claimed = share(data.get("seen"), None) or "?", share(data.get("claimed"), None) or "?"
    return f"uses {seen} of accelerator memory, but claims {claimed}"


def _upstream(data: Data) -> str:
    again, message = data.get("retry_after"), data.get("message") or ""
    return f"{data.get('url', '?')}   {message}" + (f"   (next try in {took(again)})" if again else "")


def _anything(data: Data) -> str:
    return "  ".join(f"{key}={value}" for key, value in data.items())


def failure(data: Data) -> str:
    """Return reason and message of a failure. The message can end with the engine's last lines."""
    reason, message = data.get("reason") or data.get("code") or "", data.get("message") or ""
    return escape_controls(f"{reason}: {message}" if reason and message else str(reason or message))


_FORMATTERS: Mapping[str, Callable[[Data], str]] = {
    "switch.requested": _requested,
    "switch.started": _started,
    "switch.completed": _completed,
    "switch.failed": _switch_failed,
    "switch.cancelled": _switch_failed,
    "model.ready": _ready,
    "model.released": _released,
    "model.parked": _parked,
    "model.woken": _ready,
    "model.failed": _model_failed,
    "model.fetching": _fetching,
    "model.outgrown": outgrown,
    "model.upstream_failed": _upstream,
    "model.upstream_recovered": _upstream,
}

# Lines for people: a word, its color, and what follows.
_NOTICES: Mapping[str, tuple[str, str, Callable[[Data], str]]] = {
    "model.outgrown": ("grown", "yellow", outgrown),
    "model.upstream_failed": ("failed", "red", _upstream),
    "model.upstream_recovered": ("back", "green", _upstream),
}


@dataclass(slots=True)
class _ModelActivity:
    """Activity of one model, its start on the caller's clock, and the models that have to leave first."""

    what: str
    since: float
    leaving: set[str] = field(default_factory=set)


class Activity:
    """Current activity, from events: models that are waited for, loaded or fetched. Thread-safe."""

    def __init__(self) -> None:
        self._activities: dict[str, _ModelActivity] = {}
        self._lock = threading.Lock()

    def update(self, event: Event, now: float) -> None:
        """Update the activity by an event."""
        with self._lock:
            self._update(kind(event), subject(event), event.get("data") or {}, now)

    def text(self, now: float) -> str:
        """Return a summary in one line. Empty if there is no activity."""
        with self._lock:
            return "   ".join(
                f"{model}  {activity.what}  {now - activity.since:.1f}s" for model, activity in self._activities.items()
            )

    def _update(self, what: str, model: str, data: Data, now: float) -> None:
        match what:
            case "switch.requested":
                self._activities.setdefault(model, _ModelActivity("waiting", now))
            case "model.fetching":
                said = f"fetching  {transfer(data)}".rstrip()
                self._activities.setdefault(model, _ModelActivity(said, now)).what = said
            case "switch.started":
                leaving = {shown_model_of(replica) for replica in models_of(data.get("from"))}
                for coming in models_of(data.get("to")):
                    said = f"waiting for {', '.join(sorted(leaving))} to leave" if leaving else "loading"
                    self._activities[coming] = _ModelActivity(said, now, leaving)
            case "model.released" | "model.parked":
                self._left(model, now)
            case "switch.completed" | "switch.failed" | "switch.cancelled":
                for coming in models_of(data.get("to")):
                    self._activities.pop(coming, None)
            case "model.ready" | "model.woken" | "model.failed" | "model.cached":
                self._activities.pop(model, None)

    def _left(self, model: str, now: float) -> None:
        self._activities.pop(model, None)
        for activity in self._activities.values():
            if model in activity.leaving:
                activity.leaving.discard(model)
                if not activity.leaving:
                    activity.what, activity.since = "loading", now


BACKLOG = 1000  # queued lines
CLOSE_TIMEOUT = 1.0  # seconds that close() waits for queued lines
FETCH_LOG = 10.0  # seconds between two log lines about one download, without a live line

ModelRow = tuple[str, str, Sequence[str], str]  # name, engine, its other names, state


def chat_hints(url: str, model: str, *, with_key: bool = False, ca_file: str = "") -> list[str]:
    """Return commands to try with a model that can chat. `ca_file`: the server's own certificate."""
    there = "" if url == "http://127.0.0.1:8000" else f" --url {url}"
    there += f" --ca-file {shlex.quote(ca_file)}" if ca_file else ""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
    curl = _curl(f"{url}/v1/chat/completions", body, with_key=with_key, ca_file=ca_file)
    return [curl, f"hotseat{there} chat {shlex.quote(model)}"]


def embedding_hints(url: str, model: str, *, with_key: bool = False, ca_file: str = "") -> list[str]:
    """Return commands to try with an embedding model."""
    return [_curl(f"{url}/v1/embeddings", {"model": model, "input": "Hello!"}, with_key=with_key, ca_file=ca_file)]


def _curl(url: str, body: dict[str, Any], *, with_key: bool, ca_file: str) -> str:
    ca = f"--cacert {shlex.quote(ca_file)} " if ca_file else ""
    key = ' -H "Authorization: Bearer $HOTSEAT_API_KEY"' if with_key else ""
    return f"curl {ca}{url}{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


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
        self._enqueue(
            lambda: self._write({"time": now}, "info", message, f"{clock({'time': now})}  {escape_controls(message)}")
        )

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
            case "model.outgrown" | "model.upstream_failed" | "model.upstream_recovered":
                word, color, text = _NOTICES[what]
                return f"{at}  {self._styled(f'{word:<6}', fg=color)}  {subject(event)}   {escape_controls(text(data))}"
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
