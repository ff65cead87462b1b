"""Rows and conditions of statuses. Pure, but for the times of new conditions."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.units import format_time
from hotseat.api.workspace import PromptStorage, Workspace
from hotseat.control.active_model import ActiveModelState
from hotseat.control.codec import switch_to_json, to_rfc3339
from hotseat.control.scheduling_spec import groups_of
from hotseat.core.messages import (
    EXTERNAL_EPOCH,
    FETCH_FAILED,
    CacheObserved,
    CacheState,
    InstanceState,
    Residency,
    Resident,
    Wait,
)
from hotseat.core.policy.api import Capacity
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import ModelStatus

SHOWN_SWITCHES = 20
NOT_COUNTED = Capacity(None)

# Fields of a Model's spec that routers need.
ROUTER_FIELDS: Any = dict.fromkeys((
    "engine", "names", "engine_model_name", "url", "capabilities", "scheduling", "concurrency", "description", "metadata",
    "unlisted", "resources", "fallback", "apis", "response_model_name", "loading", "filters",
    "failover_urls", "retries", "circuit_breaker", "health", "engine_key", "headers", "tls", "mock_response", "allow_mock_response",
), True) | {"lifecycle": {"connect_timeout", "response_start_timeout", "response_start_timeouts"}}  # fmt: skip

PHASES: Mapping[str, str] = {
    "unloaded": "Unloaded",
    "fetching": "Fetching",
    "failed": "Failed",
    InstanceState.LOADING.value: "Loading",
    InstanceState.READY.value: "Ready",
    InstanceState.QUIESCING.value: "Draining",
    InstanceState.DRAINING.value: "Draining",
    InstanceState.RELEASING.value: "Releasing",
    InstanceState.UNPROVEN.value: "ReleaseUnproven",
    InstanceState.PARKING.value: "Parking",
    InstanceState.PARKED.value: "Parked",
    InstanceState.WAKING.value: "Waking",
    InstanceState.SAVING.value: "Saving",
    InstanceState.RESTORING.value: "Restoring",
}


@dataclass(frozen=True, slots=True)
class ModelProblem:
    """What is wrong with a Model: a condition's reason and message. `fatal`: it cannot be loaded."""

    reason: str
    message: str
    fatal: bool = True


def model_rows(
    models: Iterable[Model], rows: Sequence[ModelStatus], origins: Mapping[str, Json] = MappingProxyType({})
) -> list[Json]:
    """Return the rows of Models for routers: state, and the fields that routers need. ORIGINS: see `origin`."""
    known = {row.name: row for row in rows}
    return [
        {
            **_row(known.get(m.name, ModelStatus(m.name, "unloaded"))),
            "spec": _spec_for_routers(m),
            **origins.get(m.name, {}),
        }
        for m in models
    ]


def origin(generation: int | None, created: str) -> Json:
    """Return what a row says of the document of a Model: the generation that is in force, and when it was created."""
    return {**({"generation": generation} if generation else {}), **({"createdAt": created} if created else {})}


def _row(status: ModelStatus) -> Json:
    row: Json = {"name": status.name, "state": status.state}
    if status.since is not None and status.state != "fetching":
        row["since"] = to_rfc3339(status.since)
    if status.message:
        row["message"] = status.message
    if status.done is not None:
        row["done"] = status.done
    if status.total is not None:
        row["total"] = status.total
    if status.rate is not None:
        row["rate"] = status.rate
    if status.retry_at is not None:
        row["retryAt"] = to_rfc3339(status.retry_at)
    if status.pinned:
        row["pinned"] = True
    if status.exit_code is not None:
        row["exitCode"] = status.exit_code
    return row


def _spec_for_routers(model: Model) -> Json:
    spec: Json = model.spec.model_dump(mode="json", by_alias=True, include=ROUTER_FIELDS, exclude_defaults=True)
    if model.spec.loras:
        spec["loras"] = [{"name": each.name, "source": "-"} for each in model.spec.loras]  # routers need the names only
    if model.engine_model_name != model.name:  # it may be from the source, which routers do not get
        spec["engineModelName"] = model.engine_model_name
    return {"engine": model.spec.engine, **spec}


def switch_rows(earlier: Sequence[Json], switches: Sequence[Switch]) -> list[Json]:
    """Return the rows of the last switches, oldest first. EARLIER are rows of an earlier switcher."""
    return [*earlier, *(switch_to_json(switch) for switch in switches)][-SHOWN_SWITCHES:]


