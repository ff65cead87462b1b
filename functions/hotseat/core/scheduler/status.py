"""How models and instances look to policies, routers and people, and the soonest that each model can be ready. Pure.

The soonest is a lower bound, by what has been learned. It is there to refuse at once who could not
be served in time however well everything went. So it counts only what no policy can avoid: that one
of those in the way has to stop, where there is no room beside them, and that the model has to load.
What has never been measured counts as nothing, and what has been measured may go faster next time.
A guess, which may be wrong either way, is what a fallback goes by
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

LEAST = 0.5  # of the time that a step takes on average: it may go so much faster, though it never was seen to
DOUBT = 3.0  # times that it differs from its average as a rule: it may be so much shorter
_AWAY = frozenset({InstanceState.RELEASING, InstanceState.PARKING})
_COMES = frozenset({InstanceState.LOADING, InstanceState.WAKING})
_LEAVES = frozenset({InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING, *_AWAY, *_COMES})


def min_seconds_to_ready(
    now: float,
    specs: Mapping[str, SchedulingSpec],
    instances: Iterable[Instance],
    durations: StepDurations,
    capacity: Capacity,
) -> dict[str, float]:
    """Seconds from now until each model can be ready at the soonest; those that may be at once are left out."""
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
    """Seconds from now until a model can be ready at the soonest, by the Outlook that came with a Residency.

    What is under way gets on; what has not begun is as far away as it was, for its beginning would have been published.
    """
    seconds = residency.outlook.get(model, 0.0)
    under_way = any(r.state in _AWAY or (r.model == model and r.state in _COMES) for r in residency.residents)
    return max(0.0, seconds - max(0.0, now - residency.at)) if under_way else seconds


def _first_release(now: float, instances: list[Instance], durations: StepDurations) -> float:
    """Seconds until the first of those that hold something can be gone."""
    return min(
        (
            _stop(now, h, durations)
            for h in instances
            if h.spec.claim != NOTHING and not h.asleep and h.state in _LEAVES
        ),
        default=0.0,
    )


def _stop(now: float, instance: Instance, durations: StepDurations) -> float:
    """Seconds that stopping it, or its falling asleep, takes at the least, from now on."""
    learned = _least(durations.stop.get(instance.model, UNKNOWN))
    if instance.spec.park and instance.stop_asked is None:
        learned = min(learned, _least(durations.park.get(instance.model, UNKNOWN)))
    asked = instance.since if instance.state is InstanceState.PARKING else instance.stop_asked
    return learned if asked is None else max(0.0, learned - (now - asked))


def _least(learned: Estimate) -> float:
    """Seconds that a step takes if it goes as well as it may."""
    return max(0.0, min(LEAST * learned.mean, learned.mean - DOUBT * learned.spread))


SHOWN = 8  # transitions of an instance that routers and people are shown
# Policies see PARKING as RELEASING and WAKING as LOADING. Parked instances are hidden from them.
_SEEN: Mapping[InstanceState, InstanceState] = {
    InstanceState.PARKING: InstanceState.RELEASING,
    InstanceState.WAKING: InstanceState.LOADING,
}


def model_view(
    name: str,
    spec: SchedulingSpec,
    instance: Instance | None,
    *,
    waiting: tuple[int, float],
    order: LoadRequest | None,
    in_flight: int,
    history: SwitchHistory,
    rates: ArrivalRates,
    now: float,
    capacity: Capacity,
    preference: Preference = Preference.NONE,
    expected_until: float = 0.0,
    auto_max_wait: float = UNMEASURED_WAIT,
) -> ModelView:
    """Show the policy a model. An order counts as one that waits, until the model is ready; a preload, until it loads.

    `expected_until`: until when clients of it that gave up are expected to ask again.
    """
    count, oldest = waiting
    may_evict = True
    state = _SEEN.get(instance.state, instance.state) if instance else None
    if order and (state is None or (state is InstanceState.LOADING and order.may_evict)):
        may_evict = order.may_evict or count > 0
        count, oldest = count + 1, min(oldest, order.since) if count else order.since
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
    """Give the time until which an instance that no request waits for is worth keeping: it loads, or has served nothing yet.

    A load is worth finishing once half of it is done, by the time that it took before: stopping it costs more than it saves. The
    next load after one that was given up has twice as long: however little its clients wait, it gets ready in the end.
    """
    if instance.state is InstanceState.READY:
        return expected_until if instance.dispatched < (instance.ready_since or 0.0) else 0.0
    if instance.state not in (InstanceState.LOADING, InstanceState.WAKING):
        return 0.0
    times = history.durations.wake if instance.state is InstanceState.WAKING else history.durations.load
    usual, given_up = times.get(instance.model, UNKNOWN).mean, history.abandoned_load_seconds(instance.name, now)
    if given_up or 2 * (now - instance.since) >= usual:
        expected_until = max(expected_until, instance.since + 2 * max(usual, given_up))
    return expected_until


def residents(instances: Iterable[Instance], specs: Mapping[str, SchedulingSpec]) -> tuple[Resident, ...]:
    """Show routers who holds a seat, and the servers that need none of ours."""
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
    """Say how all models are, in the order of the documents; `instances` are the ones that count."""
    rows = [status_of(name, each, instances.get(name), availability) for name, each in specs.items()]
    return [replace(row, pinned=True) if row.name in pinned else row for row in rows] if pinned else rows


def status_of(
    name: str, spec: SchedulingSpec, instance: Instance | None, availability: ModelAvailability
) -> ModelStatus:
    """Say how a model is, from what is known of it."""
    failure, cache = availability.failures.get(name), availability.cache.get(name)
    if spec.external:
        return ModelStatus(name, InstanceState.READY.value)
    if instance is not None and not (instance.leaving == "failed" and instance.state is InstanceState.RELEASING):
        return ModelStatus(name, instance.state.value, instance.since, instance.unproven_detail)
    if failure is not None and not failure.over:
        told = f"{failure.reason}: {failure.message}"
        return ModelStatus(name, "failed", None, told, retry_at=failure.retry_at, exit_code=failure.exit_code)
    if cache is not None and cache.state is CacheState.FETCHING:
        return ModelStatus(name, "fetching", cache.now, cache.message, cache.done, cache.total)
    if cache is not None and cache.state is CacheState.FAILED:
        return ModelStatus(name, "failed", None, cache.message)
    return _unloaded(name)


@lru_cache(maxsize=8192)
def _unloaded(name: str) -> ModelStatus:
    """Return the status that most of a thousand models have, at each step: it is made once."""
    return ModelStatus(name, "unloaded")
