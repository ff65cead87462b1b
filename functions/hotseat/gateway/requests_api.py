"""Admin routes for single requests: which there are, what they took, their captured bodies, and how one is cancelled."""

from base64 import b64encode
from typing import Any

from flask import Blueprint, Response, jsonify, request

from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import BadRequest, shortened
from hotseat.gateway.auth import OPERATE, READ
from hotseat.gateway.openapi import NUMBER, documented
from hotseat.gateway.request_records import KEPT, RequestRecords

_MOST = 1000  # requests that are listed at once
_UNKNOWN = -1  # a figure, to llama-swap


def add_request_routes(blueprint: Blueprint, registry: ModelRegistry, records: RequestRecords) -> None:
    """Add the routes."""

    @blueprint.get("/api/requests")
    @documented(
        "List requests, newest first", 404, query={"model": {"type": "string"}, "limit": NUMBER}, operation=READ
    )
    def requests() -> Response:
        name = request.args.get("model")
        model = None if name is None else registry.find(name).model.name
        return jsonify(requests=records.rows(registry, model, min(_MOST, count_parameter("limit", KEPT))))

    @blueprint.get("/api/metrics")  # llama-swap's
    @documented("List requests that have ended and their tokens, oldest first", operation=READ)
    def metrics() -> Response:
        ended = (row for row in records.rows(registry, None, KEPT) if row["state"] == "ended")
        return jsonify([_activity(row) for row in ended][::-1])

    @blueprint.post("/api/requests/<id_>/cancel")
    @blueprint.post("/api/inflight/<id_>/cancel", endpoint="cancel_inflight")  # llama-swap's
    @documented("Cancel a request", 404, operation=OPERATE)
    def cancel(id_: str) -> Response:
        records.cancel(id_)
        return jsonify(id=id_, state="cancelled")

    @blueprint.get("/api/captures/<id_>")
    @documented("Return the captured bodies of a request", 404, operation=OPERATE)
    def capture(id_: str) -> Response:
        found = records.capture(id_)
        return jsonify(found if "-" in id_ else _numbered_capture(int(id_), found))


def _activity(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as llama-swap has it. Older versions, and llmsnap, have the tokens beside the other fields, newer ones in `tokens`."""
    tokens = {
        "cache_tokens": _UNKNOWN if row["cached_tokens"] is None else row["cached_tokens"],
        "input_tokens": row["prompt_tokens"] or 0,
        "output_tokens": row["completion_tokens"] or 0,
        "prompt_per_second": _UNKNOWN,
        "tokens_per_second": _UNKNOWN if row["tokens_per_second"] is None else row["tokens_per_second"],
    }
    return {
        "id": int(row["id"].partition("-")[2]),
        "timestamp": row["arrived_at"],
        "model": row["model"],
        "resp_status_code": row["status"],
        "duration_ms": round(1000 * row["seconds"]),
        "has_capture": row["captured"],
        "tokens": tokens,
        **tokens,
    }


def _numbered_capture(number: int, found: dict[str, Any]) -> dict[str, Any]:
    """Return captured bodies as llama-swap has them: in Base64. Headers are not captured."""
    sent, got = (b64encode(found[name]["body"].encode()).decode() for name in ("request", "response"))
    return {
        "id": number,
        "req_path": found["path"],
        "req_headers": {},
        "req_body": sent,
        "resp_headers": {},
        "resp_body": got,
    }


def count_parameter(name: str, default: int) -> int:
    """Return a count of the query. Raise BadRequest if it is none."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):  # noqa: PLR2004
        raise BadRequest(f"The parameter {name} is {shortened(text)!r}; allowed: an integer of at least 0.")
    return int(text)
