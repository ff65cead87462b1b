"""The container that serves a Model: image, command, environment, probe.

An engine runs in hotseat's own image, where `hotseat.kube.engine_entrypoint` makes the command, or
in another image, for which the command is made here. Paths and variables of the switcher are never
part of it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hotseat.api.model import Capability, FetchBy, Model
from hotseat.api.types import Json
from hotseat.engines import vllm
from hotseat.engines.base import Engine, EngineError, Placement, is_remote, load_engine
from hotseat.engines.placeholders import filled
from hotseat.kube.constants import (
    CACHE,
    CACHE_VARIABLE,
    MODEL_VARIABLE,
    PORT,
    USER,
    WEIGHTS,
    WEIGHTS_VARIABLE,
    ClusterSettings,
)
from hotseat.sources.base import entry

CONTAINER: Final = "engine"  # its name, by which a podTemplate is merged
OWN_COMMAND: Final = ("python3", "-P", "-m", "hotseat.kube.engine_entrypoint")
# Default images of engines that hotseat's own image does not contain.
IMAGES: Final[Mapping[str, str]] = {"vllm": vllm.IMAGE}
# Engines that can run in images without hotseat, because their command is made here.
_WITHOUT_HOTSEAT: Final = ("custom", "llamacpp", "vllm")
# Engines that use no GPU in any image.
_WITHOUT_GPU: Final = ("external", "mock")
# Words in the names of images for GPUs, such as hotseat:1.0-cuda.
_GPU_WORDS: Final = ("cuda", "rocm", "vulkan", "musa", "sycl", "intel", "xpu", "gpu")
# Ports of Knative's sidecar. Knative rejects containers with one of them.
SIDECAR_PORTS: Final = frozenset({8008, 8012, 8013, 8022, 8112, 9090, 9091})
_MAX_CONCURRENCY: Final = 1000  # of Knative; the router enforces the Model's own limit in any case
_ENV_FIELD: Final = re.compile(r"\{\{|\}\}|\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class CannotMake(ValueError):
    """No object can be made from this Model; the message is for its status."""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in a container. An empty command: that of the image."""

    image: str
    port: int
    health_path: str
    own: bool  # the engine is started by hotseat, so that the paths it writes are known
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)  # of the Model, with their placeholders filled in


def needs_fetch(model: Model) -> bool:
    """Whether a Job must fetch the weights before the Model can be loaded.

    Raise CannotMake if its engine is unknown.
    """
    by_job = model.spec.cache.fetch_by == FetchBy.JOB
    return by_job and is_remote(model.spec.source) and engine_of(model).fetches(model)


def engine_of(model: Model) -> Engine:
    """Return the engine of a Model. Raise CannotMake if it is not installed in the switcher, or rejects the Model."""
    try:
        engine = load_engine(model.spec.engine)
    except KeyError:
        raise CannotMake(f"the switcher's image has no engine {model.spec.engine}") from None
    if problems := engine.check(model):
        raise CannotMake("; ".join(problems))
    return engine


def program_of(model: Model, settings: ClusterSettings, weights: str | None) -> Program:
    """Return what to run.

    `weights`: their path in the cache; None: they are not fetched yet, and a placeholder is used.
    """
    engine = engine_of(model)
    port = model.spec.port or PORT
    image = model.spec.image or IMAGES.get(engine.name)
    health_path = model.spec.health.path or engine.health_path(model)
    placement = Placement("0.0.0.0", port, weights_path(model, weights))  # noqa: S104 - inside its pod
    ready = filled(model, placement, lambda name: f"$({name})")
    variables = {variable.name: variable.value for variable in ready.spec.env}
    if image is None or engine.name not in _WITHOUT_HOTSEAT:
        own = _own_env(model)
        return Program(image or settings.image, port, health_path, True, OWN_COMMAND, env=own, variables=variables)
    try:
        command, args = _command(ready, engine, placement)
    except EngineError as problem:
        raise CannotMake(str(problem)) from problem
    return Program(image, port, health_path, own=False, command=command, args=args, env=_CACHES, variables=variables)


