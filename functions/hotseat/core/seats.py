"""The vocabulary of the switching machine: what it hears, what it says, and what it keeps of each holder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hotseat.core.events import Emit
from hotseat.core.groups import UNGROUPED, Groups
from hotseat.core.messages import CacheObserved, Demand, Observation, Residency, RuntimeCommand, SeatState
from hotseat.core.policy import NOTHING, ONE_GPU, Capacity, Claim

GOING = (SeatState.CLOSING, SeatState.DRAINING)  # may still be taken back
LINGER = 30.0  # seconds after which a replica that nobody uses goes, idle timeout or not
SLEEPING = (SeatState.PARKING, SeatState.PARKED, SeatState.WAKING)  # see parking.py
OCCUPIED = (SeatState.LOADING, SeatState.READY, *GOING, *SLEEPING)  # neither told to stop nor stuck


@dataclass(frozen=True, slots=True)
class Terms:
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
    replicas: int = 1  # holders that it may have at a time
    park: bool = False  # it leaves the accelerator by falling asleep, where it can
    host_memory: int | None = None  # bytes that it holds while parked; None: what is measured then


# Stimuli beside Demand and Observation --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemandReported:
    """A router's snapshot."""

    now: float
    demand: Demand


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Routers that may have requests in flight, though they have not been heard yet: nothing is drained before they are."""

    now: float
    routers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouterLeft:
    """A router said goodbye, or is known to be gone."""

    now: float
    router: str


@dataclass(frozen=True, slots=True)
class TermsChanged:
    """The documents: all models of the Workspace, its capacity, and who of them may be resident together.

    `afresh`: a person has seen to them, and what failed is worth another try at once.
    """

    now: float
    models: Mapping[str, Terms]
    capacity: Capacity
    groups: Groups = UNGROUPED
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """An operator wants it resident."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class Unload:
    """An operator wants it gone; what is in flight may finish, what waits is sent away."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class Pin:
    """An operator wants it resident, and in nobody's favour off again."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class Unpin:
    """An operator takes that back, whoever pinned it. It stays until its seat is wanted."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class CachesObserved:
    """Several observations of weights at once, in order: one decision for all of them."""

    now: float
    states: tuple[CacheObserved, ...]


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Everything goes."""

    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed (see `wake_at`)."""

    now: float


Stimulus = (
    DemandReported
    | Enrolled
    | RouterLeft
    | TermsChanged
    | Load
    | Unload
    | Pin
    | Unpin
    | CachesObserved
    | Shutdown
    | Tick
    | Observation
)


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell all routers."""

    residency: Residency


Command = RuntimeCommand | Publish | Emit


@dataclass(slots=True)
class Holder:
    """What occupies a seat."""

    model: str
    id: str
    epoch: int
    state: SeatState
    since: float
    terms: Terms
    address: str | None = None
    leaving: str | None = None  # why it will go, whatever a policy says
    ready_since: float | None = None
    ready_epoch: int = 0  # routers that have seen it have sent what waited
    closing_since: float = 0.0
    dispatched: float = 0.0  # when it was last given a request
    closing_epoch: int = 0  # routers that have seen it send no more than the batch they had
    last_used: float = 0.0
    stop_asked: float | None = None
    left: str = ""  # what is not proven gone, for a person to look at
    devices: tuple[str, ...] = ()  # GPUs that it was given, where they are ours to hand out
    replica: int = 1  # 1: its model's main holder; see replicas.py
    turn: int = 0  # how often it was told to sleep or to wake
    asleep: bool = False  # proven off the accelerator
    parked_since: float | None = (
        None  # when it was told to sleep; None: it is awake, and its host memory does not count
    )
    memory: int | None = None  # bytes of host memory that were measured while it slept
    halfway: bool = False  # it was found loading or stopping: how long that takes cannot be told from it

    @property
    def seat(self) -> str:
        """Name of its seat: its model's own, or that with a number."""
        return self.model if self.replica == 1 else f"{self.model}#{self.replica}"

    def occupied(self, capacity: Capacity) -> Claim:
        """Give what it takes of the accelerator, and of which devices."""
        return NOTHING if self.asleep else self.terms.claim.placed(self.devices, capacity)

    @property
    def staying(self) -> bool:
        """Whether it may go on to hold its seat, as far as it goes by itself."""
        return self.leaving is None and self.state in OCCUPIED

    @property
    def drain_until(self) -> float:
        """Deadline of what is in flight, while it makes room: counted from the last request that it was given."""
        return max(self.closing_since, self.dispatched) + self.terms.drain_timeout

    @property
    def idle_until(self) -> float | None:
        """Time at which it goes for idleness, if it is not used before; None: never."""
        if self.replica > 1 and self.ready_since is not None:
            return self.last_used + min(self.terms.idle_timeout or LINGER, LINGER)
        if not self.terms.idle_timeout or self.ready_since is None:
            return None
        return max(self.last_used + self.terms.idle_timeout, self.ready_since + self.terms.min_residency)

    def leave(self, why: str) -> None:
        """Let it go as soon as that can be, unless it has been told to already."""
        if self.state in OCCUPIED:
            self.leaving = self.leaving or why

    def take_over(self, terms: Terms | None) -> bool:
        """Go by new terms; None: no document names it. Returns whether it must be started anew for them."""
        loaded = self.staying and self.state not in (SeatState.PARKING, SeatState.PARKED)
        restart = terms is not None and terms.fingerprint != self.terms.fingerprint and loaded
        if terms is None or terms.fingerprint != self.terms.fingerprint:
            self.leave("removed" if terms is None else "changed")
        elif self.state in OCCUPIED:
            self.terms = replace(terms, claim=self.terms.claim)  # it occupies what it was started with
            if self.leaving in ("removed", "changed"):
                self.leaving = None  # the documents are back to what it is
        return restart


@dataclass(slots=True)
class Failure:
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
