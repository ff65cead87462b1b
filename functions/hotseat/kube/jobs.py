"""The Job that fetches a Model's weights and pulls its images before its engine uses a GPU. No I/O.

Its pod has one container that fetches, if there is something to fetch, and one for each image of
the engine's pod that is not hotseat's own. They start at the same time.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import CacheState
from hotseat.engines.base import is_remote
from hotseat.kube import pods as podlib
from hotseat.kube.constants import CACHE, CACHE_VARIABLE, FINGERPRINT, JOBS, TERMINATION_LOG, ClusterSettings
from hotseat.kube.containers import CONTAINER as ENGINE
from hotseat.kube.containers import needs_fetch, pod_security, security_context
from hotseat.kube.objects import (
    cache_volume,
    fingerprint,
    foreign_images,
    labels_of,
    merge,
    owner_of,
    pull_secrets,
    weights_volume,
)
from hotseat.kube.placement import placement_fields, tolerate_gpu_taint
from hotseat.sources.fetch import FATAL

CONTAINER: Final = "fetch"
PULL: Final = "pull"  # first part of the names of containers that only pull an image
_NO_PROGRAM: Final = (126, 127, 128)  # exit codes of a container whose image has no program `true`
_NOT_CREATED: Final = ("CreateContainerError", "RunContainerError")  # the same, with some container runtimes
RETRIES: Final = 4  # by the Job, after 10, 20, 40 and 80 s; each resumes the download
_MAX_NAME: Final = 63
# Fields that decide where a pod may run and what it may do there. The fetch must run where the
# engine will run, because a volume that waits for its first consumer is bound there permanently.
_COPIED_FIELDS: Final = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "runtimeClassName",
    "securityContext",
    "serviceAccountName",
    "imagePullSecrets",
    "schedulerName",
    "priorityClassName",
    "dnsPolicy",
    "dnsConfig",
    "hostAliases",
)


@dataclass(frozen=True, slots=True)
class FetchOutcome:
    """The state of a fetch.

    `path`: that of the weights, for `service_of`, once they are cached. `reason`: why it cannot run
    at present, in CamelCase, or empty.
    """

    state: CacheState
    message: str = ""
    path: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes that are fetched, and bytes in total if the source has stated them."""

    done: int
    total: int | None


def job_name(model: Model) -> str:
    """Return the name of the Job for a Model's source; another source has another Job."""
    tail = hashlib.sha256((model.spec.source or "").encode()).hexdigest()[:8]
    what = "fetch" if is_remote(model.spec.source) else "pull"
    name = f"{model.name}-{what}-{tail}"
    if len(name) <= _MAX_NAME:
        return name
    tail = hashlib.sha256(f"{model.name} {model.spec.source}".encode()).hexdigest()[:8]
    return f"{model.name[: _MAX_NAME - len(what) - len(tail) - 2]}-{what}-{tail}"


def needs_job(model: Model, settings: ClusterSettings) -> bool:
    """Whether a Job must fetch weights or pull images before the Model can be loaded.

    Raise CannotMake or MergeError if the Model is invalid.
    """
    return needs_fetch(model) or bool(foreign_images(model, settings))


