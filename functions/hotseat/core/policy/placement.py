"""Who gets a seat, and who has to leave for that: what all policies share. Pure.

A policy brings an order of those that want one, and says from when each resident may be taken off for whom.
"""

from collections.abc import Callable, Iterable, Mapping
from math import inf

from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import NOTHING, Capacity, Claim, ModelView, View
from hotseat.core.policy.groups import NO_MODELS

LEAVING_STATES = (InstanceState.QUIESCING, InstanceState.DRAINING)
EvictionOrder = tuple[bool, bool, bool, int, float, float, str]
KEEPABLE_STATES = (InstanceState.LOADING, InstanceState.READY, *LEAVING_STATES)


def residents(view: View) -> tuple[dict[str, ModelView], Claim]:
    """Those that may stay, by name, and what is taken beside what the capacity makes us shed at once."""
    # Most have no seat, which is the cheapest thing to see: this is done for all models in every decision.
    kept = {m.name: m for m in view.models if m.seat is not None and m.seat in KEEPABLE_STATES and not m.leaving}
    held = sum((m.claim for m in (*kept.values(), *unproven(view))), NOTHING)
    return kept, held - _shed(kept, held, view.capacity)


def pending(view: View) -> list[ModelView]:
    """List the models that somebody waits for and that are to be loaded for that."""
    return [m for m in view.models if m.waiting and (m.seat is None or m.leaving)]


def place(
    view: View,
    kept: dict[str, ModelView],
    held: Claim,
    queue: list[ModelView],
    *,
    free_at: Callable[[ModelView, ModelView], float],
    alarms: Iterable[float] = (),
) -> tuple[tuple[str, ...], float | None]:
    """Give seats to a queue of models in its order; returns all that should be resident, and when to look again.

    `free_at(resident, waiter)`: from when the one may be taken off for the other. `alarms`: times at which the order changes.
    """
    chosen: list[str] = []
    first: list[str] = []  # whose turn it is, though it cannot begin: nobody overtakes who would have to leave for them
    look_ups: list[float] = []
    blocked = False  # whoever is first is served first: nobody overtakes by needing less
    alarms, stuck = tuple(alarms), [m.name for m in unproven(view)]
    for model in queue:
        if blocked and (model.claim.gpus or model.claim.memory):
            continue
        if any(view.groups.apart(model.name, other) for other in (*chosen, *first)):
            continue
        ways = view.groups.ways(model.name, (*kept, *stuck, *chosen))
        ways = [way for way in ways if way.isdisjoint(chosen) and way.isdisjoint(stuck)]
        fits = NO_MODELS in ways and model.claim.fits_beside(held, view.capacity)
        victims: list[ModelView] = []
        if ways and not fits and model.may_evict and not blocked:
            asked = [m for m in kept.values() if m.claim != NOTHING or any(m.name in way for way in ways)]
            times = {
                m.name: free_at(m, model) for m in asked if not m.pinned and view.groups.may_leave(m.name, model.name)
            }
            victims = _victims(model, ways, kept, held, times=times, view=view)
            if not victims:
                first.append(model.name)
                held, blocked = _reserve(model, ways[0], kept, held, view)
                # More to take, or another first.
                look_ups += [at for at in (*times.values(), *alarms) if view.now < at < inf]
        for victim in victims:
            held -= victim.claim
            del kept[victim.name]
        if victims or fits:
            chosen.append(model.name)
            held += model.claim.placed_beside(held, view.capacity)
    return (*kept, *chosen), min(look_ups, default=None)


