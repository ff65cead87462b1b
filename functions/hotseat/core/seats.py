"""The vocabulary of the switching machine: what it hears, what it says, and what it keeps of each holder."""

from collections.abc import Mapping
from dataclasses import dataclass

from hotseat.core.events import Emit
from hotseat.core.messages import Demand, Observation, Residency, RuntimeCommand, SeatState
from hotseat.core.policy import ONE_GPU, Capacity, Claim


@dataclass(frozen=True, slots=True)
class Terms:
    """What switching needs to know of a Model: its claim, its times in seconds, and a mark that changes when it must restart."""

    claim: Claim = ONE_GPU
    priority: int = 0
    max_wait: float = 30.0
    min_residency: float = 0.0
    idle_timeout: float = 0.0
    start_timeout: float = 300.0
    drain_timeout: float = 120.0
    stop_timeout: float = 10.0
    preload: bool = False
    external: str | None = None  # address of a server that is never loaded or unloaded
    fingerprint: str = ""


# Stimuli beside Demand and Observation --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemandReported:
    """A router's snapshot."""

    now: float
    demand: Demand


@dataclass(frozen=True, slots=True)
class RouterLeft:
    """A router said goodbye, or is known to be gone."""

    now: float
    router: str


@dataclass(frozen=True, slots=True)
class TermsChanged:
    """The documents: all models of the Workspace, and its capacity."""

    now: float
    models: Mapping[str, Terms]
    capacity: Capacity


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
class Shutdown:
    """Everything goes."""

    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed (see `wake_at`)."""

    now: float


Stimulus = DemandReported | RouterLeft | TermsChanged | Load | Unload | Shutdown | Tick | Observation


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
    seen_by: int = 0  # epoch that routers must have seen before this state counts as theirs
    last_used: float = 0.0
    served: int = 0
    stop_asked: float | None = None

    def enter(self, state: SeatState, now: float, epoch: int) -> None:
        """Change the state; routers have to see `epoch` for it to count."""
        self.state, self.since, self.seen_by = state, now, epoch


@dataclass(slots=True)
class Failure:
    """Why a model is not there, and when it may be tried again."""

    count: int
    retry_at: float
    reason: str
    message: str


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
