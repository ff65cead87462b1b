"""Admin routes: health, running models, load, unload, park, pin and unpin, logs, events, switches and metrics.

No GET loads a model.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from hotseat.api.units import AUTO, parse_duration
from hotseat.control.event_log import EventLog
from hotseat.control.history_store import HistoryStore
from hotseat.control.registry import ModelRegistry, ModelRoute, WorkspaceHandle
from hotseat.core.errors import BadRequest, NotFound, Unavailable, shortened
from hotseat.core.events import shown_replica_name
from hotseat.core.messages import InstanceState, Resident, Wait, WaitReason
from hotseat.core.ports import LogView
from hotseat.core.scheduler.history import Switch
from hotseat.engines.base import keeps_prompts_asleep
from hotseat.gateway.auth import OPERATE, READ
from hotseat.gateway.cache_api import Caches, add_cache_routes, fetching_rows, prompt_rows
from hotseat.gateway.clock import rfc3339
from hotseat.gateway.engine_metrics import engine_metrics
from hotseat.gateway.gauges import bound_in_force
from hotseat.gateway.history_api import add_history_routes
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.llmsnap_api import add_llmsnap_routes
from hotseat.gateway.openapi import NUMBER, documented
from hotseat.gateway.page import add_page_routes
from hotseat.gateway.profiles_api import add_profile_routes
from hotseat.gateway.request_records import RequestRecords
from hotseat.gateway.requests_api import add_request_routes, count_parameter
from hotseat.gateway.settings_api import add_settings_routes
from hotseat.gateway.unloading import park, unload_all_models
from hotseat.gateway.wsgi_threads import DEPARTED
from hotseat.telemetry.metrics import Metrics

Gpus = Callable[[], Sequence[Mapping[str, Any]]]

ADMIN = "admin"  # name of the blueprint
_POLL = 1.0  # seconds between checks for a disconnected client
_KEEP_ALIVE = 15.0  # seconds between comments in a silent stream
_NO_LIMIT = 1_000_000
_WAIT = {
    "type": "string",
    "pattern": "^(true|false|[0-9]{1,6}(ms|s|m|h))$",
    "description": "true, false, or a duration: how long to wait for the result",
    "examples": ["true", "5s"],
}
_BOOLEAN = {"type": "string", "enum": ["true", "false"]}


def admin_blueprint(
    registry: ModelRegistry,
    bus: EventLog,
    metrics: Metrics,
    concurrency: ConcurrencyLimit,
    records: RequestRecords,
    *,
    caches: Caches | None = None,
    gpus: Gpus = list,
    history: HistoryStore | None = None,
) -> Blueprint:
    """Return the routes that belong to no API family.

    `caches`: what is kept on this machine. None: it is a cluster. `gpus` returns a row for each GPU of this machine.
    `history`: what the routes for it read. None: there is none.
    """
    blueprint = Blueprint(ADMIN, __name__)
    _add_queries(blueprint, registry, metrics, caches)
    _add_gpus(blueprint, gpus)
    if caches is not None:
        add_cache_routes(blueprint, registry, caches)
    add_request_routes(blueprint, registry, records)
    add_history_routes(blueprint, registry, history)
    add_settings_routes(blueprint, registry, history=history is not None, cluster=caches is None)
    add_profile_routes(blueprint, registry)
    _add_commands(blueprint, registry, concurrency)
    _add_streams(blueprint, registry, bus, concurrency)
    add_llmsnap_routes(blueprint, registry, concurrency)
    add_page_routes(blueprint)
    return blueprint


def _add_queries(blueprint: Blueprint, registry: ModelRegistry, metrics: Metrics, caches: Caches | None) -> None:
    @blueprint.get("/health")
    @documented("Answer while the process runs; no key is required", keyless=True)
    def health() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/ready")
    @documented("Answer 200 if requests are accepted", keyless=True)
    def ready() -> Response:
        if not registry.ready:
            raise Unavailable("hotseat is starting or shutting down", code="not_ready", retry_after=1.0)
        return jsonify(status="ready")

    @blueprint.get("/running")
    @documented("List instances, parked ones, queues, fetches, saved prompts and Workspaces", operation=READ)
    def running() -> Response:
        handles = registry.handles
        return jsonify(
            running=[row for handle in handles for row in _running(handle, registry)],
            parked=[row for handle in handles for row in _parked(handle, registry)],
            waiting=[row for handle in handles for row in _waiting(handle, registry)],
            fetching=list(fetching_rows(registry)),
            prompts=[] if caches is None else list(prompt_rows(caches.saved_prompts(), registry)),
            workspaces=[_workspace(handle) for handle in handles],
            peers=registry.peers.rows(),
        )

    @blueprint.get("/api/queue")
    @documented("List the queue of each Model", operation=READ)
    def queue() -> Response:
        rows = [row for handle in registry.handles for row in _queue(handle, registry)]
        # Numbers by metadata.name for autoscalers, such as KEDA's metrics-api: no shown name, which can have any character.
        return jsonify(queue=rows, requests={row["metadata_name"]: row["waiting"] + row["in_flight"] for row in rows})

    @blueprint.get("/api/switches")
    @documented("List the last switches, oldest first", operation=READ)
    def switches() -> Response:
        known = [switch for handle in registry.handles for switch in handle.switches()]
        return jsonify(switches=[_switch(s, registry) for s in sorted(known, key=lambda s: s.decided)])

    @blueprint.get("/metrics")
    @documented(
        "Return metrics in the text format of Prometheus, or as OpenMetrics if `Accept` has that",
        content=["text/plain", "application/openmetrics-text"],
        operation=READ,
    )
    def prometheus() -> Response:
        body, content_type = metrics.expose(request.headers.get("Accept", ""))
        return Response(body, content_type=content_type)

    @blueprint.get("/metrics/engines")
    @documented(
        "Return the metrics of the engines that serve, with the labels model and workspace",
        content=["text/plain"],
        operation=READ,
    )
    def of_engines() -> Response:
        return Response(engine_metrics(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _add_gpus(blueprint: Blueprint, gpus: Gpus) -> None:
    @blueprint.get("/api/gpus")
    @documented("List the GPUs of this machine with their figures", operation=READ)
    def list_gpus() -> Response:
        return jsonify(gpus=gpus())


def _add_commands(blueprint: Blueprint, registry: ModelRegistry, concurrency: ConcurrencyLimit) -> None:
    @blueprint.post("/api/models/<model:name>/<any(load, unload, pin):what>")
    @documented("Load, unload, or pin a Model", 404, 409, ok=(200, 202), query={"wait": _WAIT}, operation=OPERATE)
    def command(name: str, what: str) -> tuple[Response, int]:
        route, wait = registry.loadable(name), _wait()
        with concurrency.in_thread:
            state = getattr(route.handle, what)(route.model.name, wait).state
        more = {"pinned": True} if what == "pin" else {}
        return jsonify(model=route.model.shown_name, state=state, **more), _done(wait)

    @blueprint.post("/api/models/unload/<model:name>")  # llama-swap's
    @documented("Unload a Model", 404, 409, ok=(200, 202), query={"wait": _WAIT}, operation=OPERATE)
    def unload(name: str) -> tuple[Response, int]:
        return command(name, "unload")

    @blueprint.post("/api/models/<model:name>/park")
    @documented(
        "Put a Model to sleep: its process stays, and the accelerator is free",
        404,
        409,
        ok=(200, 202),
        query={"wait": _WAIT},
        operation=OPERATE,
    )
    def park_model(name: str) -> tuple[Response, int]:
        wait = _wait()
        return jsonify(park(registry, name, concurrency, wait)), _done(wait)

    @blueprint.post("/api/models/sleep/<model:name>")  # llmsnap's
    @documented("Put a Model to sleep", 404, 409, ok=(200, 202), query={"wait": _WAIT}, operation=OPERATE)
    def sleep_model(name: str) -> tuple[Response, int]:
        return park_model(name)

    @blueprint.post("/api/models/<model:name>/unpin")
    @documented("Allow a Model to be evicted again", 404, 409, operation=OPERATE)
    def unpin(name: str) -> Response:
        route = registry.loadable(name)
        with concurrency.in_thread:
            status = route.handle.unpin(route.model.name)
        return jsonify(model=route.model.shown_name, state=status.state, pinned=status.pinned)

    @blueprint.post("/api/models/unload")
    @documented("Unload all Models", ok=(200, 202), query={"wait": _WAIT}, operation=OPERATE)
    def unload_all() -> tuple[Response, int]:
        wait = _wait()
        return jsonify(models=unload_all_models(registry, concurrency, wait)), _done(wait)


def _add_streams(blueprint: Blueprint, registry: ModelRegistry, bus: EventLog, concurrency: ConcurrencyLimit) -> None:
    @blueprint.get("/api/models/<model:name>/logs")
    @documented(
        "Return the log of a Model's engine; with `follow`, as events",
        404,
        content=["text/plain", "text/event-stream"],
        query={"lines": NUMBER, "follow": _BOOLEAN},
        operation=OPERATE,
    )
    def logs(name: str) -> Response:
        model = registry.find(name).model
        view = registry.logs(model.name)
        if view is None:
            raise NotFound(f"{model.name} has no log: its engine is {model.spec.engine}, which hotseat does not run")
        lines = count_parameter("lines", 100)
        if request.args.get("follow", "false") == "true" or request.accept_mimetypes.best == "text/event-stream":
            return _events(_follow_log(view, lines, registry), concurrency)
        return Response("".join(line + "\n" for line in view.tail(lines)), mimetype="text/plain")

    @blueprint.get("/api/events")
    @documented(
        "Follow events, as server-sent events",
        content=["text/event-stream"],
        query={"history": NUMBER, "follow": _BOOLEAN},
        operation=READ,
    )
    def events() -> Response:
        history = count_parameter("history", _NO_LIMIT)
        last = request.headers.get("Last-Event-ID", "")
        # An unknown ID is from before a restart: all events are new then.
        known = last.isascii() and last.isdecimal() and len(last) < 19 and int(last) <= bus.count  # noqa: PLR2004
        after = int(last) if known else 0 if last else max(0, bus.count - history)
        return _events(_follow_events(bus, after, follow=request.args.get("follow", "true") != "false"), concurrency)


# State --------------------------------------------------------------------------------------------------------------


def _running(handle: WorkspaceHandle, registry: ModelRegistry) -> Iterator[dict[str, Any]]:
    routes = registry.routes()
    for resident in handle.gate.residency.residents:
        if resident.state is InstanceState.PARKED:
            continue
        route = routes.get(resident.model)
        yield {
            "model": registry.shown_name(resident.model),
            "state": resident.state.value,
            "since": rfc3339(resident.since) if resident.since else None,
            "address": resident.address,
            "workspace": handle.name,
            "instance": resident.instance,
            "epoch": resident.epoch,
            "in_flight": handle.gate.in_flight(resident.instance),
            "gpus": _gpus(route),
            "pinned": handle.status(resident.model).pinned,
            "devices": list(resident.devices),
            "story": _story(resident),
            "upstreams": [] if route is None or route.servers is None else route.servers.rows(),
        }


def _parked(handle: WorkspaceHandle, registry: ModelRegistry) -> Iterator[dict[str, Any]]:
    """Yield parked instances, which hold host memory only."""
    for resident in handle.gate.residency.residents:
        if resident.state is InstanceState.PARKED:
            route = registry.routes().get(resident.model)
            yield {
                "model": registry.shown_name(resident.model),
                "since": rfc3339(resident.since) if resident.since else None,
                "workspace": handle.name,
                "instance": resident.instance,
                "epoch": resident.epoch,
                "memory": resident.memory,
                "keeps_prompts": None if route is None else keeps_prompts_asleep(route.model),
                "story": _story(resident),
            }


def _story(resident: Resident) -> list[dict[str, Any]]:
    """Return the last transitions of an instance, oldest first. `from` is null for the first one."""
    return [{"at": rfc3339(s.at), "from": s.before, "to": s.after, "why": s.why} for s in resident.story]


def _gpus(route: ModelRoute | None) -> int | None:
    if route is None:
        return None
    return 0 if route.model.spec.engine == "external" else route.model.spec.resources.gpus


def _waiting(handle: WorkspaceHandle, registry: ModelRegistry) -> list[dict[str, Any]]:
    now, waits = time.monotonic(), handle.waits(registry.shown_name)
    return [
        {
            "model": registry.shown_name(model),
            "count": waiting.count,
            "oldest_seconds": round(now - waiting.oldest, 3),
            "rate": _rounded(rate),
            "tenants": dict(waiting.tenants),
            **_why(waits.get(model, _UNDECIDED), registry),
        }
        for model, (waiting, rate) in handle.gate.queues().items()
        if waiting is not None
    ]


def _queue(handle: WorkspaceHandle, registry: ModelRegistry) -> Iterator[dict[str, Any]]:
    """Yield a row for each Model of a Workspace, with or without queued requests."""
    now, waits = time.monotonic(), handle.waits(registry.shown_name)
    mine = [name for name, route in registry.routes().items() if route.handle is handle]
    for model, (waiting, rate) in handle.gate.queues(mine).items():
        yield {
            "model": registry.shown_name(model),
            "metadata_name": model,
            "workspace": handle.name,
            "waiting": waiting.count if waiting else 0,
            "in_flight": handle.gate.in_flight_of(model),
            "oldest_seconds": round(now - waiting.oldest, 3) if waiting else None,
            "rate": _rounded(rate),
            "tenants": dict(waiting.tenants) if waiting else {},
            **_why(waits.get(model, _UNDECIDED if waiting else None), registry),
        }


_UNDECIDED = Wait(WaitReason.DISPATCHING, "the scheduler has not seen these requests yet")


def _why(wait: Wait | None, registry: ModelRegistry) -> dict[str, Any]:
    """Return why the requests of a Model wait; null where none do."""
    return {
        "reason": None if wait is None else wait.reason.value,
        "message": None if wait is None else wait.message,
        "expected_at": None if wait is None or wait.expected is None else rfc3339(wait.expected),
        "behind": [] if wait is None else [registry.shown_name(name) for name in wait.behind],
    }


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 4)


def _workspace(handle: WorkspaceHandle) -> dict[str, Any]:
    spec = handle.workspace.spec
    return {
        "name": handle.name,
        "epoch": handle.gate.residency.epoch,
        "capacity": spec.capacity.model_dump(mode="json"),
        "gpus": handle.capacity.gpus,
        "host_memory": handle.capacity.host_memory,
        "policy": spec.policy.name,
        "max_wait": AUTO if spec.policy.max_wait is None else spec.policy.max_wait,
        "effective_max_wait": bound_in_force(handle.workspace, handle.effective_max_wait),
    }


def _switch(switch: Switch, registry: ModelRegistry) -> dict[str, Any]:
    return {
        "id": switch.id,
        "workspace": switch.workspace,
        "from": [shown_replica_name(replica, registry.shown_name) for replica in switch.leaving],
        "to": registry.shown_name(switch.to),
        "reason": switch.reason,
        "outcome": switch.outcome,
        "started_at": rfc3339(switch.decided),
        "waiting": switch.waiting,
        "phases": switch.phases(),
        "saved": sum(each.saved for each in switch.leaving.values()),
        "restored": switch.restored,
        "message": switch.message,
    }


# Arguments ------------------------------------------------------------------------------------------------------------


def _wait() -> float | None:
    """Return the seconds that a command waits for its result: 0 for not at all, None for no limit."""
    text = request.args.get("wait", "false")
    if text in ("true", "false"):
        return None if text == "true" else 0
    try:
        return parse_duration(text)
    except ValueError as error:
        raise BadRequest(f"The parameter wait is {shortened(text)!r}; allowed: true, false, {error}.") from None


def _done(wait: float | None) -> int:
    return 202 if wait == 0 else 200


# Streams of events ----------------------------------------------------------------------------------------------------


def _events(stream: Iterator[bytes], concurrency: ConcurrencyLimit) -> Response:
    concurrency.in_thread.take()
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = Response(_until_disconnect(stream), mimetype="text/event-stream", headers=headers)
    response.call_on_close(concurrency.in_thread.give_back)
    return response


def _until_disconnect(stream: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the stream until the client disconnects. Empty pieces of `stream` are checks without news."""
    departed = request.environ.get(DEPARTED)
    quiet = time.monotonic()

    def generate() -> Iterator[bytes]:
        nonlocal quiet
        yield b": hotseat\n\n"
        for piece in stream:
            if departed is not None and departed():
                return
            if piece:
                yield piece
            elif time.monotonic() - quiet >= _KEEP_ALIVE:
                yield b": keep-alive\n\n"
            else:
                continue
            quiet = time.monotonic()

    return generate()


def _follow_events(bus: EventLog, after: int, *, follow: bool) -> Iterator[bytes]:
    while True:
        news = bus.after(after, _POLL if follow else 0.0)
        for number, event in news:
            yield f"id: {number}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            after = number
        if not follow or (bus.closed and not news):
            return
        if not news:
            yield b""


def _follow_log(view: LogView, lines: int, registry: ModelRegistry) -> Iterator[bytes]:
    position, kept = view.read_after(0, 0.0)
    for line in kept[len(kept) - lines :] if lines < len(kept) else kept:
        yield f"data: {line}\n\n".encode()
    while registry.ready:
        position, news = view.read_after(position, _POLL)
        yield b"".join(f"data: {line}\n\n".encode() for line in news)
