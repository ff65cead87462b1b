"""Who could have a seat now, and why: what the switching machine shows to a policy. Pure."""

from dataclasses import dataclass, replace
from functools import partial
from math import inf

from hotseat.core.demands import NOBODY
from hotseat.core.instance import Holder
from hotseat.core.messages import Refusal, SeatState
from hotseat.core.parts import Parts
from hotseat.core.placing import those_wanting
from hotseat.core.policy import ModelView, View, Wish, auto_max_wait
from hotseat.core.prospects import Order
from hotseat.core.replicas import replica_views
from hotseat.core.views import model_view
from hotseat.core.wants import evicts_at


@dataclass(frozen=True, slots=True)
class Candidates:
    """Looks at each model and each holder. Those who wait for what cannot be loaded are told so, in the next Residency."""

    parts: Parts

    def view(self, now: float) -> View:
        """Show all that hold something, and all that somebody asks for."""
        seating, traffic, capacity = self.parts.seating, self.parts.traffic, self.parts.seating.capacity
        main = seating.holders.primaries()
        views: list[ModelView] = []
        auto = self._auto_max_wait()
        show = partial(
            model_view,
            ledger=self.parts.ledger,
            rates=traffic.rates,
            now=now,
            capacity=capacity,
            auto_max_wait=self.parts.out.auto_max_wait,
        )
        asked_for = {
            *main,
            *self.parts.prospects.orders,
            *traffic.demands.models(),
            *self.parts.wishes.models(seating.terms),
        }
        asked_for |= self.parts.ledger.under_way()
        self.parts.prospects.checks = {
            name: at for name, at in self.parts.prospects.checks.items() if name in asked_for
        }
        for name in [name for name in seating.terms if name in asked_for]:  # of a thousand models these are few
            terms = seating.terms[name]
            waiting, mine = self._waiting(name, now), main.get(name)
            if mine and mine.state is SeatState.PARKED and mine.staying:
                mine = None  # it holds nothing, and comes back as others come
            order, wish = self._order(name, mine, now), self.parts.wishes.wish(name, terms, now)
            if terms.external or (mine is None and not waiting[0] and order is None and not wish):
                self.parts.prospects.checks.pop(name, None)
                continue
            in_flight = traffic.demands.in_flight(mine.id) if mine else 0
            waiters = traffic.waiters(name) if waiting[0] else NOBODY
            view = show(
                name,
                terms,
                mine,
                waiting=waiting,
                order=order,
                in_flight=in_flight,
                waiters=waiters,
                wish=wish,
                expected_until=traffic.abandonment.expected_until(name),
            )
            if (view.waiting or wish) and not (mine and mine.staying) and not self._loadable(name, now):
                view = replace(view, waiting=0, wish=Wish.NONE)
            views.append(view)
            if terms.replicas > 1:
                views += replica_views(seating.holders.of(name), capacity)
        seen = {view.name for view in views}
        for holder in seating.holders.values():
            if holder.state is SeatState.PARKED:
                continue
            if holder.seat not in seen or not (holder.staying or main.get(holder.model) is holder):
                claim = holder.occupied(capacity)
                views.append(ModelView(holder.seat, claim, seat=holder.state, leaving=True, asleep=holder.asleep))
        return View(now, capacity, tuple(views), seating.groups, auto)

    def _waiting(self, model: str, now: float) -> tuple[int, float]:
        """How many wait for a model, since their first try; those that a switch was decided for count while they are expected back."""
        (count, oldest), abandonment = self.parts.traffic.waiting(model), self.parts.traffic.abandonment
        if count:
            return count, abandonment.since(model, oldest)
        return abandonment.retries(model, now) if self.parts.ledger.promised(model) else (0, 0.0)

    def _auto_max_wait(self) -> float | None:
        """Work out what `maxWait: Auto` stands for, from the models that take turns, else from all; None: no model has it."""
        terms, costs = self.parts.seating.terms, self.parts.ledger.costs
        if all(each.max_wait is not None for each in terms.values()):
            return None
        turns = {h.model for h in self.parts.seating.holders.values()} | self.parts.traffic.demands.waited_for()
        measured = [costs.whole(name, parks=terms[name].park) for name in turns & terms.keys() if name in costs.load]
        self.parts.out.auto_max_wait = auto_max_wait(measured or [costs.whole(name) for name in costs.load])
        return self.parts.out.auto_max_wait

    def no_room(self, model: str, now: float) -> Refusal | None:
        """Say why no switch could make room for it, if that is so."""
        seating, epoch = self.parts.seating, self.parts.out.next_epoch
        claim, holders = seating.terms[model].claim, seating.holders.values()
        capacity = replace(seating.capacity, away=()) if seating.capacity.away else seating.capacity  # they are coming
        return self.parts.wishes.no_room(model, claim, capacity, holders, now=now, epoch=epoch, groups=seating.groups)

    def _order(self, model: str, holder: Holder | None, now: float) -> Order | None:
        """Find an order for it, or make one of the wish for it, which may evict once that costs no more than it brings."""
        order, since = self.parts.prospects.orders.get(model), self.parts.traffic.wanted(model)
        if since is None or (order and order.may_evict):
            return order
        if holder is not None or self.parts.ledger.promised(model):
            return Order(since, may_evict=True)
        seating, unused = self.parts.seating, self.parts.traffic.unused
        stated, holders, names = seating.terms[model].max_wait, seating.holders.values(), seating.groups.names
        max_wait = self.parts.out.auto_max_wait if stated is None else stated
        at = evicts_at(since, max_wait, holders, self.parts.ledger.costs, unused, grouped=names)
        if at < inf:
            self.parts.out.wake(at)
        return Order(since, at <= now)

    def _loadable(self, model: str, now: float) -> bool:
        """Whether a start could succeed now; if not, see to it that it can, or that those who wait are told."""
        if self.parts.seating.down:
            return False
        if (retry_at := self.parts.prospects.retry_at(model)) > now:
            self.parts.out.wake(retry_at)
            return False
        if refusal := self.no_room(model, now):
            if self.parts.prospects.orders.pop(model, None) or self.parts.traffic.waiting(model)[0]:
                self.parts.prospects.refuse(model, refusal)
            return False
        self.parts.out.tell(*self.parts.prospects.fetch(model))
        if self.parts.seating.terms[model].refuse_uncached and self.parts.traffic.waiting(model)[0]:
            self.parts.prospects.refuse_uncached(model, now, self.parts.out.next_epoch)
        return self.parts.prospects.cached(model) and self._checked(model, now)

    def _checked(self, model: str, now: float) -> bool:
        """Whether the runtime has looked whether the load can begin; what is parked needs nothing any more."""
        if not self.parts.seating.terms[model].check_first or self.parts.seating.holders.sleeper(model):
            return True
        self.parts.out.tell(*self.parts.prospects.check(model, now))
        until = self.parts.prospects.checks[model]
        if until > now:
            self.parts.out.wake(until)
        return until <= now


def hungry(view: View) -> set[str]:
    """Those that have no seat and that somebody waits or wishes for.

    A preload that found no room is none of them: it would keep replicas out for ever, and is nobody who waits.
    """
    waited_for = {m.name for m in those_wanting(view) if m.may_evict}
    return waited_for | {m.name for m in view.models if m.wish and (m.seat is None or m.leaving)}
