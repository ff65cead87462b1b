"""The messages between the two machines, the routers and the runtimes.

On one machine these objects are handed over. On a cluster they travel: demand as CloudEvents, the
residency as the status of the Workspace. Times are seconds on the clock of the sender, and are
compared only with times of the same clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar, dataclass_transform

EXTERNAL_EPOCH = 0  # of external servers, which are not started or stopped


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def message(cls: type[T]) -> type[T]:
    """Make a dataclass that is frozen for type checkers only, because Python takes ten times as long to create a frozen one."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


def replica_name(model: str, replica: int) -> str:
    """Return an instance's name in decisions and switches: its model's, with a number for later replicas."""
    return model if replica == 1 else f"{model}#{replica}"


def model_of(name: str) -> str:
    """Return the model of an instance's name. A model's own name has no `#`."""
    return name.partition("#")[0]


def instance_id(workspace: str, model: str, epoch: int) -> str:
    """Return the id of the instance of MODEL that the decision EPOCH starts. It is unique over all Workspaces."""
    return f"{workspace}/{model}@{epoch}"


def workspace_of(instance: str) -> str:
    """Return the Workspace of an instance id. No Workspace's name has a `/`."""
    return instance.partition("/")[0]


class InstanceState(StrEnum):
    """The state of an instance."""

    LOADING = "loading"
    READY = "ready"
    QUIESCING = "quiescing"  # serves its batch: the requests that were queued when it was told to leave
    DRAINING = "draining"  # finishes what is in flight
    RELEASING = "releasing"  # told to stop; not yet proven gone
    UNPROVEN = "unproven"  # could not be proven gone: it holds its claim until a person settles it
    PARKING = "parking"  # told to sleep; not yet proven off the accelerator
    PARKED = "parked"  # its process is kept, and holds host memory only
    WAKING = "waking"  # told to return to the accelerator
    SAVING = "saving"  # drained, and saves its prompt cache before it stops
    RESTORING = "restoring"  # loaded, and restores its prompt cache before it is ready


class CacheState(StrEnum):
    """Where the weights of a Model are."""

    ABSENT = "absent"
    FETCHING = "fetching"
    CACHED = "cached"
    FAILED = "failed"


