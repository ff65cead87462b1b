"""Whether a ready engine still answers: GET on its health path now and then, as a liveness probe of Kubernetes does."""

from collections.abc import Callable
from math import inf

from hotseat.api.model import Health
from hotseat.api.types import EngineCall, Method
from hotseat.api.units import format_duration
from hotseat.runtimes.local.engine_http import EngineRefused, EngineRequest


class Liveness:
    """One question each period. The owner polls `fd` for `events` until `due`, and calls step().

    Bytes of an answer to a client say as much as a health check: while they come nothing is asked, and none of the failures so far
    counts. `heard` says when the last ones came. `now` is monotonic seconds, as is that.
    """

    def __init__(
        self, address: tuple[str, int], path: str, health: Health, heard: Callable[[], float], now: float
    ) -> None:
        self._address, self._heard = address, heard
        self._health = health
        self._call = EngineCall.model_construct(path=path, method=Method.GET, body="", timeout=health.period)
        self._engine_request: EngineRequest | None = None
        self._asked = -inf
        self._next = now + health.period
        self._well, self._failures = now, 0  # when it last showed that it lives, and what failed since

    @property
    def due(self) -> float:
        """When to call step() even if nothing happened."""
        return self._next if self._engine_request is None else self._engine_request.due

    @property
    def fd(self) -> int | None:
        """Socket to poll; None while there is none."""
        return None if self._engine_request is None else self._engine_request.fd

    @property
    def events(self) -> int:
        """What to poll it for."""
        return 0 if self._engine_request is None else self._engine_request.events

    def step(self, now: float) -> str:
        """Go as far as can be gone without waiting; says why the engine is to be stopped, once it is."""
        if self._engine_request is None:
            if now < self._next:
                return ""
            if (heard := self._heard()) > now - self._health.period:
                self._lives(heard)
                return ""
            self._asked = now
            self._engine_request = EngineRequest(self._address, [self._call], now)
        try:
            if not self._engine_request.step(now):
                return ""
        except EngineRefused as problem:
            return self._fails(now, str(problem))
        self._lives(now)
        return ""

    def close(self) -> None:
        """Give up."""
        if self._engine_request is not None:
            self._engine_request.close()
            self._engine_request = None

    def _lives(self, at: float) -> None:
        self.close()
        self._well, self._failures = at, 0
        self._next = at + self._health.period

    def _fails(self, now: float, problem: str) -> str:
        if (heard := self._heard()) >= self._asked:
            self._lives(heard)
            return ""
        self.close()
        self._failures += 1
        self._next = self._asked + self._health.period
        if self._failures < self._health.failure_threshold:
            return ""
        times = "" if self._failures == 1 else f" {self._failures} times in a row"
        return (
            f"the engine failed its health check{times}, and has not answered for {now - self._well:.0f} s: {problem} "
            f"(health.period {format_duration(self._health.period)}, health.failureThreshold {self._health.failure_threshold})"
        )
