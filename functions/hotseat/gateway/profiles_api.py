"""Admin routes for the profiles of Workspaces: which there are, and which is active. The shapes are those of llama-swap."""

from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import MethodNotAllowed

from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import BadRequest, Unavailable
from hotseat.gateway.auth import OPERATE, READ
from hotseat.gateway.openapi import documented

_BODY = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": ["string", "null"]}, "workspace": {"type": "string"}},
}
_ON_A_CLUSTER = (
    "On a cluster the active profile is spec.activeProfile of the Workspace: kubectl patch workspace NAME --type merge "
    '-p \'{"spec":{"activeProfile":"PROFILE"}}\''
)


def add_profile_routes(blueprint: Blueprint, registry: ModelRegistry) -> None:
    """Add the routes."""

    @blueprint.get("/api/profiles")
    @documented("List the profiles, and which is active", operation=READ)
    def profiles() -> Response:
        return jsonify(_profiles(registry))

    @blueprint.get("/api/profiles/active")
    @documented("Return the active profile", operation=READ)
    def active() -> Response:
        return jsonify(active=_profiles(registry)["active"])

    @blueprint.put("/api/profiles/active")
    @documented(
        "Make a profile active, or none. On a cluster its document says which is",
        404,
        405,
        body=_BODY,
        operation=OPERATE,
    )
    def switch() -> Response:
        body = request.get_json(force=True, silent=True)
        name, workspace = (body.get("name", ""), body.get("workspace")) if isinstance(body, dict) else ("", None)
        if not (name is None or (isinstance(name, str) and name)):
            raise BadRequest("`name` must be the name of a profile, or null for none.", param="name")
        if workspace is not None and not isinstance(workspace, str):
            raise BadRequest("`workspace` must be the name of a Workspace.", param="workspace")
        try:
            switched = registry.switch_profile(name, workspace)
        except OSError as error:
            raise Unavailable(f"The active profile cannot be kept in the state directory: {error.strerror}.") from error
        if not switched:
            raise MethodNotAllowed(valid_methods=["GET", "OPTIONS"], description=_ON_A_CLUSTER)
        return jsonify(_profiles(registry))


def _profiles(registry: ModelRegistry) -> dict[str, Any]:
    """Return all profiles. With several Workspaces `active` is that of the first one that has an active profile."""
    workspaces = [handle.workspace for handle in registry.handles if not handle.retired]
    active = {each.name: registry.active_profile(each) for each in workspaces}
    rows = [
        {"name": name, "workspace": each.name, "active": active[each.name] == name, "pins": pins}
        for each in workspaces
        for name, pins in each.spec.profiles.items()
    ]
    return {"active": next(filter(None, active.values()), None), "profiles": rows}
