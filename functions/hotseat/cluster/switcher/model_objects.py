"""Reads the documents of a namespace: Workspaces, Models, and adopted Knative Services and Deployments.

A document that is invalid now, and was valid before, stays in force as it was. What an earlier run
of the switcher had in force is known from the Workspace's status, as far as routing needs it.
"""

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from hotseat.api.model import PINNED, Model, ModelSpec
from hotseat.api.types import Json, problems_of, without_unknown_fields
from hotseat.api.workspace import DEFAULT_WORKSPACE, ClusterRuntime, Workspace
from hotseat.control.codec import model_from_row
from hotseat.kube.adoption import adopt, adopt_deployment, adopt_scaled_object, is_adopted, target_of
from hotseat.kube.constants import (
    DEPLOYMENTS,
    FINGERPRINT,
    KEDA,
    MODELS,
    SCALED_BY,
    SCALED_OBJECTS,
    SERVICES,
    WORKSPACE,
    ClusterSettings,
    Resource,
)
from hotseat.kube.containers import CannotMake
from hotseat.kube.jobs import job_name
from hotseat.kube.objects import (
    MergeError,
    claim_of,
    deployment_of,
    fingerprint,
    headless_service_of,
    scaled_object_of,
    service_of,
    unkept_prompts,
)
from hotseat.kube.placement import in_workspace
from hotseat.manifests import schedule_windows as windows
from hotseat.manifests.inheritance import as_written, inherit

log = logging.getLogger(__name__)


# Kinds of objects that are adopted, by the runtime that serves them.
ADOPTED: Mapping[ClusterRuntime, Resource] = {
    ClusterRuntime.KNATIVE: SERVICES,
    ClusterRuntime.DEPLOYMENT: DEPLOYMENTS,
    ClusterRuntime.KEDA: SCALED_OBJECTS,
}
# Kinds of objects that show the state of a Model, by its runtime.
SHOW_STATE: Mapping[ClusterRuntime, tuple[Resource, ...]] = {
    ClusterRuntime.KNATIVE: (SERVICES,),
    ClusterRuntime.KEDA: (DEPLOYMENTS, SCALED_OBJECTS),
    ClusterRuntime.DEPLOYMENT: (DEPLOYMENTS,),
}


@dataclass(frozen=True, slots=True)
class ModelObject:
    """A Model as it was read, with the spec that is in force. That of an adopted object has no uid."""

    model: Model
    generation: int  # of the document
    uid: str | None
    problem: str = ""  # of the document
    objects: tuple[Json, ...] = ()  # the claim, and what serves it: a ksvc, or a Deployment and its Service
    fingerprint: str = ""  # changes when the engine has to be restarted
    status: Json = field(default_factory=dict)
    runtime: ClusterRuntime = ClusterRuntime.KNATIVE
    unusable: str = ""  # why the runtime of the Workspace cannot be used
    # Generation of the document that MODEL is from. 0: not known. None: nothing is in force.
    in_force: int | None = None
    created: str = ""  # creationTimestamp
    names_conflict: str = ""  # which names other Models claim as well
    adopted_as: str = ""  # name of the adopted object
    adopted_from: str = ""  # its uid
    unkept_prompts: str | None = None  # why its pods keep no prompt caches; "": they do; None: its engine has none
    declared: Model | None = None  # MODEL with the names that older Models have, where there are such

    @property
    def most_pods(self) -> int:
        """How many pods it may have at once: only KEDA scales by demand."""
        return self.model.spec.scheduling.replicas if self.runtime is ClusterRuntime.KEDA else 1

    def shown_at(self, namespace: str) -> list[str]:
        """Return the paths of the objects that show its state."""
        if self.adopted_as:
            return [ADOPTED[self.runtime].path(namespace, self.adopted_as)]
        return [each.path(namespace, self.model.name) for each in SHOW_STATE[self.runtime]]


