"""Demand and residency as they travel: JSON on a cluster's wire, and back.

Times inside a process are seconds on its own monotonic clock; on the wire they are UTC, so that two machines can compare them
as well as their clocks agree. A signature shows that a router of ours sent a snapshot: HMAC-SHA256 over its canonical JSON.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from hotseat.api.types import Json
from hotseat.api.units import format_time
from hotseat.core.messages import Demand, InstanceState, QueuedDemand, Refusal, Residency, Resident, Transition
from hotseat.core.scheduler.history import STEPS, Estimate, Eviction, Switch
from hotseat.core.scheduler.stats import ModelStats, StatsByModel

LARGEST = 2**53  # seconds or bytes that are believed: sums of them are finite, and JSON has them exactly


@cache
def _offset() -> float:
    """Seconds from this process's monotonic clock to UTC: one value, so that the same moment is always written the same."""
    return time.time() - time.monotonic()


def to_rfc3339(moment: float) -> str:
    """Write a time of this process's monotonic clock as RFC 3339."""
    return format_time(moment + _offset())


def from_rfc3339(text: str) -> float:
    """Read such a time onto this process's monotonic clock."""
    return datetime.fromisoformat(text).timestamp() - _offset()


def demand_to_json(workspace: str, demand: Demand) -> Json:
    """Write a snapshot."""
    waiting = {
        model: {
            "count": w.count,
            "oldest": to_rfc3339(w.oldest),
            "priority": w.priority,
            **({"tenants": dict(w.tenants)} if w.tenants else {}),
            **({"deadline": to_rfc3339(w.deadline)} if w.deadline is not None else {}),
        }
        for model, w in demand.waiting.items()
    }
    return {
        "workspace": workspace,
        "router": demand.router,
        "seq": demand.seq,
        "seen_epoch": demand.seen_epoch,
        "waiting": waiting,
        "in_flight": dict(demand.in_flight),
        "served": dict(demand.served),
        "closing": dict(demand.closing),
        "requested": list(demand.requested),
        "wanted": {model: to_rfc3339(since) for model, since in demand.wanted.items()},
    }


def demand_from_json(data: Any) -> tuple[str, Demand]:
    """Read a snapshot and the Workspace that it is about. ValueError: it is none."""
    try:
        waiting = {
            str(model): QueuedDemand(
                int(w["count"]),
                from_rfc3339(w["oldest"]),
                int(w["priority"]),
                _counts(w.get("tenants") or {}),
                from_rfc3339(w["deadline"]) if w.get("deadline") else None,
            )
            for model, w in data["waiting"].items()
        }
        demand = Demand(
            str(data["router"]),
            int(data["seq"]),
            int(data["seen_epoch"]),
            waiting,
            _counts(data["in_flight"]),
            _counts(data["served"]),
            _counts(data["closing"]),
            tuple(str(model) for model in data["requested"]),
            {
                str(model): from_rfc3339(since) for model, since in (data.get("wanted") or {}).items()
            },  # of routers that have it
        )
        return str(data["workspace"]), demand
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no snapshot of demand: {error!r}") from error


def _counts(data: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in data.items()}


def sign(key: bytes, data: Any) -> str:
    """Sign JSON data, however it is spelt."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    return hmac.new(key, canonical, hashlib.sha256).hexdigest()


def signed(key: bytes, data: Any, signature: str) -> bool:
    """Whether that key made this signature. In constant time."""
    return hmac.compare_digest(sign(key, data), signature)


def residency_to_status(residency: Residency) -> Json:
    """Write who holds what, as fields of a Workspace's status. Fields that have no value are null, so that a merge removes them."""
    return {
        "epoch": residency.epoch,
        "residents": [
            {
                "model": r.model,
                "instance": r.instance,
                "state": r.state.value,
                "epoch": r.epoch,
                **({"since": to_rfc3339(r.since)} if r.since else {}),
                **({"address": r.address} if r.address else {}),
                **({"leaving": r.leaving} if r.leaving else {}),
                **({"devices": list(r.devices)} if r.devices else {}),
                **({"memory": r.memory} if r.memory is not None else {}),
                **({"story": [_step_to_json(step) for step in r.story]} if r.story else {}),
            }
            for r in residency.residents
        ],
        "refusals": [
            {
                "model": model,
                "epoch": r.epoch,
                "code": r.code,
                "message": r.message,
                **({"retryAt": to_rfc3339(r.retry_at)} if r.retry_at is not None else {}),
                **({"waits": True} if r.waits else {}),
            }
            for model, r in residency.refusals.items()
        ],
        "effectiveMaxWait": None if residency.effective_max_wait is None else round(residency.effective_max_wait, 3),
        "outlook": [{"model": model, "seconds": round(seconds, 3)} for model, seconds in residency.outlook.items()],
        "outlookAt": to_rfc3339(residency.at) if residency.outlook else None,
    }


