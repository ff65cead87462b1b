"""Replicas: further instances of a model whose concurrency is reached, where no other model wants the capacity. Pure.

One instance of a model is its primary and goes by the model's name: what is said elsewhere of a
model's instance is about it. The others have names of their own, `model#2` and so on. To a policy
each is a model that evicts nothing, has no queued requests and is never busy: so it is the first to
be evicted, drained as any other. Where the primary leaves, a replica becomes the primary.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import Capacity, ModelView
from hotseat.core.scheduler.availability import MAX_BACKOFF
from hotseat.core.scheduler.demand import RouterSnapshots
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance, Instances
from hotseat.core.scheduler.messages import SchedulingSpec

PATIENCE = 1.0  # seconds for which a request is queued while all instances are ready and full
_LEAST = -1_000_000  # below every priority of a document


@dataclass(slots=True)
class Replicas:
    """Which models should have further instances. A replica that fails delays only the next one of its model."""

    retry_at: dict[str, float] = field(default_factory=dict)  # by model
    _failures: dict[str, int] = field(default_factory=dict)  # by model, in a row

    def failed(self, model: str, now: float) -> float:
        """Count a failure. Return the back-off in seconds: it doubles with each."""
        self._failures[model] = count = self._failures.get(model, 0) + 1
        delay = min(MAX_BACKOFF, 2.0 ** min(count, 30))
        self.retry_at[model] = now + delay
        return delay

    def succeeded(self, model: str) -> None:
        """Forget the failures of a model."""
        self._failures.pop(model, None)
        self.retry_at.pop(model, None)

    def wanted(
        self, specs: Mapping[str, SchedulingSpec], instances: Instances, demands: RouterSnapshots, now: float
    ) -> tuple[list[tuple[str, int]], list[float]]:
        """Return the models that should have one more replica, with its number, and the times at which more may.

        There is none while an instance is leaving: its claim is for another model.
        """
        wanted: list[tuple[str, int]] = []
        later: list[float] = []
        if any(h.state in (*DRAINING_STATES, InstanceState.RELEASING) or h.leaving for h in instances.values()):
            return wanted, later
        for model in [name for name, known in specs.items() if known.replicas > 1]:
            mine = instances.of(model)
            if not 0 < len(mine) < specs[model].replicas or any(h.state is not InstanceState.READY for h in mine):
                continue
            # A request that is queued at a router that knows all of them to be ready found each of them full.
            count, oldest = demands.waiting(model, max(h.ready_epoch for h in mine))
            if count:
                # A request that waited for the load does not count.
                begun = max(oldest, *(h.ready_since or 0.0 for h in mine))
                due = max(begun + PATIENCE, self.retry_at.get(model, 0.0))
                if due > now:
                    later.append(due)
                else:
                    wanted.append((model, next_number(mine)))
        return wanted, later


def replica_views(instances: Iterable[Instance], capacity: Capacity) -> list[ModelView]:
    """Return the views of replicas, for a policy: residents that may be evicted at once."""
    return [
        ModelView(h.name, h.occupied(capacity), priority=_LEAST, state=h.state, may_evict=False)
        for h in instances
        if h.replica > 1 and h.can_stay
    ]


def next_number(mine: Iterable[Instance]) -> int:
    """Return the number of the next replica of a model: the lowest that is free."""
    taken = {h.replica for h in mine}
    return next(number for number in range(2, len(taken) + 3) if number not in taken)


def promote_and_trim(instances: Iterable[Instance], specs: Mapping[str, SchedulingSpec]) -> None:
    """Let a replica replace a primary that leaves, and let surplus replicas leave."""
    by_model: dict[str, list[Instance]] = {}
    for instance in instances:
        if instance.can_stay:
            by_model.setdefault(instance.model, []).append(instance)
    for model, mine in by_model.items():
        if all(h.replica > 1 for h in mine):
            min(mine, key=lambda h: (h.state is not InstanceState.READY, h.epoch)).replica = 1
        known = specs.get(model)
        extra = [h for h in mine if h.replica > 1]
        for instance in extra[max(0, (known.replicas if known else 1) - 1) :]:
            instance.mark_leaving("surplus")
