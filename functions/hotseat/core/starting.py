"""How models come onto the accelerator: a switch is noted, and once there is room an engine is started, or woken. Pure.

A model starts only where it fits beside all that is not proven gone, and no earlier holder of it is left, but for replicas.
"""

from dataclasses import dataclass

from hotseat.core.instance import GOING, Holder, Trigger
from hotseat.core.leaving import Leaving
from hotseat.core.messages import SeatState, Start
from hotseat.core.output import Output
from hotseat.core.parking import Parking
from hotseat.core.prospects import Prospects
from hotseat.core.replicas import Replicas
from hotseat.core.seating import Seating
from hotseat.core.switches import Ledger
from hotseat.core.traffic import Traffic
from hotseat.core.wishes import Wishes


@dataclass(slots=True)
class Starting:
    """Brings models on."""

    seating: Seating
    traffic: Traffic
    prospects: Prospects
    ledger: Ledger
    wishes: Wishes
    parking: Parking
    replicas: Replicas
    leaving: Leaving
    out: Output

    def start_if_free(self, model: str, now: float) -> None:
        """Note that it is next, and start it if everything that is left leaves room for it."""
        terms = self.seating.terms[model]
        asleep = self.seating.holders.sleeper(model)
        devices = self.seating.place(model, asleep)
        free = devices is not None
        gone = () if free else (*GOING, SeatState.PARKING, SeatState.RELEASING, SeatState.UNPROVEN)
        leaving = [h.seat for h in self.seating.holders.values() if h.state in gone and not h.asleep]
        if not free and not leaving:
            return  # whoever is to make room has to begin its own turn first
        self._note_switch(model, now, leaving)
        if devices is None:
            return
        if asleep is None:
            self.ledger.starting(model, now)
            self._start(model, devices, now)
        elif asleep.devices == devices:
            self.out.moved(*self.parking.wake(asleep, terms, now))
            self.out.wakes.append(now + terms.start_timeout)
        else:
            self.leaving.stop(asleep, now, "misplaced")  # its GPUs are others' now, and it can go to no other ones

    def add_replicas(self, now: float) -> None:
        """Start more engines of models whose own are all full. Only where nobody else waits for a seat."""
        seating = self.seating
        holders = list(seating.holders.values())
        for name, number in self.replicas.wanted(seating.terms, holders, self.traffic.demands, now, self.out.wakes):
            devices = seating.place(name)
            if devices is not None and self.prospects.cached(name):
                self._start(name, devices, now, replica=number)

    def _note_switch(self, model: str, now: float, leaving: list[str]) -> None:
        """Note the switch, with who asked for it and since when."""
        waiting, oldest = self.traffic.waiting(model)
        order, wanted = self.prospects.orders.get(model), self.traffic.wanted(model)
        asked = (oldest if waiting else None, order.since if order else None, wanted)
        requested = min((since for since in asked if since is not None), default=now)
        if waiting or wanted is not None:
            reason = "demand"
        else:
            reason = "ordered" if order else self.wishes.reason(model, self.seating.terms[model], now)
        noted = self.ledger.decided(model, now, requested, leaving=leaving, waiting=waiting, reason=reason)
        self.out.tell(*noted)

    def _start(self, model: str, devices: tuple[str, ...], now: float, *, replica: int = 1) -> None:
        self.prospects.checks.pop(model, None)
        epoch, terms = self.out.next_epoch, self.seating.terms[model]
        # With the Workspace's name: one runtime may serve several, and a model can move from one to another.
        name = f"{self.seating.workspace}/{model}@{epoch}"
        holder = Holder.begin(Trigger.STARTED, now, model=model, id=name, epoch=epoch, terms=terms)
        holder.devices, holder.replica = devices, replica
        self.seating.add(holder)
        self.out.tell(Start(model, name, epoch, devices))
        self.out.wakes.append(now + terms.start_timeout)
        self.out.publish(now)  # an epoch of its own: it is the holder's identity
