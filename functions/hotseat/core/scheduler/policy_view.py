"""The view that a policy decides on. Pure."""

from dataclasses import dataclass, replace
from functools import partial

from hotseat.core.messages import InstanceState, Refusal
from hotseat.core.policy.api import ModelView, Preference, View, auto_max_wait
from hotseat.core.policy.placement import pending
from hotseat.core.scheduler.availability import SHORTAGE_RETRY
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.prewarm import load_request
from hotseat.core.scheduler.replicas import replica_views
from hotseat.core.scheduler.status import model_view, seen_state


@dataclass(frozen=True, slots=True)
class PolicyViewBuilder:
    """Builds the view from models and instances.

    Requests for models that cannot be loaded are refused in the next residency.
    """

    parts: Parts

    def view(self, now: float) -> View:
        """Return the view of all models with an instance, demand, a load request or a preference."""
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
            auto_max_wait=self.parts.state.auto_max_wait,
        )
        relevant = {
            *main,
            *self.parts.availability.load_requests,
            *demand.snapshots.models(),
            *self.parts.preferences.models(state.specs),
        }
        relevant |= self.parts.history.under_way()
        self.parts.availability.checks = {
            name: at for name, at in self.parts.availability.checks.items() if name in relevant
        }
        for name in [name for name in state.specs if name in relevant]:  # few of many
            spec = state.specs[name]
            waiting, mine = demand.tries(name, now, promised=self.parts.history.promised(name)), main.get(name)
            if mine and mine.state is InstanceState.PARKED and mine.can_stay:
                mine = None  # it holds nothing, and returns as others are loaded
            request = load_request(self.parts, name, mine, now)
            preference = self.parts.preferences.preference_of(name, spec, now)
            if spec.external or (mine is None and not waiting[0] and request is None and not preference):
                self.parts.availability.checks.pop(name, None)
                continue
            in_flight = demand.snapshots.in_flight(mine.id) if mine else 0
            view = show(
                name,
                spec,
                mine,
                waiting=waiting,
                request=request,
                in_flight=in_flight,
                preference=preference,
                expected_until=demand.expected_until(name),
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
                    ModelView(instance.name, claim, state=seen_state(instance), leaving=True, asleep=instance.asleep)
                )
        return View(now, capacity, tuple(views), state.groups, auto)

    def _auto_max_wait(self) -> float | None:
        """Update what `maxWait: Auto` stands for. None: no model has it.

        It goes by the models that take turns, else by all that were measured.
        """
        specs, durations = self.parts.state.specs, self.parts.history.durations
        if all(each.max_wait is not None for each in specs.values()):
            return None
        turns = {h.model for h in self.parts.state.instances.values()} | self.parts.demand.snapshots.waited_for()
        measured = [
            durations.whole(name, parks=specs[name].park) for name in turns & specs.keys() if name in durations.load
        ]
        self.parts.state.auto_max_wait = auto_max_wait(measured or [durations.whole(name) for name in durations.load])
        return self.parts.state.auto_max_wait

    def unplaceable(self, model: str, now: float) -> Refusal | None:
        """Return the refusal if no eviction could make a model fit, else None."""
        state, epoch = self.parts.state, self.parts.state.next_epoch
        claim, instances = state.specs[model].claim, state.instances.values()
        # They will be given back.
        capacity = replace(state.capacity, away=()) if state.capacity.away else state.capacity
        refusal = self.parts.preferences.unplaceable(
            model, claim, capacity, instances, now=now, epoch=epoch, groups=state.groups
        )
        if refusal and refusal.code == "too_large" and (pods := state.specs[model].pods) > 1:
            return replace(refusal, message=f"{refusal.message}; lower scheduling.replicas, which is {pods}")
        return refusal

    def _loadable(self, model: str, now: float) -> bool:
        """Whether a model can be loaded now. If not, its weights are fetched, or its requests refused."""
        if self.parts.state.down:
            return False
        if (retry_at := self.parts.availability.retry_at(model)) > now:
            self.parts.effects.wake_at(retry_at)
            return False
        if refusal := self.unplaceable(model, now):
            if self.parts.availability.load_requests.pop(model, None) or self.parts.demand.is_asked_for(model, now):
                self.parts.availability.refuse(model, refusal)
            return False
        if problem := self.parts.state.specs[model].problem:
            if self.parts.availability.load_requests.pop(model, None) or self.parts.demand.is_asked_for(model, now):
                self.parts.availability.refuse(model, _not_loadable(problem, now, self.parts.state.next_epoch))
            return False
        self.parts.effects.add(*self.parts.availability.fetch(model))
        if self.parts.state.specs[model].refuse_uncached and self.parts.demand.is_asked_for(model, now):
            self.parts.availability.refuse_uncached(model, now, self.parts.state.next_epoch)
        return self.parts.availability.cached(model) and self._checked(model, now)

    def _checked(self, model: str, now: float) -> bool:
        """Whether the runtime has checked that a load can begin. A parked engine needs no check."""
        if not self.parts.state.specs[model].check_first or self.parts.state.instances.sleeper(model):
            return True
        self.parts.effects.add(*self.parts.availability.check(model, now))
        until = self.parts.availability.checks[model]
        if until > now:
            self.parts.effects.wake_at(until)
        return until <= now


def _not_loadable(problem: str, now: float, epoch: int) -> Refusal:
    return Refusal(epoch, "not_loadable", problem, now + SHORTAGE_RETRY)


def unserved(view: View) -> set[str]:
    """Return the models without an instance that have queued requests or a preference.

    A preload that does not fit is left out: it would prevent replicas forever.
    """
    waited_for = {m.name for m in pending(view) if m.may_evict}
    return waited_for | {m.name for m in view.models if m.preference and (m.state is None or m.leaving)}
