"""The soonest that each model can be ready, as the switching machine sees it: a lower bound, by what has been learned. Pure.

It is there to refuse at once who could not be served in time however well everything went. So it counts only what no policy
can avoid: that one of those in the way has to stop, where there is no room beside them, and that the model has to load. What has
never been measured counts as nothing, and what has been measured may go faster next time. A guess, which may be wrong either way,
is what a fallback goes by (`gateway.course.expected_in`).
"""

from collections.abc import Iterable, Mapping

from hotseat.core.instance import SLEEPING, Holder
from hotseat.core.messages import Residency, SeatState
from hotseat.core.policy import NOTHING, Capacity
from hotseat.core.seats import Terms
from hotseat.core.switches import UNKNOWN, Costs, Estimate

LEAST = 0.5  # of the time that a step takes on average: it may go so much faster, though it never was seen to
DOUBT = 3.0  # times that it differs from its average as a rule: it may be so much shorter
_AWAY = frozenset({SeatState.RELEASING, SeatState.PARKING})
_COMES = frozenset({SeatState.LOADING, SeatState.WAKING})
_LEAVES = frozenset({SeatState.READY, SeatState.CLOSING, SeatState.DRAINING, *_AWAY, *_COMES})


def outlook(
    now: float, terms: Mapping[str, Terms], holders: Iterable[Holder], costs: Costs, capacity: Capacity
) -> dict[str, float]:
    """Seconds from now until each model can be ready at the soonest; those that may be at once are left out."""
    there = list(holders)
    held = sum((h.occupied(capacity) for h in there), NOTHING)
    result: dict[str, float] = {}
    for name, its in terms.items():
        if name not in costs.load and name not in costs.wake:
            continue  # nothing has been measured
        mine = [h for h in there if h.model == name]
        sleeps = any(h.state in SLEEPING for h in mine)
        load = _least((costs.wake if sleeps else costs.load).get(name, UNKNOWN))
        if its.external or not load:
            continue
        if all(h.state is SeatState.PARKED for h in mine):  # or there are none
            room = 0.0 if its.claim.fits_beside(held, capacity) else _room(now, there, costs)
            result[name] = room + load
        elif all(h.state in _AWAY for h in mine):
            result[name] = max(_stop(now, h, costs) for h in mine) + load
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


def _room(now: float, holders: list[Holder], costs: Costs) -> float:
    """Seconds until the first of those that hold something can be gone."""
    return min(
        (_stop(now, h, costs) for h in holders if h.terms.claim != NOTHING and not h.asleep and h.state in _LEAVES),
        default=0.0,
    )


def _stop(now: float, holder: Holder, costs: Costs) -> float:
    """Seconds that stopping it, or its falling asleep, takes at the least, from now on."""
    learned = _least(costs.stop.get(holder.model, UNKNOWN))
    if holder.terms.park and holder.stop_asked is None:
        learned = min(learned, _least(costs.park.get(holder.model, UNKNOWN)))
    asked = holder.since if holder.state is SeatState.PARKING else holder.stop_asked
    return learned if asked is None else max(0.0, learned - (now - asked))


def _least(learned: Estimate) -> float:
    """Seconds that a step takes if it goes as well as it may."""
    return max(0.0, min(LEAST * learned.mean, learned.mean - DOUBT * learned.spread))
