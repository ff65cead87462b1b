"""Objects that the switcher makes of Models: created, changed, and deleted once their Workspace has another runtime."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import ClusterRuntime
from hotseat.cluster.switcher.model_objects import ModelObject
from hotseat.cluster.switcher.runtimes import ClusterRuntimes
from hotseat.kube.adoption import NAME_CONFLICT, is_foreign
from hotseat.kube.claims import claim_changes
from hotseat.kube.client import CONFLICT, Kube, KubeError, Watcher
from hotseat.kube.constants import (
    CLAIMS,
    CORE_SERVICES,
    DEPLOYMENTS,
    PAUSED_REPLICAS,
    SCALED_BY,
    SCALED_OBJECTS,
    SERVICES,
)
from hotseat.kube.containers import CannotMake
from hotseat.kube.objects import NOT_OURS, is_outdated, replacement

log = logging.getLogger(__name__)

RETRY = 2.0  # seconds after an object could not be applied
CONFLICT_RETRY = 0.2  # seconds after an object had another version than the one that was seen
RESOURCES = {(each.api, each.kind): each for each in (CLAIMS, CORE_SERVICES, DEPLOYMENTS, SCALED_OBJECTS, SERVICES)}


@dataclass(frozen=True, slots=True)
class Refused:
    """An object of a Model that could not be applied: a condition's reason, kind and name of the object, and why."""

    reason: str
    what: str
    message: str

    def __str__(self) -> str:
        return f"{self.what} could not be applied: {self.message}"


class ObjectApplier:
    """Applies the objects of Models. `retry` is called with the seconds after which to apply again what was not applied."""

    def __init__(
        self, kube: Kube, namespace: str, runtime: ClusterRuntimes, claims: Watcher, retry: Callable[[float], None]
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._runtime = runtime
        self._claims = claims
        self._retry = retry
        self.claim_problems: dict[str, list[tuple[str, str]]] = {}  # by Model: reason and message

    def apply(self, each: ModelObject) -> Refused | None:
        """Apply the objects of a Model. Return what was refused first; it is tried again."""
        if each.unusable:
            return Refused("RuntimeUnavailable", f"Workspace {each.model.spec.workspace}", each.unusable)
        for item in each.objects:
            what = f"{item['kind']} {item['metadata']['name']}"
            try:
                self._apply_object(each, item)
            except CannotMake as error:
                log.warning("%s: %s", what, error)
                self._retry(RETRY)
                return Refused(NAME_CONFLICT, what, str(error))
            except KubeError as error:
                if error.status == CONFLICT:  # it was written meanwhile: not worth a warning
                    self._retry(CONFLICT_RETRY)
                    continue
                log.warning("%s: %s", what, error)
                self._retry(RETRY)
                if error.status:  # 0: the API server cannot be reached, and says nothing about the object
                    return Refused("ApplyFailed", what, str(error))
        return None

    def _apply_object(self, model: ModelObject, item: Json) -> None:
        """Apply an object, unless nothing has changed. Raise CannotMake if that of its name is not the Model's."""
        resource = RESOURCES[item["apiVersion"], item["kind"]]
        watcher = self._claims if resource is CLAIMS else self._runtime.watcher(resource)
        name = item["metadata"]["name"]
        found = watcher.named(name) or self._kube.find(resource.path(self._namespace, name))
        if found is not None and is_foreign({**item, **found}, model.model.name):
            raise CannotMake(NOT_OURS)
        if found is not None and resource is CLAIMS:
            self._update_claim(item, found, model.model)
            return
        if resource is SCALED_OBJECTS and (claimed := self._runtime.replicas_of(name)):  # a change is for the next load
            item = {**item, "spec": {**item["spec"], "maxReplicaCount": claimed}}
        if found is not None and ("deletionTimestamp" in found["metadata"] or not is_outdated(item, found)):
            return
        if self._must_wait(model, item):
            self._retry(RETRY)
            return
        if resource is SCALED_OBJECTS:
            self._apply_scaled_object(item, found)
            return
        if resource in (DEPLOYMENTS, CORE_SERVICES):
            owners = [each["uid"] for each in (found or item)["metadata"].get("ownerReferences") or ()]
            if owners and model.uid not in owners:  # of the Model's ksvc, or of an earlier Model: it goes with that
                self._retry(RETRY)
                return
            item = replacement(item, found, model.uid or "")
        self._kube.apply(resource.path(self._namespace, name), item)
        log.info("%s %s applied", item["kind"], name)

    def _must_wait(self, model: ModelObject, item: Json) -> bool:
        """Whether an object must wait for another, so that never two scale a Deployment: the switcher and KEDA."""
        name = item["metadata"]["name"]
        if item["kind"] == SCALED_OBJECTS.kind:  # until KEDA may scale it
            found = self._runtime.watcher(DEPLOYMENTS).named(name)
            return found is None or SCALED_BY not in (found["metadata"].get("labels") or {})
        of_switcher = item["kind"] == DEPLOYMENTS.kind and model.runtime is ClusterRuntime.DEPLOYMENT
        return of_switcher and self._runtime.watcher(SCALED_OBJECTS).named(name) is not None  # until KEDA may not

    def _apply_scaled_object(self, item: Json, found: Json | None) -> None:
        """Create or change a ScaledObject. Its pause is not applied: a field that is left out later would be removed."""
        name = item["metadata"]["name"]
        if found is not None:
            path = SCALED_OBJECTS.path(self._namespace, name)
            self._kube.merge(path, {"metadata": {"labels": item["metadata"]["labels"]}, "spec": item["spec"]})
        else:
            paused = {} if self._runtime.has_place(name) else {PAUSED_REPLICAS: "0"}
            metadata = {**item["metadata"], "annotations": paused}
            self._kube.create(SCALED_OBJECTS.path(self._namespace), {**item, "metadata": metadata})
        log.info("ScaledObject %s applied", name)

    def remove_left_over(self, model: ModelObject) -> None:
        """Delete what another runtime made of a Model, once nothing of it runs there. Claims stay."""
        if model.uid is None:
            return
        for resource, item in self._runtime.left_over(model.model.name, model.uid, model.runtime):
            try:
                path = resource.path(self._namespace, item["metadata"]["name"])
                self._kube.delete(path, uid=item["metadata"]["uid"], background=True)
                log.info("%s %s deleted: the runtime is %s", item["kind"], item["metadata"]["name"], model.runtime)
            except KubeError as error:
                log.warning("%s %s: %s", item["kind"], item["metadata"]["name"], error)
                self._retry(RETRY)

    def _update_claim(self, wanted: Json, found: Json, model: Model) -> None:
        """Apply what has changed of a claim that exists. What is refused is a condition of the Model."""
        name, problems = wanted["metadata"]["name"], []
        if "deletionTimestamp" in found["metadata"]:
            return
        for change in claim_changes(wanted, found, sized=model.spec.cache.size is not None):
            if change.patch is None:
                problems.append((change.reason, change.message))
                continue
            try:
                self._kube.merge(CLAIMS.path(self._namespace, name), change.patch)
                log.info("claim %s: %s applied", name, change.message)
            except KubeError as error:
                log.warning("claim %s: %s: %s", name, change.message, error)
                problems.append((change.reason, f"{change.message} cannot be applied to the claim {name}: {error}"))
                if error.status in (0, CONFLICT):
                    self._retry(RETRY)
        self.claim_problems[model.name] = problems
