"""Clients whose requests are not held while their model loads (`loading: Refuse`), and that are expected again. Pure.

A refused request is in no queue. So that it loads its model, it leaves a prewarm request, which may evict others
as a queued request may for as long as its client is expected. Once the model is ready, it stays so long for the client.
"""

from collections.abc import Collection, Iterable

MARGIN = 1.5  # a client may come so many times as late as it was told …
LEAST = 5.0  # … and so many seconds late at least


class ExpectedRetries:
    """The clients of one router that are expected again: until when, by model."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, model: str, now: float, seconds: float) -> None:
        """Expect a client that was told to ask again after so many seconds."""
        until = now + max(MARGIN * seconds, seconds + LEAST)
        self._until[model] = max(until, self._until.get(model, 0.0))

    def end(self, model: str) -> None:
        """Expect nobody any longer for a model: a client has come."""
        if self._until:
            self._until.pop(model, None)

    def remove(self, models: Iterable[str]) -> None:
        """Expect nobody any longer for models that are refused for another reason."""
        for model in models:
            self.end(model)

    def retain(self, models: Collection[str]) -> None:
        """Forget all other models."""
        self.remove([model for model in self._until if model not in models])

    def snapshot(self) -> dict[str, float]:
        """Return a copy."""
        return dict(self._until)
