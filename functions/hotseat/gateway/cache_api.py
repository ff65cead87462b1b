"""Admin routes for what is kept on this machine: weights, and saved prompt caches."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request

from hotseat.api.units import DURATION_PATTERN, format_time, parse_duration
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import BadRequest
from hotseat.engines.base import is_remote
from hotseat.gateway.auth import OPERATE, READ
from hotseat.gateway.openapi import documented
from hotseat.sources.base import redacted


class ShownSlot(Protocol):
    """A slot of an engine that was saved."""

    @property
    def workspace(self) -> str:
        """Name of the Workspace."""

    @property
    def model(self) -> str:
        """Name of the Model."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""

    @property
    def size(self) -> int:
        """Bytes of its file."""

    @property
    def used_at(self) -> float:
        """When it was saved or restored last, in seconds since 1970."""


class ShownEntry(Protocol):
    """A source in the cache of weights."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def source(self) -> str:
        """The source, without secrets."""

    @property
    def state(self) -> str:
        """Complete, fetching or partial."""

    @property
    def size(self) -> int:
        """Bytes of its files."""

    @property
    def in_use(self) -> bool:
        """Whether a running hotseat serves it."""

    @property
    def used_at(self) -> float:
        """When it was used last, in seconds since 1970."""


class Caches(Protocol):
    """What a runtime keeps of its Models."""

    def saved_prompts(self) -> Sequence[ShownSlot]:
        """Return the saved slots of all Models."""

    def clear_prompts(self, model: str | None = None) -> Sequence[ShownSlot]:
        """Delete the saved slots of a Model, or of all, and return them."""

    def cache_entries(self) -> Sequence[ShownEntry]:
        """Return what is in the cache of weights, also of other documents."""

    def prune_cache(self, older_than: float, *, dry_run: bool) -> Sequence[ShownEntry]:
        """Delete weights that nobody has used for so many seconds, and return them."""

    def cached_weights(self) -> dict[str, tuple[str, int]]:
        """Return the path and the bytes of the weights of each Model that hotseat has fetched."""


def add_cache_routes(blueprint: Blueprint, registry: ModelRegistry, caches: Caches) -> None:
    """Add the routes that list and clear caches."""

    @blueprint.get("/api/cache")
    @documented("List cached weights and saved prompts", operation=READ)
    def cache() -> Response:
        weights = [
            {"model": registry.shown_name(model), "path": path, "bytes": size}
            for model, (path, size) in caches.cached_weights().items()
        ]
        entries = [_entry_row(each, registry) for each in caches.cache_entries()]
        return jsonify(weights=weights, entries=entries, prompts=list(prompt_rows(caches.saved_prompts(), registry)))

    @blueprint.post("/api/cache/prune")
    @documented(
        "Delete cached weights that no running hotseat uses or fetches",
        400,
        query={"older_than": {"type": "string", "pattern": DURATION_PATTERN}, "dry_run": {"type": "boolean"}},
        operation=OPERATE,
    )
    def prune() -> Response:
        text = request.args.get("older_than", "0")
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise BadRequest(f"The parameter older_than is {text!r}; allowed: {error}.", param="older_than") from None
        dry_run = request.args.get("dry_run", "false") != "false"  # nothing is deleted by a mistake in the spelling
        pruned = caches.prune_cache(seconds, dry_run=dry_run)
        return jsonify(entries=[_entry_row(each, registry) for each in pruned], dry_run=dry_run)

    @blueprint.post("/api/cache/clear")
    @documented(
        "Delete the saved prompts of a Model, or of all", 404, query={"model": {"type": "string"}}, operation=OPERATE
    )
    def clear() -> Response:
        name = request.args.get("model")
        gone = caches.clear_prompts(None if name is None else registry.find(name).model.name)
        return jsonify(prompts=list(prompt_rows(gone, registry)))


def _entry_row(each: ShownEntry, registry: ModelRegistry) -> dict[str, Any]:
    models = (route.model for route in registry.routes().values())
    return {
        "source": each.source,
        "state": str(each.state),
        "bytes": each.size,
        "path": str(each.path),
        "models": [model.shown_name for model in models if redacted(model.spec.source or "") == each.source],
        "in_use": each.in_use,
        "used_at": format_time(each.used_at),
    }


def fetching_rows(registry: ModelRegistry) -> Iterator[dict[str, Any]]:
    """Yield a row for each Model whose weights are being fetched."""
    for name, route in registry.routes().items():
        if is_remote(route.model.spec.source) and (status := route.handle.status(name)).state == "fetching":
            yield {
                "model": route.model.shown_name,
                "workspace": route.handle.name,
                "message": status.message,
                **(status.progress() or {"done": None, "total": None, "rate": None, "remaining": None}),
            }


def prompt_rows(slots: Iterable[ShownSlot], registry: ModelRegistry) -> Iterator[dict[str, Any]]:
    """Yield a row for each Model with saved slots."""
    by_model: dict[tuple[str, str], list[ShownSlot]] = {}
    for each in slots:
        by_model.setdefault((each.workspace, each.model), []).append(each)
    for (workspace, model), mine in sorted(by_model.items()):
        yield {
            "model": registry.shown_name(model),
            "workspace": workspace,
            "slots": len(mine),
            "tokens": sum(each.tokens for each in mine),
            "bytes": sum(each.size for each in mine),
            "used_at": format_time(max(each.used_at for each in mine)),
        }