def residency_from_status(status: Mapping[str, Any]) -> Residency:
    """Read who holds what."""
    residents = tuple(
        Resident(
            r["model"],
            r["instance"],
            InstanceState(r["state"]),
            r["epoch"],
            from_rfc3339(r["since"]) if r.get("since") else 0.0,
            r.get("address"),
            r.get("leaving"),
            tuple(r.get("devices") or ()),
            r.get("memory"),
            tuple(_step_from_json(step) for step in r.get("story") or ()),
        )
        for r in status.get("residents") or ()
    )
    refusals = {
        r["model"]: Refusal(
            r["epoch"],
            r["code"],
            r["message"],
            from_rfc3339(r["retryAt"]) if r.get("retryAt") else None,
            waits=bool(r.get("waits")),
        )
        for r in status.get("refusals") or ()
    }
    return Residency(
        status.get("epoch", 0),
        residents,
        refusals,
        status.get("effectiveMaxWait"),
        {each["model"]: each["seconds"] for each in status.get("outlook") or ()},
        from_rfc3339(status["outlookAt"]) if status.get("outlookAt") else 0.0,
    )


def _step_to_json(step: Transition) -> Json:
    before, after = step.before, step.after
    ends = {**({"from": before.value} if before else {}), **({"to": after.value} if after else {})}
    return {"at": to_rfc3339(step.at), **ends, "why": step.why}


def _step_from_json(data: Json) -> Transition:
    before, after = data.get("from"), data.get("to")
    return Transition(
        from_rfc3339(data["at"]),
        InstanceState(before) if before else None,
        InstanceState(after) if after else None,
        data.get("why") or "",
    )


def switch_to_json(switch: Switch) -> Json:
    """Write a switch for people, with what it takes to read it back."""
    return {
        "id": switch.id,
        "from": list(switch.leaving),
        "to": switch.to,
        "reason": switch.reason,
        "outcome": switch.outcome,
        "message": switch.message,
        "waiting": switch.waiting,
        "startedAt": to_rfc3339(switch.decided),
        **({"endedAt": to_rfc3339(switch.ended)} if switch.ended is not None else {}),
        "phases": switch.phases(),
    }


def switch_from_json(workspace: str, data: Mapping[str, Any]) -> Switch:
    """Read a switch, as far as people see it: its phases are what they were."""
    switch = _RecordedSwitch(
        data["id"],
        workspace,
        data["to"],
        data["reason"],
        from_rfc3339(data["startedAt"]),
        from_rfc3339(data["startedAt"]),
        data["waiting"],
        {name: Eviction(name) for name in data["from"]},
        ended=from_rfc3339(data["endedAt"]) if data.get("endedAt") else None,
        outcome=data["outcome"],
        message=data.get("message", ""),
    )
    switch.told = dict(data["phases"])
    return switch


def lessons_to_json(lessons: StatsByModel) -> list[Json]:
    """Write what was learned of models, so that the next switcher begins with it."""
    return [
        {
            "model": model,
            "mark": lesson.mark,
            **{step: {"mean": round(e.mean, 4), "spread": round(e.spread, 4)} for step, e in lesson.times.items()},
            **({} if lesson.memory is None else {"memory": lesson.memory}),
            **({} if lesson.parked_memory is None else {"parkedMemory": lesson.parked_memory}),
        }
        for model, lesson in lessons.items()
    ]


def lessons_from_json(rows: Any) -> dict[str, ModelStats]:
    """Read it. ValueError: it is none of that."""
    try:
        return {str(row["model"]): _lesson(row) for row in rows}
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no lessons: {error!r}") from error


def _lesson(row: Mapping[str, Any]) -> ModelStats:
    times = {step: Estimate(_amount(row[step]["mean"]), _amount(row[step]["spread"])) for step in STEPS if step in row}
    memory, parked = (int(_amount(row[key])) if key in row else None for key in ("memory", "parkedMemory"))
    return ModelStats(str(row["mark"]), times, memory, parked)


def _amount(value: Any) -> float:
    """Take a number that can be seconds or bytes; ValueError: it cannot."""
    if not 0 <= (amount := float(value)) <= LARGEST:
        raise ValueError(f"no amount: {value!r}")
    return amount


class _RecordedSwitch(Switch):
    """A switch that another process made."""

    told: dict[str, float]

    def phases(self) -> dict[str, float]:
        return self.told
