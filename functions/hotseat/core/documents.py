"""The two documents that people write: Model and Workspace (`hotseat.dev/v1alpha1`).

One schema serves the file on one machine, the CRD on a cluster, the JSON Schema for editors and the docs. Field names
follow Kubernetes (camelCase in documents, snake_case here); an unknown field is an error, because a misspelt one that is
ignored is worse. Rules between fields sit on the field that breaks them, so that an error can point at it.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hotseat.core.base import (
    HEADER_PATTERN,
    PATH_PATTERN,
    URL_PATTERN,
    VARIABLE_PATTERN,
    Alias,
    Argument,
    DeviceName,
    Document,
    Name,
    ObjectName,
)
from hotseat.core.calls import EngineCall
from hotseat.core.fallback import Fallback
from hotseat.core.schedule import Window
from hotseat.core.units import Bytes, Cores, Duration
from hotseat.core.vllm import VllmSettings

API_VERSION: Final = "hotseat.dev/v1alpha1"
DEFAULT_WORKSPACE = "default"
SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key")
PINNED: Final = "hotseat.dev/pinned"  # annotation of a Model: "true" or "false"
SOURCE_SCHEMES = ("hf", "ollama", "https", "http", "s3", "file", "pvc")


class Capability(StrEnum):
    """What a Model can be asked for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    IMAGE = "image"


# What a cluster writes into the metadata of its objects.
CLUSTER_METADATA = frozenset({
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName", "generation",
    "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
})  # fmt: skip


class Metadata(Document):
    """Kubernetes object metadata, as far as a person writes it; what a cluster adds is accepted and ignored."""

    name: Name = Field(description="What clients send as `model`, or Models as their workspace; an RFC 1035 label.")
    namespace: str | None = Field(default=None, description="Namespace on a cluster; ignored on one machine.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, as on any Kubernetes object.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations, as on any Kubernetes object.")

    @model_validator(mode="before")
    @classmethod
    def _ignore_what_a_cluster_adds(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in CLUSTER_METADATA}


class EnvVar(Document):
    """One environment variable of an engine."""

    name: Annotated[str, Field(pattern=VARIABLE_PATTERN)] = Field(description="Name of the variable.")
    value: str = Field(default="", description="Its value; a number or true must be in quotes.")


class Resources(Document):
    """What a resident Model occupies."""

    gpus: Annotated[int, Field(ge=0, le=64)] = Field(
        default=1,
        description="GPUs that it holds: whole ones, unless it claims memory of them. 0 runs beside anything, and sees no GPU.",
    )
    accelerator_memory: Bytes | None = Field(
        default=None,
        description="Accelerator memory that it claims, of all its GPUs together; counts only where the Workspace states its own. "
        "On one machine it then shares its GPUs with others that do.",
    )
    cpu: Cores | None = Field(default=None, description="CPU request: 4 or 500m (a cluster takes no bare 0.5).")
    memory: Bytes | None = Field(
        default=None,
        description="Host memory request; what the Model is taken to hold while parked (unset: what its processes are seen to hold).",
    )


class OnDelete(StrEnum):
    """What becomes of the weights when their Model is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class FetchBy(StrEnum):
    """Who brings the weights."""

    JOB = "Job"
    ENGINE = "Engine"


class WhileAbsent(StrEnum):
    """What becomes of a request whose Model's weights are not there yet."""

    REFUSE = "Refuse"
    WAIT = "Wait"


class Cache(Document):
    """Where weights are kept."""

    size: Bytes | None = Field(default=None, description="Size of the claim that is made for it.")
    storage_class: str | None = Field(default=None, description="Storage class of that claim.")
    existing_claim: ObjectName | None = Field(
        default=None, description="A claim that exists already; excludes the other two."
    )
    on_delete: OnDelete = Field(
        default=OnDelete.RETAIN, description="Keep or delete that claim when the Model is deleted (cluster)."
    )
    fetch_by: FetchBy = Field(
        default=FetchBy.JOB,
        description="Job: hotseat brings the weights before a GPU is taken. Engine: the engine does while it loads.",
    )
    while_absent: WhileAbsent | None = Field(
        default=None,
        description="Requests while hotseat still brings the weights: Refuse (503, Retry-After and the progress; what a cluster "
        "does if this is left open) or Wait (what `hotseat up` does).",
    )

    @field_validator("existing_claim")
    @classmethod
    def _excludes_a_claim_of_ours(cls, claim: str | None, info: ValidationInfo) -> str | None:
        if claim and (info.data.get("size") is not None or info.data.get("storage_class") is not None):
            raise ValueError("existingClaim excludes size and storageClass")
        return claim


class OnIdle(StrEnum):
    """How a Model leaves the accelerator."""

    STOP = "Stop"
    PARK = "Park"


