"""The APIs for inference, one module each, and all their routes."""

from collections.abc import Mapping

from flask import Blueprint, Response

from hotseat.gateway.accepted_head import Route
from hotseat.gateway.apis import anthropic, llamacpp, ollama, openai

ROUTES: dict[str, Route] = {**openai.ROUTES, **anthropic.ROUTES, **ollama.ROUTES, **llamacpp.ROUTES}  # by path
GET_ROUTES: dict[str, Route] = {**openai.GET_ROUTES, **llamacpp.GET_ROUTES}
_BY_METHOD: Mapping[str, Mapping[str, Route]] = {"POST": ROUTES, "GET": GET_ROUTES, "HEAD": GET_ROUTES}


def find_route(method: str, path: str) -> Route | None:
    """Return the route for inference with this method. None if there is none."""
    routes = _BY_METHOD.get(method)
    return None if routes is None else routes.get(path)


def inference_blueprint() -> Blueprint:
    """Return rules for the routes that the event loop serves without Flask (service.py): Flask answers other methods with 405 and Allow."""
    blueprint = Blueprint("inference", __name__)
    for method, routes in (("POST", ROUTES), ("GET", GET_ROUTES)):
        for path in routes:
            blueprint.add_url_rule(path, f"{method} {path}".replace(".", "_"), _never, methods=[method])
    return blueprint


def _never() -> Response:
    raise AssertionError("the gateway serves inference before Flask routes it")
