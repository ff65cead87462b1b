"""The document Model (`hotseat.dev/v1alpha1`). Workspace is in workspace.py. Pure.

One schema serves the file on one machine, the CRD on a cluster, the JSON Schema for editors and the
docs. Field names follow Kubernetes (camelCase in documents, snake_case here). An unknown field is
an error, because ignoring a misspelt one is worse. Rules between fields are on the field that
breaks them, so that an error can point at it.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from hotseat.api.engine_access import EngineHeader, EngineKey, Tls
from hotseat.api.filters import Filters
from hotseat.api.lifecycle import Health, Lifecycle
from hotseat.api.loras import LoraAdapter
from hotseat.api.resilience import CircuitBreaking, Retries
from hotseat.api.types import (
    API_VERSION,
    URL_PATTERN,
    VARIABLE_PATTERN,
    Argument,
    Document,
    Metadata,
    ModelName,
    Name,
    ObjectName,
)
from hotseat.api.units import Bytes, Cores, Duration
from hotseat.api.vllm import VllmSettings
from hotseat.api.workspace import DEFAULT_WORKSPACE, Loading, Workspace


class Reason(StrEnum):
    """Reason why another Model answers."""

    LOADING = "Loading"
    WAITING = "Waiting"
    FAILED = "Failed"
    UNSUPPORTED = "Unsupported"


class Fallback(Document):
    """Another Model that answers requests for this Model. The answer has the header X-Hotseat-Fallback."""

    model: ModelName = Field(
        description="Any name of the other Model, in any Workspace. It is not used if it would have to evict others; its "
        "own fallback is used then."
    )
    when: tuple[Reason, ...] = Field(
        default=tuple(Reason),
        description="When the fallback is used. Loading: this Model is being fetched or loaded. Waiting: it "
        "waits for its turn or for a free slot. Failed: it cannot be loaded or reached. Unsupported: it "
        "lacks the requested capability, and the fallback states it. Empty: never.",
    )
    after: Duration = Field(
        default=2.0,
        description="Maximum wait before the fallback answers (Loading, Waiting). The fallback answers "
        "immediately if the wait is known to be longer.",
    )


PINNED: Final = "hotseat.dev/pinned"  # annotation of a Model: "true" or "false"
PEER: Final = "hotseat.dev/peer"  # annotation of a Model that hotseat makes for one of a peer: the name of the peer
PEER_HEADER: Final = "X-Hotseat-Peer"  # of requests that a hotseat sends to its peers
SOURCE_SCHEMES = ("hf", "ollama", "https", "http", "s3", "gs", "az", "oci", "file", "pvc")


class Capability(StrEnum):
    """Kind of request that a Model serves."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    IMAGE = "image"
    MODERATION = "moderation"
    REALTIME = "realtime"


# Of engines that serve no others.
_CAPABILITIES: Mapping[str, tuple[Capability, ...]] = {
    "whispercpp": (Capability.TRANSCRIPTION,),
    "tei": (Capability.EMBEDDING, Capability.RERANK),
}


class Api(StrEnum):
    """API of a server for inference."""

    OPENAI = "OpenAI"
    ANTHROPIC = "Anthropic"
    OLLAMA = "Ollama"


class EnvVar(Document):
    """One environment variable of an engine."""

    name: Annotated[str, Field(pattern=VARIABLE_PATTERN)] = Field(description="Name of the variable.")
    value: str = Field(default="", description="Value of the variable. Numbers and booleans must be in quotes.")


class Resources(Document):
    """Resources that a resident Model occupies."""

    gpus: Annotated[int, Field(ge=0, le=64)] = Field(
        default=1,
        description="Number of GPUs. Whole GPUs, unless acceleratorMemory is set. A Model with 0 sees no GPU and "
        "runs beside any other.",
    )
    accelerator_memory: Bytes | None = Field(
        default=None,
        description="Accelerator memory of all its GPUs together. Used only if the Workspace sets "
        "capacity.acceleratorMemory. On one machine, Models that set it share GPUs.",
    )
    cpu: Cores | None = Field(
        default=None, description="CPU request, such as 4 or 500m. A cluster does not accept a bare 0.5."
    )
    memory: Bytes | None = Field(
        default=None,
        description="Host memory request. Also the host memory that the Model counts with while it is parked. "
        "Unset: the measured memory of its processes.",
    )


class OnDelete(StrEnum):
    """What happens to the weights when their Model is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class FetchBy(StrEnum):
    """What fetches the weights."""

    JOB = "Job"
    ENGINE = "Engine"


class WhileAbsent(StrEnum):
    """What happens to a request while the weights of its Model are fetched."""

    REFUSE = "Refuse"
    WAIT = "Wait"


class AccessMode(StrEnum):
    """Which nodes and pods can mount a PersistentVolumeClaim."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"
    READ_WRITE_ONCE_POD = "ReadWriteOncePod"


