"""Adoption: a Knative Service, Deployment or ScaledObject with our label, made by hand, is read as a Model. No I/O.

Its label `hotseat.dev/workspace` names the Workspace, and its name is that of the Model.
Annotations have the other fields. Those of the object itself take precedence over those of its
template, and changing them restarts no pod.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from hotseat.api.model import PINNED, Model
from hotseat.api.types import PATTERN_WORDS, Json
from hotseat.api.units import Unreadable, parse_quantity
from hotseat.kube import pods
from hotseat.kube.constants import (
    AUTOSCALING_CLASS,
    CLASS_ANNOTATION,
    DEPLOYMENTS,
    GROUP,
    MODEL,
    PORT,
    SERVICES,
    WORKSPACE,
)
from hotseat.kube.objects import is_owned

ENGINE: Final = "container"  # engine of adopted Models; no installed engine has this name
NAME_CONFLICT: Final = "NameConflict"  # reason: an object with a name that a Model needs is not the Model's
PREFIX: Final = f"{GROUP}/"


@dataclass(frozen=True, slots=True)
class Adopted:
    """A Model without a Model object, and the problems of the annotations from which it was read."""

    model: Model
    problems: tuple[str, ...]


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _names(text: str) -> list[str]:
    """Return names that are separated by commas, or in a JSON list if a name has commas itself."""
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    return names if isinstance(names, list) else _words(text)


_RENAMED: Final[Mapping[str, str]] = {"aliases": "names", "served-name": "engine-model-name"}
# Annotation (after the prefix) → its path in the spec, and how it is read. pydantic turns text into
# numbers.
_FIELDS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[str], Any]]]] = {
    "names": (("names",), _names),
    "engine-model-name": (("engineModelName",), str),
    "description": (("description",), str),
    "capabilities": (("capabilities",), _words),
    "concurrency": (("concurrency",), str),
    "priority": (("scheduling", "priority"), str),
    "max-wait": (("scheduling", "maxWait"), str),
    "min-residency": (("scheduling", "minResidency"), str),
    "idle-timeout": (("lifecycle", "idleTimeout"), str),
    "start-timeout": (("lifecycle", "startTimeout"), str),
    "drain-timeout": (("lifecycle", "drainTimeout"), str),
    "preload": (("lifecycle", "preload"), str),
    "gpus": (("resources", "gpus"), str),
}


def is_adopted(item: Json) -> bool:
    """Whether a Knative Service, a Deployment or a ScaledObject is a Model by its label, without a Model object."""
    return bool((item["metadata"].get("labels") or {}).get(WORKSPACE)) and not is_owned(item)


def is_foreign(item: Json, model: str) -> bool:
    """Whether an object with a name that a Model needs is neither the Model's nor labelled to be adopted."""
    labels = item["metadata"].get("labels") or {}
    return labels.get(MODEL) != model and not (item.get("apiVersion") == SERVICES.api and labels.get(WORKSPACE))


def adopt(service: Json, gpu_resource: str) -> Adopted:
    """Return a labelled Knative Service as a Model. An invalid annotation is a problem, and its default is used."""
    in_template = service["spec"]["template"].get("metadata", {}).get("annotations") or {}
    problems = []
    if in_template.get(CLASS_ANNOTATION) != AUTOSCALING_CLASS:
        problems.append(
            f"its template lacks the annotation {CLASS_ANNOTATION}: {AUTOSCALING_CLASS}, so Knative scales it instead of hotseat"
        )
    return _adopt(service, gpu_resource, problems)


def adopt_deployment(deployment: Json, gpu_resource: str) -> Adopted:
    """Return a labelled Deployment as a Model. An invalid annotation is a problem, and its default is used."""
    spec = deployment["spec"]
    container = pods.engine_of(spec["template"])
    problems = []
    if not container.get("ports"):
        problems.append(f"its container names no port, so requests go to port {PORT}; add ports[].containerPort")
    if not container.get("readinessProbe"):
        problems.append(
            "its container has no readinessProbe, so it gets requests as soon as it runs, even while it loads"
        )
    if spec.get("replicas", 1) > 1:
        problems.append(f"spec.replicas is {spec['replicas']}, but a model has one pod; scale it to 0")
    strategy = spec.get("strategy") or {}
    if (
        strategy.get("type", "RollingUpdate") != "Recreate"
        and (strategy.get("rollingUpdate") or {}).get("maxSurge") != 0
    ):
        problems.append(
            "spec.strategy is RollingUpdate, so a changed template starts a second pod beside the first; set the type Recreate"
        )
    return _adopt(deployment, gpu_resource, problems)


