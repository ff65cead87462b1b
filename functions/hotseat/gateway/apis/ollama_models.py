"""Ollama's API for models: the list, what is loaded, and fetching. What changes the list is not there: documents say what it has."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import MethodNotAllowed

from hotseat import __version__
from hotseat.api.model import Capability, Model
from hotseat.api.units import format_time
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.core.errors import BadRequest, Unavailable, UnknownModel
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.accepted_head import check_named_model
from hotseat.gateway.apis.ollama import LATEST, NDJSON
from hotseat.gateway.auth import INFER, OPERATE, READ
from hotseat.gateway.cache_api import Caches
from hotseat.gateway.flask_keys import key_of_request
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.openapi import JSON, NAMED, documented
from hotseat.gateway.wsgi_threads import DEPARTED

VERSION = "0.12.6"  # of Ollama, whose API this is: clients refuse older ones
POLL = 0.25  # seconds between two looks at a fetch
GRACE = 3.0  # seconds until a router of a cluster has heard of a fetch
_NEVER = "9999-12-31T23:59:59Z"
_FETCHING = "fetching"


def ollama_blueprint(
    registry: ModelRegistry, started: float, concurrency: ConcurrencyLimit, caches: Caches | None = None
) -> Blueprint:
    """Return the routes. `started` (Unix time) is when all models were modified. `caches`: what is kept here; None: it is a cluster."""
    blueprint = Blueprint("ollama", __name__)
    _add_queries(blueprint, registry, started, caches)
    _add_pull(blueprint, registry, concurrency)
    _add_refusals(blueprint)
    return blueprint


def _add_queries(blueprint: Blueprint, registry: ModelRegistry, started: float, caches: Caches | None) -> None:
    @blueprint.get("/")
    @documented("Answer as Ollama does, which its clients look for", content=["text/plain"], operation=(INFER, READ))
    def root() -> Response:
        return Response("Ollama is running", mimetype="text/plain")  # what clients look for

    @blueprint.get("/api/version")
    @documented("Return the versions of Ollama's API and of hotseat", operation=(INFER, READ))
    def version() -> Response:
        return jsonify(version=VERSION, hotseat=__version__)

    @blueprint.get("/api/tags")
    @documented("List the Models", operation=(INFER, READ), checks_models=True)
    def tags() -> Response:
        sizes = {} if caches is None else {name: size for name, (_, size) in caches.cached_weights().items()}
        key, models = key_of_request(), [route.model for route in registry.routes().values()]
        listed = [model for model in models if not model.spec.unlisted and key.allows(model.names)]
        rows = [
            {**_row(model, name), "modified_at": format_time(started), "size": sizes.get(model.name, 0)}
            for model in listed
            for name in _names(model)
        ]
        if (names := registry.names) is not None:
            virtual = ((name, registry.candidate(names.peek(name) or "")) for name in names.virtual)
            rows += [
                {**_row(route.model, name), "modified_at": format_time(started), "size": 0}
                for name, route in virtual
                if route is not None and not registry.candidate(name) and key.allows((name,))
            ]
        return jsonify(models=sorted(rows, key=lambda row: row["name"]))

    @blueprint.get("/api/ps")
    @documented("List the loaded Models", operation=(INFER, READ), checks_models=True)
    def ps() -> Response:
        key, routes, rows = key_of_request(), registry.routes(), {}
        for resident in (each for handle in registry.handles for each in handle.gate.residency.residents):
            route = routes.get(resident.model)
            if route is not None and resident.on_accelerator and key.allows(route.model.names):
                memory = route.model.spec.resources.accelerator_memory or 0
                rows[resident.model] = {
                    **_row(route.model, route.model.shown_name),
                    "size": memory,
                    "size_vram": memory,
                    "expires_at": _expiry(route, resident.instance),
                }
        return jsonify(models=list(rows.values()))

    @blueprint.post("/api/show")
    @documented("Describe a Model", 404, body=NAMED, operation=(INFER, READ), checks_models=True)
    def show() -> Response:
        model = _find(registry, _read_body()).model
        return jsonify(
            modelfile=f"# A Model of hotseat\nFROM {model.shown_name}\n",
            parameters="",
            template="",
            license="",
            modified_at=format_time(started),
            details=_details(model),
            model_info={},
            capabilities=_capabilities(model),
        )


def _add_pull(blueprint: Blueprint, registry: ModelRegistry, concurrency: ConcurrencyLimit) -> None:
    @blueprint.post("/api/pull")
    @documented(
        "Fetch the weights of a Model, and report the progress",
        404,
        502,
        content=[JSON, "application/x-ndjson"],
        body=NAMED,
        operation=OPERATE,
        checks_models=True,
    )
    def pull() -> Response:
        body = _read_body()
        route = _find(registry, body)
        external = route.model.spec.engine == "external"
        ordered = ModelStatus(route.model.name, "ready") if external else route.handle.fetch(route.model.name)
        departed = request.environ.get(DEPARTED, lambda: False)
        states = _follow(route, ordered, departed)
        if body.get("stream", True) is False:
            with concurrency.in_thread:
                *_, last = states
            if "error" in last:
                raise Unavailable(last["error"], code="model_failed")
            return jsonify(last)
        concurrency.in_thread.take()
        lines = (json.dumps(state).encode() + b"\n" for state in states)
        response = Response(lines, mimetype=NDJSON, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        response.call_on_close(concurrency.in_thread.give_back)
        return response


def _add_refusals(blueprint: Blueprint) -> None:
    message = (
        "hotseat does not change its models by requests of Ollama's API. Add, change or delete a document of kind Model: "
        "the file of `hotseat up`, or an object of a cluster."
    )

    @documented("Refuse: documents say which Models there are", 405, ok=(), operation=OPERATE)
    def refuse() -> Response:
        raise MethodNotAllowed(valid_methods=["OPTIONS"], description=message)

    for name, method in (("create", "POST"), ("push", "POST"), ("copy", "POST"), ("delete", "DELETE")):
        blueprint.add_url_rule(f"/api/{name}", name, refuse, methods=[method])


# Requests -------------------------------------------------------------------------------------------------------------


def _read_body() -> dict[str, Any]:
    """Return the body, whatever its Content-Type. Raise BadRequest if it is no JSON object."""
    try:
        body = json.loads(request.get_data() or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest("The request body must be a JSON object.")
    return body


def _find(registry: ModelRegistry, body: dict[str, Any]) -> ModelRoute:
    name = body.get("model") or body.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequest("`model` must be a string: the name of a model.", param="model")
    name = registry.known_name(name, LATEST)
    check_named_model(key_of_request(), name, registry, switched=True)
    if (names := registry.names) is not None:
        name = names.peek(name) or name
    try:
        return registry.find(name)
    except UnknownModel as error:
        raise UnknownModel(f"{error.message} hotseat fetches no other ones.", param="model") from None


# Models ---------------------------------------------------------------------------------------------------------------


def _names(model: Model) -> list[str]:
    """Return the names in the list: those that its document states for clients, else metadata.name."""
    named = model.spec.filters.by_name if model.spec.filters is not None else ()
    own = [each for each in model.spec.names if "*" not in each]
    adapters = (each.name for each in model.spec.loras)
    return list(dict.fromkeys((*(own or (model.name,)), *adapters, *named)))


def _row(model: Model, name: str) -> dict[str, Any]:
    """Return what the lists say of a Model. `digest` is the same for all its names, and another one for each Model."""
    tagged = name if ":" in name.rpartition("/")[2] else name + LATEST
    digest = hashlib.sha256(f"{model.name} {model.spec.source}".encode()).hexdigest()
    return {"name": tagged, "model": tagged, "digest": digest, "details": _details(model)}


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf" if model.spec.engine == "llamacpp" else "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def _capabilities(model: Model) -> list[str]:
    """Return what a Model can do, in Ollama's words. Without a statement, it counts as a chat model with tools."""
    stated = model.spec.capabilities or (Capability.CHAT,)
    words = {
        "completion": {Capability.CHAT, Capability.COMPLETION},
        "tools": {Capability.CHAT},
        "embedding": {Capability.EMBEDDING},
    }
    return [word for word, needed in words.items() if needed & {*stated}]


