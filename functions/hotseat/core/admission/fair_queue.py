"""Weighted fair queueing of requests among tenants, and among priorities. Pure.

A tenant queue holds the requests of one tenant and priority. It is `due` at a point of virtual
time. The queue that is due first is served, which advances it by its stride: the reciprocal of the
tenant's weight. A queue that becomes non-empty is due now at the earliest: a tenant earns nothing
while it has no requests, and what it was served before is not forgotten. Strides are integers, so
that sums are exact.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, Protocol, TypeVar

from hotseat.core.messages import Resident

UNIT = 1_000_000  # of virtual time: what one request of a tenant of weight 1 takes
_REMEMBERED = 64  # tenant queues that a level keeps in any case, empty or not


@dataclass(slots=True)
class QueuedRequest:
    """A request from its arrival to its end. `order` counts arrivals at this router."""

    model: str
    priority: int
    order: int
    arrived: float
    instance: Resident | None = None  # None: waits
    cut: bool = False
    tenant: str = ""
    deadline: float | None = None  # when its client gives up
    size: int = 0  # bytes of its body
    number: int = 0  # in its tenant queue
    keep_alive: float | None = None  # seconds without a request after which its engine is unloaded; None: not stated


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the requests of one model are ordered.

    `ageing` is the seconds of waiting that count as one step of priority, 0: none do. `weights` is
    by tenant; a tenant without one has 1.
    """

    ageing: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def stride(self, tenant: str) -> int:
        """Return the virtual time that one request of a tenant takes."""
        return max(1, round(UNIT / self.weights.get(tenant, 1.0)))


class Member(Protocol):
    """A member of a LazyHeap. Its `key` only grows while it is in the heap, and differs from all others."""

    @property
    def key(self) -> tuple[float, ...]:
        """Return the sort key: the lowest goes first."""

    @property
    def oldest(self) -> int | None:
        """Return the order of its oldest request. None: it is empty."""


M = TypeVar("M", bound=Member)


class LazyHeap(Generic[M]):
    """A heap by key, the lowest first.

    Keys that grew and members that ran empty are corrected when they reach the top.
    """

    __slots__ = ("_entries", "_inside")

    def __init__(self, members: Iterable[M] = ()) -> None:
        self._inside: set[M] = set(members)
        self._entries = [(member.key, member) for member in self._inside]
        heapify(self._entries)

    def add(self, member: M) -> None:
        """Add a member that is not empty, unless it is in the heap."""
        if member not in self._inside:
            self._inside.add(member)
            heappush(self._entries, (member.key, member))

    def first(self, last: int | None = None) -> M | None:
        """Return the first member that is not empty, or None.

        With `last`, members whose oldest request came after that order are removed for good.
        """
        entries = self._entries
        while entries:
            key, member = entries[0]
            oldest = member.oldest
            if oldest is None or (last is not None and oldest > last):
                heappop(entries)
                self._inside.remove(member)
            elif key != (now := member.key):
                heapreplace(entries, (now, member))
            else:
                return member
        return None

    def members(self) -> Iterable[M]:
        """Return all members that are not empty, in no order."""
        return (member for _, member in self._entries if member.oldest is not None)

    def copy(self) -> "LazyHeap[M]":
        """Return a heap with the same members."""
        heap: LazyHeap[M] = LazyHeap()
        heap._entries, heap._inside = self._entries.copy(), self._inside.copy()
        return heap


