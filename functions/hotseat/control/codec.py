"""JSON of demand, residency, switches and statistics, as router and switcher exchange them.

Times in a process are seconds on its monotonic clock. In JSON they are UTC. A signature, HMAC-SHA256 over canonical JSON,
shows that a router with the shared key sent a snapshot.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from math import inf
from typing import Any

from pydantic import ValidationError

from hotseat.api.model import Model
from hotseat.api.types import Json, without_unknown_fields
from hotseat.api.units import format_time
from hotseat.core.messages import (
    Demand,
    InstanceState,
    QueuedDemand,
    Refusal,
    Residency,
    Resident,
    Transition,
    Wait,
    WaitReason,
)
from hotseat.core.scheduler.history import STEPS, Estimate, Eviction, Switch
from hotseat.core.scheduler.stats import ModelStats, StatsByModel

LARGEST = 2**53  # seconds or bytes that are accepted: JSON has them exactly, and sums are finite


@cache
def _offset() -> float:
    """Return the seconds from the monotonic clock to UTC. Cached, so that equal times give equal text."""
    return time.time() - time.monotonic()


def to_rfc3339(moment: float) -> str:
    """Return a time of the monotonic clock as RFC 3339 text."""
    return format_time(moment + _offset())


def from_rfc3339(text: str) -> float:
    """Return an RFC 3339 time as a time of the monotonic clock."""
    return datetime.fromisoformat(text).timestamp() - _offset()


def demand_to_json(workspace: str, demand: Demand) -> Json:
    """Return the JSON of a demand snapshot."""
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
        "quiescing": dict(demand.quiescing),
        "requested": list(demand.requested),
        "wanted": _times_to_json(demand.wanted),
        **({"retries": _times_to_json(demand.retries)} if demand.retries else {}),
        **({"busy_pods": dict(demand.busy_pods)} if demand.busy_pods else {}),
        **({"keep_alive": _keep_alive_to_json(demand.keep_alive)} if demand.keep_alive else {}),
    }


def demand_from_json(data: Any) -> tuple[str, Demand]:
    """Return the Workspace and the demand snapshot. Raise ValueError if DATA is no snapshot."""
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
            _counts(data["quiescing"] if "quiescing" in data else data["closing"]),
            tuple(str(model) for model in data["requested"]),
            _times(data.get("wanted") or {}),  # older routers do not send it, nor what follows
            _counts(data.get("busy_pods") or {}),
            _times(data.get("retries") or {}),
            _keep_alive(data.get("keep_alive") or {}),
        )
        return str(data["workspace"]), demand
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a demand snapshot: {error!r}") from error


def _times_to_json(times: Mapping[str, float]) -> Json:
    return {model: to_rfc3339(at) for model, at in times.items()}


def _times(data: Mapping[str, Any]) -> dict[str, float]:
    return {str(model): from_rfc3339(at) for model, at in data.items()}


def _keep_alive_to_json(said: Mapping[str, tuple[float, float]]) -> Json:
    """Return the JSON of times to stay. `seconds` is null for ever, because JSON has no infinity."""
    return {
        instance: {"seconds": None if seconds == inf else seconds, "at": to_rfc3339(at)}
        for instance, (seconds, at) in said.items()
    }


def _keep_alive(data: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {
        str(instance): (inf if said["seconds"] is None else _amount(said["seconds"]), from_rfc3339(said["at"]))
        for instance, said in data.items()
    }


def _counts(data: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in data.items()}


def sign(key: bytes, data: Any) -> str:
    """Return the signature of JSON data. It does not depend on the formatting."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    return hmac.new(key, canonical, hashlib.sha256).hexdigest()


def signed(key: bytes, data: Any, signature: str) -> bool:
    """Whether SIGNATURE was made with KEY. Takes constant time."""
    # As bytes: it does not compare other characters than ASCII.
    return hmac.compare_digest(sign(key, data).encode(), signature.encode(errors="surrogatepass"))


def residency_to_status(residency: Residency) -> Json:
    """Return a residency as fields of a Workspace's status. Fields without a value are null, so that a merge removes them."""
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
                **({"moreAddresses": list(r.more)} if r.more else {}),
                **({"leaving": r.leaving} if r.leaving else {}),
                **({"devices": list(r.devices)} if r.devices else {}),
                **({"memory": r.memory} if r.memory is not None else {}),
                **({"story": [_transition_to_json(step) for step in r.story]} if r.story else {}),
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


def model_from_row(row: Mapping[str, Any], workspace: str) -> Model:
    """Return a Model as far as a row of its Workspace's status has it. Fields that this version does not know are left out.

    Raise ValidationError if the rest is no Model.
    """
    spec = {**row["spec"], "workspace": workspace}
    if spec.get("engine") == "custom":
        spec["command"] = ["-"]  # the field is required, but not part of the status
    document = {"metadata": {"name": row["name"]}, "spec": spec}
    try:
        return Model.model_validate(document)
    except ValidationError as error:
        return Model.model_validate(without_unknown_fields(document, error))