def _expiry(route: ModelRoute, instance: str) -> str:
    """Return when an instance is unloaded at the latest if no request comes. That can be never."""
    said = route.handle.gate.keep_alive(instance)
    timeout = route.model.spec.lifecycle.idle_timeout or inf if said is None else said
    return _NEVER if timeout == inf else format_time(time.time() + timeout)


def _follow(route: ModelRoute, ordered: ModelStatus, departed: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Yield the progress of a fetch in Ollama's words, until it ends or the client has left. `ordered`: the state after the order."""
    name = route.model.name
    yield {"status": "pulling manifest"}
    digest = "sha256:" + _row(route.model, name)["digest"]
    seen, last, until = False, None, time.monotonic() + GRACE
    status = ordered
    while ordered.state == _FETCHING and not departed():
        status = route.handle.status(name)
        if status.state == _FETCHING:
            seen = True
        elif seen or time.monotonic() >= until:
            break
        if (status.done, status.total) != last and status.done is not None:
            last = (status.done, status.total)
            part = {"status": f"pulling {digest[7:19]}", "digest": digest, "completed": status.done}
            yield part if status.total is None else {**part, "total": status.total}
        time.sleep(POLL)
    if status.state == "failed" and ordered.state == _FETCHING:
        yield {"error": status.message}
    else:
        yield {"status": "success"}