def job_of(model: Model, settings: ClusterSettings, uid: str) -> Json | None:
    """Return the Job for a Model; None if nothing is to be fetched or pulled.

    Raise CannotMake or MergeError if the Model is invalid. A Job's template cannot be changed. A
    Job with another fingerprint must be deleted and created again; it resumes the download.
    """
    if not needs_job(model, settings):
        return None
    labels = labels_of(model)
    pod = _pod(model, settings)
    names = [each["name"] for each in pod["containers"]]
    fatal = {"containerName": CONTAINER, "operator": "In", "values": [FATAL]}
    # An image without the program `true` is pulled all the same (see `outcome_of`).
    absent = [
        {"containerName": name, "operator": "In", "values": list(_NO_PROGRAM)} for name in names if name != CONTAINER
    ]
    rules: list[Json] = [{"action": "FailJob", "onExitCodes": fatal}] * (CONTAINER in names)
    rules.append({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})
    rules += [{"action": "FailJob", "onExitCodes": each} for each in absent]
    spec: Json = {
        "backoffLimit": RETRIES,
        "podFailurePolicy": {"rules": rules},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    metadata = {
        "name": job_name(model),
        "namespace": settings.namespace,
        "labels": labels,
        "annotations": {FINGERPRINT: fingerprint(spec)},
        "ownerReferences": [owner_of(model, uid)],
    }
    return {"apiVersion": JOBS.api, "kind": JOBS.kind, "metadata": metadata, "spec": spec}


def must_replace(found: Json, wanted: Json, *, done: bool) -> bool:
    """Whether a Job differs from the wanted one, so that it must be deleted and created again.

    `done`: it has cached the weights. Then only another volume or another image matters.
    """
    if found["metadata"].get("annotations", {}).get(FINGERPRINT) == wanted["metadata"]["annotations"][FINGERPRINT]:
        return False
    return not done or _results_of(found) != _results_of(wanted)


def _results_of(job: Json) -> tuple[set[str], set[str]]:
    """Return where a Job leaves something: the claim, and the images that it pulls."""
    pod = job["spec"]["template"]["spec"]
    claims = {each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
    return claims, {each["image"] for each in pod["containers"] if each["name"] != CONTAINER}


def fetches(job: Json) -> bool:
    """Whether a Job fetches weights, beside pulling images."""
    return any(each["name"] == CONTAINER for each in job["spec"]["template"]["spec"]["containers"])


def outcome_of(job: Json, pods: Iterable[Json]) -> FetchOutcome:
    """Return the state of a fetch from its Job and its pods.

    CACHED without a path: the pod that reported the path is gone. The Job must be deleted and
    created again.
    """
    pods = list(pods)
    conditions = {
        each["type"]: each for each in job.get("status", {}).get("conditions") or [] if each["status"] == "True"
    }
    results = [result for _, result in sorted(_results(pods), key=lambda each: each[0])]
    last = results[-1] if results else {}
    path = next((result["path"] for result in reversed(results) if "path" in result), None)
    if "Complete" in conditions:
        return FetchOutcome(CacheState.CACHED, "", path)
    if (path is not None if fetches(job) else bool(pods)) and _is_pulled(job, pods):
        return FetchOutcome(CacheState.CACHED, "", path)
    if "Failed" in conditions:
        return FetchOutcome(
            CacheState.FAILED, last.get("error") or conditions["Failed"].get("message") or "the Job failed"
        )
    if "error" in last:
        return FetchOutcome(CacheState.FETCHING, last["error"])
    newest = max(pods, key=lambda each: str(each["metadata"].get("creationTimestamp", "")), default=None)
    problem = None if newest is None or is_fetching(newest) else podlib.pending_reason(newest)
    if problem is not None:
        return FetchOutcome(CacheState.FETCHING, problem.message, None, problem.reason)
    return FetchOutcome(CacheState.FETCHING)


def is_fetching(pod: Json) -> bool:
    """Whether the container that fetches is running in a pod."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return any(each["name"] == CONTAINER and "running" in (each.get("state") or {}) for each in statuses)


def _is_pulled(job: Json, pods: Iterable[Json]) -> bool:
    """Whether one of the pods has pulled all images, although `true` may not have run in them."""
    wanted = {each["name"] for each in job["spec"]["template"]["spec"]["containers"]} - {CONTAINER}
    found = [pod.get("status", {}).get("containerStatuses") or [] for pod in pods]
    return any(wanted <= {each["name"] for each in statuses if _has_image(each)} for statuses in found)


def _has_image(status: Json) -> bool:
    """Whether the image of a container is on its node: it has ended, or its program cannot be started."""
    state = status.get("state") or {}
    ended = (state.get("terminated") or {}).get("exitCode")
    return ended in (0, *_NO_PROGRAM) or (state.get("waiting") or {}).get("reason") in _NOT_CREATED


def blocking_object(job: Json, pods: Iterable[Json]) -> tuple[str, str] | None:
    """Return the kind and name of the object whose Events say why a Job does not run; None if it runs or has run."""
    pods = [pod for pod in pods if pod.get("status", {}).get("phase") not in podlib.TERMINAL_PHASES]
    if not pods:
        return "Job", job["metadata"]["name"]
    pod = pods[-1]
    if podlib.node(pod) is None:
        claims = (each.get("persistentVolumeClaim") for each in pod["spec"].get("volumes") or [])
        name = next((each["claimName"] for each in claims if each), None)
        return ("PersistentVolumeClaim", name) if name else None
    statuses = pod.get("status", {}).get("containerStatuses") or []
    begun = any({"running", "terminated"} & (each.get("state") or {}).keys() for each in statuses)
    return None if begun else ("Pod", pod["metadata"]["name"])


# Events of type Normal that are problems all the same.
_PROBLEMS: Final = frozenset({"FailedBinding"})


def problem_of(kind: str, events: Iterable[Json]) -> tuple[str, str] | None:
    """Return reason and message of the newest Event that tells a problem; None if there is none.

    Of a pod, only the newest Event counts, because a later one shows that the problem has passed.
    """
    ordered = sorted(events, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    for each in reversed(ordered if kind != "Pod" else ordered[-1:]):
        if each.get("type") == "Warning" or each.get("reason") in _PROBLEMS:
            return str(each.get("reason") or "Pending"), str(each.get("message") or "")
    return None


def parse_progress(line: str) -> FetchProgress | None:
    """Return the progress in a line of the fetch's log; None if the line has none."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    done, total = (message.get("done"), message.get("total")) if isinstance(message, dict) else (None, None)
    return FetchProgress(done, total if isinstance(total, int) else None) if isinstance(done, int) else None


def _pod(model: Model, settings: ClusterSettings) -> Json:
    template: Mapping[str, Any] = (model.spec.pod_template or {}).get("spec") or {}
    user = _user_of_engine(template)
    containers = [_fetch_container(model, settings)] * needs_fetch(model)
    containers += [
        {
            "name": PULL if number == 0 else f"{PULL}-{number}",
            "image": image,
            "command": ["true"],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "securityContext": security_context(settings, read_only=True),
        }
        for number, image in enumerate(foreign_images(model, settings))
    ]
    for each in containers:
        each["securityContext"] |= user
    pod: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Volumes that support it get the group once; a later pod need not change all files again.
        **pod_security(settings, change_policy=True),
        "containers": containers,
        # The claims also if images are only pulled: the pod then runs where the engine can.
        "volumes": [cache_volume(model), {"name": "tmp", "emptyDir": {}}, *weights_volume(model)],
        **placement_fields(settings),
    }
    if secrets := pull_secrets(model, settings):
        pod["imagePullSecrets"] = secrets
    pod = merge(pod, {key: template[key] for key in _COPIED_FIELDS if key in template}, "podTemplate.spec")
    tolerate_gpu_taint(pod, model, settings)
    return pod


def _fetch_container(model: Model, settings: ClusterSettings) -> Json:
    env = {"HOME": "/tmp", "HF_HOME": f"{CACHE}/hf", CACHE_VARIABLE: CACHE}  # noqa: S108
    command = ["python3", "-P", "-m", "hotseat.sources.fetch", str(model.spec.source)]
    container: Json = {
        "name": CONTAINER,
        "image": settings.image,
        "command": [*command, "--cache", CACHE, "--termination-log", TERMINATION_LOG],
        "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
        "securityContext": security_context(settings, read_only=True),
        "volumeMounts": [{"name": "cache", "mountPath": CACHE}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    environment: list[Json] = []
    if settings.fetch_environment:
        environment.append({"configMapRef": {"name": settings.fetch_environment, "optional": True}})
    if model.spec.credentials:
        environment.append({"secretRef": {"name": model.spec.credentials}})
    if environment:
        container["envFrom"] = environment
    return container


def _user_of_engine(template: Mapping[str, Any]) -> Json:
    """Return the user of the engine in the podTemplate, because the engine must own the files of the Job."""
    engines = [each for each in template.get("containers") or [] if each.get("name") == ENGINE]
    context = (engines[0].get("securityContext") or {}) if engines else {}
    return {key: context[key] for key in ("runAsNonRoot", "runAsUser", "runAsGroup") if key in context}


def _results(pods: Iterable[Json]) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield when the fetch of each pod ended, and its termination message."""
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses") or []:
            ended = (status.get("state") or {}).get("terminated")
            if status["name"] != CONTAINER or not ended:
                continue
            try:
                result = json.loads(ended.get("message") or "")
            except ValueError:
                problem = f"the fetch ended: {ended.get('reason', 'Error')} (exit code {ended.get('exitCode')})"
                result = {"error": problem}
            if isinstance(result, dict):
                yield ended.get("finishedAt") or "", {key: str(value) for key, value in result.items()}
