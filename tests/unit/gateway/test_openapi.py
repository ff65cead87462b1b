"""The description of the gateway has all its routes."""

from typing import Any

from flask import Flask

from hotseat.control.event_log import EventLog
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import Unavailable
from hotseat.gateway.apis import GET_ROUTES, ROUTES, find_route
from hotseat.gateway.auth import Keys
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.openapi import describe_gateway, undocumented
from hotseat.gateway.relay import Connections
from hotseat.gateway.wsgi import create_gateway
from hotseat.telemetry.metrics import Metrics


class NoCaches:
    """A machine on which nothing is kept."""

    def saved_prompts(self) -> list[Any]:
        return []

    def clear_prompts(self, model: str | None) -> list[Any]:
        raise Unavailable(model or "")

    def cached_weights(self) -> dict[str, tuple[str, int]]:
        return {}

    def cache_entries(self) -> list[Any]:
        return []

    def prune_cache(self, older_than: float, *, dry_run: bool) -> list[Any]:
        return []


def gateway(*keys: str) -> Flask:
    registry = ModelRegistry()
    return create_gateway(
        registry,
        EventLog(),
        Metrics(lambda: iter(())),
        Keys(keys),
        Connections(registry.owner),
        max_body=1000,
        cors=frozenset(),
        concurrency=ConcurrencyLimit(1),
        caches=NoCaches(),
    )


def test_each_route_is_described() -> None:
    assert undocumented(gateway(), find_route) == []
    paths = describe_gateway(gateway(), find_route, "1", keys=False)["paths"]
    assert {*ROUTES, *GET_ROUTES} < paths.keys()
    assert {"/api/models/{name}/load", "/api/models/{name}/pin", "/v1/models/{name}", "/metrics"} < paths.keys()


def test_a_route_says_what_it_answers() -> None:
    described = describe_gateway(gateway("k"), find_route, "1", keys=True)
    assert described["security"]
    load = described["paths"]["/api/models/{name}/load"]["post"]
    assert {"200", "202", "401", "404", "409"} < load["responses"].keys()
    assert [each["name"] for each in load["parameters"]] == ["name", "wait"]
    assert described["paths"]["/health"]["get"]["security"] == [], "it needs no key"
    chat = described["paths"]["/v1/chat/completions"]["post"]
    assert "default" in chat["responses"], "an engine answers with any status"


def test_it_is_served() -> None:
    client = gateway().test_client()
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.get_json()["openapi"].startswith("3.1")
