"""The admin route for settings: what documents say, and what is in force."""

from typing import Any

from flask import Blueprint, Response, jsonify

from hotseat import __version__
from hotseat.control.registry import ModelRegistry, WorkspaceHandle
from hotseat.gateway.auth import READ
from hotseat.gateway.gauges import bound_in_force
from hotseat.gateway.openapi import documented

# Of a Workspace: what can be told to a key that only reads. Others can have secrets, or are long.
_SHOWN = {
    "policy",
    "capacity",
    "queue",
    "tenants",
    "loading",
    "default_model",
    "return_to_default",
    "active_profile",
    "groups",
}


def add_settings_routes(blueprint: Blueprint, registry: ModelRegistry, *, history: bool, cluster: bool) -> None:
    """Add the route. `history`: whether one is kept."""

    @blueprint.get("/api/settings")
    @documented("Return settings of each Workspace: those of its document, and those in force", operation=READ)
    def settings() -> Response:
        rows = [_row(handle) for handle in registry.handles]
        return jsonify(version=__version__, cluster=cluster, history=history, workspaces=rows)


def _row(handle: WorkspaceHandle) -> dict[str, Any]:
    spec = handle.workspace.spec
    in_force = spec.model_dump(mode="json", by_alias=True, include=_SHOWN)
    in_force["policy"]["maxWait"] = bound_in_force(handle.workspace, handle.effective_max_wait)
    in_force["capacity"] |= {"gpus": handle.capacity.gpus, "hostMemory": handle.capacity.host_memory}
    document = spec.model_dump(mode="json", by_alias=True, include=_SHOWN, exclude_unset=True)
    return {"name": handle.name, "document": document, "in_force": in_force}