class Lifecycle(Document):
    """How a Model comes and goes."""

    idle_timeout: Duration = Field(
        default=0.0, description="Unload after so long without a request (`0s`: stay until another needs the seat)."
    )
    release: OnIdle = Field(
        default=OnIdle.STOP,
        description="Stop the process, or Park it: have the engine sleep, so that it keeps its process and host memory and frees "
        "the accelerator. What does not fall asleep within stopTimeout is stopped; one machine only.",
    )
    start_timeout: Duration = Field(default=300.0, description="Loading longer than this has failed.")
    drain_timeout: Duration = Field(default=120.0, description="Requests in flight may finish for so long.")
    stop_timeout: Duration = Field(default=10.0, description="Time between SIGTERM and SIGKILL.")
    preload: bool = Field(default=False, description="Load at start, if there is a seat for it.")
    schedule: tuple[Window, ...] = Field(
        default=(),
        max_length=20,
        description="Windows of time in which it is wanted resident. It takes the seats of idle Models only; outside nothing is forced.",
    )
    sleep: tuple[EngineCall, ...] = Field(
        default=(),
        max_length=10,
        description="Requests that have the engine sleep, in this order; engines vllm and mock know their own.",
    )
    wake: tuple[EngineCall, ...] = Field(
        default=(),
        max_length=10,
        validate_default=True,
        description="Requests that wake it, in this order; then its health check must answer.",
    )

    @field_validator("wake")
    @classmethod
    def _wake_goes_with_sleep(cls, wake: tuple[EngineCall, ...], info: ValidationInfo) -> tuple[EngineCall, ...]:
        sleep = info.data.get("sleep")
        if wake and sleep == ():
            raise ValueError("wake needs sleep: the requests that put it to sleep")
        if sleep and not wake:
            raise ValueError("sleep needs wake: the requests that bring it back")
        return wake


class Scheduling(Document):
    """How a Model competes for the seat. Unset fields come from the Workspace's policy."""

    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        default=0, description="Higher goes first among those that wait."
    )
    min_residency: Duration | None = Field(
        default=None, description="Once ready, it keeps its seat for so long, used or not."
    )
    max_wait: Duration | None = Field(
        default=None, description="Bound on the wait for a turn; widened, and said so, where it cannot be met."
    )
    replicas: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Most engines of it at a time: another one starts where `concurrency` keeps requests waiting and nobody else "
        "wants the place, and is the first to go (one machine).",
    )


class Health(Document):
    """How an engine says that it is ready."""

    path: Annotated[str, Field(pattern=PATH_PATTERN)] | None = Field(
        default=None, description="GET on it answers 2xx once ready; the engine knows a default."
    )


