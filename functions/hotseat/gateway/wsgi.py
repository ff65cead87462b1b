"""The Flask application: keys and errors around all routes."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from hotseat.control.bus import Bus
from hotseat.control.house import House
from hotseat.core.errors import HotseatError
from hotseat.gateway.auth import Keys
from hotseat.gateway.inference import Inference
from hotseat.gateway.openai import openai_blueprint
from hotseat.gateway.operations import operations_blueprint
from hotseat.gateway.relay import Connections
from hotseat.gateway.relay.takeover import START_RESPONSE
from hotseat.telemetry.metrics import Metrics

OPEN_PATHS = frozenset({"/health"})  # no key is asked for


class Gateway(Flask):
    """Flask that leaves WSGI's start_response where the relay finds it."""

    def wsgi_app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        environ[START_RESPONSE] = start_response
        return super().wsgi_app(environ, start_response)


def create_gateway(
    house: House,
    bus: Bus,
    metrics: Metrics,
    keys: Keys,
    connections: Connections,
    *,
    max_body: int,
    cors: frozenset[str],
) -> Gateway:
    """Build the application. `max_body` is in bytes; `cors` are the origins that browsers may call from (`*`: any)."""
    app = Gateway("hotseat")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.register_blueprint(openai_blueprint(house, Inference(house, connections, metrics, max_body), time.time()))
    app.register_blueprint(operations_blueprint(house, bus, metrics))
    app.register_error_handler(HotseatError, _tell)
    app.register_error_handler(HTTPException, _tell_http)
    app.register_error_handler(Exception, _tell_bug(app))

    @app.before_request
    def _admit() -> Response | None:
        if cors and (headers := _cors_headers(cors)):
            g.extra_headers = headers
            if request.method == "OPTIONS":
                return Response(status=204, headers=headers)
        if keys and request.path not in OPEN_PATHS:
            keys.check(request.environ)
        return None

    @app.after_request
    def _allow(response: Response) -> Response:
        response.headers.extend(g.get("extra_headers", ()))
        return response

    return app


def _cors_headers(cors: frozenset[str]) -> list[tuple[str, str]]:
    origin = request.headers.get("Origin")
    if origin is None or not (cors & {"*", origin}):
        return []
    headers = [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
    if request.method == "OPTIONS":
        wanted = request.headers.get("Access-Control-Request-Headers", "Authorization, Content-Type")
        headers += [("Access-Control-Allow-Methods", "GET, POST, OPTIONS"), ("Access-Control-Allow-Headers", wanted)]
    return headers


def _tell(error: HotseatError) -> tuple[Response, int, dict[str, str]]:
    headers = error.headers()
    if error.status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = 'Bearer realm="hotseat"'
    return jsonify(error.body()), error.status, headers


def _tell_http(error: HTTPException) -> tuple[Response, int, list[tuple[str, str]]]:
    status = error.code or 500
    body = {
        "message": error.description,
        "type": "invalid_request_error",
        "param": None,
        "code": error.name.lower().replace(" ", "_"),
    }
    kept = [(name, value) for name, value in error.get_headers() if name == "Allow"]
    return jsonify(error=body), status, kept


def _tell_bug(app: Flask) -> Callable[[Exception], tuple[Response, int, dict[str, str]]]:
    def tell(error: Exception) -> tuple[Response, int, dict[str, str]]:
        app.logger.error("a bug in hotseat: %s %s", request.method, request.path, exc_info=error)
        return _tell(HotseatError("This is a bug in hotseat; its log says more."))

    return tell
