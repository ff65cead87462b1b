"""The objects that a Model becomes, its pod template merged in, and whether those that exist still match. Pure."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from hotseat.api.model import Model, OnDelete
from hotseat.api.types import Json
from hotseat.api.units import Unreadable, parse_quantity
from hotseat.engines.base import is_remote, prompt_saver
from hotseat.kube.constants import (
    AUTOSCALING_CLASS,
    CACHE,
    CLAIMS,
    CLASS_ANNOTATION,
    CORE_SERVICES,
    DEPLOYMENT,
    DEPLOYMENTS,
    FINGERPRINT,
    GROUP,
    MANAGER,
    MODEL,
    MODELS,
    PORT,
    PROMPTS_VARIABLE,
    SCALED_BY,
    SCALED_OBJECTS,
    SERVICES,
    WEIGHTS,
    WORKSPACE,
    ClusterSettings,
)
from hotseat.kube.containers import (
    SIDECAR_PORTS,
    CannotMake,
    Program,
    bytes_quantity,
    concurrency_of,
    container_of,
    engine_of,
    pod_security,
    program_of,
)
from hotseat.kube.placement import placement_fields, tolerate_gpu_taint

# Lists whose elements are merged, and the field by which. All other lists are atomic, as in
# Kubernetes' own types.
MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_DIRECTIVE: Final = "$patch"


NOT_OURS: Final = "it exists and is not of this Model; delete it or rename the Model"


class MergeError(ValueError):
    """The patch cannot be merged; the message begins with the path of the invalid field."""


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], where: str = "podTemplate") -> dict[str, Any]:
    """Return `patch` merged over `base`; neither is changed. Raise MergeError with a path that begins with `where`.

    It is the strategic merge of `kubectl patch`, for fields of a pod template: maps field by field,
    named lists element by element. A list without a merge key (args, command, tolerations) is replaced
    as a whole, `null` removes a field, `$patch: delete` removes a map or an element, and
    `$patch: replace` replaces it.
    """
    directive = _directive(patch, where)
    if directive == "delete":
        return {}
    result = {} if directive == "replace" else dict(base)
    for key, value in patch.items():
        path = f"{where}.{key}"
        if key == _DIRECTIVE:
            continue
        if value is None or (isinstance(value, Mapping) and _directive(value, path) == "delete"):
            result.pop(key, None)
        else:
            result[key] = _merged(key, result.get(key), value, path)
    return result


def _merged(key: str, old: Any, new: Any, where: str) -> Any:
    if isinstance(new, Mapping):
        return merge(old if isinstance(old, Mapping) else {}, new, where)
    if isinstance(new, list) and key in MERGE_KEYS:
        return _merged_list(key, old if isinstance(old, list) else [], new, where)
    return new


def _merged_list(key: str, old: list[Any], new: list[Any], where: str) -> list[Any]:
    """Return the elements merged by their key; new elements come last."""
    by = MERGE_KEYS[key]
    if any(isinstance(item, Mapping) and item == {_DIRECTIVE: "replace"} for item in new):
        old, new = [], [item for item in new if item != {_DIRECTIVE: "replace"}]
    result = list(old)
    for index, item in enumerate(new):
        path = f"{where}[{index}]"
        if not isinstance(item, Mapping) or item.get(by) is None:
            raise MergeError(f"{path} has no {by}, which is the key for merging")
        place = next((i for i, each in enumerate(result) if each.get(by) == item[by]), None)
        if _directive(item, path) == "delete":
            if place is not None:
                del result[place]
            continue
        if place is None:
            result.append(merge({}, item, path))
            continue
        # A volume has one source: a source of another kind under the same name replaces it.
        kept = {name: part for name, part in result[place].items() if key != "volumes" or name in item}
        result[place] = merge(kept, item, path)
    return result


def _directive(patch: Mapping[str, Any], where: str) -> str | None:
    directive = patch.get(_DIRECTIVE)
    if directive not in (None, "delete", "replace", "merge"):
        raise MergeError(f"{where}.{_DIRECTIVE} is {directive!r}; allowed: delete, replace, merge")
    return None if directive is None else str(directive)


# Of several replicas. Fewer free no GPU for another Model, and a new one has to load, so they stay for a while.
_BEHAVIOR: Final = {"scaleDown": {"stabilizationWindowSeconds": 300}}
_LOCAL: Final = {"networking.knative.dev/visibility": "cluster-local"}
_DEADLINE_MARGIN: Final = 60.0  # seconds after a startTimeout until Knative gives a Revision up


def labels_of(model: Model) -> dict[str, str]:
    """Return the labels of all objects of a Model."""
    return {MODEL: model.name, WORKSPACE: model.spec.workspace}


def owner_of(model: Model, uid: str) -> Json:
    """Return the owner reference by which an object is deleted with its Model."""
    owner = {"apiVersion": MODELS.api, "kind": MODELS.kind, "name": model.name, "uid": uid}
    return {**owner, "controller": True, "blockOwnerDeletion": True}


def is_owned(item: Json) -> bool:
    """Whether an object was made from a Model object."""
    owners = item["metadata"].get("ownerReferences") or []
    return any(each["kind"] == MODELS.kind and each["apiVersion"].startswith(f"{GROUP}/") for each in owners)


def claim_name(model: Model) -> str | None:
    """Return the name of the claim for the cache; None if the cache need not outlive a pod."""
    cache = model.spec.cache
    if cache.existing_claim:
        return cache.existing_claim
    persistent = is_remote(model.spec.source) or cache.size is not None or cache.storage_class is not None
    return f"{model.name}-cache" if persistent and not model.is_external else None


def claim_of(model: Model, settings: ClusterSettings, uid: str) -> Json | None:
    """Return the claim for the cache; None if it exists already or none is needed.

    A claim to be retained has no owner.
    """
    name = claim_name(model)
    if name is None or model.spec.cache.existing_claim:
        return None
    size = model.spec.cache.size if model.spec.cache.size is not None else settings.cache_size
    modes = [model.spec.cache.access_mode.value]
    spec: Json = {"accessModes": modes, "resources": {"requests": {"storage": bytes_quantity(size)}}}
    if storage_class := model.spec.cache.storage_class or settings.storage_class:
        spec["storageClassName"] = storage_class
    claim = _object(CLAIMS.api, CLAIMS.kind, name, model, settings)
    if model.spec.cache.on_delete == OnDelete.DELETE:
        claim["metadata"]["ownerReferences"] = [owner_of(model, uid)]
    return {**claim, "spec": spec}


def unkept_prompts(model: Model, settings: ClusterSettings) -> str | None:
    """Return why the pods of a Model keep no prompt caches, or "" if they do.

    None: its Workspace does not ask for that, or its engine saves none. Raise CannotMake if the Model is invalid.
    """
    if settings.keep_prompts is None or model.is_external or prompt_saver(engine_of(model), model) is None:
        return None
    if not (program := program_of(model, settings, None)).own:
        return f"its image {program.image} is not hotseat's, whose entry point prepares the directory for them"
    return "" if claim_name(model) else "it has no claim for its cache (set cache.size)"


def _program(model: Model, settings: ClusterSettings, uid: str, weights: str | None) -> Program:
    program = program_of(model, settings, weights)
    if unkept_prompts(model, settings) != "":
        return program
    # A Model that is created again under its name does not get the prompts of the former one.
    kept = json.dumps({"keep": settings.keep_prompts, "model": uid}, separators=(",", ":"))
    return replace(program, env={**program.env, PROMPTS_VARIABLE: kept})


def service_of(model: Model, settings: ClusterSettings, uid: str, weights: str | None = None) -> Json | None:
    """Return the Knative Service of a Model; None for a server that runs elsewhere (engine external).

    `weights`: their path in the cache, from the fetch Job. Raise CannotMake or MergeError if the
    Model is invalid.
    """
    if model.is_external:
        return None
    program = _program(model, settings, uid, weights)
    if program.port in SIDECAR_PORTS:
        raise CannotMake(f"port is {program.port}, which Knative's sidecar uses; choose another")
    template = _template(model, settings, program)
    digest = fingerprint(template)
    template["metadata"]["annotations"][FINGERPRINT] = digest
    service = _object(SERVICES.api, SERVICES.kind, model.name, model, settings)
    service["metadata"]["labels"] |= _LOCAL
    service["metadata"]["annotations"] = {FINGERPRINT: digest}
    service["metadata"]["ownerReferences"] = [owner_of(model, uid)]
    return {**service, "spec": {"template": template}}


def deployment_of(
    model: Model, settings: ClusterSettings, uid: str, weights: str | None = None, *, scaled_by: str = ""
) -> Json | None:
    """Return the Deployment of a Model, at zero replicas; None for a server that runs elsewhere (engine external).

    `weights`: their path in the cache, from the fetch Job. `scaled_by`: value of that label of the
    Deployment and its pods. Raise CannotMake or MergeError if the Model is invalid.
    """
    if model.is_external:
        return None
    template = _pod_template(model, settings, _program(model, settings, uid, weights))
    scaler = {SCALED_BY: scaled_by} if scaled_by else {}
    template["metadata"]["labels"].pop(SCALED_BY, None)  # of a podTemplate
    template["metadata"]["labels"] |= scaler
    digest = fingerprint(template)
    template["metadata"]["annotations"][FINGERPRINT] = digest
    deployment = _object(DEPLOYMENTS.api, DEPLOYMENTS.kind, model.name, model, settings)
    deployment["metadata"]["labels"] |= {DEPLOYMENT: model.name, **scaler}
    deployment["metadata"]["annotations"] = {FINGERPRINT: digest}
    deployment["metadata"]["ownerReferences"] = [owner_of(model, uid)]
    spec: Json = {
        "replicas": 0,
        "strategy": {"type": "Recreate"},
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": _progress_deadline(model, settings),
        "selector": {"matchLabels": {DEPLOYMENT: model.name}},
        "template": template,
    }
    return {**deployment, "spec": spec}


def headless_service_of(model: Model, settings: ClusterSettings, uid: str) -> Json | None:
    """Return the headless Service that gives a Deployment's pod a name; None for a server that runs elsewhere."""
    if model.is_external:
        return None
    service = _object(CORE_SERVICES.api, CORE_SERVICES.kind, model.name, model, settings)
    service["metadata"]["ownerReferences"] = [owner_of(model, uid)]
    port = {"name": "http", "port": model.spec.port or PORT}
    return {**service, "spec": {"clusterIP": "None", "selector": {DEPLOYMENT: model.name}, "ports": [port]}}


