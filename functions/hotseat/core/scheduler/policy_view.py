"""Builds the view that a policy decides on: the models with demand and the instances. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from hotseat.core.messages import InstanceState, Refusal
from hotseat.core.policy.api import NOTHING, ModelView, Preference, View, auto_max_wait
from hotseat.core.policy.groups import UNGROUPED
from hotseat.core.policy.placement import pending
from hotseat.core.scheduler.availability import LoadRequest
from hotseat.core.scheduler.history import StepDurations
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.replicas import replica_views
from hotseat.core.scheduler.status import model_view


def may_evict_at(
    since: float,
    max_wait: float,
    instances: Iterable[Instance],
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
    matter = [h for h in instances if (h.terms.claim != NOTHING or grouped(h.model)) and not h.asleep]
    return min(
        (_evictable_at(h, since, max_wait, costs.of(h.model, parks=h.terms.park), idle(h)) for h in matter),
        default=-inf,
    )


def _evictable_at(instance: Instance, since: float, max_wait: float, cost: float, idle: bool) -> float:
    if instance.state in (*DRAINING_STATES, InstanceState.RELEASING, InstanceState.PARKING):
        return -inf
    if instance.state is not InstanceState.READY or instance.ready_since is None:
        return inf  # once ready it has its turn first; what is stuck makes no room at all
    turn = max(since, instance.ready_since) + max(max_wait, cost)
    rested = max(instance.last_used, instance.ready_since) + cost
    return min(turn, rested) if idle else turn


@dataclass(frozen=True, slots=True)
class PolicyViewBuilder:
    """Looks at each model and each instance. Those who wait for what cannot be loaded are told so, in the next Residency."""

    parts: Parts

    def view(self, now: float) -> View:
        """Show all that hold something, and all that somebody asks for."""
        scheduler_state, demand_state, capacity = (
            self.parts.scheduler_state,
            self.parts.demand_state,
            self.parts.scheduler_state.capacity,
        )
        main = scheduler_state.instances.primaries()
        views: list[ModelView] = []
        auto = self._auto_max_wait()
        show = partial(
            model_view,
            history=self.parts.history,
            rates=demand_state.rates,
            now=now,
            capacity=capacity,
            auto_max_wait=self.parts.out.auto_max_wait,
        )
        asked_for = {
            *main,
            *self.parts.availability.orders,
            *demand_state.demands.models(),
            *self.parts.preferences.models(scheduler_state.terms),
        }
        asked_for |= self.parts.history.under_way()
        self.parts.availability.checks = {
            name: at for name, at in self.parts.availability.checks.items() if name in asked_for
        }
        for name in [name for name in scheduler_state.terms if name in asked_for]:  # of a thousand models these are few
            terms = scheduler_state.terms[name]
            waiting, mine = self._waiting(name, now), main.get(name)
            if mine and mine.state is InstanceState.PARKED and mine.staying:
                mine = None  # it holds nothing, and comes back as others come
            order, wish = self._order(name, mine, now), self.parts.preferences.wish(name, terms, now)
            if terms.external or (mine is None and not waiting[0] and order is None and not wish):
                self.parts.availability.checks.pop(name, None)
                continue
            in_flight = demand_state.demands.in_flight(mine.id) if mine else 0
            view = show(
                name,
                terms,
                mine,
                waiting=waiting,
                order=order,
                in_flight=in_flight,
                wish=wish,
                expected_until=demand_state.abandonment.expected_until(name),
            )
            if (view.waiting or wish) and not (mine and mine.staying) and not self._loadable(name, now):
                view = replace(view, waiting=0, wish=Preference.NONE)
            views.append(view)
            if terms.replicas > 1:
                views += replica_views(scheduler_state.instances.of(name), capacity)
        seen = {view.name for view in views}
        for instance in scheduler_state.instances.values():
            if instance.state is InstanceState.PARKED:
                continue
            if instance.seat not in seen or not (instance.staying or main.get(instance.model) is instance):
                claim = instance.occupied(capacity)
                views.append(ModelView(instance.seat, claim, seat=instance.state, leaving=True, asleep=instance.asleep))
        return View(now, capacity, tuple(views), scheduler_state.groups, auto)

    def _waiting(self, model: str, now: float) -> tuple[int, float]:
        """How many wait for a model, since their first try; those that a switch was decided for count while they are expected back."""
        (count, oldest), abandonment = self.parts.demand_state.waiting(model), self.parts.demand_state.abandonment
        if count:
            return count, abandonment.since(model, oldest)
        return abandonment.retries(model, now) if self.parts.history.promised(model) else (0, 0.0)

    def _auto_max_wait(self) -> float | None:
        """Work out what `maxWait: Auto` stands for, from the models that take turns, else from all; None: no model has it."""
        terms, costs = self.parts.scheduler_state.terms, self.parts.history.costs
        if all(each.max_wait is not None for each in terms.values()):
            return None
        turns = {
            h.model for h in self.parts.scheduler_state.instances.values()
        } | self.parts.demand_state.demands.waited_for()
        measured = [costs.whole(name, parks=terms[name].park) for name in turns & terms.keys() if name in costs.load]
        self.parts.out.auto_max_wait = auto_max_wait(measured or [costs.whole(name) for name in costs.load])
        return self.parts.out.auto_max_wait

    def no_handle(self, model: str, now: float) -> Refusal | None:
        """Say why no switch could make room for it, if that is so."""
        scheduler_state, epoch = self.parts.scheduler_state, self.parts.out.next_epoch
        claim, instances = scheduler_state.terms[model].claim, scheduler_state.instances.values()
        capacity = (
            replace(scheduler_state.capacity, away=()) if scheduler_state.capacity.away else scheduler_state.capacity
        )  # they are coming
        return self.parts.preferences.no_handle(
            model, claim, capacity, instances, now=now, epoch=epoch, groups=scheduler_state.groups
        )

    def _order(self, model: str, instance: Instance | None, now: float) -> LoadRequest | None:
        """Find an order for it, or make one of the wish for it, which may evict once that costs no more than it brings."""
        order, since = self.parts.availability.orders.get(model), self.parts.demand_state.wanted(model)
        if since is None or (order and order.may_evict):
            return order
        if instance is not None or self.parts.history.promised(model):
            return LoadRequest(since, may_evict=True)
        scheduler_state, unused = self.parts.scheduler_state, self.parts.demand_state.unused
        stated, instances, names = (
            scheduler_state.terms[model].max_wait,
            scheduler_state.instances.values(),
            scheduler_state.groups.names,
        )
        max_wait = self.parts.out.auto_max_wait if stated is None else stated
        at = may_evict_at(since, max_wait, instances, self.parts.history.costs, unused, grouped=names)
        if at < inf:
            self.parts.out.wake(at)
        return LoadRequest(since, at <= now)

    def _loadable(self, model: str, now: float) -> bool:
        """Whether a start could succeed now; if not, see to it that it can, or that those who wait are told."""
        if self.parts.scheduler_state.down:
            return False
        if (retry_at := self.parts.availability.retry_at(model)) > now:
            self.parts.out.wake(retry_at)
            return False
        if refusal := self.no_handle(model, now):
            if self.parts.availability.orders.pop(model, None) or self.parts.demand_state.waiting(model)[0]:
                self.parts.availability.refuse(model, refusal)
            return False
        self.parts.out.tell(*self.parts.availability.fetch(model))
        if self.parts.scheduler_state.terms[model].refuse_uncached and self.parts.demand_state.waiting(model)[0]:
            self.parts.availability.refuse_uncached(model, now, self.parts.out.next_epoch)
        return self.parts.availability.cached(model) and self._checked(model, now)

    def _checked(self, model: str, now: float) -> bool:
        """Whether the runtime has looked whether the load can begin; what is parked needs nothing any more."""
        if not self.parts.scheduler_state.terms[model].check_first or self.parts.scheduler_state.instances.sleeper(
            model
        ):
            return True
        self.parts.out.tell(*self.parts.availability.check(model, now))
        until = self.parts.availability.checks[model]
        if until > now:
            self.parts.out.wake(until)
        return until <= now


def unserved(view: View) -> set[str]:
    """Those that have no seat and that somebody waits or preferences for.

    A preload that found no room is none of them: it would keep replicas out for ever, and is nobody who waits.
    """
    waited_for = {m.name for m in pending(view) if m.may_evict}
    return waited_for | {m.name for m in view.models if m.wish and (m.seat is None or m.leaving)}
