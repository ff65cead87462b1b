"""Which member of a virtual model gets a request. Pure."""

from collections.abc import Sequence

# States of a ModelStatus, from the one whose member answers first to the one whose member answers last.
_WARMTH = (
    ("ready",),
    ("loading", "restoring", "waking", "fetching"),
    ("parked",),
)
_FAILED = "failed"


def warmest(states: Sequence[str]) -> int:
    """Return the index of the first member that is ready, else of one that is loading, or parked, or has not failed, or of the first."""
    return min(range(len(states)), key=lambda index: _coldness(states[index]))


def _coldness(state: str) -> int:
    known = next((place for place, names in enumerate(_WARMTH) if state in names), len(_WARMTH))
    return known + (state == _FAILED)


def first_with_room(requests: Sequence[int], limits: Sequence[int | None]) -> int:
    """Return the index of the first member with fewer requests than its limit, else of the last. A limit of None is none."""
    for index, (count, limit) in enumerate(zip(requests, limits, strict=True)):
        if limit is None or count < limit:
            return index
    return len(requests) - 1


class SmoothWeights:
    """Weighted round robin that spreads the turns of each member evenly: with weights 5, 1, 1 they are 0 0 1 0 2 0 0."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = tuple(weights)
        self._credits = [0] * len(self.weights)

    def choose(self, candidates: Sequence[int]) -> int:
        """Return which of the candidates, which are indexes of members, has its turn."""
        total = 0
        for index in candidates:
            self._credits[index] += self.weights[index]
            total += self.weights[index]
        chosen = max(candidates, key=lambda index: (self._credits[index], -index))
        self._credits[chosen] -= total
        return chosen
