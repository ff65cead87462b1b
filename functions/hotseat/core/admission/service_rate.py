"""The measured service rates of queues, and the waits that follow from them. Pure.

Only the time counts in which requests are queued: an idle night does not make a queue slow.
"""

from math import exp

MEMORY = 300.0  # seconds of waiting over which the moving average forgets: some turns of models that load slowly
LEAST_RETRY, MOST_RETRY = 1.0, 300.0  # seconds
UNMEASURED_RETRY = 5.0  # seconds, while nothing is known
RELIABLE = 10  # dispatches, of those not forgotten, from which on a client may be refused by a measurement
OPTIMISM = 2.0  # a queue may drain so many times as fast as it was seen to


class ServiceRate:
    """Dispatches of queued requests per second, over the time that its clock runs."""

    __slots__ = ("_seconds", "_served", "_since")

    def __init__(self) -> None:
        self._served = 0.0
        self._seconds = 0.0
        self._since: float | None = None  # None: does not run

    def run(self, now: float, *, on: bool) -> None:
        """Run or stop the clock."""
        self._pass(now)
        self._since = now if on else None

    def record(self, now: float) -> None:
        """Count a dispatch."""
        self._pass(now)
        self._served += 1

    def rate(self, now: float, least: float = 0.0) -> float | None:
        """Return the requests per second. None: not known, or measured by `least` dispatches or fewer."""
        served, seconds = self._seen(now)
        return served / seconds if served > least and seconds > 0 else None

    def _pass(self, now: float) -> None:
        if self._since is not None and now > self._since:
            self._served, self._seconds = self._seen(now)
            self._since = now

    def _seen(self, now: float) -> tuple[float, float]:
        if self._since is None or now <= self._since:
            return self._served, self._seconds
        kept = exp((self._since - now) / MEMORY)
        return self._served * kept, self._seconds * kept + MEMORY * (1 - kept)


class ServiceRates:
    """The service rates of all models at one router, and of all of them together."""

    def __init__(self) -> None:
        self._overall: dict[str, ServiceRate] = {}  # by model: runs while requests are queued
        self._open: dict[str, ServiceRate] = {}  # by model: runs while requests are queued and it accepts them
        self._total = ServiceRate()

    def update(self, now: float, model: str, *, waits: bool, open_: bool, any_waits: bool) -> None:
        """Update whether a model has queued requests and accepts requests, and whether any are queued."""
        if waits or model in self._overall:
            self._overall.setdefault(model, ServiceRate()).run(now, on=waits)
            self._open.setdefault(model, ServiceRate()).run(now, on=waits and open_)
        self._total.run(now, on=any_waits)

    def record(self, now: float, model: str) -> None:
        """Count the dispatch of a queued request."""
        for each in (self._overall[model], self._open[model], self._total):
            each.record(now)

    def forget(self, models: set[str]) -> None:
        """Forget all other models."""
        for rates in (self._overall, self._open):
            for gone in rates.keys() - models:
                del rates[gone]

    def rate(self, now: float, model: str | None = None) -> float | None:
        """Return the requests per second of a model, or of all, with the time that other models are served."""
        drain = self._total if model is None else self._overall.get(model)
        return drain.rate(now) if drain else None

    def pace(self, now: float, model: str) -> float | None:
        """Return the requests per second of a model while it accepts requests.

        None: not known well enough to refuse a request by it.
        """
        drain = self._open.get(model)
        return drain.rate(now, RELIABLE) if drain else None


def retry_after(count: float, rate: float | None) -> float:
    """Return the seconds until half of `count` requests will have been served.

    Then there is space, and the queue is not empty.
    """
    if not rate:
        return UNMEASURED_RETRY
    return clamp_retry_after(count / 2 / rate)


def clamp_retry_after(seconds: float) -> float:
    """Return the seconds, clamped to what is useful to a client."""
    return min(MOST_RETRY, max(LEAST_RETRY, seconds))


def min_wait(ready_in: float, position: int, slots: int, pace: float | None) -> float:
    """Return a lower bound of the seconds until a queued request is dispatched.

    `ready_in`: seconds until its model is ready. `slots`: how many start at once then, 0: all.
    `pace`: see ServiceRates, None: not known.
    """
    if not slots or not pace:
        return ready_in
    return ready_in + max(0, position - slots) / (OPTIMISM * pace)
