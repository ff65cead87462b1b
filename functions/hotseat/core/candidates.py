"""Who could have a seat now, and why: what the switching machine shows to a policy. Pure."""

from dataclasses import dataclass, replace
from functools import partial
from math import inf

from hotseat.core.demands import NOBODY
from hotseat.core.messages import Refusal, SeatState
from hotseat.core.output import Output
from hotseat.core.placing import those_wanting
from hotseat.core.policy import ModelView, View, Wish
from hotseat.core.prospects import Order, Prospects
from hotseat.core.replicas import replica_views
from hotseat.core.seating import Seating
from hotseat.core.seats import Holder
from hotseat.core.switches import Ledger
from hotseat.core.traffic import Traffic
from hotseat.core.views import by_model, model_view
from hotseat.core.wants import evicts_at
from hotseat.core.wishes import Wishes


@dataclass(slots=True)
class Candidates:
    """Looks at each model and each holder. Those who wait for what cannot be loaded are told so, in the next Residency."""

    seating: Seating
    traffic: Traffic
    prospects: Prospects
    ledger: Ledger
    wishes: Wishes
    out: Output

    def view(self, now: float) -> View:
        """Show all that hold something, and all that somebody asks for."""
        seating, traffic, capacity = self.seating, self.traffic, self.seating.capacity
        main = by_model(seating.holders.values())
        views: list[ModelView] = []
        show = partial(model_view, ledger=self.ledger, rates=traffic.rates, now=now, capacity=capacity)
        asked_for = {*main, *self.prospects.orders, *traffic.demands.models(), *self.wishes.models(seating.terms)}
        for name in [name for name in seating.terms if name in asked_for]:  # of a thousand models these are few
            terms = seating.terms[name]
            waiting, mine = traffic.waiting(name), main.get(name)
            if mine and mine.state is SeatState.PARKED and mine.staying:
                mine = None  # it holds nothing, and comes back as others come
            order, wish = self._order(name, mine, now), self.wishes.wish(name, terms, now)
            if terms.external or (mine is None and not waiting[0] and order is None and not wish):
                continue
            in_flight = traffic.demands.in_flight(mine.id) if mine else 0
            waiters = traffic.waiters(name) if waiting[0] else NOBODY
            view = show(
                name, terms, mine, waiting=waiting, order=order, in_flight=in_flight, waiters=waiters, wish=wish
            )
            if (view.waiting or wish) and not (mine and mine.staying) and not self._loadable(name, now):
                view = replace(view, waiting=0, wish=Wish.NONE)
            views.append(view)
            if terms.replicas > 1:
                views += replica_views(view, seating.holders.values(), capacity)
        seen = {view.name for view in views}
        for holder in seating.holders.values():
            if holder.state is SeatState.PARKED:
                continue
            if holder.seat not in seen or not (holder.staying or main.get(holder.model) is holder):
                claim = holder.occupied(capacity)
                views.append(ModelView(holder.seat, claim, seat=holder.state, leaving=True, asleep=holder.asleep))
        return View(now, capacity, tuple(views), seating.groups)

    def no_room(self, model: str, now: float) -> Refusal | None:
        """Say why no switch could make room for it, if that is so."""
        seating, epoch = self.seating, self.out.next_epoch
        claim, holders = seating.terms[model].claim, seating.holders.values()
        capacity = replace(seating.capacity, away=()) if seating.capacity.away else seating.capacity  # they are coming
        return self.wishes.no_room(model, claim, capacity, holders, now=now, epoch=epoch, groups=seating.groups)

    def _order(self, model: str, holder: Holder | None, now: float) -> Order | None:
        """Find an order for it, or make one of the wish for it, which may evict once that costs no more than it brings."""
        order, since = self.prospects.orders.get(model), self.traffic.wanted(model)
        if since is None or (order and order.may_evict):
            return order
        if holder is not None or self.ledger.promised(model):
            return Order(since, may_evict=True)
        seating, unused = self.seating, self.traffic.unused
        max_wait, holders, names = seating.terms[model].max_wait, seating.holders.values(), seating.groups.names
        at = evicts_at(since, max_wait, holders, self.ledger.costs, unused, grouped=names)
        if at < inf:
            self.out.wakes.append(at)
        return Order(since, at <= now)

    def _loadable(self, model: str, now: float) -> bool:
        """Whether a start could succeed now; if not, see to it that it can, or that those who wait are told."""
        if self.seating.down:
            return False
        if (retry_at := self.prospects.retry_at(model)) > now:
            self.out.wakes.append(retry_at)
            return False
        if refusal := self.no_room(model, now):
            if self.prospects.orders.pop(model, None) or self.traffic.waiting(model)[0]:
                self.prospects.refuse(model, refusal)
            return False
        self.out.tell(*self.prospects.fetch(model))
        if self.seating.terms[model].refuse_uncached and self.traffic.waiting(model)[0]:
            self.prospects.refuse_uncached(model, now, self.out.next_epoch)
        return self.prospects.cached(model)


def hungry(view: View) -> set[str]:
    """Those that have no seat and that somebody waits or wishes for.

    A preload that found no room is none of them: it would keep replicas out for ever, and is nobody who waits.
    """
    waited_for = {m.name for m in those_wanting(view) if m.may_evict}
    return waited_for | {m.name for m in view.models if m.wish and (m.seat is None or m.leaving)}