def interrupted(row: Json) -> Json:
    """Return a row as failed if its switch was running when its switcher ended."""
    if row.get("outcome") != "running":
        return row
    message = "the switcher ended during this switch; the next one continued from the state it observed"
    return {**row, "outcome": "failed", "message": message, "endedAt": to_rfc3339(time.monotonic())}


def queue_rows(queue: Mapping[str, tuple[int, float, int]]) -> list[Json]:
    """Return the rows of queued requests and requests in flight, by model."""
    return [
        {
            "model": model,
            "waiting": waiting,
            "inFlight": in_flight,
            **({"oldest": to_rfc3339(oldest)} if waiting else {}),
        }
        for model, (waiting, oldest, in_flight) in queue.items()
    ]


def resident_names(residency: Residency) -> Json:
    """Return the names of resident and of parked models, for columns of kubectl."""
    parked = [r.model for r in residency.residents if r.state is InstanceState.PARKED]
    resident = [r.model for r in residency.residents if r.state is not InstanceState.PARKED]
    return {"resident": ", ".join(resident) or None, "parked": ", ".join(parked) or None}


SHOWN_WAITS = 4  # models in a column of kubectl


def story_columns(
    residency: Residency,
    switches: Iterable[Switch],
    queue: Mapping[str, tuple[int, float, int]],
    waits: Mapping[str, Wait],
) -> Json:
    """Return what columns of kubectl say of running switches and of waiting models: `gemma: draining qwen`, `3 gemma (Batch)`."""
    waiting = [
        f"{count} {model} ({waits[model].reason.value})" if model in waits else f"{count} {model}"
        for model, (count, _, _) in queue.items()
        if count
    ]
    more = [f"{len(waiting) - SHOWN_WAITS} more"] if len(waiting) > SHOWN_WAITS else []
    since = max((r.since for r in residency.residents if r.on_accelerator), default=0.0)
    running = [f"{switch.to}: {_phase(switch)}" for switch in switches if switch.outcome == "running"]
    return {
        "switching": ", ".join(running) or None,
        "waitingFor": ", ".join([*waiting[:SHOWN_WAITS], *more]) or None,
        "since": to_rfc3339(since) if since else None,
    }


def _phase(switch: Switch) -> str:
    """Return what a running switch does: `draining qwen`, `releasing qwen`, `loading`."""
    if switch.started is not None:
        return "restoring" if switch.restoring is not None else "waking" if switch.woken else "loading"
    left = [each for each in switch.leaving.values() if each.released is None]
    drains = [each.model for each in left if each.stopping is None]
    names = ", ".join(drains or [each.model for each in left])
    return f"{'draining' if drains else 'releasing'} {names}" if left else "starting"


def workspace_conditions(
    generation: int,
    residency: Residency,
    *,
    broker_ok: bool | None,
    has_broker: bool = True,
    policy_problem: str = "",
    group_problem: str = "",
    runtime_problem: str = "",
    spec_problem: str = "",
) -> list[Json]:
    """Return the conditions of a Workspace. BROKER_OK: demand arrives through the Broker. None: not known."""
    stuck = ", ".join(f"{r.model} ({r.instance})" for r in residency.residents if r.state is InstanceState.UNPROVEN)
    problems = {
        "ReleaseUnproven": stuck and f"the release could not be verified: {stuck}",
        "InvalidSpec": spec_problem,
        "RuntimeUnavailable": runtime_problem,
        "UnknownPolicy": policy_problem,
        "UnknownMember": group_problem,
    }
    found = {reason: problem for reason, problem in problems.items() if problem}
    why = next(iter(found), "Switching")
    ready = condition("Ready", not found, why, "; ".join(found.values()), generation)
    reason = (
        "NoBroker"
        if not has_broker
        else "NotUsedYet"
        if broker_ok is None
        else "Delivered"
        if broker_ok
        else "DemandCameDirectly"
    )
    return [ready, condition("EventsDelivered", broker_ok, reason, "", generation)]