def residency_from_status(status: Mapping[str, Any]) -> Residency:
    """Return the residency in a Workspace's status."""
    residents = tuple(
        Resident(
            r["model"],
            r["instance"],
            _state(r["state"]),
            r["epoch"],
            from_rfc3339(r["since"]) if r.get("since") else 0.0,
            r.get("address"),
            r.get("leaving"),
            tuple(r.get("devices") or ()),
            r.get("memory"),
            tuple(_transition_from_json(step) for step in r.get("story") or ()),
            tuple(r.get("moreAddresses") or ()),
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


def _state(name: str) -> InstanceState:
    """Return the state of that name; an earlier version wrote `closing` for `quiescing`."""
    return InstanceState.QUIESCING if name == "closing" else InstanceState(name)


def _transition_to_json(transition: Transition) -> Json:
    before, after = transition.before, transition.after
    ends = {**({"from": before.value} if before else {}), **({"to": after.value} if after else {})}
    return {"at": to_rfc3339(transition.at), **ends, "why": transition.why}


def _transition_from_json(data: Json) -> Transition:
    before, after = data.get("from"), data.get("to")
    return Transition(
        from_rfc3339(data["at"]),
        _state(before) if before else None,
        _state(after) if after else None,
        data.get("why") or "",
    )


def switch_to_json(switch: Switch) -> Json:
    """Return the JSON of a switch."""
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
        **({"saved": saved} if (saved := sum(each.saved for each in switch.leaving.values())) else {}),
        **({"restored": switch.restored} if switch.restored else {}),
    }


def switch_from_json(workspace: str, data: Mapping[str, Any]) -> Switch:
    """Return the switch of JSON. Its phases are those of the JSON."""
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
    switch.recorded, switch.restored = dict(data["phases"]), data.get("restored", 0)
    for each in [*switch.leaving.values()][:1]:
        each.saved = data.get("saved", 0)  # of all
    return switch


_REASONS = frozenset(reason.value for reason in WaitReason)


def waits_to_json(waits: Mapping[str, Wait]) -> list[Json]:
    """Return the JSON of why models wait."""
    return [
        {
            "model": model,
            "reason": wait.reason.value,
            "message": wait.message,
            **({"expectedAt": to_rfc3339(wait.expected)} if wait.expected is not None else {}),
            **({"behind": list(wait.behind)} if wait.behind else {}),
        }
        for model, wait in waits.items()
    ]


def waits_from_json(rows: Iterable[Mapping[str, Any]]) -> dict[str, Wait]:
    """Return why models wait, by model. A reason that this version does not know is left out."""
    return {
        row["model"]: Wait(
            WaitReason(row["reason"]),
            row.get("message", ""),
            from_rfc3339(row["expectedAt"]) if row.get("expectedAt") else None,
            tuple(row.get("behind") or ()),
        )
        for row in rows
        if row["reason"] in _REASONS
    }


def stats_to_json(stats: StatsByModel) -> list[Json]:
    """Return the JSON of statistics."""
    return [
        {
            "model": model,
            "mark": each.mark,
            **{step: {"mean": round(e.mean, 4), "spread": round(e.spread, 4)} for step, e in each.times.items()},
            **({} if each.memory is None else {"memory": each.memory}),
            **({} if each.parked_memory is None else {"parkedMemory": each.parked_memory}),
        }
        for model, each in stats.items()
    ]


def stats_from_json(rows: Any) -> dict[str, ModelStats]:
    """Return the statistics of JSON. Raise ValueError if ROWS are no statistics."""
    try:
        return {str(row["model"]): _stats(row) for row in rows}
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not statistics: {error!r}") from error


def _stats(row: Mapping[str, Any]) -> ModelStats:
    times = {step: Estimate(_amount(row[step]["mean"]), _amount(row[step]["spread"])) for step in STEPS if step in row}
    memory, parked = (int(_amount(row[key])) if key in row else None for key in ("memory", "parkedMemory"))
    return ModelStats(str(row["mark"]), times, memory, parked)


def _amount(value: Any) -> float:
    """Return VALUE as seconds or bytes. Raise ValueError if it cannot be either."""
    if not 0 <= (amount := float(value)) <= LARGEST:
        raise ValueError(f"not a number from 0 to {LARGEST}: {value!r}")
    return amount


class _RecordedSwitch(Switch):
    """A switch of another process."""

    recorded: dict[str, float]

    def phases(self) -> dict[str, float]:
        return self.recorded