def cpu_image(model: Model, settings: ClusterSettings) -> str:
    """Return why the engine of a Model with GPUs computes on the CPU, or "" if it does not, as far as its image's name tells."""
    spec = model.spec
    own = spec.image is None and spec.engine not in IMAGES and not _engine_image(model)
    if not own or spec.engine in _WITHOUT_GPU or not spec.resources.gpus or not settings.gpu_resource:
        return ""
    return cpu_image_message(spec.engine, spec.resources.gpus, settings.image)


def cpu_image_message(engine: str, gpus: int, image: str) -> str:
    """Return what is wrong with an engine with GPUs in hotseat's own image, or "" if that image is for GPUs by its name."""
    tag = image.partition("@")[0].rpartition("/")[2].lower()
    if any(word in tag for word in _GPU_WORDS):
        return ""
    return (
        f"engine {engine} has no image of its own, so it runs in {image}, which computes on the CPU, but it reserves {gpus} "
        "GPUs: set spec.image to an image for GPUs, or resources.gpus to 0"
    )


def _engine_image(model: Model) -> str | None:
    """Return the image of the engine in the podTemplate, if it has one."""
    containers = ((model.spec.pod_template or {}).get("spec") or {}).get("containers") or []
    return next((each.get("image") for each in containers if each.get("name") == CONTAINER), None)


def weights_path(model: Model, weights: str | None) -> str | None:
    """Return the path of the weights in the container; None if the engine fetches them itself or needs none."""
    source = model.spec.source
    if source is None:
        return None
    if source.startswith("pvc://"):
        return "/".join((WEIGHTS, *[part for part in source.removeprefix("pvc://").split("/")[1:] if part]))
    if not is_remote(source):
        path = source.removeprefix("file://")
        if not path.startswith("/"):
            raise CannotMake(f"source is {source}: in a container, a path must begin with / (or use pvc://claim/path)")
        return path
    if not needs_fetch(model):
        return None
    return weights or str(entry(source, Path(CACHE)))


def container_of(model: Model, program: Program, settings: ClusterSettings, mounts: list[Json]) -> Json:
    """Return the engine's container of a pod."""
    env = {"HOME": f"{CACHE}/home", "USER": "hotseat", "HF_HOME": f"{CACHE}/hf", CACHE_VARIABLE: CACHE}
    env |= program.env
    env |= program.variables
    # A kubelet puts a variable into others that follow it.
    variables = sorted(env.items(), key=lambda variable: ("$(" in variable[1], variable[0]))
    container: Json = {
        "name": CONTAINER,
        "image": program.image,
        "ports": [{"containerPort": program.port}],
        "env": [{"name": name, "value": value} for name, value in variables],
        "resources": _resources(model, settings),
        # A failure does not stop requests, which go to the pod directly. A busy engine may not
        # answer for a while.
        "readinessProbe": {
            "httpGet": {"path": program.health_path, "port": program.port},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "successThreshold": 1,
            "failureThreshold": 30,
        },
        "securityContext": security_context(read_only=program.own),
        "volumeMounts": mounts,
    }
    if program.command:
        container["command"] = list(program.command)
    if program.args:
        container["args"] = list(program.args)
    if model.spec.credentials:
        container["envFrom"] = [{"secretRef": {"name": model.spec.credentials}}]
    return container


def concurrency_of(model: Model) -> int:
    """Return how many requests Knative's sidecar may let through at once; 0: no limit."""
    return model.spec.concurrency if model.spec.concurrency <= _MAX_CONCURRENCY else 0