class WorkspaceObject(NamedTuple):
    """A Workspace with the spec that is in force, its document, and the problem of the document."""

    workspace: Workspace
    document: Json
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ModelObjects:
    """All documents, by name. `invalid` are documents of which nothing is in force, with their problems."""

    workspaces: Mapping[str, WorkspaceObject]
    models: Mapping[str, ModelObject]
    invalid: Mapping[str, tuple[Json, str]] = field(default_factory=dict)
    invalid_workspaces: Mapping[str, tuple[Json, str]] = field(default_factory=dict)
    # Objects with our label that no Model owns, by uid, with their problems.
    adopted: Mapping[str, tuple[Json, str]] = field(default_factory=dict)


NOTHING_READ = ModelObjects({}, {})


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
    deployments: Iterable[Json] = (),
    scaled_objects: Iterable[Json] = (),
    autoscalers: Mapping[str, str] = MappingProxyType({}),
    last: ModelObjects = NOTHING_READ,
) -> ModelObjects:
    """Read all objects. A Model takes precedence over an adopted object of the same name.

    PATHS are the paths of weights by fetch Job. CHOOSE returns the runtime of a Workspace with a status, and why that cannot
    be used. DEPLOYMENTS and SCALED_OBJECTS are those of Models and of others. AUTOSCALERS are the names of HorizontalPodAutoscalers
    by that of the Deployment that they scale. LAST is what was read before.
    """
    services, deployments = list(services), list(deployments)
    found_workspaces: dict[str, WorkspaceObject] = {}
    invalid_workspaces: dict[str, tuple[Json, str]] = {}
    for each in workspaces:
        name = each["metadata"]["name"]
        one = _workspace(each, last.workspaces.get(name))
        if isinstance(one, str):
            invalid_workspaces[name] = (each, one)
        else:
            found_workspaces[name] = one
    default_workspace = next(iter(found_workspaces)) if len(found_workspaces) == 1 else DEFAULT_WORKSPACE
    made = {ClusterRuntime.KNATIVE: services, ClusterRuntime.DEPLOYMENT: deployments}
    reader = _ModelReader(
        settings,
        paths,
        default_workspace,
        {name: each.workspace for name, each in found_workspaces.items()},
        {name: choose(each.workspace, each.document.get("status") or {}) for name, each in found_workspaces.items()},
        last,
        _earlier(found_workspaces.values()),
        {
            uid: (_runtime_of(runtime, each), each)
            for runtime, items in made.items()
            for each in items
            for uid in _owners(each)
        },
    )
    found: dict[str, ModelObject] = {}
    invalid: dict[str, tuple[Json, str]] = {}
    for each in models:
        if "deletionTimestamp" in each["metadata"]:
            continue
        it = reader.read(each)
        if isinstance(it, str):
            invalid[each["metadata"]["name"]] = (each, it)
        else:
            found[it.model.name] = it
    by_name = {each["metadata"]["name"]: each for each in deployments}
    adopter = _Adopter(reader, autoscalers, by_name, invalid_workspaces, found.keys() | invalid.keys())
    for runtime, items in {ClusterRuntime.KEDA: scaled_objects, **made}.items():
        for each in items:
            if is_adopted(each) and "deletionTimestamp" not in each["metadata"]:
                adopter.adopt(each, runtime)
    settled = _settle_names(found | adopter.found)
    adopted = {uid: (item, adopter.problem(uid, settled)) for uid, item in adopter.labelled.items()}
    return ModelObjects(found_workspaces, settled, invalid, invalid_workspaces, adopted)


def _workspace(document: Json, last: WorkspaceObject | None) -> WorkspaceObject | str:
    """Return a Workspace, or the problem of one that never was valid and has more than unknown fields against it."""
    meta = document["metadata"]
    whole = {"metadata": {"name": meta["name"]}, "spec": document.get("spec") or {}}
    try:
        return WorkspaceObject(Workspace.model_validate(whole), document)
    except ValidationError as error:
        problem = problems_of(error)
        log.warning("Workspace %s: %s", meta["name"], problem)
        if last is not None and last.document["metadata"].get("uid") == meta.get("uid"):
            return WorkspaceObject(last.workspace, document, f"{problem}; the last valid version is in force")
        try:
            rest = Workspace.model_validate(without_unknown_fields(whole, error))
        except ValidationError:
            return problem
        return WorkspaceObject(rest, document, f"{problem}; the other fields are in force")


