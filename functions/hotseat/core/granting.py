"""What a wish may do to a policy's decision: take a free seat, or that of an idle model, and be in nobody's way. Pure.

A policy knows demand; this is laid over whatever it decided. So every policy has wishes, also one that never heard of them,
and none of them can make a request wait for longer than a drain that nobody is in.
"""

from dataclasses import replace
from math import inf

from hotseat.core.messages import SeatState
from hotseat.core.placing import GOING, STAYING, enough, stuck_ones, those_wanting
from hotseat.core.policy import NOTHING, Capacity, Claim, Decision, ModelView, Policy, View, Wish


def decide(policy: Policy, view: View) -> Decision:
    """Let a policy decide, and grant the wishes that its decision leaves room for."""
    decision = policy.decide(view)
    resident, look_again = grant(view, decision)
    obliging = tuple(name for name in decision.resident if name not in resident)
    return replace(decision, resident=resident, look_again=look_again, obliging=obliging)


def grant(view: View, decision: Decision) -> tuple[tuple[str, ...], float | None]:
    """Add what is wished for, instead of idle models where need be; wishes wait while anybody waits for a seat.

    Pinned residents stay, whatever the policy says, as far as the capacity holds them. Returns all that should be resident,
    and when to look again.
    """
    models: dict[str, ModelView] = {}
    for model in view.models:
        models.setdefault(model.name, model)  # the holder that counts comes first
    resident = _with_pinned(view, models, decision.resident)
    wishes = [m for m in models.values() if m.wish and m.name not in resident]
    if not wishes or any(m.may_evict for m in those_wanting(view)):
        return resident, decision.look_again
    look_again = [] if decision.look_again is None else [decision.look_again]
    there = [models[name] for name in resident if name in models]
    taken = _sum([*there, *stuck_ones(view)], view.capacity)
    granted: set[str] = set()  # none of these goes for a lesser one
    for wish in sorted(wishes, key=lambda m: (-m.wish, m.name)):
        times = [(_free_at(m, wish), m) for m in there if m.name not in granted]
        victims = _victims([m for at, m in times if at <= view.now], there, taken, wish, view)
        if victims is None:
            look_again += [at for at, _ in times if view.now < at < inf]
            continue
        granted.add(wish.name)
        resident = (*(name for name in resident if name not in victims), wish.name)
        there = [models[name] for name in resident if name in models]
        taken = _sum([*there, *stuck_ones(view)], view.capacity)
    return resident, min(look_again, default=None)


def _with_pinned(view: View, models: dict[str, ModelView], resident: tuple[str, ...]) -> tuple[str, ...]:
    """Put back pinned residents that a policy left out, and leave out what does not fit beside them."""
    pinned = {m.name for m in models.values() if m.pinned and m.seat in STAYING and not m.leaving}
    if pinned <= set(resident):
        return resident
    held, kept = _sum(stuck_ones(view), view.capacity), list[str]()

    def order(name: str) -> tuple[bool, bool, bool, str]:
        return (name not in pinned, models[name].seat is None, name not in resident, name)

    for name in sorted({*resident, *pinned} & models.keys(), key=order):
        there = models[name].seat in STAYING and not models[name].leaving
        if models[name].claim.fits_beside(held, view.capacity) and (there or view.groups.allows(name, kept)):
            held += models[name].claim.placed_beside(held, view.capacity)
            kept.append(name)
    return tuple(kept)


def _free_at(resident: ModelView, wish: ModelView) -> float:
    """Return the time from which a resident may be evicted for a load request that no request waits for. inf: never.

    A recently used model stays for as long as an unload plus a reload would take (the ski-rental rule: at most twice the
    optimal cost). The default model uses `returnToDefault` instead.
    """
    if resident.seat is None or resident.leaving:
        return inf if resident.may_evict or resident.wish >= wish.wish else -inf  # a preload that has not begun
    if resident.pinned or resident.wish >= wish.wish or not resident.idle:
        return inf
    if resident.seat in GOING:
        return -inf
    if resident.seat is not SeatState.READY:
        return inf  # it loads
    patience = 0.0 if wish.wish is Wish.DEFAULT else resident.switch_cost + wish.switch_cost
    return max(resident.ready_since + resident.min_residency, resident.last_used + patience)


def _victims(
    candidates: list[ModelView], there: list[ModelView], held: Claim, wish: ModelView, view: View
) -> set[str] | None:
    """Choose those that have to go for their groups and for the room; None where not all of them may."""
    groups, names = view.groups, [m.name for m in (*there, *stuck_ones(view))]
    may_go = {m.name: m for m in candidates if groups.may_leave(m.name, wish.name)}
    found: list[set[str]] = []
    for way in groups.ways(wish.name, names):
        left = held - sum((may_go[name].claim for name in way if name in may_go), NOTHING)
        others = [m for m in may_go.values() if m.name not in way and m.claim != NOTHING]
        more = enough(sorted(others, key=_cheapest), left, wish, view) if way <= may_go.keys() else None
        if more is not None:
            found.append({*way, *(m.name for m in more)})
    coming = [m.name for m in there if m.seat is None or m.leaving]  # none of them has to leave for what was wished for
    found = [each for each in found if not any(groups.must_leave(wish.name, n) for n in coming if n not in each)]
    return min(found, key=lambda each: sum(may_go[name].keeping for name in each), default=None)


def _cheapest(model: ModelView) -> tuple[bool, float, float, str]:
    """Sort key: who goes first for a wish, to which priorities are nothing."""
    return (model.seat is SeatState.READY, model.keeping, model.last_used, model.name)


def _sum(models: list[ModelView], capacity: Capacity) -> Claim:
    """Add up what they take: those that come, on the devices that they will get."""
    held = NOTHING
    for model in sorted(models, key=lambda m: m.seat is None):
        held += model.claim.placed_beside(held, capacity)
    return held
