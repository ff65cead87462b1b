"""The document Workspace: how an accelerator is shared. Pure."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from hotseat.api.peers import Peer
from hotseat.api.templates import check_defaults, check_macros
from hotseat.api.types import (
    API_VERSION,
    HEADER_PATTERN,
    RESOURCE_PATTERN,
    DeviceName,
    Document,
    Metadata,
    ModelName,
    Name,
    ObjectName,
)
from hotseat.api.units import AutoDuration, Bytes, Duration
from hotseat.api.virtual_models import VirtualModel

DEFAULT_WORKSPACE = "default"
ProfileName = Annotated[str, Field(min_length=1, max_length=200)]
TargetName = Annotated[str, Field(max_length=1024)]
SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key")


class ClusterRuntime(StrEnum):
    """Objects that serve the Models of a Workspace on a cluster."""

    AUTO = "Auto"
    KNATIVE = "Knative"
    KEDA = "KEDA"
    DEPLOYMENT = "Deployment"


class CapacitySpec(Document):
    """Accelerators that the Models of the Workspace share."""

    gpus: Annotated[int, Field(ge=0, le=1024)] = Field(default=1, description="Number of GPUs.")
    accelerator_memory: Bytes | None = Field(
        default=None,
        description="Accelerator memory of all GPUs together. Each GPU has the same share. Unset: only GPUs are "
        "counted.",
    )
    devices: Annotated[tuple[DeviceName, ...], Field(max_length=64)] = Field(
        default=(),
        description="GPUs of this Workspace, by index or UUID (one machine). Unset: the first GPUs that no other "
        "Workspace uses.",
    )
    host_memory: Bytes | None = Field(
        default=None,
        description="Host memory for parked Models. The least recently used are stopped to make room. Unset: "
        "half of the machine's memory, shared evenly by the Workspaces that do not set it. 0: no Model that "
        "holds memory is parked.",
    )
    counted: bool = Field(
        default=True,
        description="Whether claims of resident Models are added up. false: only groups or sets decide which "
        "Models can be resident together. The proof that the GPU is free is still required.",
    )

    @field_validator("devices")
    @classmethod
    def _devices_are_the_gpus(cls, devices: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if devices and len(devices) != info.data.get("gpus", len(devices)):
            raise ValueError(f"devices names {len(devices)} GPUs, but gpus is {info.data['gpus']}")
        if doubled := sorted({name for name in devices if devices.count(name) > 1}):
            raise ValueError(f"devices names {', '.join(doubled)} twice")
        return devices


class TolerationOperator(StrEnum):
    """How the key and value of a toleration are compared with those of a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods without a toleration."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Document):
    """A toleration of a pod, as in Kubernetes."""

    key: str | None = Field(default=None, description="Key of the taint. Unset: all taints (operator Exists).")
    operator: TolerationOperator | None = Field(default=None, description="Exists or Equal. Unset: Equal.")
    value: str | None = Field(default=None, description="Value of the taint.")
    effect: TaintEffect | None = Field(default=None, description="Effect of the taint. Unset: all effects.")
    toleration_seconds: int | None = Field(
        default=None, description="Time until the pod is evicted (effect NoExecute). Unset: never."
    )


class PodPlacement(Document):
    """Where the pods of Models may run (cluster). It applies to engines and to the Jobs that fetch their weights."""

    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=64)] = Field(
        default=(),
        description="Taints that the pods tolerate. The taint named like the GPU resource, with the effect "
        "NoSchedule, is always tolerated by Models with GPUs.",
    )
    affinity: dict[str, Any] = Field(default_factory=dict, description="Affinity, as in the spec of a pod.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    resource_name: Annotated[str, Field(pattern=RESOURCE_PATTERN, max_length=253)] | None = Field(
        default=None,
        description="Extended resource that stands for a GPU of this Workspace, such as nvidia.com/mig-3g.40gb. "
        "Unset: HOTSEAT_GPU_RESOURCE of the switcher.",
    )


class QueueSpec(Document):
    """Limits of the queues. Requests beyond them get 429."""

    max_waiting: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=1000, description="Maximum number of queued requests in the Workspace."
    )
    max_waiting_per_model: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="Maximum number of queued requests for one Model."
    )
    max_waiting_per_tenant: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="Maximum number of queued requests of one tenant, for all Models."
    )
    max_waiting_bytes: Bytes = Field(
        default=2**30,
        description="Maximum size of the bodies of all queued requests, which are held in memory.",
    )


