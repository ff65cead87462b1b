"""Whose turn it is among tenants, and among priorities: weighted deficit round robin, whatever the number that wait. Pure.

A lane holds one tenant's requests of one priority. Each lane is *due* at a point of virtual time, and the one that is due first
is served; that moves it on by its stride, the reciprocal of its tenant's weight. So who has had less than its share is next, with
equal weights lanes take turns one by one, and no lane is ever more than one request off. A lane that comes, or comes back, is due
now at the earliest: having been away earns nothing, and what was taken before is not forgotten. Strides are whole numbers, so
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
_REMEMBERED = 64  # lanes that a rank keeps in any case, empty or not


@dataclass(slots=True)
class QueuedRequest:
    """One request from its arrival to its end; `order` counts arrivals at this router."""

    model: str
    priority: int
    order: int
    arrived: float
    instance: Resident | None = None  # None: waits
    cut: bool = False
    tenant: str = ""
    deadline: float | None = None  # when its client gives up
    size: int = 0  # bytes of its body
    number: int = 0  # in its lane


@dataclass(frozen=True, slots=True)
class Sharing:
    """How those who wait for one model take turns.

    `ageing`: seconds of waiting that count as one step of priority, 0: none do. `weights` by tenant; who is not named has 1.
    """

    ageing: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def stride(self, tenant: str) -> int:
        """Virtual time that one request takes of this tenant's share."""
        return max(1, round(UNIT / self.weights.get(tenant, 1.0)))


class Member(Protocol):
    """What can stand in a Ring. `key` only ever grows while it stands there, and differs from every other member's."""

    @property
    def key(self) -> tuple[float, ...]:
        """Rank in the ring: the lowest goes first."""

    @property
    def oldest(self) -> int | None:
        """Order of its oldest request; None: it is empty."""


M = TypeVar("M", bound=Member)


class LazyHeap(Generic[M]):
    """Members by key, the lowest first. Keys that grew and members that ran empty are noticed when they come up."""

    __slots__ = ("_entries", "_inside")

    def __init__(self, members: Iterable[M] = ()) -> None:
        self._inside: set[M] = set(members)
        self._entries = [(member.key, member) for member in self._inside]
        heapify(self._entries)

    def add(self, member: M) -> None:
        """Take in one that is not empty; one that is in already stays."""
        if member not in self._inside:
            self._inside.add(member)
            heappush(self._entries, (member.key, member))

    def first(self, last: int | None = None) -> M | None:
        """First that is not empty. With `last`, those whose oldest came later than that order are put out for good."""
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
        """All that are not empty, in no order."""
        return (member for _, member in self._entries if member.oldest is not None)

    def copy(self) -> "LazyHeap[M]":
        """Make another with the same members, in which each is found out by itself."""
        ring: LazyHeap[M] = LazyHeap()
        ring._entries, ring._inside = self._entries.copy(), self._inside.copy()
        return ring


