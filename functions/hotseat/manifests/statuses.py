"""What a cluster's objects say of themselves: the `status` of Model and Workspace, as their CRDs describe it.

These classes describe; the switcher writes plain JSON. Times are RFC 3339, seconds are numbers.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from hotseat.core.base import Document

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Phase(StrEnum):
    """Where a Model is between its document and its answers."""

    PENDING = "Pending"
    FETCHING = "Fetching"
    UNLOADED = "Unloaded"
    LOADING = "Loading"
    READY = "Ready"
    DRAINING = "Draining"
    RELEASING = "Releasing"
    FAILED = "Failed"
    RELEASE_UNPROVEN = "ReleaseUnproven"
    PARKING = "Parking"
    PARKED = "Parked"
    WAKING = "Waking"


class Condition(Document):
    """One aspect of the state, as `kubectl wait --for=condition=…` reads it."""

    type: str = Field(description="Aspect that it is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(default="", description="Why, in one word for programs.")
    message: str = Field(default="", description="Why, for people.")
    last_transition_time: Time = Field(default="", description="When status last changed.")
    observed_generation: int = Field(default=0, description="Generation of the document that it is about.")


class Cached(Document):
    """How much of the weights is here."""

    done: int = Field(default=0, description="Bytes that are here.")
    total: int = Field(default=0, description="Bytes in all, where known.")
    path: str = Field(default="", description="Where they are, in the pod, once all are here.")


class LastSwitch(Document):
    """The last switch to this Model."""

    id: str = Field(description="Its id, as in events and in the Workspace's status.")
    outcome: str = Field(default="", description="running, completed, failed or cancelled.")
    ended_at: Time = Field(default="", description="When it ended.")
    seconds: float = Field(default=0.0, description="How long it took.")


class ModelStatus(Document):
    """What the switcher last saw of the Model."""

    observed_generation: int = Field(default=0, description="Generation of the document that this is about.")
    phase: Phase = Field(default=Phase.PENDING, description="Where it is between its document and its answers.")
    conditions: tuple[Condition, ...] = Field(
        default=(), description="Ready, Cached, Resident, Degraded, and Parkable where it shall park."
    )
    address: str = Field(default="", description="Base URL of the engine while it is resident.")
    replicas: int = Field(default=0, description="Pods that run.")
    cached: Cached = Field(default=Cached(), description="How much of the weights is here.")
    last_switch: LastSwitch | None = Field(default=None, description="The last switch to this Model.")
    workspace: str = Field(default="", description="Workspace that it belongs to.")
    pinned: bool = Field(default=False, description="While it is resident, it makes room for no other.")


class Transition(Document):
    """One change of a holder's state."""

    at: Time = Field(description="When.")
    from_: str = Field(default="", alias="from", description="State before; empty: it began.")
    to: str = Field(default="", description="State after; empty: it is gone.")
    why: str = Field(default="", description="What moved it.")


class Resident(Document):
    """A holder of accelerator: a pod that is bound to a node and not proven gone."""

    model: str = Field(description="Its Model.")
    holder: str = Field(description="Its id: workspace/model@epoch.")
    state: str = Field(description="loading, ready, closing, draining, releasing, unproven, parking, parked or waking.")
    epoch: int = Field(default=0, description="Decision that started it; 0: no decision of ours.")
    since: Time = Field(default="", description="When it entered this state.")
    address: str = Field(default="", description="Base URL, once ready.")
    leaving: str = Field(default="", description="Why it goes, where that is certain.")
    devices: tuple[str, ...] = Field(default=(), description="GPUs that it was given, where hotseat hands them out.")
    memory: int = Field(default=0, description="Bytes of host memory that it holds while parked, where known.")
    story: tuple[Transition, ...] = Field(default=(), description="Its last transitions, oldest first.")


class Listed(Document):
    """A Model as routers need to know it."""

    name: str = Field(description="Its name.")
    spec: dict[str, Any] = Field(default_factory=dict, description="What of its spec routing needs.")
    state: str = Field(default="", description="State of its holder, or unloaded, fetching, failed.")
    since: Time = Field(default="", description="When it entered this state.")
    message: str = Field(default="", description="Why, for people.")
    done: int = Field(default=0, description="Bytes of its weights that are here.")
    total: int = Field(default=0, description="Bytes of its weights in all, where known.")
    retry_at: Time = Field(default="", description="When it may be tried again.")
    pinned: bool = Field(default=False, description="While it is resident, it makes room for no other.")
    exit_code: int | None = Field(
        default=None, description="Exit code of the engine of a failed one, where it ended by itself."
    )