def scaled_object_of(model: Model, settings: ClusterSettings, uid: str) -> Json | None:
    """Return the ScaledObject by which KEDA scales a Model's Deployment; None for a server that runs elsewhere.

    KEDA asks the switcher at each poll whether the Model has a place, and the switcher tells it at
    once when it gets one. A Model without a place is paused at zero, which is the runtime's to write.
    """
    if model.is_external:
        return None
    metadata = {
        "scalerAddress": settings.scaler_address.replace("{namespace}", settings.namespace),
        "model": model.name,
    }
    trigger: Json = {"type": "external-push", "metadata": metadata}
    if settings.scaler_tls:
        metadata["enableTLS"] = "true"
    if settings.scaler_authentication:
        trigger["authenticationRef"] = {"name": settings.scaler_authentication}
    item = _object(SCALED_OBJECTS.api, SCALED_OBJECTS.kind, model.name, model, settings)
    item["metadata"]["ownerReferences"] = [owner_of(model, uid)]
    if model.spec.concurrency:  # a change of it lets KEDA ask for the metric's target again
        metadata["concurrency"] = str(model.spec.concurrency)
    spec: Json = {
        "scaleTargetRef": {"name": model.name},
        "minReplicaCount": 0,
        "maxReplicaCount": model.spec.scheduling.replicas,
        "pollingInterval": 1,
        "cooldownPeriod": 0,
        "initialCooldownPeriod": 0,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _BEHAVIOR}},
        "triggers": [trigger],
    }
    return {**item, "spec": spec}