class TenantQueue:
    """One tenant's requests of one priority, in order of arrival."""

    __slots__ = ("_added", "_left", "_requests", "due", "joined", "tenant")

    def __init__(self, tenant: str, joined: int) -> None:
        self.tenant = tenant
        self.joined = joined  # among lanes that are due at the same time, the earlier goes first
        self.due = 0
        self._requests: OrderedDict[int, QueuedRequest] = OrderedDict()
        self._added = 0
        self._left: list[int] = []  # numbers of those that left from between others, as far as they matter

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def key(self) -> tuple[float, ...]:
        """When it is due."""
        return (self.due, self.joined)

    @property
    def oldest(self) -> int | None:
        """Order of its oldest request; None: it is empty."""
        return self._head().order if self._requests else None

    def first(self) -> int:
        """Id of its oldest request."""
        return next(iter(self._requests))

    def add(self, id_: int, request: QueuedRequest) -> None:
        """Append."""
        request.number = self._added
        self._added += 1
        self._requests[id_] = request

    def remove(self, id_: int, request: QueuedRequest) -> None:
        """Take one out."""
        head = self._head()
        del self._requests[id_]
        if request is not head:
            insort(self._left, request.number)
        elif self._left:
            upto = self._head().number if self._requests else self._added
            del self._left[: bisect_left(self._left, upto)]

    def index(self, request: QueuedRequest) -> int:
        """How many of its own stand before this one."""
        return request.number - self._head().number - bisect_left(self._left, request.number)

    def before(self, moment: tuple[int, int], stride: int) -> int:
        """How many of its requests are served before one whose key is `moment`, if nobody comes or leaves."""
        due, joined = moment
        ahead = due - self.due - (0 if self.joined < joined else 1)
        return 0 if ahead < 0 else min(len(self), ahead // stride + 1)

    def _head(self) -> QueuedRequest:
        return next(iter(self._requests.values()))


class PriorityLevel:
    """Requests of one priority, in a lane for each tenant."""

    __slots__ = ("_busy", "_joined", "_lanes", "_look_at", "_now", "_requests", "_sharing", "priority", "ring")

    def __init__(self, priority: int, sharing: Sharing) -> None:
        self.priority = priority
        self._lanes: dict[str, TenantQueue] = {}  # also empty ones: they know what their tenants have had
        self._busy = 0  # how many of them are not empty
        self.ring: LazyHeap[TenantQueue] = LazyHeap()
        self._sharing = sharing
        self._requests: OrderedDict[int, QueuedRequest] = OrderedDict()  # all of them, in order of arrival
        self._joined = 0
        self._now = 0  # virtual time: when the one served last was due
        self._look_at = _REMEMBERED  # number of lanes beyond which those are forgotten that owe nothing

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def key(self) -> tuple[float, ...]:
        """Its priority, grown by one for each `ageing` that its oldest has waited; as a number that time does not change."""
        ageing = self._sharing.ageing
        aged = -self.priority + self.since / ageing if ageing else -self.priority
        return (aged, -self.priority)

    @property
    def oldest(self) -> int | None:
        """Order of its oldest request; None: it is empty."""
        return self._head().order if self._requests else None

    @property
    def since(self) -> float:
        """Arrival of its oldest request."""
        return self._head().arrived

    def set_sharing(self, sharing: Sharing) -> None:
        """Go by other weights and another ageing from now on."""
        self._sharing = sharing

    def add(self, id_: int, request: QueuedRequest) -> None:
        """Append to its tenant's lane."""
        lane = self._lanes.get(request.tenant)
        if lane is None:
            self._joined += 1
            lane = self._lanes[request.tenant] = TenantQueue(request.tenant, self._joined)
        if not len(lane):
            lane.due = max(lane.due, self._now)
            self._busy += 1
        lane.add(id_, request)
        self._requests[id_] = request
        self.ring.add(lane)

    def remove(self, id_: int, request: QueuedRequest) -> None:
        """Take one out; that says nothing of whether it was served."""
        lane = self._lanes[request.tenant]
        lane.remove(id_, request)
        del self._requests[id_]
        if not len(lane):
            self._busy -= 1
            if len(self._lanes) > self._look_at:
                self._forget()

    def charge(self, tenant: str) -> None:
        """Note that one of this tenant is being served, before it is removed."""
        lane = self._lanes[tenant]
        self._now = max(self._now, lane.due)
        lane.due += self._sharing.stride(tenant)

    def ahead_of(self, request: QueuedRequest, exact: int) -> int:
        """How many of this rank are served before this one, if nobody comes or leaves; nearly, beyond `exact` tenants."""
        mine = self._lanes[request.tenant]
        index = mine.index(request)
        if self._busy > exact:
            return min(len(self) - (len(mine) - index), (index + 1) * self._busy - 1)
        stride = self._sharing.stride
        moment = (mine.due + index * stride(mine.tenant), mine.joined)
        others = (lane for lane in self.ring.members() if lane is not mine)
        return index + sum(lane.before(moment, stride(lane.tenant)) for lane in others)

    def ids(self) -> Iterable[tuple[int, int]]:
        """Order and id of each."""
        return ((request.order, id_) for id_, request in self._requests.items())

    def _head(self) -> QueuedRequest:
        return next(iter(self._requests.values()))

    def _forget(self) -> None:
        """Let go of empty lanes that owe nothing: to begin anew would be the same to them."""
        self._lanes = {tenant: lane for tenant, lane in self._lanes.items() if len(lane) or lane.due > self._now}
        self.ring = LazyHeap(lane for lane in self._lanes.values() if len(lane))
        self._look_at = max(_REMEMBERED, 2 * len(self._lanes))
