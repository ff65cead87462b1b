"""Who gets a seat, and who has to leave for that: what all policies share. Pure.

A policy brings an order of those that want one, and says from when each resident may be taken off for whom.
"""

from collections.abc import Callable, Iterable
from math import inf

from hotseat.core.messages import SeatState
from hotseat.core.policy import NOTHING, Capacity, Claim, ModelView, View

GOING = (SeatState.CLOSING, SeatState.DRAINING)
_STAYS = (SeatState.LOADING, SeatState.READY, *GOING)


def residents(view: View) -> tuple[dict[str, ModelView], Claim]:
    """Those that may stay, by name, and what is taken beside what the capacity makes us shed at once."""
    kept = {m.name: m for m in view.models if m.seat in _STAYS and not m.leaving}
    held = sum((m.claim for m in (*kept.values(), *_stuck(view))), NOTHING)
    return kept, held - _shed(kept, held, view.capacity)


def those_wanting(view: View) -> list[ModelView]:
    """List the models that somebody waits for and that are to be loaded for that."""
    return [m for m in view.models if m.waiting and (m.seat is None or m.leaving)]


def seat(
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
    look_again: float | None = None
    blocked = False  # whoever is first is served first: nobody overtakes by needing less
    for model in queue:
        fits = model.claim.fits_beside(held, view.capacity)
        victims: list[ModelView] = []
        if not fits and model.may_evict and not blocked:
            times = {m.name: free_at(m, model) for m in kept.values() if m.claim != NOTHING and not m.pinned}
            victims = _fewest([m for m in kept.values() if times.get(m.name, inf) <= view.now], held, model, view)
            if not victims:
                blocked = True
                # More to take, or another first.
                look_again = min((at for at in (*times.values(), *alarms) if view.now < at < inf), default=None)
        for victim in victims:
            held -= victim.claim
            del kept[victim.name]
        if victims or (fits and not (blocked and model.claim != NOTHING)):
            chosen.append(model.name)
            held += model.claim.placed_beside(held, view.capacity)
    return (*kept, *chosen), look_again


def _stuck(view: View) -> list[ModelView]:
    return [m for m in view.models if m.seat is SeatState.UNPROVEN]


def _shed(kept: dict[str, ModelView], held: Claim, capacity: Capacity) -> Claim:
    """Take off what a capacity that has shrunk does not hold; returns the claims of those."""
    shed = NOTHING
    for resident in sorted(kept.values(), key=_reluctance):
        if not resident.claim.fits_beside(held - shed - resident.claim, capacity):
            del kept[resident.name]
            shed += resident.claim
    return shed


def evictable_at(resident: ModelView, due: float) -> float:
    """Give the time from which this resident may be taken off for a waiter whose bound ends at `due`."""
    if resident.seat in GOING:
        return 0.0  # decided already
    if resident.seat is SeatState.LOADING:
        return 0.0 if resident.idle else inf  # once ready it serves its batch first
    earliest = resident.ready_since + resident.min_residency
    return earliest if resident.idle else max(earliest, due)


def _fewest(candidates: list[ModelView], held: Claim, model: ModelView, view: View) -> list[ModelView]:
    """Those of the candidates that have to go to make room for a model, or none where all of them would not do.

    The cheapest first, and of those never more than needed; or the one that is enough alone, where all of those cost more.
    """
    several = _cheapest_first(candidates, held, model, view)
    if len(several) > 1:
        enough = [m for m in candidates if model.claim.fits_beside(held - m.claim, view.capacity)]
        one = min(enough, key=_reluctance, default=None)
        if one is not None and _reluctance(one)[:3] <= max(_reluctance(m)[:3] for m in several):
            return [one] if one.keeping <= sum(m.keeping for m in several) else several
    return several


def _cheapest_first(candidates: list[ModelView], held: Claim, model: ModelView, view: View) -> list[ModelView]:
    victims: list[ModelView] = []
    for candidate in sorted(candidates, key=_reluctance):
        victims.append(candidate)
        held -= candidate.claim
        if model.claim.fits_beside(held, view.capacity):
            break
    else:
        return []
    for victim in reversed(victims[:-1]):
        if model.claim.fits_beside(held + victim.claim, view.capacity):
            victims.remove(victim)
            held += victim.claim
    return victims


def _reluctance(model: ModelView) -> tuple[bool, bool, bool, int, float, float, str]:
    """Sort key: who goes first. Those on their way out, the idle, the less important, the cheaper, the least recently used.

    Never a pinned one for others, and last where the capacity shrinks.
    """
    on_its_way, rest = model.seat in GOING, (model.priority, model.keeping, model.last_used, model.name)
    return (model.pinned, not on_its_way, not model.idle, *rest)
