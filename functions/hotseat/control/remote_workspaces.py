"""The router's half of a Workspace whose switcher is another process: what it knows comes from the Workspace's status."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import Workspace
from hotseat.control.codec import from_rfc3339, residency_from_status, switch_from_json, to_rfc3339
from hotseat.control.demand_reporter import DemandReporter
from hotseat.control.event_log import EventLog
from hotseat.control.registry import ModelRegistry, ModelRoute, WorkspaceHandle
from hotseat.control.request_gate import RequestGate
from hotseat.control.scheduling_spec import capacity_of, limits_changed
from hotseat.control.switcher_client import SwitcherClient
from hotseat.core.errors import Unavailable
from hotseat.core.events import Emit
from hotseat.core.policy.api import Capacity
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import ModelStatus

log = logging.getLogger(__name__)


class RemoteWorkspace(WorkspaceHandle):
    """One Workspace. Nothing is dispatched before the switcher has enrolled this router."""

    def __init__(
        self,
        workspace: Workspace,
        router: str,
        pod: str,
        switcher_client: SwitcherClient,
        *,
        forget: Callable[[str], None],
        bus: EventLog,
    ) -> None:
        self.workspace = workspace
        self._bus = bus
        self.retired = False
        self.models: tuple[Model, ...] = ()
        self._router = router
        self._switcher_client = switcher_client
        self._forget = forget
        self._statuses: Mapping[str, ModelStatus] = {}
        self._switches: tuple[Switch, ...] | None = None
        self._limits = limits_changed(0.0, (), workspace)  # what the gate was told
        self.gate = RequestGate(router, time.monotonic, self._demand_changed)
        self.reporter = DemandReporter(workspace.name, pod, switcher_client, self.gate.demand)
        self.reporter.start()

    @property
    def name(self) -> str:
        """Name of the Workspace."""
        return self.workspace.name

    @property
    def capacity(self) -> Capacity:
        """What its document says that it has to give."""
        return capacity_of(self.workspace)

    @property
    def effective_max_wait(self) -> float | None:
        """Bound on waiting in force, while somebody waits."""
        return self.gate.residency.effective_max_wait

    def see(self, workspace: Workspace, status: Json, refill: Callable[[], None]) -> None:
        """Take in the Workspace as the API server shows it. `refill` has names lead to where their Models are now."""
        self.workspace = workspace
        rows = [row for row in status.get("models") or () if "spec" in row]
        self.models = tuple(model for row in rows if (model := _model(row, workspace.name)))
        self._bus.learn_names({model.name: model.shown_name for model in self.models})
        self._statuses = {row["name"]: _status(row) for row in rows}
        self._announce(tuple(switch_from_json(workspace.name, s) for s in status.get("switches") or ()))
        routers = status.get("routers") or ()
        limits = limits_changed(0.0, self.models, workspace, len(routers) or 1)
        if limits != self._limits:
            self._limits = limits
            self.gate.widen(replace(limits, now=time.monotonic()))
            refill()
            self.gate.change(replace(limits, now=time.monotonic()))
        else:
            refill()
        mine = next((r for r in routers if r["id"] == self._router), None)
        if mine is not None:
            old, new = self.gate.residency, residency_from_status(status)
            self.gate.see(new)
            for address in {r.address for r in old.residents} - {r.address for r in new.residents}:
                if address is not None:
                    self._forget(address)
        self.reporter.echoed(mine is not None, mine.get("brokerSeq", 0) if mine else 0)

    def status(self, model: str) -> ModelStatus:
        """State of one model."""
        return self._statuses.get(model, ModelStatus(model, "unloaded"))

    def switches(self) -> Sequence[Switch]:
        """Switches that the status shows, oldest first."""
        return self._switches or ()

    def load(self, model: str, timeout: float | None) -> ModelStatus:
        """Order a load and wait for it: ready, or Unavailable with the reason. timeout 0: do not wait."""
        return self._order("load", model, timeout)

    def unload(self, model: str, timeout: float | None) -> ModelStatus:
        """Order an unload and wait until it is proven gone, or Unavailable. timeout 0: do not wait."""
        return self._order("unload", model, timeout)

    def pin(self, model: str, timeout: float | None) -> ModelStatus:
        """Order a load that nothing else's demand undoes, and wait for it as `load` does; Unavailable where others are pinned."""
        return self._order("pin", model, timeout)

    def unpin(self, model: str) -> ModelStatus:
        """Let others have its seat again."""
        return self._order("unpin", model, 0)

    def goodbye(self) -> None:
        """Leave: nothing is in flight here any longer, and nothing will be."""
        self.reporter.close()
        try:
            self._switcher_client.order(self._signed("goodbye", ""), 1.0)
        except Unavailable as error:
            log.warning("could not tell the switcher of %s that this router leaves: %s", self.name, error)

    def _announce(self, switches: tuple[Switch, ...]) -> None:
        """Tell those who follow this router's events what has happened since the last look; at the first, nothing is news."""
        known = {switch.id: switch.outcome for switch in (switches if self._switches is None else self._switches)}
        for switch in switches:
            if switch.id not in known:
                self._say("switch.started", switch, waiting=switch.waiting)
            if switch.outcome not in ("running", known.get(switch.id)):
                why = {"message": switch.message} if switch.message else {}
                self._say(f"switch.{switch.outcome}", switch, phases=switch.phases(), **why)
        self._switches = switches

    def _say(self, what: str, switch: Switch, **more: Any) -> None:
        self._bus.emit(self.name, self.gate.residency.epoch, Emit(what, switch.to, {**switch.describe(), **more}))

    def _demand_changed(self, urgent: bool) -> None:
        self.reporter.changed(urgent)

    def _order(self, what: str, model: str, timeout: float | None) -> ModelStatus:
        status, answer = self._switcher_client.order(self._signed(what, model) | {"wait": timeout}, timeout)
        if status >= 300:  # noqa: PLR2004
            error = answer.get("error", {})
            raise Unavailable(error.get("message", f"HTTP {status}"), code=error.get("code"), retry_after=5.0)
        pinned = bool(answer.get("pinned", False))
        return ModelStatus(model, answer["state"], message=answer.get("message", ""), pinned=pinned)

    def _signed(self, what: str, model: str) -> Json:
        return {
            "order": what,
            "workspace": self.name,
            "model": model,
            "router": self._router,
            "id": uuid.uuid4().hex,
            "at": to_rfc3339(time.monotonic()),
            "wait": 0,
        }


