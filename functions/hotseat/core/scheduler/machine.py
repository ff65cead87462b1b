"""Switching: which models are resident in one Workspace, and every step between. Pure.

Demand, observations of the runtime and operators' orders come in; commands to the runtime, a new Residency and events go out.
It is level-triggered: after every stimulus it looks at the whole of what it knows and moves each holder one step towards what
the policy wants. Invariants (tests/unit/test_core_machine.py):

- what holders claim, known to be ready or not yet proven gone, never exceeds the capacity (one that shrinks empties first);
- a model starts only when no earlier holder of it is left, but for replicas, which start beside ready ones and evict nobody;
- a model starts only when none is left that its group or sets want gone for it;
- before the drain deadline, a holder is stopped only when nothing is in flight on it and no router will send it more;
- an observation about another epoch than the holder's changes nothing;
- a model that is wanted and can be loaded is eventually loaded;
- what sleeps holds host memory only (see sleep.py), and is told to only when nothing is in flight on it.

What is known lies in parts (parts.py), each of which owns a piece of it: state.py documents and holders, instance.py the table of
a holder's states, demand.py demand, availability.py failures and refusals, pins.py pins and schedules, sleep.py sleepers,
history.py the record, stats.py what was learned. On these work runtime_events.py (what the runtime tells), policy_view.py (what a
policy is shown) and lifecycle.py (who goes, who comes), and effects.py says it.
"""

from types import MappingProxyType

