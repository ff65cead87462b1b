"""What the runtime tells of weights and instances, and what follows when it has told nothing in time. Pure.

An observation about another epoch than the instance's changes nothing. An instance keeps its seat until it is proven gone; what cannot
be proven gone keeps it until somebody settles that.
"""

from dataclasses import dataclass, replace

from hotseat.core.events import Emit, model_failed
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    InstanceAdopted,
    InstanceFailed,
    InstanceMeasured,
    InstanceObservation,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    SleepFailed,
    Stop,
)
from hotseat.core.scheduler.instance import ACTIVE_STATES, SLEEP_STATES, Instance, Trigger
from hotseat.core.scheduler.lifecycle import InstanceLifecycle
from hotseat.core.scheduler.messages import CachesObserved, SchedulingSpec
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.replicas import next_number
from hotseat.core.scheduler.sleep import deadline


@dataclass(frozen=True, slots=True)
class RuntimeEvents:
    """Takes in observations: moves the instance, and writes down what it means for its model's availability and its switch."""

    parts: Parts
    lifecycle: InstanceLifecycle

    def see_cache(self, s: CacheObserved | CachesObserved) -> None:
        """Take in where the weights of a model, or of several, are."""
        if isinstance(s, CachesObserved):
            for state in s.states:
                self.see_cache(state)
            return
        owed = self.parts.availability.awaits(
            s.model
        )  # without a failure and its back-off, a wish would have it asked again at once
        self.parts.out.tell(*self.parts.availability.note_cache(s))
        waits = self.parts.demand_state.waiting(s.model)[0] or self.parts.demand_state.wanted(s.model) is not None
        asked = s.model in self.parts.availability.orders or waits
        terms = self.parts.scheduler_state.terms.get(s.model)
        if terms and self.parts.scheduler_state.serves(s.model):
            return  # what is ready answers without them
        if s.state is CacheState.FAILED and terms and (asked or owed or terms.refuse_uncached):
            self._fail(s.now, s.model, None, s.reason, s.message)

    def adopt(self, s: InstanceAdopted) -> None:
        """Take over an instance that was found; one that no document names, or that a shutdown meets, leaves."""
        if s.instance in self.parts.scheduler_state.instances:
            return
        terms = self.parts.scheduler_state.terms.get(s.model)
        found = terms or SchedulingSpec()
        claim = found.claim if s.gpus is None else replace(found.claim, gpus=s.gpus)
        found = replace(found, claim=claim, fingerprint=found.fingerprint if s.fingerprint is None else s.fingerprint)
        running = Trigger.FOUND_READY if s.address else Trigger.FOUND_LOADING
        trigger = Trigger.FOUND_RELEASING if s.releasing else running
        instance = Instance.begin(trigger, s.now, model=s.model, id=s.instance, epoch=s.epoch, terms=found)
        instance.address, instance.devices, instance.halfway = s.address, s.devices, s.releasing or not s.address
        if s.releasing:
            instance.leaving, instance.stop_asked = "evicted", s.now
        elif s.address:
            instance.ready_since = s.now
            self.parts.availability.fulfil(s.model)
        if self.parts.scheduler_state.down:
            instance.leave("shutdown")
        elif instance.take_over(terms) and terms and not terms.external:
            self.parts.availability.order(s.model, s.now, may_evict=True)
        elif twins := [h for h in self.parts.scheduler_state.instances.of(s.model) if h.staying]:
            instance.replica = next_number(twins)
            instance.leaving = "duplicate" if len(twins) >= found.replicas else instance.leaving
        self.parts.scheduler_state.add(instance)
        self.parts.out.epoch = max(self.parts.out.epoch, s.epoch)

    def hear(self, s: InstanceObservation) -> None:
        """Take in what became of an instance."""
        instance = self.parts.scheduler_state.instances.get(s.instance)
        if instance is None or instance.epoch != s.epoch:
            return
        match s:
            case InstanceReady():
                if instance.state in (InstanceState.LOADING, InstanceState.WAKING) and instance.turn == s.turn:
                    self._become_ready(instance, s)
            case InstanceParked() | SleepFailed():
                self.parts.out.tell(*self.parts.parking.hear(instance, s))
            case InstanceFailed():
                self._note_failure(instance, s.now, s.reason, s.message, lives=s.lives, exit_code=s.exit_code)
            case InstanceReleased():
                # Where nobody told it to go and it did not say why: as good as a crash.
                self._note_failure(instance, s.now, "Vanished", "the engine ended without a reason")
                self._note_release(instance, s.now)
            case InstanceUnproven():
                self._note_unproven(instance, s)
            case InstanceMeasured():
                self.parts.out.tell(*self.parts.scheduler_state.measure(instance, s.memory))

    def check_deadline(self, instance: Instance, now: float) -> None:
        """Give up on one that should have loaded, woken or fallen asleep by now."""
        if instance.state is InstanceState.LOADING:
            until = instance.since + instance.terms.start_timeout
            self.parts.out.wake(until)
            if now >= until:
                self.lifecycle.fail(instance, now, "StartTimeout", lives=True)
                reason = f"not ready within {instance.terms.start_timeout:g} s (lifecycle.startTimeout)"
                self._fail(now, instance.model, instance.id, "StartTimeout", reason)
        elif due := deadline(instance):
            self.parts.out.wake(due)
            self.parts.out.tell(*(self.parts.parking.give_up(instance, now) if now >= due else []))

    # What became of an instance ------------------------------------------------------------------------------------------

    def _become_ready(self, instance: Instance, s: InstanceReady) -> None:
        seconds, woken = s.now - instance.since, instance.state is InstanceState.WAKING
        instance.address, instance.last_used = s.address, s.now
        instance.ready_since, instance.ready_epoch = s.now, self.parts.out.next_epoch
        self.parts.scheduler_state.go(instance, Trigger.READY, s.now)
        self.parts.availability.fulfil(instance.model)
        self.parts.replicas.succeeded(instance.model)
        if woken:
            self.parts.out.tell(*self.parts.parking.woken(instance, seconds))
        else:
            if not instance.halfway:
                self.parts.history.costs.note_load(instance.model, seconds)
            instance.halfway = False
            self.parts.out.tell(
                Emit("model.ready", instance.model, {"instance": instance.id, "seconds": round(seconds, 4)})
            )
        self.parts.out.tell(*self.parts.history.ready(instance.seat, s.now))

    def _note_failure(
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
            return  # it was told to go
        if instance.state in SLEEP_STATES:
            self.parts.out.tell(*self.parts.parking.died(instance, now, reason, message))
            if lives:
                self.parts.out.tell(Stop(instance.model, instance.id, instance.epoch, instance.terms.stop_timeout))
            return
        was_ready = instance.ready_since is not None
        self.lifecycle.fail(instance, now, reason, lives=lives)
        self._fail(now, instance.model, instance.id, reason, message, crashed=was_ready, exit_code=exit_code)

    def _note_release(self, instance: Instance, now: float) -> None:
        seconds = now - (instance.stop_asked if instance.stop_asked is not None else now)
        self.parts.scheduler_state.remove(instance, now)
        if instance.state is InstanceState.UNPROVEN or self.parts.scheduler_state.groups.stays(instance.model):
            self.parts.availability.handle_changed()
        tells = (
            instance.state is not InstanceState.UNPROVEN
            and not instance.halfway
            and self.parts.scheduler_state.is_of_today(instance)
        )
        if tells and instance.leaving != "failed" and not instance.asleep:
            self.parts.history.costs.note_stop(instance.model, seconds)
        data = {"instance": instance.id, "reason": instance.leaving or "evicted", "seconds": round(seconds, 4)}
        self.parts.out.tell(Emit("model.released", instance.model, data))
        self.parts.history.released(instance.seat, now)

    def _note_unproven(self, instance: Instance, s: InstanceUnproven) -> None:
        if instance.state is InstanceState.UNPROVEN:
            return
        self._note_failure(instance, s.now, "ReleaseUnproven", s.reason)
        self.parts.scheduler_state.go(instance, Trigger.UNPROVEN, s.now, s.reason)
        instance.left = s.reason
        self.parts.out.tell(model_failed(instance.model, instance.id, "ReleaseUnproven", s.reason))
        self.parts.out.tell(*self.parts.history.failed_release(instance.seat, s.now, s.reason))

    def _fail(
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
        """Count a failure against its model; one of a replica, or of one beside which another is ready, against further replicas only."""
        delay, terms = 0.0, self.parts.scheduler_state.terms.get(model)
        if instance is not None and (
            self.parts.scheduler_state.instances[instance].replica > 1
            or (terms and self.parts.scheduler_state.serves(model))
        ):
            self.parts.out.tell(model_failed(model, instance, reason, message, self.parts.replicas.failed(model, now)))
            return
        if terms is not None:
            bound = self.parts.out.auto_max_wait if terms.max_wait is None else terms.max_wait
            delay = self.parts.availability.fail(
                now,
                model,
                reason,
                message,
                self.parts.out.next_epoch,
                crashed=crashed,
                max_wait=bound,
                exit_code=exit_code,
            )
        self.parts.out.tell(model_failed(model, instance, reason, message, delay or None))
        self.parts.out.tell(*self.parts.history.failed(model, now, "load", reason, message))
