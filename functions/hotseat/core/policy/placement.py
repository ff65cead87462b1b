"""Which queued models are placed, beside which residents: shared by all policies. Pure.

A policy brings the order of the queued models, and the time from which each resident may be evicted
for each of them.
"""

from collections.abc import Callable, Iterable, Mapping
from math import inf

from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import NOTHING, Capacity, Claim, ModelView, View
from hotseat.core.policy.eviction import LEAVING_STATES, eviction_key, victims_for_requests
from hotseat.core.policy.groups import NO_MODELS

KEEPABLE_STATES = (InstanceState.LOADING, InstanceState.READY, *LEAVING_STATES)


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
    free_at: Callable[[ModelView, ModelView], float],
    alarms: Iterable[float] = (),
) -> tuple[tuple[str, ...], float | None]:
    """Place queued models in their order. Return all that should be resident, and when to decide again.

    `free_at(resident, model)` is the time from which the resident may be evicted for the model.
    `alarms` are times at which the order changes.
    """
    chosen: list[str] = []
    # Models that are next but cannot start yet: no model is placed that would have to leave for them.
    first: list[str] = []
    wakes: list[float] = []
    blocked = False  # the first is served first: no model overtakes it by claiming less
    alarms, stuck = tuple(alarms), [m.name for m in unproven(view)]
    for model in queue:
        if blocked and (model.claim.gpus or model.claim.memory):
            continue
        if any(view.groups.conflict(model.name, other) for other in (*chosen, *first)):
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
            evictable = {name: kept[name] for name, at in times.items() if at <= view.now}
            victims = victims_for_requests(model, eviction_options, evictable, held, view)
            if not victims:
                first.append(model.name)
                held, blocked = _reserve(model, eviction_options[0], kept, held, view)
                # More may be evicted then, or the order changes.
                wakes += [at for at in (*times.values(), *alarms) if view.now < at < inf]
        for victim in victims:
            held -= victim.claim
            del kept[victim.name]
        if victims or fits:
            chosen.append(model.name)
            held += model.claim.placed_beside(held, view.capacity)
    return (*kept, *chosen), min(wakes, default=None)


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
