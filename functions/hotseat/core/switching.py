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
- what sleeps holds host memory only (see parking.py), and is told to only when nothing is in flight on it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from math import inf
from types import MappingProxyType

from hotseat.core import parking
from hotseat.core.demands import NOBODY, Demands
from hotseat.core.events import Emit, model_failed
from hotseat.core.granting import decide
from hotseat.core.groups import UNGROUPED, Groups
from hotseat.core.lessons import Lesson, Lessons, Recall
from hotseat.core.memory import Memory, unchanged
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    HolderAdopted,
    HolderFailed,
    HolderMeasured,
    HolderObserved,
    HolderParked,
    HolderReady,
    HolderReleased,
    HolderUnproven,
    Refusal,
    Residency,
    SeatState,
    SleepFailed,
    Start,
    Stop,
)
from hotseat.core.outlook import outlook
from hotseat.core.parking import Parking
from hotseat.core.placing import those_wanting
from hotseat.core.policy import NOTHING, Capacity, Claim, Decision, ModelView, Policy, View, Wish
from hotseat.core.prospects import Order, Prospects
from hotseat.core.rates import Rates
from hotseat.core.replicas import Replicas, next_number, replica_views, tidy
from hotseat.core.seats import (
    GOING,
    OCCUPIED,
    SLEEPING,
    Command,
    DemandReported,
    Enrolled,
    Holder,
    Load,
    ModelStatus,
    Pin,
    Publish,
    RouterLeft,
    Shutdown,
    Stimulus,
    Terms,
    TermsChanged,
    Tick,
    Unload,
    Unpin,
)
from hotseat.core.switches import Ledger, Switch
from hotseat.core.views import by_model, model_view, residents, statuses
from hotseat.core.wants import evicts_at
from hotseat.core.wishes import Wishes

