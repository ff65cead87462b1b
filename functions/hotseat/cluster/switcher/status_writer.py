"""Writes what people see of Models and Workspaces: statuses, state labels and Kubernetes Events."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hotseat.api.types import Json
from hotseat.api.units import format_time
from hotseat.coalesce import CoalescingWorker, Measured, unmeasured
from hotseat.kube.client import NOT_FOUND, Kube, KubeError
from hotseat.kube.constants import ENDPOINT, EVENTS, MODELS, SERVICES, STATE, WORKSPACES

RETRY = (0.1, 2.0)  # seconds between attempts while the API server is away: the first and the longest


class StatusWriter(CoalescingWorker):
    """Merges what `build` returns into the status of the object at `path` after each `mark`. Writes changed fields only.

    `written` is called after each write, `measured` with the seconds that each has taken. Fields that are `only_along` are written with
    others only: they change with time.

    """

    def __init__(
        self,
        kube: Kube,
        path: str,
        build: Callable[[], Json],
        written: Callable[[], None] = lambda: None,
        measured: Measured = unmeasured,
        *,
        only_along: Collection[str] = (),
    ) -> None:
        super().__init__(
            f"status of {path}", self.write, retry=RETRY, expected=KubeError, paused=True, measured=measured
        )
        self._kube = kube
        self._path = path
        self._build = build
        self._notify = written
        self._only_along = only_along
        self._written: Json = {}

    def write(self) -> None:
        """Write what has changed. Raise KubeError if it cannot be written; a deleted object is ignored."""
        status = self._build()
        changed = {key: value for key, value in status.items() if self._written.get(key, ...) != value}
        if changed.keys() <= set(self._only_along):
            return
        try:
            self._kube.merge(self._path, {"status": changed})
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise
        else:
            self._written = status
            self._notify()


PAUSE = 0.1  # seconds in which changes gather
EVENT_RETRY = 1.0  # seconds after an error

_EVENTS: Mapping[str, tuple[str, str]] = {
    "dev.hotseat.switch.started.v1": ("Normal", "SwitchStarted"),
    "dev.hotseat.switch.completed.v1": ("Normal", "SwitchCompleted"),
    "dev.hotseat.switch.failed.v1": ("Warning", "SwitchFailed"),
    "dev.hotseat.switch.cancelled.v1": ("Normal", "SwitchCancelled"),
    "dev.hotseat.model.failed.v1": ("Warning", "ModelFailed"),
}

_STEPS = ("drain", "save", "release", "load", "restore")

_ENDPOINT = (
    "Send requests to the router (hotseat-router). "
    "The URL of this Service does not load the model, and bypasses the queue and the API keys."
)

ObjectKey = tuple[str, str]  # kind and name
View = tuple[Mapping[str, Json], Mapping[str, str]]  # statuses by Model, states by path of the object that serves it


class ModelStatusWriter(CoalescingWorker):
    """Writes statuses of Models, state labels and Kubernetes Events. `view` returns statuses by Model, and states by path.

    `measured` is called with the seconds that each write has taken.
    """

    def __init__(self, kube: Kube, namespace: str, view: Callable[[], View], measured: Measured = unmeasured) -> None:
        super().__init__(
            "statuses of Models",
            self._write,
            retry=(EVENT_RETRY, EVENT_RETRY),
            expected=KubeError,
            paused=True,
            measured=measured,
        )
        self._kube = kube
        self._namespace = namespace
        self._statuses_and_states = view
        self._statuses: dict[str, Json] = {}
        self._states: dict[str, str] = {}
        self._records: list[tuple[Json, str, str]] = []

    def mark(self, delay: float = PAUSE) -> None:
        """Write what has changed within DELAY seconds."""
        super().mark(delay)

    def forget(self, name: str) -> None:
        """Write the Model's status again, because the Model was created again."""
        self._statuses.pop(name, None)
        for path in [path for path in self._states if path.endswith(f"/{name}")]:
            self._states.pop(path, None)
        self.mark()

    def record(self, event: Mapping[str, Any], objects: Mapping[ObjectKey, Json]) -> None:
        """Record a CloudEvent as Kubernetes Events of the Model and the Workspace, if it is of such a type.

        OBJECTS are by kind and name. Under the kind of Models are adopted objects as well.
        """
        kind = _EVENTS.get(event["type"])
        if kind is None:
            return
        workspace = event["source"].rsplit("/", 1)[-1]
        for resource, name in ((MODELS, event.get("metadataname", "")), (WORKSPACES, workspace)):
            if item := objects.get((resource.kind, name)):
                self._record(item, kind[0], _message(kind[1], event["data"]))

    def warn(self, item: Json, reason: str, message: str) -> None:
        """Record a Kubernetes Event of the type Warning of an object."""
        self._record(item, "Warning", f"{reason}: {message}")

    def _record(self, item: Json, kind: str, message: str) -> None:
        reference = {
            "apiVersion": item["apiVersion"],
            "kind": item["kind"],
            "name": item["metadata"]["name"],
            "namespace": self._namespace,
            "uid": item["metadata"]["uid"],
        }
        self._records.append((reference, kind, message))
        self._records = self._records[-200:]
        self.mark()

    def _write(self) -> None:
        statuses, states = self._statuses_and_states()
        for path, state in states.items():
            if self._states.get(path) != state:
                metadata: Json = {"labels": {STATE: state}}
                if path.startswith(f"{SERVICES.path(self._namespace)}/"):
                    metadata["annotations"] = {ENDPOINT: _ENDPOINT}
                self._patch(path, {"metadata": metadata})
                self._states[path] = state
        for name, status in statuses.items():
            if self._statuses.get(name) != status:
                self._patch(MODELS.path(self._namespace, name, "status"), {"status": status})
                self._statuses[name] = status
        while self._records:
            reference, kind, message = self._records[0]
            self._kube.create(
                EVENTS.path(self._namespace), _kubernetes_event(reference, kind, message, self._namespace)
            )
            self._records.pop(0)

    def _patch(self, path: str, body: Json) -> None:
        try:
            self._kube.merge(path, body)
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise


def _message(reason: str, data: Mapping[str, Any]) -> str:
    if reason == "ModelFailed":
        return f"{reason}: {data.get('reason')}: {data.get('message')}"
    left = ", ".join(data.get("from", ())) or "nothing"
    phases = data.get("phases") or {}
    took = f" in {phases['total']:.2f} s" if "total" in phases else ""
    parts = [f"{phase} {phases[phase]:.2f} s" for phase in _STEPS if phases.get(phase)]
    took += f" ({', '.join(parts)})" if took and parts else ""
    if reason == "SwitchStarted":
        took = f" ({data.get('reason')}, {data.get('waiting')} queued)"
    why = f": {data['message']}" if data.get("message") else ""
    return f"{reason}: {left} → {data.get('to')}{took}{why}"


def _kubernetes_event(reference: Json, kind: str, message: str, namespace: str) -> Json:
    reason, _, text = message.partition(": ")
    now = format_time(time.time(), "seconds")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{reference['name']}.", "namespace": namespace},
        "involvedObject": reference,
        "type": kind,
        "reason": reason,
        "message": text[:1000],
        "source": {"component": "hotseat-switcher"},
        "reportingComponent": "hotseat.dev/switcher",
        "reportingInstance": "switcher",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
