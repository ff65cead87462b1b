"""Admin routes for single requests: which there are, what they took, their captured bodies, and how one is cancelled."""

from flask import Blueprint, Response, jsonify, request

from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import BadRequest, shortened
from hotseat.gateway.openapi import NUMBER, documented
from hotseat.gateway.request_records import KEPT, RequestRecords

_MOST = 1000  # requests that are listed at once


def add_request_routes(blueprint: Blueprint, registry: ModelRegistry, records: RequestRecords) -> None:
    """Add the routes."""

    @blueprint.get("/api/requests")
    @documented("List requests, newest first", 404, query={"model": {"type": "string"}, "limit": NUMBER})
    def requests() -> Response:
        name = request.args.get("model")
        model = None if name is None else registry.find(name).model.name
        return jsonify(requests=records.rows(registry, model, min(_MOST, count_parameter("limit", KEPT))))

    @blueprint.post("/api/requests/<id_>/cancel")
    @blueprint.post("/api/inflight/<id_>/cancel", endpoint="cancel_inflight")  # llama-swap's
    @documented("Cancel a request", 404)
    def cancel(id_: str) -> Response:
        records.cancel(id_)
        return jsonify(id=id_, state="cancelled")

    @blueprint.get("/api/captures/<id_>")
    @documented("Return the captured bodies of a request", 404)
    def capture(id_: str) -> Response:
        return jsonify(records.capture(id_))


def count_parameter(name: str, default: int) -> int:
    """Return a count of the query. Raise BadRequest if it is none."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):  # noqa: PLR2004
        raise BadRequest(f"The parameter {name} is {shortened(text)!r}; allowed: an integer of at least 0.")
    return int(text)