class Cache(Document):
    """Where weights are stored."""

    size: Bytes | None = Field(
        default=None, description="Size of the PersistentVolumeClaim that hotseat creates. A larger size expands it."
    )
    storage_class: str | None = Field(default=None, description="Storage class of that claim.")
    access_mode: AccessMode = Field(
        default=AccessMode.READ_WRITE_ONCE,
        description="Access mode of that claim. With ReadWriteOnce, the pods of the Model run on the node, or in "
        "the zone, of the volume. ReadWriteMany lets them run on any node.",
    )
    existing_claim: ObjectName | None = Field(
        default=None, description="Existing PersistentVolumeClaim to use. Excludes size and storageClass."
    )
    on_delete: OnDelete = Field(
        default=OnDelete.RETAIN, description="Whether the claim is kept or deleted when the Model is deleted (cluster)."
    )
    fetch_by: FetchBy = Field(
        default=FetchBy.JOB,
        description="Job: hotseat fetches the weights before a GPU is taken. Engine: the engine fetches them "
        "while it loads.",
    )
    while_absent: WhileAbsent | None = Field(
        default=None,
        description="What happens to requests while hotseat fetches the weights. Refuse: 503 with Retry-After "
        "and the progress (default on a cluster). Wait: requests are queued (default of `hotseat up`).",
    )

    @field_validator("existing_claim")
    @classmethod
    def _excludes_a_claim_of_ours(cls, claim: str | None, info: ValidationInfo) -> str | None:
        if claim and (info.data.get("size") is not None or info.data.get("storage_class") is not None):
            raise ValueError("existingClaim excludes size and storageClass")
        return claim


class Scheduling(Document):
    """How a Model competes for the accelerator. Unset fields come from the policy of the Workspace."""

    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        default=0, description="Priority among Models with queued requests. Higher goes first."
    )
    min_residency: Duration | None = Field(
        default=None, description="Minimum time that the Model stays resident once it is ready, used or not."
    )
    max_wait: Duration | None = Field(
        default=None,
        description="Bound on the time until the Model gets its turn. If the bound cannot be met "
        "it is widened, and the effective bound is reported.",
    )
    replicas: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Maximum number of instances. On one machine, another instance starts if `concurrency` keeps "
        "requests queued and no other Model needs the room. It is the first to be evicted. On a cluster, maximum number "
        "of pods with the runtime KEDA: the Model takes the GPUs for all of them when it is loaded, and KEDA scales it by "
        "demand. A change applies to the next load. Other runtimes have one pod.",
    )


class ResponseModelName(StrEnum):
    """What `model` is in answers."""

    ENGINE = "Engine"
    CLIENT = "Client"


