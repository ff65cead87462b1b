"""One order to sleep or to wake, from its beginning to what came of it; in the instance's thread and poll()."""

import time

from hotseat.core.messages import Park, Wake
from hotseat.engines.base import Sleep
from hotseat.runtimes.local.engine_http import EngineRefused, EngineRequest, HealthProbe
from hotseat.runtimes.local.nvml import MemoryBaseline

LOOK = 0.02  # seconds between looks at the driver, which cannot be awaited
KEPT = (
    0.5  # share of its accelerator memory that a sleeper may keep: contexts and graphs stay, weights and caches do not
)


class SleepTransition:
    """An order under way. The owner polls `fd` for `events` until `due`, and calls step() until it says True or raises Balked."""

    def __init__(
        self,
        order: Park | Wake,
        plan: Sleep | None,
        address: tuple[str, int],
        health: str,
        claim: MemoryBaseline | None,
    ) -> None:
        now = time.monotonic()
        self.order = order
        self._address, self._health = address, health
        self._claim = claim if isinstance(order, Park) else None
        self._had = 0 if self._claim is None else self._claim.holds()  # bytes on the accelerator
        self._talk: EngineRequest | HealthProbe | None = None
        self._look_at = now
        if plan is not None:
            parks = isinstance(order, Park)
            self._talk = EngineRequest(
                address, plan.sleep if parks else plan.wake, now, question=plan.asked, wanted=parks
            )
        self._able = plan is not None

    @property
    def due(self) -> float:
        """When to call step() even if nothing happened."""
        return self._look_at if self._talk is None else self._talk.due

    @property
    def fd(self) -> int | None:
        """Socket to poll; None while there is none."""
        return None if self._talk is None else self._talk.fd

    @property
    def events(self) -> int:
        """What to poll it for."""
        return 0 if self._talk is None else self._talk.events

    def step(self, now: float) -> bool:
        """Go as far as can be gone without waiting; True when it sleeps, or serves again."""
        if not self._able:
            raise EngineRefused("the engine has no requests for sleep (lifecycle.sleep)")
        if self._had is None:
            raise EngineRefused("the driver does not report the engine's accelerator memory")
        if self._talk is not None:
            if not self._talk.step(now):
                return False
            self._talk.close()
            woken = isinstance(self._talk, EngineRequest) and isinstance(self.order, Wake)
            self._talk = HealthProbe(self._address, self._health, now) if woken else None
            if self._talk is not None:
                return self._talk.step(now)
        self._look_at = now + LOOK
        return self._has_left()

    def close(self) -> None:
        """Give up."""
        if self._talk is not None:
            self._talk.close()
            self._talk = None

    def _has_left(self) -> bool:
        """Whether the driver confirms it; where it does not list the processes (a container's own numbers), the engine's word is all."""
        if self._claim is None or not self._had:
            return True
        held = self._claim.holds()
        return held is not None and held <= KEPT * self._had
