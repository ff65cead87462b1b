"""Models that requests asked for which another Model answered meanwhile: wanted, though nobody waits. Pure.

A request whose fallback answers leaves the queue, but its model shall still come: else those that follow would have to be
answered by the fallback too, for ever where its answers are quicker than a load. So the router keeps the wish, without a
request, until it sees the model ready or refused; it travels in every snapshot of demand and dies with its router. An
operator's order would not do: it lifts a back-off, and no router could take it back.
"""

from collections.abc import Callable, Collection, Iterable
from math import inf

from hotseat.core.groups import UNGROUPED
from hotseat.core.instance import GOING, Holder
from hotseat.core.messages import SeatState
from hotseat.core.policy import NOTHING
from hotseat.core.switches import Costs


class Wants:
    """Wishes at one router: since when, by model."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def __contains__(self, model: str) -> bool:
        return model in self._since

    def add(self, model: str, since: float) -> bool:
        """Keep a wish; an earlier one counts. Returns whether it is the first for this model."""
        first = model not in self._since
        self._since[model] = min(since, self._since.get(model, inf))
        return first

    def settle(self, models: Iterable[str]) -> None:
        """Forget wishes that came true, or never will."""
        for model in models:
            self._since.pop(model, None)

    def keep(self, models: Collection[str]) -> None:
        """Forget all others."""
        self.settle([model for model in self._since if model not in models])

    def snapshot(self) -> dict[str, float]:
        """Copy, for a Demand."""
        return dict(self._since)


def evicts_at(
    since: float,
    max_wait: float,
    holders: Iterable[Holder],
    costs: Costs,
    idle: Callable[[Holder], bool],
    *,
    grouped: Callable[[str], bool] = UNGROUPED.names,
) -> float:
    """Return the time from which a prewarm request of that age may evict a resident. inf: not in this state.

    No request is queued for it, so it must not evict a model that has just been loaded; two such models would evict each other
    forever. An idle resident is evicted after it has been idle for as long as a reload takes. A busy one is evicted after
    `max_wait` seconds, and at least that cost.
    """
    matter = [h for h in holders if (h.terms.claim != NOTHING or grouped(h.model)) and not h.asleep]
    return min(
        (_goes_at(h, since, max_wait, costs.of(h.model, parks=h.terms.park), idle(h)) for h in matter), default=-inf
    )


def _goes_at(holder: Holder, since: float, max_wait: float, cost: float, idle: bool) -> float:
    if holder.state in (*GOING, SeatState.RELEASING, SeatState.PARKING):
        return -inf
    if holder.state is not SeatState.READY or holder.ready_since is None:
        return inf  # once ready it has its turn first; what is stuck makes no room at all
    turn = max(since, holder.ready_since) + max(max_wait, cost)
    rested = max(holder.last_used, holder.ready_since) + cost
    return min(turn, rested) if idle else turn
