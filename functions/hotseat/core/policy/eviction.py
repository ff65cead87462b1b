"""Which instances are evicted, and in which order. Pure.

Residents are evicted from the accelerator for queued requests and for preferences (pins, schedules, the default Model), parked
engines from host memory for others that park. All of them are chosen here, by `eviction_key` or `parked_victims`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from typing import Protocol, TypeVar

from hotseat.core.messages import InstanceState, WaitReason
from hotseat.core.policy.api import NOTHING, Claim, EvictableAt, ModelView, Preference, View

LEAVING_STATES = (InstanceState.QUIESCING, InstanceState.DRAINING)
EvictionKey = tuple[bool, bool, bool, int, float, float, str]


def eviction_key(model: ModelView, *, by_priority: bool = True) -> EvictionKey:
    """Return the sort key of a resident: the lowest is evicted first.

    The order is: draining, or not started yet; idle; lower priority; lower expected cost of a reload; least recently used. A pinned
    resident comes last: it is evicted only where the capacity shrinks.
    """
    holds = model.state is not None and not model.leaving
    leaves = not holds or model.state in LEAVING_STATES
    priority = model.priority if by_priority else 0
    return (
        model.pinned,
        not leaves,
        holds and not model.idle,
        priority,
        model.keeping,
        model.last_used,
        model.name,
    )


# When -----------------------------------------------------------------------------------------------------------------


def evictable_at(resident: ModelView, due: float) -> EvictableAt:
    """Return the time from which a resident may be evicted for a queued request, and why not before. inf: not in this state.

    `due` is when the bound of the request ends.
    """
    if resident.state in LEAVING_STATES:
        return 0.0, WaitReason.DRAINING  # decided already
    if resident.state is InstanceState.LOADING:  # once ready it serves its batch first
        return (resident.kept_until, WaitReason.LINGERING) if resident.idle else (inf, WaitReason.TURN)
    earliest = resident.ready_since + resident.min_residency
    if resident.idle or earliest >= due:
        return earliest, WaitReason.MIN_RESIDENCY
    return due, WaitReason.BATCH


def evictable_for_preference_at(resident: ModelView, model: ModelView) -> float:
    """Return the time from which a resident may be evicted for a preference. inf: not in this state.

    A recently used model stays for as long as an unload plus a reload would take (the ski-rental rule: at most twice the
    optimal cost). The default model uses `returnToDefault` instead.
    """
    if resident.state is None or resident.leaving:
        never = resident.may_evict or resident.preference >= model.preference
        return inf if never else -inf  # a preload that has not begun
    if resident.pinned or resident.preference >= model.preference or not resident.idle:
        return inf
    if resident.state in LEAVING_STATES:
        return -inf
    if resident.state is not InstanceState.READY:
        return inf  # it loads
    patience = 0.0 if model.preference is Preference.DEFAULT else resident.switch_cost + model.switch_cost
    return max(resident.ready_since + resident.min_residency, resident.last_used + patience)


# Victims on the accelerator -------------------------------------------------------------------------------------------


def victims_for_requests(
    model: ModelView,
    eviction_options: Iterable[frozenset[str]],
    evictable: Mapping[str, ModelView],
    held: Claim,
    view: View,
) -> list[ModelView]:
    """Return the residents to evict for a model with queued requests: for its groups, and for its claim.

    Empty if those that are `evictable` now are not enough.
    """
    return min(
        _options(model, eviction_options, evictable, held, view, choose=_minimal_victims),
        key=_eviction_cost,
        default=[],
    )


def victims_for_preference(
    model: ModelView,
    there: list[ModelView],
    evictable: Mapping[str, ModelView],
    held: Claim,
    view: View,
    *,
    names: list[str],
) -> list[ModelView] | None:
    """Return the residents to evict for a preference. None: those that are `evictable` now are not enough.

    Priorities do not count. Of choices that cost the same, the one with the fewest, then the least
    recently used is taken. `there` are the models that should be resident without it, `names` those
    and the unproven ones.
    """
    groups = view.groups

    def greedy(candidates: list[ModelView], left: Claim, model: ModelView, view: View) -> list[ModelView]:
        return _greedy_victims(sorted(candidates, key=lambda m: eviction_key(m, by_priority=False)), left, model, view)

    found = _options(model, groups.eviction_options(model.name, names), evictable, held, view, choose=greedy)
    coming = [m.name for m in there if m.state is None or m.leaving]  # the preference must not evict any of them
    found = [
        each
        for each in found
        if not any(groups.must_leave(model.name, n) for n in coming if n not in {m.name for m in each})
    ]

    def cost(victims: list[ModelView]) -> tuple[float, int, list[EvictionKey]]:
        keys = sorted((eviction_key(m, by_priority=False) for m in victims), reverse=True)
        return sum(m.keeping for m in victims), len(victims), keys

    return min(found, key=cost, default=None)


def _options(
    model: ModelView,
    eviction_options: Iterable[frozenset[str]],
    evictable: Mapping[str, ModelView],
    held: Claim,
    view: View,
    *,
    choose: Callable[[list[ModelView], Claim, ModelView, View], list[ModelView]],
) -> list[list[ModelView]]:
    """Return the victims of each choice that the groups leave, where it is possible.

    They are those of the groups, and more if the claim needs them.
    """
    found: list[list[ModelView]] = []
    for way in eviction_options:
        if not way <= evictable.keys():
            continue
        forced = [evictable[name] for name in way]
        left = held - sum((m.claim for m in forced), NOTHING)
        if model.claim.fits_beside(left, view.capacity):
            found.append(forced)
            continue
        others = [m for m in evictable.values() if m.name not in way and m.claim != NOTHING]
        if more := choose(others, left, model, view):
            found.append([*forced, *more])
    return found


def _eviction_cost(victims: list[ModelView]) -> tuple[int, float, int, list[EvictionKey]]:
    """Return the sort key of a set of victims.

    The order is: fewer busy ones; lower expected cost of reloads; fewer victims. Draining ones do
    not count.
    """
    lost = [m for m in victims if m.state not in LEAVING_STATES]
    keys = sorted(map(eviction_key, victims), reverse=True)
    return sum(not m.idle for m in lost), sum(m.keeping for m in lost), len(lost), keys


def _minimal_victims(candidates: list[ModelView], held: Claim, model: ModelView, view: View) -> list[ModelView]:
    """Return the candidates to evict for the claim of a model. Empty if all of them are not enough.

    They are chosen greedily, unless a single one is enough and does not cost more.
    """
    several = _greedy_victims(sorted(candidates, key=eviction_key), held, model, view)
    if len(several) > 1:
        alone = [m for m in candidates if model.claim.fits_beside(held - m.claim, view.capacity)]
        one = min(alone, key=eviction_key, default=None)
        if one is not None and eviction_key(one)[:3] <= max(eviction_key(m)[:3] for m in several):
            return [one] if one.keeping <= sum(m.keeping for m in several) else several
    return several


def _greedy_victims(candidates: Iterable[ModelView], held: Claim, model: ModelView, view: View) -> list[ModelView]:
    """Return the first candidates that are enough, without those that are not needed.

    Empty if all of them are not enough.
    """
    victims: list[ModelView] = []
    for candidate in candidates:
        if model.claim.fits_beside(held, view.capacity):
            break
        victims.append(candidate)
        held -= candidate.claim
    if not model.claim.fits_beside(held, view.capacity):
        return []
    for victim in reversed(victims[:-1]):
        if model.claim.fits_beside(held + victim.claim, view.capacity):
            victims.remove(victim)
            held += victim.claim
    return victims


# Victims in host memory -----------------------------------------------------------------------------------------------


class Parked(Protocol):
    """A parked instance."""

    model: str
    id: str
    last_used: float


P = TypeVar("P", bound=Parked)


def parked_victims(
    parked: Iterable[P], excess: float, memory_of: Callable[[P], int], queued: Collection[str]
) -> list[P]:
    """Return the parked instances to stop until `excess` bytes are freed; all of them, if they hold less.

    The order is: no request queued for its model (`queued`), then least recently used.
    """
    victims: list[P] = []
    for each in sorted(parked, key=lambda one: (one.model in queued, one.last_used, one.id)):
        if excess <= 0:
            break
        victims.append(each)
        excess -= memory_of(each)
    return victims
