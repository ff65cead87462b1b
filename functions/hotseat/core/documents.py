"""The documents that people write (`hotseat.dev/v1alpha1`), and the first of the two: Model. The other is in workspaces.py.

One schema serves the file on one machine, the CRD on a cluster, the JSON Schema for editors and the docs. Field names
follow Kubernetes (camelCase in documents, snake_case here); an unknown field is an error, because a misspelt one that is
ignored is worse. Rules between fields sit on the field that breaks them, so that an error can point at it.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from hotseat.core.base import (
    API_VERSION,
    PATH_PATTERN,
    URL_PATTERN,
    VARIABLE_PATTERN,
    Argument,
    Document,
    Metadata,
    ModelName,
    Name,
    ObjectName,
)
from hotseat.core.calls import EngineCall
from hotseat.core.fallback import Fallback
from hotseat.core.schedule import Window
from hotseat.core.units import Bytes, Cores, Duration
from hotseat.core.vllm import VllmSettings
from hotseat.core.workspaces import DEFAULT_WORKSPACE, Workspace

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
    response_start_timeout: Duration = Field(
        default=0.0,
        description="A request whose answer has not begun so long after the engine got it ends with 504 (`0s`: no bound). An answer "
        "that is not streamed begins when all of it is there.",
    )
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
    """How an engine says that it is ready, and that it still is."""

    path: Annotated[str, Field(pattern=PATH_PATTERN)] | None = Field(
        default=None, description="GET on it answers 2xx once ready; the engine knows a default."
    )
    period: Duration = Field(
        default=10.0,
        description="A ready engine is asked again so often, unless bytes of an answer came from it meanwhile; it has as long to "
        "answer. `0s`: never. One machine; on a cluster, state a livenessProbe in podTemplate.",
    )
    failure_threshold: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=6,
        description="After so many failures in a row, and no byte from it meanwhile, the engine is stopped; the next request starts "
        "it again. Raise it for an engine that answers nothing while it computes.",
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
    names: tuple[ModelName, ...] = Field(
        default=(),
        max_length=100,
        description="Names that clients may send as `model`, beside metadata.name: any text. The first is the name that /v1/models, "
        "events, metrics and the CLI show; without one that is metadata.name.",
    )
    engine_model_name: str | None = Field(
        default=None,
        description="Name of the model to the engine: what `model` is in the requests that it gets. Default: metadata.name.",
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
        description="Port that the engine listens on. On one machine a free one is chosen where none is given; two Models may state "
        "one port where they are never loaded at once.",
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
        """Name of the object, by which everything inside knows it."""
        return self.metadata.name

    @property
    def shown_name(self) -> str:
        """Name that clients and people are shown."""
        return self.spec.names[0] if self.spec.names else self.metadata.name

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that a client may send, the shown name first."""
        return tuple(dict.fromkeys((*self.spec.names, self.metadata.name)))

    @property
    def engine_model_name(self) -> str:
        """Name that an engine which we start is told, and asked by."""
        return self.spec.engine_model_name or self.metadata.name


DOCUMENTS: dict[str, type[Model] | type[Workspace]] = {"Model": Model, "Workspace": Workspace}
