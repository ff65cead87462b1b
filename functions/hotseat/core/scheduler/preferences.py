"""Preferences: which models should be resident without queued requests, and which are not evicted. Pure.

A model is preferred because it is pinned (by an operator, its document or a window of its
schedule), because such a window is open, or because it is the default of a Workspace that has been
quiet. Preferences give way to queued requests, except for pins.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from hotseat.core.events import Emit
from hotseat.core.messages import InstanceState, Refusal
from hotseat.core.policy.api import NOTHING, Capacity, Claim, Decision, ModelView, Policy, Preference, View
from hotseat.core.policy.eviction import evictable_for_preference_at, victims_for_preference
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.policy.placement import KEEPABLE_STATES, pending, unproven
from hotseat.core.scheduler.availability import SHORTAGE_RETRY, ModelAvailability, shortage
from hotseat.core.scheduler.instance import Instance
from hotseat.core.scheduler.messages import SchedulingSpec

DemandByModel = Mapping[str, tuple[int, float, int]]  # by model: queued requests, since when, and requests in flight

_REASONS: Mapping[Preference, str] = {
    Preference.NONE: "ordered",
    Preference.DEFAULT: "default",
    Preference.SCHEDULED: "schedule",
    Preference.PINNED: "pin",
}


@dataclass(slots=True)
class Preferences:
    """The preferences of all models. Preferences of documents are in their specs; here are those of operators."""

    quiet_since: float | None = None  # no request was queued or in flight since
    pinned: frozenset[str] = frozenset()  # as of the last refresh
    _pins: set[str] = field(default_factory=set)
    _unpins: set[str] = field(default_factory=set)  # override their specs
    _unloaded: set[str] = field(default_factory=set)  # unloaded by an operator, and not requested since
    _blocking: frozenset[str] = frozenset()  # pinned, and resident
    _reported: frozenset[str] = frozenset()

    # Pins of operators and documents ----------------------------------------------------------------------------------

    def unpin(self, model: str, spec: SchedulingSpec | None) -> None:
        """Unpin a model. If its spec pins it, that is overridden until the spec has ceased to."""
        self._pins.discard(model)
        if spec is not None and (spec.pinned or spec.kept):
            self._unpins.add(model)

    def record_unload(self, model: str) -> None:
        """Record that an operator unloads a model: it is not preferred until it is requested again."""
        self._unloaded.add(model)

    def record_load(self, model: str, spec: SchedulingSpec, *, pin: bool = False) -> None:
        """Record that an operator loads a model, and maybe pins it until it is unpinned."""
        self._unloaded.discard(model)
        if pin:
            self._unpins.discard(model)
            if not spec.pinned:
                self._pins.add(model)

    def apply_config(self, old: Mapping[str, SchedulingSpec], new: Mapping[str, SchedulingSpec]) -> list[str]:
        """Apply new specs. Return the models that they pin and did not before.

        From then on such a pin is the document's alone, and ends with it: on a cluster an
        operator's becomes an annotation.
        """
        self._pins = {m for m in self._pins if m in new and not new[m].pinned}
        self._unpins = {m for m in self._unpins if m in new and (new[m].pinned or new[m].kept)}
        self._unloaded = {m for m in self._unloaded if m in new and (m in self._pins or _preferences(new[m]))}
        return [m for m, t in new.items() if t.pinned and not t.external and not (m in old and old[m].pinned)]

    # Decisions --------------------------------------------------------------------------------------------------------

    def refresh(
        self,
        now: float,
        specs: Mapping[str, SchedulingSpec],
        instances: Collection[Instance],
        queue: Callable[[], DemandByModel],
        availability: ModelAvailability,
    ) -> tuple[list[Emit], list[float]]:
        """Update the preferences before a decision.

        Return the events of pins, and the times at which a default model returns. Refusals for
        shortage are retracted where the pinned residents have changed.
        """
        returning = [spec for spec in specs.values() if spec.return_after]
        if returning or self._unloaded:
            rows, used = queue(), max((h.last_used for h in instances), default=0.0)
            self._unloaded -= {model for model, (waiting, _, _) in rows.items() if waiting}
            self._unloaded -= {h.model for h in instances if h.can_stay and not h.parks}  # loaded since
            self.quiet_since = now if self.quiet_since is None or rows else max(self.quiet_since, used)
        stated = [model for model, spec in specs.items() if spec.pinned or spec.kept]
        self.pinned = frozenset(m for m in (*stated, *(self._pins & specs.keys())) if self._is_pinned(m, specs[m]))
        before, self._blocking = self._blocking, frozenset(h.model for h in instances if self._keeps_others_out(h))
        if before != self._blocking:
            availability.retract_shortages()
        reported, self._reported = self._reported, self.pinned
        events = [Emit("model.pinned", model, {}) for model in sorted(self.pinned - reported)]
        events += [Emit("model.unpinned", model, {}) for model in sorted(reported - self.pinned)]
        return events, [at for spec in returning if (at := self._returns_at(spec)) is not None]

    def models(self, specs: Mapping[str, SchedulingSpec]) -> set[str]:
        """Return the models that may be preferred, as of the last refresh."""
        return {*self.pinned, *(name for name, its in specs.items() if its.wanted or its.return_after)}

    def preference_of(self, model: str, spec: SchedulingSpec, now: float) -> Preference:
        """Return why a model should be resident now, as of the last refresh."""
        if spec.external or model in self._unloaded:
            return Preference.NONE
        if model in self.pinned:
            return Preference.PINNED
        if spec.wanted:
            return Preference.SCHEDULED
        returns_at = self._returns_at(spec)
        return Preference.DEFAULT if returns_at is not None and now >= returns_at else Preference.NONE

    def reason(self, model: str, spec: SchedulingSpec, now: float) -> str:
        """Return the reason of a switch to a model without requests."""
        return _REASONS[self.preference_of(model, spec, now)]

    def exempt_from_idle_timeout(self, instance: Instance) -> bool:
        """Whether an instance is not stopped when idle: its preference would load it again."""
        model, spec = instance.model, instance.spec
        if instance.replica > 1 or model in self._unloaded:
            return False
        return model in self.pinned or spec.wanted or spec.return_after > 0

    def unplaceable(
        self,
        model: str,
        claim: Claim,
        capacity: Capacity,
        instances: Iterable[Instance],
        *,
        now: float,
        epoch: int,
        groups: Groups = UNGROUPED,
    ) -> Refusal | None:
        """Return the refusal if no eviction could make a model fit, else None.

        It may not fit the capacity, or not beside pinned residents.
        """
        instances = list(instances)
        refusal = shortage(model, claim, capacity, instances, now=now, epoch=epoch, groups=groups)
        if refusal or not self._blocking:
            return refusal

        def remains(instance: Instance) -> bool:
            kept = self._keeps_others_out(instance) or (
                instance.can_stay and not groups.may_leave(instance.name, model)
            )
            return (
                instance.model != model and not instance.asleep and (kept or instance.state is InstanceState.UNPROVEN)
            )

        taken = [h for h in instances if remains(h)]
        allowed = groups.can_join(model, (h.model for h in taken))
        if allowed and claim.fits_beside(sum((h.occupied(capacity) for h in taken), NOTHING), capacity):
            return None
        names = sorted({h.model for h in taken} & self.pinned)
        message = f"{model} does not fit beside the pinned models ({', '.join(names)}); to make room: hotseat unpin {names[0]}"
        return Refusal(epoch, "pinned", message, now + SHORTAGE_RETRY)

    def _returns_at(self, spec: SchedulingSpec) -> float | None:
        """Return when the default model returns, if the Workspace stays quiet. None: it is not the default."""
        return None if not spec.return_after or self.quiet_since is None else self.quiet_since + spec.return_after

    def _is_pinned(self, model: str, spec: SchedulingSpec) -> bool:
        by_spec = (spec.pinned or spec.kept) and model not in self._unpins
        return spec.external is None and (by_spec or model in self._pins)

    def _keeps_others_out(self, instance: Instance) -> bool:
        can_stay = instance.can_stay and instance.replica == 1 and instance.state is not InstanceState.PARKED
        return can_stay and instance.model in self.pinned


def _preferences(spec: SchedulingSpec) -> bool:
    return spec.pinned or spec.wanted or spec.return_after > 0


def decide_with_preferences(policy: Policy, view: View) -> Decision:
    """Return a policy's decision, with the preferences that it leaves space for."""
    decision = policy.decide(view)
    resident, wake_at = apply_preferences(view, decision)
    evicted_for_preference = tuple(name for name in decision.resident if name not in resident)
    return replace(decision, resident=resident, wake_at=wake_at, evicted_for_preference=evicted_for_preference)


