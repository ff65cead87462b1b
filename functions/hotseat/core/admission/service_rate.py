"""How fast what waits is served: measured, and what follows from it for those who come or wait. Pure.

Only the time counts in which somebody waits: an idle night does not make a queue slow.
"""

from math import exp

MEMORY = 300.0  # seconds of waiting over which the moving average forgets: some turns of models that load slowly
LEAST_RETRY, MOST_RETRY = 1.0, 300.0  # seconds
UNMEASURED_RETRY = 5.0  # seconds, while nothing is known
RELIABLE = 10  # dispatches, of those not forgotten, from which on a client may be refused by a measurement
OPTIMISM = 2.0  # a queue may drain so many times as fast as it was seen to


class ServiceRate:
    """Dispatches per second of what waited, over the time that `runs`."""

    __slots__ = ("_seconds", "_served", "_since")

    def __init__(self) -> None:
        self._served = 0.0
        self._seconds = 0.0
        self._since: float | None = None  # None: does not run

    def run(self, now: float, *, on: bool) -> None:
        """Let time count from now on, or not."""
        self._pass(now)
        self._since = now if on else None

    def record(self, now: float) -> None:
        """Count a dispatch."""
        self._pass(now)
        self._served += 1

    def rate(self, now: float, least: float = 0.0) -> float | None:
        """Give the requests per second; None: nothing is known, or less than `least` dispatches speak for it."""
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
    """Drains of all models at one router, and of all of them together."""

    def __init__(self) -> None:
        self._overall: dict[str, ServiceRate] = {}  # by model: runs while somebody waits for it
        self._open: dict[str, ServiceRate] = {}  # by model: runs while somebody waits and it takes requests
        self._total = ServiceRate()

    def update(self, now: float, model: str, *, waits: bool, open_: bool, any_waits: bool) -> None:
        """Take in whether somebody waits for a model, whether it takes requests, and whether anybody waits at all."""
        if waits or model in self._overall:
            self._overall.setdefault(model, ServiceRate()).run(now, on=waits)
            self._open.setdefault(model, ServiceRate()).run(now, on=waits and open_)
        self._total.run(now, on=any_waits)

    def record(self, now: float, model: str) -> None:
        """Count a dispatch of one that waited."""
        for each in (self._overall[model], self._open[model], self._total):
            each.record(now)

    def forget(self, models: set[str]) -> None:
        """Know of no other models any longer."""
        for book in (self._overall, self._open):
            for gone in book.keys() - models:
                del book[gone]

    def rate(self, now: float, model: str | None = None) -> float | None:
        """Give the requests per second of a model, or of all; its turns and the others' are both in it."""
        drain = self._total if model is None else self._overall.get(model)
        return drain.rate(now) if drain else None

    def pace(self, now: float, model: str) -> float | None:
        """Give the requests per second of a model while it takes them, where enough was seen to refuse somebody for it."""
        drain = self._open.get(model)
        return drain.rate(now, RELIABLE) if drain else None


def retry_after(count: float, rate: float | None) -> float:
    """Seconds until half of so many that wait will have been served: then there is room, and the queue has not run dry."""
    if not rate:
        return UNMEASURED_RETRY
    return clamp_retry_after(count / 2 / rate)


def clamp_retry_after(seconds: float) -> float:
    """Keep a time to come again within what a client can make sense of."""
    return min(MOST_RETRY, max(LEAST_RETRY, seconds))


def min_wait(ready_in: float, position: int, slots: int, pace: float | None) -> float:
    """Seconds until a waiter's turn at the least: everything goes as well as it may.

    `slots`: how many begin at once when the model gets ready, 0: all of them. `pace`: see Drains, None: not known.
    """
    if not slots or not pace:
        return ready_in
    return ready_in + max(0, position - slots) / (OPTIMISM * pace)
