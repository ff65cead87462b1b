"""Gauges that are computed at each scrape, on one machine, at routers and at switchers."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from hotseat.api.workspace import Workspace
from hotseat.control.accelerator_seconds import Totals
from hotseat.control.event_log import HttpSink
from hotseat.control.registry import ModelRegistry
from hotseat.core.messages import InstanceState, Resident
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.runtimes.local.gpu_figures import GpuFigures
from hotseat.telemetry.metrics import Reading


def with_shown_names(found: Iterable[Reading], shown: Callable[[str], str]) -> Iterator[Reading]:
    """Yield readings with displayed names of Models. `shown` returns the name for a metadata.name."""
    for each in found:
        model = each.labels.get("model")
        yield each if model is None else replace(each, labels={**each.labels, "model": shown(model)})


def of_requests(registry: ModelRegistry) -> Iterator[Reading]:
    """Yield queued requests and requests in flight, by Model, and the memory of queued requests."""
    return iter(registry.owner.call(lambda: list(_of_requests(registry))))  # one call, not several for each Model


def _of_requests(registry: ModelRegistry) -> Iterator[Reading]:
    for route in registry.routes().values():
        name, gate = route.model.name, route.handle.gate
        now, ((waiting, _),) = time.monotonic(), gate.queues([name]).values()
        yield Reading("hotseat_queued_requests", {"model": name}, waiting.count if waiting else 0)
        yield Reading(
            "hotseat_oldest_queued_request_seconds", {"model": name}, now - waiting.oldest if waiting else 0.0
        )
        yield Reading("hotseat_requests_in_flight", {"model": name}, gate.in_flight_of(name))
    for handle in registry.handles:
        yield Reading("hotseat_queued_request_bytes", {"workspace": handle.name}, handle.gate.waiting_bytes())


def of_upstreams(registry: ModelRegistry) -> Iterator[Reading]:
    """Yield whether the servers of external Models get requests."""
    for servers in registry.upstreams.all():
        for row in servers.rows():
            labels = {"model": servers.model, "url": row["url"]}
            yield Reading("hotseat_upstream_available", labels, int(row["available"]))


def of_memory(registry: ModelRegistry, seen: Mapping[str, int]) -> Iterator[Reading]:
    """Yield the accelerator memory that Models claim, and the most that one instance of each was measured to use."""
    for name, route in registry.routes().items():
        claimed = route.model.spec.resources.accelerator_memory
        for kind, figure in (("claimed", claimed), ("seen", seen.get(name))):
            if figure is not None:
                yield Reading("hotseat_accelerator_memory_bytes", {"model": name, "kind": kind}, figure)


def of_gpus(gpus: Iterable[GpuFigures]) -> Iterator[Reading]:
    """Yield the figures of GPUs that are known."""
    for gpu in gpus:
        labels = {"gpu": gpu.id, "uuid": gpu.uuid or ""}
        for name, value in (
            ("hotseat_gpu_memory_used_bytes", gpu.memory_used),
            ("hotseat_gpu_memory_total_bytes", gpu.memory_total),
            ("hotseat_gpu_utilization_ratio", gpu.utilization),
            ("hotseat_gpu_temperature_celsius", gpu.temperature),
            ("hotseat_gpu_power_watts", gpu.power),
        ):
            if value is not None:
                yield Reading(name, labels, value)


def of_instances(
    workspace: Workspace, residents: Iterable[Resident], effective_max_wait: float | None
) -> Iterator[Reading]:
    """Yield resident and parked instances of a Workspace, and its bound on waiting."""
    states: Counter[tuple[str, str]] = Counter()  # several instances of one model are one value
    parked: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    for each in residents:
        if each.state is not InstanceState.PARKED:
            states[each.model, each.state.value] += 1
            continue
        parked[each.model] += 1
        if each.memory is not None:
            memory[each.model] += each.memory
    for (model, state), count in states.items():
        yield Reading("hotseat_residents", {"workspace": workspace.name, "model": model, "state": state}, count)
    for name, counts in (("hotseat_parked_instances", parked), ("hotseat_parked_host_memory_bytes", memory)):
        for model, count in counts.items():
            yield Reading(name, {"workspace": workspace.name, "model": model}, count)
    bound = bound_in_force(workspace, effective_max_wait)
    if bound is not None:
        yield Reading("hotseat_effective_max_wait_seconds", {"workspace": workspace.name}, bound)


def of_prompts(sizes: Mapping[tuple[str, str], int]) -> Iterator[Reading]:
    """Yield the sizes of saved prompt caches, in bytes, by Workspace and Model."""
    for (workspace, model), size in sizes.items():
        yield Reading("hotseat_prompt_cache_bytes", {"workspace": workspace, "model": model}, size)


def bound_in_force(workspace: Workspace, effective_max_wait: float | None) -> float | None:
    """Return the bound on waiting of a Workspace, in seconds: the scheduler's, else the document's; None: its policy has none."""
    return workspace.spec.policy.max_wait if effective_max_wait is None else effective_max_wait


def of_pins(workspace: Workspace, rows: Iterable[ModelStatus]) -> Iterator[Reading]:
    """Yield the pinned Models."""
    for row in rows:
        if row.pinned:
            yield Reading("hotseat_pinned_models", {"workspace": workspace.name, "model": row.name}, 1)


def of_backoff(rows: Iterable[ModelStatus]) -> Iterator[Reading]:
    """Yield the time until failed Models are tried again."""
    now = time.monotonic()
    for row in rows:
        if row.retry_at is not None and row.retry_at > now:
            yield Reading("hotseat_backoff_seconds", {"model": row.name}, row.retry_at - now)


def of_accelerator(workspace: str, totals: Totals) -> Iterator[Reading]:
    """Yield how long the instances of a Workspace held the accelerator."""
    for name, seconds in (("resident", totals.resident), ("idle", totals.idle)):
        for model, value in seconds.items():
            yield Reading(f"hotseat_{name}_seconds_total", {"workspace": workspace, "model": model}, value)
    yield Reading("hotseat_switching_gpu_seconds_total", {"workspace": workspace}, totals.switching)


def of_sinks(sinks: Sequence[HttpSink]) -> Iterator[Reading]:
    """Yield the events that wait for delivery, and those that could not be delivered."""
    yield Reading("hotseat_events_queued", {}, sum(sink.queued for sink in sinks))
    yield Reading("hotseat_events_undelivered_total", {}, sum(sink.dropped for sink in sinks))
