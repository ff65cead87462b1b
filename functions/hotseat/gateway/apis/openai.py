"""OpenAI's API: routes for inference, and the list of models."""

from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from hotseat.api.model import PEER_HEADER, Capability
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import NotFound, UnknownModel, shortened
from hotseat.core.messages import InstanceState
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.accepted_head import Route
from hotseat.gateway.auth import INFER, READ
from hotseat.gateway.clock import rfc3339
from hotseat.gateway.flask_keys import key_of_request
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
    @documented("List the Models and virtual models", operation=(INFER, READ), checks_models=True)
    def models() -> Response:
        key, routes = key_of_request(), registry.routes().values()
        from_peer = PEER_HEADER in request.headers
        seen = (
            each
            for each in routes
            if not each.model.spec.unlisted
            and key.allows(each.model.names)
            and not (from_peer and each.model.peer is not None)
        )
        listed = [row for route in seen for row in (describe(route, started), *_adapters(route, started))]
        if not from_peer:  # which has names of its own for several Models
            listed += [each for each in describe_names(registry, started) if key.allows((each["id"],))]
        return jsonify(object="list", data=sorted(listed, key=lambda model: model["id"]))

    @blueprint.get("/v1/models/<model:name>")
    @documented("Return a Model, by any of its names, or a virtual model", 404, operation=(INFER, READ))
    def model(name: str) -> Response:
        try:
            named = next((each for each in describe_names(registry, started) if each["id"] == name), None)
            if named is not None:
                return jsonify(named)
            route = registry.find(name)
            adapter = next((row for row in _adapters(route, started) if row["id"] == name), None)
            return jsonify(adapter or describe(route, started))
        except UnknownModel as error:
            error.param = None
            raise

    @blueprint.route("/v1/responses/<path:name>", methods=["GET", "DELETE", "POST"])
    @documented("Refuse: hotseat keeps no responses", 404, ok=(), operation=INFER)
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
        "names": [name for name in model.names if all(name != each.name for each in spec.loras)],
        "metadata_name": model.name,
        "capabilities": list(spec.capabilities),
        "description": spec.description,
        "metadata": spec.metadata,
        "workspace": route.handle.name,
        "engine": spec.engine,
        "status": describe_status(status),
    }


def describe_names(registry: ModelRegistry, started: float) -> Iterator[dict[str, Any]]:
    """Yield virtual models, and names that only the active profile has. Their status is that of the Model that is the warmest."""
    names = registry.names
    if names is None:
        return
    rows: dict[str, dict[str, Any]] = {
        name: {
            "workspace": each.workspace,
            "engine": "virtual",
            "description": each.model.description,
            "strategy": each.model.strategy,
            "members": [member.model for member in each.model.members],
        }
        for name, each in names.virtual.items()
    }
    for name, its in names.switched.items():
        if its.target and name not in rows:
            more = {"description": "", "profile": its.profile, "members": [its.target]}
            rows[name] = {"workspace": its.workspace, "engine": "profile", **more}
    for name, row in rows.items():
        member = None if registry.candidate(name) is not None else names.peek(name)
        route = None if member is None else registry.candidate(member)
        if route is not None:
            status = describe_status(route.handle.status(route.model.name))
            common = {"id": name, "object": "model", "created": int(started), "owned_by": "hotseat", "names": [name]}
            yield {**common, "capabilities": list(route.capabilities), "metadata": {}, **row, "status": status}


def _adapters(route: ModelRoute, started: float) -> Iterator[dict[str, Any]]:
    """Yield rows for the LoRA adapters of a Model: each is a model to clients. `parent` is the base model, as vLLM has it."""
    for adapter in route.model.spec.loras:
        row = describe(route, started)
        yield row | {"id": adapter.name, "names": [adapter.name], "parent": row["id"]}


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
        "progress": status.progress(),
        "pinned": status.pinned,
    }
    if status.state == "failed":
        described["failed"] = True
        if status.exit_code is not None:
            described["exit_code"] = status.exit_code
    return described