class ModelSpec(Document):
    """What to serve, with what, and how it takes its turn."""

    engine: Annotated[str, Field(min_length=1)] = Field(
        description="Server program: llamacpp, vllm, custom, external, mock, or one that a package adds."
    )
    source: str | None = Field(
        default=None,
        description="Weights: hf://org/repo[/file][@revision], ollama://name, https://…, s3://…, file://path, "
        "pvc://claim/path, or a path (relative to the file's folder).",
    )
    aliases: tuple[Alias, ...] = Field(default=(), max_length=100, description="Other names that clients may send.")
    served_name: str | None = Field(
        default=None, description="Name to put into requests for the engine, where it wants another."
    )
    url: Annotated[str, Field(pattern=URL_PATTERN)] | None = Field(
        default=None, validate_default=True, description="Base URL of a server that runs already (engine external)."
    )
    image: str | None = Field(default=None, description="Container image (cluster).")
    command: tuple[Argument, ...] = Field(
        default=(),
        max_length=100,
        validate_default=True,
        description="Program and first arguments, instead of the engine's own.",
    )
    args: tuple[Argument, ...] = Field(default=(), max_length=100, description="More arguments for the engine.")
    env: tuple[EnvVar, ...] = Field(default=(), description="Environment variables for the engine.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="Port that the engine listens on. On one machine a free one is chosen where none is given.",
    )
    resources: Resources = Resources()
    cache: Cache = Cache()
    capabilities: tuple[Capability, ...] = Field(
        default=(), description="What it can be asked for; empty: whatever the engine says."
    )
    lifecycle: Lifecycle = Lifecycle()
    scheduling: Scheduling = Scheduling()
    workspace: Name = Field(
        default=DEFAULT_WORKSPACE, description="Workspace whose accelerator it shares; where there is just one, that."
    )
    health: Health = Health()
    stop_command: tuple[str, ...] = Field(
        default=(), description="Run to stop what escapes a process group (`docker stop …`), before SIGTERM."
    )
    concurrency: Annotated[int, Field(ge=0)] = Field(
        default=0,
        validate_default=True,
        description="Most requests at once of each engine; the rest wait. 0: no limit.",
    )
    vllm: VllmSettings | None = Field(default=None, description="Settings of engine vllm.")
    pod_template: dict[str, Any] | None = Field(
        default=None, description="metadata and spec that are merged over the pod's (strategic merge; cluster)."
    )
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        default=(), description="Secrets to pull the image with (cluster)."
    )
    credentials: ObjectName | None = Field(
        default=None,
        description="A Secret that is the environment of fetching and of the engine: HF_TOKEN, AWS_… (cluster).",
    )
    description: str = Field(default="", description="Shown in the list of models.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Free form; shown in the list of models.")
    unlisted: bool = Field(default=False, description="Served, but not in the list of models.")
    fallback: Fallback | None = Field(default=None, description="Another Model that answers while this one cannot.")

    @field_validator("source")
    @classmethod
    def _source_names_something(cls, source: str | None) -> str | None:
        if source is not None and not source.strip():
            raise ValueError("source is empty")
        match = re.match(r"([A-Za-z0-9+.-]+):(//)?(.*)$", source or "", re.DOTALL)
        if match is None or (match[2] is None and match[1] not in SOURCE_SCHEMES):
            return source  # a path
        if match[1] not in SOURCE_SCHEMES or match[2] is None:
            schemes = ", ".join(f"{scheme}://" for scheme in SOURCE_SCHEMES)
            raise ValueError(f"source begins with {match[1]}:{match[2] or ''}; allowed: {schemes} or a path")
        if not match[3].strip("/"):
            raise ValueError(f"source {source} names nothing")
        return source

    @field_validator("url")
    @classmethod
    def _url_is_for_external(cls, url: str | None, info: ValidationInfo) -> str | None:
        engine = info.data.get("engine")
        if engine == "external" and url is None:
            raise ValueError("engine external needs url")
        if engine is not None and engine != "external" and url is not None:
            raise ValueError("url is for engine external only")
        return url

    @field_validator("command")
    @classmethod
    def _custom_needs_command(cls, command: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("engine") == "custom" and not command:
            raise ValueError("engine custom needs command")
        return command

    @field_validator("env")
    @classmethod
    def _env_sets_once(cls, env: tuple[EnvVar, ...]) -> tuple[EnvVar, ...]:
        names = [variable.name for variable in env]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"env sets {', '.join(doubled)} twice")
        return env

    @field_validator("scheduling")
    @classmethod
    def _replicas_need_a_port_each(cls, scheduling: Scheduling, info: ValidationInfo) -> Scheduling:
        if scheduling.replicas > 1 and info.data.get("port") is not None:
            raise ValueError(f"replicas is {scheduling.replicas}, but they cannot share a fixed port: leave port out")
        return scheduling

    @field_validator("concurrency")
    @classmethod
    def _replicas_need_a_bound(cls, concurrency: int, info: ValidationInfo) -> int:
        scheduling = info.data.get("scheduling")
        if scheduling is not None and scheduling.replicas > 1 and not concurrency:
            raise ValueError(
                f"scheduling.replicas is {scheduling.replicas}: that needs concurrency, which says when one engine is not enough"
            )
        return concurrency

    @field_validator("vllm")
    @classmethod
    def _vllm_is_for_vllm(cls, vllm: VllmSettings | None, info: ValidationInfo) -> VllmSettings | None:
        if vllm is not None and info.data.get("engine", "vllm") != "vllm":
            raise ValueError("vllm is for engine vllm only")
        return vllm

    @field_validator("pod_template")
    @classmethod
    def _pod_template_is_one(cls, template: dict[str, Any] | None) -> dict[str, Any] | None:
        for key, part in (template or {}).items():
            if key not in ("metadata", "spec"):
                raise ValueError(f"podTemplate has {key}; allowed: metadata, spec")
            if not isinstance(part, dict):
                raise ValueError(f"podTemplate.{key} is no mapping")  # noqa: TRY004 - of a document, not of a caller
        return template


class Model(Document):
    """Something that can be served."""

    api_version: Literal["hotseat.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of this format.")
    kind: Literal["Model"] = Field(default="Model", description="What the document describes.")
    metadata: Metadata
    spec: ModelSpec

    @property
    def name(self) -> str:
        """Name that clients send."""
        return self.metadata.name

    @property
    def names(self) -> tuple[str, ...]:
        """Name and aliases: everything that a client may send."""
        return (self.metadata.name, *self.spec.aliases)


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
    max_wait: Duration = Field(default=30.0, description="Bound on the wait for a turn.")
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
    members: tuple[Name, ...] = Field(default=(), max_length=150, description="Names of Models (not aliases).")
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
    default_model: str | None = Field(default=None, description="Model that answers requests which name none.")
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


DOCUMENTS: dict[str, type[Model] | type[Workspace]] = {"Model": Model, "Workspace": Workspace}
