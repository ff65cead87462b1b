"""The requests of one model that wait at one router, in the order in which they are served. Pure."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from hotseat.core.messages import Resident, Waiting


@dataclass(slots=True)
class Request:
    """One request from its arrival to its end; `order` counts arrivals at this router."""

    model: str
    priority: int
    order: int
    arrived: float
    holder: Resident | None = None  # None: waits
    cut: bool = False


class Queue:
    """A lane for each priority, each in order of arrival: adding, removing and finding the next cost the same for any length."""

    __slots__ = ("_lanes", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lanes: dict[int, OrderedDict[int, Request]] = {}  # none of them is empty

    def add(self, request: int, known: Request) -> None:
        """Append to the lane of its priority."""
        self._lanes.setdefault(known.priority, OrderedDict())[request] = known
        self.count += 1

    def remove(self, request: int, known: Request) -> None:
        """Take out one that is in it."""
        lane = self._lanes[known.priority]
        del lane[request]
        if not lane:
            del self._lanes[known.priority]
        self.count -= 1

    def first(self, last: int | None = None) -> int | None:
        """Next to serve: the oldest of the highest priority; with `last`, only among those up to that order."""
        for priority in sorted(self._lanes, reverse=True):
            request, known = next(iter(self._lanes[priority].items()))
            if last is None or known.order <= last:
                return request
        return None

    def up_to(self, last: int) -> int:
        """Count those up to this order."""
        return sum(known.order <= last for _, known in self._all())

    def ahead_of(self, mine: Request) -> int:
        """Count those that are served before this one."""
        rank = (-mine.priority, mine.order)
        return sum((-other.priority, other.order) < rank for _, other in self._all())

    def ids(self) -> list[int]:
        """List all, in order of arrival."""
        return [request for request, _ in sorted(self._all(), key=lambda item: item[1].order)]

    def summary(self) -> Waiting:
        """Say how many wait, since when, and of what priority. Not for an empty queue."""
        oldest = min(next(iter(lane.values())).arrived for lane in self._lanes.values())
        return Waiting(self.count, oldest, max(self._lanes))

    def _all(self) -> Iterator[tuple[int, Request]]:
        return (item for lane in self._lanes.values() for item in lane.items())
