"""Liveness checks of a ready engine: a GET of its health path in each period, like a liveness probe of Kubernetes."""

from collections.abc import Callable
from math import inf

from hotseat.api.lifecycle import Health
from hotseat.api.types import EngineCall, Method
from hotseat.api.units import format_duration
from hotseat.runtimes.engine_http import EngineRefused, EngineRequest


class Liveness:
    """The liveness checks of one engine.

    The owner polls `fd` for `events` until `due`, and calls step(). `last_received` returns when
    the last bytes of a response came from the engine. While they come, no check is made, and
    earlier failures do not count. All times are monotonic seconds.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        health: Health,
        last_received: Callable[[], float],
        now: float,
        *,
        headers: bytes = b"",
    ) -> None:
        self._address, self._last_received, self._headers = address, last_received, headers
        self._health = health
        self._call = EngineCall.model_construct(path=path, method=Method.GET, body="", timeout=health.period)
        self._request: EngineRequest | None = None
        self._requested_at = -inf
        self._next = now + health.period
        self._last_success, self._failures = now, 0  # failures since the last success

    @property
    def due(self) -> float:
        """When to call step() even if nothing happened."""
        return self._next if self._request is None else self._request.due

    @property
    def fd(self) -> int | None:
        """Socket to poll; None if there is nothing to poll for."""
        return None if self._request is None else self._request.fd

    @property
    def events(self) -> int:
        """Events to poll the socket for."""
        return 0 if self._request is None else self._request.events

    def step(self, now: float) -> str:
        """Do what is possible without waiting; return why the engine must be stopped, or an empty string."""
        if self._request is None:
            if now < self._next:
                return ""
            if (received := self._last_received()) > now - self._health.period:
                self._succeeded(received)
                return ""
            self._requested_at = now
            self._request = EngineRequest(self._address, [self._call], now, headers=self._headers)
        try:
            if not self._request.step(now):
                return ""
        except EngineRefused as problem:
            return self._failed(now, str(problem))
        self._succeeded(now)
        return ""

    def close(self) -> None:
        """Abandon a check that is under way."""
        if self._request is not None:
            self._request.close()
            self._request = None

    def _succeeded(self, at: float) -> None:
        self.close()
        self._last_success, self._failures = at, 0
        self._next = at + self._health.period

    def _failed(self, now: float, problem: str) -> str:
        if (received := self._last_received()) >= self._requested_at:
            self._succeeded(received)
            return ""
        self.close()
        self._failures += 1
        self._next = self._requested_at + self._health.period
        if self._failures < self._health.failure_threshold:
            return ""
        times = "" if self._failures == 1 else f" {self._failures} times in a row"
        return (
            f"the engine failed its health check{times}, and has not answered for {now - self._last_success:.0f} s: {problem} "
            f"(health.period {format_duration(self._health.period)}, health.failureThreshold {self._health.failure_threshold})"
        )