class ModelSpec(Document):
    """What to serve, with which engine, and how it takes turns."""

    engine: Annotated[str, Field(min_length=1)] = Field(
        description="Server program: llamacpp, vllm, sglang, tgi, tei, ollama, whispercpp, custom, external, mock, or an engine that "
        "a package adds."
    )
    source: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None,
        description="Weights: hf://org/repo[/file or glob][@revision], ollama://name[:tag], https://…, s3://, gs:// or az://bucket/key, "
        "oci://host/repository[:tag], file://path, pvc://claim/path, or a path relative to the folder of the file. #sha256=… at the end of "
        "https://, s3://, gs:// and az:// is the digest of the file.",
    )
    names: tuple[ModelName, ...] = Field(
        default=(),
        max_length=100,
        description="Names that clients may send as `model`, beside metadata.name: any text. One `*` in a name stands for any text, as in "
        "`openai/*`. A name without `*` goes before one with it, and a longer one before a shorter. The first name without `*` is the one "
        "that /v1/models, events, metrics and the CLI show; without one that is metadata.name.",
    )
    engine_model_name: str | None = Field(
        default=None,
        description="Name of the model to the engine: what `model` is in the requests that it gets. Default: metadata.name; engine ollama: "
        "the name in source; engine external: the name that the client sent. Engine external: `*` is replaced by what `*` stands for in "
        "the name that the client sent, so `*` removes the `openai/` of `openai/*`.",
    )
    response_model_name: ResponseModelName = Field(
        default=ResponseModelName.ENGINE,
        description="What `model` is in the answers of the engine. Engine: what the engine writes there. Client: the name that the "
        "client sent. Compressed answers are not changed.",
    )
    mock_response: str | None = Field(
        default=None,
        max_length=65536,
        validate_default=True,
        description="Text with which hotseat itself answers all requests, without a server (engine external). Streams, translated APIs, "
        "embeddings, reranking, transcriptions and moderations are answered in their form.",
    )
    allow_mock_response: bool = Field(
        default=False,
        validate_default=True,
        description="Engine external: a request with a text in `mock_response` is answered by hotseat itself with that text.",
    )
    url: Annotated[str, Field(pattern=URL_PATTERN)] | None = Field(
        default=None,
        validate_default=True,
        description="Base URL of a server that is already running (engine external): http:// or https://. A path in it goes before the "
        "path of the request. With a version in it, such as `https://api.example.com/v1`, it stands for `/v1` of the request. "
        "A query is added to that of the request.",
    )
    engine_key: EngineKey | None = Field(
        default=None,
        description="Key that hotseat sends to the engine or upstream with each request and health check. Clients' own keys are "
        "never passed on. Engines get it in the environment too: llamacpp as LLAMA_API_KEY, vllm as VLLM_API_KEY, custom "
        "as ENGINE_API_KEY.",
    )
    headers: tuple[EngineHeader, ...] = Field(
        default=(),
        max_length=20,
        description="Headers that hotseat adds to each request for the engine or upstream.",
    )
    tls: Tls | None = Field(
        default=None, validate_default=True, description="TLS towards an upstream with https (engine external)."
    )
    failover_urls: tuple[Annotated[str, Field(pattern=URL_PATTERN, max_length=2048)], ...] = Field(
        default=(),
        max_length=10,
        description="Base URLs of other servers with the same model, in order of preference (engine external). Requests go there while "
        "the server of url, and those before in this list, fail.",
    )
    retries: Retries | None = Field(
        default=None,
        description="When a request is sent again (engine external). Unset: each of failoverUrls is tried once.",
    )
    circuit_breaker: CircuitBreaking | None = Field(
        default=None,
        description="When a server that fails gets no requests for a time (engine external). They go to the next of failoverUrls, else "
        "to the fallback, else they end with 503. Unset: with failoverUrls or health.path the defaults below, otherwise never.",
    )
    image: str | None = Field(default=None, description="Container image (cluster).")
    command: tuple[Argument, ...] = Field(
        default=(),
        max_length=100,
        validate_default=True,
        description="Program and first arguments, instead of the engine's default.",
    )
    args: tuple[Argument, ...] = Field(default=(), max_length=100, description="Additional arguments of the engine.")
    env: tuple[EnvVar, ...] = Field(default=(), description="Environment variables of the engine.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="Port that the engine listens on. Unset: a free port (one machine). Two Models can have the "
        "same port if they are never loaded at the same time.",
    )
    resources: Resources = Resources()
    cache: Cache = Cache()
    capabilities: tuple[Capability, ...] = Field(
        default=(),
        validate_default=True,
        description="Kinds of requests that the Model serves. Empty: what the engine supports. Engine whispercpp: transcription. Engine "
        "tei: embedding and rerank.",
    )
    apis: tuple[Api, ...] = Field(
        default=(),
        description="APIs that the engine has itself. Requests of these are passed to it unchanged. Requests of Anthropic's and Ollama's "
        "API are translated to OpenAI's for other engines. Empty: what the engine is known to have.",
    )
    lifecycle: Lifecycle = Lifecycle()
    scheduling: Scheduling = Scheduling()
    workspace: Name = Field(
        default=DEFAULT_WORKSPACE,
        description="Workspace whose accelerator the Model shares. Optional if there is only one Workspace.",
    )
    health: Health = Health()
    stop_command: tuple[str, ...] = Field(
        default=(),
        description="Command that is run before SIGTERM, for processes that hotseat cannot signal (`docker stop …`).",
    )
    concurrency: Annotated[int, Field(ge=0)] = Field(
        default=0,
        validate_default=True,
        description="Maximum number of requests in flight of each engine (on a cluster, each pod). Further requests are queued. "
        "0: no limit.",
    )
    vllm: VllmSettings | None = Field(default=None, description="Settings of engine vllm.")
    loras: tuple[LoraAdapter, ...] = Field(
        default=(),
        max_length=32,
        validate_default=True,
        description="LoRA adapters (engine vllm). Each is a model of its own to clients, and is served by the instance of this Model.",
    )
    pod_template: dict[str, Any] | None = Field(
        default=None, description="metadata and spec that are merged into the pod's (strategic merge patch, cluster)."
    )
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        default=(), description="Secrets for pulling the image (cluster)."
    )
    credentials: ObjectName | None = Field(
        default=None,
        description="Secret with environment variables for fetching and for the engine, such as HF_TOKEN or "
        "AWS_… (cluster).",
    )
    description: str = Field(default="", description="Shown in the list of models.")
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Free-form data that is shown in the list of models."
    )
    unlisted: bool = Field(default=False, description="Serve the Model, but leave it out of the list of models.")
    loading: Loading | None = Field(
        default=None,
        description="What a client gets while the Model is not ready: Hold, Comments, Reasoning or Refuse. Unset: `loading` of the "
        "Workspace.",
    )
    fallback: Fallback | None = Field(default=None, description="Another Model that answers while this Model cannot.")
    filters: Filters | None = Field(
        default=None, description="Parameters of requests that are removed or set before the engine gets them."
    )

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
            raise ValueError(f"source {source} has no name after its scheme")
        return source

    @field_validator("url")
    @classmethod
    def _url_is_for_external(cls, url: str | None, info: ValidationInfo) -> str | None:
        engine = info.data.get("engine")
        if engine == "external" and url is None and info.data.get("mock_response") is None:
            raise ValueError("engine external needs url")
        if engine is not None and engine != "external" and url is not None:
            raise ValueError("url is for engine external only")
        return url

    @field_validator("failover_urls", "retries", "circuit_breaker")
    @classmethod
    def _upstreams_are_external(cls, value: Any, info: ValidationInfo) -> Any:
        engine = info.data.get("engine")
        if value and engine is not None and engine != "external":
            raise ValueError(f"{to_camel(info.field_name or '')} is for engine external only")
        return value

    @field_validator("mock_response", "allow_mock_response")
    @classmethod
    def _mock_is_for_external(cls, mock: str | bool | None, info: ValidationInfo) -> str | bool | None:
        if mock not in (None, False) and info.data.get("engine", "external") != "external":
            raise ValueError(f"{to_camel(info.field_name or '')} is for engine external only")
        return mock

    @field_validator("headers")
    @classmethod
    def _headers_are_set_once(cls, headers: tuple[EngineHeader, ...], info: ValidationInfo) -> tuple[EngineHeader, ...]:
        key = info.data.get("engine_key")
        names = [header.name.lower() for header in headers] + ([] if key is None else [key.header.lower()])
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the header {', '.join(doubled)} is set twice, by headers or engineKey")
        return headers

    @field_validator("tls")
    @classmethod
    def _tls_is_for_https(cls, tls: Tls | None, info: ValidationInfo) -> Tls | None:
        if tls is not None and not (info.data.get("url") or "https://").startswith("https://"):
            raise ValueError("tls is set, but url does not begin with https://")
        if tls is not None and info.data.get("engine", "external") != "external":
            raise ValueError("tls is for engine external only")
        return tls

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

    @field_validator("loras")
    @classmethod
    def _loras_are_for_vllm(cls, loras: tuple[LoraAdapter, ...], info: ValidationInfo) -> tuple[LoraAdapter, ...]:
        if loras and info.data.get("engine", "vllm") != "vllm":
            raise ValueError("loras is for engine vllm only")
        for each in loras:
            cls._source_names_something(each.source)
        return loras

    @field_validator("capabilities")
    @classmethod
    def _of_the_engine(cls, capabilities: tuple[Capability, ...], info: ValidationInfo) -> tuple[Capability, ...]:
        return capabilities or _CAPABILITIES.get(info.data.get("engine", ""), ())

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
    """A model that can be served."""

    api_version: Literal["hotseat.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of this format.")
    kind: Literal["Model"] = Field(default="Model", description="What the document describes.")
    metadata: Metadata
    spec: ModelSpec

    @property
    def name(self) -> str:
        """Return the name of the object, which identifies it everywhere in hotseat."""
        return self.metadata.name

    @property
    def shown_name(self) -> str:
        """Return the name that clients and people are shown."""
        for name in self.spec.names:
            if "*" not in name:
                return name
        return self.metadata.name

    @property
    def peer(self) -> str | None:
        """Return the name of the peer whose model it is. None: it is of a document."""
        return self.metadata.annotations.get(PEER)

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names that a client can send, the shown name first."""
        filters = self.spec.filters
        more = (*(each.name for each in self.spec.loras), *(filters.by_name if filters else ()))
        return tuple(dict.fromkeys((*self.spec.names, self.metadata.name, *more)))

    @property
    def is_external(self) -> bool:
        """Whether hotseat neither starts nor stops its engine."""
        return self.spec.engine == "external"

    @property
    def engine_model_name(self) -> str:
        """Return the name by which its engine knows it."""
        spec = self.spec
        if spec.engine_model_name is None and spec.engine == "ollama" and (spec.source or "").startswith("ollama://"):
            return str(spec.source).removeprefix("ollama://")
        return spec.engine_model_name or self.metadata.name


DOCUMENTS: dict[str, type[Model] | type[Workspace]] = {"Model": Model, "Workspace": Workspace}
