"""How holders leave the accelerator: they close, drain, and are stopped or fall asleep. Pure.

READY → CLOSING (serves the batch that routers held) → DRAINING (what is in flight may finish) → RELEASING, or PARKING. Before the
drain deadline a holder goes on from there only when every router has seen that it closes and reports nothing in flight.
"""

from dataclasses import dataclass

from hotseat.core.messages import SeatState, Stop
from hotseat.core.output import Output
from hotseat.core.parking import Parking
from hotseat.core.prospects import Prospects
from hotseat.core.seating import Seating
from hotseat.core.seats import GOING, OCCUPIED, SLEEPING, Holder
from hotseat.core.switches import Ledger
from hotseat.core.traffic import Traffic
from hotseat.core.wishes import Wishes

OFFER = 5.0  # seconds within which routers hear that a model is ready, if they hear at all


@dataclass(slots=True)
class Leaving:
    """Takes holders off. `obliging`: those that make room for a wish, as of the decision under way: nobody uses them."""

    seating: Seating
    traffic: Traffic
    prospects: Prospects
    ledger: Ledger
    wishes: Wishes
    parking: Parking
    out: Output
    obliging: tuple[str, ...] = ()

    def steer(self, holder: Holder, now: float, *, wanted: bool, cut_off: bool) -> None:
        """Start taking it off, or keep it after all. `cut_off`: what waits for it is not of this turn."""
        if holder.state not in OCCUPIED or (holder.state in SLEEPING and not holder.leaving):
            return
        if holder.leaving or not wanted or self._idle_out(holder, now):
            if holder.state in (SeatState.LOADING, *SLEEPING):
                code = (holder.leaving or "abandoned").capitalize()
                message = f"the load of {holder.model} was cancelled after {now - holder.since:.1f} s"
                self.out.tell(*self.ledger.cancelled(holder.seat, now, "load", code, message))
                self.stop(holder, now)
            elif holder.state is SeatState.READY and (holder.leaving or self._offered(holder, now)):
                self.ledger.leaving(holder.seat, now)
                self.seating.go(holder, SeatState.DRAINING if cut_off else SeatState.CLOSING, now)
                holder.closing_since, holder.closing_epoch = now, self.out.next_epoch
        elif holder.state in GOING:
            self.ledger.stays(holder.seat)
            self.seating.go(holder, SeatState.READY, now)

    def drain(self, holder: Holder, now: float) -> None:
        """Move one that is closing or draining on as far as time and what routers have seen allow."""
        demands = self.traffic.demands
        until, idle = holder.drain_until, self._idle_out(holder, now)
        if idle or holder.seat in self.obliging:  # nobody waits for its seat: a request that comes now is served
            until = max(until, holder.closing_since + OFFER)
        self.out.wakes.append(until)
        owes = holder.replica == 1 and demands.closing(holder.model)
        closed = demands.all_saw(holder.closing_epoch) and not owes
        drained = closed and not demands.in_flight(holder.id)
        parks = drained and self.parking.parks(holder, self.seating.holders.values(), now)
        if parks:
            self.traffic.forgive(holder, now)
            self.out.moved(*self.parking.fall_asleep(holder, now))
            self.out.wakes.append(now + holder.terms.stop_timeout)
        elif now >= until or (drained and parks is False):
            self.stop(holder, now, "idle" if idle else "evicted")
        elif closed and holder.state is SeatState.CLOSING:
            self.seating.go(holder, SeatState.DRAINING, now)

    def stop(self, holder: Holder, now: float, why: str = "evicted") -> None:
        """Tell it to stop; `why`, where nothing was said before."""
        if holder.state is SeatState.DRAINING:
            self.ledger.costs.note_drain(holder.model, now - holder.since)
        self.release(holder, now, holder.leaving or why)
        self.out.tell(Stop(holder.model, holder.id, holder.epoch, holder.terms.stop_timeout))

    def release(self, holder: Holder, now: float, why: str) -> None:
        """Note that it is on its way off, told or by itself; it keeps its seat until it is proven gone."""
        self.traffic.forgive(holder, now)
        self.ledger.stopping(holder.seat, now)
        holder.leaving, holder.stop_asked = why, now
        self.seating.go(holder, SeatState.RELEASING, now)

    def _offered(self, holder: Holder, now: float) -> bool:
        """Whether its turn has begun: before what waited for it has been sent, closing it would make the load futile."""
        if self.traffic.demands.all_saw(holder.ready_epoch):
            return True
        until = (holder.ready_since or 0.0) + OFFER
        self.out.wakes.append(until)
        return now >= until

    def _idle_out(self, holder: Holder, now: float) -> bool:
        """Whether nobody has used it for its idle timeout."""
        until = holder.idle_until
        if until is None or not self.traffic.unused(holder) or self.wishes.stays_idle(holder):
            return False
        self.out.wakes.append(until)
        return now >= until
