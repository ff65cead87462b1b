"""The `status` of Model and Workspace on a cluster, as their CRDs describe it.

These classes describe; the switcher writes plain JSON. Times are RFC 3339, seconds are numbers.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from hotseat.api.types import Document

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Phase(StrEnum):
    """Summary of the state of a Model."""

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
    SAVING = "Saving"
    RESTORING = "Restoring"


class Condition(Document):
    """A condition, for `kubectl wait --for=condition=…`."""

    type: str = Field(description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(default="", description="Reason for the status, in CamelCase.")
    message: str = Field(default="", description="Human-readable explanation.")
    last_transition_time: Time = Field(default="", description="Time at which status last changed.")
    observed_generation: int = Field(default=0, description="Generation of the document that the condition is about.")


class Cached(Document):
    """State of the weights."""

    done: int = Field(default=0, description="Bytes that have been fetched.")
    total: int = Field(default=0, description="Total bytes, if known.")
    rate: int | None = Field(default=None, description="Bytes per second, while they are being fetched.")
    path: str = Field(default="", description="Path of the weights in the pod, once they are complete.")


class LastSwitch(Document):
    """Last switch to this Model."""

    id: str = Field(description="ID of the switch, as in events and in the Workspace's status.")
    outcome: str = Field(default="", description="running, completed, failed or cancelled.")
    ended_at: Time = Field(default="", description="Time at which the switch ended.")
    seconds: float = Field(default=0.0, description="Duration of the switch.")


class ModelStatusSchema(Document):
    """State of the Model as last seen by the switcher."""

    observed_generation: int = Field(default=0, description="Generation of the document that this status is about.")
    phase: Phase = Field(default=Phase.PENDING, description="Summary of the state of the Model.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Conditions: Ready, Cached, Resident, Degraded, and Parkable if lifecycle.release is Park. With "
        "the runtimes Deployment and KEDA also those of the Deployment: Available, Progressing and ReplicaFailure.",
    )
    address: str = Field(default="", description="Base URL of the engine while the Model is resident.")
    replicas: int = Field(default=0, description="Number of running pods.")
    ready_replicas: int | None = Field(default=None, description="Number of ready pods, of the Model's Deployment.")
    updated_replicas: int | None = Field(
        default=None, description="Number of pods with the newest template, of the Model's Deployment."
    )
    cached: Cached = Field(default=Cached(), description="State of the weights.")
    last_switch: LastSwitch | None = Field(default=None, description="Last switch to this Model.")
    workspace: str = Field(default="", description="Workspace of the Model.")
    pinned: bool = Field(
        default=False, description="Whether the Model is pinned: it is not evicted while it is resident."
    )


class TransitionSchema(Document):
    """One change of an instance's state."""

    at: Time = Field(description="When.")
    from_: str = Field(default="", alias="from", description="State before; empty: it began.")
    to: str = Field(default="", description="State after; empty: it is gone.")
    why: str = Field(default="", description="What moved it.")


class ResidentSchema(Document):
    """An instance that holds accelerator memory: a pod that is bound to a node and not verified to be gone."""

    model: str = Field(description="Its Model.")
    instance: str = Field(description="ID of the instance: workspace/model@epoch.")
    state: str = Field(
        description="loading, ready, quiescing, draining, releasing, unproven, parking, parked or waking."
    )
    epoch: int = Field(default=0, description="Decision that started it; 0: no decision of ours.")
    since: Time = Field(default="", description="When it entered this state.")
    address: str = Field(default="", description="Base URL, once ready.")
    more_addresses: tuple[str, ...] = Field(default=(), description="Base URLs of its further pods, oldest first.")
    leaving: str = Field(default="", description="Why it goes, where that is certain.")
    devices: tuple[str, ...] = Field(default=(), description="GPUs that it was given, where hotseat hands them out.")
    memory: int = Field(default=0, description="Bytes of host memory that it holds while parked, where known.")
    story: tuple[TransitionSchema, ...] = Field(default=(), description="Its last transitions, oldest first.")


