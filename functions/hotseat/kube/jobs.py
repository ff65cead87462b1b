"""The Job that fetches a Model's weights before its engine uses a GPU, and the outcome of the Job. No I/O."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import CacheState
from hotseat.kube.constants import CACHE, CACHE_VARIABLE, FINGERPRINT, JOBS, TERMINATION_LOG, USER, ClusterSettings
from hotseat.kube.containers import CONTAINER as ENGINE
from hotseat.kube.containers import needs_fetch, security_context
from hotseat.kube.objects import cache_volume, fingerprint, labels_of, merge, owner_of, pull_secrets
from hotseat.sources.fetch import FATAL

CONTAINER: Final = "fetch"
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
    """The state of a fetch. `path`: that of the weights, for `service_of`, once they are cached."""

    state: CacheState
    message: str = ""
    path: str | None = None


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes that are fetched, and bytes in total if the source has stated them."""

    done: int
    total: int | None


def job_name(model: Model) -> str:
    """Return the name of the Job for a Model's source; another source has another Job."""
    tail = hashlib.sha256((model.spec.source or "").encode()).hexdigest()[:8]
    name = f"{model.name}-fetch-{tail}"
    if len(name) <= _MAX_NAME:
        return name
    tail = hashlib.sha256(f"{model.name} {model.spec.source}".encode()).hexdigest()[:8]
    return f"{model.name[: _MAX_NAME - len('-fetch-') - len(tail)]}-fetch-{tail}"


def job_of(model: Model, settings: ClusterSettings, uid: str) -> Json | None:
    """Return the Job for a Model; None if nothing is to be fetched.

    Raise CannotMake or MergeError if the Model is invalid. A Job's template cannot be changed. A
    Job with another fingerprint must be deleted and created again; it resumes the download.
    """
    if not needs_fetch(model):
        return None
    labels = labels_of(model)
    spec: Json = {
        "backoffLimit": RETRIES,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [FATAL]},
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"metadata": {"labels": labels}, "spec": _pod(model, settings)},
    }
    metadata = {
        "name": job_name(model),
        "namespace": settings.namespace,
        "labels": labels,
        "annotations": {FINGERPRINT: fingerprint(spec)},
        "ownerReferences": [owner_of(model, uid)],
    }
    return {"apiVersion": JOBS.api, "kind": JOBS.kind, "metadata": metadata, "spec": spec}


def outcome_of(job: Json, pods: Iterable[Json]) -> FetchOutcome:
    """Return the state of a fetch from its Job and its pods.

    CACHED without a path: the pod that reported the path is gone. The Job must be deleted and
    created again.
    """
    conditions = {
        each["type"]: each for each in job.get("status", {}).get("conditions") or [] if each["status"] == "True"
    }
    results = [result for _, result in sorted(_results(pods), key=lambda each: each[0])]
    last = results[-1] if results else {}
    if "Complete" in conditions:
        path = next((result["path"] for result in reversed(results) if "path" in result), None)
        return FetchOutcome(CacheState.CACHED, "", path)
    if "Failed" in conditions:
        return FetchOutcome(
            CacheState.FAILED, last.get("error") or conditions["Failed"].get("message") or "the Job failed"
        )
    return FetchOutcome(CacheState.FETCHING, last.get("error", ""))


def parse_progress(line: str) -> FetchProgress | None:
    """Return the progress in a line of the fetch's log; None if the line has none."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    done, total = (message.get("done"), message.get("total")) if isinstance(message, dict) else (None, None)
    return FetchProgress(done, total if isinstance(total, int) else None) if isinstance(done, int) else None


def _pod(model: Model, settings: ClusterSettings) -> Json:
    env = {"HOME": "/tmp", "HF_HOME": f"{CACHE}/hf", CACHE_VARIABLE: CACHE}  # noqa: S108
    command = ["python3", "-P", "-m", "hotseat.sources.fetch", str(model.spec.source)]
    container: Json = {
        "name": CONTAINER,
        "image": settings.image,
        "command": [*command, "--cache", CACHE, "--termination-log", TERMINATION_LOG],
        "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "securityContext": security_context(read_only=True),
        "volumeMounts": [{"name": "cache", "mountPath": CACHE}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    environment: list[Json] = []
    if settings.fetch_environment:
        environment.append({"configMapRef": {"name": settings.fetch_environment, "optional": True}})
    if model.spec.credentials:
        environment.append({"secretRef": {"name": model.spec.credentials}})
    if environment:
        container["envFrom"] = environment
    pod: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Volumes that support it get the group once; a later pod need not change all files again.
        "securityContext": {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [container],
        "volumes": [cache_volume(model), {"name": "tmp", "emptyDir": {}}],
    }
    if secrets := pull_secrets(model, settings):
        pod["imagePullSecrets"] = secrets
    template: Mapping[str, Any] = (model.spec.pod_template or {}).get("spec") or {}
    container["securityContext"] |= _user_of_engine(template)
    pod = merge(pod, {key: template[key] for key in _COPIED_FIELDS if key in template}, "podTemplate.spec")
    if model.spec.resources.gpus and settings.gpu_resource:
        # Nodes with GPUs are often tainted. An admission plugin adds the toleration to pods that
        # request GPUs, but not to this one.
        allowed = {"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
        pod["tolerations"] = [*(pod.get("tolerations") or []), allowed]
    return pod


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
