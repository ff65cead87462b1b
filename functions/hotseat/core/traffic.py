"""The requests of one Workspace, as its routers tell of them: who waits, what each holder answers, how fast more come. Pure.

Snapshots from before a refusal do not count for the model that was refused: who waited then has been answered with it.
"""

from collections import Counter
from dataclasses import dataclass, field

from hotseat.core.abandonment import Abandonment
from hotseat.core.demands import Demands, Waiters
from hotseat.core.events import Emit
from hotseat.core.instance import GOING, Holder
from hotseat.core.messages import Demand, SeatState
from hotseat.core.prospects import Prospects
from hotseat.core.rates import Rates
from hotseat.core.seating import Seating


@dataclass(slots=True)
class Traffic:
    """The newest demand of all routers. What it says of use is kept with the holders: when each was used last."""

    seating: Seating
    prospects: Prospects
    demands: Demands = field(default_factory=Demands)
    rates: Rates = field(default_factory=Rates)
    abandonment: Abandonment = field(default_factory=Abandonment)

    def note(self, now: float, demand: Demand) -> list[Emit]:
        """Take in a router's snapshot, unless it is too old to count."""
        holders = self.seating.holders.values()
        last = self.demands.newest(demand.router)
        used = self.demands.note(demand)
        if used is None:
            return []
        self._note_use(used, now)
        self.rates.note(now, last, demand, {h.id: h.model for h in holders})
        for holder in holders:
            if demand.served.get(holder.id, 0) > last.served.get(holder.id, 0):
                holder.dispatched = now
                self.abandonment.ended(holder.model)
        self._note_departures(now, last, demand)
        told: list[Emit] = []
        for model in demand.requested:
            if model in self.seating.terms and not self.seating.serves(model):
                count, workspace = self.waiting(model)[0], self.seating.workspace
                data = {"model": model, "workspace": workspace, "waiting": count, "router": demand.router}
                told.append(Emit("switch.requested", model, data))
        return told

    def _note_departures(self, now: float, last: Demand, new: Demand) -> None:
        """Note which models are asked for again, and for which the last request that waited has given up."""
        for model, waiting in new.waiting.items():
            self.abandonment.asked(model, now, waiting.oldest)
        for model in last.waiting.keys() - new.waiting.keys():
            answers = any(h.state in (SeatState.READY, *GOING) for h in self.seating.holders.of(model))
            if answers or self.prospects.refused(model) > last.seen_epoch:
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

    def forgive(self, holder: Holder, now: float) -> None:
        """Forget the failures of a model if this holder, which goes, has served well."""
        self.prospects.forgive(holder.model, holder.ready_since, now, self.demands.answered(holder.id))

    def _note_use(self, used: set[str], now: float) -> None:
        holders = self.seating.holders
        models = {holders[holder].model for holder in used & holders.keys()}
        for holder in holders.values():
            if holder.id in used or (holder.replica == 1 and holder.model in models):
                holder.last_used = now

    # Reading ----------------------------------------------------------------------------------------------------------

    def waiting(self, model: str) -> tuple[int, float]:
        """How many wait and since when."""
        return self.demands.waiting(model, self.prospects.refused(model))

    def waiters(self, model: str) -> Waiters:
        """Say of which tenants how many wait, and their earliest deadline."""
        return self.demands.waiters(model, self.prospects.refused(model))

    def wanted(self, model: str) -> float | None:
        """Since when it is wanted by requests that another model answered; None: it is not."""
        return self.demands.wanted(model, self.prospects.refused(model))

    def unused(self, holder: Holder) -> bool:
        """Return True if the instance has no queued or running requests.

        The primary also counts its replicas' requests, because parking it would stop them.
        """
        whole = holder.replica == 1 and holder.terms.replicas > 1
        mine = self.seating.holders.of(holder.model) if whole else (holder,)
        busy = any(self.demands.in_flight(h.id) for h in mine)
        return not busy and not self.waiting(holder.model)[0]

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """By model: how many wait at all routers, since when, and how many requests are in flight; those with neither are left out."""
        held = Counter[str]()
        for h in self.seating.holders.values():
            held[h.model] += self.demands.in_flight(h.id)
        rows = {name: (*self.waiting(name), held[name]) for name in self.seating.terms}
        return {name: row for name, row in rows.items() if row[0] or row[2]}
