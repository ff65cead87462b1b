"""The Workspaces of a router. It knows them from their documents and statuses."""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hotseat.api.model import Model
from hotseat.api.types import Json, problems_of, without_unknown_fields
from hotseat.api.workspace import Workspace
from hotseat.cluster.router.demand_reporter import DemandReporter, SwitcherClient
from hotseat.cluster.router.reads import RemoteLog
from hotseat.control.codec import (
    from_rfc3339,
    model_from_row,
    residency_from_status,
    switch_from_json,
    to_rfc3339,
    waits_from_json,
)
from hotseat.control.event_log import EventLog
from hotseat.control.owner import LoopOwner
from hotseat.control.registry import ModelRegistry, WorkspaceHandle
from hotseat.control.request_gate import RequestGate
from hotseat.control.scheduling_spec import capacity_of, limits_changed
from hotseat.core.errors import Conflict, Unavailable
from hotseat.core.messages import Residency, Wait
from hotseat.core.policy.api import Capacity
from hotseat.core.ports import LogView
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import ModelStatus

if TYPE_CHECKING:
    from hotseat.telemetry.spans import Tracing

log = logging.getLogger(__name__)


class RemoteWorkspace(WorkspaceHandle):
    """One Workspace of a router. Nothing is dispatched before the switcher has enrolled the router."""

    def __init__(self, workspace: Workspace, registry: "RemoteWorkspaces") -> None:
        self.workspace = workspace
        self._registry = registry
        self.retired = False
        self.models: tuple[Model, ...] = ()
        self.created: Mapping[str, str] = {}  # by model: creationTimestamp
        self._statuses: Mapping[str, ModelStatus] = {}
        self._switches: tuple[Switch, ...] = ()
        self._waits: Mapping[str, Wait] = {}
        self._limits = limits_changed(0.0, (), workspace)  # those of the gate
        self.gate = RequestGate(registry.router, time.monotonic, self._demand_changed, registry.owner)
        self.gate.apply_key_weights(registry.key_weights)
        self.reporter = DemandReporter(
            workspace.name, registry.pod, registry.switcher_client, self.gate.demand, registry.tracing
        )
        self.reporter.mark()

    @property
    def name(self) -> str:
        """The name of the Workspace."""
        return self.workspace.name

    @property
    def capacity(self) -> Capacity:
        """The capacity in its document."""
        return capacity_of(self.workspace)

    @property
    def effective_max_wait(self) -> float | None:
        """The bound on waiting in force, in seconds. None while no request is queued."""
        return self.gate.residency.effective_max_wait

    def apply_status(self, workspace: Workspace, status: Json) -> None:
        """Apply the Workspace's document and status."""
        self.workspace = workspace
        rows = [row for row in status.get("models") or () if "spec" in row]
        known = {model.name: model for model in self.models}
        self.models = tuple(
            model for row in rows if (model := _model(row, workspace.name) or known.get(row["name"])) is not None
        )
        self.created = {row["name"]: row.get("createdAt", "") for row in rows}
        self._registry.events.add_shown_names({model.name: model.shown_name for model in self.models})
        self._statuses = {row["name"]: _status(row) for row in rows}
        self._switches = tuple(switch_from_json(workspace.name, s) for s in status.get("switches") or ())
        self._waits = waits_from_json(status.get("waits") or ())
        routers = status.get("routers") or ()
        limits = limits_changed(0.0, self.models, workspace, len(routers) or 1)
        if limits != self._limits:
            self._limits = limits
            self.gate.extend_limits(replace(limits, now=time.monotonic()))
            self._registry.update_routes()
            self.gate.apply_limits(replace(limits, now=time.monotonic()))
        else:
            self._registry.update_routes()
        mine = next((r for r in routers if r["id"] == self._registry.router), None)
        if mine is not None:
            old, new = self.gate.residency, residency_from_status(status)
            self.gate.apply_residency(new)
            for address in _addresses(old) - _addresses(new):
                self._registry.forget(address)
        self.reporter.echoed(mine is not None, mine.get("brokerSeq", 0) if mine else 0)

    def status(self, model: str) -> ModelStatus:
        """Return the state of a model. `unloaded` if it is not known yet."""
        return self._statuses.get(model, ModelStatus(model, "unloaded"))

    def waits(self, shown: Callable[[str], str]) -> Mapping[str, Wait]:  # noqa: ARG002
        """Return by model why its requests wait, as the switcher wrote it, with shown names in messages."""
        return self._waits

    def switches(self) -> Sequence[Switch]:
        """Return the switches in the status, oldest first."""
        return self._switches

    def load(self, model: str, timeout: float | None) -> ModelStatus:
        """Load a model and wait until it is ready.

        Raise Unavailable with the reason. timeout 0: do not wait.
        """
        return self._send_command("load", model, timeout)

    def fetch(self, model: str) -> ModelStatus:
        """Fetch the weights of a model without a load, and do not wait."""
        return self._send_command("fetch", model, 0)

    def unload(self, model: str, timeout: float | None) -> ModelStatus:
        """Unload a model and wait until it is verified to be gone.

        Raise Unavailable otherwise. timeout 0: do not wait.
        """
        return self._send_command("unload", model, timeout)

    def park(self, model: str, timeout: float | None) -> ModelStatus:  # noqa: ARG002
        """Raise Conflict: nothing parks on a cluster."""
        raise Conflict(f"{model} cannot be parked: parking works on one machine only")

    def pin(self, model: str, timeout: float | None) -> ModelStatus:
        """Pin a model and wait as `load` does. Raise Unavailable if other pins prevent it."""
        return self._send_command("pin", model, timeout)

    def unpin(self, model: str) -> ModelStatus:
        """Unpin a model."""
        return self._send_command("unpin", model, 0)

    def leave(self) -> None:
        """Stop reporting, and have the switcher remove this router. No request may be in flight."""
        self.reporter.close()
        try:
            self._registry.switcher_client.send_command(self._command("goodbye", ""), 1.0)
        except Unavailable as error:
            log.warning("could not tell the switcher of %s that this router leaves: %s", self.name, error)

    def _demand_changed(self, urgent: bool) -> None:
        self.reporter.demand_changed(urgent)

    def _send_command(self, kind: str, model: str, timeout: float | None) -> ModelStatus:
        status, answer = self._registry.switcher_client.send_command(
            self._command(kind, model) | {"wait": timeout}, timeout
        )
        if status >= 300:  # noqa: PLR2004
            error = answer.get("error", {})
            raise Unavailable(error.get("message", f"HTTP {status}"), code=error.get("code"), retry_after=5.0)
        pinned = bool(answer.get("pinned", False))
        return ModelStatus(model, answer["state"], message=answer.get("message", ""), pinned=pinned)

    def _command(self, kind: str, model: str) -> Json:
        return {
            "order": kind,
            "workspace": self.name,
            "model": model,
            "router": self._registry.router,
            "id": uuid.uuid4().hex,
            "at": to_rfc3339(time.monotonic()),
            "wait": 0,
        }


