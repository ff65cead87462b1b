"""Policies that go strictly by an order: of arrival, or of priority. Pure."""

from collections.abc import Callable
from math import inf

from hotseat.core.policy.api import Decision, ModelView, View
from hotseat.core.policy.eviction import LEAVING_STATES, evictable_at
from hotseat.core.policy.placement import pending, place, residents


class Fifo:
    """Serve strictly by the oldest request that waits, whatever that costs: no bound, no priorities, no batches beyond a turn.

    A resident whose own oldest is younger than another model's makes room at once: what it held is still served. As under
    Batch, minimum residency holds, and a decided switch is not taken back while somebody waits for it.
    """

    def decide(self, view: View) -> Decision:
        """See the class."""
        return _in_order(view, lambda _: 0)


class Priority:
    """Serve strictly by priority, among equals as Fifo does. A busy resident makes room for none of lower priority.

    Without `ageing` a model of low priority may wait for ever. Minimum residency and drains hold for the high ones, too.
    """

    def decide(self, view: View) -> Decision:
        """See the class."""
        return _in_order(view, lambda model: -model.urgency(view.now))


def _in_order(view: View, rank: Callable[[ModelView], float]) -> Decision:
    """Decide by rank, the lowest first, then by age."""
    kept, held = residents(view)

    def order(model: ModelView) -> tuple[bool, float, bool, float, str]:
        return (not model.may_evict, rank(model), not model.promised, model.oldest, model.name)

    def free_at(resident: ModelView, waiter: ModelView) -> float:
        mine = (rank(resident), resident.oldest if resident.waiting else inf)
        first = resident.state not in LEAVING_STATES and not resident.idle and mine <= (rank(waiter), waiter.oldest)
        return _outranked_at(resident, waiter) if first else max(evictable_at(resident, -inf), resident.kept_until)

    resident, look_again = place(view, kept, held, sorted(pending(view), key=order), free_at=free_at)
    return Decision(resident, look_again)


def _outranked_at(resident: ModelView, waiter: ModelView) -> float:
    """Time from which a waiter has aged past a resident that is only answering: nobody there ages with it."""
    if resident.waiting or not waiter.ageing or resident.priority <= waiter.priority:
        return inf
    return waiter.oldest + (resident.priority - waiter.priority) * waiter.ageing