def _earlier(workspaces: Iterable[WorkspaceObject]) -> Mapping[str, tuple[Mapping[str, Any], str]]:
    """Return Models as an earlier run of the switcher had them in force: row and Workspace, by name."""
    return {
        row["name"]: (row, each.workspace.name)
        for each in workspaces
        for row in (each.document.get("status") or {}).get("models") or ()
        if "spec" in row
    }


def _runtime_of(runtime: ClusterRuntime, item: Json) -> ClusterRuntime:
    return ClusterRuntime.KEDA if SCALED_BY in (item["metadata"].get("labels") or {}) else runtime


def _owners(item: Json) -> list[str]:
    """Return the uids of the Models that own an object."""
    owners = item["metadata"].get("ownerReferences") or ()
    return [each["uid"] for each in owners if each["kind"] == MODELS.kind]


@dataclass(frozen=True, slots=True)
class _ModelReader:
    """Reads Models."""

    settings: ClusterSettings
    paths: Mapping[str, str]
    default_workspace: str
    workspaces: Mapping[str, Workspace]
    runtimes: Mapping[str, tuple[ClusterRuntime, str]]  # by Workspace, with why it cannot be used
    last: ModelObjects
    earlier: Mapping[str, tuple[Mapping[str, Any], str]]
    made: Mapping[str, tuple[ClusterRuntime, Json]]  # what serves a Model, by its uid

    def settings_in(self, workspace: str) -> ClusterSettings:
        """Return the settings of a Workspace."""
        return in_workspace(self.settings, self.workspaces.get(workspace))

    def read(self, document: Json) -> ModelObject | str:
        """Return a Model, or the problem of one of which nothing is in force."""
        meta = document["metadata"]
        try:
            known = {"name": meta["name"], "annotations": _pin(document)}
            spec = {"workspace": self.default_workspace, **document["spec"]}
            spec, wrong = self._inherit(spec)
            model = Model.model_validate({"metadata": known, "spec": spec})
        except ValidationError as error:
            problem = problems_of(error)
        else:
            made = self._make(document, model, wrong)
            if not made.problem:
                return made
            problem = made.problem
        log.warning("Model %s: %s", meta["name"], problem)
        good = self._last_good(document) or self._of_an_earlier_run(document)
        return problem if good is None else replace(good, generation=meta["generation"], problem=problem)

    def _inherit(self, spec: Json) -> tuple[Json, list[str]]:
        """Return the spec with what it inherits from its Workspace, and the problems of its placeholders."""
        workspace = self.workspaces.get(spec["workspace"])
        its = (
            {} if workspace is None else workspace.spec.model_dump(by_alias=True, include={"model_defaults", "macros"})
        )
        made, problems = inherit(as_written(spec) if its.get("modelDefaults") else spec, its)
        return made, list(map(str, problems))

    def _make(self, document: Json, model: Model, wrong: Iterable[str] = ()) -> ModelObject:
        meta = document["metadata"]
        settings = self.settings_in(model.spec.workspace)
        runtime, unusable = self.runtimes.get(model.spec.workspace, (ClusterRuntime.KNATIVE, ""))
        uid, path = meta["uid"], self.paths.get(job_name(model))
        objects: tuple[Json, ...] = ()
        problems, fingerprint, unkept = [*wrong, *_account_problems(model, settings)], "", None
        try:
            if runtime is ClusterRuntime.DEPLOYMENT:
                served_by = [deployment_of(model, settings, uid, path), headless_service_of(model, settings, uid)]
            elif runtime is ClusterRuntime.KEDA:
                deployment = deployment_of(model, settings, uid, path, scaled_by=KEDA)
                service, scaled_object = (
                    headless_service_of(model, settings, uid),
                    scaled_object_of(model, settings, uid),
                )
                served_by = [deployment, service, scaled_object]
            else:
                served_by = [service_of(model, settings, uid, path)]
            made = [claim_of(model, settings, uid), *served_by]
            objects = () if unusable else tuple(each for each in made if each is not None)
            fingerprint = served_by[0]["metadata"]["annotations"][FINGERPRINT] if served_by[0] else ""
            unkept = unkept_prompts(model, settings)
        except (CannotMake, MergeError) as error:
            problems.append(str(error))
        problems += [f"lifecycle.schedule[{n}].{field} {why}" for n, field, why in _schedule(model)]
        return ModelObject(
            model,
            meta["generation"],
            meta["uid"],
            "; ".join(problems),
            objects,
            fingerprint,
            document.get("status") or {},
            runtime,
            unusable,
            in_force=meta["generation"],
            created=meta.get("creationTimestamp", ""),
            unkept_prompts=unkept,
        )

    def _last_good(self, document: Json) -> ModelObject | None:
        """Return the Model as it was last in force. Its pin, its objects and the path of its weights are today's."""
        last = self.last.models.get(document["metadata"]["name"])
        if last is None or last.uid != document["metadata"]["uid"]:
            return None
        good = last.declared or last.model
        pinned = good.metadata.model_copy(update={"annotations": _pin(document)})
        model = good.model_copy(update={"metadata": pinned})
        made = self._make(document, model) if last.objects else replace(last, model=model)
        kept = replace(last, model=model) if made.problem else made
        return replace(kept, in_force=last.in_force)

    def _of_an_earlier_run(self, document: Json) -> ModelObject | None:
        """Return the Model as far as its Workspace's status has it. What serves it stays as it is."""
        meta = document["metadata"]
        row, workspace = self.earlier.get(meta["name"], ({}, ""))
        try:
            model = model_from_row(row, workspace) if row else None
        except ValidationError:
            return None
        runtime, made = self.made.get(meta["uid"], (ClusterRuntime.KNATIVE, None))
        if model is None or (not model.is_external and made is None):
            return None
        pinned = model.metadata.model_copy(update={"annotations": _pin(document)})
        return ModelObject(
            model.model_copy(update={"metadata": pinned}),
            meta["generation"],
            meta["uid"],
            fingerprint=(made["metadata"].get("annotations") or {}).get(FINGERPRINT, "") if made else "",
            status=document.get("status") or {},
            runtime=runtime,
            in_force=row.get("generation", 0),
            created=meta.get("creationTimestamp", ""),
        )