def apply_preferences(view: View, decision: Decision) -> tuple[tuple[str, ...], float | None]:
    """Add preferred models to a decision, instead of idle residents where needed. Not while a queued model is pending.

    Pinned residents stay, whatever the policy says, as far as the capacity holds them. Return all
    that should be resident, and when to decide again.
    """
    models: dict[str, ModelView] = {}
    for model in view.models:
        models.setdefault(model.name, model)  # the primary instance comes first
    resident = _with_pinned(view, models, decision.resident)
    preferences = [m for m in models.values() if m.preference and m.name not in resident]
    if not preferences or any(m.may_evict for m in pending(view)):
        return resident, decision.wake_at
    wake_at = [] if decision.wake_at is None else [decision.wake_at]
    there = [models[name] for name in resident if name in models]
    taken = _sum([*there, *unproven(view)], view.capacity)
    granted: set[str] = set()  # not evicted for a lower preference
    for model in sorted(preferences, key=lambda m: (-m.preference, m.name)):
        times = [(evictable_for_preference_at(m, model), m) for m in there if m.name not in granted]
        may_leave = [m for at, m in times if at <= view.now and view.groups.may_leave(m.name, model.name)]
        names = [m.name for m in (*there, *unproven(view))]
        victims = victims_for_preference(model, there, {m.name: m for m in may_leave}, taken, view, names=names)
        if victims is None:
            wake_at += [at for at, _ in times if view.now < at < inf]
            continue
        granted.add(model.name)
        gone = {m.name for m in victims}
        resident = (*(name for name in resident if name not in gone), model.name)
        there = [models[name] for name in resident if name in models]
        taken = _sum([*there, *unproven(view)], view.capacity)
    return resident, min(wake_at, default=None)


def _with_pinned(view: View, models: dict[str, ModelView], resident: tuple[str, ...]) -> tuple[str, ...]:
    """Return the decision with the pinned residents that a policy left out, and without what does not fit beside them."""
    pinned = {m.name for m in models.values() if m.pinned and m.state in KEEPABLE_STATES and not m.leaving}
    if pinned <= set(resident):
        return resident
    held, kept = _sum(unproven(view), view.capacity), list[str]()

    def order(name: str) -> tuple[bool, bool, bool, str]:
        return (name not in pinned, models[name].state is None, name not in resident, name)

    for name in sorted({*resident, *pinned} & models.keys(), key=order):
        there = models[name].state in KEEPABLE_STATES and not models[name].leaving
        if models[name].claim.fits_beside(held, view.capacity) and (there or view.groups.can_join(name, kept)):
            held += models[name].claim.placed_beside(held, view.capacity)
            kept.append(name)
    return tuple(kept)


def _sum(models: list[ModelView], capacity: Capacity) -> Claim:
    """Return the total claim, with the devices that models to be loaded would get."""
    held = NOTHING
    for model in sorted(models, key=lambda m: m.state is None):
        held += model.claim.placed_beside(held, capacity)
    return held
