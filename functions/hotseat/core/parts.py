"""What the switching machine knows, in parts: each owns a piece of it, and the steps that change that piece alone. Pure.

A part returns what has to be said; the steps that work on several parts (lifecycle.py, observing.py, candidates.py, switching.py)
put it into `out`, which is the only way for a command, a Residency or a wake time to leave a step.
"""

from dataclasses import dataclass

from hotseat.core.output import Output
from hotseat.core.parking import Parking
from hotseat.core.prospects import Prospects
from hotseat.core.replicas import Replicas
from hotseat.core.seating import Seating
from hotseat.core.switches import Ledger
from hotseat.core.traffic import Traffic
from hotseat.core.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of one Workspace."""

    seating: Seating  # documents, capacity, and instances
    traffic: Traffic  # what routers report
    prospects: Prospects  # weights, failures, refusals, orders
    wishes: Wishes  # pins, schedules, the default
    ledger: Ledger  # switches, and what their steps take
    parking: Parking
    replicas: Replicas
    out: Output

    @classmethod
    def new(cls, workspace: str, epoch: int) -> "Parts":
        """Return the parts of a Workspace of which nothing is known; `epoch` is the last one of an earlier run."""
        seating, prospects = Seating(workspace), Prospects()
        ledger = Ledger(workspace, epoch)  # each switch is an epoch at least
        traffic, parking = Traffic(seating, prospects), Parking(seating, ledger)
        out = Output(seating, prospects, ledger.costs, epoch)
        return cls(seating, traffic, prospects, Wishes(), ledger, parking, Replicas(), out)
