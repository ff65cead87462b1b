"""The CloudEvents of hotseat: one row a type. docs/events.md is made from this table, and a test compares the two."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

PREFIX = "dev.hotseat."
_REPLICA = re.compile(r"#[0-9]+$")


@dataclass(frozen=True, slots=True)
class EventType:
    """An event type: its meaning, and the fields of its data."""

    type: str
    meaning: str
    data: Mapping[str, str]


_SWITCH = {
    "switch": "ID of the switch",
    "workspace": "Workspace",
    "from": "models that are evicted",
    "to": "model that is loaded",
    "reason": "reason",
}
_PHASES = {
    "phases": "duration in seconds of wait (oldest request until the decision), drain, save, release, load, restore and "
    "total (decision until ready); without save and restore if no prompt cache was saved or restored"
}
_ENDED = {"phase": "drain, release or load", "code": "reason in CamelCase", "message": "description"}

EVENT_TYPES: Mapping[str, EventType] = {
    kind.type: kind
    for kind in (
        EventType(
            "switch.requested",
            "Requests are queued for a model that is not resident.",
            {
                "model": "model",
                "workspace": "Workspace",
                "waiting": "number of queued requests",
                "router": "ID of the router",
            },
        ),
        EventType(
            "switch.started",
            "A switch has been decided.",
            {**_SWITCH, "waiting": "number of queued requests for the model"},
        ),
        EventType("switch.completed", "The model is ready.", {**_SWITCH, **_PHASES}),
        EventType(
            "switch.failed",
            "The model did not become ready.",
            {**_SWITCH, **_PHASES, **_ENDED},
        ),
        EventType(
            "switch.cancelled",
            "The switch was cancelled before the model was ready: no request is queued for it any more, another "
            "model goes first, or an operator or a changed document ended it.",
            {**_SWITCH, **_PHASES, **_ENDED},
        ),
        EventType(
            "model.fetching",
            "Weights are being fetched.",
            {
                "done": "bytes",
                "total": "bytes or null",
                "rate": "bytes per second, averaged over 30 seconds, or null",
                "remaining": "seconds left at that rate, or null",
                "message": "progress",
            },
        ),
        EventType("model.cached", "Weights are complete.", {}),
        EventType("model.ready", "The engine answers.", {"instance": "ID of the instance", "seconds": "load time"}),
        EventType(
            "model.released",
            "The instance is verified to be gone.",
            {
                "instance": "ID of the instance",
                "reason": "reason for the release",
                "seconds": "time from the stop until the verification",
            },
        ),
        EventType(
            "model.failed",
            "The model could not be fetched or loaded, did not fall asleep or wake, ended by itself, or its "
            "release could not be verified.",
            {
                "instance": "ID of the instance, or null",
                "reason": "reason in CamelCase",
                "message": "description, with the last lines of the engine's log",
                "retry_after": "backoff in seconds, or null",
            },
        ),
        EventType("model.pinned", "The model is pinned: it is not evicted until it is unpinned.", {}),
        EventType("model.unpinned", "The model can be evicted again.", {}),
        EventType(
            "model.outgrown",
            "The model uses more accelerator memory than its document claims. It is placed by the measured "
            "memory from now on.",
            {"instance": "ID of the instance", "claimed": "bytes that it was placed by until now", "seen": "bytes"},
        ),
        EventType(
            "model.parked",
            "The engine is verified to sleep: the process is kept, the accelerator is free.",
            {
                "instance": "ID of the instance",
                "seconds": "time from the request to sleep until the verification",
                "memory": "bytes of host memory that it holds while parked, or null",
                "keeps_prompts": "whether its prompt cache is there after it wakes, or null if that is not known",
            },
        ),
        EventType(
            "model.woken",
            "A parked engine is back on the accelerator and answers.",
            {"instance": "ID of the instance", "seconds": "time from the request to wake until the engine answered"},
        ),
        EventType(
            "model.prompts_saved",
            "The prompt cache was saved before the engine is stopped.",
            {
                "instance": "ID of the instance",
                "seconds": "time that it took",
                "tokens": "tokens that were saved; unchanged slots are not saved again",
                "bytes": "bytes that were saved",
            },
        ),
        EventType(
            "model.prompts_restored",
            "The prompt cache was restored before the first request.",
            {
                "instance": "ID of the instance",
                "seconds": "time that it took",
                "tokens": "tokens that were restored",
                "bytes": "bytes that were restored",
            },
        ),
        EventType(
            "model.prompts_dropped",
            "A part of the prompt cache is not kept. The switch goes on without it.",
            {
                "instance": "ID of the instance",
                "reason": "reason in CamelCase",
                "message": "description",
                "tokens": "tokens, or 0 if not known",
                "bytes": "bytes, or 0 if not known",
            },
        ),
        EventType(
            "model.upstream_failed",
            "A server of the model (engine external) gets no requests for now: requests to it, or its health checks, have failed.",
            {
                "url": "URL of the server",
                "message": "last failure",
                "retry_after": "seconds until a request is sent to it again, or null: after a health check succeeds",
            },
        ),
        EventType(
            "model.upstream_recovered",
            "A server of the model (engine external) gets requests again.",
            {"url": "URL of the server"},
        ),
        EventType(
            "demand.reported",
            "Demand of a router. At most once a second on one machine.",
            {
                "router": "ID of the router",
                "seq": "sequence number of the snapshot",
                "waiting": "queued requests by model",
                "in_flight": "requests in flight by instance",
            },
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Emit:
    """An event: a key of EVENT_TYPES, the model it is about, and its data."""

    type: str
    subject: str
    data: Mapping[str, Any]


def shown_model_of(name: str) -> str:
    """Return the model of an instance's name: without the number of a replica (`qwen#2`)."""
    return _REPLICA.sub("", name)


def shown_replica_name(name: str, shown: Callable[[str], str]) -> str:
    """Return an instance's name with the shown name of its model. `shown` maps a metadata.name, which has no `#`."""
    model, number, rest = name.partition("#")
    return shown(model) + number + rest


def with_shown_names(emit: Emit, shown: Callable[[str], str]) -> Emit:
    """Return an event with the shown names of models. IDs of instances stay. `shown` maps a metadata.name."""
    data = dict(emit.data)
    for key in ("model", "to"):
        if isinstance(data.get(key), str):
            data[key] = shown(data[key])
    if "from" in data:
        data["from"] = [shown_replica_name(name, shown) for name in data["from"]]
    if isinstance(data.get("waiting"), Mapping):
        data["waiting"] = {shown(model): waiting for model, waiting in data["waiting"].items()}
    return replace(emit, subject=shown(emit.subject) if emit.subject else "", data=data)


def model_failed(model: str, instance: str | None, reason: str, message: str, retry_after: float | None = None) -> Emit:
    """Return the event that a model could not be fetched, loaded, kept or verified to be gone."""
    data = {"instance": instance, "reason": reason, "message": message, "retry_after": retry_after}
    return Emit("model.failed", model, data)


def event_type(kind: str) -> str:
    """Return the full CloudEvents type of a key of EVENT_TYPES."""
    return f"{PREFIX}{kind}.v1"
