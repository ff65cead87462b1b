"""Unloading of Models: by a request for inference, which some APIs have, and of all. Parking of one."""

import time
from collections.abc import Callable
from typing import Any

from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.control.scheduling_spec import can_park
from hotseat.core.errors import Conflict, Forbidden
from hotseat.core.messages import InstanceState
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


def park(registry: ModelRegistry, name: str, concurrency: ConcurrencyLimit, wait: float | None) -> dict[str, Any]:
    """Park a Model, and return its state, how long that took, and what it frees and holds. `wait`: see WorkspaceHandle.park.

    Raise Conflict if its document does not say how.
    """
    route = registry.loadable(name)
    model, handle = route.model, route.handle
    if not can_park(model):
        raise Conflict(
            f"{model.shown_name} cannot be parked: its lifecycle.release is Stop. Set lifecycle.release: Park, or the requests "
            "for sleep and wake in lifecycle.sleep and lifecycle.wake."
        )
    began = time.monotonic()
    with concurrency.in_thread:
        state = handle.park(model.name, wait).state
    residents = handle.gate.residency.residents
    sleeper = next(
        (each for each in residents if each.model == model.name and each.state is InstanceState.PARKED), None
    )
    return {
        "model": model.shown_name,
        "state": state,
        "seconds": round(time.monotonic() - began, 3),
        "gpus": model.spec.resources.gpus,
        "accelerator_memory": model.spec.resources.accelerator_memory,
        "host_memory": sleeper and sleeper.memory,
    }


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
