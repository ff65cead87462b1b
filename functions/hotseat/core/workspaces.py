"""The document that says how an accelerator is shared: Workspace. What holds for documents is in documents.py. Pure."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from hotseat.core.base import API_VERSION, HEADER_PATTERN, DeviceName, Document, Metadata, Name
from hotseat.core.units import AutoDuration, Bytes, Duration

DEFAULT_WORKSPACE = "default"
SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key")


class Capacity(Document):
    """How much accelerator there is to share."""

    gpus: Annotated[int, Field(ge=0, le=1024)] = Field(default=1, description="GPUs (seats).")
    accelerator_memory: Bytes | None = Field(
        default=None,
        description="Memory of all its GPUs together, each of which has the same part of it; unset: only GPUs are counted.",
    )
    devices: Annotated[tuple[DeviceName, ...], Field(max_length=64)] = Field(
        default=(),
        description="Which GPUs these are, by number or UUID (one machine). Unset: the first that no other Workspace has.",
    )
    host_memory: Bytes | None = Field(
        default=None,
        description="Host memory for parked Models; the least recently used are stopped for others. Unset: half of the machine's "
        "memory, shared evenly by the Workspaces that state none. 0: nothing that holds memory is parked.",
    )
    counted: bool = Field(
        default=True,
        description="Add up what residents claim. false: groups or sets alone say who may be resident together; each claim "
        "still has its proof that the GPU is free.",
    )

    @field_validator("devices")
    @classmethod
    def _devices_are_the_gpus(cls, devices: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if devices and len(devices) != info.data.get("gpus", len(devices)):
            raise ValueError(f"devices names {len(devices)} GPUs, but gpus is {info.data['gpus']}")
        if doubled := sorted({name for name in devices if devices.count(name) > 1}):
            raise ValueError(f"devices names {', '.join(doubled)} twice")
        return devices


class Queue(Document):
    """How many requests may wait; what comes beyond is answered 429."""

    max_waiting: Annotated[int, Field(ge=0, le=100_000)] = Field(default=1000, description="In the whole Workspace.")
    max_waiting_per_model: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="For one Model."
    )
    max_waiting_per_tenant: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="Of one tenant, for all Models."
    )
    max_waiting_bytes: Bytes = Field(
        default=2**30,
        description="Of the bodies of all that wait together: they are kept in memory until an engine gets them.",
    )


class Policy(Document):
    """Who is next, and the defaults for Models that say nothing."""

    name: str = Field(default="batch", description="batch, fifo, priority, or one that a package adds.")
    max_wait: AutoDuration = Field(
        default=None,
        description="Bound on the wait for a turn. Auto: ten times what a switch was measured to cost while that is under a minute, "
        "else a minute or three times the cost, whichever is more; at least 5 s, and 30 s before anything is measured.",
    )
    min_residency: Duration = Field(default=0.0, description="Once ready, it keeps its seat for so long, used or not.")
    # As long as maxWait: whoever asks for one step less goes before those who come that bound later.
    ageing: Duration = Field(
        default=30.0,
        description="For each such time that a request has waited, its priority, and that of its Model among others, counts one higher; "
        "`0s`: never.",
    )


class Tenants(Document):
    """Whose requests take turns with whose, in the queue of one Model. Without a header, a tenant is an API key, by its number."""

    header: Annotated[str, Field(pattern=HEADER_PATTERN, max_length=100)] | None = Field(
        default=None,
        description="Header of a request that names its tenant, where something in front of hotseat sets it; without it, the key does.",
    )
    # Whole numbers: an API server compares 0 with a bound of 0.001 as whole numbers, and accepts it.
    weights: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(
        default_factory=dict,
        max_length=1000,
        description="Share of a tenant beside the others; 1 where it is not named.",
    )

    @field_validator("header")
    @classmethod
    def _header_is_no_secret(cls, header: str | None) -> str | None:
        if header is not None and header.lower() in SECRET_HEADERS:
            raise ValueError(f"header {header} carries secrets, and the names of tenants are shown")
        return header


class ModelGroup(Document):
    """Models that make each other, or those of other groups, leave when they are loaded. Not grouped: capacity alone decides."""

    name: Name = Field(description="Name of the group, for messages.")
    members: tuple[Name, ...] = Field(default=(), max_length=150, description="Models, by metadata.name.")
    swap: bool = Field(default=True, description="One of its members at a time. false: they may be resident together.")
    exclusive: bool = Field(
        default=True, description="Loading a member makes the other groups leave. false: it is loaded beside them."
    )
    persistent: bool = Field(
        default=False,
        description="Its members never leave for Models of other groups, also not where there is no room.",
    )


class WorkspaceSpec(Document):
    """An amount of accelerator, and how it is shared."""

    capacity: Capacity = Capacity()
    default_model: str | None = Field(
        default=None, description="Model that answers requests which name none, by any name of it."
    )
    queue: Queue = Queue()
    policy: Policy = Policy()
    tenants: Tenants = Tenants()
    return_to_default: Duration = Field(
        default=0.0,
        description="Load defaultModel again after nobody has used or waited for any Model for so long (`0s`: never). It takes the "
        "seats of idle Models only, and keeps its own however idle it is.",
    )

    groups: tuple[ModelGroup, ...] = Field(
        default=(), max_length=16, description="Who leaves when a Model is loaded, beyond what the capacity asks for."
    )
    sets: tuple[Annotated[tuple[Name, ...], Field(max_length=150)], ...] = Field(
        default=(),
        max_length=1000,
        validate_default=True,
        description="Instead of groups: names of Models that may be resident together, or any part of them; those of no common "
        "set never are.",
    )

    @field_validator("return_to_default")
    @classmethod
    def _return_needs_a_default(cls, seconds: float, info: ValidationInfo) -> float:
        if seconds and not info.data.get("default_model"):
            raise ValueError("returnToDefault needs defaultModel")
        return seconds

    @field_validator("groups")
    @classmethod
    def _in_one_group(cls, groups: tuple[ModelGroup, ...]) -> tuple[ModelGroup, ...]:
        seen: dict[str, str] = {}
        names = [group.name for group in groups]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"groups has {', '.join(doubled)} twice")
        for group in groups:
            for member in group.members:
                if member in seen:
                    both = "twice" if seen[member] == group.name else f"and in {group.name}; allowed: one group"
                    raise ValueError(f"{member} is in {seen[member]} {both}")
                seen[member] = group.name
        return groups

    @field_validator("sets")
    @classmethod
    def _sets_or_groups(cls, sets: tuple[tuple[str, ...], ...], info: ValidationInfo) -> tuple[tuple[str, ...], ...]:
        if sets and info.data.get("groups"):
            raise ValueError("sets excludes groups")
        capacity = info.data.get("capacity")
        if capacity is not None and not capacity.counted and not sets and not info.data.get("groups", True):
            raise ValueError("capacity.counted is false, so groups or sets must say who may be resident together")
        return sets


class Workspace(Document):
    """An amount of accelerator and the Models that share it."""

    api_version: Literal["hotseat.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of this format.")
    kind: Literal["Workspace"] = Field(default="Workspace", description="What the document describes.")
    metadata: Metadata
    spec: WorkspaceSpec = WorkspaceSpec()

    @property
    def name(self) -> str:
        """Name that Models refer to."""
        return self.metadata.name
