"""The scheduler of one Workspace: which models are resident, and every step between. Pure.

Demand, observations of the runtime and load requests come in; commands to the runtime, a new
residency and events go out. It is level-triggered: after every stimulus it looks at its whole state
and moves each instance one step towards what the policy wants. Invariants
(tests/unit/core/test_worlds.py):

- what instances claim, known to be ready or not yet proven gone, never exceeds the capacity (one that shrinks empties first);
- a model starts only when no earlier instance of it is left, except replicas, which start beside ready ones and evict nothing;
- a model starts only when none is left that its group or sets want gone for it;
- before the drain deadline, an instance is stopped only when nothing is in flight on it and no router will dispatch more to it;
- an observation of another epoch than the instance's changes nothing;
- a model that is wanted and can be loaded is eventually loaded;
- an instance saves its prompt cache only when nothing is in flight on it, and restores it before its first request, each
  within a bound (see prompts.py);
- a parked instance holds host memory only (see sleep.py), and parks only when nothing is in flight on it.

Its state lies in parts (parts.py), each of which owns a piece of it: state.py models and instances,
instance.py the table of an instance's states, demand.py demand, availability.py failures and
refusals, preferences.py pins and schedules, sleep.py parked engines, prompts.py prompt caches,
history.py switches, stats.py statistics. On these work runtime_events.py (observations), policy_view.py (what a policy is shown)
and lifecycle.py (starting and stopping). parts.py collects the commands, waits.py says why models wait.
"""

from types import MappingProxyType

