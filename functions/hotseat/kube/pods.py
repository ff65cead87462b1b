"""What a pod's JSON proves: that it holds a node's devices, serves, cannot go on, or is gone. Pure.

A pod that was bound to a node holds what it was given there until its own status shows a terminal phase *and* every container
terminated: a phase alone is also written by those who do not know (the garbage collector of pods of lost nodes), and an object
that vanished without such a status may have been forced out of the API server while its processes run on.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from hotseat.api.units import parse_quantity

Json = dict[str, Any]

TERMINAL_PHASES: Final = ("Succeeded", "Failed")
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"  # a person says: this node is off
GPU_RESOURCE: Final = "nvidia.com/gpu"
QUEUE_PROXY: Final = "queue-proxy"

# Why a container does not start, in words of ours; those that heal by themselves within seconds are not among them.
_WAITING: Final = {
    "ErrImagePull": "ImagePull",
    "ImagePullBackOff": "ImagePull",
    "ErrImageNeverPull": "ImagePull",
    "ImageInspectError": "ImagePull",
    "InvalidImageName": "ImagePull",
    "CreateContainerConfigError": "CreateContainerConfigError",
    "CreateContainerError": "CreateContainerError",
    "RunContainerError": "RunContainerError",
    "CrashLoopBackOff": "CrashLoopBackOff",
}
_NEVER_RAN: Final = ("StartError", "ContainerCannotRun")  # reasons of a container that ended before its program began


@dataclass(frozen=True, slots=True)
class PodFailure:
    """Why a pod will not serve: a CamelCase reason and a sentence, and the exit code where a container of it ended."""

    reason: str
    message: str
    exit_code: int | None = None


def uid(pod: Json) -> str:
    """Give its identity."""
    return str(pod["metadata"]["uid"])


def node(pod: Json) -> str | None:
    """Name the node that it is bound to; None: it holds nothing yet."""
    return pod["spec"].get("nodeName") or None


def address(pod: Json) -> str | None:
    """Give its IP, once it has one."""
    return pod.get("status", {}).get("podIP") or None


def going(pod: Json) -> bool:
    """Whether somebody has deleted it."""
    return "deletionTimestamp" in pod["metadata"]


def ready(pod: Json) -> bool:
    """Whether the kubelet found it ready, and it is not going."""
    return not going(pod) and _condition(pod, "Ready").get("status") == "True"


def terminal(pod: Json) -> bool:
    """Whether its own status proves that nothing of it runs any more."""
    status = pod.get("status", {})
    if status.get("phase") not in TERMINAL_PHASES:
        return False
    first, main = status.get("initContainerStatuses", []), status.get("containerStatuses", [])
    if not first and not main:
        return bool(status.get("reason"))  # the kubelet turned it away: nothing was started
    if len(main) < len(pod["spec"].get("containers", [])):
        return False
    stopped_early = _ended_while_initializing(pod)
    seen = [*first, *main, *status.get("ephemeralContainerStatuses", [])]
    return all("terminated" in each.get("state", {}) or (stopped_early and _never_started(each)) for each in seen)


def settles(found: Json | None) -> bool:
    """Whether a node (None: its object was deleted) is gone for good, and all pods on it with it."""
    return found is None or any(taint["key"] == OUT_OF_SERVICE for taint in found["spec"].get("taints", []))


def gpus(pod: Json) -> int:
    """Count the GPUs that it was given."""
    limits = (each.get("resources", {}).get("limits", {}) for each in pod["spec"].get("containers", []))
    return sum(math.ceil(parse_quantity(limit.get(GPU_RESOURCE, 0))) for limit in limits)  # 1 may be written 1000m


def engine_container(pod: Json) -> str:
    """Name the container whose output is the engine's."""
    names = [str(each["name"]) for each in pod["spec"].get("containers", []) if each["name"] != QUEUE_PROXY]
    return "user-container" if not names or "user-container" in names else names[0]


def unschedulable(pod: Json) -> str | None:
    """Say why no node takes it at the moment; None if one has, or the scheduler has not looked yet."""
    condition = _condition(pod, "PodScheduled")
    if condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
        return str(condition.get("message") or "no node can run the pod")
    return None


def failure(pod: Json, *, was_ready: bool) -> PodFailure | None:
    """Say why it will not serve, or serves no more; None while there is hope. Of a pod that nobody deleted."""
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
    """Say that somebody else deleted it, and what is known of why."""
    target = _condition(pod, "DisruptionTarget")
    why = target.get("message") or target.get("reason") or "the pod was deleted"
    return PodFailure("PodDeleted", f"pod {pod['metadata']['name']} is terminating: {why}")


def _ended_while_initializing(pod: Json) -> bool:
    """Whether it ended before its init containers were through: those after them were not begun, and stay as they were."""
    states = [each.get("state", {}) for each in pod["status"].get("initContainerStatuses", [])]
    through = all(state.get("terminated", {}).get("exitCode") == 0 for state in states)
    return not through and not _condition(pod, "DisruptionTarget")  # whose phase somebody else may have written


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
    code, reason, said = ended.get("exitCode", -1), ended.get("reason", ""), str(ended.get("message", "")).strip()
    if reason == "OOMKilled":
        return PodFailure(
            "OutOfMemory", f"{name} was killed: it needed more host memory than its limit allows", ended.get("exitCode")
        )
    if reason in _NEVER_RAN:
        return PodFailure("RunContainerError", f"{name}: {said or reason}")
    tail = f": {said}" if said else ""
    return PodFailure(
        "Exited" if was_ready else "ExitedWhileLoading", f"{name} ended with code {code}{tail}", ended.get("exitCode")
    )


def _condition(pod: Json, kind: str) -> Json:
    for each in pod.get("status", {}).get("conditions", []):
        if each["type"] == kind:
            return dict(each)
    return {}
