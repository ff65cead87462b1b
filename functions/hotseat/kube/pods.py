"""What the object of a pod proves: that it occupies devices, serves, has failed, or is gone.

No I/O. A pod that was bound to a node occupies its devices until its status shows a terminal phase
*and* every container terminated. A phase alone is no proof, because others write it without knowing
(the garbage collector of pods of lost nodes). An object that was deleted without such a status is
no proof either: it may have been deleted by force while its processes run on.
"""

import json
import math
from dataclasses import dataclass
from typing import Final

from hotseat.api.types import Json
from hotseat.api.units import parse_quantity
from hotseat.kube.constants import PROMPTS_VARIABLE

TERMINAL_PHASES: Final = ("Succeeded", "Failed")
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"  # taint by which a user states that a node is off
GPU_RESOURCE: Final = "nvidia.com/gpu"
QUEUE_PROXY: Final = "queue-proxy"

# Our reasons for containers that do not start, by Kubernetes' reason. Those that pass within
# seconds are left out.
_WAITING: Final = {
    "ErrImageNeverPull": "ImagePull",
    "InvalidImageName": "ImagePull",
    "CreateContainerConfigError": "CreateContainerConfigError",
    "CreateContainerError": "CreateContainerError",
    "RunContainerError": "RunContainerError",
    "CrashLoopBackOff": "CrashLoopBackOff",
}
# Reasons of images that could not be pulled. The kubelet tries again: after 10 s, 20 s, … 5 min.
_PULL_ERRORS: Final = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError")
_NEVER_RAN: Final = ("StartError", "ContainerCannotRun")  # reasons of containers whose program was never started


@dataclass(frozen=True, slots=True)
class PodFailure:
    """Why a pod will not serve: a reason in CamelCase, a message, and the exit code if a container has ended."""

    reason: str
    message: str
    exit_code: int | None = None


def uid(pod: Json) -> str:
    """Return the uid of a pod."""
    return str(pod["metadata"]["uid"])


def node(pod: Json) -> str | None:
    """Return the name of a pod's node; None while it is not bound, and occupies no devices."""
    return pod["spec"].get("nodeName") or None


def ip(pod: Json) -> str | None:
    """Return the IP of a pod; None while it has none."""
    return pod.get("status", {}).get("podIP") or None


def is_terminating(pod: Json) -> bool:
    """Whether a pod was deleted, and has a deletion timestamp."""
    return "deletionTimestamp" in pod["metadata"]


def ready(pod: Json) -> bool:
    """Whether a pod is ready and not terminating."""
    return not is_terminating(pod) and condition(pod, "Ready").get("status") == "True"


def condition(item: Json, kind: str) -> Json:
    """Return the condition of this type in the status of an object; empty if it has none."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), {})


def terminal(pod: Json) -> bool:
    """Whether the status of a pod proves that nothing of it runs any more."""
    status = pod.get("status", {})
    if status.get("phase") not in TERMINAL_PHASES:
        return False
    init, main = status.get("initContainerStatuses", []), status.get("containerStatuses", [])
    if not init and not main:
        return bool(status.get("reason"))  # the kubelet rejected the pod: nothing was started
    if len(main) < len(pod["spec"].get("containers", [])):
        return False
    stopped_early = _ended_while_initializing(pod)
    statuses = [*init, *main, *status.get("ephemeralContainerStatuses", [])]
    return all("terminated" in each.get("state", {}) or (stopped_early and _never_started(each)) for each in statuses)


def node_is_gone(found: Json | None) -> bool:
    """Whether a node (None: its object was deleted) is permanently gone, with all of its pods."""
    return found is None or any(taint["key"] == OUT_OF_SERVICE for taint in found["spec"].get("taints", []))


def gpus(pod: Json) -> int:
    """Return the number of GPUs that a pod requests."""
    limits = (each.get("resources", {}).get("limits", {}) for each in pod["spec"].get("containers", []))
    return sum(math.ceil(parse_quantity(limit.get(GPU_RESOURCE, 0))) for limit in limits)  # 1 may be written 1000m


def engine_container(pod: Json) -> str:
    """Return the name of the engine's container."""
    names = [str(each["name"]) for each in pod["spec"].get("containers", []) if each["name"] != QUEUE_PROXY]
    return "user-container" if not names or "user-container" in names else names[0]


def engine_of(pod: Json) -> Json:
    """Return the engine's container of a pod or of a pod template; empty if it has none."""
    name = engine_container(pod)
    return next((each for each in pod["spec"].get("containers", []) if each["name"] == name), {})


