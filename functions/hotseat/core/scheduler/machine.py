"""Switching: which models are resident in one Workspace, and every step between. Pure.

Demand, observations of the runtime and operators' orders come in; commands to the runtime, a new Residency and events go out.
It is level-triggered: after every stimulus it looks at the whole of what it knows and moves each instance one step towards what
the policy wants. Invariants (tests/unit/test_core_machine.py):

- what instances claim, known to be ready or not yet proven gone, never exceeds the capacity (one that shrinks empties first);
- a model starts only when no earlier instance of it is left, but for replicas, which start beside ready ones and evict nobody;
- a model starts only when none is left that its group or sets want gone for it;
- before the drain deadline, an instance is stopped only when nothing is in flight on it and no router will send it more;
- an observation about another epoch than the instance's changes nothing;
- a model that is wanted and can be loaded is eventually loaded;
- what sleeps holds host memory only (see sleep.py), and is told to only when nothing is in flight on it.

What is known lies in parts (parts.py), each of which owns a piece of it: state.py documents and instances, instance.py the table of
an instance's states, demand.py demand, availability.py failures and refusals, pins.py pins and schedules, sleep.py sleepers,
history.py the record, stats.py what was learned. On these work runtime_events.py (what the runtime tells), policy_view.py (what a
policy is shown) and lifecycle.py (who goes, who comes), and effects.py says it.
"""

from types import MappingProxyType

from hotseat.core.messages import CacheObserved, InstanceAdopted, InstanceState, Refusal, Residency
from hotseat.core.policy.api import Decision, Policy
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.instance import ACTIVE_STATES, DRAINING_STATES, Instances
from hotseat.core.scheduler.lifecycle import InstanceLifecycle
from hotseat.core.scheduler.messages import (
    CachesObserved,
    ConfigChanged,
    DemandReported,
    LoadOrdered,
    ModelStatus,
    PinOrdered,
    RouterLeft,
    RoutersEnrolled,
    SchedulerCommand,
    SchedulerStimulus,
    ShutdownOrdered,
    Tick,
    UnloadOrdered,
    UnpinOrdered,
)
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.pins import decide_with_preferences
from hotseat.core.scheduler.policy_view import PolicyViewBuilder, unserved
from hotseat.core.scheduler.replicas import tidy
from hotseat.core.scheduler.runtime_events import RuntimeEvents
from hotseat.core.scheduler.stats import ModelStats, StatsArchive, StatsByModel
from hotseat.core.scheduler.status import statuses