class Listed(Document):
    """A Model, with the fields that routers need."""

    name: str = Field(description="Its name.")
    spec: dict[str, Any] = Field(default_factory=dict, description="What of its spec routing needs.")
    generation: int = Field(default=0, description="Generation of its document from which that is.")
    created_at: Time = Field(default="", description="When it was created: the older of two Models keeps a name.")
    state: str = Field(default="", description="State of its instance, or unloaded, fetching, failed.")
    since: Time = Field(default="", description="When it entered this state.")
    message: str = Field(default="", description="Why, for people.")
    done: int = Field(default=0, description="Bytes of its weights that are here.")
    total: int = Field(default=0, description="Bytes of its weights in all, where known.")
    rate: int = Field(
        default=0, description="Bytes of its weights that arrive in a second, while they are being fetched."
    )
    retry_at: Time = Field(default="", description="When it may be tried again.")
    pinned: bool = Field(default=False, description="While it is resident, it makes room for no other.")
    exit_code: int | None = Field(
        default=None, description="Exit code of the engine of a failed one, where it ended by itself."
    )


class RefusalSchema(Document):
    """Reason why requests for a Model are refused."""

    model: str = Field(description="The Model.")
    epoch: int = Field(default=0, description="Epoch of the decision that published the refusal.")
    code: str = Field(default="", description="Error code that clients get.")
    message: str = Field(default="", description="Human-readable explanation.")
    retry_at: Time = Field(default="", description="Time from which clients can retry.")
    waits: bool = Field(
        default=False, description="Requests whose deadline is later than this time are queued instead of refused."
    )


class Enrolled(Document):
    """An enrolled router."""

    id: str = Field(description="ID of the router, random for each process.")
    pod: str = Field(default="", description="Its pod.")
    seq: int = Field(default=0, description="Sequence number of the newest demand snapshot.")
    broker_seq: int = Field(default=0, description="Sequence number of the newest snapshot that came by the Broker.")


class Switched(Document):
    """A recent switch."""

    id: str = Field(description="ID of the switch, as in events.")
    from_: tuple[str, ...] = Field(default=(), alias="from", description="Models that were evicted.")
    to: str = Field(default="", description="Model that was loaded.")
    reason: str = Field(default="", description="Why.")
    outcome: str = Field(default="", description="running, completed, failed or cancelled.")
    message: str = Field(default="", description="Reason for the failure.")
    waiting: int = Field(default=0, description="Requests that were queued for the Model when the switch was decided.")
    started_at: Time = Field(default="", description="Time of the decision.")
    ended_at: Time = Field(default="", description="Time at which the switch ended.")
    phases: dict[str, float] = Field(default_factory=dict, description="Duration of each phase, in seconds.")
    saved: int = Field(default=0, description="Size of the prompt caches that were saved, in bytes.")
    restored: int = Field(default=0, description="Size of the prompt caches that were restored, in bytes.")


class QueuedSchema(Document):
    """Queue of one Model, over all routers."""

    model: str = Field(description="The Model.")
    waiting: int = Field(default=0, description="Number of queued requests.")
    oldest: Time = Field(default="", description="Arrival time of the oldest queued request.")
    in_flight: int = Field(default=0, description="Number of requests in flight.")


class Outlook(Document):
    """Lower bound of the time until a Model is ready."""

    model: str = Field(description="The Model.")
    seconds: float = Field(
        default=0.0,
        description="Seconds from outlookAt until the Model can be ready, from earlier load and stop times.",
    )


class Waiting(Document):
    """Why a Model waits. docs/scheduling.md has the reasons."""

    model: str = Field(description="The Model.")
    reason: str = Field(description="Reason in CamelCase, such as Batch, Draining or Loading.")
    message: str = Field(default="", description="Human-readable explanation.")
    expected_at: Time | None = Field(
        default=None, description="Time at which the Model is expected to serve, by earlier durations, if known."
    )
    behind: tuple[str, ...] = Field(default=(), description="Models that come first, in their order, 16 at most.")


