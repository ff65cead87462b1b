"""The switcher's HTTP API accepts demand and commands of its routers, and nothing else."""

import json
import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from hotseat.api.types import Json
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.cluster.switcher.http_api import MAX_BODY, create_http_api
from hotseat.control.codec import demand_to_json, to_rfc3339
from hotseat.core.messages import Demand, QueuedDemand
from hotseat.telemetry.metrics import Metrics

KEY = DemandKeys(b"0123456789abcdef")
TAKEN = list[tuple[str, Demand, str, bool]]


@pytest.fixture
def taken() -> TAKEN:
    return []


@pytest.fixture
def orders() -> list[Json]:
    return []


@pytest.fixture
def inbox(taken: TAKEN, orders: list[Json]) -> FlaskClient:
    def carry_out(order: Json) -> Json:
        orders.append(order)
        return {"state": "ready"}

    app = create_http_api(
        KEY, lambda *told: taken.append(told), carry_out, lambda: True, Metrics(lambda: iter(())), on_read=carry_out
    )
    return app.test_client()


def demand() -> Json:
    return demand_to_json("w", Demand("r1", 1, 0, {"a": QueuedDemand(1, time.monotonic())})) | {"pod": "router-0"}


def headers(data: Json, key: DemandKeys = KEY) -> dict[str, str]:
    return SwitcherClient("", "", key).event_headers("w", "demand.reported", data)


def test_a_signed_snapshot_is_taken_and_answered_202_with_nothing(inbox: FlaskClient, taken: TAKEN) -> None:
    data = demand()
    answer = inbox.post("/", json=data, headers=headers(data))
    assert (answer.status_code, answer.data) == (202, b"")
    workspace, told, pod, through_broker = taken[0]
    assert (workspace, told.router, pod, through_broker) == ("w", "r1", "router-0", True)
    assert inbox.post("/demand", json=data, headers=headers(data)).status_code == 202
    assert taken[1][3] is False


def test_the_structured_form_of_an_event_is_understood_too(inbox: FlaskClient, taken: TAKEN) -> None:
    data = demand()
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "dev.hotseat.demand.reported.v1"}
    body = event | {"signature": KEY.sign(data), "data": data}
    assert inbox.post("/", json=body, headers={"Content-Type": "application/cloudevents+json"}).status_code == 202
    assert taken[0][1].router == "r1"


def test_demand_that_is_not_ours_is_refused_so_that_no_broker_tries_again(inbox: FlaskClient, taken: TAKEN) -> None:
    data = demand()
    forged = headers(data, DemandKeys(b"somebody else's key"))
    assert inbox.post("/", json=data, headers=forged).status_code == 403
    unsigned = {k: v for k, v in headers(data).items() if k != "ce-signature"}
    assert inbox.post("/", json=data, headers=unsigned).status_code == 403
    assert inbox.post("/", json=data | {"seq": 99}, headers=headers(data)).status_code == 403
    assert taken == []


def test_foreign_events_change_nothing(inbox: FlaskClient, taken: TAKEN) -> None:
    foreign = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "com.example.other"}
    assert inbox.post("/", json={"a": 1}, headers=foreign).status_code == 202
    assert inbox.post("/", data=b"{", headers={"ce-type": "x"}).status_code == 400
    assert taken == []


@pytest.mark.parametrize("path", ["/", "/demand", "/orders", "/reads"])
def test_what_is_too_large_is_refused_before_it_is_read(inbox: FlaskClient, path: str) -> None:
    answer = inbox.post(path, data=b" " * (MAX_BODY + 1), headers={"ce-type": "x"})
    assert answer.status_code == 413
    assert answer.json is not None
    assert answer.json["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("signature", ["é", "\xff" * 64, "\ud800"])
def test_a_signature_that_is_no_text_of_ours_is_wrong_and_no_bug(
    inbox: FlaskClient, taken: TAKEN, signature: str
) -> None:
    data = demand()
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "dev.hotseat.demand.reported.v1"}
    body = json.dumps(event | {"signature": signature, "data": data})
    assert inbox.post("/", data=body, headers={"Content-Type": "application/cloudevents+json"}).status_code == 403
    if signature != "\ud800":  # no header has it
        for path in ("/orders", "/reads"):
            assert inbox.post(path, json=order(), headers={"X-Hotseat-Signature": signature}).status_code == 403
        assert inbox.post("/", json=data, headers=headers(data) | {"ce-signature": signature}).status_code == 403
    assert taken == []


@pytest.mark.parametrize("path", ["/", "/demand", "/orders", "/reads"])
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"data":' * 100_000, b"[" * 900 + b"]" * 900])
def test_a_body_of_any_depth_is_no_bug(inbox: FlaskClient, path: str, body: bytes) -> None:
    answer = inbox.post(path, data=body, headers={"ce-type": "dev.hotseat.demand.reported.v1"})
    assert answer.status_code in {400, 403}


def order(**changes: Any) -> Json:
    now = to_rfc3339(time.monotonic())
    return {"order": "load", "workspace": "w", "model": "a", "router": "r", "id": "1", "at": now, "wait": 0, **changes}


def give(inbox: FlaskClient, what: Json, key: DemandKeys = KEY) -> int:
    return inbox.post("/orders", json=what, headers={"X-Hotseat-Signature": key.sign(what)}).status_code


def test_an_order_is_carried_out_once(inbox: FlaskClient, orders: list[Json]) -> None:
    what = order()
    assert give(inbox, what) == 200
    assert give(inbox, what) == 403  # caught and sent again
    assert give(inbox, order(id="2", at=to_rfc3339(time.monotonic() - 60))) == 403
    assert give(inbox, order(id="3"), DemandKeys(b"not the key, sorry")) == 403
    assert len(orders) == 1


def test_a_read_is_signed_and_new(inbox: FlaskClient, orders: list[Json]) -> None:
    def ask(key: DemandKeys = KEY, age: float = 0.0) -> int:
        query = {"read": "logs", "model": "a", "at": to_rfc3339(time.monotonic() - age)}
        return inbox.post("/reads", json=query, headers={"X-Hotseat-Signature": key.sign(query)}).status_code

    assert ask(DemandKeys(b"not the key, sorry")) == 403
    assert ask(age=60) == 403
    assert inbox.post("/reads", json={"read": "logs"}).status_code == 403
    assert orders == []
    assert ask() == 200