class PolicySpec(Document):
    """Which Model is next, and defaults for the scheduling of Models."""

    name: str = Field(default="batch", description="Policy: batch, fifo, priority, or a policy that a package adds.")
    max_wait: AutoDuration = Field(
        default=None,
        description="Bound on the time until a Model gets its turn. Auto: ten times the measured cost of a "
        "switch, if that is under a minute. Else one minute, or three times the cost if that is more. At "
        "least 5 s, and 30 s before a switch has been measured.",
    )
    min_residency: Duration = Field(
        default=0.0, description="Minimum time that a Model stays resident once it is ready, used or not."
    )
    # As long as maxWait: a request one step lower goes before requests that arrive that bound later.
    ageing: Duration = Field(
        default=30.0,
        description="Time after which the priority of a queued request, and of its Model, rises by one. `0s`: never.",
    )


class Tenants(Document):
    """Fair shares in the queue of one Model. Without a header, each API key is a tenant, by its name."""

    header: Annotated[str, Field(pattern=HEADER_PATTERN, max_length=100)] | None = Field(
        default=None,
        description="Request header that names the tenant. It should be set by a proxy in front of hotseat. "
        "Unset: the API key is the tenant.",
    )
    # Whole numbers: an API server compares 0 with a bound of 0.001 as whole numbers, and accepts it.
    weights: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(
        default_factory=dict,
        max_length=1000,
        description="Weight of each tenant. Tenants that are not listed have weight 1.",
    )

    @field_validator("header")
    @classmethod
    def _header_is_no_secret(cls, header: str | None) -> str | None:
        if header is not None and header.lower() in SECRET_HEADERS:
            raise ValueError(f"header {header} carries secrets, and the names of tenants are shown")
        return header


class PromptStorage(StrEnum):
    """Where prompt caches are kept."""

    OFF = "Off"
    MEMORY = "Memory"
    DISK = "Disk"


class PromptCache(Document):
    """What is kept of the prompt caches of engines that are stopped, so that conversations go on after the next load."""

    storage: PromptStorage | None = Field(
        default=None,
        description="Off: nothing is kept. Memory: in host memory (/dev/shm). Disk: in the state directory; "
        "on a cluster, on the claim of the Model's cache. Unset: Memory, if there is room. On a cluster, nothing is kept but with Disk.",
    )
    budget: Bytes | None = Field(
        default=None,
        description="Maximum size. The least recently used prompts are deleted to make room. In memory, parked Models come "
        "first: prompts get at most what they leave of capacity.hostMemory. Unset: 10Gi on disk; in memory a quarter of the "
        "memory limit for parked Models, at most 8Gi. On a cluster it is for each Model, and what exceeds it is not saved.",
    )
    keep: Duration = Field(
        default=86400.0,
        description="Time after which prompts are deleted if they were neither saved nor restored again.",
    )
    keep_at_exit: bool = Field(
        default=False,
        description="Whether prompts are kept when hotseat ends, for its next start. false: they are deleted. No meaning on a "
        "cluster.",
    )
    timeout: Duration = Field(
        default=5.0,
        description="Maximum time to save prompts before an engine is stopped, and to restore them after it has loaded. "
        "What takes longer is dropped. Switches wait no longer than that.",
    )


class Upstream(Document):
    """Requests for the engines' own paths, below `/upstream/{model}/`."""

    no_load_paths: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(),
        max_length=100,
        description="Paths of engines that load no Model, whoever requests them, such as `*.js` or `/metrics`: shell patterns, in "
        "which `*` is any text. If the Model is not ready, such a request gets 409.",
    )


class ModelGroup(Document):
    """Models that evict each other, or Models of other groups, when they are loaded. For Models without a group, capacity alone decides."""

    name: Name = Field(description="Name of the group, for messages.")
    members: tuple[Name, ...] = Field(default=(), max_length=150, description="Models, by metadata.name.")
    swap: bool = Field(default=True, description="One of its members at a time. false: they may be resident together.")
    exclusive: bool = Field(
        default=True,
        description="Whether loading a member evicts the members of other groups. false: members "
        "are loaded beside them.",
    )
    persistent: bool = Field(
        default=False,
        description="Whether members are never evicted for Models of other groups, even if there is no room.",
    )


class Loading(StrEnum):
    """What a client gets while the Model of its request is not ready."""

    HOLD = "Hold"
    COMMENTS = "Comments"
    REASONING = "Reasoning"
    REFUSE = "Refuse"


