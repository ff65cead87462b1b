"""HTTP API of the switcher: demand and commands from routers, and what people read."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import RequestEntityTooLarge

from hotseat.api.model import PINNED
from hotseat.api.types import Json
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import SIGNATURE
from hotseat.cluster.switcher.model_objects import ADOPTED, ModelObjects
from hotseat.cluster.switcher.workspace import ClusterWorkspace
from hotseat.control.codec import demand_from_json, from_rfc3339
from hotseat.control.workspace_controller import ModelCommands
from hotseat.core.errors import BadRequest, Forbidden, HotseatError, TooLarge, Unavailable, UnknownModel
from hotseat.core.events import event_type
from hotseat.core.messages import Demand
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.errors import api_kind, error_body, error_headers
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import MODELS
from hotseat.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


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
            "fetch": lambda controller, model, _: controller.fetch(model),
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

        On an adopted object, "false" overrides an annotation of its template.
        """
        found = self._documents().models.get(model)
        adopted = found is not None and found.uid is None
        value = "true" if pinned else "false" if adopted else None
        if found is not None and adopted:
            path = ADOPTED[found.runtime].path(self._namespace, found.adopted_as)
        else:
            path = MODELS.path(self._namespace, model)
        try:
            self._kube.merge(path, {"metadata": {"annotations": {PINNED: value}}})
        except KubeError as error:
            message = f"cannot write the annotation {PINNED} of {model}: {error}"
            raise Unavailable(message, code="pin_not_kept", retry_after=5.0) from error


DEMAND = event_type("demand.reported")
MAX_BODY = 2**20  # bytes; the whole body is read to check its signature, and every pod in the cluster may send one
COMMAND_AGE = 30.0  # seconds after which a command is refused, as it may be a replay

OnCommand = Callable[[Json], Json]
OnTraces = Callable[
    [str, str, Mapping[str, str]], None
]  # Workspace, router, and by model the `traceparent` of a request
OnDemand = Callable[[str, Demand, str, bool], None]  # Workspace, snapshot, pod, whether through the Broker


def create_http_api(
    key: DemandKeys,
    on_demand: OnDemand,
    on_command: OnCommand,
    ready: Callable[[], bool],
    metrics: Metrics,
    *,
    on_read: OnCommand,
    on_traces: OnTraces | None = None,
) -> Flask:
    """Build the application. `on_traces` is called before `on_demand`, if requests are traced."""
    app = Flask("hotseat-switcher")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.register_blueprint(_router_routes(key, on_demand, on_command, on_read, on_traces))
    app.register_blueprint(_operator_routes(ready, metrics))

    @app.errorhandler(HotseatError)
    def answer(error: HotseatError) -> tuple[Response, int, dict[str, str]]:
        return jsonify(error_body(error)), api_kind(error).status, error_headers(error)

    @app.errorhandler(RequestEntityTooLarge)
    def answer_too_large(_error: RequestEntityTooLarge) -> tuple[Response, int, dict[str, str]]:
        return answer(TooLarge(f"The request body has more than {MAX_BODY} bytes."))

    @app.errorhandler(RecursionError)
    def answer_too_deep(_error: RecursionError) -> tuple[Response, int, dict[str, str]]:
        return answer(BadRequest("The request body is nested too deeply.", code="invalid_json"))

    return app


def _router_routes(
    key: DemandKeys, on_demand: OnDemand, on_command: OnCommand, on_read: OnCommand, on_traces: OnTraces | None
) -> Blueprint:
    blueprint = Blueprint("routers", __name__)
    recent = _RecentIds()

    @blueprint.post("/", defaults={"through_broker": True})
    @blueprint.post("/demand", defaults={"through_broker": False})
    def demand(*, through_broker: bool) -> tuple[str, int]:
        kind, signature, data = _read_event()
        if kind != DEMAND:
            return "", 202  # another application's event
        if not key.signed(data, signature):
            raise Forbidden("the demand has no valid signature")
        try:
            workspace, demand = demand_from_json(data)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        if on_traces is not None:
            traces = data.get("traces")
            on_traces(workspace, demand.router, traces if isinstance(traces, dict) else {})
        on_demand(workspace, demand, str(data.get("pod", "")), through_broker)
        return "", 202

    @blueprint.post("/orders")
    def commands() -> Response:
        command = _read_signed(key)
        if not recent.add(command["id"]):
            raise Forbidden("the command was received before")
        return jsonify(on_command(command))

    @blueprint.post("/reads")
    def reads() -> Response:
        return jsonify(on_read(_read_signed(key)))

    return blueprint


def _operator_routes(ready: Callable[[], bool], metrics: Metrics) -> Blueprint:
    blueprint = Blueprint("operators", __name__)

    @blueprint.get("/health")
    def health() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/ready")
    def is_ready() -> tuple[Response, int]:
        return jsonify(status="ready" if ready() else "starting"), 200 if ready() else 503

    @blueprint.get("/metrics")
    def metrics_text() -> Response:
        body, content_type = metrics.expose(request.headers.get("Accept", ""))
        return Response(body, content_type=content_type)

    return blueprint


def _read_signed(key: DemandKeys) -> Json:
    """Return the body of the request. Raise Forbidden unless it is signed, and was signed lately."""
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict) or not key.signed(body, request.headers.get("X-Hotseat-Signature", "")):
        raise Forbidden("the command has no valid signature")
    if abs(time.monotonic() - from_rfc3339(body["at"])) > COMMAND_AGE:
        raise Forbidden(f"the command is older than {COMMAND_AGE:.0f} s")
    return body


def _read_event() -> tuple[str, str, Any]:
    """Return type, signature and data of the CloudEvent, in binary or structured form."""
    body = request.get_data(cache=False)
    try:
        content: Any = json.loads(body or b"null")
    except ValueError:
        raise BadRequest("the request body is not valid JSON") from None
    if request.mimetype == "application/cloudevents+json" and isinstance(content, dict):
        return str(content.get("type", "")), str(content.get(SIGNATURE, "")), content.get("data")
    return request.headers.get("ce-type", ""), request.headers.get(f"ce-{SIGNATURE}", ""), content


class _RecentIds:
    """The ids of the last commands."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: deque[str] = deque(maxlen=1000)

    def add(self, id_: str) -> bool:
        """Add an id. Return False if it was there."""
        with self._lock:
            if id_ in self._ids:
                return False
            self._ids.append(id_)
            return True
