"""What the two machines, the routers and the runtimes say to each other.

On one machine these objects are handed over; on a cluster they travel (demand as CloudEvents, residency as the Workspace's
status). Times are seconds on the sender's clock and are compared only with times that came the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

EXTERNAL_EPOCH = 0  # of servers that run without us: no decision started them, and none stops them


def replica_name(model: str, replica: int) -> str:
    """Return the name that an instance has in decisions and switches: its model's own, with a number for all but the first."""
    return model if replica == 1 else f"{model}#{replica}"


def model_of(name: str) -> str:
    """Return the model of such a name. No model's own name has a `#`."""
    return name.partition("#")[0]


class InstanceState(StrEnum):
    """State of an instance: of what really occupies a seat."""

    LOADING = "loading"
    READY = "ready"
    QUIESCING = "quiescing"  # serves its batch: the requests that were queued when it was told to leave
    DRAINING = "draining"  # what is in flight may finish
    RELEASING = "releasing"  # told to stop; not yet proven gone
    UNPROVEN = "unproven"  # could not be proven gone: the seat stays taken until somebody settles it
    PARKING = "parking"  # told to sleep; not yet proven off the accelerator
    PARKED = "parked"  # its process is kept, and holds host memory only
    WAKING = "waking"  # told to come back to the accelerator


class CacheState(StrEnum):
    """Where a Model's weights are."""

    ABSENT = "absent"
    FETCHING = "fetching"
    CACHED = "cached"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, repr=False)
class Transition:
    """One change of an instance's state. `before` is None where it began, `after` where it is gone."""

    at: float  # seconds
    before: InstanceState | None
    after: InstanceState | None
    why: str  # its trigger (see instance.py), with a detail

    def __repr__(self) -> str:
        return f"{self.at:.1f} {self.before or 'new'} → {self.after or 'gone'} ({self.why})"


@dataclass(frozen=True, slots=True)
class Resident:
    """One instance of a seat, as routers see it."""

    model: str
    instance: str
    state: InstanceState
    epoch: int  # of the decision that started it: the instance's identity
    since: float  # when it entered this state
    address: str | None = None  # http://host:port once ready
    leaving: str | None = None  # why it goes, where that is certain
    devices: tuple[str, ...] = ()  # GPUs that it was given, where they are ours to hand out
    memory: int | None = None  # bytes of host memory, while parked, where known
    story: tuple[Transition, ...] = field(default=(), compare=False)  # its last transitions, for people

    @property
    def on_accelerator(self) -> bool:
        """Whether it holds a seat of ours: external servers hold none, and what is parked has given it back."""
        return self.epoch != EXTERNAL_EPOCH and self.state is not InstanceState.PARKED


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a Model's waiting requests are sent away.

    Requests that a router held when it first saw this epoch are answered with it; until `retry_at`, new ones are too. Where
    `waits` is set, that concerns only those whose own bound ends before `retry_at`: the others wait it out.
    """

    epoch: int
    code: str
    message: str
    retry_at: float | None = None
    waits: bool = False

    def concerns(self, deadline: float | None) -> bool:
        """Whether a request is sent away that its client has use for until `deadline`; None: the client set no bound."""
        return not self.waits or (deadline is not None and self.retry_at is not None and deadline < self.retry_at)


@dataclass(frozen=True, slots=True)
class Residency:
    """Who holds the accelerator of one Workspace: the only thing that routers act on."""

    epoch: int = 0
    residents: tuple[Resident, ...] = ()
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    effective_max_wait: float | None = None  # seconds; above the asked-for bound where that cannot be met
    outlook: Mapping[str, float] = field(default_factory=dict)  # by model: seconds until it can be ready at the soonest
    at: float = field(default=0.0, compare=False)  # when this was so


@dataclass(frozen=True, slots=True)
class QueuedDemand:
    """The requests of one Model that wait at one router."""

    count: int
    oldest: float  # arrival of the oldest
    priority: int = 0  # highest among them
    tenants: Mapping[str, int] = field(default_factory=dict)  # those of whom most wait; empty: nobody has a name
    deadline: float | None = None  # earliest of those whose clients set one


@dataclass(frozen=True, slots=True)
class Demand:
    """All that one router wants and does; a whole snapshot, so losing or repeating one does no harm."""

    router: str
    seq: int
    seen_epoch: int
    waiting: Mapping[str, QueuedDemand] = field(default_factory=dict)  # by model
    in_flight: Mapping[str, int] = field(default_factory=dict)  # by instance
    served: Mapping[str, int] = field(
        default_factory=dict
    )  # by instance: requests ever dispatched, so that short ones are seen
    quiescing: Mapping[str, int] = field(default_factory=dict)  # by model: queued requests of batches
    requested: tuple[str, ...] = ()  # models that wait since this snapshot, and did not before
    wanted: Mapping[str, float] = field(
        default_factory=dict
    )  # by model: since when, though nobody waits (admission/prewarm.py)


# Commands of the switching machine to a runtime -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetch:
    """See to it that a load can begin: bring the weights of a Model, unless they are there. Answered by CacheObserved."""

    model: str


@dataclass(frozen=True, slots=True)
class Start:
    """Load a Model; answered by InstanceReady or InstanceFailed.

    `devices` are the GPUs that it is to use; empty where it needs none, or where somebody else hands them out.
    """

    model: str
    instance: str
    epoch: int
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """Take an instance off the accelerator; answered by InstanceReleased or InstanceUnproven.

    `grace` is the time between asking and forcing, in seconds.
    """

    model: str
    instance: str
    epoch: int
    grace: float


@dataclass(frozen=True, slots=True)
class Park:
    """Have a ready engine leave the accelerator and keep its process; answered by InstanceParked or SleepFailed.

    `turn` counts such orders to one instance: an answer to an earlier one says nothing of this one.
    """

    model: str
    instance: str
    epoch: int
    turn: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Have a parked engine come back to the accelerator; answered by InstanceReady with this `turn`, or SleepFailed."""

    model: str
    instance: str
    epoch: int
    turn: int


