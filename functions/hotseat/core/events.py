"""The CloudEvents of hotseat: one row a type. docs/events.md is made from this table, and a test compares the two."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

PREFIX = "dev.hotseat."
_REPLICA = re.compile(r"#[0-9]+$")


@dataclass(frozen=True, slots=True)
class Kind:
    """One event type: what it says, and the fields of its data."""

    type: str
    meaning: str
    data: Mapping[str, str]


_SWITCH = {
    "switch": "id of the switch",
    "workspace": "Workspace",
    "from": "models that leave",
    "to": "model that comes",
    "reason": "why",
}
_PHASES = {
    "phases": "seconds: wait (oldest request until the decision), drain, release, load, total (decision until ready)"
}
_ENDED = {"phase": "drain, release or load", "code": "reason in CamelCase", "message": "what was seen"}

KINDS: Mapping[str, Kind] = {
    kind.type: kind
    for kind in (
        Kind(
            "switch.requested",
            "Requests wait for a model that is not resident.",
            {"model": "model", "workspace": "Workspace", "waiting": "how many wait", "router": "id of the router"},
        ),
        Kind("switch.started", "A switch has been decided.", {**_SWITCH, "waiting": "how many wait for it"}),
        Kind("switch.completed", "The model is ready.", {**_SWITCH, **_PHASES}),
        Kind(
            "switch.failed",
            "The model did not get ready.",
            {**_SWITCH, **_PHASES, **_ENDED},
        ),
        Kind(
            "switch.cancelled",
            "The switch was given up before the model was ready: no request waits for it any longer, another model goes first, or an "
            "operator or a changed document ended it.",
            {**_SWITCH, **_PHASES, **_ENDED},
        ),
        Kind(
            "model.fetching",
            "Weights are being fetched.",
            {"done": "bytes", "total": "bytes or null", "message": "what is going on"},
        ),
        Kind("model.cached", "Weights are there.", {}),
        Kind("model.ready", "The engine answers.", {"holder": "id of the holder", "seconds": "load time"}),
        Kind(
            "model.released",
            "Proof was seen that nothing of the holder is left.",
            {
                "holder": "id of the holder",
                "reason": "why it left",
                "seconds": "time from the order to stop until the proof",
            },
        ),
        Kind(
            "model.failed",
            "It could not be fetched or loaded, did not fall asleep or wake up, ended by itself, or could not be proven gone.",
            {
                "holder": "id of the holder, or null",
                "reason": "CamelCase",
                "message": "with the last lines of the engine's log",
                "retry_after": "seconds of back-off, or null",
            },
        ),
        Kind("model.pinned", "It keeps its seat, whoever else asks for one, until it is unpinned.", {}),
        Kind("model.unpinned", "Others may have its seat again.", {}),
        Kind(
            "model.outgrown",
            "It takes more accelerator memory than its document claims, and is placed by that from now on.",
            {"holder": "id of the holder", "claimed": "bytes, as it was placed by until now", "seen": "bytes"},
        ),
        Kind(
            "model.parked",
            "Proof was seen that the engine sleeps: the process is kept, the accelerator is free.",
            {
                "holder": "id of the holder",
                "seconds": "time from the order to sleep until the proof",
                "memory": "bytes of host memory that it holds meanwhile, or null",
            },
        ),
        Kind(
            "model.woken",
            "A parked engine is back on the accelerator and answers.",
            {"holder": "id of the holder", "seconds": "time from the order to wake until it answered"},
        ),
        Kind(
            "demand.reported",
            "What a router wants; at most once a second on one machine.",
            {
                "router": "id of the router",
                "seq": "number of the snapshot",
                "waiting": "by model",
                "in_flight": "by holder",
            },
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Emit:
    """Something to tell the world: a key of KINDS, the model it is about, its data."""

    type: str
    subject: str
    data: Mapping[str, Any]


def shown_model_of(seat: str) -> str:
    """Give the model of a seat: its name without the number that a replica's has (`qwen#2`)."""
    return _REPLICA.sub("", seat)


def shown_seat(seat: str, shown: Callable[[str], str]) -> str:
    """Name a seat by the name that people see of its model; `shown` gives that for a metadata.name, which has no `#`."""
    model, number, rest = seat.partition("#")
    return shown(model) + number + rest


def with_shown_names(emit: Emit, shown: Callable[[str], str]) -> Emit:
    """Have an event name models as people see them; ids of instances stay. `shown` gives that name for a metadata.name."""
    data = dict(emit.data)
    for key in ("model", "to"):
        if isinstance(data.get(key), str):
            data[key] = shown(data[key])
    if "from" in data:
        data["from"] = [shown_seat(seat, shown) for seat in data["from"]]
    if isinstance(data.get("waiting"), Mapping):
        data["waiting"] = {shown(model): waiting for model, waiting in data["waiting"].items()}
    return replace(emit, subject=shown(emit.subject) if emit.subject else "", data=data)


def model_failed(model: str, holder: str | None, reason: str, message: str, retry_after: float | None = None) -> Emit:
    """Say that a model could not be fetched, loaded, kept or proven gone."""
    data = {"holder": holder, "reason": reason, "message": message, "retry_after": retry_after}
    return Emit("model.failed", model, data)


def event_type(kind: str) -> str:
    """Full CloudEvents type of a key of KINDS."""
    return f"{PREFIX}{kind}.v1"
