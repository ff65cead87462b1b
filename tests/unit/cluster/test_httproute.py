"""The optional HTTPRoute leads to the router's Service, and cuts no request that the router would still serve."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat.gateway.apis import GET_ROUTES, ROUTES
from hotseat.kube.checks import MAX_REQUEST_TIME

KNATIVE = Path(__file__).parents[3] / "knative"
MATCHES = 8  # of a rule, in the first versions of the Gateway API
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@pytest.fixture
def route() -> dict[str, Any]:
    return yaml.safe_load((KNATIVE / "httproute/httproute.yaml").read_text())


def seconds(duration: str) -> float:
    """Return a duration of the Gateway API (GEP-2257) in seconds."""
    assert re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", duration)
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)(ms|h|m|s)", duration))


def test_it_leads_to_the_routers_service(route: dict[str, Any]) -> None:
    deployed = yaml.safe_load_all((KNATIVE / "overlays/deployments/router.yaml").read_text())
    (service,) = [each for each in deployed if each["kind"] == "Service"]
    ports = [port["port"] for port in service["spec"]["ports"]]
    for rule in route["spec"]["rules"]:
        (backend,) = rule["backendRefs"]
        assert backend["name"] == service["metadata"]["name"]
        assert backend["port"] in ports
    assert (route["apiVersion"], route["kind"]) == ("gateway.networking.k8s.io/v1", "HTTPRoute")


def test_its_timeout_is_not_shorter_than_the_routers(route: dict[str, Any]) -> None:
    for rule in route["spec"]["rules"]:
        timeouts = rule["timeouts"]
        assert seconds(timeouts["request"]) >= MAX_REQUEST_TIME
        assert MAX_REQUEST_TIME <= seconds(timeouts["backendRequest"]) <= seconds(timeouts["request"])


def test_it_shows_the_inference_api_and_no_operations(route: dict[str, Any]) -> None:
    matches = [match["path"] for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert all(len(rule["matches"]) <= MATCHES for rule in route["spec"]["rules"])
    assert {match["type"] for match in matches if match["value"].startswith("/api/")} == {"Exact"}
    inference = {"/v1" if path.startswith("/v1/") else path for path in (*ROUTES, *GET_ROUTES)}
    models = {f"/api/{name}" for name in ("tags", "show", "ps", "version", "pull")}
    assert {match["value"] for match in matches} == inference | models
    assert len(matches) == len(inference | models)
