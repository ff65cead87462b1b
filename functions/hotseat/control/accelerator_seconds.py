"""Seconds that the instances of a Workspace held its accelerator, by what they did."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from hotseat.core.messages import InstanceState, Resident

_SERVES = frozenset({InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING})
_SWITCHES = frozenset(InstanceState) - {
    InstanceState.READY,
    InstanceState.QUIESCING,
    InstanceState.UNPROVEN,  # that is no switch: it waits for a person
    InstanceState.PARKED,
}


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums since the start of the process. They never fall."""

    resident: Counter[str] = field(default_factory=Counter)  # by model: seconds in which an instance could serve
    idle: Counter[str] = field(default_factory=Counter)  # of those, with no request in flight
    switching: float = 0.0  # seconds times GPUs in which instances came or went


class AcceleratorSeconds:
    """Adds up the time between steps of a scheduler. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at = clock()  # until when the sums count
        self._serving: list[tuple[str, bool]] = []  # model, and whether it is idle, of each instance that can serve
        self._gpus_switching = 0  # of the instances that come or go
        self._totals = Totals()

    def update(self, residents: Iterable[Resident], busy: Collection[str], gpus: Mapping[str, int]) -> None:
        """Apply the state after a step. `busy` are the models with requests in flight, `gpus` what an instance of each model needs."""
        ours = [each for each in residents if each.on_accelerator]
        serving = [(each.model, each.model not in busy) for each in ours if each.state in _SERVES]
        # Devices that were assigned are those of the instance; the document may have changed since.
        switching = sum(len(r.devices) or gpus.get(r.model, 0) for r in ours if r.state in _SWITCHES)
        with self._lock:
            self._count()
            self._serving, self._gpus_switching = serving, switching

    def totals(self) -> Totals:
        """Return the sums until now."""
        with self._lock:
            self._count()
            now = self._totals
            return Totals(now.resident.copy(), now.idle.copy(), now.switching)

    def _count(self) -> None:
        now, before = self._clock(), self._totals
        passed, self._at = max(0.0, now - self._at), now
        for model, idle in self._serving:
            before.resident[model] += passed  # type: ignore[assignment] # Counter adds up any numbers
            if idle:
                before.idle[model] += passed  # type: ignore[assignment]
        self._totals = Totals(before.resident, before.idle, before.switching + passed * self._gpus_switching)
