"""Where requests wait at one router, for all its models: how many may, who is next, and when their turn can come. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hotseat.core.drains import Drains, soonest
from hotseat.core.queues import Queue
from hotseat.core.quotas import Crowd, Quotas
from hotseat.core.turns import Request, Sharing


class Hall:
    """Everybody who waits. `queues` by model: none of them is empty."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.count = 0
        self.size = 0  # bytes of their bodies
        self._quotas = Quotas()
        self._sharing = Sharing()
        self._tenants: dict[str, int] = {}  # how many wait of each, for all models
        self._drains = Drains()

    def change(self, quotas: Quotas, sharing: Sharing, models: Iterable[str]) -> None:
        """Take in the documents; of models that are gone nobody waits any longer."""
        self._quotas, self._sharing = quotas, sharing
        self._drains.forget(set(models))
        for queue in self.queues.values():
            queue.share(sharing)

    def full(self, now: float, request: Request, per_model: int | None) -> tuple[str, float] | None:
        """Say why this one may not wait, and when to come again (seconds); None: it may."""
        model, tenant, queue = request.model, request.tenant, self.queues.get(request.model)
        mine = queue.count if queue else 0
        of_tenant, size = self._tenants.get(tenant, 0), self.size + request.size
        crowd = Crowd(model, tenant, mine, of_tenant, self.count, len(self._tenants), size)
        quotas = self._quotas if per_model is None else replace(self._quotas, per_model=per_model)
        return quotas.full(crowd, self._drains, now)

    def add(self, now: float, id_: int, request: Request, *, open_: bool) -> bool:
        """Let it wait; returns whether it is the first for its model. `open_`: the model takes requests."""
        queue = self.queues.get(request.model)
        first = queue is None
        if queue is None:
            queue = self.queues[request.model] = Queue(self._sharing)
        queue.add(id_, request)
        self.count += 1
        self.size += request.size
        self._tenants[request.tenant] = self._tenants.get(request.tenant, 0) + 1
        if first:
            self.watch(now, request.model, open_=open_)
        return first

    def remove(self, now: float, id_: int, request: Request, *, served: bool = False) -> None:
        """Take one out; `served`: because it is being dispatched."""
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
            self._drains.note(now, model)
        if not queue.count:
            del self.queues[model]
            self.watch(now, model, open_=False)

    def watch(self, now: float, model: str, *, open_: bool) -> None:
        """Take in whether a model takes requests: it counts for how fast its queue drains."""
        self._drains.watch(now, model, waits=model in self.queues, open_=open_, any_waits=self.count > 0)

    def close_batches(self, lasts: Mapping[str, set[int]]) -> None:
        """Take in which batches are owed, by model: each is known by the last order in it."""
        for model, queue in self.queues.items():
            queue.close_batches(lasts.get(model, set()))

    def place(self, request: Request) -> int:
        """Place in its model's queue, 1 for the next."""
        return 1 + self.queues[request.model].ahead_of(request)

    def rate(self, model: str, now: float) -> float | None:
        """Give the requests per second that left a model's queue for an engine while somebody waited; None while nothing is known."""
        return self._drains.rate(now, model)

    def least(self, request: Request, now: float, *, ready_in: float, slots: int) -> float:
        """Seconds until its turn at the least. `ready_in`: until its model is ready; `slots`: how many begin at once then, 0: all."""
        return soonest(ready_in, self.place(request), slots, self._drains.pace(now, request.model))
