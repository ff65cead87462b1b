"""One transition of an engine: from serving to sleeping, or back. It runs in the instance's thread and poll()."""

import time

from hotseat.core.messages import Park, Wake
from hotseat.engines.base import Sleep
from hotseat.runtimes.engine_http import EngineRefused, EngineRequest, HealthProbe
from hotseat.runtimes.local.gpus import MemoryBaseline

QUERY_PAUSE = 0.02  # seconds between queries of the driver, which cannot be polled
# Share of its accelerator memory that a sleeping engine may keep: contexts and graphs stay, weights
# and caches do not.
MAX_KEPT = 0.5


class SleepTransition:
    """A Park or Wake that is being carried out.

    The owner polls `fd` for `events` until `due`, and calls step() until it returns True or raises
    EngineRefused.
    """

    def __init__(
        self,
        command: Park | Wake,
        requests: Sleep | None,
        address: tuple[str, int],
        health_path: str,
        baseline: MemoryBaseline | None,
        *,
        headers: bytes = b"",
    ) -> None:
        now = time.monotonic()
        self.command = command
        self._address, self._health_path, self._headers = address, health_path, headers
        self._baseline = baseline if isinstance(command, Park) else None
        self._memory_before = 0 if self._baseline is None else self._baseline.held_memory()
        self._request: EngineRequest | HealthProbe | None = None
        self._query_at = now
        if requests is not None:
            parks = isinstance(command, Park)
            calls = requests.sleep if parks else requests.wake
            state = requests.state_path
            self._request = EngineRequest(address, calls, now, state_path=state, sleeping=parks, headers=headers)
        self._can_sleep = requests is not None

    @property
    def due(self) -> float:
        """When to call step() even if nothing happened."""
        return self._query_at if self._request is None else self._request.due

    @property
    def fd(self) -> int | None:
        """Socket to poll; None if there is nothing to poll for."""
        return None if self._request is None else self._request.fd

    @property
    def events(self) -> int:
        """Events to poll the socket for."""
        return 0 if self._request is None else self._request.events

    def step(self, now: float) -> bool:
        """Do what is possible without waiting; return True once the engine sleeps, or serves again."""
        if not self._can_sleep:
            raise EngineRefused("the engine has no requests for sleep (lifecycle.sleep)")
        if self._memory_before is None:
            raise EngineRefused("the driver does not report the engine's accelerator memory")
        if self._request is not None:
            if not self._request.step(now):
                return False
            self._request.close()
            woken = isinstance(self._request, EngineRequest) and isinstance(self.command, Wake)
            self._request = HealthProbe(self._address, self._health_path, now, self._headers) if woken else None
            if self._request is not None:
                return self._request.step(now)
        self._query_at = now + QUERY_PAUSE
        return self._memory_is_free()

    def close(self) -> None:
        """Abandon the transition."""
        if self._request is not None:
            self._request.close()
            self._request = None

    def _memory_is_free(self) -> bool:
        """Whether the driver confirms the sleep. If it does not list processes, the engine's own answer is enough."""
        if self._baseline is None or not self._memory_before:
            return True
        held = self._baseline.held_memory()
        return held is not None and held <= MAX_KEPT * self._memory_before
