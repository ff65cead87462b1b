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
from hotseat.core.scheduler.demand import NO_TENANTS
from hotseat.core.scheduler.history import StepDurations
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.replicas import replica_views
from hotseat.core.scheduler.status import model_view


def may_evict_at(
    since: float,
    max_wait: float,
    instances: Iterable[Instance],
    durations: StepDurations,
    idle: Callable[[Instance], bool],
    *,
    grouped: Callable[[str], bool] = UNGROUPED.mentions,
) -> float:
    """Return the time from which a prewarm request of that age may evict a resident. inf: not in this state.

    No request is queued for it, so it must not evict a model that has just been loaded; two such models would evict each other
    forever. An idle resident is evicted after it has been idle for as long as a reload takes. A busy one is evicted after
    `max_wait` seconds, and at least that cost.
    """
    matter = [h for h in instances if (h.spec.claim != NOTHING or grouped(h.model)) and not h.asleep]
    return min(
        (_evictable_at(h, since, max_wait, durations.of(h.model, parks=h.spec.park), idle(h)) for h in matter),
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
        state, demand, capacity = (
            self.parts.state,
            self.parts.demand,
            self.parts.state.capacity,
        )
        main = state.instances.primaries()
        views: list[ModelView] = []
        auto = self._auto_max_wait()
        show = partial(
            model_view,
            history=self.parts.history,
            rates=demand.rates,
            now=now,
            capacity=capacity,
            auto_max_wait=self.parts.effects.auto_max_wait,
        )
        asked_for = {
            *main,
            *self.parts.availability.load_requests,
            *demand.snapshots.models(),
            *self.parts.preferences.models(state.specs),
        }
        asked_for |= self.parts.history.under_way()
        self.parts.availability.checks = {
            name: at for name, at in self.parts.availability.checks.items() if name in asked_for
        }
        for name in [name for name in state.specs if name in asked_for]:  # of a thousand models these are few
            spec = state.specs[name]
            waiting, mine = self._waiting(name, now), main.get(name)
            if mine and mine.state is InstanceState.PARKED and mine.can_stay:
                mine = None  # it holds nothing, and comes back as others come
            order, preference = self._order(name, mine, now), self.parts.preferences.preference_of(name, spec, now)
            if spec.external or (mine is None and not waiting[0] and order is None and not preference):
                self.parts.availability.checks.pop(name, None)
                continue
            in_flight = demand.snapshots.in_flight(mine.id) if mine else 0
            waiters = demand.waiters(name) if waiting[0] else NO_TENANTS
            view = show(
                name,
                spec,
                mine,
                waiting=waiting,
                order=order,
                in_flight=in_flight,
                waiters=waiters,
                preference=preference,
                expected_until=demand.abandonment.expected_until(name),
            )
            if (view.waiting or preference) and not (mine and mine.can_stay) and not self._loadable(name, now):
                view = replace(view, waiting=0, preference=Preference.NONE)
            views.append(view)
            if spec.replicas > 1:
                views += replica_views(state.instances.of(name), capacity)
        seen = {view.name for view in views}
        for instance in state.instances.values():
            if instance.state is InstanceState.PARKED:
                continue
            if instance.name not in seen or not (instance.can_stay or main.get(instance.model) is instance):
                claim = instance.occupied(capacity)
                views.append(
                    ModelView(instance.name, claim, state=instance.state, leaving=True, asleep=instance.asleep)
                )
        return View(now, capacity, tuple(views), state.groups, auto)

    def _waiting(self, model: str, now: float) -> tuple[int, float]:
        """How many wait for a model, since their first try; those that a switch was decided for count while they are expected back."""
        (count, oldest), abandonment = self.parts.demand.waiting(model), self.parts.demand.abandonment
        if count:
            return count, abandonment.since(model, oldest)
        return abandonment.retries(model, now) if self.parts.history.promised(model) else (0, 0.0)

    def _auto_max_wait(self) -> float | None:
        """Work out what `maxWait: Auto` stands for, from the models that take turns, else from all; None: no model has it."""
        specs, durations = self.parts.state.specs, self.parts.history.durations
        if all(each.max_wait is not None for each in specs.values()):
            return None
        turns = {h.model for h in self.parts.state.instances.values()} | self.parts.demand.snapshots.waited_for()
        measured = [
            durations.whole(name, parks=specs[name].park) for name in turns & specs.keys() if name in durations.load
        ]
        self.parts.effects.auto_max_wait = auto_max_wait(measured or [durations.whole(name) for name in durations.load])
        return self.parts.effects.auto_max_wait

    def unplaceable(self, model: str, now: float) -> Refusal | None:
        """Say why no switch could make room for it, if that is so."""
        state, epoch = self.parts.state, self.parts.effects.next_epoch
        claim, instances = state.specs[model].claim, state.instances.values()
        capacity = replace(state.capacity, away=()) if state.capacity.away else state.capacity  # they are coming
        return self.parts.preferences.unplaceable(
            model, claim, capacity, instances, now=now, epoch=epoch, groups=state.groups
        )

    def _order(self, model: str, instance: Instance | None, now: float) -> LoadRequest | None:
        """Find an order for it, or make one of the wish for it, which may evict once that costs no more than it brings."""
        order, since = self.parts.availability.load_requests.get(model), self.parts.demand.wanted(model)
        if since is None or (order and order.may_evict):
            return order
        if instance is not None or self.parts.history.promised(model):
            return LoadRequest(since, may_evict=True)
        state, unused = self.parts.state, self.parts.demand.unused
        stated, instances, names = (
            state.specs[model].max_wait,
            state.instances.values(),
            state.groups.mentions,
        )
        max_wait = self.parts.effects.auto_max_wait if stated is None else stated
        at = may_evict_at(since, max_wait, instances, self.parts.history.durations, unused, grouped=names)
        if at < inf:
            self.parts.effects.wake_at(at)
        return LoadRequest(since, at <= now)

    def _loadable(self, model: str, now: float) -> bool:
        """Whether a start could succeed now; if not, see to it that it can, or that those who wait are told."""
        if self.parts.state.down:
            return False
        if (retry_at := self.parts.availability.retry_at(model)) > now:
            self.parts.effects.wake_at(retry_at)
            return False
        if refusal := self.unplaceable(model, now):
            if self.parts.availability.load_requests.pop(model, None) or self.parts.demand.waiting(model)[0]:
                self.parts.availability.refuse(model, refusal)
            return False
        self.parts.effects.add(*self.parts.availability.fetch(model))
        if self.parts.state.specs[model].refuse_uncached and self.parts.demand.waiting(model)[0]:
            self.parts.availability.refuse_uncached(model, now, self.parts.effects.next_epoch)
        return self.parts.availability.cached(model) and self._checked(model, now)

    def _checked(self, model: str, now: float) -> bool:
        """Whether the runtime has looked whether the load can begin; what is parked needs nothing any more."""
        if not self.parts.state.specs[model].check_first or self.parts.state.instances.sleeper(model):
            return True
        self.parts.effects.add(*self.parts.availability.check(model, now))
        until = self.parts.availability.checks[model]
        if until > now:
            self.parts.effects.wake_at(until)
        return until <= now


def unserved(view: View) -> set[str]:
    """Those that have no seat and that somebody waits or preferences for.

    A preload that found no room is none of them: it would keep replicas out for ever, and is nobody who waits.
    """
    waited_for = {m.name for m in pending(view) if m.may_evict}
    return waited_for | {m.name for m in view.models if m.preference and (m.state is None or m.leaving)}