from hotseat.core.messages import CacheObserved, InstanceAdopted, InstanceState, Refusal, Residency
from hotseat.core.policy.api import NOTHING, Capacity, Decision, Policy, View
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.instance import ACTIVE_STATES, DRAINING_STATES, Instances
from hotseat.core.scheduler.lifecycle import InstanceLifecycle
from hotseat.core.scheduler.messages import (
    CachesObserved,
    ConfigChanged,
    DemandReported,
    FetchOrdered,
    LoadOrdered,
    ModelStatus,
    ParkOrdered,
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
from hotseat.core.scheduler.policy_view import PolicyViewBuilder, unserved
from hotseat.core.scheduler.preferences import decide_with_preferences
from hotseat.core.scheduler.replicas import promote_and_trim
from hotseat.core.scheduler.runtime_events import RuntimeEvents
from hotseat.core.scheduler.stats import ModelStats, StatsArchive, StatsByModel
from hotseat.core.scheduler.status import statuses
from hotseat.core.scheduler.waits import Queue, WaitReport


class Scheduler:
    """The scheduler of one Workspace.

    `step` takes a stimulus and returns commands in order; `wake_at` is when it wants a Tick.
    `epoch` is the last one of an earlier run, `remembered` are its statistics.
    """

    def __init__(
        self, workspace: str, policy: Policy, epoch: int = 0, remembered: StatsByModel = MappingProxyType({})
    ) -> None:
        self.policy = policy
        self.wake_at: float | None = None
        self.decision = Decision()  # the last one
        self._view = View(0.0, Capacity(), ())  # that of the last decision
        self.parts = parts = Parts.new(workspace, epoch)
        self._stats = StatsArchive(parts.history.durations, parts.state.memory, parts.sleep, dict(remembered))
        self._view_builder = PolicyViewBuilder(parts)
        self._lifecycle = InstanceLifecycle(parts)
        self._runtime_events = RuntimeEvents(parts, self._lifecycle)

    def step(self, stimulus: SchedulerStimulus) -> list[SchedulerCommand]:  # noqa: C901, PLR0912 — one arm a stimulus
        """Apply a stimulus, then decide."""
        now, effects = stimulus.now, self.parts.effects
        effects.begin()
        match stimulus:
            case DemandReported():
                effects.add(*self.parts.demand.update(now, stimulus.demand))
            case RoutersEnrolled():
                self.parts.demand.snapshots.enroll(stimulus.routers)
            case RouterLeft():
                self.parts.demand.remove_router(now, stimulus.router)
            case ConfigChanged():
                self._apply_config(stimulus)
            case LoadOrdered() | PinOrdered():
                self._execute_load(stimulus)
            case UnpinOrdered():
                self.parts.preferences.unpin(stimulus.model, self.parts.state.specs.get(stimulus.model))
            case FetchOrdered():
                self._order_fetch(stimulus.model)
            case UnloadOrdered():
                self._order_unload(stimulus.model)
            case ParkOrdered():
                self._order_park(stimulus.model)
            case ShutdownOrdered():
                self._shut_down()
            case CacheObserved() | CachesObserved():
                self._runtime_events.handle_cache(stimulus)
            case InstanceAdopted():
                self._runtime_events.adopt(stimulus)
            case Tick():
                pass
            case _:
                self._runtime_events.handle(stimulus)
        self._decide(now)
        return effects.commands

    # Configuration and commands ---------------------------------------------------------------------------------------

    def _apply_config(self, s: ConfigChanged) -> None:
        parts = self.parts
        self._stats.apply_config(parts.state.specs, s.models)
        old = parts.state.apply_config(s)
        gone = old.keys() - s.models.keys()
        known = [(name, old[name], spec) for name, spec in s.models.items() if name in old]
        changed = [name for name, before, spec in known if before.fingerprint != spec.fingerprint]
        refetch = {name for name, before, spec in known if before.weights != spec.weights}
        loaded = {instance.model for instance in parts.state.instances.values()}
        for instance in parts.state.instances.values():
            instance.apply_spec(s.models.get(instance.model))
        for name, spec in s.models.items():
            if spec.preload and name not in old and name not in loaded:
                parts.availability.request_load(name, s.now, may_evict=False)
        parts.availability.apply_config(s.now, changed, gone, refetch, retry=s.afresh)
        parts.sleep.apply_config(s.capacity.host_memory, {*changed, *gone})
        parts.prompts.apply_config()
        parts.demand.forget(gone)
        for name in parts.preferences.apply_config(old, s.models):
            self._order_load(s.now, name)

    def _execute_load(self, s: LoadOrdered | PinOrdered) -> None:
        if isinstance(s, LoadOrdered) and s.replaces:
            self.parts.availability.load_requests.pop(s.replaces, None)
        self._order_load(s.now, s.model, pin=isinstance(s, PinOrdered))

    def _order_fetch(self, model: str) -> None:
        spec = self.parts.state.specs.get(model)
        if spec is not None and not spec.external and not self.parts.state.down:
            self.parts.effects.add(*self.parts.availability.order_fetch(model))

    def _replace_outdated(self, now: float) -> None:
        """Let instances that a changed document needs restarted leave, once the document's own can be loaded."""
        parts = self.parts
        for instance in parts.state.instances.values():
            spec = parts.state.specs.get(instance.model)
            if spec is None or not instance.outdated_by(spec):
                continue
            if not spec.external and not parts.availability.cached(instance.model):
                fetches, retry_at = parts.availability.fetch_successor(instance.model, now)
                parts.effects.add(*fetches)
                parts.effects.wake_at(retry_at)
            elif not spec.problem and spec.claim.fits_beside(NOTHING, parts.state.capacity):
                if not spec.external and instance.state not in (InstanceState.PARKING, InstanceState.PARKED):
                    parts.availability.request_load(instance.model, now, may_evict=True)
                instance.mark_leaving("changed")

    def _order_load(self, now: float, model: str, *, pin: bool = False) -> None:
        spec = self.parts.state.specs.get(model)
        if spec is None or spec.external:
            return
        instance = self.parts.state.instances.primary(model)
        resident = instance and instance.can_stay and instance.state is not InstanceState.PARKED
        if pin and not resident and (refusal := self._view_builder.unplaceable(model, now)):
            self.parts.availability.refuse(model, refusal)  # it could never be resident
            return
        self.parts.preferences.record_load(model, spec, pin=pin)
        self.parts.availability.retry(model, now)
        if instance is None or not instance.can_stay or instance.state is not InstanceState.READY:
            self.parts.availability.request_load(model, now, may_evict=True)

    def _order_unload(self, model: str) -> None:
        spec = self.parts.state.specs.get(model)
        if spec is None or spec.external:
            return
        self.parts.availability.load_requests.pop(model, None)
        self.parts.preferences.record_unload(model)
        for instance in self.parts.state.instances.of(model):
            instance.mark_leaving("unloaded")
        if self.parts.demand.waiting(model)[0] or self.parts.demand.wanted(model) is not None:
            message = f"{model} was unloaded while this request was queued; send it again to load the model"
            self.parts.availability.refuse(model, Refusal(self.parts.state.next_epoch, "unloaded", message))

    def _order_park(self, model: str) -> None:
        spec = self.parts.state.specs.get(model)
        if spec is None or spec.external or not spec.can_park:
            return
        self.parts.availability.load_requests.pop(model, None)
        self.parts.preferences.record_unload(model)
        for instance in self.parts.state.instances.of(model):
            if instance.replica > 1:
                instance.mark_leaving("unloaded")
            elif instance.state in (InstanceState.READY, *DRAINING_STATES):
                instance.park_ordered = True

    def _shut_down(self) -> None:
        self.parts.state.down = True
        self.parts.availability.load_requests.clear()
        for instance in self.parts.state.instances.values():
            if instance.state in ACTIVE_STATES:
                instance.leaving = "shutdown"

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        parts, state, effects = self.parts, self.parts.state, self.parts.effects
        self._replace_outdated(now)
        promote_and_trim(state.instances.values(), state.specs)
        events, times = parts.preferences.refresh(
            now, state.specs, state.instances.values(), parts.demand.queue, parts.availability
        )
        effects.add(*events, *parts.availability.fetch_ahead(state.specs))
        effects.wake_at(*times)

        self._view = view = self._view_builder.view(now)
        self.decision = decision = decide_with_preferences(self.policy, view)
        queued = {model.name for model in view.models if model.waiting}

        parts.sleep.evict_over_budget(decision.resident, queued)
        for instance in state.instances.parked_last():
            wanted, cut_off = instance.name in decision.resident, instance.name in decision.cut_off
            self._lifecycle.reconcile(instance, now, wanted=wanted, cut_off=cut_off)
            if instance.state in DRAINING_STATES:
                self._lifecycle.drain(instance, now, decision, queued)
            else:
                self._runtime_events.check_deadline(instance, now)
        present = state.instances.present()
        for model in decision.resident:
            if model not in present:
                self._lifecycle.start_if_free(model, now, decision.effective_max_wait)
        if not unserved(view) - present:
            self._lifecycle.add_replicas(now, decision.effective_max_wait)

        effects.add(*parts.prompts.update_limit())
        effects.add(*parts.history.cancel_unwanted(present.union(decision.resident), now))
        parts.publish_changes(now, decision.effective_max_wait)
        if decision.wake_at is not None:
            effects.wake_at(decision.wake_at)
        self.wake_at = effects.next_wake(now)

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Return the epoch of the newest residency, or of a newer instance that was adopted."""
        return self.parts.state.epoch

    @property
    def residency(self) -> Residency:
        """Return the newest residency."""
        return self.parts.state.residency

    @property
    def effective_max_wait(self) -> float | None:
        """Return the bound on waiting in force, in seconds."""
        return self.decision.effective_max_wait

    @property
    def instances(self) -> Instances:
        """Return all instances that are not proven gone, by id."""
        return self.parts.state.instances

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Return the running switches and the last that ended, oldest first."""
        return self.parts.history.switches()

    def status(self) -> list[ModelStatus]:
        """Return the status of every model, in the order of the documents."""
        return statuses(
            self.parts.state.specs,
            self.parts.state.instances.primaries(),
            self.parts.availability,
            self.parts.preferences.pinned,
        )

    def wait_report(self, queue: Queue) -> WaitReport:
        """Return why models wait. `queue` is that of this moment."""
        parts = self.parts
        return WaitReport(
            self._view,
            self.decision,
            parts.state.residency.residents,
            queue,
            parts.state.specs,
            parts.availability,
            parts.history.durations,
        )

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """Return by model: queued requests, since when, and requests in flight. Models with neither are left out."""
        return self.parts.demand.queue()

    def busy_pods(self) -> dict[str, int]:
        """Return by model, of those that may have several pods, how many must stay because of requests in flight."""
        return self.parts.demand.busy_pods()

    def stats(self) -> dict[str, ModelStats]:
        """Return the statistics of each model, for the next run."""
        return self._stats.stats(self.parts.state.specs)

    def memory(self) -> dict[str, int]:
        """Return the bytes of accelerator memory of the largest instance of each model.

        Models without a measurement are left out.
        """
        return self.parts.state.memory.by_model(self.parts.state.instances.values())