def prompt_cache_condition(workspace: Workspace, unkept: Mapping[str, str], generation: int) -> list[Json]:
    """Return the condition of a Workspace that says whether prompt caches are kept, if its document asks for them.

    UNKEPT says why those of a Model are not kept; "" if they are. Models whose engine has none are missing.
    """
    kind, storage = "PromptCacheKept", workspace.spec.prompt_cache.storage
    if storage in (None, PromptStorage.OFF):
        return []
    if storage is PromptStorage.MEMORY:
        message = (
            "promptCache.storage is Memory, and the memory of a pod ends with it; set it to Disk, for Models with a claim "
            "for their cache (cache.size)"
        )
        return [condition(kind, False, "MemoryOfPods", message, generation)]
    if not unkept:
        return [condition(kind, None, "NoModel", "no Model has an engine that saves prompt caches", generation)]
    problems = "; ".join(f"{model}: {why}" for model, why in sorted(unkept.items()) if why)
    return [condition(kind, not problems, "NotOfAllModels" if problems else "OnClaims", problems, generation)]


def active_model_condition(
    workspace: Workspace, state: ActiveModelState | None, earlier: Iterable[Json], generation: int
) -> list[Json]:
    """Return the condition of spec.activeModel, or nothing if it is not set. STATE None: that of an EARLIER switcher holds."""
    kind = "ActiveModelLoaded"
    if workspace.spec.active_model is None:
        return []
    if state is None:
        return [{**each, "observedGeneration": generation} for each in earlier if each["type"] == kind]
    return [condition(kind, state.loaded, state.reason, state.message, generation)]


def group_problem(workspace: Workspace, models: Sequence[Model]) -> str:
    """Return what is wrong with groups and sets, or "". They may name unknown Models, or lack Models if capacity is not counted."""
    named = groups_of(workspace).members
    unknown = sorted(named.difference(model.name for model in models))
    problems = [f"groups or sets name {name}, which is not a Model of this Workspace" for name in unknown]
    if not workspace.spec.capacity.counted:
        loaded = {model.name for model in models if model.spec.engine != "external"}
        alone = ", ".join(sorted(loaded - named))
        problems += [f"capacity is not counted, and no group or set names {alone}"] if alone else []
    return "; ".join(problems)


def model_status(
    status: ModelStatus,
    *,
    model: Model,
    generation: int,
    resident: Resident | None,
    cache: CacheObserved | None,
    switches: Sequence[Switch],
    problem: ModelProblem | None,
    names_conflict: str = "",
    deployment: Json | None = None,
    claim_problems: Sequence[tuple[str, str]] = (),
    cpu_image: str = "",
    pods: int = 1,
    capacity: Capacity = NOT_COUNTED,
) -> Json:
    """Return a Model's status. NAMES_CONFLICT tells which names other Models claim too. DEPLOYMENT: that of the Model.

    CLAIM_PROBLEMS are reasons and messages of changes that its claim does not have. CPU_IMAGE is why its GPUs are unused.
    PODS is how many its runtime lets it have, CAPACITY that of its Workspace.
    """
    holds = resident is not None and resident.epoch != EXTERNAL_EPOCH
    phase = "Failed" if problem and problem.fatal and not holds else PHASES.get(status.state, "Pending")
    last = next((s for s in reversed(switches) if model.name in {s.to, *s.leaving}), None)
    conditions = _model_conditions(status, phase, cache, problem, generation)
    conditions += _replicated(model, pods, capacity, generation)
    if claim_problems:
        messages = "; ".join(message for _, message in claim_problems)
        conditions.append(condition("ClaimUpToDate", False, claim_problems[0][0], messages, generation))
    if cpu_image:
        conditions.append(condition("UsesGPU", False, "ImageWithoutGPU", cpu_image, generation))
    if names_conflict:
        conditions.append(condition("NamesConflict", True, "NameClaimedTwice", names_conflict, generation))
    return {
        "observedGeneration": generation,
        "phase": phase,
        "workspace": model.spec.workspace,
        "conditions": [*conditions, *_parkable(model, generation), *_of_deployment(deployment, generation)],
        "address": resident.address if resident is not None else None,
        **_of_pods(deployment, int(holds)),
        "cached": {"done": cache.done, "total": cache.total, "rate": status.rate}
        if cache and cache.done is not None
        else None,
        "lastSwitch": _last_switch(last) if last is not None else None,
        "pinned": status.pinned,
    }


def invalid_status(generation: int, problem: str, earlier: Iterable[Mapping[str, Any]]) -> Json:
    """Return the status of a Model of which nothing is in force."""
    conditions = [
        condition("Ready", False, "InvalidSpec", problem, generation),
        condition("Degraded", True, "InvalidSpec", problem, generation),
    ]
    return {
        "observedGeneration": generation,
        "phase": "Failed",
        "conditions": keep_transition_times(conditions, earlier),
        "replicas": 0,
    }