class TenantQueue:
    """The requests of one tenant and priority, in order of arrival."""

    __slots__ = ("_added", "_left", "_requests", "due", "joined", "tenant")

    def __init__(self, tenant: str, joined: int) -> None:
        self.tenant = tenant
        self.joined = joined  # among queues that are due at the same time, the earlier goes first
        self.due = 0
        self._requests: OrderedDict[int, QueuedRequest] = OrderedDict()
        self._added = 0
        self._left: list[int] = []  # numbers of those that left from between others, as far as they matter

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def key(self) -> tuple[float, ...]:
        """Return when it is due."""
        return (self.due, self.joined)

    @property
    def oldest(self) -> int | None:
        """Return the order of its oldest request. None: it is empty."""
        return self._head().order if self._requests else None

    def first(self) -> int:
        """Return the id of its oldest request."""
        return next(iter(self._requests))

    def add(self, id_: int, request: QueuedRequest) -> None:
        """Append a request."""
        request.number = self._added
        self._added += 1
        self._requests[id_] = request

    def remove(self, id_: int, request: QueuedRequest) -> None:
        """Remove a request."""
        head = self._head()
        del self._requests[id_]
        if request is not head:
            insort(self._left, request.number)
        elif self._left:
            upto = self._head().number if self._requests else self._added
            del self._left[: bisect_left(self._left, upto)]

    def index(self, request: QueuedRequest) -> int:
        """Return how many requests of this queue are before a request."""
        return request.number - self._head().number - bisect_left(self._left, request.number)

    def before(self, moment: tuple[int, int], stride: int) -> int:
        """Return how many requests are served before another queue's key `moment`, if none comes or leaves."""
        due, joined = moment
        ahead = due - self.due - (0 if self.joined < joined else 1)
        return 0 if ahead < 0 else min(len(self), ahead // stride + 1)

    def _head(self) -> QueuedRequest:
        return next(iter(self._requests.values()))


class PriorityLevel:
    """The requests of one priority, in a queue for each tenant."""

    __slots__ = ("_busy", "_forget_above", "_joined", "_now", "_queues", "_requests", "_sharing", "heap", "priority")

    def __init__(self, priority: int, sharing: Sharing) -> None:
        self.priority = priority
        self._queues: dict[str, TenantQueue] = {}  # also empty ones: they know how much their tenants were served
        self._busy = 0  # how many of them are not empty
        self.heap: LazyHeap[TenantQueue] = LazyHeap()
        self._sharing = sharing
        self._requests: OrderedDict[int, QueuedRequest] = OrderedDict()  # all of them, in order of arrival
        self._joined = 0
        self._now = 0  # virtual time: when the one served last was due
        self._forget_above = _REMEMBERED  # number of tenant queues from which on empty ones are forgotten

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def key(self) -> tuple[float, ...]:
        """Return the priority, one higher for each `ageing` that the oldest request has waited.

        It is written as a number that does not change with time.
        """
        ageing = self._sharing.ageing
        aged = -self.priority + self.since / ageing if ageing else -self.priority
        return (aged, -self.priority)

    @property
    def oldest(self) -> int | None:
        """Return the order of its oldest request. None: it is empty."""
        return self._head().order if self._requests else None

    @property
    def since(self) -> float:
        """Return the arrival of its oldest request."""
        return self._head().arrived

    def set_sharing(self, sharing: Sharing) -> None:
        """Apply other weights and another ageing."""
        self._sharing = sharing

    def add(self, id_: int, request: QueuedRequest) -> None:
        """Append a request to the queue of its tenant."""
        tenant_queue = self._queues.get(request.tenant)
        if tenant_queue is None:
            self._joined += 1
            tenant_queue = self._queues[request.tenant] = TenantQueue(request.tenant, self._joined)
        if not len(tenant_queue):
            tenant_queue.due = max(tenant_queue.due, self._now)
            self._busy += 1
        tenant_queue.add(id_, request)
        self._requests[id_] = request
        self.heap.add(tenant_queue)

    def remove(self, id_: int, request: QueuedRequest) -> None:
        """Remove a request, served or not."""
        tenant_queue = self._queues[request.tenant]
        tenant_queue.remove(id_, request)
        del self._requests[id_]
        if not len(tenant_queue):
            self._busy -= 1
            if len(self._queues) > self._forget_above:
                self._forget()

    def charge(self, tenant: str) -> None:
        """Count a request of a tenant that is being served, before it is removed."""
        tenant_queue = self._queues[tenant]
        self._now = max(self._now, tenant_queue.due)
        tenant_queue.due += self._sharing.stride(tenant)

    def ahead_of(self, request: QueuedRequest, exact: int) -> int:
        """Return how many requests of this level are served before a request, if none comes or leaves.

        Beyond `exact` tenants it is an approximation.
        """
        mine = self._queues[request.tenant]
        index = mine.index(request)
        if self._busy > exact:
            return min(len(self) - (len(mine) - index), (index + 1) * self._busy - 1)
        stride = self._sharing.stride
        moment = (mine.due + index * stride(mine.tenant), mine.joined)
        others = (other for other in self.heap.members() if other is not mine)
        return index + sum(other.before(moment, stride(other.tenant)) for other in others)

    def ids(self) -> Iterable[tuple[int, int]]:
        """Return the order and id of each request."""
        return ((request.order, id_) for id_, request in self._requests.items())

    def _head(self) -> QueuedRequest:
        return next(iter(self._requests.values()))

    def _forget(self) -> None:
        """Forget empty tenant queues that are not ahead of virtual time: a new one would be the same."""
        self._queues = {
            tenant: tenant_queue
            for tenant, tenant_queue in self._queues.items()
            if len(tenant_queue) or tenant_queue.due > self._now
        }
        self.heap = LazyHeap(tenant_queue for tenant_queue in self._queues.values() if len(tenant_queue))
        self._forget_above = max(_REMEMBERED, 2 * len(self._queues))
