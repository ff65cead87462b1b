"""The timetable of one Workspace: tells its switcher the terms of the models, and again when a window opens or closes.

The core knows no wall time. What schedules say is looked up here, from wall time, and reaches it as plain terms.
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
from hotseat.manifests.windows import look

LONGEST = 60.0  # seconds between looks at the time: it may be set anew, and a machine that slept has missed some


class ScheduleTimer:
    """`tell` gets the stimuli, with the time of `clock`; `today` is wall time. Thread-safe."""

    def __init__(
        self,
        tell: Callable[[ConfigChanged], None],
        clock: Callable[[], float],
        today: Callable[[], float] = time.time,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._today = today
        self._lock = threading.Lock()
        self._scheduled: tuple[Model, ...] = ()
        self._terms: Mapping[str, SchedulingSpec] = {}
        self._capacity = Capacity()
        self._groups = UNGROUPED
        self._told: Mapping[str, SchedulingSpec] = {}
        self._worker = CoalescingWorker("schedules", self._evaluate_again)
        self._closed = False

    def configure(
        self,
        models: Iterable[Model],
        terms: Mapping[str, SchedulingSpec],
        capacity: Capacity,
        groups: Groups = UNGROUPED,
        *,
        retry_failed: bool = False,
    ) -> None:
        """Apply changed documents. RETRY_FAILED: failed models are tried again at once."""
        with self._lock:
            self._scheduled = tuple(m for m in models if m.spec.lifecycle.schedule)
            self._terms, self._capacity, self._groups = terms, capacity, groups
            self._look(anyway=True, afresh=retry_failed)

    def set_capacity(self, capacity: Capacity) -> None:
        """Change the capacity only."""
        with self._lock:
            self._capacity = capacity
            self._look(anyway=True)

    def look(self) -> float | None:
        """Look at the time; returns the seconds until something changes, None if nothing will."""
        with self._lock:
            return self._look(anyway=False)

    def close(self) -> None:
        """Tell nothing more."""
        with self._lock:
            self._closed = True
            self._worker.close()

    def _look(self, *, anyway: bool, afresh: bool = False) -> float | None:
        if self._closed:
            return None
        now = datetime.fromtimestamp(self._today(), UTC)
        terms, changes = dict(self._terms), list[datetime]()
        for model in self._scheduled:
            found = look(model.spec.lifecycle.schedule, now)
            terms[model.name] = replace(terms[model.name], wanted=found.wanted, kept=found.pinned)
            changes += [found.until] if found.until is not None else []
        if anyway or terms != self._told:
            self._told = terms
            self._tell(ConfigChanged(self._clock(), terms, self._capacity, self._groups, afresh))
        if not changes:
            return None
        rest = (min(changes) - now).total_seconds()
        self._worker.mark(min(rest, LONGEST))
        return rest

    def _evaluate_again(self) -> None:
        self.look()
