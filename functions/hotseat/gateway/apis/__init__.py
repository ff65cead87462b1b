"""The APIs for inference, one module each, and all their routes."""

from flask import Blueprint, Response

from hotseat.gateway.apis import anthropic, ollama, openai
from hotseat.gateway.inference import Route

ROUTES: dict[str, Route] = {**openai.ROUTES, **anthropic.ROUTES, **ollama.ROUTES}  # by path


def inference_blueprint() -> Blueprint:
    """Return rules for the routes that the event loop serves without Flask (service.py): Flask answers other methods with 405 and Allow."""
    blueprint = Blueprint("inference", __name__)
    for path in ROUTES:
        blueprint.add_url_rule(path, path.replace(".", "_"), _never, methods=["POST"])
    return blueprint


def _never() -> Response:
    raise AssertionError("the gateway serves inference before Flask routes it")
