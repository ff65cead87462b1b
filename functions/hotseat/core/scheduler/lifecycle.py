"""How instances come onto the accelerator and leave it: which are started, woken, drained, stopped and put to sleep. Pure.

A switch is noted, and once there is room an engine is started, or woken. A model starts only where it fits beside all that is not
proven gone, and no earlier holder of it is left, but for replicas.

READY → CLOSING (serves the batch that routers held) → DRAINING (what is in flight may finish) → RELEASING, or PARKING. Before the
drain deadline a holder goes on from there only when every router has seen that it closes and reports nothing in flight.
"""

from collections.abc import Collection
from dataclasses import dataclass

from hotseat.core.messages import InstanceState, Start, Stop
from hotseat.core.policy.api import Decision
from hotseat.core.scheduler.instance import ACTIVE_STATES, DRAINING_STATES, SLEEP_STATES, Instance, Trigger
from hotseat.core.scheduler.parts import Parts

ROUTER_SYNC_TIMEOUT = 5.0  # seconds within which routers hear that a model is ready, if they hear at all


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Brings instances onto the accelerator, and takes them off."""

    parts: Parts

    # How they leave ---------------------------------------------------------------------------------------------------

    def steer(self, holder: Instance, now: float, *, wanted: bool, cut_off: bool) -> None:
        """Start taking it off, or keep it after all. `cut_off`: what waits for it is not of this turn."""
        if holder.state not in ACTIVE_STATES or (holder.state in SLEEP_STATES and not holder.leaving):
            return
        if holder.leaving or not wanted or self._idle_out(holder, now):
            if holder.state in (InstanceState.LOADING, *SLEEP_STATES):
                code = (holder.leaving or "abandoned").capitalize()
                message = f"the load of {holder.model} was cancelled after {now - holder.since:.1f} s"
                self.parts.out.tell(*self.parts.ledger.cancelled(holder.seat, now, "load", code, message))
                self.stop(holder, now)
            elif holder.state is InstanceState.READY and (holder.leaving or self._offered(holder, now)):
                self.parts.ledger.leaving(holder.seat, now)
                why = holder.leaving or ("not wanted" if not wanted else "idle")
                self.parts.seating.go(holder, Trigger.CUT_OFF if cut_off else Trigger.QUIESCE, now, why)
                holder.closing_since, holder.closing_epoch = now, self.parts.out.next_epoch
        elif holder.state in DRAINING_STATES:
            self.parts.ledger.stays(holder.seat)
            self.parts.seating.go(holder, Trigger.KEPT, now)

    def drain(self, holder: Instance, now: float, decision: Decision, waited_for: Collection[str]) -> None:
        """Move one that is closing or draining on as far as time and what routers have seen allow.

        `waited_for` are models that requests wait for.
        """
        demands = self.parts.traffic.demands
        until, idle = holder.drain_until, self._idle_out(holder, now)
        if idle or holder.seat in decision.obliging:  # nobody waits for its seat: a request that comes now is served
            until = max(until, holder.closing_since + ROUTER_SYNC_TIMEOUT)
        self.parts.out.wake(until)
        owes = holder.replica == 1 and demands.closing(holder.model)
        closed = demands.all_saw(holder.closing_epoch) and not owes
        drained = closed and not demands.in_flight(holder.id)
        parks = drained and self.parts.parking.parks(holder, now, decision.resident, waited_for)
        if parks:
            self.parts.traffic.forgive(holder, now)
            self.parts.out.tell(*self.parts.parking.fall_asleep(holder, now))
            self.parts.out.wake(now + holder.terms.stop_timeout)
        elif now >= until or (drained and parks is False):
            self.stop(holder, now, "idle" if idle else "evicted")
        elif closed and holder.state is InstanceState.CLOSING:
            self.parts.seating.go(holder, Trigger.BATCH_SERVED, now)

    def stop(self, holder: Instance, now: float, why: str = "evicted") -> None:
        """Tell it to stop; `why`, where nothing was said before."""
        if holder.state is InstanceState.DRAINING:
            self.parts.ledger.costs.note_drain(holder.model, now - holder.since)
        self._release(holder, now, holder.leaving or why, Trigger.STOP)
        self._tell_stop(holder)

    def fail(self, holder: Instance, now: float, reason: str, *, lives: bool) -> None:
        """Note that it has ended or, where it `lives`, tell it to: it is of no use any more. `reason` is for its story."""
        if lives and holder.state is InstanceState.DRAINING:
            self.parts.ledger.costs.note_drain(holder.model, now - holder.since)
        self._release(holder, now, (lives and holder.leaving) or "failed", Trigger.FAILED, reason)
        if lives:
            self._tell_stop(holder)

    def _tell_stop(self, holder: Instance) -> None:
        self.parts.out.tell(Stop(holder.model, holder.id, holder.epoch, holder.terms.stop_timeout))

    def _release(self, holder: Instance, now: float, why: str, trigger: Trigger, detail: str = "") -> None:
        """Note that it is on its way off, told or by itself; it keeps its seat until it is proven gone."""
        self.parts.traffic.forgive(holder, now)
        self.parts.ledger.stopping(holder.seat, now)
        holder.leaving, holder.stop_asked = why, now
        self.parts.seating.go(holder, trigger, now, detail or why)

    def _offered(self, holder: Instance, now: float) -> bool:
        """Whether its turn has begun: before what waited for it has been sent, closing it would make the load futile."""
        if self.parts.traffic.demands.all_saw(holder.ready_epoch):
            return True
        until = (holder.ready_since or 0.0) + ROUTER_SYNC_TIMEOUT
        self.parts.out.wake(until)
        return now >= until

    def _idle_out(self, holder: Instance, now: float) -> bool:
        """Whether nobody has used it for its idle timeout."""
        until = holder.idle_until
        if until is None or not self.parts.traffic.unused(holder) or self.parts.wishes.stays_idle(holder):
            return False
        self.parts.out.wake(until)
        return now >= until

    # How they come ----------------------------------------------------------------------------------------------------

    def start_if_free(self, model: str, now: float, max_wait: float | None) -> None:
        """Note that it is next, and start it if everything that is left leaves room for it.

        `max_wait` is the bound on waiting in force, in seconds, which is published with a start.
        """
        terms = self.parts.seating.terms[model]
        asleep = self.parts.seating.holders.sleeper(model)
        devices = self.parts.seating.place(model, asleep)
        free = devices is not None
        gone = (
            () if free else (*DRAINING_STATES, InstanceState.PARKING, InstanceState.RELEASING, InstanceState.UNPROVEN)
        )
        leaving = [h.seat for h in self.parts.seating.holders.values() if h.state in gone and not h.asleep]
        if not free and not leaving:
            return  # whoever is to make room has to begin its own turn first
        self._note_switch(model, now, leaving)
        if devices is None:
            return
        if asleep is None:
            self.parts.ledger.starting(model, now)
            self._start(model, devices, now, max_wait)
        elif asleep.devices == devices:
            self.parts.out.tell(*self.parts.parking.wake(asleep, terms, now))
            self.parts.out.wake(now + terms.start_timeout)
        else:
            self.stop(asleep, now, "misplaced")  # its GPUs are others' now, and it can go to no other ones

    def add_replicas(self, now: float, max_wait: float | None) -> None:
        """Start more engines of models whose own are all full. Only where nobody else waits for a seat."""
        parts = self.parts
        wanted, later = parts.replicas.wanted(parts.seating.terms, parts.seating.holders, parts.traffic.demands, now)
        parts.out.wake(*later)
        for name, number in wanted:
            devices = parts.seating.place(name)
            if devices is not None and parts.prospects.cached(name):
                self._start(name, devices, now, max_wait, replica=number)

    def _note_switch(self, model: str, now: float, leaving: list[str]) -> None:
        """Note the switch, with who asked for it and since when."""
        waiting, oldest = self.parts.traffic.waiting(model)
        order, wanted = self.parts.prospects.orders.get(model), self.parts.traffic.wanted(model)
        asked = (oldest if waiting else None, order.since if order else None, wanted)
        requested = min((since for since in asked if since is not None), default=now)
        if waiting or wanted is not None:
            reason = "demand"
        else:
            reason = "ordered" if order else self.parts.wishes.reason(model, self.parts.seating.terms[model], now)
        noted = self.parts.ledger.decided(model, now, requested, leaving=leaving, waiting=waiting, reason=reason)
        self.parts.out.tell(*noted)

    def _start(
        self, model: str, devices: tuple[str, ...], now: float, max_wait: float | None, *, replica: int = 1
    ) -> None:
        self.parts.prospects.checks.pop(model, None)
        epoch, terms = self.parts.out.next_epoch, self.parts.seating.terms[model]
        # With the Workspace's name: one runtime may serve several, and a model can move from one to another.
        name = f"{self.parts.seating.workspace}/{model}@{epoch}"
        holder = Instance.begin(Trigger.STARTED, now, model=model, id=name, epoch=epoch, terms=terms)
        holder.devices, holder.replica = devices, replica
        self.parts.seating.add(holder)
        self.parts.out.tell(Start(model, name, epoch, devices))
        self.parts.out.wake(now + terms.start_timeout)
        self.parts.out.publish(now, max_wait)  # an epoch of its own: it is the holder's identity
