"""Policies with a strict order: of arrival, or of priority. Pure."""

from collections.abc import Callable
from math import inf

from hotseat.core.messages import WaitReason
from hotseat.core.policy.api import Decision, EvictableAt, ModelView, View
from hotseat.core.policy.batch import most_resident, time_ahead
from hotseat.core.policy.eviction import LEAVING_STATES, evictable_at
from hotseat.core.policy.placement import pending, place, residents


class Fifo:
    """Serve strictly by the oldest queued request: no bound, no priorities, no batches beyond a turn.

    A resident whose oldest request is younger than that of another model is evicted at once: what
    was queued for it is still served. As with Batch, minimum residency holds, and a decided switch
    is not cancelled while requests are queued for it.
    """

    def decide(self, view: View) -> Decision:
        """Return the models that should be resident."""
        return _in_order(view, lambda _: 0)


class Priority:
    """Serve strictly by priority, and by arrival among equals. A busy resident is not evicted for a lower priority.

    Without `ageing` a model of low priority may wait forever. Minimum residency and drains hold for
    high priorities, too.
    """

    def decide(self, view: View) -> Decision:
        """Return the models that should be resident."""
        return _in_order(view, lambda model: -model.urgency(view.now))


def _in_order(view: View, rank: Callable[[ModelView], float]) -> Decision:
    """Decide by rank, the lowest first, then by arrival."""
    kept, held = residents(view)

    def order(model: ModelView) -> tuple[bool, float, bool, float, str]:
        return (not model.may_evict, rank(model), not model.promised, model.oldest, model.name)

    def free_at(resident: ModelView, waiter: ModelView) -> EvictableAt:
        mine = (rank(resident), resident.oldest if resident.waiting else inf)
        first = resident.state not in LEAVING_STATES and not resident.idle and mine <= (rank(waiter), waiter.oldest)
        if first:
            why = WaitReason.PRIORITY if mine[0] < rank(waiter) else WaitReason.BATCH
            return _outranked_at(resident, waiter), why
        at, why = evictable_at(resident, -inf)
        return (resident.kept_until, WaitReason.LINGERING) if resident.kept_until > at else (at, why)

    queue = sorted(pending(view), key=order)
    placed = place(view, kept, held, queue, free_at=free_at)
    ahead = time_ahead(queue, most_resident(view, [m for m in view.models if not m.idle])) if queue else {}
    return Decision(placed.resident, placed.wake_at, queue=queue, obstacles=placed.obstacles, turns_ahead=ahead)


def _outranked_at(resident: ModelView, waiter: ModelView) -> float:
    """Return the time from which a queued model has aged past a resident without queued requests, which does not age."""
    if resident.waiting or not waiter.ageing or resident.priority <= waiter.priority:
        return inf
    return waiter.oldest + (resident.priority - waiter.priority) * waiter.ageing
