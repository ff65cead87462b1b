"""The Flask application: all routes but inference, and errors."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

import hotseat
from hotseat.control.event_log import EventLog
from hotseat.control.history_store import MAX_REQUESTS, HistoryStore
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import HotseatError
from hotseat.gateway.admin_api import ADMIN, Gpus, admin_blueprint
from hotseat.gateway.apis import find_route, inference_blueprint
from hotseat.gateway.apis.llamacpp import llamacpp_blueprint
from hotseat.gateway.apis.ollama_models import ollama_blueprint
from hotseat.gateway.apis.openai import openai_blueprint
from hotseat.gateway.auth import INFER, READ, Keys
from hotseat.gateway.browsers import BrowserRules
from hotseat.gateway.cache_api import Caches
from hotseat.gateway.captures import CaptureMode, Captures
from hotseat.gateway.errors import (
    INTERNAL,
    api_kind,
    error_body,
    error_headers,
    http_error_body,
    internal_error,
    shape_of,
)
from hotseat.gateway.flask_keys import check_key
from hotseat.gateway.inference import Inference
from hotseat.gateway.limits import BodyBudget, ConcurrencyLimit, shortage
from hotseat.gateway.openapi import describe_gateway, description_of, documented
from hotseat.gateway.relay import Connections
from hotseat.gateway.request_records import RequestRecords
from hotseat.gateway.service import GatewayService, check_admin_port
from hotseat.gateway.spool import Spool
from hotseat.gateway.wsgi_threads import WsgiThreads
from hotseat.runtimes.local.memory import machine_memory
from hotseat.telemetry.logs import RequestLog
from hotseat.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from hotseat.telemetry.spans import Tracing

BODY_SHARE = 4  # bodies of requests may use one part in this many of the machine's memory
PROBE_PATHS = frozenset({"/health", "/ready"})  # the admin routes that are served on each port


class _AnyName(BaseConverter):
    """The name of a Model in a path: any text, also with a leading slash or a newline, which `path` excludes."""

    part_isolating = False
    regex = r"[\s\S]+?"
    weight = 200  # after routes with literal segments, as `path`


class Gateway(Flask):
    """The routes in Flask. `service` serves them, and inference, on the event loop."""

    def __init__(
        self, registry: ModelRegistry, service: Callable[[WsgiThreads], GatewayService], admin_port: int | None = None
    ) -> None:
        """`service` returns what is served on the loop of `registry`, from what runs this application in threads."""
        super().__init__("hotseat", static_folder=None)
        self.json.sort_keys = False  # type: ignore[attr-defined]
        self.url_map.merge_slashes = False  # names of Models may have consecutive slashes
        self.url_map.converters["model"] = _AnyName
        self.owner, self.service, self._admin_port = registry.owner, service, admin_port
        self._registry = registry
        self.before_request(self._check_port)
        self.before_request(self._check_key)
        self.register_error_handler(HotseatError, _error_response)
        self.register_error_handler(HTTPException, _http_error_response)
        self.register_error_handler(Exception, self._internal_error)

    def _check_port(self) -> None:
        """Refuse an admin route on another port than the one for them, if there is one."""
        if request.blueprint == ADMIN and request.path not in PROBE_PATHS:
            check_admin_port(request.path, int(request.environ["SERVER_PORT"]), self._admin_port)

    def _check_key(self) -> None:
        """Refuse a route that the key of the request may not use."""
        rule = request.url_rule
        check_key(None if rule is None else description_of(self.view_functions[rule.endpoint]), self._registry)

    def _internal_error(self, error: Exception) -> tuple[Response, int, dict[str, str]]:
        if (short := shortage(error)) is not None:
            self.logger.warning("%s %s: %r", request.method, request.path, error)
            return _error_response(short)
        self.logger.error("internal error (a bug in hotseat): %s %s", request.method, request.path, exc_info=error)
        return _error_response(internal_error())


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
    caches: Caches | None = None,
    capture: CaptureMode | None = None,
    upstream_port: int | None = None,
    spool: Spool | None = None,
    history: HistoryStore | None = None,
    gpus: Gpus = list,
    tracing: "Tracing | None" = None,
) -> Gateway:
    """Build the application.

    `max_body` is in bytes. `cors` has the origins whose web pages may send requests, and `hosts` the names of this
    server (`BrowserRules`). `concurrency` limits long requests. `admin_port` is the only port with admin routes.
    None: each port has them. `caches`: what is kept on this machine. None: it is a cluster. `capture`: how
    bodies are captured. None: they are not. `upstream_port`: the port for pages of engines alone.
    `spool`: where large forms are kept. None: in memory, as all bodies. `gpus` returns what `GET /api/gpus` lists. `history`: what stores
    ended requests, and is read by routes. None: no history is kept. `tracing`: None if requests are not traced.

    """
    # A body can be in memory twice: as received, and as sent to the engine.
    body_budget = BodyBudget(max(max_body, machine_memory() // BODY_SHARE))
    records = RequestRecords(
        registry.owner,
        None if capture is None else Captures(capture),
        lambda model, speed: metrics.speed(registry.shown_name(model), speed),
    )
    if history is not None:
        records.on_end = partial(history.add, partial(records.history_rows, registry), limit=MAX_REQUESTS)

    metrics.read_tokens(
        lambda: {(registry.shown_name(model), kind): count for (model, kind), count in records.tokens().items()}
    )
    registry.upstreams.on_retry = lambda model, reason: metrics.upstream_retry(registry.shown_name(model), reason)
    inference = Inference(
        registry,
        connections,
        metrics,
        max_body=max_body,
        concurrency=concurrency,
        body_budget=body_budget,
        records=records,
        request_log=request_log,
        admin_port=admin_port,
        tracing=tracing,
    )
    service = partial(
        GatewayService,
        keys=keys,
        inference=inference,
        browsers=BrowserRules(cors, hosts),
        admin_port=admin_port,
        upstream_port=upstream_port,
        spool=spool,
    )
    app = Gateway(registry, service, admin_port)
    app.register_blueprint(inference_blueprint())

    @app.get("/openapi.json")
    @documented("Return this description", operation=(INFER, READ))
    def openapi() -> Response:
        return jsonify(describe_gateway(app, find_route, hotseat.__version__, keys=bool(keys)))

    started = time.time()
    app.register_blueprint(openai_blueprint(registry, started))
    app.register_blueprint(ollama_blueprint(registry, started, concurrency, caches))
    app.register_blueprint(llamacpp_blueprint())
    app.register_blueprint(
        admin_blueprint(registry, bus, metrics, concurrency, records, caches=caches, history=history, gpus=gpus)
    )

    return app


def _error_response(error: HotseatError) -> tuple[Response, int, dict[str, str]]:
    return jsonify(error_body(error, shape_of(request.path))), api_kind(error).status, error_headers(error)


def _http_error_response(error: HTTPException) -> tuple[Response, int, list[tuple[str, str]]]:
    kept = [(name, value) for name, value in error.get_headers() if name == "Allow"]
    status = error.code or INTERNAL
    body = http_error_body(status, error.name, error.description or "", shape_of(request.path))
    return jsonify(body), status, kept
