"""Demand of all routers of a Workspace: the newest snapshot of each, and what follows for models and instances. Pure."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hotseat.core.events import Emit
from hotseat.core.messages import Demand, InstanceState
from hotseat.core.scheduler.abandonment import Abandonment
from hotseat.core.scheduler.availability import ModelAvailability
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance
from hotseat.core.scheduler.state import SchedulerState
from hotseat.core.scheduler.stats import ArrivalRates

_NONE = Demand(router="", seq=0, seen_epoch=0)
_REMEMBERED = 256  # routers that left, whose late snapshots are known for what they are


class RouterSnapshots:
    """The newest snapshot by router. Router ids are never used again, so one that left stays away."""

    def __init__(self) -> None:
        self._newest: dict[str, Demand] = {}
        self._left: deque[str] = deque(maxlen=_REMEMBERED)
        self._silent: set[str] = set()  # enrolled, but not heard yet

    def enroll(self, routers: Iterable[str]) -> None:
        """Know of routers that will report, or leave."""
        self._silent |= set(routers) - self._newest.keys() - set(self._left)

    def update(self, demand: Demand) -> set[str] | None:
        """Take in a snapshot; returns the instances that were used since the router's last. None: it is too old to count."""
        last = self._newest.get(demand.router, _NONE)
        if demand.seq <= last.seq or demand.router in self._left:
            return None
        self._newest[demand.router] = demand
        self._silent.discard(demand.router)
        return {
            *last.in_flight,
            *demand.in_flight,
            *(h for h, n in demand.served.items() if n != last.served.get(h, 0)),
        }

    def newest(self, router: str) -> Demand:
        """Give the snapshot of a router that counts; an empty one before its first."""
        return self._newest.get(router, _NONE)

    def remove(self, router: str) -> set[str]:
        """Forget a router; returns the instances that it was using."""
        self._left.append(router)
        self._silent.discard(router)
        return set(self._newest.pop(router, _NONE).in_flight)

    def models(self) -> set[str]:
        """Models that requests wait for, or that are wanted though none does."""
        return {model for d in self._newest.values() for book in (d.waiting, d.wanted) for model in book}

    def waiting(self, model: str, since_epoch: int = -1) -> tuple[int, float]:
        """How many wait for a model and since when, as far as their routers have seen an epoch."""
        rows = [d.waiting[model] for d in self._newest.values() if model in d.waiting and d.seen_epoch >= since_epoch]
        return (sum(w.count for w in rows), min(w.oldest for w in rows)) if rows else (0, 0.0)

    def waited_for(self) -> set[str]:
        """Give the models that requests wait for."""
        return {model for d in self._newest.values() for model in d.waiting}

    def wanted(self, model: str, since_epoch: int = -1) -> float | None:
        """Since when a model is wanted that nobody waits for, as far as routers have seen an epoch; None: it is not."""
        rows = [d.wanted[model] for d in self._newest.values() if model in d.wanted and d.seen_epoch >= since_epoch]
        return min(rows, default=None)

    def in_flight(self, instance: str) -> int:
        """How many requests an instance is answering."""
        return sum(d.in_flight.get(instance, 0) for d in self._newest.values())

    def answered(self, instance: str) -> int:
        """How many requests an instance has ended, however, for the routers that are there."""
        return sum(d.served.get(instance, 0) - d.in_flight.get(instance, 0) for d in self._newest.values())

    def quiescing(self, model: str) -> int:
        """Return how many requests of the batches of its quiescing instances are still queued."""
        return sum(d.quiescing.get(model, 0) for d in self._newest.values())

    def all_saw(self, epoch: int) -> bool:
        """Whether every router has seen an epoch."""
        return not self._silent and all(d.seen_epoch >= epoch for d in self._newest.values())


