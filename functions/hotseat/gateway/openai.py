"""OpenAI's API: completions of all kinds, and the list of models."""

from typing import Any

from flask import Blueprint, Response, jsonify

from hotseat.control.register import Place, Register
from hotseat.core.documents import Capability
from hotseat.core.errors import UnknownModel
from hotseat.gateway.clock import rfc3339
from hotseat.gateway.inference import Route

ROUTES = {
    "/v1/chat/completions": Route("chat", Capability.CHAT),
    "/v1/completions": Route("completion", Capability.COMPLETION),
    "/v1/embeddings": Route("embedding", Capability.EMBEDDING),
}


def openai_blueprint(house: Register, started: float) -> Blueprint:
    """Return the routes under /v1. `started` (Unix time) is `created` of every model."""
    blueprint = Blueprint("openai", __name__)
    for path, route in ROUTES.items():
        # The gateway serves these before Flask routes anything (wsgi.py); here they make other methods a 405 with Allow.
        blueprint.add_url_rule(path, route.label, _never, methods=["POST"])

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


def _never() -> Response:
    raise AssertionError("the gateway serves inference before Flask routes it")


def describe(place: Place, started: float) -> dict[str, Any]:
    """Return one entry of the list: OpenAI's four fields, and hotseat's own."""
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
            "pinned": status.pinned,
        },
    }
