"""Models that requests asked for which another Model answered meanwhile: wanted, though nobody waits. Pure.

A request whose fallback answers leaves the queue, but its model shall still come: else those that follow would have to be
answered by the fallback too, for ever where its answers are quicker than a load. So the router keeps the wish, without a
request, until it sees the model ready or refused; it travels in every snapshot of demand and dies with its router. An
operator's order would not do: it lifts a back-off, and no router could take it back.
"""

from collections.abc import Collection, Iterable
from math import inf


class PrewarmRequests:
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

    def remove(self, models: Iterable[str]) -> None:
        """Forget preferences that came true, or never will."""
        for model in models:
            self._since.pop(model, None)

    def retain(self, models: Collection[str]) -> None:
        """Forget all others."""
        self.remove([model for model in self._since if model not in models])

    def snapshot(self) -> dict[str, float]:
        """Copy, for a Demand."""
        return dict(self._since)
