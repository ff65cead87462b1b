"""Unloading of Models: by a request for inference, which some APIs have, and of all."""

from collections.abc import Callable
from typing import Any

from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import Conflict, Forbidden
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.limits import ConcurrencyLimit


def unload_command(
    registry: ModelRegistry, target: ModelRoute, port: int, admin_port: int | None
) -> Callable[[], ModelStatus]:
    """Return what unloads a Model, and may wait. Raise the HotseatError for the client if the request may not, or is in the way of others.

    `port` is the one by which the request came. `admin_port` is the only one for admin commands. None: each is.
    """
    model, handle = target.model, target.handle
    if admin_port not in (None, port):
        raise Forbidden("Models are unloaded on the admin port only.", code="admin_port_only")
    registry.loadable(model.name)
    if handle.gate.queues([model.name])[model.name][0] is not None:
        raise Conflict(f"The model `{model.shown_name}` is not unloaded: other requests wait for it.")
    return lambda: handle.unload(model.name, 0)


def unload_all_models(
    registry: ModelRegistry, concurrency: ConcurrencyLimit, wait: float | None
) -> list[dict[str, Any]]:
    """Unload all Models that hotseat runs, and return their states. `wait`: seconds for each; None: no limit; 0: do not wait."""
    own = [each for each in registry.routes().values() if each.model.spec.engine != "external"]
    for each in own:
        each.handle.unload(each.model.name, 0)  # all at once, before the first is waited for
    with concurrency.in_thread:
        return [
            {"model": each.model.shown_name, "state": each.handle.unload(each.model.name, wait).state} for each in own
        ]
