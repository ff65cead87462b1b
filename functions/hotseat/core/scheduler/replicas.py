"""Replicas: further instances of a model whose bound on requests at once is reached, on seats that nobody else wants. Pure.

One instance of a model is its main one and goes by the model's name: all that is said elsewhere of a model's instance is about it.
The others are seats of their own, `model#2` and so on. To a policy each is a model that evicts nobody, waits for nothing and is
never busy: so it is the first to make room, drained as any other. Where the main one goes, a replica takes its place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import Capacity, ModelView
from hotseat.core.scheduler.availability import MAX_BACKOFF
from hotseat.core.scheduler.demand import RouterSnapshots
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance, Instances
from hotseat.core.scheduler.messages import SchedulingSpec

PATIENCE = 1.0  # seconds that a request has to wait for a model whose engines are all ready and full
_LEAST = -1_000_000  # below every priority that a document may state


@dataclass(slots=True)
class Replicas:
    """Which further instances models should have. A replica that fails harms nobody: its model goes on, and the next one waits."""

    retry_at: dict[str, float] = field(default_factory=dict)  # by model
    _failures: dict[str, int] = field(default_factory=dict)  # by model, in a row

    def failed(self, model: str, now: float) -> float:
        """Count a failure; returns the growing back-off in seconds."""
        self._failures[model] = count = self._failures.get(model, 0) + 1
        delay = min(MAX_BACKOFF, 2.0 ** min(count, 30))
        self.retry_at[model] = now + delay
        return delay

    def succeeded(self, model: str) -> None:
        """Forget failures: one became ready, or the document has changed."""
        self._failures.pop(model, None)
        self.retry_at.pop(model, None)

    def wanted(
        self, specs: Mapping[str, SchedulingSpec], instances: Instances, demands: RouterSnapshots, now: float
    ) -> tuple[list[tuple[str, int]], list[float]]:
        """Give the models that should have one more replica, with its number, and the times at which there may be more of them.

        There is none while anything is on its way off the accelerator: that makes room for somebody else.
        """
        wanted: list[tuple[str, int]] = []
        later: list[float] = []
        if any(h.state in (*DRAINING_STATES, InstanceState.RELEASING) or h.leaving for h in instances.values()):
            return wanted, later
        for model in [name for name, known in specs.items() if known.replicas > 1]:
            mine = instances.of(model)
            if not 0 < len(mine) < specs[model].replicas or any(h.state is not InstanceState.READY for h in mine):
                continue
            # Who waits at a router that knows all of them to be ready found each of them full.
            count, oldest = demands.waiting(model, max(h.ready_epoch for h in mine))
            if count:
                begun = max(oldest, *(h.ready_since or 0.0 for h in mine))  # a load is no sign that one is not enough
                due = max(begun + PATIENCE, self.retry_at.get(model, 0.0))
                if due > now:
                    later.append(due)
                else:
                    wanted.append((model, next_number(mine)))
        return wanted, later


def replica_views(instances: Iterable[Instance], capacity: Capacity) -> list[ModelView]:
    """Show the policy the replicas among a model's instances: seats that it may take for anybody else, at once."""
    return [
        ModelView(h.name, h.occupied(capacity), priority=_LEAST, state=h.state, may_evict=False)
        for h in instances
        if h.replica > 1 and h.can_stay
    ]


def next_number(mine: Iterable[Instance]) -> int:
    """Give the number of a model's next replica: the lowest that is free."""
    taken = {h.replica for h in mine}
    return next(number for number in range(2, len(taken) + 3) if number not in taken)


def promote_and_trim(instances: Iterable[Instance], specs: Mapping[str, SchedulingSpec]) -> None:
    """Let a replica take the place of a main instance that goes, and let those go that are too many for the documents."""
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
