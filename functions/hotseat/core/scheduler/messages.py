"""The stimuli and commands of the scheduler, and the scheduling spec of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

from hotseat.core.events import Emit
from hotseat.core.messages import CacheObserved, Demand, Observation, Residency, RuntimeCommand
from hotseat.core.policy.api import ONE_GPU, Capacity, Claim
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.transfer_rate import seconds_left


@dataclass(frozen=True, slots=True)
class SchedulingSpec:
    """What the scheduler needs of a Model: claim, times in seconds, and a fingerprint that changes when it must restart."""

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
    weights: str = ""  # changes when something else has to be fetched before a load
    problem: str = ""  # why it cannot be loaded at present, whatever is free
    fetch_ahead: bool = False  # its weights are fetched before it is requested
    check_first: bool = False  # its weights can vanish: the runtime checks them before a resident is evicted for it
    refuse_uncached: bool = False  # its requests are refused until its weights are complete
    pinned: bool = False  # its document pins it: it is loaded, and not evicted
    wanted: bool = False  # a window of its schedule is open
    kept: bool = False  # that window pins it
    return_after: float = 0.0  # it is the default, and returns after so many quiet seconds; 0: it does not
    ageing: float = 0.0  # seconds of waiting that count as one step of priority; 0: none do
    replicas: int = 1  # maximum of its instances
    pods: int = 1  # maximum of pods of one instance, which its claim is for
    park: bool = False  # it parks instead of stopping, where it can
    can_park: bool = False  # it can be parked, if an operator says so
    host_memory: int | None = None  # bytes that it holds while parked; None: what is measured then
    prompt_timeout: float = 0.0  # bound on saving, and on restoring, its prompt cache; 0: that is not kept
    prompts_at_exit: bool = False  # it is also saved in a shutdown


# Stimuli beside Demand and Observation --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemandReported:
    """A router reported a snapshot."""

    now: float
    demand: Demand


@dataclass(frozen=True, slots=True)
class RoutersEnrolled:
    """Routers may have requests in flight, though they have not reported yet: nothing is drained before they do."""

    now: float
    routers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouterLeft:
    """A router has left, or is known to be gone."""

    now: float
    router: str


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The documents changed: all models of the Workspace, its capacity, and its groups.

    `afresh`: a person has changed them, so what failed may be tried again at once.
    """

    now: float
    models: Mapping[str, SchedulingSpec]
    capacity: Capacity
    groups: Groups = UNGROUPED
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class LoadOrdered:
    """An operator wants a model loaded. The load request of the model `replaces` is withdrawn."""

    now: float
    model: str
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class FetchOrdered:
    """A client wants the weights of a model fetched, without a load."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class UnloadOrdered:
    """An operator wants a model unloaded: requests in flight may finish, queued ones are refused."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class ParkOrdered:
    """An operator wants a ready model parked: requests in flight, and those that are queued now, are served first."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class PinOrdered:
    """An operator pins a model: it is loaded and not evicted."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class UnpinOrdered:
    """An operator unpins a model, however it was pinned. It stays until it is evicted."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class CachesObserved:
    """Several observations of weights, in order, for one decision."""

    now: float
    states: tuple[CacheObserved, ...]


@dataclass(frozen=True, slots=True)
class ShutdownOrdered:
    """All instances are to be stopped."""

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
    | FetchOrdered
    | UnloadOrdered
    | ParkOrdered
    | PinOrdered
    | UnpinOrdered
    | CachesObserved
    | ShutdownOrdered
    | Tick
    | Observation
)


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish a residency to all routers."""

    residency: Residency


SchedulerCommand = RuntimeCommand | Publish | Emit


@dataclass(slots=True)
class LoadFailure:
    """Why a model is not loaded, and when it may be tried again."""

    count: int
    retry_at: float
    reason: str
    message: str
    over: bool = False  # it was ready since; `count` still matters for the next back-off
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The status of a model, for people. `state` is an InstanceState's value, or unloaded, fetching, failed."""

    name: str
    state: str
    since: float | None = None
    message: str = ""
    done: int | None = None
    total: int | None = None
    retry_at: float | None = None
    pinned: bool = False
    exit_code: int | None = None  # of its engine, where that ended by itself
    rate: int | None = None  # bytes per second of a fetch

    def progress(self) -> dict[str, int | None] | None:
        """Return the progress of a fetch: bytes, bytes per second and seconds left, where known. None without one."""
        if self.done is None:
            return None
        left = seconds_left(self.done, self.total, self.rate)
        return {"done": self.done, "total": self.total, "rate": self.rate, "remaining": left}
