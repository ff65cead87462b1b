"""What all routers of a Workspace want and do: the newest snapshot of each. Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from hotseat.core.messages import Demand

_NONE = Demand(router="", seq=0, seen_epoch=0)
Waiters = tuple[Mapping[str, int], float | None]  # how many wait of each tenant, and their earliest deadline
NOBODY: Waiters = ({}, None)
_REMEMBERED = 256  # routers that left, whose late snapshots are known for what they are


class Demands:
    """The newest snapshot by router. Router ids are never used again, so one that left stays away."""

    def __init__(self) -> None:
        self._newest: dict[str, Demand] = {}
        self._left: deque[str] = deque(maxlen=_REMEMBERED)
        self._silent: set[str] = set()  # enrolled, but not heard yet

    def expect(self, routers: Iterable[str]) -> None:
        """Know of routers that will report, or leave."""
        self._silent |= set(routers) - self._newest.keys() - set(self._left)

    def note(self, demand: Demand) -> set[str] | None:
        """Take in a snapshot; returns the holders that were used since the router's last. None: it is too old to count."""
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
        """Forget a router; returns the holders that it was using."""
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

    def waiters(self, model: str, since_epoch: int = -1) -> Waiters:
        """Say of which tenants how many wait for a model, and their earliest deadline; as far as their routers have seen an epoch."""
        rows = [d.waiting[model] for d in self._newest.values() if model in d.waiting and d.seen_epoch >= since_epoch]
        tenants: Mapping[str, int] = (
            rows[0].tenants if len(rows) == 1 else sum((Counter(w.tenants) for w in rows), Counter())
        )
        return tenants, min((w.deadline for w in rows if w.deadline is not None), default=None)

    def in_flight(self, holder: str) -> int:
        """How many requests a holder is answering."""
        return sum(d.in_flight.get(holder, 0) for d in self._newest.values())

    def answered(self, holder: str) -> int:
        """How many requests a holder has ended, however, for the routers that are there."""
        return sum(d.served.get(holder, 0) - d.in_flight.get(holder, 0) for d in self._newest.values())

    def closing(self, model: str) -> int:
        """How many of a closing batch still wait."""
        return sum(d.closing.get(model, 0) for d in self._newest.values())

    def all_saw(self, epoch: int) -> bool:
        """Whether every router has seen an epoch."""
        return not self._silent and all(d.seen_epoch >= epoch for d in self._newest.values())