def foreign_images(model: Model, settings: ClusterSettings) -> list[str]:
    """Return the images of a Model's pods that are not hotseat's own, in a fixed order.

    Raise CannotMake or MergeError if the Model is invalid.
    """
    if model.is_external:
        return []
    pod = _template(model, settings, program_of(model, settings, None))["spec"]
    containers = [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]
    images = dict.fromkeys(str(each["image"]) for each in containers if each.get("image"))
    return sorted(image for image in images if image != settings.image)


def cache_volume(model: Model) -> Json:
    """Return the volume of the cache: its claim, or a directory that is deleted with the pod."""
    claim = claim_name(model)
    if claim is None:
        return {"name": "cache", "emptyDir": {}}
    return {"name": "cache", "persistentVolumeClaim": {"claimName": claim}}


def weights_volume(model: Model) -> list[Json]:
    """Return the volume of a pvc:// source; empty for other sources."""
    if not model.spec.source or not model.spec.source.startswith("pvc://"):
        return []
    claim = model.spec.source.removeprefix("pvc://").partition("/")[0]
    return [{"name": "weights", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}]


def pull_secrets(model: Model, settings: ClusterSettings) -> list[Json]:
    """Return the references to a Model's Secrets for pulling images, and to those of all Models."""
    return [{"name": name} for name in dict.fromkeys((*model.spec.image_pull_secrets, *settings.pull_secrets))]


