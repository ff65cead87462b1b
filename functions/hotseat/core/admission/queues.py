"""The requests of one model that wait at one router, their order, and the limits on them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, nlargest

from hotseat.api.units import format_bytes
from hotseat.core.admission.fair_queue import LazyHeap, PriorityLevel, QueuedRequest, Sharing, TenantQueue
from hotseat.core.admission.service_rate import ServiceRates, min_wait, retry_after
from hotseat.core.messages import QueuedDemand


@dataclass(frozen=True, slots=True)
class QueueUsage:
    """The queued requests of a router when another request arrives: of its model, of its tenant, and in all.

    `tenants` counts the tenants with queued requests. `size` is the bytes of all bodies, with the
    new one.
    """

    model: str
    tenant: str
    of_model: int
    of_tenant: int
    total: int
    tenants: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits on queued requests at all routers together. None: no limit."""

    total: int = 0
    per_model: int | None = None
    per_tenant: int | None = None
    size: int | None = None  # bytes of their bodies
    routers: int = 1

    def check(self, usage: QueueUsage, rates: ServiceRates, now: float) -> tuple[str, float] | None:
        """Return the limit that is reached, as a message, and the seconds until a retry. None: there is none.

        The narrowest limit is named first. A tenant is assumed to be served at an equal share of the rate.
        """
        if self._reached(usage.of_tenant, self.per_tenant):
            rate = (rates.rate(now) or 0.0) / max(1, usage.tenants)
            whose = f" of tenant {usage.tenant}" if usage.tenant else " of requests without a tenant"
            return self._message(whose, "maxWaitingPerTenant", self.per_tenant), retry_after(usage.of_tenant, rate)
        if self._reached(usage.of_model, self.per_model):
            retry = retry_after(usage.of_model, rates.rate(now, usage.model))
            return self._message(f" for {usage.model}", "maxWaitingPerModel", self.per_model), retry
        if self._reached(usage.total, self.total):
            return self._message("", "maxWaiting", self.total), retry_after(usage.total, rates.rate(now))
        # A body that waits alone may use the whole limit: if it exceeds a share, no departure would ever admit it.
        if self.size is not None and usage.size > (per_router(self.size, self.routers) if usage.total else self.size):
            message = "the bodies of queued requests would exceed the memory limit"
            return f"{message} ({self._limit('maxWaitingBytes', format_bytes(self.size))})", retry_after(
                usage.total, rates.rate(now)
            )
        return None

    def _reached(self, count: int, bound: int | None) -> bool:
        return bound is not None and count >= per_router(bound, self.routers)

    def _message(self, whose: str, field: str, bound: int | None) -> str:
        return f"the queue{whose} is full ({self._limit(field, bound)})"

    def _limit(self, field: str, bound: int | str | None) -> str:
        shared = f", shared by {self.routers} routers" if self.routers > 1 else ""
        return f"queue.{field}: {bound}{shared}"


