"""The Flask application: authentication and errors for all routes."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from hotseat.control.event_log import EventLog
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import HotseatError, NotFound, shortened
from hotseat.gateway.admin_api import ADMIN, admin_blueprint
from hotseat.gateway.auth import Keys
from hotseat.gateway.browsers import BrowserRules, check_host
from hotseat.gateway.errors import INTERNAL, api_kind, error_body, error_headers, http_error_body
from hotseat.gateway.inference import Inference
from hotseat.gateway.limits import BodyBudget, ConcurrencyLimit, shortage
from hotseat.gateway.openai import ROUTES, openai_blueprint
from hotseat.gateway.relay import Connections
from hotseat.gateway.relay.streams import START_RESPONSE
from hotseat.runtimes.local.memory import machine_memory
from hotseat.telemetry.logs import RequestLog
from hotseat.telemetry.metrics import Metrics

BODY_SHARE = 4  # bodies of requests may use one part in this many of the machine's memory
OPEN_PATHS = frozenset({"/health"})  # without a key
PROBE_PATHS = frozenset({"/health", "/ready"})  # the admin routes that are served on each port


class _AnyName(BaseConverter):
    """The name of a Model in a path: any text, also with a leading slash or a newline, which `path` excludes."""

    part_isolating = False
    regex = r"[\s\S]+?"
    weight = 200  # after routes with literal segments, as `path`


# What follows may be the name of a Model, which can have slashes at any place.
_MODELS = re.compile(r"/+(v1|api)/+models/")


def single_slashes(path: str) -> str:
    """Replace consecutive slashes of a path by one, except in the name of a Model."""
    models = _MODELS.match(path)
    return f"/{models[1]}/models/{path[models.end() :]}" if models else re.sub("/{2,}", "/", path)


class Gateway(Flask):
    """All routes in Flask. Inference requests bypass the routing of Flask."""

    def __init__(self, keys: Keys, inference: Inference, browsers: BrowserRules, admin_port: int | None = None) -> None:
        super().__init__("hotseat")
        self.json.sort_keys = False  # type: ignore[attr-defined]
        self.url_map.merge_slashes = False  # names of Models may have consecutive slashes
        self.url_map.converters["model"] = _AnyName
        self._keys = keys
        self._inference = inference
        self._browsers = browsers
        self._admin_port = admin_port
        self.before_request(self._check_request)
        self.after_request(self._add_cors_headers)
        self.register_error_handler(HotseatError, _error_response)
        self.register_error_handler(HTTPException, _http_error_response)
        self.register_error_handler(Exception, self._internal_error)

    def wsgi_app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        if "//" in environ["PATH_INFO"]:
            environ["PATH_INFO"] = single_slashes(environ["PATH_INFO"])
        route = ROUTES.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
        if route is None:
            return super().wsgi_app(environ, start_response)
        environ[START_RESPONSE] = start_response
        try:
            check_host(environ)
            extra = self._browsers.headers(environ)
            return self._inference.handle(environ, route, extra, authenticate=self._authenticate).finish()
        except Exception as error:  # Flask's handlers make the answer
            with self.request_context(environ):
                response = self.finalize_request(self.handle_user_exception(error), from_error_handler=True)
                return response(environ, start_response)

    def _check_request(self) -> Response | None:
        check_host(request.environ)
        if request.method == "OPTIONS" and (headers := self._browsers.headers(request.environ)):
            return Response(status=204, headers=headers)
        if request.path not in OPEN_PATHS:
            self._authenticate(request.environ)
        if request.blueprint == ADMIN and request.path not in PROBE_PATHS:
            self._check_port(request.environ)
        return None

    def _check_port(self, environ: Mapping[str, Any]) -> None:
        """Refuse an admin route on another port than the one for them, if there is one."""
        if self._admin_port is not None and environ["SERVER_PORT"] != str(self._admin_port):
            raise NotFound(f"{shortened(request.path)} is an admin route, and is served on the admin port only.")

    def _authenticate(self, environ: Mapping[str, Any]) -> str:
        """Authenticate the request, and return the name of its key."""
        key = self._keys.check(environ)
        if not self._keys:
            self._browsers.check(environ)
        return key

    def _add_cors_headers(self, response: Response) -> Response:
        if request.method != "OPTIONS":
            response.headers.extend(self._browsers.headers(request.environ))
        return response

    def _internal_error(self, error: Exception) -> tuple[Response, int, dict[str, str]]:
        if (short := shortage(error)) is not None:
            self.logger.warning("%s %s: %r", request.method, request.path, error)
            return _error_response(short)
        self.logger.error("internal error (a bug in hotseat): %s %s", request.method, request.path, exc_info=error)
        return _error_response(HotseatError("Internal error in hotseat. Its log has the details."))


def create_gateway(
    registry: ModelRegistry,
    bus: EventLog,
    metrics: Metrics,
    keys: Keys,
    connections: Connections,
    *,
    max_body: int,
    cors: frozenset[str],
    concurrency: ConcurrencyLimit,
    request_log: RequestLog | None = None,
    admin_port: int | None = None,
    hosts: frozenset[str] = frozenset(),
) -> Gateway:
    """Build the application.

    `max_body` is in bytes. `cors` has the origins whose web pages may send requests, and `hosts` the names of this
    server (`BrowserRules`). `concurrency` limits long requests. `admin_port` is the only port with admin routes.
    None: each port has them.
    """
    # A body can be in memory twice: as received, and as sent to the engine.
    body_budget = BodyBudget(max(max_body, machine_memory() // BODY_SHARE))
    inference = Inference(
        registry,
        connections,
        metrics,
        max_body=max_body,
        concurrency=concurrency,
        body_budget=body_budget,
        request_log=request_log,
    )
    app = Gateway(keys, inference, BrowserRules(cors, hosts), admin_port)
    app.register_blueprint(openai_blueprint(registry, time.time()))
    app.register_blueprint(admin_blueprint(registry, bus, metrics, concurrency))
    return app


def _error_response(error: HotseatError) -> tuple[Response, int, dict[str, str]]:
    return jsonify(error_body(error)), api_kind(error).status, error_headers(error)


def _http_error_response(error: HTTPException) -> tuple[Response, int, list[tuple[str, str]]]:
    kept = [(name, value) for name, value in error.get_headers() if name == "Allow"]
    return jsonify(http_error_body(error.name, error.description or "")), error.code or INTERNAL, kept