def keeps_prompts(pod: Json) -> float | None:
    """Return the seconds for which a pod keeps saved prompt caches without use; None if it keeps none."""
    variables = engine_of(pod).get("env") or ()
    stated = next((each.get("value") for each in variables if each["name"] == PROMPTS_VARIABLE), None)
    try:
        return None if stated is None else float(json.loads(stated)["keep"])
    except (ValueError, TypeError, KeyError):  # somebody else has set it
        return None


def unschedulable(pod: Json) -> str | None:
    """Return why a pod cannot be scheduled at present; None if it was scheduled, or was not processed yet."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return str(scheduled.get("message") or "no node can run the pod")
    return None


def pull_error(pod: Json) -> PodFailure | None:
    """Return why an image of a pod could not be pulled at the last attempt; None if there is no such error."""
    for each in _statuses(pod):
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _PULL_ERRORS:
            return PodFailure("ImagePull", f"{each['name']}: {waiting.get('message') or waiting['reason']}")
    return None


def pending_reason(pod: Json) -> PodFailure | None:
    """Return why a pod or one of its containers does not start at present; None if there is no problem."""
    if node(pod) is None:
        why = unschedulable(pod)
        return None if why is None else PodFailure("Unschedulable", why)
    for each in _statuses(pod):
        if "waiting" in (each.get("state") or {}) and (found := _of_container(each, was_ready=False)):
            return found
    return pull_error(pod)


def failure(pod: Json, *, was_ready: bool) -> PodFailure | None:
    """Return why a pod that was not deleted will not serve, or serves no more; None if there is no such reason."""
    status = pod.get("status", {})
    if status.get("phase") == "Failed" and status.get("reason"):
        reason, message = status["reason"], status.get("message", "")
        return (
            PodFailure("Evicted", message) if reason == "Evicted" else PodFailure("PodRejected", f"{reason}: {message}")
        )
    for each in status.get("initContainerStatuses", []):
        if found := _of_container(each, was_ready=was_ready, may_end=True):
            return found
    for each in sorted(status.get("containerStatuses", []), key=lambda each: bool(each["name"] == QUEUE_PROXY)):
        if found := _of_container(each, was_ready=was_ready):
            return found
    if status.get("phase") in TERMINAL_PHASES:
        return PodFailure("Exited" if was_ready else "ExitedWhileLoading", f"the pod ended as {status['phase']}")
    return None


def deleted(pod: Json) -> PodFailure:
    """Return the failure of a pod that another client deleted."""
    target = condition(pod, "DisruptionTarget")
    why = target.get("message") or target.get("reason") or "the pod was deleted"
    return PodFailure("PodDeleted", f"pod {pod['metadata']['name']} is terminating: {why}")


def _statuses(pod: Json) -> list[Json]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _ended_while_initializing(pod: Json) -> bool:
    """Whether a pod ended before its init containers had succeeded, so that later containers never started."""
    states = [each.get("state", {}) for each in pod["status"].get("initContainerStatuses", [])]
    initialized = all(state.get("terminated", {}).get("exitCode") == 0 for state in states)
    # The phase of a pod with a DisruptionTarget may have been written by another component than the
    # kubelet.
    return not initialized and not condition(pod, "DisruptionTarget")


def _never_started(status: Json) -> bool:
    waits = "waiting" in status.get("state", {}) and not status.get("restartCount", 0)
    return waits and not status.get("containerID") and not status.get("lastState", {}).get("terminated")


def _of_container(status: Json, *, was_ready: bool, may_end: bool = False) -> PodFailure | None:
    name, state = status["name"], status.get("state", {})
    ended = state.get("terminated")
    if ended is None and status.get("restartCount", 0) > 0:
        ended = status.get("lastState", {}).get("terminated")
    if ended and not (may_end and ended.get("exitCode") == 0):
        return _of_exit(name, ended, was_ready=was_ready)
    waiting = state.get("waiting", {})
    if reason := _WAITING.get(waiting.get("reason", "")):
        return PodFailure(reason, f"{name}: {waiting.get('message') or waiting['reason']}")
    return None


def _of_exit(name: str, ended: Json, *, was_ready: bool) -> PodFailure:
    code, reason, message = ended.get("exitCode", -1), ended.get("reason", ""), str(ended.get("message", "")).strip()
    if reason == "OOMKilled":
        return PodFailure(
            "OutOfMemory", f"{name} was killed: it needed more host memory than its limit allows", ended.get("exitCode")
        )
    if reason in _NEVER_RAN:
        return PodFailure("RunContainerError", f"{name}: {message or reason}")
    tail = f": {message}" if message else ""
    return PodFailure(
        "Exited" if was_ready else "ExitedWhileLoading", f"{name} ended with code {code}{tail}", ended.get("exitCode")
    )