class Seconds(Document):
    """Duration of a step."""

    mean: float = Field(default=0.0, description="Exponentially weighted moving average, in seconds.")
    spread: float = Field(default=0.0, description="Mean deviation from the average, in seconds.")


class Learned(Document):
    """Statistics of a Model with its current document, for the next switcher to start with."""

    model: str = Field(description="The Model.")
    mark: str = Field(default="", description="Hash of the document that the statistics are about.")
    load: Seconds | None = Field(default=None, description="Time from the start of the engine until it is ready.")
    drain: Seconds | None = Field(default=None, description="Time until requests in flight have ended.")
    stop: Seconds | None = Field(default=None, description="Time from the stop until the release is verified.")
    park: Seconds | None = Field(default=None, description="Time until the engine sleeps.")
    wake: Seconds | None = Field(default=None, description="Time until the engine is awake.")
    save: Seconds | None = Field(default=None, description="Time to save the prompt cache.")
    restore: Seconds | None = Field(default=None, description="Time to restore the prompt cache.")
    memory: int | None = Field(
        default=None, description="Accelerator memory that the Model uses, in bytes, if it is more than it claims."
    )
    parked_memory: int | None = Field(
        default=None, description="Host memory that the Model held while parked, in bytes."
    )


class WorkspaceStatus(Document):
    """State of the Workspace, as routers see it."""

    observed_generation: int = Field(default=0, description="Generation of the document that this status is about.")
    epoch: int = Field(default=0, description="Number of the latest decision. Increases with each decision.")
    runtime: str = Field(default="", description="Runtime that was chosen: Knative, KEDA or Deployment.")
    active_model: str = Field(
        default="",
        description="Value of spec.activeModel whose load has ended, with or without success. It is not loaded again "
        "until the field changes.",
    )
    resident: str = Field(default="", description="Names of the resident Models, for display.")
    since: Time | None = Field(default=None, description="Time of the last change of an instance.")
    switching: str = Field(default="", description="Models that are being switched to, and the phase, for display.")
    waiting: int = Field(default=0, description="Number of queued requests, for all Models.")
    waiting_for: str = Field(
        default="", description="Models with queued requests, how many, and why they wait, for display."
    )
    waits: tuple[Waiting, ...] = Field(
        default=(),
        description="Why Models wait. It is written when a reason changes, or with something else that has changed.",
    )
    residents: tuple[ResidentSchema, ...] = Field(default=(), description="All instances.")
    models: tuple[Listed, ...] = Field(
        default=(), description="Models of the Workspace, with the fields that routers need."
    )
    refusals: tuple[RefusalSchema, ...] = Field(default=(), description="Models whose requests are refused.")
    effective_max_wait: float | None = Field(
        default=None, description="Bound on waiting in force, in seconds. Above policy.maxWait if that cannot be met."
    )
    routers: tuple[Enrolled, ...] = Field(default=(), description="Enrolled routers, whose demand is considered.")
    queue: tuple[QueuedSchema, ...] = Field(
        default=(), description="Models with queued requests or requests in flight."
    )
    switches: tuple[Switched, ...] = Field(default=(), description="Latest switches, newest last.")
    conditions: tuple[Condition, ...] = Field(default=(), description="Conditions of the Workspace.")
    outlook: tuple[Outlook, ...] = Field(
        default=(), description="Models that are not ready, and how soon they can be, if known."
    )
    outlook_at: Time | None = Field(default=None, description="Time to which outlook refers.")
    parked: str = Field(default="", description="Names of the parked Models, for display.")
    learned: tuple[Learned, ...] = Field(
        default=(), description="Statistics of the Models, for the next switcher to start with."
    )