def fingerprint(part: Json) -> str:
    """Return a digest of a part of an object, which does not depend on the order of fields."""
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]


def drifted(wanted: Any, found: Any) -> bool:
    """Whether an object differs from what we applied. Fields that others add (defaults, statuses) are ignored."""
    if isinstance(wanted, Mapping):
        found = {} if found is None else found  # the API server leaves out what is empty
        return not isinstance(found, Mapping) or any(drifted(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        found = [] if found is None else found
        if not isinstance(found, list) or len(wanted) != len(found):
            return True
        return any(drifted(one, other) for one, other in zip(wanted, found, strict=True))
    return not _same(wanted, found)


def is_outdated(wanted: Json, found: Json) -> bool:
    """Whether to apply an object again. The scale of a Deployment is its runtime's.

    While a Deployment is scaled up, it is not changed: a changed template would stop its pod before
    the scheduler has released it.
    """
    if wanted["kind"] != DEPLOYMENTS.kind:
        return drifted(wanted, found)
    return not found["spec"].get("replicas", 1) and drifted(_unscaled(wanted), found)


def replacement(wanted: Json, found: Json | None, uid: str) -> Json:
    """Return what to apply over the object of its name, if there is one. Raise CannotMake if that is not the Model's.

    It is applied only to this version, so that a Deployment that was scaled up meanwhile is not changed.
    """
    if found is None:
        return wanted
    meta = found["metadata"]
    if not any(each["uid"] == uid for each in meta.get("ownerReferences") or []):
        raise CannotMake(NOT_OURS)
    if SCALED_BY in wanted["metadata"].get("labels", {}) and not _applied_the_scale(found):
        wanted = _unscaled(wanted)
    return {**wanted, "metadata": {**wanted["metadata"], "resourceVersion": meta["resourceVersion"]}}


def _unscaled(deployment: Json) -> Json:
    return {**deployment, "spec": {key: value for key, value in deployment["spec"].items() if key != "replicas"}}


def _applied_the_scale(deployment: Json) -> bool:
    """Whether an earlier apply set `replicas`, and nobody has scaled the Deployment since.

    If we left it out then, the API server would set its default, which is 1.
    """
    return any(
        each.get("manager") == MANAGER
        and each.get("operation") == "Apply"
        and "f:replicas" in (each.get("fieldsV1") or {}).get("f:spec", {})
        for each in deployment["metadata"].get("managedFields") or ()
    )


def _object(api: str, kind: str, name: str, model: Model, settings: ClusterSettings) -> Json:
    metadata: Json = {"name": name, "namespace": settings.namespace, "labels": labels_of(model)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def _template(model: Model, settings: ClusterSettings, program: Program) -> Json:
    """Return the pod template of the Knative Service, with the podTemplate merged but for fixed fields."""
    volumes, mounts = _volumes(model, program)
    spec: Json = {
        "containerConcurrency": concurrency_of(model),
        "timeoutSeconds": settings.request_timeout,
        "responseStartTimeoutSeconds": settings.request_timeout,
        "automountServiceAccountToken": False,
        "containers": [container_of(model, program, settings, mounts)],
        "volumes": volumes,
        **placement_fields(settings),
    }
    if claim_name(model) is not None:
        spec |= pod_security(settings, change_policy=False)  # Knative does not allow fsGroupChangePolicy
    if secrets := pull_secrets(model, settings):
        spec["imagePullSecrets"] = secrets
    annotations = {"serving.knative.dev/progress-deadline": f"{_progress_deadline(model, settings)}s"}
    template = merge({"metadata": {"annotations": annotations}, "spec": spec}, model.spec.pod_template or {})
    tolerate_gpu_taint(template["spec"], model, settings)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels_of(model)}
    fixed = {CLASS_ANNOTATION: AUTOSCALING_CLASS, "autoscaling.knative.dev/initial-scale": "0"}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **fixed}
    return template


def _pod_template(model: Model, settings: ClusterSettings, program: Program) -> Json:
    """Return the pod template of a Deployment, with the podTemplate merged but for fixed labels."""
    volumes, mounts = _volumes(model, program)
    spec: Json = {
        "terminationGracePeriodSeconds": max(1, math.ceil(model.spec.lifecycle.stop_timeout)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container_of(model, program, settings, mounts)],
        "volumes": volumes,
        **placement_fields(settings),
    }
    if claim_name(model):
        spec |= pod_security(settings, change_policy=True)
    if secrets := pull_secrets(model, settings):
        spec["imagePullSecrets"] = secrets
    template = merge({"metadata": {}, "spec": spec}, model.spec.pod_template or {})
    tolerate_gpu_taint(template["spec"], model, settings)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels_of(model), DEPLOYMENT: model.name}
    metadata["annotations"] = dict(metadata.get("annotations") or {})
    return template


def _progress_deadline(model: Model, settings: ClusterSettings) -> int:
    """Return the seconds after which Kubernetes gives up waiting for a pod: longer than hotseat waits."""
    return max(settings.progress_deadline, math.ceil(model.spec.lifecycle.start_timeout + _DEADLINE_MARGIN))


def _volumes(model: Model, program: Program) -> tuple[list[Json], list[Json]]:
    volumes: list[Json] = [cache_volume(model), {"name": "tmp", "emptyDir": {}}]
    mounts: list[Json] = [{"name": "cache", "mountPath": CACHE}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if not program.own:  # engines with several processes (vLLM) use shared memory, of which a pod has 64 MiB by default
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    if weights := weights_volume(model):
        volumes += weights
        mounts.append({"name": "weights", "mountPath": WEIGHTS, "readOnly": True})
    return volumes, mounts


def _same(wanted: Any, found: Any) -> bool:
    if wanted == found:
        return True
    if found is None:
        return wanted in (False, 0, "")
    try:
        return parse_quantity(wanted) == parse_quantity(found)  # the API server turns 1000m into 1
    except Unreadable:
        return False
