"""Orders that routers pass on: load, unload, pin and unpin for operators, and a router's own goodbye."""

from collections.abc import Callable, Mapping

from hotseat.cluster.chamber import Chamber
from hotseat.cluster.pinning import Pinning
from hotseat.control.operating import Operator
from hotseat.control.wire import Json
from hotseat.core.errors import BadRequest, Unavailable, UnknownModel
from hotseat.core.seats import ModelStatus


class Orders:
    """Carries orders out, and waits for their end where that is asked for."""

    def __init__(self, chambers: Mapping[str, Chamber], pinning: Pinning) -> None:
        self._chambers = chambers
        self._pinning = pinning

    def carry_out(self, order: Json) -> Json:
        """Do it. HotseatError: what the operator is told."""
        chamber = self._chambers.get(str(order.get("workspace")))
        if chamber is None:
            raise UnknownModel(f"Workspace {order.get('workspace')} does not exist")
        what, model = order.get("order"), str(order.get("model"))
        if what == "goodbye":
            chamber.leave(str(order["router"]))
            return {"state": "left"}
        if model not in {m.name for m in chamber.models}:
            raise UnknownModel(f"model {model} does not exist")
        known: dict[str, Callable[[Operator, str, float | None], ModelStatus]] = {
            "load": Operator.load,
            "unload": Operator.unload,
            "pin": self._pin,
            "unpin": self._unpin,
        }
        if what not in known:
            raise BadRequest(f"the command is {what!r}; allowed: {', '.join(known)}, goodbye")
        status = known[what](chamber.operator, model, order.get("wait"))
        return {"state": status.state, "message": status.message, "pinned": status.pinned}

    def _pin(self, operator: Operator, model: str, wait: float | None) -> ModelStatus:
        """Pin it here and now, where that can be; then write it down, and it is the document's."""
        status = operator.pin(model, 0)
        try:
            self._pinning.keep(model, pinned=True)
        except Unavailable:
            operator.unpin(model)
            raise
        return status if wait == 0 else operator.load(model, wait)

    def _unpin(self, operator: Operator, model: str, _wait: float | None) -> ModelStatus:
        self._pinning.keep(model, pinned=False)
        return operator.unpin(model)