class RemoteWorkspaces(ModelRegistry):
    """All Workspaces of a namespace, as a router sees them. Called on one thread: that of the watch."""

    _handles: Mapping[str, RemoteWorkspace]

    def __init__(self, pod: str, switcher_client: SwitcherClient, forget: Callable[[str], None], bus: EventLog) -> None:
        super().__init__()
        self.router = f"{pod}-{uuid.uuid4().hex[:8]}"
        self._pod = pod
        self._switcher_client = switcher_client
        self._forget = forget
        self._bus = bus

    def take(self, document: Json) -> None:
        """Take in a Workspace that is new or has changed."""
        name = document["metadata"]["name"]
        try:
            workspace = Workspace.model_validate({"metadata": {"name": name}, "spec": document.get("spec") or {}})
        except ValidationError as error:
            log.warning("cannot read Workspace %s: %s", name, error)
            return
        handle = self._handles.get(name)
        if handle is None:
            handle = RemoteWorkspace(
                workspace, self.router, self._pod, self._switcher_client, forget=self._forget, bus=self._bus
            )
            self._handles = {**self._handles, name: handle}
        handle.retired = False
        handle.see(workspace, document.get("status") or {}, self._refill)

    def drop(self, name: str) -> None:
        """Take in that a Workspace is gone."""
        if name in self._handles:
            self._handles[name].retired = True
            self._handles[name].see(self._handles[name].workspace, {}, self._refill)

    def begin(self) -> None:
        """Take requests from now on."""
        self._begun = True

    def close(self, timeout: float) -> None:
        """Send away what waits, let what is in flight finish for so many seconds, and say goodbye."""
        self._closing = True
        end = time.monotonic() + timeout
        for handle in self._handles.values():
            handle.gate.close()
        for handle in self._handles.values():
            if handle.gate.wait_empty(max(0.0, end - time.monotonic())):
                handle.goodbye()

    def _refill(self) -> None:
        places: dict[str, ModelRoute] = {}
        for handle in self._handles.values():
            for model in () if handle.retired else handle.models:
                for name in model.names:
                    places.setdefault(name, ModelRoute(model, handle))
        self._places = places


def _model(row: Mapping[str, Any], workspace: str) -> Model | None:
    try:
        spec = {**row["spec"], "workspace": workspace}
        if spec.get("engine") == "custom":
            spec["command"] = ["-"]  # it must have one, but which is nobody's business here
        return Model.model_validate({"metadata": {"name": row["name"]}, "spec": spec})
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
    )
