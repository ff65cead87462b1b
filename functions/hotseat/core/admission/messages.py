"""The messages of the admission machine: its stimuli and its commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hotseat.core.admission.fair_queue import Sharing
from hotseat.core.errors import HotseatError
from hotseat.core.messages import Residency


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one model at all routers; 0 or None: no bound."""

    concurrency: int = 0
    max_waiting: int | None = None


# Stimuli --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A request that names a known model."""

    now: float
    request: int
    model: str
    priority: int = 0
    at_once: bool = False  # it is not to wait: dispatched now, or rejected
    tenant: str = ""
    deadline: float | None = None  # when its client gives up; one that cannot be met is refused at once
    size: int = 0  # bytes of its body
    since: float | None = None  # when it began to wait, if that was elsewhere


@dataclass(frozen=True, slots=True)
class ClientDisconnected:
    """Its client has gone away."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """Its answer has been relayed, or has failed."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class WaitTimedOut:
    """It has waited as long as its client allows."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class ServedByFallback:
    """Another model answers it: it waits no longer, but its model is still wanted. Nothing happens if it was dispatched."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class PrewarmRequested:
    """A model shall come, though no request waits for it."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class ResidencySeen:
    """News of who holds the accelerator."""

    now: float
    residency: Residency


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """The documents changed, or the number of routers: all models, and the Workspace's bounds, of which each router has its share."""

    now: float
    models: Mapping[str, Limits]
    max_waiting: int
    max_waiting_per_tenant: int | None = None
    max_waiting_bytes: int | None = None
    sharing: Sharing = field(default_factory=Sharing)
    routers: int = 1


@dataclass(frozen=True, slots=True)
class RouterClosed:
    """The router shuts down: nothing waits any longer, nothing new is taken."""

    now: float


AdmissionStimulus = (
    RequestArrived
    | ClientDisconnected
    | RequestFinished
    | WaitTimedOut
    | ServedByFallback
    | PrewarmRequested
    | ResidencySeen
    | LimitsChanged
    | RouterClosed
)

# Commands -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Relay it to this instance now."""

    request: int
    instance: str
    address: str


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits."""

    request: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer it with this error."""

    request: int
    error: type[HotseatError]
    code: str
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class AbortRequest:
    """Its instance is being stopped under it (the drain deadline is over): end it with an error. It still Finishes."""

    request: int
    message: str


@dataclass(frozen=True, slots=True)
class ReportDemand:
    """Take a snapshot and send it: at once if urgent, else when convenient."""

    urgent: bool


AdmissionCommand = Dispatch | Queued | Reject | AbortRequest | ReportDemand
