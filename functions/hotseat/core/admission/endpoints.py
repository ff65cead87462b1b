"""The endpoints that one router sends to: which accept requests, and how many requests are in flight on each. Pure."""

from collections.abc import Iterable, Iterator

from hotseat.core.messages import InstanceState, Resident


class EndpointSet:
    """The instances of the newest residency, and what is in flight on them.

    A quiescing instance serves its batch and no more.
    """

    def __init__(self) -> None:
        self.open: dict[str, list[Resident]] = {}  # by model: its ready and quiescing instances
        self.in_flight: dict[str, int] = {}  # by instance; none of them is 0
        self.served: dict[str, int] = {}  # by instance: dispatched ever
        self.draining = False  # whether any instance is quiescing or draining
        self._residents: tuple[Resident, ...] = ()
        self._batches: dict[str, int] = {}  # by quiescing instance: the last order that it still serves

    def update(self, residents: tuple[Resident, ...], newest: int) -> None:
        """Replace the instances.

        `newest` is the order of the last arrival: it ends the batch of an instance that quiesces
        now.
        """
        self._residents = residents
        self.open, batches = {}, {}
        for resident in residents:
            if resident.state in (InstanceState.READY, InstanceState.QUIESCING) and resident.address is not None:
                self.open.setdefault(resident.model, []).append(resident)
            if resident.state is InstanceState.QUIESCING:
                batches[resident.instance] = self._batches.get(resident.instance, newest)
        self._batches = batches
        self.draining = any(r.state in (InstanceState.QUIESCING, InstanceState.DRAINING) for r in residents)
        known = {r.instance for r in residents}
        self.served = {instance: count for instance, count in self.served.items() if instance in known}

    # Reading ----------------------------------------------------------------------------------------------------------

    def is_ready(self, model: str) -> bool:
        """Whether an instance of a model is ready, though maybe full."""
        return any(instance.state is InstanceState.READY for instance in self.open.get(model, ()))

    def ready(self, model: str, limit: int) -> Resident | None:
        """Return the least loaded ready instance of a model with less than `limit` in flight (0: any), or None."""
        best, least = None, 0
        for instance in self.open.get(model, ()):
            load = self.in_flight.get(instance.instance, 0)
            if (
                instance.state is InstanceState.READY
                and not (limit and load >= limit)
                and (best is None or load < least)
            ):
                best, least = instance, load
        return best

    def quiescing(self, model: str, limit: int) -> Iterator[tuple[Resident, int]]:
        """Yield the quiescing instances of a model that are not full, each with the last order of its batch."""
        for instance in self.open.get(model, ()):
            full = limit and self.in_flight.get(instance.instance, 0) >= limit
            if instance.state is InstanceState.QUIESCING and not full:
                yield instance, self._batches[instance.instance]

    def batches(self) -> Iterable[tuple[str, int]]:
        """Return the model and the last order of each batch that a quiescing instance serves."""
        return [(r.model, self._batches[r.instance]) for r in self._residents if r.instance in self._batches]

    def slots(self, model: str, limit: int) -> int:
        """Return how many requests can start at once when a model accepts requests, at least 1. 0: no limit."""
        if model not in self.open:
            return limit * max(1, sum(r.model == model for r in self._residents))
        free = sum(max(0, limit - self.in_flight.get(instance.instance, 0)) for instance in self.open[model])
        return max(1, free) if limit else 0

    # Counting ---------------------------------------------------------------------------------------------------------

    def acquire(self, instance: str) -> None:
        """Count a request that is dispatched to an instance."""
        self.in_flight[instance] = self.in_flight.get(instance, 0) + 1
        self.served[instance] = self.served.get(instance, 0) + 1

    def release(self, instance: str) -> None:
        """Count a request of an instance that ended."""
        left = self.in_flight[instance] - 1
        if left:
            self.in_flight[instance] = left
        else:
            del self.in_flight[instance]
