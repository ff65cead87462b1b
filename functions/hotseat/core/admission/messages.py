"""The messages of the admission machine: its stimuli and its commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hotseat.core.admission.fair_queue import Sharing
from hotseat.core.errors import HotseatError
from hotseat.core.messages import Residency, message


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one model at all routers. 0 or None: no limit."""

    concurrency: int = 0
    max_waiting: int | None = None


# Stimuli --------------------------------------------------------------------------------------------------------------


@message
class RequestArrived:
    """A request for a known model arrived."""

    now: float
    request: int
    model: str
    priority: int = 0
    at_once: bool = False  # it must not wait: dispatched now, or rejected
    tenant: str = ""
    deadline: float | None = None  # when its client gives up; rejected at once where that cannot be met
    size: int = 0  # bytes of its body
    since: float | None = None  # when it began to wait, if that was elsewhere
    # Seconds after which its client is told to ask again, if its model is not ready. None: it may wait.
    retry_after: float | None = None
    # Seconds without a request after which the engine that serves it is to be unloaded. None: its client does not say.
    keep_alive: float | None = None


@message
class ClientDisconnected:
    """The client of a request has disconnected."""

    now: float
    request: int


@message
class RequestFinished:
    """The response of a request has been relayed, or has failed."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class WaitTimedOut:
    """A request has waited as long as its client allows."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class ServedByFallback:
    """A fallback answers a request: it leaves the queue, but its model is still wanted. Ignored if it was dispatched."""

    now: float
    request: int


@dataclass(frozen=True, slots=True)
class PrewarmRequested:
    """A model is to be loaded, though no request is queued for it."""

    now: float
    model: str


@dataclass(frozen=True, slots=True)
class ResidencySeen:
    """A residency was published."""

    now: float
    residency: Residency


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """The documents or the number of routers changed.

    It has all models, and the limits of the Workspace, of which each router has its share.
    """

    now: float
    models: Mapping[str, Limits]
    max_waiting: int
    max_waiting_per_tenant: int | None = None
    max_waiting_bytes: int | None = None
    sharing: Sharing = field(default_factory=Sharing)
    routers: int = 1


@dataclass(frozen=True, slots=True)
class RouterClosed:
    """The router shuts down: queued and new requests are rejected."""

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


@message
class Dispatch:
    """Relay a request to an instance."""

    request: int
    instance: str
    address: str


@dataclass(frozen=True, slots=True)
class Queued:
    """A request is queued."""

    request: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer a request with an error."""

    request: int
    error: type[HotseatError]
    code: str
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class AbortRequest:
    """End a request in flight with an error: its instance is stopped, or gone. RequestFinished still follows."""

    request: int
    message: str


@message
class ReportDemand:
    """Send a snapshot of demand: at once if urgent, else soon."""

    urgent: bool


AdmissionCommand = Dispatch | Queued | Reject | AbortRequest | ReportDemand