class Refusal(Document):
    """Why requests for a Model are sent away."""

    model: str = Field(description="The Model.")
    epoch: int = Field(default=0, description="Decision that it came with.")
    code: str = Field(default="", description="Code of the error.")
    message: str = Field(default="", description="Why, for people.")
    retry_at: Time = Field(default="", description="When to try again.")
    waits: bool = Field(default=False, description="Requests that have time until then wait instead.")


class Enrolled(Document):
    """A router whose demand counts."""

    id: str = Field(description="Random, one for each process.")
    pod: str = Field(default="", description="Its pod.")
    seq: int = Field(default=0, description="Newest snapshot of its demand that has come.")
    broker_seq: int = Field(default=0, description="Newest one that came by the Broker.")


class Switched(Document):
    """One of the last switches."""

    id: str = Field(description="Its id, as in events.")
    from_: tuple[str, ...] = Field(default=(), alias="from", description="Models that left.")
    to: str = Field(default="", description="Model that came.")
    reason: str = Field(default="", description="Why.")
    outcome: str = Field(default="", description="running, completed, failed or cancelled.")
    message: str = Field(default="", description="What went wrong.")
    waiting: int = Field(default=0, description="Requests that waited for it when it was decided.")
    started_at: Time = Field(default="", description="When it was decided.")
    ended_at: Time = Field(default="", description="When it ended.")
    phases: dict[str, float] = Field(default_factory=dict, description="Seconds of each phase.")


class Queued(Document):
    """The queue for one Model, over all routers."""

    model: str = Field(description="The Model.")
    waiting: int = Field(default=0, description="Requests that wait.")
    oldest: Time = Field(default="", description="When the oldest of them came.")
    in_flight: int = Field(default=0, description="Requests that are being answered.")


class Outlook(Document):
    """How soon a Model can be ready at best."""

    model: str = Field(description="The Model.")
    seconds: float = Field(
        default=0.0, description="Seconds from outlookAt on, by what loading and stopping took before."
    )


class Seconds(Document):
    """How long a step takes."""

    mean: float = Field(default=0.0, description="Seconds on average; the newest time counts most.")
    spread: float = Field(default=0.0, description="Seconds by which it differs from that, on average.")


class Learned(Document):
    """What was learned of a Model while its document was as it is; the next switcher begins with it."""

    model: str = Field(description="The Model.")
    mark: str = Field(default="", description="Stands for that document.")
    load: Seconds | None = Field(default=None, description="From its start until it is ready.")
    drain: Seconds | None = Field(default=None, description="Until what was in flight has ended.")
    stop: Seconds | None = Field(default=None, description="From its stop until it is proven gone.")
    park: Seconds | None = Field(default=None, description="Until it sleeps.")
    wake: Seconds | None = Field(default=None, description="Until it is awake.")
    memory: int | None = Field(
        default=None, description="Bytes of accelerator that it takes, where more than it claims."
    )
    parked_memory: int | None = Field(default=None, description="Bytes of host memory that it held while parked.")


class WorkspaceStatus(Document):
    """The truth about who holds what of the Workspace."""

    observed_generation: int = Field(default=0, description="Generation of the document that this is about.")
    epoch: int = Field(default=0, description="Grows with every decision.")
    resident: str = Field(default="", description="Names of the Models that are resident, for people.")
    waiting: int = Field(default=0, description="Requests that wait, for all Models.")
    residents: tuple[Resident, ...] = Field(default=(), description="All holders.")
    models: tuple[Listed, ...] = Field(default=(), description="All Models of the Workspace, as routers need them.")
    refusals: tuple[Refusal, ...] = Field(default=(), description="Models whose requests are sent away.")
    effective_max_wait: float | None = Field(
        default=None, description="Seconds; above the bound that was asked for where that cannot be met."
    )
    routers: tuple[Enrolled, ...] = Field(default=(), description="Routers whose demand counts.")
    queue: tuple[Queued, ...] = Field(default=(), description="Models that somebody waits for or talks to.")
    switches: tuple[Switched, ...] = Field(default=(), description="The last switches, newest last.")
    conditions: tuple[Condition, ...] = Field(default=(), description="Ready, and what is wrong.")
    outlook: tuple[Outlook, ...] = Field(
        default=(), description="Models that are not ready and how soon they can be, where that is known."
    )
    outlook_at: Time | None = Field(default=None, description="When outlook was so.")
    parked: str = Field(default="", description="Names of the Models that are parked, for people.")
    learned: tuple[Learned, ...] = Field(
        default=(), description="What was learned of the Models, for the next switcher to begin with."
    )
