"""Reads the documents of a namespace: Workspaces, Models and adopted ksvcs."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from hotseat.api.model import PINNED, Model
from hotseat.api.types import Json
from hotseat.api.workspace import DEFAULT_WORKSPACE, ClusterRuntime, Workspace
from hotseat.kube.adoption import adopt, is_adopted
from hotseat.kube.constants import FINGERPRINT, WORKSPACE, ClusterSettings
from hotseat.kube.containers import CannotMake
from hotseat.kube.objects import MergeError, claim_of, deployment_of, headless_service_of, service_of
from hotseat.kube.placement import in_workspace
from hotseat.manifests import schedule_windows as windows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelObject:
    """A Model as it was read. That of an adopted ksvc has no uid."""

    model: Model
    generation: int
    uid: str | None
    problem: str = ""
    objects: tuple[Json, ...] = ()  # the claim, and what serves it: a ksvc, or a Deployment and its Service
    fingerprint: str = ""  # changes when the engine has to be restarted
    status: Json = field(default_factory=dict)
    runtime: ClusterRuntime = ClusterRuntime.KNATIVE


@dataclass(frozen=True, slots=True)
class ModelObjects:
    """All documents that could be read, by name."""

    workspaces: Mapping[str, tuple[Workspace, Json]]
    models: Mapping[str, ModelObject]


Choose = Callable[[Workspace, Json], tuple[ClusterRuntime, str]]


def _knative(_workspace: Workspace, _status: Json) -> tuple[ClusterRuntime, str]:
    return ClusterRuntime.KNATIVE, ""


def read(
    workspaces: Iterable[Json],
    models: Iterable[Json],
    services: Iterable[Json],
    settings: ClusterSettings,
    paths: Mapping[str, str],
    *,
    choose: Choose = _knative,
) -> ModelObjects:
    """Read all objects. PATHS are the paths of weights by Model. A Model takes precedence over an adopted ksvc of the same name.

    CHOOSE returns the runtime of a Workspace with a status, and why that cannot be used.
    """
    found_workspaces: dict[str, tuple[Workspace, Json]] = {}
    for each in workspaces:
        try:
            found_workspaces[each["metadata"]["name"]] = (_workspace(each), each)
        except ValidationError as error:
            log.warning("Workspace %s: %s", each["metadata"]["name"], error)
    default_workspace = next(iter(found_workspaces)) if len(found_workspaces) == 1 else DEFAULT_WORKSPACE
    runtimes = {name: choose(it, each.get("status") or {}) for name, (it, each) in found_workspaces.items()}
    found: dict[str, ModelObject] = {}
    for each in models:
        if "deletionTimestamp" not in each["metadata"]:
            stated = (each.get("spec") or {}).get("workspace", default_workspace)
            workspace, _ = found_workspaces.get(stated, (None, None))
            if made := _model(each, in_workspace(settings, workspace), paths, default_workspace, runtimes):
                found[made.model.name] = made
    for each in services:
        name = each["metadata"]["name"]
        if is_adopted(each) and name not in found and "deletionTimestamp" not in each["metadata"]:
            try:
                workspace, _ = found_workspaces.get(each["metadata"]["labels"][WORKSPACE], (None, None))
                found[name] = _adopted(each, in_workspace(settings, workspace))
            except ValidationError as error:  # a wrong label or pod template; its pods are counted all the same
                log.warning("ksvc %s: %s", name, error)
    return ModelObjects(found_workspaces, found)


def _adopted(service: Json, settings: ClusterSettings) -> ModelObject:
    adopted = adopt(service, settings.gpu_resource)
    annotations = service["spec"]["template"].get("metadata", {}).get("annotations") or {}
    generation = service["metadata"].get("generation", 1)
    fingerprint = annotations.get(FINGERPRINT, f"generation-{generation}")
    return ModelObject(adopted.model, generation, None, "; ".join(adopted.problems), (), fingerprint)


def _workspace(document: Json) -> Workspace:
    meta = document["metadata"]
    return Workspace.model_validate({"metadata": {"name": meta["name"]}, "spec": document.get("spec") or {}})


def _model(
    document: Json,
    settings: ClusterSettings,
    paths: Mapping[str, str],
    default_workspace: str,
    runtimes: Mapping[str, tuple[ClusterRuntime, str]],
) -> ModelObject | None:
    meta = document["metadata"]
    status = document.get("status") or {}
    try:
        known = {"name": meta["name"], "annotations": _pin(document)}
        model = Model.model_validate({"metadata": known, "spec": {"workspace": default_workspace, **document["spec"]}})
    except ValidationError as error:
        log.warning("Model %s: %s", meta["name"], error)
        return None
    runtime, unusable = runtimes.get(model.spec.workspace, (ClusterRuntime.KNATIVE, ""))
    objects: tuple[Json, ...] = ()
    problem, fingerprint = "", ""
    try:
        served_by: tuple[Json | None, ...]
        if runtime is ClusterRuntime.DEPLOYMENT:
            deployment = deployment_of(model, settings, meta["uid"], paths.get(model.name))
            served_by = (deployment, headless_service_of(model, settings, meta["uid"]))
        else:
            served_by = (service_of(model, settings, meta["uid"], paths.get(model.name)),)
        objects = tuple(each for each in (claim_of(model, settings, meta["uid"]), *served_by) if each is not None)
        fingerprint = served_by[0]["metadata"]["annotations"][FINGERPRINT] if served_by[0] else ""
    except (CannotMake, MergeError) as error:
        problem = str(error)
    if unusable:
        problem, objects = unusable, ()
    wrong = [f"lifecycle.schedule[{n}].{field} {why}" for n, field, why in _schedule(model)]
    return ModelObject(
        model,
        meta["generation"],
        meta["uid"],
        "; ".join([problem] * bool(problem) + wrong),
        objects,
        fingerprint,
        status,
        runtime,
    )


def _schedule(model: Model) -> Iterator[tuple[int, str, str]]:
    """Yield what is wrong with a schedule and not checked by the API server: number of the window, field and reason."""
    for number, window in enumerate(model.spec.lifecycle.schedule):
        yield from ((number, field, why) for field, why in windows.problems(window))


def _pin(document: Json) -> dict[str, str]:
    """Return the annotation of a pin, if there is one."""
    value = (document["metadata"].get("annotations") or {}).get(PINNED)
    if value not in (None, "true", "false"):
        log.warning(
            '%s: the annotation %s is %r; allowed: "true" or "false"', document["metadata"]["name"], PINNED, value
        )
    return {} if value is None else {PINNED: value}