class WaitReason(StrEnum):
    """Why a Model with queued requests is not served at present."""

    LOADING = "Loading"
    WAKING = "Waking"
    DRAINING = "Draining"  # a resident leaves for it
    RELEASING = "Releasing"  # one has left for it, and is not proven gone yet
    BATCH = "Batch"  # the resident serves what was queued
    MIN_RESIDENCY = "MinResidency"
    LINGERING = "Lingering"  # an idle resident is kept for its next request
    TURN = "Turn"  # other Models come first
    PRIORITY = "Priority"  # … because theirs is higher
    PINNED = "Pinned"
    GROUP = "Group"
    CAPACITY = "Capacity"  # it does not fit beside what cannot leave
    UNPROVEN = "Unproven"
    CONCURRENCY = "Concurrency"  # it is ready, and serves as many requests as it may at a time
    FETCHING = "Fetching"
    BACKOFF = "Backoff"
    DISPATCHING = "Dispatching"  # it is ready, or is about to be loaded


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a Model with queued requests, or one that is to be loaded, waits, and when it is expected to serve."""

    reason: WaitReason
    message: str
    expected: float | None = None  # seconds on the clock of the sender; None: what it depends on was not measured yet
    behind: tuple[str, ...] = ()  # the first Models that come first, in their order


@dataclass(frozen=True, slots=True, repr=False)
class Transition:
    """A change of the state of an instance. `before` is None where it began, `after` where it is gone."""

    at: float  # seconds
    before: InstanceState | None
    after: InstanceState | None
    why: str  # its trigger (see instance.py), with a detail

    def __repr__(self) -> str:
        return f"{self.at:.1f} {self.before or 'new'} → {self.after or 'gone'} ({self.why})"


@dataclass(frozen=True, slots=True)
class Resident:
    """An instance, as routers see it."""

    model: str
    instance: str
    state: InstanceState
    epoch: int  # of the decision that started it: part of its identity
    since: float  # when it entered this state
    address: str | None = None  # http://host:port once ready
    leaving: str | None = None  # why it is stopped, where that is certain
    devices: tuple[str, ...] = ()  # GPUs that it was assigned, where hotseat assigns them
    memory: int | None = None  # bytes of host memory, while parked, where known
    story: tuple[Transition, ...] = field(default=(), compare=False)  # its last transitions, for people
    more: tuple[str, ...] = ()  # addresses of its further pods, oldest first

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it answers. Each of them takes as many requests at once as its Model allows one engine."""
        return () if self.address is None else (self.address, *self.more)

    @property
    def on_accelerator(self) -> bool:
        """Whether it holds accelerator memory of this Workspace: external servers and parked engines do not."""
        return self.epoch != EXTERNAL_EPOCH and self.state is not InstanceState.PARKED


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the queued requests of a Model are rejected.

    Requests that a router held when it first saw this epoch are rejected with it; until `retry_at`,
    new ones are too. With `waits`, that concerns only requests whose deadline is before `retry_at`:
    the others stay queued.
    """

    epoch: int
    code: str
    message: str
    retry_at: float | None = None
    waits: bool = False

    def concerns(self, deadline: float | None) -> bool:
        """Whether a request with this deadline is rejected. None: its client set none."""
        return not self.waits or (deadline is not None and self.retry_at is not None and deadline < self.retry_at)


@dataclass(frozen=True, slots=True)
class Residency:
    """The instances of a Workspace and their states: all that routers act on."""

    epoch: int = 0
    residents: tuple[Resident, ...] = ()
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    effective_max_wait: float | None = None  # seconds; above the configured bound where that cannot be met
    outlook: Mapping[str, float] = field(default_factory=dict)  # by model: seconds until it can be ready at the soonest
    at: float = field(default=0.0, compare=False)  # when this was so


@dataclass(frozen=True, slots=True)
class QueuedDemand:
    """The queued requests of one Model at one router."""

    count: int
    oldest: float  # arrival of the oldest
    priority: int = 0  # highest among them
    tenants: Mapping[str, int] = field(default_factory=dict)  # of the tenants with the most; empty: none has a name
    deadline: float | None = None  # earliest that a client has set


@dataclass(frozen=True, slots=True)
class Demand:
    """A snapshot of what one router has queued and in flight. It is complete, so a lost or repeated one does no harm."""

    router: str
    seq: int
    seen_epoch: int
    waiting: Mapping[str, QueuedDemand] = field(default_factory=dict)  # by model
    in_flight: Mapping[str, int] = field(default_factory=dict)  # by instance
    # By instance: requests ever dispatched, so that short ones are seen.
    served: Mapping[str, int] = field(default_factory=dict)
    quiescing: Mapping[str, int] = field(default_factory=dict)  # by model: queued requests of batches
    requested: tuple[str, ...] = ()  # models with queued requests now, and not in the last snapshot
    # By model: since when it is to be prewarmed (admission/fallback.py).
    wanted: Mapping[str, float] = field(default_factory=dict)
    # By instance with several pods: how many it must keep, the oldest, so that no pod with a request in flight ends.
    busy_pods: Mapping[str, int] = field(default_factory=dict)
    # By model: until when clients that were refused because it was not ready are expected again (admission/retries.py).
    retries: Mapping[str, float] = field(default_factory=dict)
    # By instance: how many seconds it stays without a request, as the last request said that said so, and when that was dispatched.
    keep_alive: Mapping[str, tuple[float, float]] = field(default_factory=dict)


# Commands of the scheduler to a runtime -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the weights of a Model, or check that a load can begin. Answered by CacheObserved."""

    model: str


@dataclass(frozen=True, slots=True)
class Start:
    """Load a Model. Answered by InstanceReady or InstanceFailed.

    `devices` are the GPUs to use. Empty where it needs none, or where they are assigned elsewhere.
    """

    model: str
    instance: str
    epoch: int
    devices: tuple[str, ...] = ()
    pods: int = 1  # most that it may have at once: its claim is for so many


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop an instance. Answered by InstanceReleased or InstanceUnproven.

    `grace` is the time between asking and forcing, in seconds.
    """

    model: str
    instance: str
    epoch: int
    grace: float


@dataclass(frozen=True, slots=True)
class Park:
    """Let a ready engine leave the accelerator and keep its process. Answered by InstanceParked or SleepFailed.

    `turn` counts such commands to one instance: an answer to an earlier one is ignored.
    """

    model: str
    instance: str
    epoch: int
    turn: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Let a parked engine return to the accelerator. Answered by InstanceReady with this `turn`, or SleepFailed."""

    model: str
    instance: str
    epoch: int
    turn: int


@dataclass(frozen=True, slots=True)
class _TransferPrompts:
    """`timeout` is the bound, in seconds. What is not done by then is dropped."""

    model: str
    instance: str
    epoch: int
    timeout: float


class SavePrompts(_TransferPrompts):
    """Save the prompt cache of a drained engine. Answered by PromptsSaved, unless the engine ends or is stopped before."""

    __slots__ = ()


