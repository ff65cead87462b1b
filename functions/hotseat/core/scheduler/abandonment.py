"""Clients that give up before their model is ready, and ask again (a retrial queue). Pure.

A client with a timeout asks, gives up, pauses and asks again. In the pause no request is queued for
its model: a load that is cancelled in each pause never ends, and a wait that begins anew with each
try never reaches its bound. So the tries of a model's clients count as one wait, from the first
request until the model answers. Clients that gave up are expected again, for as long as they had
waited or as their last pause suggests, unless they stayed away the last time.
"""

from dataclasses import dataclass, field

WITHIN = 60.0  # seconds, or twice their wait: clients that ask again within it have paused, not left
MARGIN = 1.5  # a pause may be so many times as long as the last


@dataclass(slots=True)
class _Tries:
    """The tries of one model since it last answered. Times are seconds on the clock of the scheduler."""

    first: float  # arrival of the first request
    since: float = 0.0  # when the last request that waited left, and …
    waited: float = 0.0  # … for how long the oldest of those that left last had waited
    away: bool = False  # no request waits now
    came_back: bool = False


@dataclass(slots=True)
class Abandonment:
    """The abandoned requests of all models of a Workspace."""

    _tries: dict[str, _Tries] = field(default_factory=dict)  # by model
    # By model: seconds until its clients asked again the last time.
    _pauses: dict[str, float] = field(default_factory=dict)
    _stayed_away: set[str] = field(default_factory=set)  # models whose clients did not ask again in time the last time

    def record_abandoned(self, model: str, now: float, oldest: float) -> None:
        """Record that the last queued request of a model left without an answer.

        `oldest` is the arrival of the oldest one.
        """
        tries = self._tries.setdefault(model, _Tries(oldest))
        tries.away, tries.since, tries.waited = True, now, now - oldest

    def record_queued(self, model: str, now: float, oldest: float) -> None:
        """Record that requests are queued for a model, the oldest since `oldest`."""
        tries = self._tries.setdefault(model, _Tries(oldest))
        if not tries.away:
            return
        pause = now - tries.since
        if pause <= max(WITHIN, 2 * tries.waited):
            tries.away, tries.came_back = False, True
            self._pauses[model] = pause
            self._stayed_away.discard(model)
        else:
            self._tries[model] = _Tries(oldest)
            self._pauses.pop(model, None)
            self._stayed_away.add(model)

    def reset(self, model: str) -> None:
        """Forget the tries of a model: it answers its requests, or they were refused."""
        self._tries.pop(model, None)

    def forget(self, model: str) -> None:
        """Forget a model."""
        self.reset(model)
        self._pauses.pop(model, None)
        self._stayed_away.discard(model)

    # Reading ----------------------------------------------------------------------------------------------------------

    def since(self, model: str, oldest: float) -> float:
        """Return the arrival of the first try of the queued requests of a model; `oldest` where this is the first."""
        tries = self._tries.get(model)
        return min(tries.first, oldest) if tries else oldest

    def expected_until(self, model: str) -> float:
        """Return the time until which clients of a model that gave up are expected again. 0: none are."""
        tries = self._tries.get(model)
        if tries is None or not tries.away or model in self._stayed_away:
            return 0.0
        return tries.since + max(tries.waited, MARGIN * self._pauses.get(model, 0.0))

    def retries(self, model: str, now: float) -> tuple[int, float]:
        """Return 1 and the arrival of the first try, if clients that came back before are expected again. Else 0."""
        tries = self._tries.get(model)
        if tries is None or not tries.came_back or now >= self.expected_until(model):
            return 0, 0.0
        return 1, tries.first