def _model_conditions(
    status: ModelStatus, phase: str, cache: CacheObserved | None, problem: ModelProblem | None, generation: int
) -> list[Json]:
    cached = cache is not None and cache.state is CacheState.CACHED
    serves = status.state == InstanceState.READY.value
    bad = problem is not None or status.state in ("failed", InstanceState.UNPROVEN.value)
    message = problem.message if problem else status.message
    why = phase if cached or serves or phase in ("Failed", "ReleaseUnproven") else "NotCached"
    why = problem.reason if problem else why
    pending = status.message if status.state in (InstanceState.LOADING.value, InstanceState.RELEASING.value) else ""
    fetch, said = ("Unknown", "") if cache is None else (cache.state.value.capitalize(), cache.message)
    if cache is not None and not cached and cache.reason != FETCH_FAILED:
        fetch = cache.reason  # why it cannot run
    return [
        condition("Ready", (cached or serves) and not bad, why, message, generation),
        condition("Cached", cached, fetch, said, generation),
        condition("Resident", serves, phase, pending, generation),
        condition("Degraded", bad, why if bad else "AsExpected", message, generation),
    ]


def _replicated(model: Model, pods: int, capacity: Capacity, generation: int) -> list[Json]:
    """Return the condition of a Model that should have several pods, why it cannot."""
    replicas, gpus = model.spec.scheduling.replicas, model.spec.resources.gpus
    if replicas > pods:
        why = "OnePodOnly"
        message = f"scheduling.replicas is {replicas}, but each Model has one pod, unless the runtime of its Workspace is KEDA"
    elif replicas > 1 and capacity.gpus is not None and replicas * gpus > capacity.gpus:
        why = "ExceedsCapacity"
        message = f"scheduling.replicas is {replicas} and resources.gpus is {gpus}, so the Model needs {replicas * gpus} GPUs, "
        message += f"but the Workspace has {capacity.gpus} (spec.capacity.gpus); lower scheduling.replicas"
    else:
        return []
    return [condition("Replicated", False, why, message, generation)]


def _parkable(model: Model, generation: int) -> list[Json]:
    """Return the condition of a Model that should park, why it is stopped instead."""
    if model.spec.lifecycle.release is not OnIdle.PARK:
        return []
    message = "a parked pod would keep its GPU, so the model is stopped instead"
    return [condition("Parkable", False, "ParkingNeedsSharedGPUs", message, generation)]


def _of_pods(deployment: Json | None, holds: int) -> Json:
    """Return the numbers of pods: those of the Deployment, which leaves out zeros, or else the number that holds GPUs."""
    if deployment is None:
        return {"replicas": holds, "readyReplicas": None, "updatedReplicas": None}
    status = deployment.get("status") or {}
    return {field: status.get(field, 0) for field in ("replicas", "readyReplicas", "updatedReplicas")}


def _of_deployment(deployment: Json | None, generation: int) -> list[Json]:
    """Return the conditions of a Deployment as those of its Model."""
    status = (deployment or {}).get("status") or {}
    return [
        condition(each["type"], each["status"] == "True", each.get("reason", ""), each.get("message", ""), generation)
        for each in status.get("conditions") or ()
    ]


def _last_switch(switch: Switch) -> Json:
    return {
        "id": switch.id,
        "outcome": switch.outcome,
        **({"endedAt": to_rfc3339(switch.ended)} if switch.ended is not None else {}),
        "seconds": switch.phases().get("total"),
    }


def condition(kind: str, true: bool | None, reason: str, message: str, generation: int) -> Json:
    """Return a condition. TRUE None is Unknown. `keep_transition_times` adds lastTransitionTime."""
    return {
        "type": kind,
        "status": "Unknown" if true is None else str(true),
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }


def keep_transition_times(new: list[Json], old: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Set lastTransitionTime of each condition: the old one if the status is the same, else now."""
    before = {c["type"]: c for c in old}
    now = format_time(time.time(), "seconds")
    for each in new:
        same = before.get(each["type"], {})
        kept = same.get("lastTransitionTime") if same.get("status") == each["status"] else None
        each["lastTransitionTime"] = kept or now
    return new
