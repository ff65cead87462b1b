"""Who should be resident: one pure function of what is wanted, what is there and what it costs.

A policy looks at a View and names the set of models that should hold the accelerator, and when it wants to look again. It
decides nothing about safety: the switching machine starts a model only when it fits beside every instance that is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import exp
from typing import Protocol

from hotseat.core.messages import InstanceState
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.policy.resources import Shares, choose, free_on, still_hold, without

UNMEASURED_WAIT = 30.0  # seconds: what `maxWait: Auto` stands for before any switch was measured
LEAST_WAIT = 5.0  # seconds: the least that it stands for
SOON = 600.0  # seconds ahead that a policy thinks of when it asks who will be needed again


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a Workspace has to give; None: not counted.

    `devices` are the names of its GPUs where they are ours to hand out, as on one machine: what fits is then asked of each of
    them, and a claim of memory shares them. Without (a cluster's device plugin does it) only sums are known, and GPUs are whole.
    """

    gpus: int | None = 1
    memory: int | None = None
    devices: tuple[str, ...] = ()
    host_memory: int | None = None  # bytes for parked processes; None: no limit
    away: tuple[
        str, ...
    ] = ()  # those of the devices that another Workspace has not given back yet: nothing starts there
    missing: int = 0  # GPUs that its document states beyond these, and that are not there for it

    @property
    def each(self) -> int:
        """What one of the devices has to give: bytes, or itself where memory is not counted."""
        return 1 if self.memory is None else self.memory // len(self.devices)


@dataclass(frozen=True, slots=True)
class Claim:
    """An amount of accelerator: GPUs, and bytes of memory where they are counted. `on`: which GPUs that is, once it is placed."""

    gpus: int = 1
    memory: int = 0
    on: Shares = ()

    def __add__(self, other: "Claim") -> "Claim":
        return Claim(self.gpus + other.gpus, self.memory + other.memory, self.on + other.on)

    def __sub__(self, other: "Claim") -> "Claim":
        on = without(self.on, other.on) if other.on else self.on
        return Claim(self.gpus - other.gpus, self.memory - other.memory, on)

    def fits_beside(self, held: "Claim", capacity: Capacity) -> bool:
        """Whether the capacity holds this beside what is held. Of what it does not ask for, any shortage is no matter."""
        return self.place(held, capacity) is not None

    def place(self, held: "Claim", capacity: Capacity) -> tuple[str, ...] | None:
        """Choose its devices beside what is held: none where there are none to choose. None: it does not fit."""
        if self.memory and capacity.memory is not None and held.memory + self.memory > capacity.memory:
            return None
        counted = capacity.gpus is not None and (not capacity.devices or capacity.memory is None)
        if counted and self.gpus and held.gpus + self.gpus > (capacity.gpus or 0):
            return None
        if not self.gpus or not capacity.devices:
            return ()
        if len(held.on) < held.gpus:
            return None  # nobody knows where some of it is
        free = free_on(capacity.devices, capacity.each, held.on)
        if self.on:
            return tuple(device for device, _ in self.on) if still_hold(self.on, free) else None
        here = {device: rest for device, rest in free.items() if device not in capacity.away}
        return choose(self.gpus, self._share(capacity), here)

    def placed(self, devices: tuple[str, ...], capacity: Capacity) -> "Claim":
        """Make it one that is on these devices."""
        if not devices or not capacity.devices:
            return self
        share = self._share(capacity)
        return Claim(self.gpus, self.memory, tuple((device, share) for device in devices))

    def placed_beside(self, held: "Claim", capacity: Capacity) -> "Claim":
        """Make it one on the devices that it would get; where it does not fit, they are not known."""
        return self.placed(self.place(held, capacity) or (), capacity)

    def _share(self, capacity: Capacity) -> int:
        """How much it takes of each of its devices: all, where it claims no memory or none is counted."""
        return -(-self.memory // self.gpus) if self.memory and capacity.memory is not None else capacity.each


NOTHING = Claim(0, 0)
ONE_GPU = Claim(1, 0)


class Preference(IntEnum):
    """Why a model should be resident though nobody waits for it; a higher one may take the seat of a lower one."""

    NONE = 0
    DEFAULT = 1  # of its Workspace, which has been quiet for so long that it returns
    SCHEDULED = 2  # a window of its schedule is open
    PINNED = 3


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
    seat: InstanceState | None = None  # None: holds nothing
    leaving: bool = False  # will be gone, whatever a policy says
    promised: bool = False  # a switch to it has been decided, and others make room for it
    ready_since: float = 0.0  # while ready or on its way out
    last_used: float = 0.0
    may_evict: bool = True  # False: takes a free seat only (a preload)
    switch_cost: float = 0.0  # seconds that its load and stop take, as they did before; 0: not known yet
    uncertainty: float = 0.0  # seconds by which that differs from time to time
    drain: float = 0.0  # seconds that what is in flight takes when it is told to leave; 0: not known yet
    arrivals: float = 0.0  # requests a second that have come lately
    pace: float = 0.0  # answers a second while more wait than it takes at a time; 0: not known yet
    gaps: tuple[float, ...] = ()  # the last times, in seconds, from when nobody wanted it until its next request
    pinned: bool = False  # while resident it makes room for nobody
    wish: Preference = Preference.NONE  # granted after the policy has decided (pins.py), where it is in nobody's way
    ageing: float = 0.0  # seconds of waiting that count as one step of priority; 0: none do
    asleep: bool = False  # it is proven off the accelerator, whatever else cannot be
    kept_until: float = 0.0  # idle, it is worth finishing its load, or awaiting its first request, until then

    @property
    def idle(self) -> bool:
        """Nobody uses it and nobody waits for it."""
        return not self.waiting and not self.in_flight

    @property
    def keeping(self) -> float:
        """What is saved by keeping it, in seconds: what bringing it back takes, as likely as it is needed before long."""
        return self.switch_cost * (1 - exp(-self.arrivals * SOON))

    def urgency(self, now: float) -> float:
        """Give its priority, one higher for each `ageing` that its oldest has waited."""
        return self.priority + ((now - self.oldest) / self.ageing if self.waiting and self.ageing else 0.0)


@dataclass(frozen=True, slots=True)
class View:
    """All that a policy may know."""

    now: float
    capacity: Capacity
    models: tuple[ModelView, ...]
    groups: Groups = UNGROUPED  # who may be resident with whom, beyond what fits
    auto_max_wait: float | None = None  # what `maxWait: Auto` stands for now; None: all models state a bound


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be resident, when to look again (None: when something changes), and the bound on waiting in force."""

    resident: tuple[str, ...] = ()
    look_again: float | None = None
    effective_max_wait: float | None = None
    cut_off: frozenset[str] = (
        frozenset()
    )  # of those that leave: whose waiting requests are for its next turn, not for this
    obliging: tuple[str, ...] = ()  # not resident for the sake of a wish (pins.py): no policy's business


def auto_max_wait(costs: Sequence[float]) -> float:
    """Give the bound on waiting, in seconds, that fits what switches cost (seconds; of each model that takes turns).

    A turn of ten switches loses a tenth of the time to switching. Nobody waits longer than a minute for that, unless switching alone takes
    so long that turns of less than three switches would lose more than a quarter.
    """
    if not costs:
        return UNMEASURED_WAIT
    cost = sum(costs) / len(costs)
    return max(LEAST_WAIT, min(10 * cost, 60.0), 3 * cost)


class Policy(Protocol):
    """Decides who should be resident. Stateless, or deterministic in the Views it was shown."""

    def decide(self, view: View) -> Decision:
        """Name the models that should be resident."""