@dataclass(frozen=True, slots=True)
class _Adopter:
    """Reads objects with our label that no Model owns."""

    reader: _ModelReader
    autoscalers: Mapping[str, str]  # by Deployment
    deployments: Mapping[str, Json]  # by name
    invalid_workspaces: Container[str]
    taken: Container[str]  # names of Models
    found: dict[str, ModelObject] = field(default_factory=dict)
    labelled: dict[str, Json] = field(default_factory=dict)  # by uid
    _problems: dict[str, list[str]] = field(default_factory=dict)  # by uid

    def adopt(self, item: Json, runtime: ClusterRuntime) -> None:
        """Add the Model that an object is."""
        meta = item["metadata"]
        uid, workspace = meta["uid"], meta["labels"][WORKSPACE]
        name = target_of(item) if runtime is ClusterRuntime.KEDA else meta["name"]
        problems = self._problems[uid] = []
        self.labelled[uid] = item
        if workspace not in self.reader.workspaces:
            why = "is invalid" if workspace in self.invalid_workspaces else "does not exist"
            problems.append(f"Workspace {workspace} {why}")
        if name in self.taken or name in self.found:
            problems.append(
                f"{name} is the name of another Model, so this object is not used; rename it, or remove its label {WORKSPACE}"
            )
            return
        if runtime is ClusterRuntime.KEDA and name not in self.deployments:
            problems.append(f"its scaleTargetRef is {name or 'no Deployment'}; name a Deployment that exists")
            return
        try:
            self.found[name] = self._read(item, runtime)
            problems += filter(None, [self.found[name].problem])
        except ValidationError as error:  # a wrong label or pod template
            log.warning("%s %s: %s", item.get("kind"), name, error)
            problems.append(problems_of(error))
            before = self.reader.last.models.get(name)
            if before is not None and before.uid is None and before.runtime is runtime:
                self.found[name] = before

    def problem(self, uid: str, settled: Mapping[str, ModelObject]) -> str:
        """Return what is wrong with an object, when names have been SETTLED."""
        it = next((each for each in self.found.values() if each.adopted_from == uid), None)
        conflict = settled[it.model.name].names_conflict if it is not None else ""
        return "; ".join(filter(None, [*self._problems[uid], conflict]))

    def _read(self, item: Json, runtime: ClusterRuntime) -> ModelObject:
        meta, deployment = item["metadata"], item
        if runtime is ClusterRuntime.KEDA:
            deployment = self.deployments[target_of(item)]
        template = deployment["spec"]["template"]
        resource = self.reader.settings_in(meta["labels"][WORKSPACE]).gpu_resource
        generation = meta.get("generation", 1)
        problems: list[str] = []
        if runtime is ClusterRuntime.DEPLOYMENT:  # whose scale is a generation too
            adopted, version = adopt_deployment(item, resource), fingerprint(template)
            if autoscaler := self.autoscalers.get(meta["name"]):
                problems.append(f"HorizontalPodAutoscaler {autoscaler} scales it as well; delete that")
        elif runtime is ClusterRuntime.KEDA:
            adopted, version = adopt_scaled_object(item, deployment, resource), fingerprint(template)
        else:
            adopted, version = adopt(item, resource), f"generation-{generation}"
        return ModelObject(
            adopted.model,
            generation,
            None,
            "; ".join([*adopted.problems, *problems]),
            fingerprint=((template.get("metadata") or {}).get("annotations") or {}).get(FINGERPRINT, version),
            runtime=runtime,
            in_force=generation,
            created=meta.get("creationTimestamp", ""),
            adopted_as=meta["name"],
            adopted_from=meta["uid"],
        )


