"""Who could have a seat now, and why: what the switching machine shows to a policy. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from hotseat.core.messages import InstanceState, Refusal
from hotseat.core.policy.api import NOTHING, ModelView, Preference, View, auto_max_wait
from hotseat.core.policy.groups import UNGROUPED
from hotseat.core.policy.placement import pending
from hotseat.core.scheduler.availability import LoadRequest
from hotseat.core.scheduler.demand import NO_TENANTS
from hotseat.core.scheduler.history import StepDurations
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.replicas import replica_views
from hotseat.core.scheduler.status import model_view


def may_evict_at(
    since: float,
    max_wait: float,
    holders: Iterable[Instance],
    costs: StepDurations,
    idle: Callable[[Instance], bool],
    *,
    grouped: Callable[[str], bool] = UNGROUPED.names,
) -> float:
    """Return the time from which a prewarm request of that age may evict a resident. inf: not in this state.

    No request is queued for it, so it must not evict a model that has just been loaded; two such models would evict each other
    forever. An idle resident is evicted after it has been idle for as long as a reload takes. A busy one is evicted after
    `max_wait` seconds, and at least that cost.
    """
    matter = [h for h in holders if (h.terms.claim != NOTHING or grouped(h.model)) and not h.asleep]
    return min(
        (_evictable_at(h, since, max_wait, costs.of(h.model, parks=h.terms.park), idle(h)) for h in matter),
        default=-inf,
    )


def _evictable_at(holder: Instance, since: float, max_wait: float, cost: float, idle: bool) -> float:
    if holder.state in (*DRAINING_STATES, InstanceState.RELEASING, InstanceState.PARKING):
        return -inf
    if holder.state is not InstanceState.READY or holder.ready_since is None:
        return inf  # once ready it has its turn first; what is stuck makes no room at all
    turn = max(since, holder.ready_since) + max(max_wait, cost)
    rested = max(holder.last_used, holder.ready_since) + cost
    return min(turn, rested) if idle else turn


@dataclass(frozen=True, slots=True)
class PolicyViewBuilder:
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
            if mine and mine.state is InstanceState.PARKED and mine.staying:
                mine = None  # it holds nothing, and comes back as others come
            order, wish = self._order(name, mine, now), self.parts.wishes.wish(name, terms, now)
            if terms.external or (mine is None and not waiting[0] and order is None and not wish):
                self.parts.prospects.checks.pop(name, None)
                continue
            in_flight = traffic.demands.in_flight(mine.id) if mine else 0
            waiters = traffic.waiters(name) if waiting[0] else NO_TENANTS
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
                view = replace(view, waiting=0, wish=Preference.NONE)
            views.append(view)
            if terms.replicas > 1:
                views += replica_views(seating.holders.of(name), capacity)
        seen = {view.name for view in views}
        for holder in seating.holders.values():
            if holder.state is InstanceState.PARKED:
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

    def _order(self, model: str, holder: Instance | None, now: float) -> LoadRequest | None:
        """Find an order for it, or make one of the wish for it, which may evict once that costs no more than it brings."""
        order, since = self.parts.prospects.orders.get(model), self.parts.traffic.wanted(model)
        if since is None or (order and order.may_evict):
            return order
        if holder is not None or self.parts.ledger.promised(model):
            return LoadRequest(since, may_evict=True)
        seating, unused = self.parts.seating, self.parts.traffic.unused
        stated, holders, names = seating.terms[model].max_wait, seating.holders.values(), seating.groups.names
        max_wait = self.parts.out.auto_max_wait if stated is None else stated
        at = may_evict_at(since, max_wait, holders, self.parts.ledger.costs, unused, grouped=names)
        if at < inf:
            self.parts.out.wake(at)
        return LoadRequest(since, at <= now)

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


def unserved(view: View) -> set[str]:
    """Those that have no seat and that somebody waits or wishes for.

    A preload that found no room is none of them: it would keep replicas out for ever, and is nobody who waits.
    """
    waited_for = {m.name for m in pending(view) if m.may_evict}
    return waited_for | {m.name for m in view.models if m.wish and (m.seat is None or m.leaving)}
