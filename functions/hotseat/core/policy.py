"""Who should be resident: one pure function of what is wanted, what is there and what it costs.

A policy looks at a View and names the set of models that should hold the accelerator, and when it wants to look again. It
decides nothing about safety: the switching machine starts a model only when it fits beside every holder that is left.
"""

from dataclasses import dataclass
from typing import Protocol

from hotseat.core.messages import SeatState


@dataclass(frozen=True, slots=True)
class Claim:
    """An amount of accelerator: whole GPUs, and bytes of memory where they are counted."""

    gpus: int = 1
    memory: int = 0

    def __add__(self, other: "Claim") -> "Claim":
        return Claim(self.gpus + other.gpus, self.memory + other.memory)

    def __sub__(self, other: "Claim") -> "Claim":
        return Claim(self.gpus - other.gpus, self.memory - other.memory)

    def fits(self, capacity: "Capacity") -> bool:
        """Whether the capacity holds all of this."""
        return self.gpus <= capacity.gpus and (capacity.memory is None or self.memory <= capacity.memory)

    def fits_beside(self, held: "Claim", capacity: "Capacity") -> bool:
        """Whether the capacity holds this beside what is held. Of what it does not ask for, any shortage is no matter."""
        total = held + self
        gpus = not self.gpus or total.gpus <= capacity.gpus
        return gpus and (not self.memory or capacity.memory is None or total.memory <= capacity.memory)


NOTHING = Claim(0, 0)
ONE_GPU = Claim(1, 0)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a Workspace has to give; memory None: not counted."""

    gpus: int = 1
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as a policy sees it. Times are seconds on the same clock as the View's `now`."""

    name: str
    claim: Claim = ONE_GPU
    priority: int = 0
    max_wait: float = 30.0
    min_residency: float = 0.0
    waiting: int = 0
    oldest: float = 0.0  # arrival of the oldest that waits, if any do
    in_flight: int = 0
    seat: SeatState | None = None  # None: holds nothing
    leaving: bool = False  # will be gone, whatever a policy says
    promised: bool = False  # a switch to it has been decided, and others make room for it
    ready_since: float = 0.0  # while ready or on its way out
    last_used: float = 0.0
    may_evict: bool = True  # False: takes a free seat only (a preload)
    switch_cost: float = 0.0  # seconds that its load and stop took before; 0: not known yet

    @property
    def idle(self) -> bool:
        """Nobody uses it and nobody waits for it."""
        return not self.waiting and not self.in_flight


@dataclass(frozen=True, slots=True)
class View:
    """All that a policy may know."""

    now: float
    capacity: Capacity
    models: tuple[ModelView, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be resident, when to look again (None: when something changes), and the bound on waiting in force."""

    resident: tuple[str, ...] = ()
    look_again: float | None = None
    effective_max_wait: float | None = None


class Policy(Protocol):
    """Decides who should be resident. Stateless, or deterministic in the Views it was shown."""

    def decide(self, view: View) -> Decision:
        """Name the models that should be resident."""