class RestorePrompts(_TransferPrompts):
    """Restore the prompt cache of an engine that has loaded. Answered by PromptsRestored, in the same way."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class LimitPrompts:
    """Keep at most so many bytes of prompt caches of a Workspace from now on, the least recently used first. 0 at first."""

    workspace: str
    size: int


PromptCommand = SavePrompts | RestorePrompts | LimitPrompts
RuntimeCommand = Fetch | Start | Stop | Park | Wake | PromptCommand


# What a runtime observes ----------------------------------------------------------------------------------------------


FETCH_FAILED = "FetchFailed"  # default reason of CacheObserved


@dataclass(frozen=True, slots=True)
class CacheObserved:
    """The state of the weights of a Model. `done` and `total` are bytes, where known.

    FAILED means that no load can begin: for the weights, or for a `reason` of its own, such as an
    engine that is not installed. FETCHING with a `reason` of its own means that the fetch cannot
    run at present.
    """

    now: float
    model: str
    state: CacheState
    message: str = ""
    done: int | None = None
    total: int | None = None
    reason: str = FETCH_FAILED


@dataclass(frozen=True, slots=True)
class InstancePending:
    """What an instance waits for while it loads, such as a node with a free GPU. Empty: it waits no longer."""

    now: float
    instance: str
    epoch: int
    message: str


@dataclass(frozen=True, slots=True)
class InstanceReady:
    """The engine answers at `address` (http://host:port)."""

    now: float
    instance: str
    epoch: int
    address: str
    turn: int = 0  # of the Wake that it answers; 0: it has loaded
    prompts: int = 0  # bytes of prompt caches that can be restored


@dataclass(frozen=True, slots=True)
class EndpointsChanged:
    """A ready instance with several pods answers at these addresses from now on, one for each pod that serves."""

    now: float
    instance: str
    epoch: int
    addresses: tuple[str, ...]  # at least one; oldest pod first


@dataclass(frozen=True, slots=True)
class InstanceFailed:
    """The engine ended by itself, did not get ready, or `lives` and does not answer.

    It holds its claim until InstanceReleased.
    """

    now: float
    instance: str
    epoch: int
    reason: str  # CamelCase, as Kubernetes reasons: Exited, StartTimeout, OutOfMemory, CommandNotFound …
    message: str  # with the last lines of its log, where there are any
    lives: bool = False  # it has to be told to stop
    exit_code: int | None = None  # of the engine, where it ended; 128 and its number for a signal


@dataclass(frozen=True, slots=True)
class InstanceReleased:
    """Proof that nothing of an instance is left."""

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
    """An instance was found at startup, started by an earlier run or by a user."""

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
    """The accelerator memory that a ready instance was measured to take, in bytes over all its devices."""

    now: float
    instance: str
    epoch: int
    memory: int


@dataclass(frozen=True, slots=True)
class InstanceParked:
    """Proof that an engine is off the accelerator.

    It says that it sleeps, and its accelerator memory was seen to fall, where that can be measured.
    """

    now: float
    instance: str
    epoch: int
    turn: int
    memory: int | None = None  # bytes of host memory that its processes hold; None: not known
    keeps_prompts: bool | None = None  # its prompt cache is there after it wakes; None: not known


@dataclass(frozen=True, slots=True)
class SleepFailed:
    """An engine did not fall asleep, or did not wake. Its process lives, and what it holds is not known."""

    now: float
    instance: str
    epoch: int
    turn: int
    message: str


@dataclass(frozen=True, slots=True)
class PromptsSaved:
    """An engine has saved what is kept of its prompt cache; nothing, if `size` is 0. It answers SavePrompts."""

    now: float
    instance: str
    epoch: int
    tokens: int = 0
    size: int = 0  # bytes


@dataclass(frozen=True, slots=True)
class PromptsRestored:
    """An engine has restored what could be restored of its prompt cache. It answers RestorePrompts."""

    now: float
    instance: str
    epoch: int
    tokens: int = 0
    size: int = 0  # bytes


@dataclass(frozen=True, slots=True)
class PromptsDropped:
    """A part of the prompt cache of an instance, or of another `model` that makes room for it, is not kept.

    It may come at any time.
    """

    now: float
    instance: str
    epoch: int
    reason: str  # CamelCase
    message: str
    tokens: int = 0
    size: int = 0  # bytes
    model: str = ""  # empty: that of the instance


# Observations of a known instance.
InstanceObservation = (
    InstancePending
    | InstanceReady
    | EndpointsChanged
    | InstanceFailed
    | InstanceReleased
    | InstanceUnproven
    | InstanceMeasured
    | InstanceParked
    | SleepFailed
    | PromptsSaved
    | PromptsRestored
    | PromptsDropped
)
Observation = CacheObserved | InstanceAdopted | InstanceObservation