class Scheduler:
    """The machine. `step` takes a stimulus and returns commands in order; `wake_at` says when it wants a Tick.

    `epoch` is the last one of an earlier run, `remembered` what that had learned.
    """

    def __init__(
        self, workspace: str, policy: Policy, epoch: int = 0, remembered: StatsByModel = MappingProxyType({})
    ) -> None:
        self.policy = policy
        self.wake_at: float | None = None
        self.decision = Decision()  # the last one
        self.parts = parts = Parts.new(workspace, epoch)
        self.scheduler_state, self.availability, self.preferences = (
            parts.scheduler_state,
            parts.availability,
            parts.preferences,
        )
        self.history, self.demand_state = parts.history, parts.demand_state
        self._recall = StatsArchive(parts.history.costs, parts.scheduler_state.memory, parts.parking, dict(remembered))
        self._candidates = PolicyViewBuilder(parts)
        self._lifecycle = InstanceLifecycle(parts)
        self._observing = RuntimeEvents(parts, self._lifecycle)

    def step(self, stimulus: SchedulerStimulus) -> list[SchedulerCommand]:  # noqa: C901 — one arm a stimulus
        """Apply a stimulus, then decide."""
        now, out = stimulus.now, self.parts.out
        out.begin()
        match stimulus:
            case DemandReported():
                out.tell(*self.demand_state.note(now, stimulus.demand))
            case RoutersEnrolled():
                self.demand_state.demands.expect(stimulus.routers)
            case RouterLeft():
                self.demand_state.leave(now, stimulus.router)
            case ConfigChanged():
                self._change_terms(stimulus)
            case LoadOrdered() | PinOrdered():
                self._order_load(now, stimulus.model, pin=isinstance(stimulus, PinOrdered))
            case UnpinOrdered():
                self.preferences.unpin(stimulus.model, self.scheduler_state.terms.get(stimulus.model))
            case UnloadOrdered():
                self._order_unload(stimulus.model)
            case ShutdownOrdered():
                self._shut_down()
            case CacheObserved() | CachesObserved():
                self._observing.see_cache(stimulus)
            case InstanceAdopted():
                self._observing.adopt(stimulus)
            case Tick():
                pass
            case _:
                self._observing.hear(stimulus)
        self._decide(now)
        return out.commands

    # Documents and orders ---------------------------------------------------------------------------------------------

    def _change_terms(self, s: ConfigChanged) -> None:
        self._recall.follow(self.scheduler_state.terms, s.models)
        old, instances = self.scheduler_state.follow(s), self.scheduler_state.instances.values()
        self.availability.handle_changed()
        self.parts.parking.budget = s.capacity.host_memory
        held = {instance.model for instance in instances}
        for instance in instances:
            new = s.models.get(instance.model)
            if instance.take_over(new) and new and not new.external:
                self.availability.order(instance.model, s.now, may_evict=True)
        for name, terms in s.models.items():
            if terms.preload and name not in old and name not in held:
                self.availability.order(name, s.now, may_evict=False)
            if name in old and old[name].fingerprint != terms.fingerprint:
                self.availability.mended(name, s.now)
                self.parts.parking.mended(name)
        for name in self.availability.failures if s.afresh else ():
            self.availability.retry(name, s.now)
        for gone in old.keys() - s.models.keys():
            self.availability.remove(gone)
            self.demand_state.rates.forget(gone)
            self.demand_state.abandonment.forget(gone)
            self.parts.parking.mended(gone)
        for name in self.preferences.follow(old, s.models):
            self._order_load(s.now, name)

    def _order_load(self, now: float, model: str, *, pin: bool = False) -> None:
        terms = self.scheduler_state.terms.get(model)
        if terms is None or terms.external:
            return
        instance = self.scheduler_state.instances.primary(model)
        seated = instance and instance.staying and instance.state is not InstanceState.PARKED
        if pin and not seated and (refusal := self._candidates.no_handle(model, now)):
            self.availability.refuse(model, refusal)  # it would be pinned for a seat that it can never have
            return
        self.preferences.ask(model, terms, pin=pin)
        self.availability.retry(model, now)
        if instance is None or not instance.staying or instance.state is not InstanceState.READY:
            self.availability.order(model, now, may_evict=True)

    def _order_unload(self, model: str) -> None:
        terms = self.scheduler_state.terms.get(model)
        if terms is None or terms.external:
            return
        self.availability.orders.pop(model, None)
        self.preferences.dismiss(model)
        for instance in self.scheduler_state.instances.of(model):
            instance.leave("unloaded")
        if self.demand_state.waiting(model)[0] or self.demand_state.wanted(model) is not None:
            message = f"{model} was unloaded while this request was queued; send it again to load the model"
            self.availability.refuse(model, Refusal(self.parts.out.next_epoch, "unloaded", message))

    def _shut_down(self) -> None:
        self.scheduler_state.down = True
        self.availability.orders.clear()
        for instance in self.scheduler_state.instances.values():
            if instance.state in ACTIVE_STATES:
                instance.leaving = "shutdown"

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        instances, terms, out = self.scheduler_state.instances, self.scheduler_state.terms, self.parts.out
        tidy(instances.values(), terms)
        out.wake(*self.preferences.look(now, terms, instances.values(), self.demand_state.queue))
        out.tell(*self.preferences.news(instances.values(), self.availability))
        for name, its in terms.items():
            if its.fetch_ahead:
                out.tell(*self.availability.fetch(name, again=False))
        view = self._candidates.view(now)
        self.decision = decision = decide_with_preferences(self.policy, view)
        waited_for = {model.name for model in view.models if model.waiting}
        for instance in self.parts.parking.in_order(decision.resident, waited_for):
            wanted, cut_off = instance.seat in decision.resident, instance.seat in decision.cut_off
            self._lifecycle.steer(instance, now, wanted=wanted, cut_off=cut_off or instance.replica > 1)
            if instance.state in DRAINING_STATES:
                self._lifecycle.drain(instance, now, decision, waited_for)
            else:
                self._observing.check_deadline(instance, now)
        there = [h for h in instances.values() if h.state is not InstanceState.PARKED]
        present = {name for h in there for name in (h.model, h.seat)}
        for model in decision.resident:
            if model not in present:
                self._lifecycle.start_if_free(model, now, decision.effective_max_wait)
        if not unserved(view) - present:
            self._lifecycle.add_replicas(now, decision.effective_max_wait)
        out.tell(*self.history.abandon(present.union(decision.resident), now))
        out.publish_changes(now, decision.effective_max_wait)
        if decision.look_again is not None:
            out.wake(decision.look_again)
        self.wake_at = out.wake_at(now)

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epoch of the newest Residency, or of a newer instance that was adopted."""
        return self.parts.out.epoch

    @property
    def residency(self) -> Residency:
        """The newest Residency."""
        return self.parts.out.residency

    @property
    def effective_max_wait(self) -> float | None:
        """Bound on waiting in force, in seconds."""
        return self.decision.effective_max_wait

    @property
    def instances(self) -> Instances:
        """All that is not proven gone, by id."""
        return self.scheduler_state.instances

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Switches under way and the last that ended, oldest first."""
        return self.history.switches()

    def status(self) -> list[ModelStatus]:
        """State of every model, for people; in the order of the documents."""
        return statuses(
            self.scheduler_state.terms,
            self.scheduler_state.instances.primaries(),
            self.availability,
            self.preferences.pinned,
        )

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """By model: how many wait at all routers, since when, and how many requests are in flight; those with neither are left out."""
        return self.demand_state.queue()

    def lessons(self) -> dict[str, ModelStats]:
        """Give what was learned of each model, to begin the next run with."""
        return self._recall.lessons(self.scheduler_state.terms)

    def memory(self) -> dict[str, int]:
        """By model: bytes of accelerator memory that its largest instance was seen to take; those that nobody can see are left out."""
        return self.scheduler_state.memory.most(self.scheduler_state.instances.values())
