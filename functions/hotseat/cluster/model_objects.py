"""The documents of a namespace: Workspaces, Models, and ksvcs that carry our label, read into what the core understands."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from hotseat.api.model import PINNED, Model
from hotseat.api.types import Json
from hotseat.api.workspace import DEFAULT_WORKSPACE, Workspace
from hotseat.kube.adoption import adopt, is_adopted
from hotseat.kube.constants import FINGERPRINT, ClusterSettings
from hotseat.kube.containers import CannotMake
from hotseat.kube.merge import MergeError
from hotseat.kube.objects import claim_of, service_of
from hotseat.manifests import windows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelObject:
    """A Model as it was read. An adopted one has no uid: its ksvc is somebody else's."""

    model: Model
    generation: int
    uid: str | None
    problem: str = ""
    objects: tuple[Json, ...] = ()  # claim and ksvc that it wants
    mark: str = ""  # changes with everything that it must be started anew for
    status: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelObjects:
    """All that was read, and what could not be."""

    workspaces: Mapping[str, tuple[Workspace, Json]]
    models: Mapping[str, ModelObject]


def read(
    workspaces: Iterable[Json],
    models: Iterable[Json],
    services: Iterable[Json],
    settings: ClusterSettings,
    paths: Mapping[str, str],
) -> ModelObjects:
    """Read everything. `paths`: where the weights of Models are. A Model's own object goes before a ksvc of its name."""
    handles: dict[str, tuple[Workspace, Json]] = {}
    for each in workspaces:
        try:
            handles[each["metadata"]["name"]] = (_workspace(each), each)
        except ValidationError as error:
            log.warning("Workspace %s: %s", each["metadata"]["name"], error)
    home = next(iter(handles)) if len(handles) == 1 else DEFAULT_WORKSPACE
    found: dict[str, ModelObject] = {}
    for each in models:
        if "deletionTimestamp" not in each["metadata"] and (made := _model(each, settings, paths, home)):
            found[made.model.name] = made
    for each in services:
        name = each["metadata"]["name"]
        if is_adopted(each) and name not in found and "deletionTimestamp" not in each["metadata"]:
            try:
                found[name] = _adopted(each, settings)
            except ValidationError as error:  # its label or its pod template; whatever it runs is counted all the same
                log.warning("ksvc %s: %s", name, error)
    return ModelObjects(handles, found)


def _adopted(service: Json, settings: ClusterSettings) -> ModelObject:
    adopted = adopt(service, settings.gpu_resource)
    annotations = service["spec"]["template"].get("metadata", {}).get("annotations") or {}
    generation = service["metadata"].get("generation", 1)
    mark = annotations.get(FINGERPRINT, f"generation-{generation}")
    return ModelObject(adopted.model, generation, None, "; ".join(adopted.problems), (), mark)


def _workspace(document: Json) -> Workspace:
    meta = document["metadata"]
    return Workspace.model_validate({"metadata": {"name": meta["name"]}, "spec": document.get("spec") or {}})


def _model(document: Json, settings: ClusterSettings, paths: Mapping[str, str], home: str) -> ModelObject | None:
    meta = document["metadata"]
    status = document.get("status") or {}
    try:
        known = {"name": meta["name"], "annotations": _pin(document)}
        model = Model.model_validate({"metadata": known, "spec": {"workspace": home, **document["spec"]}})
    except ValidationError as error:
        log.warning("Model %s: %s", meta["name"], error)
        return None
    objects: tuple[Json, ...] = ()
    problem, mark = "", ""
    try:
        claim = claim_of(model, settings, meta["uid"])
        service = service_of(model, settings, meta["uid"], paths.get(model.name))
        objects = tuple(each for each in (claim, service) if each is not None)
        mark = service["metadata"]["annotations"][FINGERPRINT] if service else ""
    except (CannotMake, MergeError) as error:
        problem = str(error)
    wrong = [f"lifecycle.schedule[{n}].{field} {why}" for n, field, why in _schedule(model)]
    return ModelObject(
        model, meta["generation"], meta["uid"], "; ".join([problem] * bool(problem) + wrong), objects, mark, status
    )


def _schedule(model: Model) -> Iterator[tuple[int, str, str]]:
    """Yield what is wrong with a schedule that the API server cannot know: the window's number, its field, and why."""
    for number, window in enumerate(model.spec.lifecycle.schedule):
        yield from ((number, field, why) for field, why in windows.problems(window))


def _pin(document: Json) -> dict[str, str]:
    """Take the one annotation of a Model that is ours to follow."""
    value = (document["metadata"].get("annotations") or {}).get(PINNED)
    if value not in (None, "true", "false"):
        log.warning(
            '%s: the annotation %s is %r; allowed: "true" or "false"', document["metadata"]["name"], PINNED, value
        )
    return {} if value is None else {PINNED: value}
