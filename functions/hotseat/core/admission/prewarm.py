"""Models whose requests were answered by a fallback: they are wanted, though no request is queued. Pure.

A request that a fallback answers leaves the queue, but its model is still to be loaded: otherwise
the fallback would answer forever. The router keeps a prewarm request until it sees the model ready
or refused. Prewarm requests are part of each snapshot of demand, and end with their router. A load
request of an operator would not do: it resets a back-off, and a router could not take it back.
"""

from collections.abc import Collection, Iterable
from math import inf


class PrewarmRequests:
    """The prewarm requests of one router: since when, by model."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def __contains__(self, model: str) -> bool:
        return model in self._since

    def add(self, model: str, since: float) -> bool:
        """Add a prewarm request; an earlier one keeps its time. Return whether it is the first for this model."""
        first = model not in self._since
        self._since[model] = min(since, self._since.get(model, inf))
        return first

    def remove(self, models: Iterable[str]) -> None:
        """Remove the requests for models that are ready or refused."""
        for model in models:
            self._since.pop(model, None)

    def retain(self, models: Collection[str]) -> None:
        """Remove the requests for all other models."""
        self.remove([model for model in self._since if model not in models])

    def snapshot(self) -> dict[str, float]:
        """Return a copy."""
        return dict(self._since)
