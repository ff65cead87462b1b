"""Commands that routers send: load, unload, pin and unpin of operators, and a router's own goodbye."""

from collections.abc import Callable, Mapping

from hotseat.api.model import PINNED
from hotseat.api.types import Json
from hotseat.cluster.model_objects import ModelObjects
from hotseat.cluster.workspace_controller import ClusterWorkspace
from hotseat.control.commands import ModelCommands
from hotseat.core.errors import BadRequest, Unavailable, UnknownModel
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import MODELS, SERVICES


class RemoteCommands:
    """Executes commands, and waits for their end if they ask for that."""

    def __init__(self, controllers: Mapping[str, ClusterWorkspace], pinning: "PinAnnotations") -> None:
        self._controllers = controllers
        self._pinning = pinning

    def execute(self, command: Json) -> Json:
        """Execute a command and return the answer. Raise the HotseatError for the operator if it fails."""
        controller = self._controllers.get(str(command.get("workspace")))
        if controller is None:
            raise UnknownModel(f"Workspace {command.get('workspace')} does not exist")
        kind, model = command.get("order"), str(command.get("model"))
        if kind == "goodbye":
            controller.remove_router(str(command["router"]))
            return {"state": "left"}
        if model not in {m.name for m in controller.models}:
            raise UnknownModel(f"model {model} does not exist")
        known: dict[str, Callable[[ModelCommands, str, float | None], ModelStatus]] = {
            "load": ModelCommands.load,
            "unload": ModelCommands.unload,
            "pin": self._pin,
            "unpin": self._unpin,
        }
        if kind not in known:
            raise BadRequest(f"the command is {kind!r}; allowed: {', '.join(known)}, goodbye")
        status = known[kind](controller, model, command.get("wait"))
        return {"state": status.state, "message": status.message, "pinned": status.pinned}

    def _pin(self, controller: ModelCommands, model: str, wait: float | None) -> ModelStatus:
        """Pin MODEL in the scheduler, then in its document. If that cannot be written, unpin it."""
        status = controller.pin(model, 0)
        try:
            self._pinning.write(model, pinned=True)
        except Unavailable:
            controller.unpin(model)
            raise
        return status if wait == 0 else controller.load(model, wait)

    def _unpin(self, controller: ModelCommands, model: str, _wait: float | None) -> ModelStatus:
        self._pinning.write(model, pinned=False)
        return controller.unpin(model)


class PinAnnotations:
    """Writes pins as annotations. `documents` returns the documents that were read last."""

    def __init__(self, kube: Kube, namespace: str, documents: Callable[[], ModelObjects]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._documents = documents

    def write(self, model: str, *, pinned: bool) -> None:
        """Annotate a Model. Raise Unavailable if that cannot be written.

        On an adopted ksvc, "false" overrides an annotation of its template.
        """
        found = self._documents().models.get(model)
        adopted = found is not None and found.uid is None
        value = "true" if pinned else "false" if adopted else None
        path = (SERVICES if adopted else MODELS).path(self._namespace, model)
        try:
            self._kube.merge(path, {"metadata": {"annotations": {PINNED: value}}})
        except KubeError as error:
            message = f"cannot write the annotation {PINNED} of {model}: {error}"
            raise Unavailable(message, code="pin_not_kept", retry_after=5.0) from error
