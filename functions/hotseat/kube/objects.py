"""The objects that a Model becomes, its pod template merged in, and whether those that exist still match. Pure."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from hotseat.api.model import Model, OnDelete
from hotseat.api.types import Json
from hotseat.api.units import Unreadable, parse_quantity
from hotseat.engines.base import is_remote
from hotseat.kube.constants import (
    AUTOSCALING_CLASS,
    CACHE,
    CLAIMS,
    CLASS_ANNOTATION,
    FINGERPRINT,
    GROUP,
    MODEL,
    MODELS,
    SERVICES,
    USER,
    WEIGHTS,
    WORKSPACE,
    ClusterSettings,
)
from hotseat.kube.containers import Program, bytes_quantity, concurrency_of, container_of, program_of
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


class MergeError(ValueError):
    """The patch cannot be merged; the message begins with the path of the invalid field."""


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], where: str = "podTemplate") -> dict[str, Any]:
    """Return `patch` merged over `base`; neither is changed. Raise MergeError with a path that begins with `where`."""
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


_LOCAL: Final = {"networking.knative.dev/visibility": "cluster-local"}
_CLAIM_SIZE: Final = 50 * 1024**3  # bytes of a cache volume whose Model states no cache.size
_REQUEST_TIMEOUT: Final = 3600  # seconds that a request may take; at most Knative's max-revision-timeout-seconds
_PROGRESS_DEADLINE: Final = 600  # seconds; longer for a Model whose startTimeout needs it
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
    return f"{model.name}-cache" if persistent and model.spec.url is None else None


def claim_of(model: Model, settings: ClusterSettings, uid: str) -> Json | None:
    """Return the claim for the cache; None if it exists already or none is needed.

    A claim to be retained has no owner.
    """
    name = claim_name(model)
    if name is None or model.spec.cache.existing_claim:
        return None
    size = model.spec.cache.size if model.spec.cache.size is not None else _CLAIM_SIZE
    modes = [model.spec.cache.access_mode.value]
    spec: Json = {"accessModes": modes, "resources": {"requests": {"storage": bytes_quantity(size)}}}
    if model.spec.cache.storage_class:
        spec["storageClassName"] = model.spec.cache.storage_class
    claim = _object(CLAIMS.api, CLAIMS.kind, name, model, settings)
    if model.spec.cache.on_delete == OnDelete.DELETE:
        claim["metadata"]["ownerReferences"] = [owner_of(model, uid)]
    return {**claim, "spec": spec}


def service_of(model: Model, settings: ClusterSettings, uid: str, weights: str | None = None) -> Json | None:
    """Return the Knative Service of a Model; None for a server that runs elsewhere (engine external).

    `weights`: their path in the cache, from the fetch Job. Raise CannotMake or MergeError if the
    Model is invalid.
    """
    if model.spec.url is not None:
        return None
    template = _template(model, settings, program_of(model, settings, weights))
    digest = fingerprint(template)
    template["metadata"]["annotations"][FINGERPRINT] = digest
    service = _object(SERVICES.api, SERVICES.kind, model.name, model, settings)
    service["metadata"]["labels"] |= _LOCAL
    service["metadata"]["annotations"] = {FINGERPRINT: digest}
    service["metadata"]["ownerReferences"] = [owner_of(model, uid)]
    return {**service, "spec": {"template": template}}


def foreign_images(model: Model, settings: ClusterSettings) -> list[str]:
    """Return the images of a Model's pods that are not hotseat's own, in a fixed order.

    Raise CannotMake or MergeError if the Model is invalid.
    """
    if model.spec.url is not None:
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


def pull_secrets(model: Model) -> list[Json]:
    """Return the references to a Model's Secrets for pulling images."""
    return [{"name": name} for name in dict.fromkeys(model.spec.image_pull_secrets)]


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


def _object(api: str, kind: str, name: str, model: Model, settings: ClusterSettings) -> Json:
    metadata: Json = {"name": name, "namespace": settings.namespace, "labels": labels_of(model)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def _template(model: Model, settings: ClusterSettings, program: Program) -> Json:
    """Return the pod template of the Knative Service, with the podTemplate merged but for fixed fields."""
    volumes, mounts = _volumes(model, program)
    spec: Json = {
        "containerConcurrency": concurrency_of(model),
        "timeoutSeconds": _REQUEST_TIMEOUT,
        "responseStartTimeoutSeconds": _REQUEST_TIMEOUT,
        "automountServiceAccountToken": False,
        "containers": [container_of(model, program, settings, mounts)],
        "volumes": volumes,
        **placement_fields(settings),
    }
    if claim_name(model) is not None:
        # A new volume belongs to root. Knative does not allow fsGroupChangePolicy.
        spec["securityContext"] = {"fsGroup": USER}
    if secrets := pull_secrets(model):
        spec["imagePullSecrets"] = secrets
    deadline = max(_PROGRESS_DEADLINE, math.ceil(model.spec.lifecycle.start_timeout + _DEADLINE_MARGIN))
    annotations = {"serving.knative.dev/progress-deadline": f"{deadline}s"}
    template = merge({"metadata": {"annotations": annotations}, "spec": spec}, model.spec.pod_template or {})
    tolerate_gpu_taint(template["spec"], model, settings)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels_of(model)}
    fixed = {CLASS_ANNOTATION: AUTOSCALING_CLASS, "autoscaling.knative.dev/initial-scale": "0"}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **fixed}
    return template


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
