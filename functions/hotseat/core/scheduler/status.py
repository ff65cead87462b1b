"""How models and instances look to policies, routers and people, and when each model can be ready. Pure.

By a lower bound of that, requests that cannot be served in time are rejected at once. So it counts
only what no policy can avoid: that a resident has to stop where the model does not fit, and that
the model has to load. What was never measured counts as 0, and what was measured may be faster next
time. A fallback goes by an estimate, which may be wrong either way
(`gateway.fallback_routing.expected_in`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from hotseat.core.messages import EXTERNAL_EPOCH, CacheState, InstanceState, Residency, Resident
from hotseat.core.policy.api import NOTHING, UNMEASURED_WAIT, Capacity, ModelView, Preference
from hotseat.core.scheduler.availability import LoadRequest, ModelAvailability
from hotseat.core.scheduler.history import UNKNOWN, Estimate, StepDurations, SwitchHistory
from hotseat.core.scheduler.instance import SLEEP_STATES, Instance
from hotseat.core.scheduler.messages import ModelStatus, SchedulingSpec
from hotseat.core.scheduler.stats import ArrivalRates

LEAST = 0.5  # of the mean of a step: it may be so much faster than it ever was
DOUBT = 3.0  # times its spread: it may be so much shorter than its mean
_AWAY = frozenset({InstanceState.SAVING, InstanceState.RELEASING, InstanceState.PARKING})
_COMES = frozenset({InstanceState.LOADING, InstanceState.WAKING})
_LEAVES = frozenset({InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING, *_AWAY, *_COMES})


def min_seconds_to_ready(
    now: float,
    specs: Mapping[str, SchedulingSpec],
    instances: Iterable[Instance],
    durations: StepDurations,
    capacity: Capacity,
) -> dict[str, float]:
    """Return a lower bound of the seconds until each model is ready. Models that may be ready at once are left out."""
    there = list(instances)
    held = sum((h.occupied(capacity) for h in there), NOTHING)
    result: dict[str, float] = {}
    for name, its in specs.items():
        if name not in durations.load and name not in durations.wake:
            continue  # nothing has been measured
        mine = [h for h in there if h.model == name]
        sleeps = any(h.state in SLEEP_STATES for h in mine)
        load = _least((durations.wake if sleeps else durations.load).get(name, UNKNOWN))
        if its.external or not load:
            continue
        if all(h.state is InstanceState.PARKED for h in mine):  # or there are none
            release = 0.0 if its.claim.fits_beside(held, capacity) else _first_release(now, there, durations)
            result[name] = release + load
        elif all(h.state in _AWAY for h in mine):
            result[name] = max(_stop(now, h, durations) for h in mine) + load
        elif all(h.state in _COMES for h in mine):
            result[name] = min(max(0.0, load - (now - h.since)) for h in mine)
    return {name: seconds for name, seconds in result.items() if seconds > 0}


def ready_in(residency: Residency, model: str, now: float) -> float:
    """Return a lower bound of the seconds until a model is ready, by the outlook of a residency.

    A step that has begun progresses since then. A step that has not begun is as far away as it was: its
    begin would have been published.
    """
    seconds = residency.outlook.get(model, 0.0)
    under_way = any(r.state in _AWAY or (r.model == model and r.state in _COMES) for r in residency.residents)
    return max(0.0, seconds - max(0.0, now - residency.at)) if under_way else seconds


def _first_release(now: float, instances: list[Instance], durations: StepDurations) -> float:
    """Return the seconds until the first resident can be gone."""
    return min(
        (
            _stop(now, h, durations)
            for h in instances
            if h.spec.claim != NOTHING and not h.asleep and h.state in _LEAVES
        ),
        default=0.0,
    )


def _stop(now: float, instance: Instance, durations: StepDurations) -> float:
    """Return a lower bound of the seconds until an instance is stopped or parked."""
    learned = _least(durations.stop.get(instance.model, UNKNOWN))
    if instance.spec.park and instance.stop_asked is None:
        learned = min(learned, _least(durations.park.get(instance.model, UNKNOWN)))
    asked = instance.since if instance.state is InstanceState.PARKING else instance.stop_asked
    return learned if asked is None else max(0.0, learned - (now - asked))


def _least(learned: Estimate) -> float:
    """Return a lower bound of the seconds that a step takes."""
    return max(0.0, min(LEAST * learned.mean, learned.mean - DOUBT * learned.spread))


SHOWN = 8  # transitions of an instance that routers and people are shown
# Policies see PARKING and SAVING as RELEASING, WAKING and RESTORING as LOADING. Parked instances are hidden from them.
_SEEN: Mapping[InstanceState, InstanceState] = {
    InstanceState.SAVING: InstanceState.RELEASING,
    InstanceState.RESTORING: InstanceState.LOADING,
    InstanceState.PARKING: InstanceState.RELEASING,
    InstanceState.WAKING: InstanceState.LOADING,
}


def seen_state(instance: Instance) -> InstanceState:
    """Return the state of an instance as policies see it."""
    return _SEEN.get(instance.state, instance.state)


def model_view(
    name: str,
    spec: SchedulingSpec,
    instance: Instance | None,
    *,
    waiting: tuple[int, float],
    request: LoadRequest | None,
    in_flight: int,
    history: SwitchHistory,
    rates: ArrivalRates,
    now: float,
    capacity: Capacity,
    preference: Preference = Preference.NONE,
    expected_until: float = 0.0,
    auto_max_wait: float = UNMEASURED_WAIT,
) -> ModelView:
    """Return the view of a model.

    A load request counts as a queued request until the model is ready, a preload until it loads.
    `expected_until`: until when clients that gave up are expected again.
    """
    count, oldest = waiting
    may_evict = True
    state = seen_state(instance) if instance else None
    if request and (state is None or (state is InstanceState.LOADING and request.may_evict)):
        may_evict = request.may_evict or count > 0
        count, oldest = count + 1, min(oldest, request.since) if count else request.since
    can_stay = instance is not None and instance.can_stay and instance.state is not InstanceState.PARKING
    occupies = can_stay or state is InstanceState.UNPROVEN
    return ModelView(
        name=name,
        claim=instance.occupied(capacity) if instance and occupies else spec.claim,
        priority=spec.priority,
        max_wait=auto_max_wait if spec.max_wait is None else spec.max_wait,
        min_residency=spec.min_residency,
        waiting=count,
        oldest=oldest,
        in_flight=in_flight,
        state=state,
        leaving=instance is not None and not can_stay,
        promised=history.promised(name),
        ready_since=(instance.ready_since or 0.0) if instance else 0.0,
        last_used=instance.last_used if instance else 0.0,
        may_evict=may_evict,
        switch_cost=history.durations.of(name, parks=spec.park),
        drain=history.durations.draining(name),
        uncertainty=history.durations.uncertainty(name, parks=spec.park),
        arrivals=rates.arrivals(name, now),
        pace=rates.pace(name),
        gaps=rates.gaps(name),
        ageing=spec.ageing,
        preference=preference,
        pinned=preference is Preference.PINNED,
        asleep=instance is not None and instance.asleep,
        kept_until=_kept_until(instance, expected_until, history, now) if instance and not count else 0.0,
    )


def _kept_until(instance: Instance, expected_until: float, history: SwitchHistory, now: float) -> float:
    """Return until when an instance without queued requests is worth keeping: it loads, or has served nothing yet.

    A load is worth finishing once half of it is done, by the usual time: stopping it costs more
    than it saves. The next load after a cancelled one has twice as long: however short its clients
    wait, it gets ready in the end.
    """
    if instance.state is InstanceState.READY:
        return expected_until if instance.dispatched < (instance.ready_since or 0.0) else 0.0
    if instance.state is InstanceState.RESTORING:
        return max(expected_until, instance.since + instance.spec.prompt_timeout)
    if instance.state not in (InstanceState.LOADING, InstanceState.WAKING):
        return 0.0
    times = history.durations.wake if instance.state is InstanceState.WAKING else history.durations.load
    usual, given_up = times.get(instance.model, UNKNOWN).mean, history.abandoned_load_seconds(instance.name, now)
    if given_up or 2 * (now - instance.since) >= usual:
        expected_until = max(expected_until, instance.since + 2 * max(usual, given_up))
    return expected_until


def residents(instances: Iterable[Instance], specs: Mapping[str, SchedulingSpec]) -> tuple[Resident, ...]:
    """Return the instances and the external servers, for routers."""
    ours = (
        Resident(
            h.model,
            h.id,
            h.state,
            h.epoch,
            h.since,
            h.address,
            h.leaving,
            h.devices,
            h.memory,
            tuple(h.story)[-SHOWN:],
            h.more,
        )
        for h in instances
    )
    external = (
        Resident(name, f"{name}@external", InstanceState.READY, EXTERNAL_EPOCH, 0.0, t.external)
        for name, t in specs.items()
        if t.external
    )
    return (*ours, *external)


def statuses(
    specs: Mapping[str, SchedulingSpec],
    instances: Mapping[str, Instance],
    availability: ModelAvailability,
    pinned: frozenset[str],
) -> list[ModelStatus]:
    """Return the status of all models, in the order of the documents. `instances` are the primaries."""
    noted = {*instances, *availability.failures, *availability.uncached()}  # of all others, only the spec counts
    rows = [
        status_of(name, each, instances.get(name), availability) if name in noted or each.external else _unloaded(name)
        for name, each in specs.items()
    ]
    return [replace(row, pinned=True) if row.name in pinned else row for row in rows] if pinned else rows


def status_of(
    name: str, spec: SchedulingSpec, instance: Instance | None, availability: ModelAvailability
) -> ModelStatus:
    """Return the status of a model."""
    failure, cache = availability.failures.get(name), availability.cache.get(name)
    if spec.external:
        return ModelStatus(name, InstanceState.READY.value)
    if instance is not None and not (instance.leaving == "failed" and instance.state is InstanceState.RELEASING):
        pending = instance.pending_detail if instance.state in (InstanceState.LOADING, InstanceState.RELEASING) else ""
        detail = instance.unproven_detail or pending or _outdated(instance, spec)
        return ModelStatus(name, instance.state.value, instance.since, detail)
    if failure is not None and not failure.over:
        told = f"{failure.reason}: {failure.message}"
        return ModelStatus(name, "failed", None, told, retry_at=failure.retry_at, exit_code=failure.exit_code)
    if cache is not None and cache.state is CacheState.FETCHING:
        return ModelStatus(
            name, "fetching", cache.now, cache.message, cache.done, cache.total, rate=availability.rate(name)
        )
    if cache is not None and cache.state is CacheState.FAILED:
        return ModelStatus(name, "failed", None, cache.message)
    return _unloaded(name)


def _outdated(instance: Instance, spec: SchedulingSpec) -> str:
    """Return why an instance still runs an earlier document, or ""."""
    if not instance.outdated_by(spec):
        return ""
    return f"it runs an earlier version of its document, until the new one can be loaded{spec.problem and ': '}{spec.problem}"


@lru_cache(maxsize=8192)
def _unloaded(name: str) -> ModelStatus:
    """Return the status of an unloaded model. Cached, as most of many models have it at each step."""
    return ModelStatus(name, "unloaded")
