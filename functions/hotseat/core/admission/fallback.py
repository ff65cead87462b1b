"""The conditions under which a fallback answers, and the Models that requests asked for meanwhile. Pure."""

from collections.abc import Collection, Iterable
from math import inf

from hotseat.api.model import Fallback, Reason
from hotseat.core.errors import HotseatError, QueueFull, Unreachable, UpstreamRejected


class PrewarmRequests:
    """The prewarm requests of one router: since when, by model.

    A request that a fallback answers leaves the queue, but its model is still to be loaded: otherwise
    the fallback would answer forever. The router keeps a prewarm request until it sees the model ready
    or refused. Prewarm requests are part of each snapshot of demand, and end with their router. A load
    request of an operator would not do: it resets a back-off, and a router could not take it back.
    """

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


_ASSUMED = ("chat", "completion")  # of a Model that states no capabilities
_ON_THE_WAY = ("loading", "fetching", "waking")  # states of a ModelStatus
NOT_LOADING = ("unloaded", "parked")  # the same, of a model that is not resident and not loading
_SETTLED = 0.05  # seconds within which a requested model starts to load, if it can
_SHORTEST_LOOK, _LONGEST_LOOK = 0.1, 1.0  # seconds


# Codes of refusals after which there is no use in waiting, and what they mean to a client that would take another Model.
_REFUSALS = {
    "model_failed": Reason.FAILED,
    "not_loadable": Reason.FAILED,
    "too_large": Reason.FAILED,
    "release_unproven": Reason.FAILED,
    "upstream_failed": Reason.FAILED,
    "upstream_unavailable": Reason.FAILED,
    "weights_not_cached": Reason.LOADING,
    "model_switching_in_progress": Reason.LOADING,
    "queue_full": Reason.WAITING,
    "deadline_unreachable": Reason.WAITING,
    "pinned": Reason.WAITING,
}
_KINDS = {
    Unreachable: Reason.FAILED,
    UpstreamRejected: Reason.FAILED,
    QueueFull: Reason.WAITING,
}  # of errors without a code


def fallback_reason(
    fallback: Fallback, state: str, waited: float, expected: float | None, limit: float | None = None
) -> Reason | None:
    """Return the reason why a fallback should answer a queued request, or None.

    `state` is the state of the requested model, as in a ModelStatus. `waited` is its wait so far, `expected`
    the time until it is ready (None: unknown), and `limit` the client's own limit on waiting, all in seconds.
    """
    if state in NOT_LOADING and waited < _SETTLED and not {Reason.LOADING, Reason.WAITING} <= set(fallback.when):
        return None  # whether it loads or has to wait is not known yet
    reason = Reason.LOADING if state in _ON_THE_WAY else Reason.WAITING
    bound = _bound(fallback, limit)
    late = waited >= bound or (expected is not None and waited + expected > bound)
    return reason if late and reason in fallback.when else None


def reason_after_refusal(fallback: Fallback | None, error: HotseatError) -> Reason | None:
    """Return the reason why a fallback should answer a refused request, or None."""
    reason = _KINDS.get(type(error)) if error.code is None else _REFUSALS.get(error.code)
    return reason if fallback is not None and reason in fallback.when else None


def next_check(fallback: Fallback, waited: float, limit: float | None = None) -> float:
    """Return the seconds until `fallback_reason` should be asked again: at the bound, and periodically before."""
    if waited < _SETTLED:
        return _SETTLED - waited
    pause = min(_LONGEST_LOOK, max(_SHORTEST_LOOK, waited / 2))
    rest = _bound(fallback, limit) - waited
    return min(pause, rest) if rest > 0 else pause


def supports(stated: Collection[str], capability: str) -> bool:
    """Whether a fallback supports a capability. Without stated capabilities it is assumed to chat and complete only.

    Embeddings of different models do not mix, so a fallback must state them.
    """
    return capability in (stated or _ASSUMED)


def _bound(fallback: Fallback, limit: float | None) -> float:
    return fallback.after if limit is None else min(fallback.after, limit)
