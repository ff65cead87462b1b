"""The API of llama.cpp's server. A request without a `model` is for the default Model or the resident one, and loads none."""

from flask import Blueprint, Response

from hotseat.api.model import Capability
from hotseat.core.errors import Forbidden
from hotseat.gateway.accepted_head import Route
from hotseat.gateway.auth import OPERATE
from hotseat.gateway.openapi import documented

ROUTES = {
    path: Route(path, label, capability, resident=True)
    for path, label, capability in (
        ("/completion", "completion", Capability.COMPLETION),
        ("/completions", "completion", Capability.COMPLETION),
        ("/infill", "infill", Capability.COMPLETION),
        ("/embedding", "embedding", Capability.EMBEDDING),
        ("/embeddings", "embedding", Capability.EMBEDDING),
        ("/rerank", "rerank", Capability.RERANK),
        ("/reranking", "rerank", Capability.RERANK),
        ("/tokenize", "tokenize", None),
        ("/detokenize", "detokenize", None),
        ("/apply-template", "apply_template", None),
    )
}
GET_ROUTES = {
    "/props": Route("/props", "props", None, resident=True),
    # With the prompts that the engine processes.
    "/slots": Route("/slots", "slots", None, resident=True, operation=OPERATE),
}


def llamacpp_blueprint() -> Blueprint:
    """Return the routes that are refused: they change an engine that others use too."""
    blueprint = Blueprint("llamacpp", __name__)

    @blueprint.post("/slots/<slot>")
    @documented("Refuse: hotseat saves and restores slots", ok=(), operation=OPERATE)
    def slot_action(slot: str) -> Response:  # noqa: ARG001
        raise Forbidden(
            "Actions on slots are not allowed: hotseat saves and restores the prompt caches of its engines itself.",
            code="path_not_allowed",
        )

    @blueprint.post("/props")
    @documented("Refuse: a Model says what its engine is", ok=(), operation=OPERATE)
    def change_props() -> Response:
        raise Forbidden(
            "Properties of an engine cannot be changed by a request: set them in the Model (spec.args).",
            code="path_not_allowed",
        )

    return blueprint
