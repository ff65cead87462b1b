"""The routes for the history: what they return, and what they refuse."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.testing import FlaskClient

from hotseat.api.model import Model
from hotseat.api.units import format_time
from hotseat.api.workspace import Workspace
from hotseat.control.history_store import HistorySettings, HistoryStore, Kind, Row
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import HotseatError
from hotseat.gateway.auth import ANYBODY, READ, ApiKey
from hotseat.gateway.errors import api_kind
from hotseat.gateway.flask_keys import check_key
from hotseat.gateway.history_api import add_history_routes
from hotseat.gateway.openapi import description_of
from hotseat.gateway.wsgi_threads import KEY

NOW = time.time()


def client_of(store: HistoryStore | None, key: ApiKey = ANYBODY) -> FlaskClient:
    app, blueprint, registry = Flask("test"), Blueprint("admin", "test"), ModelRegistry()
    workspace = Workspace.model_validate({"metadata": {"name": "default"}, "spec": {}})
    handle = SimpleNamespace(name="default", workspace=workspace, retired=False)
    spec = {"engine": "external", "url": "http://h:1", "names": ["Gemma", "g"]}
    registry._route([(Model.model_validate({"metadata": {"name": "gemma"}, "spec": spec}), handle)], [workspace])
    add_history_routes(blueprint, registry, store)
    app.register_blueprint(blueprint)

    @app.before_request
    def check() -> None:
        from flask import request

        request.environ[KEY] = key
        check_key(description_of(app.view_functions[request.url_rule.endpoint]), registry)

    @app.errorhandler(HotseatError)
    def failed(error: HotseatError) -> tuple[dict[str, Any], int]:
        return {"code": api_kind(error).code, "message": error.message}, api_kind(error).status

    return app.test_client()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    """A store with a request an hour, the oldest first, of two models by turns."""
    path = tmp_path / "history.db"
    made = HistoryStore(HistorySettings(path))
    for hours in range(5, 0, -1):
        model = ("gemma", "deleted")[hours % 2]
        made.add(lambda row: [row], Row(Kind.REQUESTS, NOW - 3600 * hours, model, f'{{"hours":{hours}}}'))
    made.close()
    made = HistoryStore(HistorySettings(path))
    yield made
    made.close()


def hours(client: FlaskClient, **query: str) -> list[int]:
    answer = client.get("/api/history/requests", query_string=query)
    assert answer.status_code == 200, answer.text
    return [row["hours"] for row in answer.get_json()["requests"]]


def test_rows_are_selected_by_time_model_and_number(store: HistoryStore) -> None:
    client = client_of(store)
    assert hours(client) == [5, 4, 3, 2, 1]
    assert hours(client, since="210m", until="90m") == [3, 2]
    assert hours(client, since=format_time(NOW - 3.5 * 3600)) == [3, 2, 1]
    assert hours(client, limit="2") == [2, 1]
    assert hours(client, model="g") == hours(client, model="Gemma") == [4, 2]
    assert hours(client, model="deleted") == [5, 3, 1], "a Model that does not exist any more"
    assert client.get("/api/history/requests?limit=0").get_json() == {
        "requests": [],
        "oldest": format_time(NOW - 5 * 3600),
    }
    for kind in ("events", "switches"):
        assert client.get(f"/api/history/{kind}").get_json() == {kind: [], "oldest": None}


@pytest.mark.parametrize("text", ["yesterday", "2026-01-31", "2026-01-31T12:00:00", "-5m", "24", ""])
def test_what_is_no_time_is_refused(store: HistoryStore, text: str) -> None:
    answer = client_of(store).get("/api/history/events", query_string={"since": text})
    assert answer.status_code == 400
    assert "allowed: a time such as 2026-01-31T12:00:00Z, or a duration" in answer.get_json()["message"]


def test_an_end_before_the_begin_is_refused(store: HistoryStore) -> None:
    answer = client_of(store).get("/api/history/requests?since=1h&until=2h")
    assert (answer.status_code, answer.get_json()["message"]) == (
        400,
        "The parameter until is '2h', which is before since; allowed: a time after it.",
    )


def test_without_a_history_it_is_said() -> None:
    for kind in Kind:
        answer = client_of(None).get(f"/api/history/{kind}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "history_disabled")


def test_a_file_that_cannot_be_read_now_is_said(tmp_path: Path) -> None:
    (tmp_path / "way").touch()
    store = HistoryStore(HistorySettings(tmp_path / "way" / "history.db"))
    answer = client_of(store).get("/api/history/events")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "history_unreadable")
    store.close()


def test_a_key_needs_read_and_may_name_only_its_own_models(store: HistoryStore) -> None:
    infer = client_of(store, ApiKey("ada", operations=frozenset()))
    assert infer.get("/api/history/requests").status_code == 403
    some = client_of(store, ApiKey("ben", models=("gem*",), operations=frozenset({READ})))
    assert hours(some, model="g") == [4, 2]
    refused = some.get("/api/history/requests?model=deleted")
    assert (refused.status_code, refused.get_json()["code"]) == (403, "model_not_allowed")
