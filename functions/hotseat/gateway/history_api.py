"""Admin routes for what the history has kept: events, switches and requests, also of before the last restart."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from flask import Blueprint, Response, request

from hotseat.api.units import Unreadable, format_time, parse_duration
from hotseat.control.history_store import HistoryStore, HistoryUnreadable, Kind
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import BadRequest, NotFound, Unavailable, UnknownModel, shortened
from hotseat.gateway.auth import READ
from hotseat.gateway.openapi import NUMBER, documented
from hotseat.gateway.requests_api import count_parameter

_DEFAULT, _MOST = 1000, 10_000  # rows
_TIME: Final = {
    "type": "string",
    "description": "a time (RFC 3339), or a duration: so long ago",
    "examples": ["24h", "2026-01-31T12:00:00Z"],
}
_QUERY: Final[Mapping[str, Mapping[str, Any]]] = {
    "since": _TIME,
    "until": _TIME,
    "model": {"type": "string"},
    "limit": NUMBER,
}


def add_history_routes(blueprint: Blueprint, registry: ModelRegistry, history: HistoryStore | None) -> None:
    """Add the routes. `history` None: nothing is kept, and they say so."""

    def read(kind: Kind) -> Response:
        if history is None:
            raise NotFound(
                "No history is kept here. To keep one, use `hotseat up --history PATH`, or on a cluster set HOTSEAT_HISTORY of the router.",
                code="history_disabled",
            )
        since, until, limit = _time("since"), _time("until"), min(_MOST, count_parameter("limit", _DEFAULT))
        if since is not None and until is not None and until < since:
            raise BadRequest(
                f"The parameter until is {shortened(request.args['until'])!r}, which is before since; allowed: a time after it.",
                param="until",
            )
        try:
            rows, oldest = history.read(kind, since=since, until=until, model=_model(registry), limit=limit)
        except HistoryUnreadable as error:
            raise Unavailable(str(error), code="history_unreadable", retry_after=5.0) from error
        begin = "null" if oldest is None else f'"{format_time(oldest)}"'
        # The rows are JSON already.
        return Response(f'{{"{kind}":[{",".join(rows)}],"oldest":{begin}}}\n', mimetype="application/json")

    @blueprint.get("/api/history/events")
    @documented("List events of the last days, oldest first", 404, query=_QUERY, operation=READ)
    def history_events() -> Response:
        return read(Kind.EVENTS)

    @blueprint.get("/api/history/switches")
    @documented("List switches of the last days that have ended, oldest first", 404, query=_QUERY, operation=READ)
    def history_switches() -> Response:
        return read(Kind.SWITCHES)

    @blueprint.get("/api/history/requests")
    @documented("List requests of the last days that have ended, oldest first", 404, query=_QUERY, operation=READ)
    def history_requests() -> Response:
        return read(Kind.REQUESTS)


def _model(registry: ModelRegistry) -> str | None:
    """Return the metadata.name of the Model that the query names, and of one that does not exist any more the name itself."""
    name = request.args.get("model")
    if name is None:
        return None
    try:
        return registry.find(name).model.name
    except UnknownModel:
        return name


def _time(name: str) -> float | None:
    """Return a time of the query as seconds since 1970. Raise BadRequest if it is none."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return time.time() - parse_duration(text)
    except Unreadable as error:
        duration = error
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.timestamp()
    except (ValueError, OverflowError):
        pass
    raise BadRequest(
        f"The parameter {name} is {shortened(text)!r}; allowed: a time such as 2026-01-31T12:00:00Z, or {duration}.",
        param=name,
    ) from None