def security_context(*, read_only: bool) -> Json:
    """Return the restrictions of our containers. A podTemplate may lift them for an image that needs root."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": read_only,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def bytes_quantity(count: int) -> str:
    """Return bytes in the canonical form of the API server."""
    for base, units in ((1024, ("Ki", "Mi", "Gi", "Ti", "Pi")), (1000, ("k", "M", "G", "T", "P"))):
        for power in range(len(units), 0, -1):
            if count and count % base**power == 0:
                return f"{count // base**power}{units[power - 1]}"
    return str(count)


def cores_quantity(cores: float) -> str:
    """Return cores in the canonical form of the API server."""
    thousandths = round(cores * 1000)
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


# Where engines of other images keep what they compile or fetch, because the cache outlives the pod.
_CACHES: Final[Mapping[str, str]] = {
    "LLAMA_CACHE": f"{CACHE}/llama.cpp",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/torchinductor",
    "TRITON_CACHE_DIR": f"{CACHE}/triton",
    "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
    "XDG_CACHE_HOME": f"{CACHE}/xdg",
}


def _own_env(model: Model) -> dict[str, str]:
    """Return the environment for `hotseat.kube.engine_entrypoint`.

    It is minimal, because each change makes a new Revision.
    """
    kept = {
        "engine",
        "source",
        "engine_model_name",
        "command",
        "args",
        "env",
        "port",
        "resources",
        "capabilities",
        "vllm",
    }
    document = model.model_dump(
        mode="json",
        by_alias=True,
        exclude_defaults=True,
        include={"metadata": {"name"}, "spec": {**dict.fromkeys(kept, True), "cache": {"fetch_by"}}},
    )
    if document["spec"].get("cache") == {}:  # it has other fields only
        del document["spec"]["cache"]
    env = {MODEL_VARIABLE: json.dumps(document, sort_keys=True, separators=(",", ":"))}
    if model.spec.source and model.spec.source.startswith("pvc://"):
        env[WEIGHTS_VARIABLE] = str(weights_path(model, None))
    return env


def _command(model: Model, engine: Engine, placement: Placement) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the command and the args of a container whose image is not hotseat's."""
    if engine.name == "vllm":
        return vllm.command_line(model, placement), ()
    if engine.name == "llamacpp":
        return model.spec.command, _llamacpp(model, placement)
    return engine.launch(_with_late_variables(model), placement).argv, ()


def _llamacpp(model: Model, placement: Placement) -> tuple[str, ...]:
    args = _llamacpp_weights(model, placement)
    args += ["--host", placement.host, "--port", str(placement.port), "--alias", model.engine_model_name]
    if Capability.EMBEDDING in model.spec.capabilities:
        args.append("--embeddings")
    if Capability.RERANK in model.spec.capabilities:
        args.append("--reranking")
    return (*args, *model.spec.args)


def _llamacpp_weights(model: Model, placement: Placement) -> list[str]:
    """Return the flags for the file, or for the download by llama.cpp itself."""
    source = model.spec.source or ""
    if placement.weights:
        return ["--model", placement.weights]
    if source.startswith(("https://", "http://")):
        return ["--model-url", source.partition("#")[0]]
    if match := re.fullmatch(r"hf://([^/@]+/[^/@]+)/([^@]+\.gguf)", source):
        return ["--hf-repo", match[1], "--hf-file", match[2]]
    raise CannotMake(
        f"source is {source}: llama.cpp can fetch only hf://org/repo/file.gguf and https:// itself; use cache.fetchBy: Job"
    )


def _with_late_variables(model: Model) -> Model:
    """Turn `{env:NAME}` into `$(NAME)` for the kubelet, so that the switcher's own environment is not used."""

    def convert(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_ENV_FIELD.sub(lambda match: f"$({match[1]})" if match[1] else match[0], text) for text in texts)

    spec = model.spec.model_copy(update={"command": convert(model.spec.command), "args": convert(model.spec.args)})
    return model.model_copy(update={"spec": spec})


def _resources(model: Model, settings: ClusterSettings) -> Json:
    spec = model.spec.resources
    requests: Json = {}
    if spec.cpu is not None:
        requests["cpu"] = cores_quantity(spec.cpu)
    if spec.memory is not None:
        requests["memory"] = bytes_quantity(spec.memory)
    resources: Json = {"requests": requests} if requests else {}
    if spec.gpus and settings.gpu_resource:
        resources["limits"] = {settings.gpu_resource: str(spec.gpus)}
    return resources
