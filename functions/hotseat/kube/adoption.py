"""Adoption: a Knative Service that carries our label, made by `kn` or by hand, read as a Model. Pure.

Its label `hotseat.dev/workspace` names the Workspace, its name is the Model's. Annotations say the rest; those of the Service win
over those of its template, and changing them there makes no new Revision.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from hotseat.api.model import PINNED, Model
from hotseat.api.types import PATTERN_WORDS
from hotseat.api.units import Unreadable, parse_quantity
from hotseat.kube.constants import AUTOSCALING_CLASS, CLASS_ANNOTATION, GROUP, WORKSPACE
from hotseat.kube.objects import is_owned

Json = dict[str, Any]

ENGINE: Final = "container"  # of adopted Models: whatever the ksvc runs; no installed engine has this name
PREFIX: Final = f"{GROUP}/"


@dataclass(frozen=True, slots=True)
class Adopted:
    """A Model that no Model object describes, and what is wrong with the annotations that it was read from."""

    model: Model
    problems: tuple[str, ...]


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _names(text: str) -> list[str]:
    """Read names with commas between them, or a JSON list where a name has commas of its own."""
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    return names if isinstance(names, list) else _words(text)


_RENAMED: Final[Mapping[str, str]] = {"aliases": "names", "served-name": "engine-model-name"}
# Annotation (after the prefix) → where it goes in the spec, and how it is read; pydantic makes numbers of text.
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


def is_adopted(service: Json) -> bool:
    """Whether a ksvc is a Model by its label alone."""
    return bool(service["metadata"].get("labels", {}).get(WORKSPACE)) and not is_owned(service)


def adopt(service: Json, gpu_resource: str) -> Adopted:
    """Read a labelled ksvc as a Model. What an annotation says wrongly is a problem, and its default is used."""
    template = service["spec"]["template"]
    in_template = template.get("metadata", {}).get("annotations") or {}
    annotations = {**in_template, **(service["metadata"].get("annotations") or {})}
    problems = []
    if in_template.get(CLASS_ANNOTATION) != AUTOSCALING_CLASS:
        problems.append(
            f"its template lacks the annotation {CLASS_ANNOTATION}: {AUTOSCALING_CLASS}, so Knative scales it instead of hotseat"
        )
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
            _model(service, trial)
        except ValidationError as error:
            wanted = "; ".join(dict.fromkeys(_wanted(detail) for detail in error.errors()))
            problems.append(f"annotation {PREFIX}{name} is {text!r}; allowed: {wanted}")
        else:
            spec = trial
    pinned = annotations.get(PINNED, "false")
    if pinned not in ("true", "false"):
        problems.append(f"annotation {PINNED} is {pinned!r}; allowed: 'true' or 'false'")
    return Adopted(_model(service, spec, pinned), tuple(problems))


def _model(service: Json, spec: Json, pinned: str = "false") -> Model:
    meta = service["metadata"]
    metadata = {"name": meta["name"], "namespace": meta.get("namespace"), "annotations": {PINNED: pinned}}
    return Model.model_validate({"metadata": metadata, "spec": {**spec, "workspace": meta["labels"][WORKSPACE]}})


def _of_the_template(pod: Json, gpu_resource: str) -> Json:
    """Read what the pod template itself says: GPUs (one without any runs beside everything), and how many requests at once."""
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


def _wanted(detail: Mapping[str, Any]) -> str:
    """Say what would be allowed, where pydantic says what is not."""
    context = detail.get("ctx") or {}
    if isinstance(error := context.get("error"), Unreadable):
        return str(error)
    if pattern := PATTERN_WORDS.get(context.get("pattern", "")):
        return pattern
    return str(detail["msg"]).removeprefix("Input should be ").removeprefix("String should have ")