RuntimeCommand = Fetch | Start | Stop | Park | Wake


# What a runtime observes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheObserved:
    """State of a Model's weights. `done`/`total` are bytes, where known.

    FAILED says that no load can begin: for the weights, or for a `reason` of its own, such as an engine that is not installed.
    """

    now: float
    model: str
    state: CacheState
    message: str = ""
    done: int | None = None
    total: int | None = None
    reason: str = "FetchFailed"


@dataclass(frozen=True, slots=True)
class InstanceReady:
    """The engine answers at `address` (http://host:port)."""

    now: float
    instance: str
    epoch: int
    address: str
    turn: int = 0  # of the Wake that it answers; 0: it has loaded


@dataclass(frozen=True, slots=True)
class InstanceFailed:
    """The engine ended by itself, or never got ready, or `lives` and answers no more. The seat is not free before InstanceReleased."""

    now: float
    instance: str
    epoch: int
    reason: str  # CamelCase, as Kubernetes reasons: Exited, StartTimeout, OutOfMemory, CommandNotFound …
    message: str  # with the last lines of its log, where there are any
    lives: bool = False  # it has to be told to stop
    exit_code: int | None = None  # of the engine, where it ended; 128 and its number for a signal


@dataclass(frozen=True, slots=True)
class InstanceReleased:
    """Proof that nothing of this instance is left."""

    now: float
    instance: str
    epoch: int


@dataclass(frozen=True, slots=True)
class InstanceUnproven:
    """The instance should be gone, but its release could not be verified."""

    now: float
    instance: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class InstanceAdopted:
    """An instance found at startup that a previous run, or a user, had started."""

    now: float
    model: str
    instance: str
    epoch: int
    address: str | None  # None: not ready
    releasing: bool = False  # it has been told to stop already
    fingerprint: str | None = None  # of the document that it was started with; None: not known, taken for today's
    gpus: int | None = None  # what it occupies; None: not known, taken for what the document says
    devices: tuple[str, ...] = ()  # GPUs that it was started with, where we handed them out


@dataclass(frozen=True, slots=True)
class InstanceMeasured:
    """What a ready instance was seen to take of the accelerator's memory, in bytes over all its devices."""

    now: float
    instance: str
    epoch: int
    memory: int


@dataclass(frozen=True, slots=True)
class InstanceParked:
    """Proof that it is off the accelerator: the engine says that it sleeps, and its memory there fell, where that can be seen."""

    now: float
    instance: str
    epoch: int
    turn: int
    memory: int | None = None  # bytes of host memory that its processes hold; None: not known


@dataclass(frozen=True, slots=True)
class SleepFailed:
    """It did not fall asleep, or did not wake up. Its process is still there, and what it holds is not known."""

    now: float
    instance: str
    epoch: int
    turn: int
    message: str


InstanceObservation = (
    InstanceReady
    | InstanceFailed
    | InstanceReleased
    | InstanceUnproven
    | InstanceMeasured
    | InstanceParked
    | SleepFailed
)  # of a known one
Observation = CacheObserved | InstanceAdopted | InstanceObservation
