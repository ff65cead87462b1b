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

    def expect(self, routers: Iterable[str]) -> None:
        """Know of routers that will report, or leave."""
        self._silent |= set(routers) - self._newest.keys() - set(self._left)

    def note(self, demand: Demand) -> set[str] | None:
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

    def leave(self, router: str) -> set[str]:
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

    def closing(self, model: str) -> int:
        """How many of a closing batch still wait."""
        return sum(d.closing.get(model, 0) for d in self._newest.values())

    def all_saw(self, epoch: int) -> bool:
        """Whether every router has seen an epoch."""
        return not self._silent and all(d.seen_epoch >= epoch for d in self._newest.values())


@dataclass(slots=True)
class DemandState:
    """The newest demand of all routers. What it says of use is kept with the instances: when each was used last."""

    scheduler_state: SchedulerState
    availability: ModelAvailability
    demands: RouterSnapshots = field(default_factory=RouterSnapshots)
    rates: ArrivalRates = field(default_factory=ArrivalRates)
    abandonment: Abandonment = field(default_factory=Abandonment)

    def note(self, now: float, demand: Demand) -> list[Emit]:
        """Take in a router's snapshot, unless it is too old to count."""
        instances = self.scheduler_state.instances.values()
        last = self.demands.newest(demand.router)
        used = self.demands.note(demand)
        if used is None:
            return []
        self._note_use(used, now)
        self.rates.note(now, last, demand, {h.id: h.model for h in instances})
        for instance in instances:
            if demand.served.get(instance.id, 0) > last.served.get(instance.id, 0):
                instance.dispatched = now
                self.abandonment.ended(instance.model)
        self._note_departures(now, last, demand)
        told: list[Emit] = []
        for model in demand.requested:
            if model in self.scheduler_state.terms and not self.scheduler_state.serves(model):
                count, workspace = self.waiting(model)[0], self.scheduler_state.workspace
                data = {"model": model, "workspace": workspace, "waiting": count, "router": demand.router}
                told.append(Emit("switch.requested", model, data))
        return told

    def _note_departures(self, now: float, last: Demand, new: Demand) -> None:
        """Note which models are asked for again, and for which the last request that waited has given up."""
        for model, waiting in new.waiting.items():
            self.abandonment.asked(model, now, waiting.oldest)
        for model in last.waiting.keys() - new.waiting.keys():
            answers = any(
                h.state in (InstanceState.READY, *DRAINING_STATES) for h in self.scheduler_state.instances.of(model)
            )
            if answers or self.availability.refused(model) > last.seen_epoch:
                self.abandonment.ended(model)  # it was not its client that left
            elif not self.waiting(model)[0]:
                self.abandonment.gave_up(model, now, last.waiting[model].oldest)

    def leave(self, now: float, router: str) -> None:
        """Forget a router."""
        waited = self.demands.newest(router).waiting
        self._note_use(self.demands.leave(router), now)
        for model in waited:
            if not self.waiting(model)[0]:
                self.abandonment.ended(model)

    def forgive(self, instance: Instance, now: float) -> None:
        """Forget the failures of a model if this instance, which goes, has served well."""
        self.availability.forgive(instance.model, instance.ready_since, now, self.demands.answered(instance.id))

    def _note_use(self, used: set[str], now: float) -> None:
        instances = self.scheduler_state.instances
        models = {instances[instance].model for instance in used & instances.keys()}
        for instance in instances.values():
            if instance.id in used or (instance.replica == 1 and instance.model in models):
                instance.last_used = now

    # Reading ----------------------------------------------------------------------------------------------------------

    def waiting(self, model: str) -> tuple[int, float]:
        """How many wait and since when."""
        return self.demands.waiting(model, self.availability.refused(model))

    def wanted(self, model: str) -> float | None:
        """Since when it is wanted by requests that another model answered; None: it is not."""
        return self.demands.wanted(model, self.availability.refused(model))

    def unused(self, instance: Instance) -> bool:
        """Return True if the instance has no queued or running requests.

        The primary also counts its replicas' requests, because parking it would stop them.
        """
        whole = instance.replica == 1 and instance.terms.replicas > 1
        mine = self.scheduler_state.instances.of(instance.model) if whole else (instance,)
        busy = any(self.demands.in_flight(h.id) for h in mine)
        return not busy and not self.waiting(instance.model)[0]

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """By model: how many wait at all routers, since when, and how many requests are in flight; those with neither are left out."""
        held = Counter[str]()
        for h in self.scheduler_state.instances.values():
            held[h.model] += self.demands.in_flight(h.id)
        asked = held.keys() | self.demands.models()  # of a thousand models these are few
        rows = {name: (*self.waiting(name), held[name]) for name in self.scheduler_state.terms if name in asked}
        return {name: row for name, row in rows.items() if row[0] or row[2]}
