"""Admin routes for what is kept on this machine: weights, and saved prompt caches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request

from hotseat.api.units import format_time
from hotseat.control.registry import ModelRegistry
from hotseat.gateway.auth import OPERATE, READ
from hotseat.gateway.openapi import documented


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


class Caches(Protocol):
    """What a runtime keeps of its Models."""

    def saved_prompts(self) -> Sequence[ShownSlot]:
        """Return the saved slots of all Models."""

    def clear_prompts(self, model: str | None = None) -> Sequence[ShownSlot]:
        """Delete the saved slots of a Model, or of all, and return them."""

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
        return jsonify(weights=weights, prompts=list(prompt_rows(caches.saved_prompts(), registry)))

    @blueprint.post("/api/cache/clear")
    @documented(
        "Delete the saved prompts of a Model, or of all", 404, query={"model": {"type": "string"}}, operation=OPERATE
    )
    def clear() -> Response:
        name = request.args.get("model")
        gone = caches.clear_prompts(None if name is None else registry.find(name).model.name)
        return jsonify(prompts=list(prompt_rows(gone, registry)))


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