def _victims(
    model: ModelView,
    ways: Iterable[frozenset[str]],
    kept: Mapping[str, ModelView],
    held: Claim,
    *,
    times: Mapping[str, float],
    view: View,
) -> list[ModelView]:
    """Those that leave for a model: for its group, and for the room that it needs beyond that. None: it is not time yet."""
    found: list[list[ModelView]] = []
    for way in ways:
        if any(times.get(name, inf) > view.now for name in way):
            continue
        forced = [kept[name] for name in way]
        left = held - sum((m.claim for m in forced), NOTHING)
        if model.claim.fits_beside(left, view.capacity):
            found.append(forced)
            continue
        others = [m for m in kept.values() if m.name not in way and m.claim != NOTHING]
        if more := _minimal_victims([m for m in others if times.get(m.name, inf) <= view.now], left, model, view):
            found.append([*forced, *more])
    return min(found, key=_eviction_cost, default=[])


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


def _eviction_cost(victims: list[ModelView]) -> tuple[int, float, int, list[EvictionOrder]]:
    """Sort key of who might leave, those on their way out not counted: the busy, what keeping them saves, how many, who."""
    lost = [m for m in victims if m.seat not in LEAVING_STATES]
    who = sorted(map(_eviction_order, victims), reverse=True)
    return sum(not m.idle for m in lost), sum(m.keeping for m in lost), len(lost), who


def unproven(view: View) -> list[ModelView]:
    """List those that hold a seat until somebody settles it."""
    return [m for m in view.models if m.seat is not None and m.seat is InstanceState.UNPROVEN and not m.asleep]


def _shed(kept: dict[str, ModelView], held: Claim, capacity: Capacity) -> Claim:
    """Take off what a capacity that has shrunk does not hold; returns the claims of those."""
    shed = NOTHING
    for resident in sorted(kept.values(), key=_eviction_order):
        if not resident.claim.fits_beside(held - shed - resident.claim, capacity):
            del kept[resident.name]
            shed += resident.claim
    return shed


def evictable_at(resident: ModelView, due: float) -> float:
    """Give the time from which this resident may be taken off for a waiter whose bound ends at `due`."""
    if resident.seat in LEAVING_STATES:
        return 0.0  # decided already
    if resident.seat is InstanceState.LOADING:
        return resident.kept_until if resident.idle else inf  # once ready it serves its batch first
    earliest = resident.ready_since + resident.min_residency
    return earliest if resident.idle else max(earliest, due)


def _minimal_victims(candidates: list[ModelView], held: Claim, model: ModelView, view: View) -> list[ModelView]:
    """Those of the candidates that have to go to make room for a model, or none where all of them would not do.

    The cheapest first, and of those never more than needed; or the one that is enough alone, where all of those cost more.
    """
    several = greedy_victims(sorted(candidates, key=_eviction_order), held, model, view) or []
    if len(several) > 1:
        alone = [m for m in candidates if model.claim.fits_beside(held - m.claim, view.capacity)]
        one = min(alone, key=_eviction_order, default=None)
        if one is not None and _eviction_order(one)[:3] <= max(_eviction_order(m)[:3] for m in several):
            return [one] if one.keeping <= sum(m.keeping for m in several) else several
    return several


def greedy_victims(
    candidates: Iterable[ModelView], held: Claim, model: ModelView, view: View
) -> list[ModelView] | None:
    """Choose of the candidates, the first ones first, those that make room for a model by leaving; None: all would not do."""
    victims: list[ModelView] = []
    for candidate in candidates:
        if model.claim.fits_beside(held, view.capacity):
            break
        victims.append(candidate)
        held -= candidate.claim
    if not model.claim.fits_beside(held, view.capacity):
        return None
    for victim in reversed(victims[:-1]):
        if model.claim.fits_beside(held + victim.claim, view.capacity):
            victims.remove(victim)
            held += victim.claim
    return victims


def _eviction_order(model: ModelView) -> EvictionOrder:
    """Sort key: who goes first. Those on their way out, the idle, the less important, the cheaper, the least recently used.

    Never a pinned one for others, and last where the capacity shrinks.
    """
    on_its_way, rest = model.seat in LEAVING_STATES, (model.priority, model.keeping, model.last_used, model.name)
    return (model.pinned, not on_its_way, not model.idle, *rest)
