"""What a policy is given and what it returns: claims, capacities, views and decisions. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import exp, inf
from typing import Protocol

from hotseat.core.messages import InstanceState, WaitReason
from hotseat.core.policy.groups import UNGROUPED, Groups

Shares = tuple[tuple[str, int], ...]  # what is taken: name of the GPU, and how much of it


def free_on(devices: Sequence[str], each: int, taken: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return what is left of each GPU. What is taken of other GPUs is ignored."""
    free = dict.fromkeys(devices, each)
    for device, share in taken:
        if device in free:
            free[device] -= share
    return free


def choose(count: int, share: int, free: Mapping[str, int]) -> tuple[str, ...] | None:
    """Return `count` GPUs with a share left of each (best fit), None where too few have it.

    The fullest that fit are chosen, so that large gaps stay for large claims; among equals, the
    first ones.
    """
    order = list(free)
    able = sorted((device for device in order if free[device] >= share), key=lambda device: free[device])
    return tuple(sorted(able[:count], key=order.index)) if len(able) >= count else None


def still_hold(own: Shares, free: Mapping[str, int]) -> bool:
    """Whether a placed claim still fits where it is. A GPU that is not of the Workspace any more holds nothing."""
    return all(free.get(device, -1) >= share for device, share in own)


def without(all_: Shares, gone: Shares) -> Shares:
    """Return shares without others, each as often as it is named. Raise ValueError if one is missing."""
    rest = list(all_)
    for each in gone:
        rest.remove(each)
    return tuple(rest)


UNMEASURED_WAIT = 30.0  # seconds: what `maxWait: Auto` stands for before any switch was measured
LEAST_WAIT = 5.0  # seconds: the least that it stands for
SOON = 600.0  # seconds ahead for which a policy expects requests


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity of a Workspace. None: not counted.

    `devices` are the names of its GPUs where hotseat assigns them, as on one machine: a claim must
    fit on each of its devices, and claims of memory share them. Without (a device plugin of the
    cluster assigns them) only sums are known, and GPUs are whole. All GPUs of a Workspace have the
    same capacity: their part of the memory, or, where memory is not counted, 1.
    """

    gpus: int | None = 1
    memory: int | None = None
    devices: tuple[str, ...] = ()
    host_memory: int | None = None  # bytes for parked processes; None: no limit
    away: tuple[
        str, ...
    ] = ()  # those of the devices that another Workspace has not given back yet: nothing starts there
    missing: int = 0  # GPUs that its document states beyond these, and that are not there for it
    prompts: int = 0  # bytes for prompt caches
    prompts_in_memory: bool = True  # they are within what parked processes leave of `host_memory`

    @property
    def each(self) -> int:
        """Return the capacity of one device: bytes, or 1 where memory is not counted."""
        return 1 if self.memory is None else self.memory // len(self.devices)


@dataclass(frozen=True, slots=True)
class Claim:
    """An amount of accelerator: GPUs, and bytes of memory where they are counted.

    `on` is its share of each GPU, once it is placed. A claim takes the same share of each of its
    GPUs: the whole, or memory, which leaves the rest to others.
    """

    gpus: int = 1
    memory: int = 0
    on: Shares = ()

    def __add__(self, other: "Claim") -> "Claim":
        return Claim(self.gpus + other.gpus, self.memory + other.memory, self.on + other.on)

    def __sub__(self, other: "Claim") -> "Claim":
        on = without(self.on, other.on) if other.on else self.on
        return Claim(self.gpus - other.gpus, self.memory - other.memory, on)

    def fits_beside(self, held: "Claim", capacity: Capacity) -> bool:
        """Whether the capacity holds this claim beside what is held.

        A shortage of what it does not claim does not matter.
        """
        return self.place(held, capacity) is not None

    def place(self, held: "Claim", capacity: Capacity) -> tuple[str, ...] | None:
        """Return the devices for this claim beside what is held. Empty where none are assigned. None: it does not fit."""
        if self.memory and capacity.memory is not None and held.memory + self.memory > capacity.memory:
            return None
        counted = capacity.gpus is not None and (not capacity.devices or capacity.memory is None)
        if counted and self.gpus and held.gpus + self.gpus > (capacity.gpus or 0):
            return None
        if not self.gpus or not capacity.devices:
            return ()
        if len(held.on) < held.gpus:
            return None  # the devices of some of it are not known
        free = free_on(capacity.devices, capacity.each, held.on)
        if self.on:
            return tuple(device for device, _ in self.on) if still_hold(self.on, free) else None
        here = {device: rest for device, rest in free.items() if device not in capacity.away}
        return choose(self.gpus, self._share(capacity), here)

    def placed(self, devices: tuple[str, ...], capacity: Capacity) -> "Claim":
        """Return this claim, placed on these devices."""
        if not devices or not capacity.devices:
            return self
        share = self._share(capacity)
        return Claim(self.gpus, self.memory, tuple((device, share) for device in devices))

    def placed_beside(self, held: "Claim", capacity: Capacity) -> "Claim":
        """Return this claim, placed on the devices that it would get. Not placed where it does not fit."""
        return self.placed(self.place(held, capacity) or (), capacity)

    def _share(self, capacity: Capacity) -> int:
        """Return what it takes of each of its devices: the whole, where it claims no memory or none is counted."""
        return -(-self.memory // self.gpus) if self.memory and capacity.memory is not None else capacity.each


NOTHING = Claim(0, 0)
ONE_GPU = Claim(1, 0)


class Preference(IntEnum):
    """Why a model should be resident without queued requests. A higher one may evict a lower one."""

    NONE = 0
    DEFAULT = 1  # of its Workspace, which has been quiet for so long that it returns
    SCHEDULED = 2  # a window of its schedule is open
    PINNED = 3


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model, as a policy sees it. Times are seconds on the clock of the View's `now`."""

    name: str
    claim: Claim = ONE_GPU
    priority: int = 0
    max_wait: float = 30.0
    min_residency: float = 0.0
    waiting: int = 0
    oldest: float = 0.0  # arrival of the oldest that waits, if any do
    in_flight: int = 0
    state: InstanceState | None = None  # None: it has no instance
    leaving: bool = False  # will be stopped, whatever a policy says
    promised: bool = False  # a switch to it is decided, and its victims are leaving
    ready_since: float = 0.0  # while ready or on its way out
    last_used: float = 0.0
    may_evict: bool = True  # False: is loaded only where it fits (a preload)
    switch_cost: float = 0.0  # seconds that its load and stop take, as they did before; 0: not known yet
    uncertainty: float = 0.0  # seconds by which that differs from time to time
    drain: float = 0.0  # seconds that what is in flight takes when it is told to leave; 0: not known yet
    arrivals: float = 0.0  # requests per second lately
    pace: float = 0.0  # answers a second while more wait than it takes at a time; 0: not known yet
    gaps: tuple[float, ...] = ()  # the last idle times before its next request, in seconds
    pinned: bool = False  # while resident it is not evicted
    preference: Preference = Preference.NONE  # applied after the policy has decided (preferences.py)
    ageing: float = 0.0  # seconds of waiting that count as one step of priority; 0: none do
    asleep: bool = False  # it is proven off the accelerator
    kept_until: float = 0.0  # while idle: until when its load, or its first request, is worth waiting for

    @property
    def idle(self) -> bool:
        """Whether it has neither queued requests nor requests in flight."""
        return not self.waiting and not self.in_flight

    @property
    def keeping(self) -> float:
        """Return what keeping it saves, in seconds: its expected cost of a reload within the next SOON seconds."""
        return self.switch_cost * (1 - exp(-self.arrivals * SOON))

    def urgency(self, now: float) -> float:
        """Return its priority, one higher for each `ageing` that its oldest request has waited."""
        return self.priority + ((now - self.oldest) / self.ageing if self.waiting and self.ageing else 0.0)