OFFER = 5.0  # seconds within which routers hear that a model is ready, if they hear at all


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
    residency: Residency = field(default_factory=Residency)
    ledger: Ledger = field(init=False)
    prospects: Prospects = field(default_factory=Prospects)
    rates: Rates = field(default_factory=Rates)
    wishes: Wishes = field(default_factory=Wishes)
    memory: Memory = field(default_factory=Memory)
    replicas: Replicas = field(default_factory=Replicas)
    parking: Parking = field(init=False)
    recall: Recall = field(init=False)
    groups: Groups = UNGROUPED
    _demands: Demands = field(default_factory=Demands)
    _wakes: list[float] = field(default_factory=list)  # what this decision waits for
    _obliging: tuple[str, ...] = ()  # make room for a wish: nobody uses them
    _changed: bool = False
    _down: bool = False
    _out: list[Command] = field(default_factory=list)
    remembered: InitVar[Lessons] = MappingProxyType({})  # what an earlier run had learned

    def __post_init__(self, remembered: Lessons) -> None:
        self.ledger = Ledger(self.workspace, self.epoch)  # each switch is an epoch at least
        self.parking = Parking(self.ledger)
        self.recall = Recall(self.ledger.costs, self.memory, self.parking, dict(remembered))

    def step(self, stimulus: Stimulus) -> list[Command]:  # noqa: C901 — one arm a stimulus
        """Apply a stimulus, then decide."""
        now = stimulus.now
        self._out = []
        match stimulus:
            case DemandReported():
                self._note_demand(now, stimulus.demand)
            case Enrolled():
                self._demands.expect(stimulus.routers)
            case RouterLeft():
                self._note_use(self._demands.leave(stimulus.router), now)
            case TermsChanged():
                self._change_terms(stimulus)
            case Load() | Pin():
                self._order_load(now, stimulus.model, pin=isinstance(stimulus, Pin))
            case Unpin():
                self.wishes.unpin(stimulus.model, self.terms.get(stimulus.model))
            case Unload():
                self._order_unload(stimulus.model)
            case Shutdown():
                self._shut_down()
            case CacheObserved():
                self._note_cache(stimulus)
            case HolderAdopted():
                self._adopt(stimulus)
            case (
                HolderReady()
                | HolderFailed()
                | HolderReleased()
                | HolderUnproven()
                | HolderMeasured()
                | HolderParked()
                | SleepFailed()
            ):
                self._note_holder(stimulus)
            case Tick():
                pass
        self._decide(now)
        return self._out

    # What was said ----------------------------------------------------------------------------------------------------

    def _note_demand(self, now: float, demand: Demand) -> None:
        last = self._demands.newest(demand.router)
        used = self._demands.note(demand)
        if used is None:
            return
        self._note_use(used, now)
        self.rates.note(now, last, demand, {h.id: h.model for h in self.holders.values()})
        for holder in self.holders.values():
            if demand.served.get(holder.id, 0) > last.served.get(holder.id, 0):
                holder.dispatched = now
        for model in demand.requested:
            if model in self.terms and not self._serves(model):
                count = self._waiting(model)[0]
                data = {"model": model, "workspace": self.workspace, "waiting": count, "router": demand.router}
                self._out.append(Emit("switch.requested", model, data))

    def _note_use(self, holders: set[str], now: float) -> None:
        models = {self.holders[holder].model for holder in holders & self.holders.keys()}
        for holder in self.holders.values():
            if holder.id in holders or (holder.replica == 1 and holder.model in models):
                holder.last_used = now

    def _change_terms(self, s: TermsChanged) -> None:
        old, self.capacity, self._changed = self.terms, s.capacity, True
        self.groups = s.groups
        self.recall.follow(old, s.models)
        self.terms = self.memory.learnt(s.models, s.capacity)
        self.prospects.room_changed()
        self.parking.budget = s.capacity.host_memory
        held = {holder.model for holder in self.holders.values()}
        for holder in self.holders.values():
            new = s.models.get(holder.model)
            if holder.take_over(new) and new and not new.external:
                self.prospects.order(holder.model, s.now, may_evict=True)
        for name, terms in s.models.items():
            if terms.preload and name not in old and name not in held:
                self.prospects.order(name, s.now, may_evict=False)
            if name in old and old[name].fingerprint != terms.fingerprint:
                self.prospects.mended(name, s.now)
                self.parking.mended(name)
        for gone in old.keys() - s.models.keys():
            self.prospects.remove(gone)
            self.rates.forget(gone)
            self.parking.mended(gone)
        for name in self.wishes.follow(old, s.models):
            self._order_load(s.now, name)

    def _order_load(self, now: float, model: str, *, pin: bool = False) -> None:
        if model not in self.terms or self.terms[model].external:
            return
        holder = by_model(self.holders.values()).get(model)
        seated = holder and holder.staying and holder.state is not SeatState.PARKED
        if pin and not seated and (refusal := self._no_room(model, now)):
            self.prospects.refuse(model, refusal)  # it would be pinned for a seat that it can never have
            return
        self.wishes.ask(model, self.terms[model], pin=pin)
        self.prospects.retry(model, now)
        if holder is None or not holder.staying or holder.state is not SeatState.READY:
            self.prospects.order(model, now, may_evict=True)

    def _order_unload(self, model: str) -> None:
        if model not in self.terms or self.terms[model].external:
            return
        self.prospects.orders.pop(model, None)
        self.wishes.dismiss(model)
        for holder in self.holders.values():
            if holder.model == model:
                holder.leave("unloaded")
        if self._waiting(model)[0] or self._wanted(model) is not None:
            message = f"{model} was unloaded by an operator while this request waited"
            self.prospects.refuse(model, Refusal(self.epoch + 1, "unloaded", message))

    def _shut_down(self) -> None:
        self._down = True
        self.prospects.orders.clear()
        for holder in self.holders.values():
            if holder.state in OCCUPIED:
                holder.leaving = "shutdown"

    # What was seen ----------------------------------------------------------------------------------------------------

    def _note_cache(self, s: CacheObserved) -> None:
        self._out += self.prospects.note_cache(s)
        asked = s.model in self.prospects.orders or self._waiting(s.model)[0] or self._wanted(s.model) is not None
        terms = self.terms.get(s.model)
        if s.state is CacheState.FAILED and terms and (asked or terms.refuse_uncached):
            self._fail(s.now, s.model, None, "FetchFailed", s.message)

    def _adopt(self, s: HolderAdopted) -> None:
        if s.holder in self.holders:
            return
        terms = self.terms.get(s.model)
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
        if self._down:
            holder.leave("shutdown")
        elif holder.take_over(terms) and terms and not terms.external:
            self.prospects.order(s.model, s.now, may_evict=True)
        elif twins := [h for h in self.holders.values() if h.model == s.model and h.staying]:
            holder.replica = next_number(twins)
            holder.leaving = "duplicate" if len(twins) >= found.replicas else holder.leaving
        self.holders[s.holder] = holder
        self.epoch = max(self.epoch, s.epoch)
        self._changed = True

    def _note_holder(self, s: HolderObserved) -> None:
        holder = self.holders.get(s.holder)
        if holder is None or holder.epoch != s.epoch:
            return
        match s:
            case HolderReady():
                if holder.state in (SeatState.LOADING, SeatState.WAKING) and holder.turn == s.turn:
                    self._become_ready(holder, s)
            case HolderParked() | SleepFailed():
                self._say(self.parking.hear(holder, s))
            case HolderFailed():
                self._note_failure(holder, s.now, s.reason, s.message)
            case HolderReleased():
                # Where nobody told it to go and it did not say why: as good as a crash.
                self._note_failure(holder, s.now, "Vanished", "it ended without saying why")
                self._note_release(holder, s.now)
            case HolderUnproven():
                self._note_unproven(holder, s)
            case HolderMeasured():
                self._out += self.memory.note(holder, s.memory, self.capacity, lasting=self._is_of_today(holder))
                self.terms = self.memory.learnt(self.terms, self.capacity)

    def _is_of_today(self, holder: Holder) -> bool:
        """Whether it runs what its model's document says now: what is seen of another one tells nothing of it."""
        return unchanged(holder.terms, self.terms.get(holder.model))

    def _note_unproven(self, holder: Holder, s: HolderUnproven) -> None:
        if holder.state is SeatState.UNPROVEN:
            return
        self._note_failure(holder, s.now, "ReleaseUnproven", s.reason)
        self._go(holder, SeatState.UNPROVEN, s.now)
        holder.left = s.reason
        self._out.append(model_failed(holder.model, holder.id, "ReleaseUnproven", s.reason))
        self._out += self.ledger.failed_release(holder.seat, s.now, s.reason)

    def _become_ready(self, holder: Holder, s: HolderReady) -> None:
        seconds, woken = s.now - holder.since, holder.state is SeatState.WAKING
        holder.address, holder.last_used = s.address, s.now
        holder.ready_since, holder.ready_epoch = s.now, self.epoch + 1
        self._go(holder, SeatState.READY, s.now)
        self.prospects.fulfil(holder.model)
        self.replicas.succeeded(holder.model)
        if woken:
            self._out += self.parking.woken(holder, seconds)
        else:
            if not holder.halfway:
                self.ledger.costs.note_load(holder.model, seconds)
            holder.halfway = False
            self._out.append(Emit("model.ready", holder.model, {"holder": holder.id, "seconds": round(seconds, 4)}))
        self._out += self.ledger.ready(holder.seat, s.now)

    def _note_failure(self, holder: Holder, now: float, reason: str, message: str) -> None:
        if holder.state not in OCCUPIED:
            return  # it was told to go
        if holder.state in SLEEPING:
            self._say(self.parking.died(holder, now, reason, message))
            return
        was_ready = holder.ready_since is not None
        self._begin_release(holder, "failed", now)
        self._fail(now, holder.model, holder.id, reason, message, at_once=was_ready)

    def _note_release(self, holder: Holder, now: float) -> None:
        seconds = now - (holder.stop_asked if holder.stop_asked is not None else now)
        del self.holders[holder.id]
        self.memory.seen.pop(holder.id, None)
        self._changed = True
        if holder.state is SeatState.UNPROVEN or self.groups.stays(holder.model):
            self.prospects.room_changed()
        tells = holder.state is not SeatState.UNPROVEN and not holder.halfway and self._is_of_today(holder)
        if tells and holder.leaving != "failed" and not holder.asleep:
            self.ledger.costs.note_stop(holder.model, seconds)
        data = {"holder": holder.id, "reason": holder.leaving or "evicted", "seconds": round(seconds, 4)}
        self._out.append(Emit("model.released", holder.model, data))
        self.ledger.released(holder.seat, now)

    def _fail(
        self, now: float, model: str, holder: str | None, reason: str, message: str, *, at_once: bool = False
    ) -> None:
        delay = 0.0
        if holder is not None and self.holders[holder].replica > 1:
            self._out.append(model_failed(model, holder, reason, message, self.replicas.failed(model, now)))
            return
        if model in self.terms:
            delay = self.prospects.fail(now, model, reason, message, self.epoch + 1, at_once=at_once)
        self._out.append(model_failed(model, holder, reason, message, delay or None))
        self._out += self.ledger.failed(model, now, "load", reason, message)

    def _waiting(self, model: str) -> tuple[int, float]:
        """How many wait and since when; snapshots from before a refusal do not count: who waited then has been answered."""
        return self._demands.waiting(model, self.prospects.refused(model))

    def _wanted(self, model: str) -> float | None:
        """Since when it is wanted by requests that another model answered; None: it is not."""
        return self._demands.wanted(model, self.prospects.refused(model))

    def _order(self, model: str, holder: Holder | None, now: float) -> Order | None:
        """Find an order for it, or make one of the wish for it, which may evict once that costs no more than it brings."""
        order, since = self.prospects.orders.get(model), self._wanted(model)
        if since is None or (order and order.may_evict):
            return order
        if holder is not None or self.ledger.promised(model):
            return Order(since, may_evict=True)
        max_wait, holders, names = self.terms[model].max_wait, self.holders.values(), self.groups.names
        at = evicts_at(since, max_wait, holders, self.ledger.costs, self._unused, grouped=names)
        if at < inf:
            self._wakes.append(at)
        return Order(since, at <= now)

    def _unused(self, holder: Holder) -> bool:
        """Whether nobody needs it. A main holder is needed as long as a replica is: one that sleeps would take those with it."""
        mine = self.holders.values() if holder.replica == 1 and holder.terms.replicas > 1 else (holder,)
        busy = any(self._demands.in_flight(h.id) for h in mine if h.model == holder.model)
        return not busy and not self._waiting(holder.model)[0]

    def _serves(self, model: str) -> bool:
        ready = any(h.model == model and h.state is SeatState.READY for h in self.holders.values())
        return ready or bool(self.terms[model].external)

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        tidy(self.holders.values(), self.terms)
        self._wakes = self.wishes.look(now, self.terms, self.holders.values(), self.queue)
        self._out += self.wishes.news(self.holders.values(), self.prospects)
        for name, terms in self.terms.items():
            if terms.fetch_ahead:
                self._out += self.prospects.fetch(name, again=False)
        decision, hungry = self._ask_policy(now)
        self.effective_max_wait, self._obliging = decision.effective_max_wait, decision.obliging
        for holder in self.parking.in_order(self.holders.values()):
            wanted, cut_off = holder.seat in decision.resident, holder.seat in decision.cut_off
            self._steer(holder, now, wanted=wanted, cut_off=cut_off or holder.replica > 1)
            self._advance(holder, now)
        there = [h for h in self.holders.values() if h.state is not SeatState.PARKED]
        present = {name for h in there for name in (h.model, h.seat)}
        for model in decision.resident:
            if model not in present:
                self._start_if_free(model, now)
        if not hungry - present:
            self._add_replicas(now)
        self._out += self.ledger.abandon(present.union(decision.resident), now)
        if self._changed or self.prospects.changed:
            self._publish(now)
        if decision.look_again is not None:
            self._wakes.append(decision.look_again)
        self.wake_at = min((wake for wake in self._wakes if wake > now), default=None)

    def _ask_policy(self, now: float) -> tuple[Decision, set[str]]:
        """Ask who should be resident; also gives those for whom somebody waits without a seat."""
        main = by_model(self.holders.values())
        views: list[ModelView] = []
        show = partial(model_view, ledger=self.ledger, rates=self.rates, now=now, capacity=self.capacity)
        for name, terms in self.terms.items():
            waiting, mine = self._waiting(name), main.get(name)
            if mine and mine.state is SeatState.PARKED and mine.staying:
                mine = None  # it holds nothing, and comes back as others come
            order, wish = self._order(name, mine, now), self.wishes.wish(name, terms, now)
            if terms.external or (mine is None and not waiting[0] and order is None and not wish):
                continue
            in_flight = self._demands.in_flight(mine.id) if mine else 0
            waiters = self._demands.waiters(name, self.prospects.refused(name)) if waiting[0] else NOBODY
            view = show(
                name, terms, mine, waiting=waiting, order=order, in_flight=in_flight, waiters=waiters, wish=wish
            )
            if (view.waiting or wish) and not (mine and mine.staying) and not self._loadable(name, now):
                view = replace(view, waiting=0, wish=Wish.NONE)
            views.append(view)
            if terms.replicas > 1:
                views += replica_views(view, self.holders.values(), self.capacity)
        seen = {view.name for view in views}
        for holder in self.holders.values():
            if holder.state is SeatState.PARKED:
                continue
            if holder.seat not in seen or not (holder.staying or main.get(holder.model) is holder):
                claim = holder.occupied(self.capacity)
                views.append(ModelView(holder.seat, claim, seat=holder.state, leaving=True, asleep=holder.asleep))
        shown = View(now, self.capacity, tuple(views), self.groups)
        decision = decide(self.policy, shown)
        self.parking.needed, self.parking.waited_for = decision.resident, {v.name for v in views if v.waiting}
        wished = [m for m in views if m.wish and (m.seat is None or m.leaving)]
        # A preload that found no room would keep replicas out for ever, and is nobody who waits.
        waiting_ones = [m for m in those_wanting(shown) if m.may_evict]
        return decision, {m.name for m in (*waiting_ones, *wished)}

    def _add_replicas(self, now: float) -> None:
        """Start more engines of models whose own are all full. Only where nobody else waits for a seat."""
        holders = list(self.holders.values())
        for name, number in self.replicas.wanted(self.terms, holders, self._demands, now, self._wakes):
            terms = self.terms[name]
            devices = self._place(name)
            if devices is not None and self.prospects.cached(name):
                self._start(name, terms, devices, now, replica=number)

    def _loadable(self, model: str, now: float) -> bool:
        """Whether a start could succeed now; if not, see to it that it can, or that those who wait are told."""
        if self._down:
            return False
        if (retry_at := self.prospects.retry_at(model)) > now:
            self._wakes.append(retry_at)
            return False
        if refusal := self._no_room(model, now):
            if self.prospects.orders.pop(model, None) or self._waiting(model)[0]:
                self.prospects.refuse(model, refusal)
            return False
        self._out += self.prospects.fetch(model)
        if self.terms[model].refuse_uncached and self._waiting(model)[0]:
            self.prospects.refuse_uncached(model, now, self.epoch + 1)
        return self.prospects.cached(model)

    def _no_room(self, model: str, now: float) -> Refusal | None:
        """Say why no switch could make room for it, if that is so."""
        claim, holders, at = self.terms[model].claim, self.holders.values(), self.epoch + 1
        capacity = replace(self.capacity, away=())  # they are coming
        return self.wishes.no_room(model, claim, capacity, holders, now=now, epoch=at, groups=self.groups)

    def _steer(self, holder: Holder, now: float, *, wanted: bool, cut_off: bool) -> None:
        """Start taking it off, or keep it after all. `cut_off`: what waits for it is not of this turn."""
        if holder.state not in OCCUPIED or (holder.state in SLEEPING and not holder.leaving):
            return
        if holder.leaving or not wanted or self._idle_out(holder, now):
            if holder.state in (SeatState.LOADING, *SLEEPING):
                code = (holder.leaving or "abandoned").capitalize()
                self._out += self.ledger.failed(holder.seat, now, "load", code, "it was stopped while it loaded")
                self._stop(holder, now)
            elif holder.state is SeatState.READY and (holder.leaving or self._offered(holder, now)):
                self.ledger.leaving(holder.seat, now)
                self._go(holder, SeatState.DRAINING if cut_off else SeatState.CLOSING, now)
                holder.closing_since, holder.closing_epoch = now, self.epoch + 1
        elif holder.state in GOING:
            self.ledger.stays(holder.seat)
            self._go(holder, SeatState.READY, now)

    def _offered(self, holder: Holder, now: float) -> bool:
        """Whether its turn has begun: before what waited for it has been sent, closing it would make the load futile."""
        if self._demands.all_saw(holder.ready_epoch):
            return True
        until = (holder.ready_since or 0.0) + OFFER
        self._wakes.append(until)
        return now >= until

    def _idle_out(self, holder: Holder, now: float) -> bool:
        """Whether nobody has used it for its idle timeout."""
        until = holder.idle_until
        if until is None or not self._unused(holder) or self.wishes.stays_idle(holder):
            return False
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
        elif due := parking.deadline(holder):
            self._wakes.append(due)
            self._say(self.parking.give_up(holder, now) if now >= due else [])
        elif holder.state in GOING:
            until, idle = holder.drain_until, self._idle_out(holder, now)
            if idle or holder.seat in self._obliging:  # nobody waits for its seat: a request that comes now is served
                until = max(until, holder.closing_since + OFFER)
            self._wakes.append(until)
            owes = holder.replica == 1 and self._demands.closing(holder.model)
            closed = self._demands.all_saw(holder.closing_epoch) and not owes
            drained = closed and not self._demands.in_flight(holder.id)
            parks = drained and self.parking.parks(holder, self.holders.values(), now)
            if parks:
                self.prospects.forgive(holder.model, holder.ready_since, now)
                self._say(self.parking.fall_asleep(holder, now))
                self._wakes.append(now + holder.terms.stop_timeout)
            elif now >= until or (drained and parks is False):
                self._stop(holder, now, "idle" if idle else "evicted")
            elif closed and holder.state is SeatState.CLOSING:
                self._go(holder, SeatState.DRAINING, now)

    def _stop(self, holder: Holder, now: float, why: str = "evicted") -> None:
        if holder.state is SeatState.DRAINING:
            self.ledger.costs.note_drain(holder.model, now - holder.since)
        self._begin_release(holder, holder.leaving or why, now)
        self._out.append(Stop(holder.model, holder.id, holder.epoch, holder.terms.stop_timeout))

    def _begin_release(self, holder: Holder, why: str, now: float) -> None:
        self.prospects.forgive(holder.model, holder.ready_since, now)
        self.ledger.stopping(holder.seat, now)
        holder.leaving, holder.stop_asked = why, now
        self._go(holder, SeatState.RELEASING, now)

    def _held(self) -> Claim:
        return sum((h.occupied(self.capacity) for h in self.holders.values()), NOTHING)

    def _start_if_free(self, model: str, now: float) -> None:
        """Note that it is next, and start it if everything that is left leaves room for it."""
        terms = self.terms[model]
        sleeper = parking.sleeper(model, self.holders.values())
        devices = self._place(model, sleeper)
        free = devices is not None
        waiting, oldest = self._waiting(model)
        order = self.prospects.orders.get(model)
        wanted = self._wanted(model)
        asked = (oldest if waiting else None, order.since if order else None, wanted)
        requested = min((since for since in asked if since is not None), default=now)
        gone = () if free else (*GOING, SeatState.PARKING, SeatState.RELEASING, SeatState.UNPROVEN)
        leaving = [h.seat for h in self.holders.values() if h.state in gone and not h.asleep]
        if not free and not leaving:
            return  # whoever is to make room has to begin its own turn first
        reason = (
            "demand" if waiting or wanted is not None else "ordered" if order else self.wishes.reason(model, terms, now)
        )
        self._out += self.ledger.decided(model, now, requested, leaving=leaving, waiting=waiting, reason=reason)
        if devices is None:
            return
        if sleeper is None:
            self.ledger.starting(model, now)
            self._start(model, terms, devices, now)
        elif sleeper.devices == devices:
            self._say(self.parking.wake(sleeper, terms, now))
            self._wakes.append(now + terms.start_timeout)
        else:
            self._stop(sleeper, now, "misplaced")  # its GPUs are others' now, and it can go to no other ones

    def _place(self, model: str, sleeper: Holder | None = None) -> tuple[str, ...] | None:
        """Find room for a model: on the GPUs that its engine slept on, where they are free; else on any. None: it may not start."""
        if not self.groups.allows(model, (h.model for h in self.holders.values() if not h.asleep)):
            return None
        claim, held = self.terms[model].claim, self._held()
        own = claim.placed(sleeper.devices, self.capacity) if sleeper else claim
        devices = own.place(held, self.capacity)
        return devices if devices is not None or sleeper is None else claim.place(held, self.capacity)

    def _start(self, model: str, terms: Terms, devices: tuple[str, ...], now: float, *, replica: int = 1) -> None:
        epoch = self.epoch + 1
        # With the Workspace's name: one runtime may serve several, and a model can move from one to another.
        name = f"{self.workspace}/{model}@{epoch}"
        holder = Holder(
            model, name, epoch, SeatState.LOADING, now, terms, last_used=now, devices=devices, replica=replica
        )
        self.holders[name] = holder
        self._out.append(Start(model, name, epoch, devices))
        self._wakes.append(now + terms.start_timeout)
        self._publish(now)  # an epoch of its own: it is the holder's identity

    def _say(self, commands: list[Command]) -> None:
        """Tell what has been done to a holder, and then who holds what."""
        self._out += commands
        self._changed = self._changed or bool(commands)

    def _go(self, holder: Holder, state: SeatState, now: float) -> None:
        holder.state, holder.since = state, now
        self._changed = True

    def _publish(self, now: float) -> None:
        self.epoch += 1
        who, refusals = residents(self.holders.values(), self.terms), dict(self.prospects.refusals)
        soonest = outlook(now, self.terms, self.holders.values(), self.ledger.costs, self.capacity)
        self.residency = Residency(self.epoch, who, refusals, self.effective_max_wait, soonest, now)
        self._changed = self.prospects.changed = False
        self._out.append(Publish(self.residency))

    # Reading ----------------------------------------------------------------------------------------------------------

    def status(self) -> list[ModelStatus]:
        """State of every model, for people; in the order of the documents."""
        holders = by_model(self.holders.values())
        return statuses(self.terms, holders, self.prospects, self.wishes.pinned)

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """By model: how many wait at all routers, since when, and how many requests are in flight; those with neither are left out."""
        held = Counter[str]()
        for h in self.holders.values():
            held[h.model] += self._demands.in_flight(h.id)
        rows = {name: (*self._waiting(name), held[name]) for name in self.terms}
        return {name: row for name, row in rows.items() if row[0] or row[2]}

    def lessons(self) -> dict[str, Lesson]:
        """Give what was learned of each model, to begin the next run with."""
        return self.recall.lessons(self.terms)

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Switches under way and the last that ended, oldest first."""
        return self.ledger.switches()
