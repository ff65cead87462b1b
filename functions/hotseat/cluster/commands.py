"""Orders that routers pass on: load, unload, pin and unpin for operators, and a router's own goodbye."""

from collections.abc import Callable, Mapping

from hotseat.api.model import PINNED
from hotseat.api.types import Json
from hotseat.cluster.model_objects import ModelObjects
from hotseat.cluster.workspace_controller import WorkspaceController
from hotseat.control.commands import ModelCommands
from hotseat.core.errors import BadRequest, Unavailable, UnknownModel
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import MODELS, SERVICES


class RemoteCommands:
    """Carries orders out, and waits for their end where that is asked for."""

    def __init__(self, controllers: Mapping[str, WorkspaceController], pinning: "PinAnnotations") -> None:
        self._controllers = controllers
        self._pinning = pinning

    def carry_out(self, order: Json) -> Json:
        """Do it. HotseatError: what the operator is told."""
        controller = self._controllers.get(str(order.get("workspace")))
        if controller is None:
            raise UnknownModel(f"Workspace {order.get('workspace')} does not exist")
        what, model = order.get("order"), str(order.get("model"))
        if what == "goodbye":
            controller.leave(str(order["router"]))
            return {"state": "left"}
        if model not in {m.name for m in controller.models}:
            raise UnknownModel(f"model {model} does not exist")
        known: dict[str, Callable[[ModelCommands, str, float | None], ModelStatus]] = {
            "load": ModelCommands.load,
            "unload": ModelCommands.unload,
            "pin": self._pin,
            "unpin": self._unpin,
        }
        if what not in known:
            raise BadRequest(f"the command is {what!r}; allowed: {', '.join(known)}, goodbye")
        status = known[what](controller.operator, model, order.get("wait"))
        return {"state": status.state, "message": status.message, "pinned": status.pinned}

    def _pin(self, operator: ModelCommands, model: str, wait: float | None) -> ModelStatus:
        """Pin it here and now, where that can be; then write it down, and it is the document's."""
        status = operator.pin(model, 0)
        try:
            self._pinning.keep(model, pinned=True)
        except Unavailable:
            operator.unpin(model)
            raise
        return status if wait == 0 else operator.load(model, wait)

    def _unpin(self, operator: ModelCommands, model: str, _wait: float | None) -> ModelStatus:
        self._pinning.keep(model, pinned=False)
        return operator.unpin(model)


class PinAnnotations:
    """Writes pins down. `documents` gives those that were read last."""

    def __init__(self, kube: Kube, namespace: str, documents: Callable[[], ModelObjects]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._documents = documents

    def keep(self, model: str, *, pinned: bool) -> None:
        """Annotate a Model. Unavailable: it could not be written.

        On a ksvc the annotation stands over one of its template's, and says that it is off.
        """
        read = self._documents().models.get(model)
        adopted = read is not None and read.uid is None
        value = "true" if pinned else "false" if adopted else None
        path = (SERVICES if adopted else MODELS).path(self._namespace, model)
        try:
            self._kube.merge(path, {"metadata": {"annotations": {PINNED: value}}})
        except KubeError as error:
            message = f"cannot write the annotation {PINNED} of {model}: {error}"
            raise Unavailable(message, code="pin_not_kept", retry_after=5.0) from error
