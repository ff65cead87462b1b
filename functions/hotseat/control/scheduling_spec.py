"""From the documents to what the two machines want to know."""

from collections.abc import Iterable

from hotseat.api.model import PINNED, Model, OnIdle, WhileAbsent
from hotseat.api.workspace import Workspace
from hotseat.core.admission.fair_queue import Sharing
from hotseat.core.admission.messages import Limits, LimitsChanged
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.groups import Group, Groups
from hotseat.core.scheduler.messages import SchedulingSpec

# What can change without a restart of the engine.
_SOFT = {
    "names", "concurrency", "description", "metadata", "unlisted", "scheduling", "capabilities", "workspace",
    "fallback",
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
    },
    "cache": {"on_delete", "while_absent"},
}


def scheduling_spec_of(
    model: Model, workspace: Workspace, mark: str | None = None, *, ahead: bool = False, may_park: bool = True
) -> SchedulingSpec:
    """Terms of a Model; what it leaves open comes from its Workspace's policy. `mark` stands for its fingerprint, where given.

    `ahead`: weights are brought before anybody asks for them; who does so earlier is refused unless the Model says otherwise.
    `may_park`: whether the runtime parks what asks for it.
    """
    spec, policy = model.spec, workspace.spec.policy
    lifecycle, scheduling, resources = spec.lifecycle, spec.scheduling, spec.resources
    default = WhileAbsent.REFUSE if ahead else WhileAbsent.WAIT
    counted = workspace.spec.capacity.accelerator_memory is not None
    return SchedulingSpec(
        claim=Claim(resources.gpus, (resources.accelerator_memory or 0) if counted else 0),
        priority=scheduling.priority,
        max_wait=policy.max_wait if scheduling.max_wait is None else scheduling.max_wait,
        min_residency=policy.min_residency if scheduling.min_residency is None else scheduling.min_residency,
        idle_timeout=lifecycle.idle_timeout,
        start_timeout=lifecycle.start_timeout,
        drain_timeout=lifecycle.drain_timeout,
        stop_timeout=lifecycle.stop_timeout,
        preload=lifecycle.preload,
        external=spec.url if spec.engine == "external" else None,
        fingerprint=fingerprint(model) if mark is None else mark,
        fetch_ahead=ahead,
        check_first=not ahead,  # a cluster's weights are on a claim, which nobody tidies up
        ageing=policy.ageing,
        refuse_uncached=(spec.cache.while_absent or default) is WhileAbsent.REFUSE,
        pinned=model.metadata.annotations.get(PINNED) == "true",
        return_after=workspace.spec.return_to_default if workspace.spec.default_model in model.names else 0.0,
        replicas=1 if ahead else scheduling.replicas,  # a cluster's runtime has one pod of a Model
        park=may_park and lifecycle.release is OnIdle.PARK,
        host_memory=resources.memory,
    )


def fingerprint(model: Model) -> str:
    """Everything that an engine has to be restarted for, as one string."""
    return model.spec.model_dump_json(exclude={**dict.fromkeys(_SOFT, True), **_SOFT_PARTS})


def limits_of(model: Model, workspace: Workspace) -> Limits:
    """Bounds of a Model's requests."""
    return Limits(model.spec.concurrency, workspace.spec.queue.max_waiting_per_model)


def limits_changed(now: float, models: Iterable[Model], workspace: Workspace, routers: int = 1) -> LimitsChanged:
    """Say what a router needs to know of the documents: who may wait, and how those who do take turns. `routers`: how many share that."""
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
    workspace: Workspace, devices: tuple[str, ...] | None = None, *, host_memory: int | None = None
) -> Capacity:
    """Read what a Workspace has to give. `devices` are its GPUs where they are ours to hand out: it has no more than those.

    `host_memory`: bytes for parked Models where it states none; None: no limit.
    """
    stated = workspace.spec.capacity
    parked = host_memory if stated.host_memory is None else stated.host_memory
    if not stated.counted:
        return Capacity(None, None, host_memory=parked)
    if devices is None or len(devices) >= stated.gpus:
        return Capacity(stated.gpus, stated.accelerator_memory, devices or (), parked)
    gpus, memory = len(devices), stated.accelerator_memory
    left = None if memory is None else memory * gpus // stated.gpus  # each has the part that it was to have
    return Capacity(gpus, left, devices, parked, missing=stated.gpus - gpus)


def groups_of(workspace: Workspace) -> Groups:
    """Read who may be resident with whom."""
    spec = workspace.spec
    groups = (Group(g.name, frozenset(g.members), g.swap, g.exclusive, g.persistent) for g in spec.groups)
    return Groups(tuple(groups), tuple(map(frozenset, spec.sets)))
