"""What the switcher takes over HTTP: demand from the Broker or from routers, orders from routers, and what people read.

Demand is answered 202 with an empty body before anything is done with it; what is not signed by a router of ours is refused.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import RequestEntityTooLarge

from hotseat.control.codec import Json, demand_from_json, from_rfc3339, signed
from hotseat.control.switcher_client import SIGNATURE
from hotseat.core.errors import BadRequest, Forbidden, HotseatError, TooLarge
from hotseat.core.events import event_type
from hotseat.core.messages import Demand
from hotseat.gateway.errors import api_kind, error_body, error_headers
from hotseat.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

DEMAND = event_type("demand.reported")
MAX_BODY = 2**20  # bytes; a signature is checked on the whole body, which anybody in the cluster may send
ORDER_AGE = 30.0  # seconds; an order that was caught and sent again later is refused

OnDemand = Callable[[str, Demand, str, bool], None]  # Workspace, snapshot, pod, through the Broker?


def create_inbox(
    key: bytes, on_demand: OnDemand, on_order: Callable[[Json], Json], ready: Callable[[], bool], metrics: Metrics
) -> Flask:
    """Build the application."""
    app = Flask("hotseat-switcher")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.register_blueprint(_from_routers(key, on_demand, on_order))
    app.register_blueprint(_for_people(ready, metrics))

    @app.errorhandler(HotseatError)
    def tell(error: HotseatError) -> tuple[Response, int, dict[str, str]]:
        return jsonify(error_body(error)), api_kind(error).status, error_headers(error)

    @app.errorhandler(RequestEntityTooLarge)
    def refuse(_error: RequestEntityTooLarge) -> tuple[Response, int, dict[str, str]]:
        return tell(TooLarge(f"The request body has more than {MAX_BODY} bytes."))

    return app


def _from_routers(key: bytes, on_demand: OnDemand, on_order: Callable[[Json], Json]) -> Blueprint:
    blueprint = Blueprint("from_routers", __name__)
    seen = _Seen()

    @blueprint.post("/", defaults={"through_broker": True})
    @blueprint.post("/demand", defaults={"through_broker": False})
    def take(*, through_broker: bool) -> tuple[str, int]:
        kind, signature, data = _event()
        if kind != DEMAND:
            return "", 202  # somebody else's event: not ours to judge
        if not signed(key, data, signature):
            raise Forbidden("the demand has no valid signature")
        try:
            workspace, demand = demand_from_json(data)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        on_demand(workspace, demand, str(data.get("pod", "")), through_broker)
        return "", 202

    @blueprint.post("/orders")
    def orders() -> Response:
        order = request.get_json(force=True, silent=True)
        if not isinstance(order, dict) or not signed(key, order, request.headers.get("X-Hotseat-Signature", "")):
            raise Forbidden("the command has no valid signature")
        if abs(time.monotonic() - from_rfc3339(order["at"])) > ORDER_AGE or not seen.first(order["id"]):
            raise Forbidden("the command is too old, or was received before")
        return jsonify(on_order(order))

    return blueprint


def _for_people(ready: Callable[[], bool], metrics: Metrics) -> Blueprint:
    blueprint = Blueprint("for_people", __name__)

    @blueprint.get("/health")
    def health() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/ready")
    def is_ready() -> tuple[Response, int]:
        return jsonify(status="ready" if ready() else "starting"), 200 if ready() else 503

    @blueprint.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.expose(), content_type="text/plain; version=0.0.4; charset=utf-8")

    return blueprint


def _event() -> tuple[str, str, Any]:
    """Type, signature and data of a CloudEvent in binary or structured form."""
    body = request.get_data(cache=False)
    try:
        content: Any = json.loads(body or b"null")
    except ValueError:
        raise BadRequest("the request body is not valid JSON") from None
    if request.mimetype == "application/cloudevents+json" and isinstance(content, dict):
        return str(content.get("type", "")), str(content.get(SIGNATURE, "")), content.get("data")
    return request.headers.get("ce-type", ""), request.headers.get(f"ce-{SIGNATURE}", ""), content


class _Seen:
    """Ids of the last orders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: deque[str] = deque(maxlen=1000)

    def first(self, id_: str) -> bool:
        """Whether it was never seen; it has been now."""
        with self._lock:
            if id_ in self._ids:
                return False
            self._ids.append(id_)
            return True
