"""The container that serves a Model: image, command, environment, probe.

An engine runs in hotseat's own image, where `hotseat.kube.engine_entrypoint` makes the command, or
in another image, for which the command is made here. Paths and variables of the switcher are never
part of it.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hotseat.api.model import FetchBy, Model
from hotseat.api.types import Json
from hotseat.engines.base import Engine, EngineError, Placement, RunsInImage, is_remote, load_engine
from hotseat.engines.placeholders import filled
from hotseat.engines.repositories import is_repository
from hotseat.kube.constants import (
    CACHE,
    CACHE_VARIABLE,
    MODEL_VARIABLE,
    PORT,
    WEIGHTS,
    WEIGHTS_VARIABLE,
    ClusterSettings,
)
from hotseat.sources.base import entry

CONTAINER: Final = "engine"  # its name, by which a podTemplate is merged
OWN_COMMAND: Final = ("python3", "-P", "-m", "hotseat.kube.engine_entrypoint")
# Engines that use no GPU in any image.
_WITHOUT_GPU: Final = ("external", "mock")
# Words in the names of images for GPUs, such as hotseat:1.0-cuda.
_GPU_WORDS: Final = ("cuda", "rocm", "vulkan", "musa", "sycl", "intel", "xpu", "gpu")
# Ports of Knative's sidecar. Knative rejects containers with one of them.
SIDECAR_PORTS: Final = frozenset({8008, 8012, 8013, 8022, 8112, 9090, 9091})
_MAX_CONCURRENCY: Final = 1000  # of Knative; the router enforces the Model's own limit in any case


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
    image = model.spec.image or _default_image(engine, model)
    health_path = model.spec.health.path or engine.health_path(model)
    placement = Placement(
        "0.0.0.0",  # noqa: S104 - inside its pod
        port,
        weights_path(model, weights),
        adapters=tuple(_adapter_path(model, each.source) for each in model.spec.loras),
        cache=CACHE,
    )
    ready = filled(model, placement, lambda name: f"$({name})")
    variables = {variable.name: variable.value for variable in ready.spec.env}
    if image is None or not isinstance(engine, RunsInImage):
        own = _own_env(model)
        return Program(image or settings.image, port, health_path, True, OWN_COMMAND, env=own, variables=variables)
    try:
        runs = engine.container(ready, placement)
    except EngineError as problem:
        raise CannotMake(str(problem)) from problem
    env = {**_CACHES, **runs.env}
    return Program(
        image, port, health_path, own=False, command=runs.command, args=runs.args, env=env, variables=variables
    )


def _default_image(engine: Engine, model: Model) -> str | None:
    return engine.image(model) if isinstance(engine, RunsInImage) else None


def cpu_image(model: Model, settings: ClusterSettings) -> str:
    """Return why the engine of a Model with GPUs computes on the CPU, or "" if it does not, as far as its image's name tells."""
    spec = model.spec
    image = spec.image or _engine_image(model)
    with contextlib.suppress(KeyError):  # of an engine that is not installed here
        image = image or _default_image(load_engine(spec.engine), model)
    if image is not None or spec.engine in _WITHOUT_GPU or not spec.resources.gpus or not settings.gpu_resource:
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


def _adapter_path(model: Model, source: str) -> str:
    """Return the path of a LoRA adapter in the container, or the repository that the engine fetches itself."""
    if source.startswith("pvc://"):
        claim, _, path = source.removeprefix("pvc://").partition("/")
        if (model.spec.source or "").startswith(f"pvc://{claim}/"):
            return f"{WEIGHTS}/{path}"
    elif not is_remote(source):
        path = source.removeprefix("file://")
        if path.startswith("/"):
            return path
    elif is_repository(source) and "@" not in source:
        return source.removeprefix("hf://").rstrip("/")
    raise CannotMake(
        f"the source of a LoRA adapter is {source}; on a cluster it can be hf://org/repo, a path that begins with / in the image, or a "
        "path on the claim of spec.source (pvc://claim/path)"
    )


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
        "env": [*({"name": name, "value": value} for name, value in variables), *_key_env(model, env)],
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
        "securityContext": security_context(settings, read_only=program.own),
        "volumeMounts": mounts,
    }
    if program.command:
        container["command"] = list(program.command)
    if program.args:
        container["args"] = list(program.args)
    if model.spec.credentials:
        container["envFrom"] = [{"secretRef": {"name": model.spec.credentials}}]
    return container


def _key_env(model: Model, env: Mapping[str, str]) -> list[Json]:
    """Return the variable with the key of the engine. A variable or file of the router is not known here: the pod must have its own."""
    key, variable = model.spec.engine_key, getattr(engine_of(model), "key_variable", "")
    if key is None or not variable or variable in env:
        return []
    if key.value is not None:
        return [{"name": variable, "value": key.value}]
    if key.secret is not None:
        return [{"name": variable, "valueFrom": {"secretKeyRef": {"name": key.secret.name, "key": key.secret.key}}}]
    return []


def concurrency_of(model: Model) -> int:
    """Return how many requests Knative's sidecar may let through at once; 0: no limit."""
    return model.spec.concurrency if model.spec.concurrency <= _MAX_CONCURRENCY else 0


def pod_security(settings: ClusterSettings, *, change_policy: bool) -> Json:
    """Return the fields of a pod with a claim: a new volume belongs to root. `change_policy`: change the group of its files once only."""
    if settings.user is None:
        return {}
    policy = {"fsGroupChangePolicy": "OnRootMismatch"} if change_policy else {}
    return {"securityContext": {"fsGroup": settings.user, **policy}}


def security_context(settings: ClusterSettings, *, read_only: bool) -> Json:
    """Return the restrictions of our containers. A podTemplate may lift them for an image that needs root."""
    user = {} if settings.user is None else {"runAsUser": settings.user, "runAsGroup": settings.user}
    return {
        "runAsNonRoot": True,
        **user,
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