class RemoteWorkspaces(ModelRegistry):
    """All Workspaces of a namespace. Its methods are called on the watch's thread."""

    _handles: Mapping[str, RemoteWorkspace]

    def __init__(
        self,
        pod: str,
        switcher_client: SwitcherClient,
        forget: Callable[[str], None],
        events: EventLog,
        owner: LoopOwner | None = None,
        *,
        tracing: "Tracing | None" = None,
    ) -> None:
        super().__init__(owner, events.emit, forget)
        self.tracing = tracing
        self.router = f"{pod}-{uuid.uuid4().hex[:8]}"
        self.pod, self.switcher_client, self.events = pod, switcher_client, events

    def apply(self, document: Json) -> None:
        """Apply a new or changed Workspace document. While one is invalid, the last good one is used, or what of it can be read."""
        name = document["metadata"]["name"]
        handle = self._handles.get(name)
        workspace = _workspace(document, handle.workspace if handle else None)
        if handle is None:
            handle = RemoteWorkspace(workspace, self)
            self._handles = {**self._handles, name: handle}
        handle.retired = False
        handle.apply_status(workspace, document.get("status") or {})

    def delete(self, name: str) -> None:
        """Remove a Workspace whose document was deleted."""
        if name in self._handles:
            self._handles[name].retired = True
            self._handles[name].apply_status(self._handles[name].workspace, {})

    def logs(self, model: str) -> LogView | None:
        """Return the output of a model's engine, which the switcher reads. None if hotseat does not run it."""
        route = self._routes.get(model)
        external = route is None or route.model.spec.engine == "external"
        return None if external else RemoteLog(self.switcher_client, model)

    def begin(self) -> None:
        """Accept requests."""
        self._begun = True

    def close(self, timeout: float) -> None:
        """Refuse queued requests, wait up to TIMEOUT seconds for those in flight, and leave."""
        self._closing = True
        self.peers.close()
        end = time.monotonic() + timeout
        for gate in self.gates:
            gate.close()
        for handle in self._handles.values():
            if handle.gate.wait_empty(max(0.0, end - time.monotonic())):
                handle.leave()
        for gate in self.gates:
            gate.wait_empty(max(0.0, end - time.monotonic()))

    def update_routes(self) -> None:
        """Route all names to where their Models are now. A name that two Models claim belongs to the older one."""
        handles = [handle for handle in self._handles.values() if not handle.retired]
        there = [(model, handle) for handle in handles for model in handle.models]
        there.sort(key=lambda each: (each[1].created.get(each[0].name, ""), each[0].name))
        self._route(there, [handle.workspace for handle in handles])

    def _show_names(self, models: Iterable[Model]) -> None:
        self.events.add_shown_names({model.name: model.shown_name for model in models})


def _addresses(residency: Residency) -> set[str]:
    return {address for each in residency.residents for address in each.addresses}


def _workspace(document: Json, last: Workspace | None) -> Workspace:
    named = {"metadata": {"name": document["metadata"]["name"]}}
    whole = {**named, "spec": document.get("spec") or {}}
    try:
        return Workspace.model_validate(whole)
    except ValidationError as error:
        log.warning("Workspace %s is invalid: %s", named["metadata"]["name"], problems_of(error))
        if last is not None:
            return last
        try:
            return Workspace.model_validate(without_unknown_fields(whole, error))
        except ValidationError:
            return Workspace.model_validate(named)


def _model(row: Mapping[str, Any], workspace: str) -> Model | None:
    try:
        return model_from_row(row, workspace)
    except ValidationError as error:
        log.warning("cannot read Model %s: %s", row["name"], error)
        return None


def _status(row: Mapping[str, Any]) -> ModelStatus:
    return ModelStatus(
        row["name"],
        row.get("state", "unloaded"),
        from_rfc3339(row["since"]) if row.get("since") else None,
        row.get("message", ""),
        row.get("done"),
        row.get("total"),
        from_rfc3339(row["retryAt"]) if row.get("retryAt") else None,
        row.get("pinned", False),
        row.get("exitCode"),
        row.get("rate"),
    )
