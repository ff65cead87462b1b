"""Orders that routers pass on: load and unload for operators, and a router's own goodbye."""

import time
from collections.abc import Mapping

from hotseat.cluster.chamber import Chamber
from hotseat.control.wire import Json
from hotseat.core.errors import BadRequest, Unavailable, UnknownModel
from hotseat.core.messages import SeatState
from hotseat.core.seats import Load, ModelStatus, Unload


class Orders:
    """Carries orders out, and waits for their end where that is asked for."""

    def __init__(self, chambers: Mapping[str, Chamber]) -> None:
        self._chambers = chambers

    def carry_out(self, order: Json) -> Json:
        """Do it. HotseatError: what the operator is told."""
        chamber = self._chambers.get(str(order.get("workspace")))
        if chamber is None:
            raise UnknownModel(f"there is no Workspace {order.get('workspace')}")
        if order.get("order") == "goodbye":
            chamber.leave(str(order["router"]))
            return {"state": "left"}
        status = self._operate(chamber, str(order.get("order")), str(order.get("model")), order.get("wait"))
        return {"state": status.state, "message": status.message}

    def _operate(self, chamber: Chamber, what: str, model: str, wait: float | None) -> ModelStatus:
        if model not in {m.name for m in chamber.models}:
            raise UnknownModel(f"there is no model {model}")
        switcher, now = chamber.switcher, time.monotonic()

        def status() -> ModelStatus:
            return next((s for s in switcher.status() if s.name == model), ModelStatus(model, "unloaded"))

        def loaded() -> ModelStatus | None:
            return None if switcher.is_ordered(model) else status()

        leaving: set[str] = set()

        def unloaded() -> ModelStatus | None:
            holders = switcher.holders(model)
            if not leaving:
                leaving.update(holders)
            return None if {holders[h] for h in leaving & holders.keys()} - {SeatState.UNPROVEN} else status()

        if what not in ("load", "unload"):
            raise BadRequest(f"order is {what!r}; allowed: load, unload, goodbye")
        stimulus, outcome = (Load(now, model), loaded) if what == "load" else (Unload(now, model), unloaded)
        if wait == 0:
            switcher.tell(stimulus)
            return status()
        found = switcher.order(stimulus, outcome, wait)
        if found is None:
            raise Unavailable(f"{model}: the {what} goes on", code=f"{what}ing", retry_after=5.0)
        if what == "load" and found.state != SeatState.READY.value:
            raise Unavailable(f"{model} is {found.state}: {found.message}", code="model_failed", retry_after=5.0)
        return found