class WorkspaceSpec(Document):
    """Accelerators, and how they are shared."""

    capacity: CapacitySpec = CapacitySpec()
    runtime: ClusterRuntime = Field(
        default=ClusterRuntime.AUTO,
        description="Objects that serve the Models on a cluster: Knative (Knative Services), KEDA (Deployments that KEDA "
        "scales) or Deployment (Deployments that the switcher scales). Auto: Knative if the API server has Knative Serving, "
        "else KEDA if it has KEDA, else Deployment; the choice is made once and kept in status.runtime. A change releases "
        "what is resident first, and keeps the caches. No meaning on one machine.",
    )
    placement: PodPlacement = PodPlacement()
    default_model: str | None = Field(
        default=None, description="Model that answers requests which name none, by any name of it."
    )
    active_model: ModelName | None = Field(
        default=None,
        description="Model to load now, by any name of it, as `hotseat load` does: once, when this field is set or "
        "changed. Later requests for other Models can evict it.",
    )
    queue: QueueSpec = QueueSpec()
    policy: PolicySpec = PolicySpec()
    loading: Loading = Field(
        default=Loading.HOLD,
        description="What a client gets while the Model of its request is not ready. Hold: nothing until the answer begins. "
        "Comments: a stream of events begins at once, with comments. Reasoning: a stream of a chat begins at once, with text in "
        "`reasoning_content`; other streams get comments. Refuse: 503 at once with Retry-After, and the Model is loaded. A request "
        "that is not streamed is held with Comments and Reasoning. Clients can ask for another with the header X-Hotseat-Loading.",
    )
    tenants: Tenants = Tenants()
    prompt_cache: PromptCache = PromptCache()
    upstream: Upstream = Upstream()
    peers: tuple[Peer, ...] = Field(
        default=(), max_length=16, description="Other hotseats, whose models are served here too."
    )
    virtual_models: tuple[VirtualModel, ...] = Field(
        default=(), max_length=100, description="Names whose requests one of several Models answers."
    )
    profiles: dict[ProfileName, Annotated[dict[ModelName, TargetName], Field(max_length=1000)]] = Field(
        default_factory=dict,
        max_length=100,
        description="Names that are switched to other models while a profile is active: by profile, then by name, any name of a Model or "
        "a virtual model. An empty text switches the name off.",
    )
    active_profile: ProfileName | None = Field(
        default=None,
        description="Active profile. On one machine, `hotseat profile` can switch to another one, which stays until this field changes.",
    )
    return_to_default: Duration = Field(
        default=0.0,
        description="Load defaultModel again after this time without requests for any Model. `0s`: never. It "
        "evicts only idle Models, and its own idle timeout does not apply.",
    )

    groups: tuple[ModelGroup, ...] = Field(
        default=(),
        max_length=16,
        description="Which Models are evicted when a Model is loaded, in addition to what capacity requires.",
    )
    sets: tuple[Annotated[tuple[Name, ...], Field(max_length=150)], ...] = Field(
        default=(),
        max_length=1000,
        validate_default=True,
        description="Lists of Models that can be resident together, instead of groups. Any subset of a list is "
        "allowed too. Models without a common list are never resident together.",
    )

    model_defaults: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of `spec` that the Models of this Workspace have unless they state them: mappings are merged, all else, "
        "such as a list, is replaced. Not `names` and `workspace`. On a cluster, a Model must still state what its engine requires, and a "
        "value that is the default of its field counts as not stated. Not for adopted objects.",
    )
    macros: dict[str, Annotated[str, Field(max_length=8192)]] = Field(
        default_factory=dict,
        max_length=1000,
        description="Texts by name. `${name}` stands for one in command, args, env, stopCommand, in paths and addresses of the "
        "Models of this Workspace, and in other macros.",
    )

    @field_validator("virtual_models")
    @classmethod
    def _virtual_models_differ(cls, models: tuple[VirtualModel, ...]) -> tuple[VirtualModel, ...]:
        names = [model.name for model in models]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"virtualModels has {', '.join(doubled)} twice")
        return models

    @field_validator("active_profile")
    @classmethod
    def _active_profile_exists(cls, active: str | None, info: ValidationInfo) -> str | None:
        profiles = info.data.get("profiles")
        if active is not None and profiles is not None and active not in profiles:
            raise ValueError(f"activeProfile is {active}, which is not in profiles")
        return active

    @field_validator("model_defaults")
    @classmethod
    def _defaults_are_for_all(cls, defaults: dict[str, Any]) -> dict[str, Any]:
        return check_defaults(defaults)

    @field_validator("macros")
    @classmethod
    def _macros_have_names(cls, macros: dict[str, str]) -> dict[str, str]:
        return check_macros(macros)

    @field_validator("return_to_default")
    @classmethod
    def _return_needs_a_default(cls, seconds: float, info: ValidationInfo) -> float:
        if seconds and not info.data.get("default_model"):
            raise ValueError("returnToDefault needs defaultModel")
        return seconds

    @field_validator("peers")
    @classmethod
    def _peers_have_names(cls, peers: tuple[Peer, ...]) -> tuple[Peer, ...]:
        names = [peer.name for peer in peers]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"peers has {', '.join(doubled)} twice")
        return peers

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
            raise ValueError("capacity.counted is false, so groups or sets are required")
        return sets


class Workspace(Document):
    """Accelerators, and the Models that share them."""

    api_version: Literal["hotseat.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of this format.")
    kind: Literal["Workspace"] = Field(default="Workspace", description="What the document describes.")
    metadata: Metadata
    spec: WorkspaceSpec = WorkspaceSpec()

    @property
    def name(self) -> str:
        """Return the name that Models refer to."""
        return self.metadata.name