@dataclass(slots=True)
class DemandState:
    """The newest demand of all routers. What it says of use is kept with the instances: when each was used last."""

    state: SchedulerState
    availability: ModelAvailability
    snapshots: RouterSnapshots = field(default_factory=RouterSnapshots)
    rates: ArrivalRates = field(default_factory=ArrivalRates)
    abandonment: Abandonment = field(default_factory=Abandonment)

    def update(self, now: float, demand: Demand) -> list[Emit]:
        """Take in a router's snapshot, unless it is too old to count."""
        instances = self.state.instances.values()
        last = self.snapshots.newest(demand.router)
        used = self.snapshots.update(demand)
        if used is None:
            return []
        self._record_use(used, now)
        self.rates.record(now, last, demand, {h.id: h.model for h in instances})
        for instance in instances:
            if demand.served.get(instance.id, 0) > last.served.get(instance.id, 0):
                instance.dispatched = now
                self.abandonment.reset(instance.model)
        self._record_abandonment(now, last, demand)
        told: list[Emit] = []
        for model in demand.requested:
            if model in self.state.specs and not self.state.is_served(model):
                count, workspace = self.waiting(model)[0], self.state.workspace
                data = {"model": model, "workspace": workspace, "waiting": count, "router": demand.router}
                told.append(Emit("switch.requested", model, data))
        return told

    def _record_abandonment(self, now: float, last: Demand, new: Demand) -> None:
        """Note which models are asked for again, and for which the last request that waited has given up."""
        for model, waiting in new.waiting.items():
            self.abandonment.record_queued(model, now, waiting.oldest)
        for model in last.waiting.keys() - new.waiting.keys():
            answers = any(h.state in (InstanceState.READY, *DRAINING_STATES) for h in self.state.instances.of(model))
            if answers or self.availability.refusal_epoch(model) > last.seen_epoch:
                self.abandonment.reset(model)  # it was not its client that left
            elif not self.waiting(model)[0]:
                self.abandonment.record_abandoned(model, now, last.waiting[model].oldest)

    def remove_router(self, now: float, router: str) -> None:
        """Forget a router."""
        waited = self.snapshots.newest(router).waiting
        self._record_use(self.snapshots.remove(router), now)
        for model in waited:
            if not self.waiting(model)[0]:
                self.abandonment.reset(model)

    def reset_backoff(self, instance: Instance, now: float) -> None:
        """Forget the failures of a model if this instance, which goes, has served well."""
        self.availability.reset_backoff(instance.model, instance.ready_since, now, self.snapshots.answered(instance.id))

    def _record_use(self, used: set[str], now: float) -> None:
        instances = self.state.instances
        models = {instances[instance].model for instance in used & instances.keys()}
        for instance in instances.values():
            if instance.id in used or (instance.replica == 1 and instance.model in models):
                instance.last_used = now

    # Reading ----------------------------------------------------------------------------------------------------------

    def waiting(self, model: str) -> tuple[int, float]:
        """How many wait and since when."""
        return self.snapshots.waiting(model, self.availability.refusal_epoch(model))

    def tries(self, model: str, now: float, *, promised: bool) -> tuple[int, float]:
        """Return how many requests are queued for a model, and the arrival of the first try of their clients.

        Where a switch to it is decided (`promised`), clients that gave up and are expected again count as one.
        """
        count, oldest = self.waiting(model)
        if count:
            return count, self.abandonment.since(model, oldest)
        return self.abandonment.retries(model, now) if promised else (0, 0.0)

    def forget(self, models: Iterable[str]) -> None:
        """Forget models that no document names any longer."""
        for model in models:
            self.rates.forget(model)
            self.abandonment.forget(model)

    def wanted(self, model: str) -> float | None:
        """Since when it is wanted by requests that another model answered; None: it is not."""
        return self.snapshots.wanted(model, self.availability.refusal_epoch(model))

    def unused(self, instance: Instance) -> bool:
        """Return True if the instance has no queued or running requests.

        The primary also counts its replicas' requests, because parking it would stop them.
        """
        whole = instance.replica == 1 and instance.spec.replicas > 1
        mine = self.state.instances.of(instance.model) if whole else (instance,)
        busy = any(self.snapshots.in_flight(h.id) for h in mine)
        return not busy and not self.waiting(instance.model)[0]

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """By model: how many wait at all routers, since when, and how many requests are in flight; those with neither are left out."""
        held = Counter[str]()
        for h in self.state.instances.values():
            held[h.model] += self.snapshots.in_flight(h.id)
        asked = held.keys() | self.snapshots.models()  # of a thousand models these are few
        rows = {name: (*self.waiting(name), held[name]) for name in self.state.specs if name in asked}
        return {name: row for name, row in rows.items() if row[0] or row[2]}
