"""Translates documents for the admission machine and the scheduler."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import PINNED, Model, WhileAbsent
from hotseat.api.workspace import PromptStorage, Workspace
from hotseat.core.admission.fair_queue import Sharing
from hotseat.core.admission.messages import Limits, LimitsChanged
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.groups import Group, Groups
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.engines.access import MOCK_ADDRESS

# Fields that can change without a restart of the engine.
_SOFT = {
    "names", "concurrency", "description", "metadata", "unlisted", "scheduling", "capabilities", "workspace",
    "fallback", "apis", "response_model_name", "loading", "filters", "headers", "tls", "mock_response", "allow_mock_response",
    "failover_urls", "retries", "circuit_breaker",
}  # fmt: skip
# Fields that say what is fetched before a load, and to where.
_FETCHED: Mapping[str, bool | set[str]] = {
    "engine": True, "source": True, "image": True, "image_pull_secrets": True, "credentials": True,
    "cache": {"existing_claim", "storage_class", "access_mode", "fetch_by"},
}  # fmt: skip
_SOFT_PARTS = {
    "lifecycle": {
        "idle_timeout",
        "drain_timeout",
        "start_timeout",
        "stop_timeout",
        "preload",
        "schedule",
        "response_start_timeout",
        "response_start_timeouts",
    },
    "cache": {"on_delete", "while_absent"},
}


PROMPTS_ON_DISK = 10 * 2**30  # bytes for prompt caches that are kept on disk, by default
PROMPTS_IN_MEMORY = 8 * 2**30  # the most for those in memory, by default
LEAST_PROMPTS = 64 * 2**20  # where there is less room, none are kept by default


def scheduling_spec_of(
    model: Model,
    workspace: Workspace,
    known_fingerprint: str | None = None,
    *,
    fetch_ahead: bool = False,
    may_park: bool = True,
    saves_prompts: bool = False,
    pods: int = 1,
    problem: str = "",
) -> SchedulingSpec:
    """Return the SchedulingSpec of a Model. Fields that it leaves open come from its Workspace's policy.

    KNOWN_FINGERPRINT replaces the fingerprint of the document. FETCH_AHEAD: weights are fetched before the first request, and
    until then requests are refused, unless the Model sets otherwise. MAY_PARK: whether the runtime can park engines. SAVES_PROMPTS: whether
    the engine can save its prompt cache, and the runtime keep it. PODS: how many
    pods an instance may have, all of which it claims accelerators for. PROBLEM: why the Model cannot be loaded.
    """
    spec, policy = model.spec, workspace.spec.policy
    lifecycle, scheduling, resources = spec.lifecycle, spec.scheduling, spec.resources
    default = WhileAbsent.REFUSE if fetch_ahead else WhileAbsent.WAIT
    counted = workspace.spec.capacity.accelerator_memory is not None
    return SchedulingSpec(
        claim=Claim(pods * resources.gpus, pods * (resources.accelerator_memory or 0) if counted else 0),
        priority=scheduling.priority,
        max_wait=policy.max_wait if scheduling.max_wait is None else scheduling.max_wait,
        min_residency=policy.min_residency if scheduling.min_residency is None else scheduling.min_residency,
        idle_timeout=lifecycle.idle_timeout,
        start_timeout=lifecycle.start_timeout,
        drain_timeout=lifecycle.drain_timeout,
        stop_timeout=lifecycle.stop_timeout,
        preload=lifecycle.preload,
        external=(spec.url or MOCK_ADDRESS) if model.is_external else None,
        fingerprint=fingerprint(model) if known_fingerprint is None else known_fingerprint,
        weights=_weights(model),
        problem=problem,
        fetch_ahead=fetch_ahead,
        check_first=not fetch_ahead,  # weights on a cluster's claim stay; files on a machine may have been deleted
        ageing=policy.ageing,
        refuse_uncached=(spec.cache.while_absent or default) is WhileAbsent.REFUSE,
        pinned=model.metadata.annotations.get(PINNED) == "true",
        return_after=workspace.spec.return_to_default if workspace.spec.default_model in model.names else 0.0,
        replicas=1 if fetch_ahead else scheduling.replicas,  # on a cluster, one instance has several pods
        pods=pods,
        park=may_park and lifecycle.release is OnIdle.PARK,
        can_park=may_park and can_park(model),
        host_memory=resources.memory,
        prompt_timeout=workspace.spec.prompt_cache.timeout if saves_prompts else 0.0,
        prompts_at_exit=workspace.spec.prompt_cache.keep_at_exit,
    )


def can_park(model: Model) -> bool:
    """Whether a Model can be parked by a command: it parks anyway, or states how."""
    return model.spec.lifecycle.release is OnIdle.PARK or bool(model.spec.lifecycle.sleep)


def fingerprint(model: Model) -> str:
    """Return a string that changes when the engine has to be restarted."""
    soft = {*_SOFT, "engine_key"} if model.is_external else _SOFT
    return model.spec.model_dump_json(exclude={**dict.fromkeys(soft, True), **_SOFT_PARTS})


def _weights(model: Model) -> str:
    """Return a string that changes when something else has to be fetched before a load."""
    return model.spec.model_dump_json(include=_FETCHED)


def limits_of(model: Model, workspace: Workspace) -> Limits:
    """Return the limits of a Model's requests."""
    return Limits(model.spec.concurrency, workspace.spec.queue.max_waiting_per_model)