@dataclass(frozen=True, slots=True)
class View:
    """All that a policy may know."""

    now: float
    capacity: Capacity
    models: tuple[ModelView, ...]
    groups: Groups = UNGROUPED  # which models may be co-resident, beyond what fits
    auto_max_wait: float | None = None  # what `maxWait: Auto` stands for now; None: all models state a bound


EvictableAt = tuple[
    float, WaitReason
]  # from when a resident may be evicted (inf: not in its state), and what keeps it until then


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a policy does not have a queued model loaded."""

    reason: WaitReason
    behind: tuple[str, ...] = ()  # the models that come first
    until: float = inf  # seconds: from when all residents among them may be evicted, at the latest; inf: not known


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be resident, when to decide again (None: when something changes), and the bound on waiting in force.

    The last three fields are for people. A policy may leave them out. `obstacles` are called when somebody asks.
    """

    resident: tuple[str, ...] = ()
    wake_at: float | None = None
    effective_max_wait: float | None = None
    cut_off: frozenset[str] = frozenset()  # evicted ones whose queued requests are for their next turn
    evicted_for_preference: tuple[str, ...] = ()  # evicted by preferences (preferences.py), not by the policy
    queue: Sequence[ModelView] = field(default=(), compare=False, repr=False)  # models to be loaded, in their order
    obstacles: Mapping[str, Callable[[], Obstacle]] = field(default_factory=dict, compare=False, repr=False)
    # By queued model: seconds that the turns before its own take.
    turns_ahead: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)


def auto_max_wait(costs: Sequence[float]) -> float:
    """Return the bound on waiting, in seconds, that fits the costs of switches (seconds; of each model that takes turns).

    Turns of ten switches lose a tenth of the time to switching. The bound is a minute at most,
    unless turns of less than three switches would lose more than a quarter.
    """
    if not costs:
        return UNMEASURED_WAIT
    cost = sum(costs) / len(costs)
    return max(LEAST_WAIT, min(10 * cost, 60.0), 3 * cost)


class Policy(Protocol):
    """Decides which models should be resident. Stateless, or deterministic in the Views it was shown."""

    def decide(self, view: View) -> Decision:
        """Return the models that should be resident."""
