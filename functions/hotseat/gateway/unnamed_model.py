"""The Model of a request that names none."""

from typing import TYPE_CHECKING

from hotseat.api.model import Capability
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import BadRequest, Conflict
from hotseat.core.messages import InstanceState
from hotseat.gateway.fallback_routing import needs_no_accelerator

if TYPE_CHECKING:
    from hotseat.gateway.accepted_head import Route


def unnamed_model(registry: ModelRegistry, route: "Route", *, in_query: bool) -> tuple[ModelRoute, str | None]:
    """Return the default Model and its name in the Workspace, or for a route that allows it the resident one, and None.

    The name matters as that of a client does: of an adapter, or for filters. Raise BadRequest or Conflict if there is no such Model.
    """
    if (name := registry.default_name()) is not None:
        return registry.find(name), name
    if route.resident:
        return _resident_model(registry, route.capability), None
    where = "query" if in_query else "body"
    raise BadRequest(f"The request {where} has no `model`, and the Workspace has no defaultModel.", param="model")


def _resident_model(registry: ModelRegistry, capability: Capability | None) -> ModelRoute:
    """Return the Model that is ready on an accelerator and supports `capability` (None: any does).

    Raise Conflict if there is none, or more than one: which of them is meant is not known.
    """
    found: dict[str, ModelRoute] = {}
    for handle in registry.handles:
        for resident in handle.gate.residency.residents:
            if resident.state is not InstanceState.READY or not resident.on_accelerator:
                continue
            route = registry.routes().get(resident.model)
            if route is not None and not needs_no_accelerator(route) and _supports(route, capability):
                found[resident.model] = route
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = ", ".join(sorted(route.model.shown_name for route in found.values()))
        message = f"The request has no `model`, and several models are loaded: {names}. Name one in `model`."
        raise Conflict(message, code="ambiguous_model", param="model")
    message = "No model is loaded that the request can be for, and a request without `model` loads none; name a model in `model`."
    raise Conflict(message, code="not_loaded", param="model")


def _supports(route: ModelRoute, capability: Capability | None) -> bool:
    stated = route.model.spec.capabilities
    return capability is None or not stated or capability in stated
