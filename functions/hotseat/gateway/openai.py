"""OpenAI's API: completions of all kinds, and the list of models."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from hotseat.control.house import House, Place
from hotseat.core.documents import Capability
from hotseat.core.errors import UnknownModel
from hotseat.gateway.clock import rfc3339
from hotseat.gateway.inference import Inference, Route
from hotseat.gateway.relay import Relayed

ROUTES = {
    "/v1/chat/completions": Route("chat", Capability.CHAT),
    "/v1/completions": Route("completion", Capability.COMPLETION),
    "/v1/embeddings": Route("embedding", Capability.EMBEDDING),
}


def openai_blueprint(house: House, inference: Inference, started: float) -> Blueprint:
    """Routes under /v1. `started` (Unix time) is what models give as `created`."""
    blueprint = Blueprint("openai", __name__)
    for path, route in ROUTES.items():
        blueprint.add_url_rule(path, route.label, _completion(inference, route), methods=["POST"])

    @blueprint.get("/v1/models")
    def models() -> Response:
        listed = [describe(place, started) for place in house.places().values() if not place.model.spec.unlisted]
        return jsonify(object="list", data=listed)

    @blueprint.get("/v1/models/<path:name>")
    def model(name: str) -> Response:
        try:
            return jsonify(describe(house.find(name), started))
        except UnknownModel as error:
            error.param = None
            raise

    return blueprint


def _completion(inference: Inference, route: Route) -> Callable[[], Response]:
    def completion() -> Response:
        return Relayed(inference.handle(request.environ, route, g.get("extra_headers", ())))

    return completion


def describe(place: Place, started: float) -> dict[str, Any]:
    """One model in the list: OpenAI's four fields, and what else there is to know."""
    model, spec = place.model, place.model.spec
    status = place.room.status(model.name)
    progress = None if status.done is None else {"done": status.done, "total": status.total}
    return {
        "id": model.name,
        "object": "model",
        "created": int(started),
        "owned_by": "hotseat",
        "aliases": list(spec.aliases),
        "capabilities": list(spec.capabilities),
        "description": spec.description,
        "metadata": spec.metadata,
        "workspace": place.room.name,
        "engine": spec.engine,
        "status": {
            "value": status.state,
            "since": None if not status.since else rfc3339(status.since),
            "message": status.message,
            "progress": progress,
        },
    }
