"""OpenAI's API: routes for inference, and the list of models."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from hotseat.api.model import PEER_HEADER, Capability
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import NotFound, UnknownModel, shortened
from hotseat.core.messages import InstanceState
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.accepted_head import Route
from hotseat.gateway.clock import rfc3339
from hotseat.gateway.openapi import documented

ROUTES = {
    path: Route(path, label, capability, form=form)
    for path, label, capability, form in (
        ("/v1/chat/completions", "chat", Capability.CHAT, False),
        ("/v1/completions", "completion", Capability.COMPLETION, False),
        ("/v1/responses", "response", Capability.CHAT, False),
        ("/v1/embeddings", "embedding", Capability.EMBEDDING, False),
        ("/v1/rerank", "rerank", Capability.RERANK, False),
        ("/v1/reranking", "rerank", Capability.RERANK, False),
        ("/v1/moderations", "moderation", Capability.MODERATION, False),
        ("/v1/images/generations", "image", Capability.IMAGE, False),
        ("/v1/images/edits", "image", Capability.IMAGE, True),
        ("/v1/images/variations", "image", Capability.IMAGE, True),
        ("/v1/audio/speech", "speech", Capability.SPEECH, False),
        ("/v1/audio/transcriptions", "transcription", Capability.TRANSCRIPTION, True),
        ("/v1/audio/translations", "translation", Capability.TRANSCRIPTION, True),
    )
}
GET_ROUTES = {
    "/v1/audio/voices": Route("/v1/audio/voices", "voices", Capability.SPEECH, resident=True),
    "/v1/realtime": Route("/v1/realtime", "realtime", Capability.REALTIME, upgrade=True),
}


def openai_blueprint(registry: ModelRegistry, started: float) -> Blueprint:
    """Return the routes under /v1. `started` (Unix time) is `created` of every model."""
    blueprint = Blueprint("openai", __name__)

    @blueprint.get("/v1/models")
    @documented("List the Models")
    def models() -> Response:
        from_peer = PEER_HEADER in request.headers
        listed = [
            describe(route, started)
            for route in registry.routes().values()
            if not route.model.spec.unlisted and not (from_peer and route.model.peer is not None)
        ]
        return jsonify(object="list", data=sorted(listed, key=lambda model: model["id"]))

    @blueprint.get("/v1/models/<model:name>")
    @documented("Return a Model, by any of its names", 404)
    def model(name: str) -> Response:
        try:
            return jsonify(describe(registry.find(name), started))
        except UnknownModel as error:
            error.param = None
            raise

    @blueprint.route("/v1/responses/<path:name>", methods=["GET", "DELETE", "POST"])
    @documented("Refuse: hotseat keeps no responses", 404, ok=())
    def response(name: str) -> Response:
        raise NotFound(
            f"There is no response {shortened(name)}: hotseat keeps none. Send the whole conversation in `input` of each request."
        )

    return blueprint


def describe(route: ModelRoute, started: float) -> dict[str, Any]:
    """Return a Model for the list: OpenAI's four fields, and fields of hotseat."""
    model, spec = route.model, route.model.spec
    status = route.handle.status(model.name)
    return {
        "id": model.shown_name,
        "object": "model",
        "created": int(started),
        "owned_by": model.peer or "hotseat",
        "peer": model.peer,
        "names": list(model.names),
        "metadata_name": model.name,
        "capabilities": list(spec.capabilities),
        "description": spec.description,
        "metadata": spec.metadata,
        "workspace": route.handle.name,
        "engine": spec.engine,
        "status": describe_status(status),
    }


# States of llama-server's router by state of a Model (docs/api.md). Other states are `unloaded`.
_LLAMA_SERVER: Mapping[str, str] = {
    "fetching": "loading",
    InstanceState.LOADING: "loading",
    InstanceState.WAKING: "loading",
    InstanceState.RESTORING: "loading",
    InstanceState.READY: "loaded",
    InstanceState.QUIESCING: "loaded",
    InstanceState.DRAINING: "loaded",
    InstanceState.PARKING: "sleeping",
    InstanceState.PARKED: "sleeping",
}


def describe_status(status: ModelStatus) -> dict[str, Any]:
    """Return the state of a Model: `value` in the words of llama-server, which user interfaces know, and `state`.

    A failed Model has `failed`, and `exit_code` if its engine exited: the exit status, or 128 plus the signal.
    """
    described: dict[str, Any] = {
        "value": _LLAMA_SERVER.get(status.state, "unloaded"),
        "state": status.state,
        "since": None if not status.since else rfc3339(status.since),
        "message": status.message,
        "progress": None if status.done is None else {"done": status.done, "total": status.total},
        "pinned": status.pinned,
    }
    if status.state == "failed":
        described["failed"] = True
        if status.exit_code is not None:
            described["exit_code"] = status.exit_code
    return described