def target_of(scaled_object: Json) -> str:
    """Return the name of the Deployment that a ScaledObject scales; empty if it scales something else."""
    target = scaled_object["spec"].get("scaleTargetRef") or {}
    return str(target.get("name", "")) if target.get("kind", DEPLOYMENTS.kind) == DEPLOYMENTS.kind else ""


def adopt_scaled_object(scaled_object: Json, deployment: Json, gpu_resource: str) -> Adopted:
    """Return a labelled ScaledObject as a Model: one with the name of its Deployment, and with its own annotations."""
    meta = {**scaled_object["metadata"], "name": deployment["metadata"]["name"]}
    return adopt_deployment({"metadata": meta, "spec": deployment["spec"]}, gpu_resource)


def _adopt(item: Json, gpu_resource: str, problems: list[str]) -> Adopted:
    template = item["spec"]["template"]
    in_template = template.get("metadata", {}).get("annotations") or {}
    annotations = {**in_template, **(item["metadata"].get("annotations") or {})}
    problems += [
        f"annotation {PREFIX}{old} has no meaning any longer; it is {PREFIX}{new} now"
        for old, new in _RENAMED.items()
        if PREFIX + old in annotations
    ]
    spec = _of_the_template(template.get("spec") or {}, gpu_resource)
    for name, (path, read) in _FIELDS.items():
        if PREFIX + name not in annotations:
            continue
        text = annotations[PREFIX + name]
        trial = _with(spec, path, read(text))
        try:
            _model(item, trial)
        except ValidationError as error:
            allowed = "; ".join(dict.fromkeys(_allowed(detail) for detail in error.errors()))
            problems.append(f"annotation {PREFIX}{name} is {text!r}; allowed: {allowed}")
        else:
            spec = trial
    pinned = annotations.get(PINNED, "false")
    if pinned not in ("true", "false"):
        problems.append(f"annotation {PINNED} is {pinned!r}; allowed: 'true' or 'false'")
    return Adopted(_model(item, spec, pinned), tuple(problems))


def _model(item: Json, spec: Json, pinned: str = "false") -> Model:
    meta = item["metadata"]
    metadata = {"name": meta["name"], "namespace": meta.get("namespace"), "annotations": {PINNED: pinned}}
    return Model.model_validate({"metadata": metadata, "spec": {**spec, "workspace": meta["labels"][WORKSPACE]}})


def _of_the_template(pod: Json, gpu_resource: str) -> Json:
    """Return the fields of the spec that the pod template has: GPUs (0 if it requests none) and concurrency."""
    limits = [(each.get("resources") or {}).get("limits") or {} for each in pod.get("containers") or []]
    gpus = sum(_count(limit.get(gpu_resource, 0)) for limit in limits)
    return {"engine": ENGINE, "resources": {"gpus": gpus}, "concurrency": pod.get("containerConcurrency") or 0}


def _count(quantity: object) -> int:
    try:
        return int(parse_quantity(quantity))
    except Unreadable:
        return 0


def _with(spec: Json, path: tuple[str, ...], value: object) -> Json:
    head, *rest = path
    return {**spec, head: _with(spec.get(head, {}), tuple(rest), value) if rest else value}


def _allowed(detail: Mapping[str, Any]) -> str:
    """Return which values are allowed, from an error of pydantic."""
    context = detail.get("ctx") or {}
    if isinstance(error := context.get("error"), Unreadable):
        return str(error)
    if pattern := PATTERN_WORDS.get(context.get("pattern", "")):
        return pattern
    return str(detail["msg"]).removeprefix("Input should be ").removeprefix("String should have ")
