"""What the runtime tells of weights and holders, and what follows when it has told nothing in time. Pure.

An observation about another epoch than the holder's changes nothing. A holder keeps its seat until it is proven gone; what cannot
be proven gone keeps it until somebody settles that.
"""

from dataclasses import dataclass, replace

from hotseat.core.events import Emit, model_failed
from hotseat.core.leaving import Leaving
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    HolderAdopted,
    HolderFailed,
    HolderMeasured,
    HolderObserved,
    HolderParked,
    HolderReady,
    HolderReleased,
    HolderUnproven,
    SeatState,
    SleepFailed,
)
from hotseat.core.output import Output
from hotseat.core.parking import Parking, deadline
from hotseat.core.prospects import Prospects
from hotseat.core.replicas import Replicas, next_number
from hotseat.core.seating import Seating
from hotseat.core.seats import OCCUPIED, SLEEPING, CachesObserved, Holder, Terms
from hotseat.core.switches import Ledger
from hotseat.core.traffic import Traffic


@dataclass(slots=True)
class Observing:
    """Takes in observations: moves the holder, and writes down what it means for its model's prospects and its switch."""

    seating: Seating
    traffic: Traffic
    prospects: Prospects
    ledger: Ledger
    parking: Parking
    replicas: Replicas
    leaving: Leaving
    out: Output

    def see_cache(self, s: CacheObserved | CachesObserved) -> None:
        """Take in where the weights of a model, or of several, are."""
        if isinstance(s, CachesObserved):
            for state in s.states:
                self.see_cache(state)
            return
        owed = self.prospects.awaits(
            s.model
        )  # without a failure and its back-off, a wish would have it asked again at once
        self.out.tell(*self.prospects.note_cache(s))
        waits = self.traffic.waiting(s.model)[0] or self.traffic.wanted(s.model) is not None
        asked = s.model in self.prospects.orders or waits
        terms = self.seating.terms.get(s.model)
        if terms and self.seating.serves(s.model):
            return  # what is ready answers without them
        if s.state is CacheState.FAILED and terms and (asked or owed or terms.refuse_uncached):
            self._fail(s.now, s.model, None, s.reason, s.message)

    def adopt(self, s: HolderAdopted) -> None:
        """Take over a holder that was found; one that no document names, or that a shutdown meets, leaves."""
        if s.holder in self.seating.holders:
            return
        terms = self.seating.terms.get(s.model)
        state = SeatState.READY if s.address else SeatState.LOADING
        found = terms or Terms()
        claim = found.claim if s.gpus is None else replace(found.claim, gpus=s.gpus)
        found = replace(found, claim=claim, fingerprint=found.fingerprint if s.fingerprint is None else s.fingerprint)
        holder = Holder(s.model, s.holder, s.epoch, state, s.now, found, s.address, last_used=s.now, devices=s.devices)
        holder.halfway = s.releasing or not s.address
        if s.releasing:
            holder.state, holder.leaving, holder.stop_asked = SeatState.RELEASING, "evicted", s.now
        elif s.address:
            holder.ready_since = s.now
            self.prospects.fulfil(s.model)
        if self.seating.down:
            holder.leave("shutdown")
        elif holder.take_over(terms) and terms and not terms.external:
            self.prospects.order(s.model, s.now, may_evict=True)
        elif twins := [h for h in self.seating.holders.values() if h.model == s.model and h.staying]:
            holder.replica = next_number(twins)
            holder.leaving = "duplicate" if len(twins) >= found.replicas else holder.leaving
        self.seating.add(holder)
        self.out.epoch = max(self.out.epoch, s.epoch)

    def hear(self, s: HolderObserved) -> None:
        """Take in what became of a holder."""
        holder = self.seating.holders.get(s.holder)
        if holder is None or holder.epoch != s.epoch:
            return
        match s:
            case HolderReady():
                if holder.state in (SeatState.LOADING, SeatState.WAKING) and holder.turn == s.turn:
                    self._become_ready(holder, s)
            case HolderParked() | SleepFailed():
                self.out.moved(*self.parking.hear(holder, s))
            case HolderFailed():
                self._note_failure(holder, s.now, s.reason, s.message, lives=s.lives)
            case HolderReleased():
                # Where nobody told it to go and it did not say why: as good as a crash.
                self._note_failure(holder, s.now, "Vanished", "the engine ended without a reason")
                self._note_release(holder, s.now)
            case HolderUnproven():
                self._note_unproven(holder, s)
            case HolderMeasured():
                self.out.tell(*self.seating.measure(holder, s.memory))

    def check_deadline(self, holder: Holder, now: float) -> None:
        """Give up on one that should have loaded, woken or fallen asleep by now."""
        if holder.state is SeatState.LOADING:
            until = holder.since + holder.terms.start_timeout
            self.out.wakes.append(until)
            if now >= until:
                self.leaving.stop(holder, now, "failed")
                reason = f"not ready within {holder.terms.start_timeout:g} s (lifecycle.startTimeout)"
                self._fail(now, holder.model, holder.id, "StartTimeout", reason)
        elif due := deadline(holder):
            self.out.wakes.append(due)
            self.out.moved(*(self.parking.give_up(holder, now) if now >= due else []))

    # What became of a holder ------------------------------------------------------------------------------------------

    def _become_ready(self, holder: Holder, s: HolderReady) -> None:
        seconds, woken = s.now - holder.since, holder.state is SeatState.WAKING
        holder.address, holder.last_used = s.address, s.now
        holder.ready_since, holder.ready_epoch = s.now, self.out.next_epoch
        self.seating.go(holder, SeatState.READY, s.now)
        self.prospects.fulfil(holder.model)
        self.replicas.succeeded(holder.model)
        if woken:
            self.out.tell(*self.parking.woken(holder, seconds))
        else:
            if not holder.halfway:
                self.ledger.costs.note_load(holder.model, seconds)
            holder.halfway = False
            self.out.tell(Emit("model.ready", holder.model, {"holder": holder.id, "seconds": round(seconds, 4)}))
        self.out.tell(*self.ledger.ready(holder.seat, s.now))

    def _note_failure(self, holder: Holder, now: float, reason: str, message: str, *, lives: bool = False) -> None:
        if holder.state not in OCCUPIED:
            return  # it was told to go
        if holder.state in SLEEPING:
            self.out.moved(*self.parking.died(holder, now, reason, message))
            return
        was_ready = holder.ready_since is not None
        (self.leaving.stop if lives else self.leaving.release)(holder, now, "failed")
        self._fail(now, holder.model, holder.id, reason, message, crashed=was_ready)

    def _note_release(self, holder: Holder, now: float) -> None:
        seconds = now - (holder.stop_asked if holder.stop_asked is not None else now)
        self.seating.remove(holder)
        if holder.state is SeatState.UNPROVEN or self.seating.groups.stays(holder.model):
            self.prospects.room_changed()
        tells = holder.state is not SeatState.UNPROVEN and not holder.halfway and self.seating.is_of_today(holder)
        if tells and holder.leaving != "failed" and not holder.asleep:
            self.ledger.costs.note_stop(holder.model, seconds)
        data = {"holder": holder.id, "reason": holder.leaving or "evicted", "seconds": round(seconds, 4)}
        self.out.tell(Emit("model.released", holder.model, data))
        self.ledger.released(holder.seat, now)

    def _note_unproven(self, holder: Holder, s: HolderUnproven) -> None:
        if holder.state is SeatState.UNPROVEN:
            return
        self._note_failure(holder, s.now, "ReleaseUnproven", s.reason)
        self.seating.go(holder, SeatState.UNPROVEN, s.now)
        holder.left = s.reason
        self.out.tell(model_failed(holder.model, holder.id, "ReleaseUnproven", s.reason))
        self.out.tell(*self.ledger.failed_release(holder.seat, s.now, s.reason))

    def _fail(
        self, now: float, model: str, holder: str | None, reason: str, message: str, *, crashed: bool = False
    ) -> None:
        """Count a failure against its model; one of a replica, or of one beside which another is ready, against further replicas only."""
        delay, terms = 0.0, self.seating.terms.get(model)
        if holder is not None and (self.seating.holders[holder].replica > 1 or (terms and self.seating.serves(model))):
            self.out.tell(model_failed(model, holder, reason, message, self.replicas.failed(model, now)))
            return
        if terms is not None:
            bound = self.out.auto_max_wait if terms.max_wait is None else terms.max_wait
            delay = self.prospects.fail(
                now, model, reason, message, self.out.next_epoch, crashed=crashed, max_wait=bound
            )
        self.out.tell(model_failed(model, holder, reason, message, delay or None))
        self.out.tell(*self.ledger.failed(model, now, "load", reason, message))