def per_router(bound: int, routers: int) -> int:
    """Return one router's share of a Workspace's limit. 0 stays 0.

    Rounded up, because a share of zero would reject every request. Together the routers may exceed the limit by at most one
    request each.
    """
    return -(-bound // routers)


SHOWN_TENANTS = 16  # in a snapshot: the tenants with the most queued requests
EXACT_TENANTS = 64  # up to which positions are exact


class _DrainSnapshot:
    """The queue as it was when an instance quiesced, and how many of these requests are still queued."""

    __slots__ = ("levels", "rest", "tenants_of")

    def __init__(self, rest: int, levels: LazyHeap[PriorityLevel]) -> None:
        self.rest = rest
        self.levels = levels
        self.tenants_of: dict[PriorityLevel, LazyHeap[TenantQueue]] = {
            level: level.heap.copy() for level in levels.members()
        }


class RequestQueue:
    """The queued requests of one model, by priority and tenant.

    A batch of a quiescing instance is known by the order of its last request.
    """

    __slots__ = ("_batches", "_deadlines", "_heap", "_levels", "_newest", "_sharing", "count", "tenants")

    def __init__(self, sharing: Sharing | None = None) -> None:
        self.count = 0
        self.tenants: dict[str, int] = {}  # how many wait of each
        self._sharing = sharing or Sharing()
        self._levels: dict[int, PriorityLevel] = {}  # an empty one keeps what its tenants have had
        self._heap: LazyHeap[PriorityLevel] = LazyHeap()
        self._batches: dict[int, _DrainSnapshot] = {}
        self._newest = 0  # order of the newest that ever waited
        self._deadlines: list[tuple[float, int, QueuedRequest]] = []  # a heap, also of some that wait no longer

    def add(self, id_: int, request: QueuedRequest) -> None:
        """Append a request to the queue of its priority and tenant."""
        level = self._levels.get(request.priority)
        if level is None:
            level = self._levels[request.priority] = PriorityLevel(request.priority, self._sharing)
        level.add(id_, request)
        self._heap.add(level)
        self.count += 1
        self.tenants[request.tenant] = self.tenants.get(request.tenant, 0) + 1
        self._newest = max(self._newest, request.order)
        if request.deadline is not None:
            heappush(self._deadlines, (request.deadline, id_, request))

    def remove(self, id_: int, request: QueuedRequest, *, served: bool = False) -> None:
        """Remove a request. `served`: it is being dispatched, which counts against the share of its tenant."""
        level = self._levels[request.priority]
        if served:
            level.charge(request.tenant)
        level.remove(id_, request)
        self.count -= 1
        left = self.tenants[request.tenant] - 1
        if left:
            self.tenants[request.tenant] = left
        else:
            del self.tenants[request.tenant]
        for last, batch in self._batches.items():
            batch.rest -= request.order <= last
        if request.deadline is not None:
            self._forget_deadline(request)

    def first(self, last: int | None = None) -> int | None:
        """Return the id of the next request, or None. With `last`: of the batch that ends with that order."""
        batch = None if last is None else self._batches.get(last)
        if last is not None and batch is None:
            return None  # none of its requests is queued: this queue began later
        level = (self._heap if batch is None else batch.levels).first(last)
        if level is None:
            return None
        tenant_queue = (level.heap if batch is None else batch.tenants_of[level]).first(last)
        return None if tenant_queue is None else tenant_queue.first()

    def snapshot_batches(self, lasts: set[int]) -> None:
        """Keep these batches, and no others. A new one holds all requests that are queued now."""
        self._batches = {last: batch for last, batch in self._batches.items() if last in lasts}
        for last in lasts - self._batches.keys():
            if last >= self._newest:
                self._batches[last] = _DrainSnapshot(self.count, self._heap.copy())

    def remaining(self, last: int) -> int:
        """Return how many requests of a batch are still queued."""
        batch = self._batches.get(last)
        return batch.rest if batch else 0

    def set_sharing(self, sharing: Sharing) -> None:
        """Apply other weights and another ageing."""
        if sharing == self._sharing:
            return
        self._sharing = sharing
        for level in self._levels.values():
            level.set_sharing(sharing)
        self._heap = LazyHeap(self._heap.members())
        for batch in self._batches.values():
            batch.levels = LazyHeap(batch.levels.members())

    def ahead_of(self, mine: QueuedRequest) -> int:
        """Return how many requests are served before a request, if none comes or leaves and priorities do not grow."""
        level = self._levels[mine.priority]
        higher = (
            other for other in self._levels.values() if len(other) and other is not level and other.key < level.key
        )
        return level.ahead_of(mine, EXACT_TENANTS) + sum(len(other) for other in higher)

    def ids(self) -> list[int]:
        """Return all ids, in order of arrival."""
        return [id_ for _, id_ in sorted(pair for level in self._levels.values() for pair in level.ids())]

    def next_deadline(self) -> tuple[float, int] | None:
        """Return the earliest deadline of a queued request, and its id. None: no request has one."""
        deadlines = self._deadlines
        while deadlines and not self._waits(deadlines[0]):
            heappop(deadlines)
        return deadlines[0][:2] if deadlines else None

    def summary(self) -> QueuedDemand:
        """Return the demand for a policy. The queue must not be empty."""
        there = [level for level in self._levels.values() if len(level)]
        oldest, priority = min(level.since for level in there), max(level.priority for level in there)
        deadline = self.next_deadline()
        return QueuedDemand(self.count, oldest, priority, self._most(), deadline[0] if deadline else None)

    def _most(self) -> dict[str, int]:
        """Return the number of queued requests of the tenants with the most. Empty if no tenant has a name."""
        if len(self.tenants) <= SHOWN_TENANTS:
            return {} if self.tenants.keys() == {""} else dict(self.tenants)
        return {
            tenant: self.tenants[tenant]
            for tenant in nlargest(SHOWN_TENANTS, self.tenants, key=self.tenants.__getitem__)
        }

    def _waits(self, entry: tuple[float, int, QueuedRequest]) -> bool:
        return entry[2].deadline is not None

    def _forget_deadline(self, request: QueuedRequest) -> None:
        """Mark the deadline of a request as over, and drop such entries where they are most."""
        request.deadline = None
        if len(self._deadlines) > 2 * self.count + 16:
            self._deadlines = [entry for entry in self._deadlines if self._waits(entry)]
            heapify(self._deadlines)


class RequestQueues:
    """All queues of one router. `queues` is by model: none of them is empty."""

    def __init__(self) -> None:
        self.queues: dict[str, RequestQueue] = {}
        self.count = 0
        self.size = 0  # bytes of their bodies
        self._limits = QueueLimits()
        self._sharing = Sharing()
        self._tenants: dict[str, int] = {}  # how many wait of each, for all models
        self._rates = ServiceRates()

    def apply_config(self, limits: QueueLimits, sharing: Sharing, models: Iterable[str]) -> None:
        """Apply new limits and weights. Models that are not in `models` must not have queued requests."""
        self._limits, self._sharing = limits, sharing
        self._rates.forget(set(models))
        for queue in self.queues.values():
            queue.set_sharing(sharing)

    def check_limits(self, now: float, request: QueuedRequest, per_model: int | None) -> tuple[str, float] | None:
        """Return the limit that a request would exceed, as a message, and the seconds until a retry.

        None: it may be queued.
        """
        model, tenant, queue = request.model, request.tenant, self.queues.get(request.model)
        mine = queue.count if queue else 0
        of_tenant, size = self._tenants.get(tenant, 0), self.size + request.size
        usage = QueueUsage(model, tenant, mine, of_tenant, self.count, len(self._tenants), size)
        limits = self._limits if per_model is None else replace(self._limits, per_model=per_model)
        return limits.check(usage, self._rates, now)

    def add(self, now: float, id_: int, request: QueuedRequest, *, open_: bool) -> bool:
        """Queue a request. Return whether it is the first of its model. `open_`: the model accepts requests."""
        queue = self.queues.get(request.model)
        first = queue is None
        if queue is None:
            queue = self.queues[request.model] = RequestQueue(self._sharing)
        queue.add(id_, request)
        self.count += 1
        self.size += request.size
        self._tenants[request.tenant] = self._tenants.get(request.tenant, 0) + 1
        if first:
            self.update_rate_clock(now, request.model, open_=open_)
        return first

    def remove(self, now: float, id_: int, request: QueuedRequest, *, served: bool = False) -> None:
        """Remove a request. `served`: it is being dispatched."""
        model, tenant = request.model, request.tenant
        queue = self.queues[model]
        queue.remove(id_, request, served=served)
        self.count -= 1
        self.size -= request.size
        if self._tenants[tenant] > 1:
            self._tenants[tenant] -= 1
        else:
            del self._tenants[tenant]
        if served:
            self._rates.record(now, model)
        if not queue.count:
            del self.queues[model]
            self.update_rate_clock(now, model, open_=False)

    def update_rate_clock(self, now: float, model: str, *, open_: bool) -> None:
        """Update whether a model accepts requests: only that time counts for its service rate."""
        self._rates.update(now, model, waits=model in self.queues, open_=open_, any_waits=self.count > 0)

    def snapshot_batches(self, lasts: Mapping[str, set[int]]) -> None:
        """Keep these batches of quiescing instances, by model. Each is known by the last order in it."""
        for model, queue in self.queues.items():
            queue.snapshot_batches(lasts.get(model, set()))

    def position(self, request: QueuedRequest) -> int:
        """Return the position of a request in the queue of its model, 1 for the next."""
        return 1 + self.queues[request.model].ahead_of(request)

    def rate(self, model: str, now: float) -> float | None:
        """Return the requests per second dispatched from a model's queue while it was not empty. None: not known."""
        return self._rates.rate(now, model)

    def min_wait_of(self, request: QueuedRequest, now: float, *, ready_in: float, slots: int) -> float:
        """Return a lower bound of the seconds until a request is dispatched. See service_rate.min_wait."""
        return min_wait(ready_in, self.position(request), slots, self._rates.pace(now, request.model))
