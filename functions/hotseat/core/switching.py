"""Switching: which models are resident in one Workspace, and every step between. Pure.

Demand, observations of the runtime and operators' orders come in; commands to the runtime, a new Residency and events go out.
It is level-triggered: after every stimulus it looks at the whole of what it knows and moves each holder one step towards what
the policy wants. Invariants (tests/unit/test_switching_machine.py):

- what holders claim, known to be ready or not yet proven gone, never exceeds the capacity;
- a model starts only when no earlier holder of it is left;
- an observation about another epoch than the holder's changes nothing;
- a model that is wanted and can be loaded is eventually loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hotseat.core.events import Emit
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
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
)
from hotseat.core.switches import Ledger, Switch

MAX_BACKOFF = 300.0  # seconds
STABLE = 60.0  # a holder that was ready for so long has wiped out earlier failures
UNPROVEN_RETRY = 10.0


_LEFT_TO_POLICY = (SeatState.LOADING, SeatState.READY, SeatState.CLOSING, SeatState.DRAINING)
_GOING = (SeatState.CLOSING, SeatState.DRAINING)


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
    _demand: dict[str, Demand] = field(default_factory=dict)  # by router
    _cache: dict[str, CacheObserved] = field(default_factory=dict)
    _wanted: dict[str, tuple[float, bool]] = field(
        default_factory=dict
    )  # by model: since when, and whether it may evict
    _refusals: dict[str, Refusal] = field(default_factory=dict)
    _changed: bool = False
    _down: bool = False
    _out: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.workspace)

    def step(self, stimulus: Stimulus) -> list[Command]:  # noqa: C901 — one arm a stimulus
        """Apply a stimulus, then decide."""
        now = stimulus.now
        self._out = []
        match stimulus:
            case DemandReported():
                self._note_demand(now, stimulus.demand)
            case RouterLeft():
                self._demand.pop(stimulus.router, None)
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

    def _note_demand(self, now: float, demand: Demand) -> None:
        last = self._demand.get(demand.router)
        if last is not None and demand.seq <= last.seq:
            return
        busy = {holder.id for holder in self.holders.values() if self._in_flight(holder)}
        self._demand[demand.router] = demand
        for holder in self.holders.values():
            served = sum(d.served.get(holder.id, 0) for d in self._demand.values())
            if served != holder.served or holder.id in busy or self._in_flight(holder):
                holder.served, holder.last_used = served, now
        for model in demand.requested:
            if model in self.terms and not self._serves(model):
                count = self._waiting(model)[0]
                data = {"model": model, "workspace": self.workspace, "waiting": count, "router": demand.router}
                self._out.append(Emit("switch.requested", model, data))

    def _change_terms(self, s: TermsChanged) -> None:
        first = not self.terms
        old, self.terms, self.capacity, self._changed = self.terms, s.models, s.capacity, True
        for holder in self.holders.values():
            new = s.models.get(holder.model)
            if new is None:
                holder.leaving = "removed"
            elif new.fingerprint != holder.terms.fingerprint:
                if holder.leaving is None and holder.state is not SeatState.RELEASING:
                    self._wanted[holder.model] = (s.now, True)
                holder.leaving = "changed"
            else:
                holder.terms = new
        for name, terms in s.models.items():
            if terms.preload and (first or name not in old):
                self._wanted[name] = (s.now, False)
            if name in old and old[name].fingerprint != terms.fingerprint:
                self._forget(name)  # the mistake may have been mended
        for gone in set(old) - set(s.models):
            self._forget(gone)
            self._wanted.pop(gone, None)

    def _forget(self, model: str) -> None:
        self.failures.pop(model, None)
        self._refusals.pop(model, None)
        self._cache.pop(model, None)

    def _order_load(self, now: float, model: str) -> None:
        if model not in self.terms:
            return
        if failure := self.failures.get(model):
            failure.retry_at = now
        if self._refusals.pop(model, None):
            self._changed = True
        if not any(
            h.model == model and h.state in (SeatState.LOADING, SeatState.READY) and not h.leaving
            for h in self.holders.values()
        ):
            self._wanted[model] = (now, True)

    def _order_unload(self, model: str) -> None:
        self._wanted.pop(model, None)
        for holder in self.holders.values():
            if holder.model == model:
                holder.leaving = holder.leaving or "unloaded"
        if self._waiting(model)[0]:
            self._refuse(model, "unloaded", f"{model} was unloaded by an operator while this request waited", None)

    def _shut_down(self) -> None:
        self._down = True
        self._wanted.clear()
        for holder in self.holders.values():
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
        terms = self.terms.get(s.model, Terms())
        state = SeatState.READY if s.address else SeatState.LOADING
        holder = Holder(s.model, s.holder, s.epoch, state, s.now, terms, s.address, last_used=s.now)
        holder.leaving = None if s.model in self.terms else "removed"
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
                self._note_failure(holder, s)
            case HolderReleased():
                self._note_release(holder, s.now)
            case HolderUnproven():
                self._go(holder, SeatState.UNPROVEN, s.now)
                data = {"holder": holder.id, "reason": "ReleaseUnproven", "message": s.reason, "retry_after": None}
                self._out.append(Emit("model.failed", holder.model, data))
                self._out += self.ledger.failed_release(holder.model, s.now, s.reason)

    def _become_ready(self, holder: Holder, s: HolderReady) -> None:
        seconds = s.now - holder.since
        holder.address = s.address
        holder.last_used = s.now
        self._go(holder, SeatState.READY, s.now)
        self._wanted.pop(holder.model, None)
        self._refusals.pop(holder.model, None)
        self.ledger.costs.note_load(holder.model, seconds)
        self._out.append(Emit("model.ready", holder.model, {"holder": holder.id, "seconds": round(seconds, 4)}))
        self._out += self.ledger.ready(holder.model, s.now)

    def _note_failure(self, holder: Holder, s: HolderFailed) -> None:
        if holder.state in (SeatState.RELEASING, SeatState.UNPROVEN):
            return  # it was told to go
        if holder.state is not SeatState.LOADING and s.now - holder.since >= STABLE:
            self.failures.pop(holder.model, None)
        loading = holder.state is SeatState.LOADING
        self._go(holder, SeatState.RELEASING, s.now)
        holder.leaving, holder.stop_asked = "failed", s.now
        self._fail(s.now, holder.model, holder.id, s.reason, s.message, at_once=not loading)

    def _note_release(self, holder: Holder, now: float) -> None:
        if holder.state not in (SeatState.RELEASING, SeatState.UNPROVEN):
            # It vanished without a word: as good as a crash.
            self._note_failure(
                holder, HolderFailed(now, holder.id, holder.epoch, "Vanished", "it ended without saying why")
            )
        seconds = now - (holder.stop_asked if holder.stop_asked is not None else now)
        del self.holders[holder.id]
        self._changed = True
        if holder.leaving not in ("failed", None):
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
        delay = 0.0 if exponent < 0 else min(MAX_BACKOFF, 2.0**exponent)
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
        since = refusal.epoch if refusal else -1
        rows = [d.waiting[model] for d in self._demand.values() if model in d.waiting and d.seen_epoch >= since]
        return sum(w.count for w in rows), min((w.oldest for w in rows), default=0.0)

    def _in_flight(self, holder: Holder) -> int:
        return sum(d.in_flight.get(holder.id, 0) for d in self._demand.values())

    def _asked_for(self, model: str) -> bool:
        return bool(self._waiting(model)[0]) or model in self._wanted

    def _serves(self, model: str) -> bool:
        return bool(self.terms[model].external) or any(
            h.model == model and h.state is SeatState.READY for h in self.holders.values()
        )

    def _quiet(self, holder: Holder) -> bool:
        return not self._in_flight(holder) and not self._waiting(holder.model)[0]

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        wakes: list[float | None] = []
        decision = self._ask_policy(now, wakes)
        for holder in list(self.holders.values()):
            self._steer(holder, holder.model in decision.resident, now)
        for holder in list(self.holders.values()):
            self._advance(holder, now, wakes)
        for model in decision.resident:
            if not any(h.model == model for h in self.holders.values()):
                self._start_if_free(model, now)
        self._out += self.ledger.abandon(set(decision.resident) | {h.model for h in self.holders.values()}, now)
        self.effective_max_wait = decision.effective_max_wait
        if self._changed:
            self._publish()
        self.wake_at = min((w for w in (*wakes, decision.look_again) if w is not None and w > now), default=None)

    def _ask_policy(self, now: float, wakes: list[float | None]) -> Decision:
        views: list[ModelView] = []
        by_model = {h.model: h for h in self.holders.values()}
        for name, terms in self.terms.items():
            if terms.external:
                continue
            holder = by_model.pop(name, None)
            waiting, oldest = self._waiting(name)
            may_evict = True
            if name in self._wanted and holder is None:
                since, may_evict = self._wanted[name]
                may_evict = may_evict or waiting > 0
                waiting, oldest = waiting + 1, min(oldest, since) if waiting else since
            if holder is None or holder.leaving:
                waiting = waiting if self._loadable(name, now, wakes, asked=waiting > 0) else 0
            if holder is not None or waiting:
                views.append(self._view(name, terms, holder, waiting, oldest, may_evict=may_evict))
        views += [
            self._view(h.model, h.terms, h, 0, 0.0) for h in by_model.values()
        ]  # removed models that still hold a seat
        return self.policy.decide(View(now, self.capacity, tuple(views)))

    def _view(
        self, name: str, terms: Terms, holder: Holder | None, waiting: int, oldest: float, *, may_evict: bool = True
    ) -> ModelView:
        return ModelView(
            name=name,
            claim=holder.terms.claim if holder else terms.claim,
            priority=terms.priority,
            max_wait=terms.max_wait,
            min_residency=terms.min_residency,
            waiting=waiting,
            oldest=oldest,
            in_flight=self._in_flight(holder) if holder else 0,
            seat=holder.state if holder else None,
            leaving=holder is not None and (bool(holder.leaving) or holder.state not in _LEFT_TO_POLICY),
            since=holder.since if holder else 0.0,
            last_used=holder.last_used if holder else 0.0,
            may_evict=may_evict,
            switch_cost=self.ledger.costs.of(name),
        )

    def _loadable(self, model: str, now: float, wakes: list[float | None], *, asked: bool) -> bool:
        """Whether a start could succeed now; if not, see to it that it can, or that those who wait are told."""
        if self._down or not asked:
            return False
        terms, failure, cache = self.terms[model], self.failures.get(model), self._cache.get(model)
        if failure is not None and failure.retry_at > now:
            wakes.append(failure.retry_at)
            return False
        if cache is None or cache.state in (CacheState.ABSENT, CacheState.FAILED):
            if cache is not None:
                self._cache[model] = replace(cache, state=CacheState.FETCHING, message="asked for")
                self._out.append(Fetch(model))
            return False
        if cache.state is CacheState.FETCHING:
            return False
        stuck = sum((h.terms.claim for h in self.holders.values() if h.state is SeatState.UNPROVEN), NOTHING)
        if not (stuck + terms.claim).fits(self.capacity):
            if self._waiting(model)[0]:
                message = "the seat could not be proven free; a person has to look: hotseat ps"
                self._refuse(model, "release_unproven", message, now + UNPROVEN_RETRY)
            return False
        return True

    def _steer(self, holder: Holder, wanted: bool, now: float) -> None:
        """Start taking it off, or keep it after all."""
        if holder.state not in _LEFT_TO_POLICY:
            return
        idle_out = (
            holder.terms.idle_timeout > 0
            and holder.state is not SeatState.LOADING
            and self._quiet(holder)
            and now - holder.last_used >= holder.terms.idle_timeout
        )
        if holder.leaving or idle_out or not wanted:
            if holder.state is SeatState.LOADING:
                self._stop(holder, now)
            elif holder.state is SeatState.READY:
                self.ledger.leaving(holder.model, now)
                self._go(holder, SeatState.CLOSING, now)
        elif holder.state in _GOING:
            self.ledger.stays(holder.model)
            self._go(holder, SeatState.READY, now)

    def _advance(self, holder: Holder, now: float, wakes: list[float | None]) -> None:
        """Move it on as far as what routers have seen allows."""
        terms = holder.terms
        if holder.state is SeatState.LOADING:
            deadline = holder.since + terms.start_timeout
            wakes.append(deadline)
            if now >= deadline:
                holder.leaving = "failed"
                self._stop(holder, now)
                reason = f"not ready within {terms.start_timeout:g} s"
                self._fail(now, holder.model, holder.id, "StartTimeout", reason)
        if holder.state is SeatState.CLOSING and self._all_saw(holder) and not self._closing_batch(holder):
            started = holder.since
            self._go(holder, SeatState.DRAINING, now)
            holder.since = started  # the deadline counts from the decision
        if holder.state in _GOING:
            deadline = holder.since + terms.drain_timeout
            wakes.append(deadline)
            drained = holder.state is SeatState.DRAINING and self._all_saw(holder) and not self._in_flight(holder)
            if drained or now >= deadline:
                self._stop(holder, now)
        if holder.state is SeatState.READY and terms.idle_timeout > 0 and self._quiet(holder):
            wakes.append(holder.last_used + terms.idle_timeout)

    def _all_saw(self, holder: Holder) -> bool:
        return all(d.seen_epoch >= holder.seen_by for d in self._demand.values())

    def _closing_batch(self, holder: Holder) -> int:
        return sum(d.closing.get(holder.model, 0) for d in self._demand.values())

    def _stop(self, holder: Holder, now: float) -> None:
        self.ledger.stopping(holder.model, now)
        holder.stop_asked = now
        holder.leaving = holder.leaving or "evicted"
        self._go(holder, SeatState.RELEASING, now)
        self._out.append(Stop(holder.model, holder.id, holder.epoch, holder.terms.stop_timeout))

    def _start_if_free(self, model: str, now: float) -> None:
        terms = self.terms[model]
        held = sum((h.terms.claim for h in self.holders.values()), NOTHING)
        waiting, oldest = self._waiting(model)
        since = min(oldest, self._wanted[model][0]) if waiting and model in self._wanted else oldest if waiting else now
        leaving = [h.model for h in self.holders.values() if h.state in (*_GOING, SeatState.RELEASING)]
        self._out += self.ledger.decided(
            model, now, since, leaving=leaving, waiting=waiting, reason="demand" if waiting else "ordered"
        )
        if not (held + terms.claim).fits(self.capacity):
            return
        epoch = self.epoch + 1
        holder = Holder(model, f"{self.workspace}/{model}@{epoch}", epoch, SeatState.LOADING, now, terms, last_used=now)
        self.holders[holder.id] = holder
        self._changed = True
        self.ledger.starting(model, now)
        self._out.append(Start(model, holder.id, epoch))
        self._publish()  # an epoch of its own: it is the holder's identity

    def _go(self, holder: Holder, state: SeatState, now: float) -> None:
        holder.enter(state, now, self.epoch + 1)
        self._changed = True

    def _publish(self) -> None:
        self.epoch += 1
        residents = [
            Resident(h.model, h.id, h.state, h.epoch, h.since, h.address, h.leaving) for h in self.holders.values()
        ]
        residents += [
            Resident(name, f"{name}@external", SeatState.READY, 0, 0.0, terms.external)
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
        return [self._status(name, terms, by_model.get(name)) for name, terms in self.terms.items()]

    def _status(self, name: str, terms: Terms, holder: Holder | None) -> ModelStatus:
        failure, cache = self.failures.get(name), self._cache.get(name)
        if terms.external:
            return ModelStatus(name, SeatState.READY.value)
        if holder is not None and not (holder.leaving == "failed" and holder.state is SeatState.RELEASING):
            return ModelStatus(name, holder.state.value, holder.since)
        if failure is not None:
            return ModelStatus(name, "failed", None, f"{failure.reason}: {failure.message}", retry_at=failure.retry_at)
        if cache is not None and cache.state is CacheState.FETCHING:
            return ModelStatus(name, "fetching", cache.now, cache.message, cache.done, cache.total)
        if cache is not None and cache.state is CacheState.FAILED:
            return ModelStatus(name, "failed", None, cache.message)
        return ModelStatus(name, "unloaded")

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Switches under way and the last that ended, oldest first."""
        return self.ledger.switches()
