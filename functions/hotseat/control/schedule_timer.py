"""Configures the scheduler of one Workspace, and again whenever a schedule window opens or closes.

The core has no wall time. Schedules are evaluated here, and reach it as SchedulingSpecs.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from hotseat.api.model import Model
from hotseat.coalesce import CoalescingWorker
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec
from hotseat.manifests.schedule_windows import look

LONGEST = 60.0  # seconds between evaluations: the clock may be set, and a suspended machine misses some


class ScheduleTimer:
    """Calls `send` with ConfigChanged. Its time is that of `clock`; `today` returns wall time. Thread-safe."""

    def __init__(
        self,
        send: Callable[[ConfigChanged], None],
        clock: Callable[[], float],
        today: Callable[[], float] = time.time,
    ) -> None:
        self._send = send
        self._clock = clock
        self._today = today
        self._lock = threading.Lock()
        self._scheduled: tuple[Model, ...] = ()
        self._specs: Mapping[str, SchedulingSpec] = {}
        self._capacity = Capacity()
        self._groups = UNGROUPED
        self._sent: Mapping[str, SchedulingSpec] = {}
        self._worker = CoalescingWorker("schedules", self._evaluate_again)
        self._closed = False

    def configure(
        self,
        models: Iterable[Model],
        specs: Mapping[str, SchedulingSpec],
        capacity: Capacity,
        groups: Groups = UNGROUPED,
        *,
        retry_failed: bool = False,
    ) -> None:
        """Apply changed documents. RETRY_FAILED: failed models are tried again at once."""
        with self._lock:
            self._scheduled = tuple(m for m in models if m.spec.lifecycle.schedule)
            self._specs, self._capacity, self._groups = specs, capacity, groups
            self._evaluate(always=True, afresh=retry_failed)

    def set_capacity(self, capacity: Capacity) -> None:
        """Change the capacity only."""
        with self._lock:
            self._capacity = capacity
            self._evaluate(always=True)

    def evaluate(self) -> float | None:
        """Evaluate the schedules. Return the seconds until the next window opens or closes. None: there is none."""
        with self._lock:
            return self._evaluate(always=False)

    def close(self) -> None:
        """Send no more."""
        with self._lock:
            self._closed = True
            self._worker.close()

    def _evaluate(self, *, always: bool, afresh: bool = False) -> float | None:
        if self._closed:
            return None
        now = datetime.fromtimestamp(self._today(), UTC)
        specs, changes = dict(self._specs), list[datetime]()
        for model in self._scheduled:
            found = look(model.spec.lifecycle.schedule, now)
            specs[model.name] = replace(specs[model.name], wanted=found.wanted, kept=found.pinned)
            changes += [found.until] if found.until is not None else []
        if always or specs != self._sent:
            self._sent = specs
            self._send(ConfigChanged(self._clock(), specs, self._capacity, self._groups, afresh))
        if not changes:
            return None
        rest = (min(changes) - now).total_seconds()
        self._worker.mark(min(rest, LONGEST))
        return rest

    def _evaluate_again(self) -> None:
        self.evaluate()
