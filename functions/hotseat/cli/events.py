"""One line for each CloudEvent, and a summary of current activity."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hotseat.cli.terminal import printable, share, took
from hotseat.core.events import PREFIX, shown_model_of

NEGLIGIBLE = 0.005  # seconds that are printed as 0.00s
PHASES = ("wait", "drain", "release", "load", "total")

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
    text = _FORMATTERS.get(kind(event), _anything)(data)
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
    return f"{share(data.get('done'), data.get('total'))}   {data.get('message') or ''}"


def outgrown(data: Data) -> str:
    """Return what a model uses and what it claims."""
    seen, claimed = share(data.get("seen"), None) or "?", share(data.get("claimed"), None) or "?"
    return f"uses {seen} of accelerator memory, but claims {claimed}"


def _anything(data: Data) -> str:
    return "  ".join(f"{key}={value}" for key, value in data.items())


def failure(data: Data) -> str:
    """Return reason and message of a failure. The message can end with the engine's last lines."""
    reason, message = data.get("reason") or data.get("code") or "", data.get("message") or ""
    return f"{reason}: {message}" if reason and message else str(reason or message)


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
                said = f"fetching  {share(data.get('done'), data.get('total'))}".rstrip()
                self._activities.setdefault(model, _ModelActivity(said, now)).what = said
            case "switch.started":
                leaving = {shown_model_of(seat) for seat in models_of(data.get("from"))}
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
