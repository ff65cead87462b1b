"""The endpoints that one router sends to: which accept requests, and how many requests are in flight on each. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from hotseat.core.messages import InstanceState, Resident

Key = TypeVar("Key")


class EndpointSet:
    """The instances of the newest residency, and what is in flight on them.

    A quiescing instance serves its batch and no more. An instance with several pods has an endpoint for each.
    """

    def __init__(self) -> None:
        self.open: dict[str, list[Resident]] = {}  # by model: its ready and quiescing instances, one for each address
        self.in_flight: dict[str, int] = {}  # by instance; none of them is 0
        self._loads: dict[tuple[str, str | None], int] = {}  # the same by instance and address
        self.served: dict[str, int] = {}  # by instance: dispatched ever
        self.keep_alive: dict[str, tuple[float, float]] = {}  # by instance: see core.messages.Demand
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
                mine = self.open.setdefault(resident.model, [])
                split = [replace(resident, address=each, more=()) for each in resident.addresses if resident.more]
                mine += split or [resident]
            if resident.state is InstanceState.QUIESCING:
                batches[resident.instance] = self._batches.get(resident.instance, newest)
        self._batches = batches
        self.draining = any(r.state in (InstanceState.QUIESCING, InstanceState.DRAINING) for r in residents)
        known = {r.instance for r in residents}
        self.served = {instance: count for instance, count in self.served.items() if instance in known}
        if self.keep_alive:
            awake = {r.instance for r in residents if r.state is not InstanceState.PARKED}
            self.keep_alive = {instance: said for instance, said in self.keep_alive.items() if instance in awake}

    # Reading ----------------------------------------------------------------------------------------------------------

    def is_ready(self, model: str) -> bool:
        """Whether an instance of a model is ready, though maybe full."""
        return any(instance.state is InstanceState.READY for instance in self.open.get(model, ()))

    def ready(self, model: str, limit: int) -> Resident | None:
        """Return the least loaded ready instance of a model with less than `limit` in flight (0: any), or None."""
        best, least = None, 0
        for instance in self.open.get(model, ()):
            load = self._loads.get((instance.instance, instance.address), 0)
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
            full = limit and self._load(instance) >= limit
            if instance.state is InstanceState.QUIESCING and not full:
                yield instance, self._batches[instance.instance]

    def batches(self) -> Iterable[tuple[str, int]]:
        """Return the model and the last order of each batch that a quiescing instance serves."""
        return [(r.model, self._batches[r.instance]) for r in self._residents if r.instance in self._batches]

    def slots(self, model: str, limit: int) -> int:
        """Return how many requests can start at once when a model accepts requests, at least 1. 0: no limit."""
        if model not in self.open:
            return limit * max(1, sum(r.model == model for r in self._residents))
        free = sum(max(0, limit - self._load(instance)) for instance in self.open[model])
        return max(1, free) if limit else 0

    def busy_pods(self) -> dict[str, int]:
        """Return by instance with several pods how many of them have a request in flight, or are older than one that has."""
        return {
            each.instance: max(
                (n for n, address in enumerate(each.addresses, 1) if (each.instance, address) in self._loads), default=0
            )
            for each in self._residents
            if each.more
        }

    def _load(self, instance: Resident) -> int:
        return self._loads.get((instance.instance, instance.address), 0)

    # Counting ---------------------------------------------------------------------------------------------------------

    def acquire(self, endpoint: Resident) -> None:
        """Count a request that is dispatched to an endpoint."""
        instance, key = endpoint.instance, (endpoint.instance, endpoint.address)
        self.in_flight[instance] = self.in_flight.get(instance, 0) + 1
        self._loads[key] = self._loads.get(key, 0) + 1
        self.served[instance] = self.served.get(instance, 0) + 1

    def release(self, endpoint: Resident) -> None:
        """Count a request of an endpoint that ended."""
        _decrement(self.in_flight, endpoint.instance)
        _decrement(self._loads, (endpoint.instance, endpoint.address))


def _decrement(counts: dict[Key, int], key: Key) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
