"""The messages of the scheduler: its stimuli, its commands, and the scheduling spec of a model. Instances are in instance.py."""

from collections.abc import Mapping
from dataclasses import dataclass

from hotseat.core.events import Emit
from hotseat.core.messages import CacheObserved, Demand, Observation, Residency, RuntimeCommand
from hotseat.core.policy.api import ONE_GPU, Capacity, Claim
from hotseat.core.policy.groups import UNGROUPED, Groups


@dataclass(frozen=True, slots=True)
class SchedulingSpec:
    """What switching needs to know of a Model: its claim, its times in seconds, and a mark that changes when it must restart."""

    claim: Claim = ONE_GPU
    priority: int = 0
    max_wait: float | None = 30.0  # None: what switches cost decides (policy.auto_max_wait)
    min_residency: float = 0.0
    idle_timeout: float = 0.0
    start_timeout: float = 300.0
    drain_timeout: float = 120.0
    stop_timeout: float = 10.0
    preload: bool = False
    external: str | None = None  # address of a server that is never loaded or unloaded
    fingerprint: str = ""
    fetch_ahead: bool = False  # its weights are brought before anybody asks for it
    check_first: bool = False  # what a load needs can vanish: the runtime looks before anybody makes room for it
    refuse_uncached: bool = False  # who asks for it before they are there is told to come again
    pinned: bool = False  # its document says so: it is loaded, and makes room for nobody
    wanted: bool = False  # a window of its schedule is open
    kept: bool = False  # that window pins it
    return_after: float = 0.0  # it is the default, and comes back after so much quiet; 0: it does not
    ageing: float = 0.0  # seconds of waiting that count as one step of priority; 0: none do
    replicas: int = 1  # instances that it may have at a time
    park: bool = False  # it leaves the accelerator by falling asleep, where it can
    host_memory: int | None = None  # bytes that it holds while parked; None: what is measured then


# Stimuli beside Demand and Observation --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemandReported:
    """A router's snapshot."""

    now: float
    demand: Demand


@dataclass(frozen=True, slots=True)
class RoutersEnrolled:
    """Routers that may have requests in flight, though they have not been heard yet: nothing is drained before they are."""

    now: float
    routers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouterLeft:
    """A router said goodbye, or is known to be gone."""

    now: float
    router: str


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The documents: all models of the Workspace, its capacity, and who of them may be resident together.

    `afresh`: a person has seen to them, and what failed is worth another try at once.
    """

    now: float
    models: Mapping[str, SchedulingSpec]
    capacity: Capacity
    groups: Groups = UNGROUPED
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class LoadOrdered:
    """An operator wants it resident."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class UnloadOrdered:
    """An operator wants it gone; what is in flight may finish, what waits is sent away."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class PinOrdered:
    """An operator wants it resident, and in nobody's favour off again."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class UnpinOrdered:
    """An operator takes that back, whoever pinned it. It stays until its seat is wanted."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class CachesObserved:
    """Several observations of weights at once, in order: one decision for all of them."""

    now: float
    states: tuple[CacheObserved, ...]


@dataclass(frozen=True, slots=True)
class ShutdownOrdered:
    """Everything goes."""

    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed (see `wake_at`)."""

    now: float


SchedulerStimulus = (
    DemandReported
    | RoutersEnrolled
    | RouterLeft
    | ConfigChanged
    | LoadOrdered
    | UnloadOrdered
    | PinOrdered
    | UnpinOrdered
    | CachesObserved
    | ShutdownOrdered
    | Tick
    | Observation
)


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell all routers."""

    residency: Residency


SchedulerCommand = RuntimeCommand | Publish | Emit


@dataclass(slots=True)
class LoadFailure:
    """Why a model is not there, and when it may be tried again."""

    count: int
    retry_at: float
    reason: str
    message: str
    over: bool = False  # it has been ready since; the count still matters for the next back-off
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model for people: state is a SeatState's value, or unloaded, fetching, failed."""

    name: str
    state: str
    since: float | None = None
    message: str = ""
    done: int | None = None
    total: int | None = None
    retry_at: float | None = None
    pinned: bool = False
    exit_code: int | None = None  # of the engine of one that failed, where it ended by itself