def limits_changed(now: float, models: Iterable[Model], workspace: Workspace, routers: int = 1) -> LimitsChanged:
    """Return the limits of all requests of a Workspace. ROUTERS is the number of routers that share them."""
    spec = workspace.spec
    return LimitsChanged(
        now,
        {m.name: limits_of(m, workspace) for m in models},
        spec.queue.max_waiting,
        spec.queue.max_waiting_per_tenant,
        spec.queue.max_waiting_bytes,
        Sharing(spec.policy.ageing, spec.tenants.weights),
        routers,
    )


def capacity_of(
    workspace: Workspace,
    devices: tuple[str, ...] | None = None,
    *,
    host_memory: int | None = None,
    prompt_room: int | None = None,
) -> Capacity:
    """Return the capacity of a Workspace. DEVICES are the GPUs that are assigned to it. None: GPUs are not assigned.

    HOST_MEMORY is the limit for parked Models in bytes if the Workspace sets none. None: no limit. PROMPT_ROOM is the size of
    the file system in memory in bytes. None: prompts are not kept at all.
    """
    stated = workspace.spec.capacity
    parked = host_memory if stated.host_memory is None else stated.host_memory
    prompts = 0 if prompt_room is None else prompt_budget(workspace, parked, prompt_room)
    capacity = _accelerators(workspace, devices, parked)
    in_memory = workspace.spec.prompt_cache.storage is not PromptStorage.DISK
    return replace(capacity, prompts=prompts, prompts_in_memory=in_memory) if prompts else capacity


def prompt_budget(workspace: Workspace, host_memory: int | None, room: int) -> int:
    """Return the bytes for prompt caches. HOST_MEMORY is the limit for parked Models, ROOM the size of the file system in memory.

    None of the two is exceeded in memory, and by default half of ROOM is left.
    """
    stated = workspace.spec.prompt_cache
    if stated.storage is PromptStorage.OFF:
        return 0
    if stated.storage is PromptStorage.DISK:
        return PROMPTS_ON_DISK if stated.budget is None else stated.budget
    if stated.budget is not None:
        return min(stated.budget, room)
    budget = min(PROMPTS_IN_MEMORY, room // 2, PROMPTS_IN_MEMORY if host_memory is None else host_memory // 4)
    return budget if budget >= LEAST_PROMPTS or stated.storage is PromptStorage.MEMORY else 0


def _accelerators(workspace: Workspace, devices: tuple[str, ...] | None, parked: int | None) -> Capacity:
    stated = workspace.spec.capacity
    if not stated.counted:
        return Capacity(None, None, host_memory=parked)
    if devices is None or len(devices) >= stated.gpus:
        return Capacity(stated.gpus, stated.accelerator_memory, devices or (), parked)
    gpus, memory = len(devices), stated.accelerator_memory
    left = None if memory is None else memory * gpus // stated.gpus  # per GPU it stays the same
    return Capacity(gpus, left, devices, parked, missing=stated.gpus - gpus)


def groups_of(workspace: Workspace) -> Groups:
    """Return the groups and sets of a Workspace."""
    spec = workspace.spec
    groups = (Group(g.name, frozenset(g.members), g.swap, g.exclusive, g.persistent) for g in spec.groups)
    return Groups(tuple(groups), tuple(map(frozenset, spec.sets)))
