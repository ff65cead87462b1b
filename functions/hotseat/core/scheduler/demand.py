"""Demand of all routers of a Workspace, and the clients that give up before their model is ready. Pure."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hotseat.core.events import Emit
from hotseat.core.messages import Demand, InstanceState
from hotseat.core.scheduler.availability import ModelAvailability
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance
from hotseat.core.scheduler.state import SchedulerState
from hotseat.core.scheduler.stats import ArrivalRates

WITHIN = 60.0  # seconds, or twice their wait: clients that ask again within it have paused, not left
MARGIN = 1.5  # a pause may be so many times as long as the last


@dataclass(slots=True)
class _Tries:
    """The tries of one model since it last answered. Times are seconds on the clock of the scheduler."""

    first: float  # arrival of the first request
    since: float = 0.0  # when the last request that waited left, and …
    waited: float = 0.0  # … for how long the oldest of those that left last had waited
    away: bool = False  # no request waits now
    came_back: bool = False


@dataclass(slots=True)
class Abandonment:
    """The abandoned requests of all models of a Workspace (a retrial queue).

    A client with a timeout asks, gives up, pauses and asks again. In the pause no request is queued for
    its model: a load that is cancelled in each pause never ends, and a wait that begins anew with each
    try never reaches its bound. So the tries of a model's clients count as one wait, from the first
    request until the model answers. Clients that gave up are expected again, for as long as they had
    waited or as their last pause suggests, unless they stayed away the last time.
    """

    _tries: dict[str, _Tries] = field(default_factory=dict)  # by model
    # By model: seconds until its clients asked again the last time.
    _pauses: dict[str, float] = field(default_factory=dict)
    _stayed_away: set[str] = field(default_factory=set)  # models whose clients did not ask again in time the last time

    def record_abandoned(self, model: str, now: float, oldest: float) -> None:
        """Record that the last queued request of a model left without an answer.

        `oldest` is the arrival of the oldest one.
        """
        tries = self._tries.setdefault(model, _Tries(oldest))
        tries.away, tries.since, tries.waited = True, now, now - oldest

    def record_queued(self, model: str, now: float, oldest: float) -> None:
        """Record that requests are queued for a model, the oldest since `oldest`."""
        tries = self._tries.setdefault(model, _Tries(oldest))
        if not tries.away:
            return
        pause = now - tries.since
        if pause <= max(WITHIN, 2 * tries.waited):
            tries.away, tries.came_back = False, True
            self._pauses[model] = pause
            self._stayed_away.discard(model)
        else:
            self._tries[model] = _Tries(oldest)
            self._pauses.pop(model, None)
            self._stayed_away.add(model)

    def reset(self, model: str) -> None:
        """Forget the tries of a model: it answers its requests, or they were refused."""
        self._tries.pop(model, None)

    def forget(self, model: str) -> None:
        """Forget a model."""
        self.reset(model)
        self._pauses.pop(model, None)
        self._stayed_away.discard(model)

    # Reading ----------------------------------------------------------------------------------------------------------

    def since(self, model: str, oldest: float) -> float:
        """Return the arrival of the first try of the queued requests of a model; `oldest` where this is the first."""
        tries = self._tries.get(model)
        return min(tries.first, oldest) if tries else oldest

    def expected_until(self, model: str) -> float:
        """Return the time until which clients of a model that gave up are expected again. 0: none are."""
        tries = self._tries.get(model)
        if tries is None or not tries.away or model in self._stayed_away:
            return 0.0
        return tries.since + max(tries.waited, MARGIN * self._pauses.get(model, 0.0))

    def retries(self, model: str, now: float) -> tuple[int, float]:
        """Return 1 and the arrival of the first try, if clients that came back before are expected again. Else 0."""
        tries = self._tries.get(model)
        if tries is None or not tries.came_back or now >= self.expected_until(model):
            return 0, 0.0
        return 1, tries.first


_NONE = Demand(router="", seq=0, seen_epoch=0)
_REMEMBERED = 256  # routers that left, whose late snapshots are ignored


class RouterSnapshots:
    """The newest snapshot of each router. The id of a router that left is never used again."""

    def __init__(self) -> None:
        self._newest: dict[str, Demand] = {}
        self._left: deque[str] = deque(maxlen=_REMEMBERED)
        self._silent: set[str] = set()  # enrolled, without a snapshot yet

    def enroll(self, routers: Iterable[str]) -> None:
        """Expect reports of these routers, until they leave."""
        self._silent |= set(routers) - self._newest.keys() - set(self._left)

    def update(self, demand: Demand) -> set[str] | None:
        """Replace the snapshot of a router. Return the instances that were used since its last. None: it is outdated."""
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
        """Return the snapshot of a router; an empty one before its first."""
        return self._newest.get(router, _NONE)

    def remove(self, router: str) -> set[str]:
        """Remove a router. Return the instances that it was using."""
        self._left.append(router)
        self._silent.discard(router)
        return set(self._newest.pop(router, _NONE).in_flight)

    def models(self) -> set[str]:
        """Return the models with queued or prewarm requests."""
        return {model for d in self._newest.values() for models in (d.waiting, d.wanted) for model in models}

    def waiting(self, model: str, since_epoch: int = -1) -> tuple[int, float]:
        """Return how many requests are queued for a model, and since when, at routers that have seen an epoch."""
        rows = [d.waiting[model] for d in self._newest.values() if model in d.waiting and d.seen_epoch >= since_epoch]
        return (sum(w.count for w in rows), min(w.oldest for w in rows)) if rows else (0, 0.0)

    def waited_for(self) -> set[str]:
        """Return the models with queued requests."""
        return {model for d in self._newest.values() for model in d.waiting}

    def wanted(self, model: str, since_epoch: int = -1) -> float | None:
        """Return since when a model is to be prewarmed, by routers that have seen an epoch. None: it is not."""
        rows = [d.wanted[model] for d in self._newest.values() if model in d.wanted and d.seen_epoch >= since_epoch]
        return min(rows, default=None)

    def retries_until(self, model: str, since_epoch: int = -1) -> float:
        """Return until when refused clients are expected again, by routers that have seen an epoch. 0: none are."""
        return max(
            (d.retries.get(model, 0.0) for d in self._newest.values() if d.seen_epoch >= since_epoch), default=0.0
        )

    def in_flight(self, instance: str) -> int:
        """Return the number of requests in flight at an instance."""
        return sum(d.in_flight.get(instance, 0) for d in self._newest.values())

    def busy_pods(self, instance: str) -> int:
        """Return how many pods an instance must keep, so that none with a request in flight ends."""
        return max(
            (d.busy_pods.get(instance, bool(d.in_flight.get(instance))) for d in self._newest.values()), default=0
        )

    def answered(self, instance: str) -> int:
        """Return how many requests of present routers an instance has ended."""
        return sum(d.served.get(instance, 0) - d.in_flight.get(instance, 0) for d in self._newest.values())

    def quiescing(self, model: str) -> int:
        """Return how many requests of the batches of its quiescing instances are still queued."""
        return sum(d.quiescing.get(model, 0) for d in self._newest.values())

    def all_saw(self, epoch: int) -> bool:
        """Whether every router has seen an epoch."""
        return not self._silent and all(d.seen_epoch >= epoch for d in self._newest.values())


@dataclass(slots=True)
class DemandState:
    """The demand of all routers, with the rates and the abandoned requests that it shows."""

    state: SchedulerState
    availability: ModelAvailability
    snapshots: RouterSnapshots = field(default_factory=RouterSnapshots)
    rates: ArrivalRates = field(default_factory=ArrivalRates)
    abandonment: Abandonment = field(default_factory=Abandonment)

    def update(self, now: float, demand: Demand) -> list[Emit]:
        """Apply a router's snapshot, unless it is outdated."""
        instances = self.state.instances.values()
        last = self.snapshots.newest(demand.router)
        used = self.snapshots.update(demand)
        if used is None:
            return []
        self._record_use(used, now)
        for id_, (seconds, at) in demand.keep_alive.items():
            known = self.state.instances.get(id_)
            if known is not None:
                known.set_keep_alive(seconds, at)
        self.rates.record(now, last, demand, {h.id: h.model for h in instances})
        for instance in instances:
            if demand.served.get(instance.id, 0) > last.served.get(instance.id, 0):
                instance.dispatched = now
                self.abandonment.reset(instance.model)
        self._record_abandonment(now, last, demand)
        events: list[Emit] = []
        for model in demand.requested:
            if model in self.state.specs and not self.state.is_served(model):
                count, workspace = self.waiting(model)[0], self.state.workspace
                data = {"model": model, "workspace": workspace, "waiting": count, "router": demand.router}
                events.append(Emit("switch.requested", model, data))
        return events

    def _record_abandonment(self, now: float, last: Demand, new: Demand) -> None:
        """Record the models that are requested again, and those whose last queued request has given up."""
        for model, waiting in new.waiting.items():
            self.abandonment.record_queued(model, now, waiting.oldest)
        for model in last.waiting.keys() - new.waiting.keys():
            answers = any(h.state in (InstanceState.READY, *DRAINING_STATES) for h in self.state.instances.of(model))
            if answers or self.availability.refusal_epoch(model) > last.seen_epoch:
                self.abandonment.reset(model)  # the requests were answered or refused
            elif not self.waiting(model)[0]:
                self.abandonment.record_abandoned(model, now, last.waiting[model].oldest)

    def remove_router(self, now: float, router: str) -> None:
        """Remove a router."""
        waited = self.snapshots.newest(router).waiting
        self._record_use(self.snapshots.remove(router), now)
        for model in waited:
            if not self.waiting(model)[0]:
                self.abandonment.reset(model)

    def reset_backoff(self, instance: Instance, now: float) -> None:
        """Reset the back-off of a model if this instance, which is released, has served well."""
        self.availability.reset_backoff(instance.model, instance.ready_since, now, self.snapshots.answered(instance.id))

    def _record_use(self, used: set[str], now: float) -> None:
        instances = self.state.instances
        models = {instances[instance].model for instance in used & instances.keys()}
        for instance in instances.values():
            if instance.id in used or (instance.replica == 1 and instance.model in models):
                instance.last_used = now

    # Reading ----------------------------------------------------------------------------------------------------------

    def waiting(self, model: str) -> tuple[int, float]:
        """Return how many requests are queued for a model that were not refused, and since when."""
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
        """Return since when a model is to be prewarmed. None: it is not."""
        return self.snapshots.wanted(model, self.availability.refusal_epoch(model))

    def retries_until(self, model: str) -> float:
        """Return until when clients that were refused because a model was not ready are expected again. 0: none are."""
        return self.snapshots.retries_until(model, self.availability.refusal_epoch(model))

    def expected_until(self, model: str) -> float:
        """Return until when clients of a model are expected again that gave up, or were refused. 0: none are."""
        return max(self.abandonment.expected_until(model), self.retries_until(model))

    def is_asked_for(self, model: str, now: float) -> bool:
        """Whether requests are queued for a model that were not refused, or refused clients are expected again."""
        return self.waiting(model)[0] > 0 or self.retries_until(model) > now

    def unused(self, instance: Instance) -> bool:
        """Whether an instance has no queued requests and none in flight.

        The primary also counts the requests of its replicas, because parking it would stop them.
        """
        whole = instance.replica == 1 and instance.spec.replicas > 1
        mine = self.state.instances.of(instance.model) if whole else (instance,)
        busy = any(self.snapshots.in_flight(h.id) for h in mine)
        return not busy and not self.waiting(instance.model)[0]

    def busy_pods(self) -> dict[str, int]:
        """Return by model, of those that may have several pods, how many must stay because of requests in flight."""
        several = [h for h in self.state.instances.values() if h.spec.pods > 1]
        return {h.model: self.snapshots.busy_pods(h.id) for h in several}

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """Return by model: queued requests, since when, and requests in flight. Models with neither are left out."""
        held = Counter[str]()
        for h in self.state.instances.values():
            held[h.model] += self.snapshots.in_flight(h.id)
        relevant = held.keys() | self.snapshots.models()  # few of many
        rows = {name: (*self.waiting(name), held[name]) for name in self.state.specs if name in relevant}
        return {name: row for name, row in rows.items() if row[0] or row[2]}
