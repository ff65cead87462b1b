"""Which queued models are placed, beside which residents: shared by all policies. Pure.

A policy brings the order of the queued models, and the time from which each resident may be evicted
for each of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from hotseat.core.messages import InstanceState, WaitReason
from hotseat.core.policy.api import NOTHING, Capacity, Claim, EvictableAt, ModelView, Obstacle, View
from hotseat.core.policy.eviction import LEAVING_STATES, eviction_key, victims_for_requests
from hotseat.core.policy.groups import NO_MODELS

KEEPABLE_STATES = (InstanceState.LOADING, InstanceState.READY, *LEAVING_STATES)


class Placed(NamedTuple):
    """All that should be resident, when to decide again, and why queued models are not placed, as far as it is not their order."""

    resident: tuple[str, ...]
    wake_at: float | None
    obstacles: Mapping[str, Callable[[], Obstacle]]


def residents(view: View) -> tuple[dict[str, ModelView], Claim]:
    """Return the residents that can stay, by name, and the total claim.

    What a smaller capacity does not hold is left out.
    """
    # Most models have no instance. That is checked first, as this runs for all models in every decision.
    kept = {m.name: m for m in view.models if m.state is not None and m.state in KEEPABLE_STATES and not m.leaving}
    held = sum((m.claim for m in (*kept.values(), *unproven(view))), NOTHING)
    return kept, held - _shed(kept, held, view.capacity)


def pending(view: View) -> list[ModelView]:
    """Return the models with queued requests that are to be loaded."""
    return [m for m in view.models if m.waiting and (m.state is None or m.leaving)]


def place(
    view: View,
    kept: dict[str, ModelView],
    held: Claim,
    queue: list[ModelView],
    *,
    free_at: Callable[[ModelView, ModelView], EvictableAt],
    alarms: Iterable[float] = (),
) -> Placed:
    """Place queued models in their order.

    `free_at(resident, model)` is the time from which the resident may be evicted for the model, and
    what keeps it until then. `alarms` are times at which the order changes.
    """
    chosen: list[str] = []
    # Models that are next but cannot start yet: no model is placed that would have to leave for them.
    first: list[str] = []
    wakes: list[float] = []
    obstacles: dict[str, Callable[[], Obstacle]] = {}
    blocked = False  # the first is served first: no model overtakes it by claiming less
    alarms, stuck = tuple(alarms), [m.name for m in unproven(view)]
    for model in queue:
        if blocked and (model.claim.gpus or model.claim.memory):
            continue
        if apart := [other for other in (*chosen, *first) if view.groups.conflict(model.name, other)]:
            obstacles[model.name] = partial(Obstacle, WaitReason.GROUP, tuple(apart))
            continue
        eviction_options = view.groups.eviction_options(model.name, (*kept, *stuck, *chosen))
        eviction_options = [way for way in eviction_options if way.isdisjoint(chosen) and way.isdisjoint(stuck)]
        fits = NO_MODELS in eviction_options and model.claim.fits_beside(held, view.capacity)
        victims: list[ModelView] = []
        if eviction_options and not fits and model.may_evict and not blocked:
            asked = [m for m in kept.values() if m.claim != NOTHING or any(m.name in way for way in eviction_options)]
            times = {
                m.name: free_at(m, model) for m in asked if not m.pinned and view.groups.may_leave(m.name, model.name)
            }
            evictable = {name: kept[name] for name, (at, _) in times.items() if at <= view.now}
            victims = victims_for_requests(model, eviction_options, evictable, held, view)
            if not victims:
                first.append(model.name)
                obstacles[model.name] = partial(
                    _obstacle,
                    model,
                    eviction_options,
                    times,
                    kept=dict(kept),
                    chosen=tuple(chosen),
                    held=held,
                    view=view,
                )
                held, blocked = _reserve(model, eviction_options[0], kept, held, view)
                # More may be evicted then, or the order changes.
                wakes += [at for at in (*(at for at, _ in times.values()), *alarms) if view.now < at < inf]
        for victim in victims:
            held -= victim.claim
            del kept[victim.name]
        if victims or fits:
            chosen.append(model.name)
            held += model.claim.placed_beside(held, view.capacity)
        elif model.name not in obstacles:
            obstacles[model.name] = partial(_no_way, model, stuck, tuple(kept), tuple(chosen), view)
    return Placed((*kept, *chosen), min(wakes, default=None), obstacles)


def _obstacle(
    model: ModelView,
    eviction_options: Iterable[frozenset[str]],
    times: Mapping[str, EvictableAt],
    *,
    kept: Mapping[str, ModelView],
    chosen: tuple[str, ...],
    held: Claim,
    view: View,
) -> Obstacle:
    """Return why a model cannot be loaded yet: the residents that have to leave, and the last of them that may.

    `chosen` are queued models that come first, and are loaded instead.
    """
    for until in sorted({at for at, _ in times.values()}):
        evictable = {name: kept[name] for name, (at, _) in times.items() if at <= until}
        if victims := victims_for_requests(model, eviction_options, evictable, held, view):
            late = sorted(victims, key=lambda victim: -times[victim.name][0])
            waits = [victim.name for victim in late if times[victim.name][0] > view.now]
            return Obstacle(times[late[0].name][1], tuple(waits), until)
    if chosen:
        return Obstacle(WaitReason.TURN, chosen)
    # What stays, whatever the time.
    if pinned := tuple(m.name for m in kept.values() if m.pinned):
        return Obstacle(WaitReason.PINNED, pinned)
    if firm := tuple(name for name in kept if not view.groups.may_leave(name, model.name)):
        return Obstacle(WaitReason.GROUP, firm)
    if stuck := tuple(m.name for m in unproven(view)):
        return Obstacle(WaitReason.UNPROVEN, stuck)
    return Obstacle(WaitReason.CAPACITY, tuple(kept))


def _no_way(
    model: ModelView, stuck: Sequence[str], kept: tuple[str, ...], chosen: tuple[str, ...], view: View
) -> Obstacle:
    """Return why a model cannot be loaded, though no resident is asked to leave for it."""
    if bound := tuple(name for name in stuck if view.groups.must_leave(name, model.name)):
        return Obstacle(WaitReason.UNPROVEN, bound)
    if bound := tuple(name for name in chosen if view.groups.must_leave(name, model.name)):
        return Obstacle(WaitReason.GROUP, bound)
    return Obstacle(WaitReason.CAPACITY, (*kept, *chosen))


def _reserve(
    model: ModelView, way: frozenset[str], kept: Mapping[str, ModelView], held: Claim, view: View
) -> tuple[Claim, bool]:
    """Reserve capacity for a model that cannot start yet.

    Return the new total, and whether all lower-ranked models are blocked.
    """
    freed = sum((kept[name].claim for name in way), NOTHING)
    if not model.claim.fits_beside(held - freed, view.capacity):
        return held, True
    more = Claim(max(0, model.claim.gpus - freed.gpus), max(0, model.claim.memory - freed.memory))
    if not more.fits_beside(held, view.capacity):
        return held, True
    return held + more.placed_beside(held, view.capacity), False


def unproven(view: View) -> list[ModelView]:
    """Return the models whose instances could not be proven gone. They hold their claims until a person settles it."""
    return [m for m in view.models if m.state is not None and m.state is InstanceState.UNPROVEN and not m.asleep]


def _shed(kept: dict[str, ModelView], held: Claim, capacity: Capacity) -> Claim:
    """Remove from `kept` what a smaller capacity does not hold. Return the claims of those."""
    shed = NOTHING
    for resident in sorted(kept.values(), key=eviction_key):
        if not resident.claim.fits_beside(held - shed - resident.claim, capacity):
            del kept[resident.name]
            shed += resident.claim
    return shed
