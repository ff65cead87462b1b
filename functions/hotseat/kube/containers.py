"""The container that serves a Model: image, command, environment, probe.

An engine runs in hotseat's own image, where `hotseat.kube.engine_entrypoint` finds out the rest, or in an image of its own, whose
command is written here. Nothing of this machine gets in: no path, no variable.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hotseat.api.model import Capability, FetchBy, Model
from hotseat.engines import vllm
from hotseat.engines.base import Engine, EngineError, Placement, is_remote, load_engine
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

Json = dict[str, Any]

CONTAINER: Final = "engine"  # its name, by which a podTemplate merges over it
OWN_COMMAND: Final = ("python3", "-P", "-m", "hotseat.kube.engine_entrypoint")
# Images of engines that hotseat's own image does not hold.
IMAGES: Final[Mapping[str, str]] = {"vllm": vllm.IMAGE}
# Engines whose command is written here when they run in an image of their own; any other must find hotseat in it.
_WRITTEN: Final = ("custom", "llamacpp", "vllm")
# Ports of Knative's own sidecar; it refuses a container that wants one.
_TAKEN: Final = frozenset({8008, 8012, 8013, 8022, 8112, 9090, 9091})
_MOST_CONCURRENT: Final = 1000  # Knative refuses more; the router keeps the Model's own limit in any case
_ENV_FIELD: Final = re.compile(r"\{\{|\}\}|\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class CannotMake(ValueError):
    """No object can be made of this Model; the message says why, for its status."""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in a container. An empty command means that of the image."""

    image: str
    port: int
    health_path: str
    own: bool  # hotseat's own image: what it may write is known
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def needs_fetch(model: Model) -> bool:
    """Whether a Job must bring the weights before the Model can be loaded. CannotMake: no such engine."""
    by_job = model.spec.cache.fetch_by == FetchBy.JOB
    return by_job and is_remote(model.spec.source) and engine_of(model).fetches(model)


def engine_of(model: Model) -> Engine:
    """Engine of a Model. CannotMake: none of that name is installed in the switcher, or it finds fault with the Model."""
    try:
        engine = load_engine(model.spec.engine)
    except KeyError:
        raise CannotMake(f"the switcher's image has no engine {model.spec.engine}") from None
    if problems := engine.check(model):
        raise CannotMake("; ".join(problems))
    return engine


def program_of(model: Model, settings: ClusterSettings, weights: str | None) -> Program:
    """Say what to run. `weights` is the path in the cache, once they are there; until then a stand-in is written."""
    engine = engine_of(model)
    port = model.spec.port or PORT
    if port in _TAKEN:
        raise CannotMake(f"port is {port}, which Knative's sidecar uses; choose another")
    image = model.spec.image or IMAGES.get(engine.name)
    health_path = model.spec.health.path or engine.health_path(model)
    if image is None or engine.name not in _WRITTEN:
        return Program(image or settings.image, port, health_path, own=True, command=OWN_COMMAND, env=_own_env(model))
    placement = Placement("0.0.0.0", port, weights_path(model, weights))  # noqa: S104 - inside its pod
    try:
        command, args = _command(model, engine, placement)
    except EngineError as problem:
        raise CannotMake(str(problem)) from problem
    return Program(image, port, health_path, own=False, command=command, args=args, env=_CACHES)


def weights_path(model: Model, weights: str | None) -> str | None:
    """Path of the weights in the container; None where the engine brings them itself or needs none."""
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
    """Write the engine's container for a ksvc."""
    env = {"HOME": f"{CACHE}/home", "USER": "hotseat", "HF_HOME": f"{CACHE}/hf", CACHE_VARIABLE: CACHE}
    env |= program.env
    env |= {variable.name: variable.value for variable in model.spec.env}
    container: Json = {
        "name": CONTAINER,
        "image": program.image,
        "ports": [{"containerPort": program.port}],
        "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        "resources": _resources(model, settings),
        # Its failures mean nothing for requests, which go to the pod directly: an engine may be too busy to answer for a while.
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
    """Most requests at once that Knative's sidecar lets through; 0 for no limit."""
    return model.spec.concurrency if model.spec.concurrency <= _MOST_CONCURRENT else 0


def security_context(*, read_only: bool) -> Json:
    """Give what each of our containers gives up. A podTemplate may take it back for an image that insists on root."""
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
    """Write bytes as the API server would write them back: as few digits as a unit allows."""
    for base, units in ((1024, ("Ki", "Mi", "Gi", "Ti", "Pi")), (1000, ("k", "M", "G", "T", "P"))):
        for power in range(len(units), 0, -1):
            if count and count % base**power == 0:
                return f"{count // base**power}{units[power - 1]}"
    return str(count)


def cores_quantity(cores: float) -> str:
    """Write cores as the API server would write them back."""
    thousandths = round(cores * 1000)
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


# Where foreign engines keep what they compile or bring: the cache outlives the pod.
_CACHES: Final[Mapping[str, str]] = {
    "LLAMA_CACHE": f"{CACHE}/llama.cpp",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/torchinductor",
    "TRITON_CACHE_DIR": f"{CACHE}/triton",
    "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
    "XDG_CACHE_HOME": f"{CACHE}/xdg",
}


def _own_env(model: Model) -> dict[str, str]:
    """Tell `hotseat.kube.engine_entrypoint` what it must know, and no more: each change of it makes a new Revision."""
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
    if document["spec"].get("cache") == {}:  # set in other ways only
        del document["spec"]["cache"]
    env = {MODEL_VARIABLE: json.dumps(document, sort_keys=True, separators=(",", ":"))}
    if model.spec.source and model.spec.source.startswith("pvc://"):
        env[WEIGHTS_VARIABLE] = str(weights_path(model, None))
    return env


def _command(model: Model, engine: Engine, placement: Placement) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give command and args of a container, where the image is not ours."""
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
    """Name the file, or say where llama.cpp itself shall get it."""
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
    """Leave `{env:NAME}` to the kubelet, which writes it `$(NAME)`: the switcher's own environment is nobody's business."""

    def late(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_ENV_FIELD.sub(lambda match: f"$({match[1]})" if match[1] else match[0], text) for text in texts)

    spec = model.spec.model_copy(update={"command": late(model.spec.command), "args": late(model.spec.args)})
    return model.model_copy(update={"spec": spec})


def _resources(model: Model, settings: ClusterSettings) -> Json:
    wanted = model.spec.resources
    requests: Json = {}
    if wanted.cpu is not None:
        requests["cpu"] = cores_quantity(wanted.cpu)
    if wanted.memory is not None:
        requests["memory"] = bytes_quantity(wanted.memory)
    resources: Json = {"requests": requests} if requests else {}
    if wanted.gpus and settings.gpu_resource:
        resources["limits"] = {settings.gpu_resource: str(wanted.gpus)}
    return resources
