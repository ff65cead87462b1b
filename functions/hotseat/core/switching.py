"""Switching: which models are resident in one Workspace, and every step between. Pure.

Demand, observations of the runtime and operators' orders come in; commands to the runtime, a new Residency and events go out.
It is level-triggered: after every stimulus it looks at the whole of what it knows and moves each holder one step towards what
the policy wants. Invariants (tests/unit/test_core_machine.py):

- what holders claim, known to be ready or not yet proven gone, never exceeds the capacity (one that shrinks empties first);
- a model starts only when no earlier holder of it is left;
- before the drain deadline, a holder is stopped only when nothing is in flight on it and no router will send it more;
- an observation about another epoch than the holder's changes nothing;
- a model that is wanted and can be loaded is eventually loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hotseat.core.demands import Demands
from hotseat.core.events import Emit
from hotseat.core.messages import (
    EXTERNAL_EPOCH,
    CacheObserved,
    CacheState,
    Fetch,
    HolderAdopted,
    HolderFailed,
    HolderReady,
    HolderReleased,
    HolderUnproven,
    Refusal,
    Residency,
    Resident,
    SeatState,
    Start,
    Stop,
)
from hotseat.core.policy import NOTHING, Capacity, Decision, ModelView, Policy, View
from hotseat.core.seats import (
    GOING,
    OCCUPIED,
    Command,
    DemandReported,
    Failure,
    Holder,
    Load,
    ModelStatus,
    Publish,
    RouterLeft,
    Shutdown,
    Stimulus,
    Terms,
    TermsChanged,
    Tick,
    Unload,
    status_of,
)
from hotseat.core.switches import Ledger, Switch

MAX_BACKOFF = 300.0  # seconds
STABLE = 60.0  # a holder that was ready for so long has wiped out earlier failures
UNPROVEN_RETRY = 10.0


@dataclass(slots=True)
class Switching:
    """The machine. `step` takes a stimulus and returns commands in order; `wake_at` says when it wants a Tick."""

    workspace: str
    policy: Policy
    epoch: int = 0
    wake_at: float | None = None
    effective_max_wait: float | None = None
    terms: Mapping[str, Terms] = field(default_factory=dict)
    capacity: Capacity = field(default_factory=Capacity)
    holders: dict[str, Holder] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    residency: Residency = field(default_factory=Residency)
    ledger: Ledger = field(init=False)
    _demands: Demands = field(default_factory=Demands)
    _cache: dict[str, CacheObserved] = field(default_factory=dict)
    _wanted: dict[str, tuple[float, bool]] = field(default_factory=dict)  # by model: since when; whether it may evict
    _refusals: dict[str, Refusal] = field(default_factory=dict)
    _wakes: list[float] = field(default_factory=list)  # what this decision waits for
    _changed: bool = False
    _down: bool = False
    _out: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.workspace)

    def step(self, stimulus: Stimulus) -> list[Command]:
        """Apply a stimulus, then decide."""
        now = stimulus.now
        self._out = []
        match stimulus:
            case DemandReported():
                self._note_demand(stimulus)
            case RouterLeft():
                self._note_use(self._demands.leave(stimulus.router), now)
            case TermsChanged():
                self._change_terms(stimulus)
            case Load():
                self._order_load(now, stimulus.model)
            case Unload():
                self._order_unload(stimulus.model)
            case Shutdown():
                self._shut_down()
            case CacheObserved():
                self._note_cache(stimulus)
            case HolderAdopted():
                self._adopt(stimulus)
            case HolderReady() | HolderFailed() | HolderReleased() | HolderUnproven():
                self._note_holder(stimulus)
            case Tick():
                pass
        self._decide(now)
        return self._out

    # What was said ----------------------------------------------------------------------------------------------------

    def _note_demand(self, s: DemandReported) -> None:
        used = self._demands.note(s.demand)
        if used is None:
            return
        self._note_use(used, s.now)
        for model in s.demand.requested:
            if model in self.terms and not self._serves(model):
                count = self._waiting(model)[0]
                data = {"model": model, "workspace": self.workspace, "waiting": count, "router": s.demand.router}
                self._out.append(Emit("switch.requested", model, data))

    def _note_use(self, holders: set[str], now: float) -> None:
        for holder in holders & self.holders.keys():
            self.holders[holder].last_used = now

    def _change_terms(self, s: TermsChanged) -> None:
        old, self.terms, self.capacity, self._changed = self.terms, s.models, s.capacity, True
        self._forget_shortage()
        for holder in self.holders.values():
            self._apply_terms(holder, s.models.get(holder.model), s.now)
        for name, terms in s.models.items():
            if terms.preload and name not in old and not any(h.model == name for h in self.holders.values()):
                self._wanted[name] = (s.now, False)
            if name in old and old[name].fingerprint != terms.fingerprint:
                self._forget(name)  # the mistake may have been mended
                if name in self._cache:  # and it may be other weights; the runtime knows
                    self._cache[name] = CacheObserved(s.now, name, CacheState.ABSENT)
        for gone in set(old) - set(s.models):
            self._forget(gone)
            self._cache.pop(gone, None)
            self._wanted.pop(gone, None)

    def _apply_terms(self, holder: Holder, new: Terms | None, now: float) -> None:
        if holder.state not in OCCUPIED:
            return
        if new is None:
            holder.leaving = holder.leaving or "removed"
        elif new.fingerprint != holder.terms.fingerprint:
            if holder.leaving is None and not new.external:
                self._wanted[holder.model] = (now, True)
            holder.leaving = holder.leaving or "changed"
        else:
            holder.terms = replace(new, claim=holder.terms.claim)  # it occupies what it was started with
            if holder.leaving in ("removed", "changed"):
                holder.leaving = None  # the documents are back to what it is

    def _forget(self, model: str) -> None:
        self.failures.pop(model, None)
        self._refusals.pop(model, None)

    def _forget_shortage(self) -> None:
        """Take back refusals for want of room: whether there is any has changed."""
        kept = {model: r for model, r in self._refusals.items() if r.code not in ("too_large", "release_unproven")}
        if kept != self._refusals:
            self._refusals, self._changed = kept, True

    def _order_load(self, now: float, model: str) -> None:
        if model not in self.terms or self.terms[model].external:
            return
        if failure := self.failures.get(model):
            failure.retry_at = now
        if self._refusals.pop(model, None):
            self._changed = True
        if not any(h.model == model and h.state is SeatState.READY and h.staying for h in self.holders.values()):
            self._wanted[model] = (self._wanted.get(model, (now, True))[0], True)

    def _order_unload(self, model: str) -> None:
        if model not in self.terms or self.terms[model].external:
            return
        self._wanted.pop(model, None)
        for holder in self.holders.values():
            if holder.model == model and holder.state in OCCUPIED:
                holder.leaving = holder.leaving or "unloaded"
        if self._waiting(model)[0]:
            self._refuse(model, "unloaded", f"{model} was unloaded by an operator while this request waited", None)

    def _shut_down(self) -> None:
        self._down = True
        self._wanted.clear()
        for holder in self.holders.values():
            if holder.state in OCCUPIED:
                holder.leaving = "shutdown"

    # What was seen ----------------------------------------------------------------------------------------------------

    def _note_cache(self, s: CacheObserved) -> None:
        before = self._cache.get(s.model)
        self._cache[s.model] = s
        if s.state is CacheState.FETCHING:
            data = {"done": s.done, "total": s.total, "message": s.message}
            self._out.append(Emit("model.fetching", s.model, data))
        elif s.state is CacheState.CACHED and before is not None and before.state is not CacheState.CACHED:
            self._out.append(Emit("model.cached", s.model, {}))
        elif s.state is CacheState.FAILED and s.model in self.terms and self._asked_for(s.model):
            self._fail(s.now, s.model, None, "FetchFailed", s.message)

    def _adopt(self, s: HolderAdopted) -> None:
        if s.holder in self.holders:
            return
        terms = self.terms.get(s.model)
        holder = Holder(
            s.model, s.holder, s.epoch, SeatState.LOADING, s.now, terms or Terms(), s.address, last_used=s.now
        )
        if s.address:
            holder.state, holder.ready_since = SeatState.READY, s.now
            self._wanted.pop(s.model, None)
            self._refusals.pop(s.model, None)
        if self._down:
            holder.leaving = "shutdown"
        elif terms is None:
            holder.leaving = "removed"
        elif any(h.model == s.model and h.staying for h in self.holders.values()):
            holder.leaving = "duplicate"
        self.holders[s.holder] = holder
        self.epoch = max(self.epoch, s.epoch)
        self._changed = True

    def _note_holder(self, s: HolderReady | HolderFailed | HolderReleased | HolderUnproven) -> None:
        holder = self.holders.get(s.holder)
        if holder is None or holder.epoch != s.epoch:
            return
        match s:
            case HolderReady():
                if holder.state is SeatState.LOADING:
                    self._become_ready(holder, s)
            case HolderFailed():
                self._note_failure(holder, s.now, s.reason, s.message)
            case HolderReleased():
                # Where nobody told it to go and it did not say why: as good as a crash.
                self._note_failure(holder, s.now, "Vanished", "it ended without saying why")
                self._note_release(holder, s.now)
            case HolderUnproven():
                self._note_failure(holder, s.now, "ReleaseUnproven", s.reason)
                if holder.state is not SeatState.UNPROVEN:
                    self._go(holder, SeatState.UNPROVEN, s.now)
                    data = {"holder": holder.id, "reason": "ReleaseUnproven", "message": s.reason, "retry_after": None}
                    self._out.append(Emit("model.failed", holder.model, data))
                    self._out += self.ledger.failed_release(holder.model, s.now, s.reason)

    def _become_ready(self, holder: Holder, s: HolderReady) -> None:
        seconds = s.now - holder.since
        holder.address, holder.ready_since, holder.last_used = s.address, s.now, s.now
        self._go(holder, SeatState.READY, s.now)
        self._wanted.pop(holder.model, None)
        self._refusals.pop(holder.model, None)
        if failure := self.failures.get(holder.model):
            failure.over = True
        self.ledger.costs.note_load(holder.model, seconds)
        self._out.append(Emit("model.ready", holder.model, {"holder": holder.id, "seconds": round(seconds, 4)}))
        self._out += self.ledger.ready(holder.model, s.now)

    def _note_failure(self, holder: Holder, now: float, reason: str, message: str) -> None:
        if holder.state not in OCCUPIED:
            return  # it was told to go
        was_ready = holder.ready_since is not None
        self._begin_release(holder, "failed", now)
        self._fail(now, holder.model, holder.id, reason, message, at_once=was_ready)

    def _note_release(self, holder: Holder, now: float) -> None:
        seconds = now - (holder.stop_asked if holder.stop_asked is not None else now)
        del self.holders[holder.id]
        self._changed = True
        if holder.state is SeatState.UNPROVEN:
            self._forget_shortage()
        elif holder.leaving != "failed":
            self.ledger.costs.note_stop(holder.model, seconds)
        data = {"holder": holder.id, "reason": holder.leaving or "evicted", "seconds": round(seconds, 4)}
        self._out.append(Emit("model.released", holder.model, data))
        self.ledger.released(holder.model, now)

    def _fail(
        self, now: float, model: str, holder: str | None, reason: str, message: str, *, at_once: bool = False
    ) -> None:
        """Count a failure; the model may be tried again after a growing back-off. `at_once`: the first time without one."""
        count = self.failures[model].count + 1 if model in self.failures else 1
        exponent = count - 2 if at_once else count - 1
        delay = 0.0 if exponent < 0 else min(MAX_BACKOFF, 2.0 ** min(exponent, 30))
        self.failures[model] = Failure(count, now + delay, reason, message)
        self._wanted.pop(model, None)
        data = {"holder": holder, "reason": reason, "message": message, "retry_after": delay or None}
        self._out.append(Emit("model.failed", model, data))
        self._out += self.ledger.failed(model, now, "load", reason, message)
        if delay:
            self._refuse(model, "model_failed", f"{model} failed: {reason}: {message}", now + delay)

    def _refuse(self, model: str, code: str, message: str, retry_at: float | None) -> None:
        """Send away what waits for a model. The epoch is the one that `_decide` publishes with it."""
        self._refusals[model] = Refusal(self.epoch + 1, code, message, retry_at)
        self._changed = True

    # What is wanted ---------------------------------------------------------------------------------------------------

    def _waiting(self, model: str) -> tuple[int, float]:
        """How many wait and since when; snapshots from before a refusal do not count: who waited then has been answered."""
        refusal = self._refusals.get(model)
        return self._demands.waiting(model, refusal.epoch if refusal else -1)

    def _asked_for(self, model: str) -> bool:
        return bool(self._waiting(model)[0]) or model in self._wanted

    def _serves(self, model: str) -> bool:
        return bool(self.terms[model].external) or any(
            h.model == model and h.state is SeatState.READY for h in self.holders.values()
        )

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        self._wakes = []
        decision = self._ask_policy(now)
        self.effective_max_wait = decision.effective_max_wait
        for holder in list(self.holders.values()):
            self._steer(holder, holder.model in decision.resident, now)
            self._advance(holder, now)
        present = {h.model for h in self.holders.values()}
        for model in decision.resident:
            if model not in present:
                self._start_if_free(model, now)
        self._out += self.ledger.abandon(present.union(decision.resident), now)
        if self._changed:
            self._publish()
        if decision.look_again is not None:
            self._wakes.append(decision.look_again)
        self.wake_at = min((wake for wake in self._wakes if wake > now), default=None)

    def _ask_policy(self, now: float) -> Decision:
        main: dict[str, Holder] = {}  # the one holder that counts for each model; adoption may have found more
        for holder in self.holders.values():
            if holder.model not in main or holder.staying:
                main[holder.model] = holder
        views = [
            view
            for name, terms in self.terms.items()
            if not terms.external and (view := self._view(name, terms, main.get(name), now))
        ]
        for holder in self.holders.values():
            known = self.terms.get(holder.model)
            if main[holder.model] is not holder or known is None or known.external:
                views.append(ModelView(holder.model, holder.terms.claim, seat=holder.state, leaving=True))
        return self.policy.decide(View(now, self.capacity, tuple(views)))

    def _view(self, name: str, terms: Terms, holder: Holder | None, now: float) -> ModelView | None:
        """Show the policy one model, unless it neither holds a seat nor can have one now."""
        waiting, oldest = self._waiting(name)
        may_evict = True
        if name in self._wanted and (holder is None or holder.state is SeatState.LOADING):
            since, ordered = self._wanted[name]
            may_evict = ordered or waiting > 0
            if holder is None or ordered:
                waiting, oldest = waiting + 1, min(oldest, since) if waiting else since
        staying = holder is not None and holder.staying
        if not staying and waiting and not self._loadable(name, now):
            waiting = 0
        if holder is None and not waiting:
            return None
        return ModelView(
            name=name,
            claim=holder.terms.claim if holder and (staying or holder.state is SeatState.UNPROVEN) else terms.claim,
            priority=terms.priority,
            max_wait=terms.max_wait,
            min_residency=terms.min_residency,
            waiting=waiting,
            oldest=oldest,
            in_flight=self._demands.in_flight(holder.id) if holder else 0,
            seat=holder.state if holder else None,
            leaving=holder is not None and not staying,
            promised=self.ledger.promised(name),
            ready_since=(holder.ready_since or 0.0) if holder else 0.0,
            last_used=holder.last_used if holder else 0.0,
            may_evict=may_evict,
            switch_cost=self.ledger.costs.of(name),
        )

    def _loadable(self, model: str, now: float) -> bool:
        """Whether a start could succeed now; if not, see to it that it can, or that those who wait are told."""
        failure, cache = self.failures.get(model), self._cache.get(model)
        if self._down:
            return False
        if failure is not None and failure.retry_at > now:
            self._wakes.append(failure.retry_at)
            return False
        if self._short_of_room(model, now):
            return False
        if cache is not None and cache.state in (CacheState.ABSENT, CacheState.FAILED):
            self._cache[model] = replace(cache, state=CacheState.FETCHING, message="asked for")
            self._out.append(Fetch(model))
        return cache is not None and cache.state is CacheState.CACHED

    def _short_of_room(self, model: str, now: float) -> bool:
        """Whether no switch whatever could make room; those who wait are told then."""
        claim = self.terms[model].claim
        stuck = [h for h in self.holders.values() if h.state is SeatState.UNPROVEN]
        retry_at: float | None = None
        if not claim.fits_beside(NOTHING, self.capacity):
            code, message = "too_large", f"{model} claims more than the whole of {self.workspace} has"
        elif any(h.model == model for h in stuck) or not claim.fits_beside(
            sum((h.terms.claim for h in stuck), NOTHING), self.capacity
        ):
            code, message = "release_unproven", "the seat could not be proven free; a person has to look: hotseat ps"
            retry_at = now + UNPROVEN_RETRY
        else:
            return False
        if self._waiting(model)[0]:
            self._refuse(model, code, message, retry_at)
        return True

    def _steer(self, holder: Holder, wanted: bool, now: float) -> None:
        """Start taking it off, or keep it after all."""
        if holder.state not in OCCUPIED:
            return
        if holder.leaving or not wanted or self._idle_out(holder, now):
            if holder.state is SeatState.LOADING:
                code = (holder.leaving or "abandoned").capitalize()
                self._out += self.ledger.failed(holder.model, now, "load", code, "it was stopped while it loaded")
                self._stop(holder, now)
            elif holder.state is SeatState.READY:
                self.ledger.leaving(holder.model, now)
                self._go(holder, SeatState.CLOSING, now)
                holder.closing_since, holder.closing_epoch = now, self.epoch + 1
        elif holder.state in GOING:
            self.ledger.stays(holder.model)
            self._go(holder, SeatState.READY, now)

    def _idle_out(self, holder: Holder, now: float) -> bool:
        """Whether nobody has used it for its idle timeout; not within its minimum residency."""
        terms = holder.terms
        if not terms.idle_timeout or holder.ready_since is None:
            return False
        if self._demands.in_flight(holder.id) or self._waiting(holder.model)[0]:
            return False
        until = max(holder.last_used + terms.idle_timeout, holder.ready_since + terms.min_residency)
        self._wakes.append(until)
        return now >= until

    def _advance(self, holder: Holder, now: float) -> None:
        """Move it on as far as time and what routers have seen allow."""
        if holder.state is SeatState.LOADING:
            deadline = holder.since + holder.terms.start_timeout
            self._wakes.append(deadline)
            if now >= deadline:
                self._stop(holder, now, "failed")
                reason = f"not ready within {holder.terms.start_timeout:g} s"
                self._fail(now, holder.model, holder.id, "StartTimeout", reason)
        elif holder.state in GOING:
            deadline = holder.closing_since + holder.terms.drain_timeout
            self._wakes.append(deadline)
            closed = self._demands.all_saw(holder.closing_epoch) and not self._demands.closing(holder.model)
            if now >= deadline or (closed and not self._demands.in_flight(holder.id)):
                self._stop(holder, now)
            elif closed and holder.state is SeatState.CLOSING:
                self._go(holder, SeatState.DRAINING, now)

    def _stop(self, holder: Holder, now: float, why: str = "evicted") -> None:
        self._begin_release(holder, holder.leaving or why, now)
        self._out.append(Stop(holder.model, holder.id, holder.epoch, holder.terms.stop_timeout))

    def _begin_release(self, holder: Holder, why: str, now: float) -> None:
        if holder.ready_since is not None and now - holder.ready_since >= STABLE:
            self.failures.pop(holder.model, None)
        self.ledger.stopping(holder.model, now)
        holder.leaving, holder.stop_asked = why, now
        self._go(holder, SeatState.RELEASING, now)

    def _start_if_free(self, model: str, now: float) -> None:
        """Note that it is next, and start it if everything that is left leaves room for it."""
        terms = self.terms[model]
        held = sum((h.terms.claim for h in self.holders.values()), NOTHING)
        free = terms.claim.fits_beside(held, self.capacity)
        waiting, oldest = self._waiting(model)
        since = min([oldest] * bool(waiting) + [self._wanted[model][0]] * (model in self._wanted), default=now)
        leaving = (
            [] if free else [h.model for h in self.holders.values() if not h.state in OCCUPIED or h.state in GOING]
        )
        reason = "demand" if waiting else "ordered"
        self._out += self.ledger.decided(model, now, since, leaving=leaving, waiting=waiting, reason=reason)
        if not free:
            return
        epoch = self.epoch + 1
        holder = Holder(model, f"{model}@{epoch}", epoch, SeatState.LOADING, now, terms, last_used=now)
        self.holders[holder.id] = holder
        self.ledger.starting(model, now)
        self._out.append(Start(model, holder.id, epoch))
        self._wakes.append(now + terms.start_timeout)
        self._publish()  # an epoch of its own: it is the holder's identity

    def _go(self, holder: Holder, state: SeatState, now: float) -> None:
        holder.state, holder.since = state, now
        self._changed = True

    def _publish(self) -> None:
        self.epoch += 1
        residents = [
            Resident(h.model, h.id, h.state, h.epoch, h.since, h.address, h.leaving) for h in self.holders.values()
        ]
        residents += [
            Resident(name, f"{name}@external", SeatState.READY, EXTERNAL_EPOCH, 0.0, terms.external)
            for name, terms in self.terms.items()
            if terms.external
        ]
        self.residency = Residency(self.epoch, tuple(residents), dict(self._refusals), self.effective_max_wait)
        self._changed = False
        self._out.append(Publish(self.residency))

    # Reading ----------------------------------------------------------------------------------------------------------

    def status(self) -> list[ModelStatus]:
        """State of every model, for people; in the order of the documents."""
        by_model = {h.model: h for h in self.holders.values()}
        return [
            status_of(name, terms, by_model.get(name), self.failures.get(name), self._cache.get(name))
            for name, terms in self.terms.items()
        ]

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Switches under way and the last that ended, oldest first."""
        return self.ledger.switches()
