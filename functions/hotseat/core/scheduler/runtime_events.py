"""The observations of the runtime: weights, instances, and timeouts without an observation. Pure.

An observation of another epoch than the instance's changes nothing. An instance holds its claim
until it is proven gone; what cannot be proven gone holds it until a person settles that.
"""

from dataclasses import dataclass, replace

from hotseat.core.events import Emit, model_failed
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    EndpointsChanged,
    InstanceAdopted,
    InstanceFailed,
    InstanceMeasured,
    InstanceObservation,
    InstanceParked,
    InstancePending,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    PromptsDropped,
    PromptsRestored,
    PromptsSaved,
    SleepFailed,
    Stop,
)
from hotseat.core.scheduler.instance import ACTIVE_STATES, SLEEP_STATES, Instance, Trigger
from hotseat.core.scheduler.lifecycle import InstanceLifecycle
from hotseat.core.scheduler.messages import CachesObserved, SchedulingSpec
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.prompts import PHASES, dropped
from hotseat.core.scheduler.prompts import deadline as prompt_deadline
from hotseat.core.scheduler.replicas import next_number
from hotseat.core.scheduler.sleep import deadline


@dataclass(frozen=True, slots=True)
class RuntimeEvents:
    """Handles observations: moves the instance, and updates the availability and the switch of its model."""

    parts: Parts
    lifecycle: InstanceLifecycle

    def handle_cache(self, s: CacheObserved | CachesObserved) -> None:
        """Handle the state of the weights of a model, or of several."""
        if isinstance(s, CachesObserved):
            for state in s.states:
                self.handle_cache(state)
            return
        # Without a failure and its back-off, a preference would fetch it again at once.
        awaited = self.parts.availability.awaits_fetch(s.model)
        self.parts.effects.add(*self.parts.availability.update_cache(s))
        queued = self.parts.demand.waiting(s.model)[0] or self.parts.demand.wanted(s.model) is not None
        requested = s.model in self.parts.availability.load_requests or queued
        spec = self.parts.state.specs.get(s.model)
        if spec and self.parts.state.is_served(s.model):
            return  # a ready model does not need them
        if s.state is CacheState.FAILED and spec and (requested or awaited or spec.refuse_uncached):
            self._record_failure(s.now, s.model, None, s.reason, s.message)

    def adopt(self, s: InstanceAdopted) -> None:
        """Adopt an instance that was found. It leaves if its document is gone, or during a shutdown."""
        if s.instance in self.parts.state.instances:
            return
        spec = self.parts.state.specs.get(s.model)
        found = spec or SchedulingSpec()
        claim = found.claim if s.gpus is None else replace(found.claim, gpus=s.gpus)
        found = replace(found, claim=claim, fingerprint=found.fingerprint if s.fingerprint is None else s.fingerprint)
        running = Trigger.FOUND_READY if s.address else Trigger.FOUND_LOADING
        trigger = Trigger.FOUND_RELEASING if s.releasing else running
        instance = Instance.begin(trigger, s.now, model=s.model, id=s.instance, epoch=s.epoch, spec=found)
        instance.address, instance.devices, instance.adopted_midway = s.address, s.devices, s.releasing or not s.address
        if s.releasing:
            instance.leaving, instance.stop_asked = "evicted", s.now
        elif s.address:
            instance.ready_since = s.now
            self.parts.availability.mark_ready(s.model)
        if self.parts.state.down:
            instance.mark_leaving("shutdown")
        else:
            instance.apply_spec(spec)
            self._number(instance, spec, found.replicas)
        self.parts.state.add(instance)
        self.parts.state.epoch = max(self.parts.state.epoch, s.epoch)

    def _number(self, instance: Instance, spec: SchedulingSpec | None, replicas: int) -> None:
        """Set the number of an instance that was found beside others of its model. Those of an earlier document leave."""
        twins = [h for h in self.parts.state.instances.of(instance.model) if h.can_stay]
        if not instance.outdated_by(spec):
            for each in [h for h in twins if h.outdated_by(spec)]:
                each.leaving = "duplicate"
                twins.remove(each)
        if twins and instance.can_stay:
            instance.replica = next_number(twins)
            instance.leaving = "duplicate" if len(twins) >= replicas else None

    def handle(self, s: InstanceObservation) -> None:  # noqa: C901, PLR0912 — one arm an observation
        """Handle an observation of an instance."""
        instance = self.parts.state.instances.get(s.instance)
        if instance is None or instance.epoch != s.epoch:
            return
        match s:
            case InstancePending():
                instance.pending_detail = s.message
            case InstanceReady():
                if self.parts.prompts.may_restore(instance, s):
                    self.parts.effects.add(*self.parts.prompts.restore(instance, s))
                    self.parts.effects.wake_at(s.now + instance.spec.prompt_timeout)
                elif instance.state in (InstanceState.LOADING, InstanceState.WAKING) and instance.turn == s.turn:
                    instance.load_seconds, instance.address = s.now - instance.since, s.address
                    self._become_ready(instance, s.now)
            case EndpointsChanged():
                self.parts.state.set_endpoints(instance, s.addresses)
            case InstanceParked() | SleepFailed():
                self.parts.effects.add(*self.parts.sleep.handle(instance, s))
            case PromptsSaved() if instance.state is InstanceState.SAVING:
                self.parts.effects.add(*self.parts.prompts.record(instance, s))
                self.lifecycle.stop(instance, s.now)
            case PromptsRestored() if instance.state is InstanceState.RESTORING:
                self.parts.effects.add(*self.parts.prompts.record(instance, s))
                self._become_ready(instance, s.now)
            case PromptsDropped():
                event = dropped(instance, s.reason, s.message, tokens=s.tokens, size=s.size, model=s.model)
                self.parts.effects.add(event)
            case InstanceFailed():
                self._handle_failure(instance, s.now, s.reason, s.message, lives=s.lives, exit_code=s.exit_code)
            case InstanceReleased():
                # If it was not told to stop and did not fail before, this counts as a crash.
                self._handle_failure(instance, s.now, "Vanished", "the engine ended without a reason")
                self._handle_release(instance, s.now)
            case InstanceUnproven():
                self._handle_unproven(instance, s)
            case InstanceMeasured():
                self.parts.effects.add(*self.parts.state.measure(instance, s.memory))

    def check_deadline(self, instance: Instance, now: float) -> None:
        """Stop an instance that should have loaded, woken or parked by now. Go on where prompts are late."""
        if instance.state is InstanceState.LOADING:
            until = instance.since + instance.spec.start_timeout
            self.parts.effects.wake_at(until)
            if now >= until:
                self.lifecycle.fail(instance, now, "StartTimeout", lives=True)
                reason = f"not ready within {instance.spec.start_timeout:g} s (lifecycle.startTimeout)"
                reason += f": {instance.pending_detail}" if instance.pending_detail else ""
                self._record_failure(now, instance.model, instance.id, "StartTimeout", reason)
        elif due := prompt_deadline(instance):
            self.parts.effects.wake_at(due)
            if instance.state is InstanceState.SAVING and not self.parts.prompts.can_use(instance):
                self.lifecycle.stop(instance, now)
            elif now >= due:
                self.parts.effects.add(*self.parts.prompts.drop_late(instance))
                if instance.state is InstanceState.SAVING:
                    self.lifecycle.stop(instance, now)
                else:
                    self._become_ready(instance, now)
        elif due := deadline(instance):
            self.parts.effects.wake_at(due)
            self.parts.effects.add(*(self.parts.sleep.give_up(instance, now) if now >= due else []))

    # Instances --------------------------------------------------------------------------------------------------------

    def _become_ready(self, instance: Instance, now: float) -> None:
        seconds, woken = instance.load_seconds, instance.state is InstanceState.WAKING
        instance.last_used = instance.ready_since = now
        instance.ready_epoch = self.parts.state.next_epoch
        self.parts.state.transition(instance, Trigger.READY, now)
        self.parts.availability.mark_ready(instance.model)
        self.parts.replicas.succeeded(instance.model)
        if woken:
            self.parts.effects.add(*self.parts.sleep.record_woken(instance, seconds))
        else:
            if not instance.adopted_midway:
                self.parts.history.durations.record_load(instance.model, seconds)
            instance.adopted_midway = False
            self.parts.effects.add(
                Emit("model.ready", instance.model, {"instance": instance.id, "seconds": round(seconds, 4)})
            )
        self.parts.effects.add(*self.parts.history.ready(instance.name, now))

    def _handle_failure(
        self,
        instance: Instance,
        now: float,
        reason: str,
        message: str,
        *,
        lives: bool = False,
        exit_code: int | None = None,
    ) -> None:
        if instance.state not in ACTIVE_STATES:
            return  # it was told to stop
        if instance.state in SLEEP_STATES:
            self.parts.effects.add(*self.parts.sleep.fail(instance, now, reason, message))
            if lives:
                self.parts.effects.add(Stop(instance.model, instance.id, instance.epoch, instance.spec.stop_timeout))
            return
        if instance.state in PHASES:
            self.parts.effects.add(*self.parts.prompts.drop_failed(instance, now, reason, message))
            self.lifecycle.fail(instance, now, reason, lives=lives)
            return
        was_ready = instance.ready_since is not None
        self.lifecycle.fail(instance, now, reason, lives=lives)
        self._record_failure(now, instance.model, instance.id, reason, message, crashed=was_ready, exit_code=exit_code)

    def _handle_release(self, instance: Instance, now: float) -> None:
        seconds = now - (instance.stop_asked if instance.stop_asked is not None else now)
        self.parts.state.remove(instance, now)
        if instance.state is InstanceState.UNPROVEN or self.parts.state.groups.is_persistent(instance.model):
            self.parts.availability.retract_shortages()
        measurable = (
            instance.state is not InstanceState.UNPROVEN
            and not instance.adopted_midway
            and self.parts.state.runs_current_spec(instance)
        )
        if measurable and instance.leaving != "failed" and not instance.asleep:
            self.parts.history.durations.record_stop(instance.model, seconds)
        data = {"instance": instance.id, "reason": instance.leaving or "evicted", "seconds": round(seconds, 4)}
        self.parts.effects.add(Emit("model.released", instance.model, data))
        self.parts.history.released(instance.name, now)

    def _handle_unproven(self, instance: Instance, s: InstanceUnproven) -> None:
        if instance.state is InstanceState.UNPROVEN:
            return
        self._handle_failure(instance, s.now, "ReleaseUnproven", s.reason)
        self.parts.state.transition(instance, Trigger.UNPROVEN, s.now, s.reason)
        instance.unproven_detail = s.reason
        self.parts.effects.add(model_failed(instance.model, instance.id, "ReleaseUnproven", s.reason))
        self.parts.effects.add(*self.parts.history.failed_release(instance.name, s.now, s.reason))

    def _record_failure(
        self,
        now: float,
        model: str,
        instance: str | None,
        reason: str,
        message: str,
        *,
        crashed: bool = False,
        exit_code: int | None = None,
    ) -> None:
        """Count a failure against a model.

        A failure of a replica, or beside another ready instance, counts against further replicas
        only.
        """
        delay, spec = 0.0, self.parts.state.specs.get(model)
        if instance is not None and (
            self.parts.state.instances[instance].replica > 1 or (spec and self.parts.state.is_served(model))
        ):
            self.parts.effects.add(
                model_failed(model, instance, reason, message, self.parts.replicas.failed(model, now))
            )
            return
        if spec is not None:
            delay = self.parts.availability.fail(
                now,
                model,
                reason,
                message,
                self.parts.state.next_epoch,
                crashed=crashed,
                max_wait=self.parts.state.max_wait(spec),
                exit_code=exit_code,
            )
        self.parts.effects.add(model_failed(model, instance, reason, message, delay or None))
        self.parts.effects.add(*self.parts.history.failed(model, now, "load", reason, message))
