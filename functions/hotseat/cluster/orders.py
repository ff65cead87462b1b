"""Orders that routers pass on: load and unload for operators, and a router's own goodbye."""

from collections.abc import Mapping

from hotseat.cluster.chamber import Chamber
from hotseat.control.wire import Json
from hotseat.core.errors import BadRequest, UnknownModel


class Orders:
    """Carries orders out, and waits for their end where that is asked for."""

    def __init__(self, chambers: Mapping[str, Chamber]) -> None:
        self._chambers = chambers

    def carry_out(self, order: Json) -> Json:
        """Do it. HotseatError: what the operator is told."""
        chamber = self._chambers.get(str(order.get("workspace")))
        if chamber is None:
            raise UnknownModel(f"there is no Workspace {order.get('workspace')}")
        what, model = order.get("order"), str(order.get("model"))
        if what == "goodbye":
            chamber.leave(str(order["router"]))
            return {"state": "left"}
        if model not in {m.name for m in chamber.models}:
            raise UnknownModel(f"there is no model {model}")
        if what not in ("load", "unload"):
            raise BadRequest(f"order is {what!r}; allowed: load, unload, goodbye")
        carry_out = chamber.operator.load if what == "load" else chamber.operator.unload
        status = carry_out(model, order.get("wait"))
        return {"state": status.state, "message": status.message}
