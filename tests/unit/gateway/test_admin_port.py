"""Where admin routes have a port of their own, the other port has inference, the list of models and probes only."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.cluster.router.workspaces import RemoteWorkspaces
from hotseat.control.event_log import EventLog
from hotseat.gateway.apis import GET_ROUTES, ROUTES
from hotseat.gateway.auth import Keys
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.relay import Connections
from hotseat.gateway.wsgi import Gateway, create_gateway
from hotseat.telemetry.metrics import Metrics

PUBLIC = {
    *ROUTES,
    *GET_ROUTES,
    "/slots/<slot>",
    "/v1/models",
    "/v1/models/<model:name>",
    "/v1/responses/<path:name>",
    "/health",
    "/ready",
    "/",
    *(f"/api/{name}" for name in ("tags", "show", "ps", "version", "pull")),
    "/openapi.json",
    *(f"/api/{name}" for name in ("create", "push", "copy", "delete")),
}


def gateway(admin_port: int | None) -> Gateway:
    client = SwitcherClient("", "", DemandKeys(b"0123456789abcdef"))
    registry, events, connections = (
        RemoteWorkspaces("pod", client, lambda _: None, EventLog()),
        EventLog(),
        Connections(),
    )
    metrics, limit = Metrics(lambda: iter(())), ConcurrencyLimit(10)
    registry.begin()
    return create_gateway(
        registry,
        events,
        metrics,
        Keys(),
        connections,
        max_body=1000,
        cors=frozenset(),
        concurrency=limit,
        admin_port=admin_port,
    )


def routes(app: Gateway) -> Iterator[tuple[str, str, str]]:
    """Give method, rule and a path of all routes."""
    for rule in app.url_map.iter_rules():
        method = next(each for each in ("GET", "POST", "PUT", "DELETE") if each in (rule.methods or ()))
        path = rule.rule.replace("<model:name>", "a").replace("<any(load, unload, pin):what>", "load")
        yield method, rule.rule, path


def said(client: FlaskClient, method: str, path: str, port: int) -> str:
    query = "?follow=false" if path == "/api/events" else ""
    answer = client.open(path + query, method=method, json={}, environ_overrides={"SERVER_PORT": str(port)})
    if path.startswith("/logs/stream") and answer.status_code == 200:  # it does not end
        answer.close()
        return ""
    return answer.get_data(as_text=True)


def test_each_route_but_these_is_on_the_admin_port_only() -> None:
    app = gateway(8081)
    client = app.test_client()
    refused = {
        rule
        for method, rule, path in routes(app)
        if "served on the admin port only" in said(client, method, path, 8080)
    }
    assert refused == {rule for _, rule, _ in routes(app)} - PUBLIC
    assert {"/running", "/metrics", "/api/models/unload", "/api/events"} <= refused
    assert not [path for method, _, path in routes(app) if "admin port" in said(client, method, path, 8081)]
    answer = client.get("/running", environ_overrides={"SERVER_PORT": "8080"})
    assert (answer.status_code, answer.json and answer.json["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("spoofed", [{"Host": "hotseat:8081"}, {"X-Forwarded-Port": "8081"}])
def test_a_header_does_not_open_it(spoofed: dict[str, str]) -> None:
    answer = (
        gateway(8081)
        .test_client()
        .get("/running", headers=spoofed, environ_overrides={"SERVER_PORT": "8080", "SERVER_NAME": "0.0.0.0"})
    )
    assert answer.status_code == 404


def test_without_it_each_port_has_all_routes() -> None:
    client = gateway(None).test_client()
    assert client.get("/running", environ_overrides={"SERVER_PORT": "8000"}).status_code == 200
