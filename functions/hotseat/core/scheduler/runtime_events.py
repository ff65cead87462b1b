"""What the runtime tells of weights and holders, and what follows when it has told nothing in time. Pure.

An observation about another epoch than the holder's changes nothing. A holder keeps its seat until it is proven gone; what cannot
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
from hotseat.core.scheduler.lifecycle import Lifecycle
from hotseat.core.scheduler.messages import CachesObserved, SchedulingSpec
from hotseat.core.scheduler.parts import Parts
from hotseat.core.scheduler.replicas import next_number
from hotseat.core.scheduler.sleep import deadline


@dataclass(frozen=True, slots=True)
class RuntimeEvents:
    """Takes in observations: moves the holder, and writes down what it means for its model's prospects and its switch."""

    parts: Parts
    lifecycle: Lifecycle

    def see_cache(self, s: CacheObserved | CachesObserved) -> None:
        """Take in where the weights of a model, or of several, are."""
        if isinstance(s, CachesObserved):
            for state in s.states:
                self.see_cache(state)
            return
        owed = self.parts.prospects.awaits(
            s.model
        )  # without a failure and its back-off, a wish would have it asked again at once
        self.parts.out.tell(*self.parts.prospects.note_cache(s))
        waits = self.parts.traffic.waiting(s.model)[0] or self.parts.traffic.wanted(s.model) is not None
        asked = s.model in self.parts.prospects.orders or waits
        terms = self.parts.seating.terms.get(s.model)
        if terms and self.parts.seating.serves(s.model):
            return  # what is ready answers without them
        if s.state is CacheState.FAILED and terms and (asked or owed or terms.refuse_uncached):
            self._fail(s.now, s.model, None, s.reason, s.message)

    def adopt(self, s: InstanceAdopted) -> None:
        """Take over a holder that was found; one that no document names, or that a shutdown meets, leaves."""
        if s.holder in self.parts.seating.holders:
            return
        terms = self.parts.seating.terms.get(s.model)
        found = terms or SchedulingSpec()
        claim = found.claim if s.gpus is None else replace(found.claim, gpus=s.gpus)
        found = replace(found, claim=claim, fingerprint=found.fingerprint if s.fingerprint is None else s.fingerprint)
        running = Trigger.FOUND_READY if s.address else Trigger.FOUND_LOADING
        trigger = Trigger.FOUND_RELEASING if s.releasing else running
        holder = Instance.begin(trigger, s.now, model=s.model, id=s.holder, epoch=s.epoch, terms=found)
        holder.address, holder.devices, holder.halfway = s.address, s.devices, s.releasing or not s.address
        if s.releasing:
            holder.leaving, holder.stop_asked = "evicted", s.now
        elif s.address:
            holder.ready_since = s.now
            self.parts.prospects.fulfil(s.model)
        if self.parts.seating.down:
            holder.leave("shutdown")
        elif holder.take_over(terms) and terms and not terms.external:
            self.parts.prospects.order(s.model, s.now, may_evict=True)
        elif twins := [h for h in self.parts.seating.holders.of(s.model) if h.staying]:
            holder.replica = next_number(twins)
            holder.leaving = "duplicate" if len(twins) >= found.replicas else holder.leaving
        self.parts.seating.add(holder)
        self.parts.out.epoch = max(self.parts.out.epoch, s.epoch)

    def hear(self, s: InstanceObservation) -> None:
        """Take in what became of a holder."""
        holder = self.parts.seating.holders.get(s.holder)
        if holder is None or holder.epoch != s.epoch:
            return
        match s:
            case InstanceReady():
                if holder.state in (InstanceState.LOADING, InstanceState.WAKING) and holder.turn == s.turn:
                    self._become_ready(holder, s)
            case InstanceParked() | SleepFailed():
                self.parts.out.tell(*self.parts.parking.hear(holder, s))
            case InstanceFailed():
                self._note_failure(holder, s.now, s.reason, s.message, lives=s.lives, exit_code=s.exit_code)
            case InstanceReleased():
                # Where nobody told it to go and it did not say why: as good as a crash.
                self._note_failure(holder, s.now, "Vanished", "the engine ended without a reason")
                self._note_release(holder, s.now)
            case InstanceUnproven():
                self._note_unproven(holder, s)
            case InstanceMeasured():
                self.parts.out.tell(*self.parts.seating.measure(holder, s.memory))

    def check_deadline(self, holder: Instance, now: float) -> None:
        """Give up on one that should have loaded, woken or fallen asleep by now."""
        if holder.state is InstanceState.LOADING:
            until = holder.since + holder.terms.start_timeout
            self.parts.out.wake(until)
            if now >= until:
                self.lifecycle.fail(holder, now, "StartTimeout", lives=True)
                reason = f"not ready within {holder.terms.start_timeout:g} s (lifecycle.startTimeout)"
                self._fail(now, holder.model, holder.id, "StartTimeout", reason)
        elif due := deadline(holder):
            self.parts.out.wake(due)
            self.parts.out.tell(*(self.parts.parking.give_up(holder, now) if now >= due else []))

    # What became of a holder ------------------------------------------------------------------------------------------

    def _become_ready(self, holder: Instance, s: InstanceReady) -> None:
        seconds, woken = s.now - holder.since, holder.state is InstanceState.WAKING
        holder.address, holder.last_used = s.address, s.now
        holder.ready_since, holder.ready_epoch = s.now, self.parts.out.next_epoch
        self.parts.seating.go(holder, Trigger.READY, s.now)
        self.parts.prospects.fulfil(holder.model)
        self.parts.replicas.succeeded(holder.model)
        if woken:
            self.parts.out.tell(*self.parts.parking.woken(holder, seconds))
        else:
            if not holder.halfway:
                self.parts.ledger.costs.note_load(holder.model, seconds)
            holder.halfway = False
            self.parts.out.tell(Emit("model.ready", holder.model, {"holder": holder.id, "seconds": round(seconds, 4)}))
        self.parts.out.tell(*self.parts.ledger.ready(holder.seat, s.now))

    def _note_failure(
        self,
        holder: Instance,
        now: float,
        reason: str,
        message: str,
        *,
        lives: bool = False,
        exit_code: int | None = None,
    ) -> None:
        if holder.state not in ACTIVE_STATES:
            return  # it was told to go
        if holder.state in SLEEP_STATES:
            self.parts.out.tell(*self.parts.parking.died(holder, now, reason, message))
            if lives:
                self.parts.out.tell(Stop(holder.model, holder.id, holder.epoch, holder.terms.stop_timeout))
            return
        was_ready = holder.ready_since is not None
        self.lifecycle.fail(holder, now, reason, lives=lives)
        self._fail(now, holder.model, holder.id, reason, message, crashed=was_ready, exit_code=exit_code)

    def _note_release(self, holder: Instance, now: float) -> None:
        seconds = now - (holder.stop_asked if holder.stop_asked is not None else now)
        self.parts.seating.remove(holder, now)
        if holder.state is InstanceState.UNPROVEN or self.parts.seating.groups.stays(holder.model):
            self.parts.prospects.room_changed()
        tells = (
            holder.state is not InstanceState.UNPROVEN and not holder.halfway and self.parts.seating.is_of_today(holder)
        )
        if tells and holder.leaving != "failed" and not holder.asleep:
            self.parts.ledger.costs.note_stop(holder.model, seconds)
        data = {"holder": holder.id, "reason": holder.leaving or "evicted", "seconds": round(seconds, 4)}
        self.parts.out.tell(Emit("model.released", holder.model, data))
        self.parts.ledger.released(holder.seat, now)

    def _note_unproven(self, holder: Instance, s: InstanceUnproven) -> None:
        if holder.state is InstanceState.UNPROVEN:
            return
        self._note_failure(holder, s.now, "ReleaseUnproven", s.reason)
        self.parts.seating.go(holder, Trigger.UNPROVEN, s.now, s.reason)
        holder.left = s.reason
        self.parts.out.tell(model_failed(holder.model, holder.id, "ReleaseUnproven", s.reason))
        self.parts.out.tell(*self.parts.ledger.failed_release(holder.seat, s.now, s.reason))

    def _fail(
        self,
        now: float,
        model: str,
        holder: str | None,
        reason: str,
        message: str,
        *,
        crashed: bool = False,
        exit_code: int | None = None,
    ) -> None:
        """Count a failure against its model; one of a replica, or of one beside which another is ready, against further replicas only."""
        delay, terms = 0.0, self.parts.seating.terms.get(model)
        if holder is not None and (
            self.parts.seating.holders[holder].replica > 1 or (terms and self.parts.seating.serves(model))
        ):
            self.parts.out.tell(model_failed(model, holder, reason, message, self.parts.replicas.failed(model, now)))
            return
        if terms is not None:
            bound = self.parts.out.auto_max_wait if terms.max_wait is None else terms.max_wait
            delay = self.parts.prospects.fail(
                now,
                model,
                reason,
                message,
                self.parts.out.next_epoch,
                crashed=crashed,
                max_wait=bound,
                exit_code=exit_code,
            )
        self.parts.out.tell(model_failed(model, holder, reason, message, delay or None))
        self.parts.out.tell(*self.parts.ledger.failed(model, now, "load", reason, message))
