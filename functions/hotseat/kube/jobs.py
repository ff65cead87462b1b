"""The Job that brings a Model's weights before a GPU is taken, and what it tells. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hotseat.api.model import Model
from hotseat.core.messages import CacheState
from hotseat.kube.constants import CACHE, CACHE_VARIABLE, FINGERPRINT, JOBS, TERMINATION_LOG, USER, ClusterSettings
from hotseat.kube.containers import CONTAINER as ENGINE
from hotseat.kube.containers import needs_fetch, security_context
from hotseat.kube.merge import merge
from hotseat.kube.objects import cache_volume, fingerprint, labels_of, owner_of, pull_secrets
from hotseat.sources.fetch import HOPELESS

Json = dict[str, Any]

CONTAINER: Final = "fetch"
RETRIES: Final = 4  # by the Job, after 10, 20, 40 and 80 s; each goes on where the last one stopped
_LONGEST_NAME: Final = 63
# What decides where a pod may run and what it may do there. The fetch must land where the engine will: a volume that waits for
# its first consumer is bound there for ever.
_PLACING: Final = (
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
    """Where a fetch stands. `path` is that of the weights, for `service_of`, once they are cached."""

    state: CacheState
    message: str = ""
    path: str | None = None


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes that are there, and in all where the source has said it."""

    done: int
    total: int | None


def job_name(model: Model) -> str:
    """Name of the Job for this source; another source is another Job."""
    tail = hashlib.sha256((model.spec.source or "").encode()).hexdigest()[:8]
    name = f"{model.name}-fetch-{tail}"
    if len(name) <= _LONGEST_NAME:
        return name
    tail = hashlib.sha256(f"{model.name} {model.spec.source}".encode()).hexdigest()[:8]
    return f"{model.name[: _LONGEST_NAME - len('-fetch-') - len(tail)]}-fetch-{tail}"


def job_of(model: Model, settings: ClusterSettings, uid: str) -> Json | None:
    """Make the Job; None if nothing is to be fetched. CannotMake, MergeError: what is wrong with the Model.

    A Job's template cannot be changed: one whose fingerprint differs must be deleted and made again. It goes on from what is there.
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
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [HOPELESS]},
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
    """Read from a Job and its pods how the fetch stands.

    Cached without a path: the pod that told it is gone, and so nobody knows it. Delete the Job and make it again.
    """
    conditions = {
        each["type"]: each for each in job.get("status", {}).get("conditions") or [] if each["status"] == "True"
    }
    ended = sorted(_last_words(pods), key=lambda each: each[0])
    said = ended[-1][1] if ended else {}
    if "Complete" in conditions:
        path = next((words["path"] for _, words in reversed(ended) if "path" in words), None)
        return FetchOutcome(CacheState.CACHED, "", path)
    if "Failed" in conditions:
        return FetchOutcome(
            CacheState.FAILED, said.get("error") or conditions["Failed"].get("message") or "the Job failed"
        )
    return FetchOutcome(CacheState.FETCHING, said.get("error", ""))


def parse_progress(line: str) -> FetchProgress | None:
    """Read a line of the fetch's log; None if it tells no progress. The switcher reads the log's last line from time to time."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    done, total = (said.get("done"), said.get("total")) if isinstance(said, dict) else (None, None)
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
    if model.spec.credentials:
        container["envFrom"] = [{"secretRef": {"name": model.spec.credentials}}]
    pod: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Volumes that can be are made the group's; a pod that comes later need not walk through them again.
        "securityContext": {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [container],
        "volumes": [cache_volume(model), {"name": "tmp", "emptyDir": {}}],
    }
    if secrets := pull_secrets(model):
        pod["imagePullSecrets"] = secrets
    template: Mapping[str, Any] = (model.spec.pod_template or {}).get("spec") or {}
    container["securityContext"] |= _user_of_engine(template)
    pod = merge(pod, {key: template[key] for key in _PLACING if key in template}, "podTemplate.spec")
    if model.spec.resources.gpus and settings.gpu_resource:
        # Nodes with GPUs keep others away; pods that ask for one are let in by an admission plugin, which this one does not.
        allowed = {"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
        pod["tolerations"] = [*(pod.get("tolerations") or []), allowed]
    return pod


def _user_of_engine(template: Mapping[str, Any]) -> Json:
    """Give who the engine runs as, where the podTemplate says so: what the Job writes must be the same user's."""
    engines = [each for each in template.get("containers") or [] if each.get("name") == ENGINE]
    context = (engines[0].get("securityContext") or {}) if engines else {}
    return {key: context[key] for key in ("runAsNonRoot", "runAsUser", "runAsGroup") if key in context}


def _last_words(pods: Iterable[Json]) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield when each pod's fetch ended, and what it left as its termination message."""
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses") or []:
            ended = (status.get("state") or {}).get("terminated")
            if status["name"] != CONTAINER or not ended:
                continue
            try:
                said = json.loads(ended.get("message") or "")
            except ValueError:
                said = {"error": f"the fetch ended: {ended.get('reason', 'Error')} (exit code {ended.get('exitCode')})"}
            if isinstance(said, dict):
                yield ended.get("finishedAt") or "", {key: str(value) for key, value in said.items()}