def _account_problems(model: Model, settings: ClusterSettings) -> list[str]:
    """Return the problem of a podTemplate that names a ServiceAccount which Models may not use."""
    pod = (model.spec.pod_template or {}).get("spec") or {}
    allowed = ("default", *settings.service_accounts)
    return [
        f"podTemplate.spec.{field} is {pod[field]}; allowed: {', '.join(allowed)} (HOTSEAT_SERVICE_ACCOUNTS of the switcher)"
        for field in ("serviceAccountName", "serviceAccount")
        if pod.get(field) and pod[field] not in allowed
    ]


def _settle_names(found: dict[str, ModelObject]) -> dict[str, ModelObject]:
    """Give each name to the oldest Model that claims it, and tell all that claim it."""
    claims: dict[str, list[str]] = {}
    for each in sorted(found.values(), key=lambda each: (each.created, each.model.name)):
        for name in each.model.names:
            claims.setdefault(name, []).append(each.model.name)
    settled = dict(found)
    for name, (owner, *others) in claims.items():
        for model in (owner, *others) if others else ():
            each = settled[model]
            rest = ", ".join(other for other in (owner, *others) if other != model)
            told = f"Model {rest} claims the name {name} too; Model {owner} has it, because it is older"
            spec = each.model.spec if model == owner else _without_name(each.model.spec, name)
            settled[model] = replace(
                each,
                model=each.model.model_copy(update={"spec": spec}),
                declared=each.declared or each.model,
                names_conflict="; ".join(filter(None, (each.names_conflict, told))),
            )
    return settled


def _without_name(spec: ModelSpec, name: str) -> ModelSpec:
    """Return the spec without a name that another Model has."""
    update: Json = {"names": tuple(other for other in spec.names if other != name)}
    if spec.filters is not None and name in spec.filters.by_name:
        kept = {other: each for other, each in spec.filters.by_name.items() if other != name}
        update["filters"] = spec.filters.model_copy(update={"by_name": kept})
    return spec.model_copy(update=update)


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