from hotseat.core.messages import CacheObserved, InstanceAdopted, InstanceState, Refusal, Residency
from hotseat.core.policy.api import Decision, Policy
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.instance import ACTIVE_STATES, DRAINING_STATES, Instances
from hotseat.core.scheduler.lifecycle import Lifecycle
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
        self.seating, self.prospects, self.wishes = parts.seating, parts.prospects, parts.wishes
        self.ledger, self.traffic = parts.ledger, parts.traffic
        self._recall = StatsArchive(parts.ledger.costs, parts.seating.memory, parts.parking, dict(remembered))
        self._candidates = PolicyViewBuilder(parts)
        self._lifecycle = Lifecycle(parts)
        self._observing = RuntimeEvents(parts, self._lifecycle)

    def step(self, stimulus: SchedulerStimulus) -> list[SchedulerCommand]:  # noqa: C901 — one arm a stimulus
        """Apply a stimulus, then decide."""
        now, out = stimulus.now, self.parts.out
        out.begin()
        match stimulus:
            case DemandReported():
                out.tell(*self.traffic.note(now, stimulus.demand))
            case RoutersEnrolled():
                self.traffic.demands.expect(stimulus.routers)
            case RouterLeft():
                self.traffic.leave(now, stimulus.router)
            case ConfigChanged():
                self._change_terms(stimulus)
            case LoadOrdered() | PinOrdered():
                self._order_load(now, stimulus.model, pin=isinstance(stimulus, PinOrdered))
            case UnpinOrdered():
                self.wishes.unpin(stimulus.model, self.seating.terms.get(stimulus.model))
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
        self._recall.follow(self.seating.terms, s.models)
        old, holders = self.seating.follow(s), self.seating.holders.values()
        self.prospects.room_changed()
        self.parts.parking.budget = s.capacity.host_memory
        held = {holder.model for holder in holders}
        for holder in holders:
            new = s.models.get(holder.model)
            if holder.take_over(new) and new and not new.external:
                self.prospects.order(holder.model, s.now, may_evict=True)
        for name, terms in s.models.items():
            if terms.preload and name not in old and name not in held:
                self.prospects.order(name, s.now, may_evict=False)
            if name in old and old[name].fingerprint != terms.fingerprint:
                self.prospects.mended(name, s.now)
                self.parts.parking.mended(name)
        for name in self.prospects.failures if s.afresh else ():
            self.prospects.retry(name, s.now)
        for gone in old.keys() - s.models.keys():
            self.prospects.remove(gone)
            self.traffic.rates.forget(gone)
            self.traffic.abandonment.forget(gone)
            self.parts.parking.mended(gone)
        for name in self.wishes.follow(old, s.models):
            self._order_load(s.now, name)

    def _order_load(self, now: float, model: str, *, pin: bool = False) -> None:
        terms = self.seating.terms.get(model)
        if terms is None or terms.external:
            return
        holder = self.seating.holders.primary(model)
        seated = holder and holder.staying and holder.state is not InstanceState.PARKED
        if pin and not seated and (refusal := self._candidates.no_room(model, now)):
            self.prospects.refuse(model, refusal)  # it would be pinned for a seat that it can never have
            return
        self.wishes.ask(model, terms, pin=pin)
        self.prospects.retry(model, now)
        if holder is None or not holder.staying or holder.state is not InstanceState.READY:
            self.prospects.order(model, now, may_evict=True)

    def _order_unload(self, model: str) -> None:
        terms = self.seating.terms.get(model)
        if terms is None or terms.external:
            return
        self.prospects.orders.pop(model, None)
        self.wishes.dismiss(model)
        for holder in self.seating.holders.of(model):
            holder.leave("unloaded")
        if self.traffic.waiting(model)[0] or self.traffic.wanted(model) is not None:
            message = f"{model} was unloaded while this request was queued; send it again to load the model"
            self.prospects.refuse(model, Refusal(self.parts.out.next_epoch, "unloaded", message))

    def _shut_down(self) -> None:
        self.seating.down = True
        self.prospects.orders.clear()
        for holder in self.seating.holders.values():
            if holder.state in ACTIVE_STATES:
                holder.leaving = "shutdown"

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        holders, terms, out = self.seating.holders, self.seating.terms, self.parts.out
        tidy(holders.values(), terms)
        out.wake(*self.wishes.look(now, terms, holders.values(), self.traffic.queue))
        out.tell(*self.wishes.news(holders.values(), self.prospects))
        for name, its in terms.items():
            if its.fetch_ahead:
                out.tell(*self.prospects.fetch(name, again=False))
        view = self._candidates.view(now)
        self.decision = decision = decide_with_preferences(self.policy, view)
        waited_for = {model.name for model in view.models if model.waiting}
        for holder in self.parts.parking.in_order(decision.resident, waited_for):
            wanted, cut_off = holder.seat in decision.resident, holder.seat in decision.cut_off
            self._lifecycle.steer(holder, now, wanted=wanted, cut_off=cut_off or holder.replica > 1)
            if holder.state in DRAINING_STATES:
                self._lifecycle.drain(holder, now, decision, waited_for)
            else:
                self._observing.check_deadline(holder, now)
        there = [h for h in holders.values() if h.state is not InstanceState.PARKED]
        present = {name for h in there for name in (h.model, h.seat)}
        for model in decision.resident:
            if model not in present:
                self._lifecycle.start_if_free(model, now, decision.effective_max_wait)
        if not unserved(view) - present:
            self._lifecycle.add_replicas(now, decision.effective_max_wait)
        out.tell(*self.ledger.abandon(present.union(decision.resident), now))
        out.publish_changes(now, decision.effective_max_wait)
        if decision.look_again is not None:
            out.wake(decision.look_again)
        self.wake_at = out.wake_at(now)

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epoch of the newest Residency, or of a newer holder that was adopted."""
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
    def holders(self) -> Instances:
        """All that is not proven gone, by id."""
        return self.seating.holders

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Switches under way and the last that ended, oldest first."""
        return self.ledger.switches()

    def status(self) -> list[ModelStatus]:
        """State of every model, for people; in the order of the documents."""
        return statuses(self.seating.terms, self.seating.holders.primaries(), self.prospects, self.wishes.pinned)

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """By model: how many wait at all routers, since when, and how many requests are in flight; those with neither are left out."""
        return self.traffic.queue()

    def lessons(self) -> dict[str, ModelStats]:
        """Give what was learned of each model, to begin the next run with."""
        return self._recall.lessons(self.seating.terms)

    def memory(self) -> dict[str, int]:
        """By model: bytes of accelerator memory that its largest holder was seen to take; those that nobody can see are left out."""
        return self.seating.memory.most(self.seating.holders.values())
