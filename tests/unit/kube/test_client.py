"""The client of the API server against a scripted one: pages, refusals for now, watches that end."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client as library

from hotseat.api.types import Json
from hotseat.kube import client
from hotseat.kube.client import PAGE, Change, Kube, KubeError, Watcher
from hotseat.kube.constants import MODELS

PATH = MODELS.path("ns")
Answer = tuple[int, dict[str, str], Any]
Script = Callable[[dict[str, str]], Answer]


class ApiServer:
    """Answers each request as `script` says, and keeps the queries."""

    def __init__(self) -> None:
        self.queries: list[dict[str, str]] = []
        self.script: Script = lambda _query: (200, {}, {})
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                api.queries.append(query)
                status, headers, body = api.script(query)
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        configuration = library.Configuration()
        configuration.host = f"http://127.0.0.1:{self._server.server_port}"
        self.kube = Kube(configuration, "ns")

    def answers(self, *answers: Answer) -> None:
        """Give these answers in turn, the last one for ever."""
        left = list(answers)
        self.script = lambda _query: left.pop(0) if len(left) > 1 else left[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(client, "_spread", lambda: 0.001)
    server = ApiServer()
    yield server
    server.close()


def item(name: str, version: str = "1") -> Json:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version}}


def page(names: str, more: str = "", version: str = "7") -> Answer:
    return (
        200,
        {},
        {"items": [item(name) for name in names], "metadata": {"resourceVersion": version, "continue": more}},
    )


def names(items: list[Json]) -> str:
    return "".join(each["metadata"]["name"] for each in items)


EXPIRED = (410, {}, {"message": "the provided continue parameter is too old", "reason": "Expired"})
BUSY = (429, {"Retry-After": "1"}, {"message": "too many requests"})


# Lists ----------------------------------------------------------------------------------------------------------------


def test_a_list_is_fetched_in_pages(api: ApiServer) -> None:
    api.answers(page("ab", "x"), page("cd", "y"), page("e"))
    items, version = api.kube.list(PATH, labelSelector="a=b")
    assert (names(items), version) == ("abcde", "7")
    common = {"labelSelector": "a=b", "limit": str(PAGE)}
    assert api.queries == [common, {**common, "continue": "x"}, {**common, "continue": "y"}]


def test_a_list_whose_rest_is_compacted_is_fetched_as_a_whole(api: ApiServer) -> None:
    api.answers(page("ab", "x"), EXPIRED, page("abc", version="9"))
    items, version = api.kube.list(PATH)
    assert (names(items), version) == ("abc", "9")
    assert "limit" not in api.queries[-1]


def test_a_first_page_that_is_gone_is_an_error(api: ApiServer) -> None:
    api.answers(EXPIRED)
    with pytest.raises(KubeError, match="too old") as caught:
        api.kube.list(PATH)
    assert caught.value.status == 410


# Refused for now ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_call_that_there_is_no_room_for_is_repeated_when_the_api_server_says(api: ApiServer, status: int) -> None:
    api.answers((status, *BUSY[1:]), (status, *BUSY[1:]), (200, {}, item("a")))
    assert api.kube.get(f"{PATH}/a") == item("a")
    assert len(api.queries) == 3


def test_it_is_not_repeated_at_once_even_if_the_api_server_says_so(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(client.time, "sleep", pauses.append)
    monkeypatch.setattr(client, "_spread", lambda: 1.0)
    api.answers((429, {"Retry-After": "0"}, {}), (200, {}, item("a")))
    assert api.kube.get(f"{PATH}/a") == item("a")
    assert pauses == [client.LEAST_PAUSE]


def test_one_that_says_no_time_is_not_repeated(api: ApiServer) -> None:
    api.answers((503, {}, {"message": "not now"}), (200, {}, {}))
    with pytest.raises(KubeError, match="not now"):
        api.kube.get(PATH)


def test_it_is_not_repeated_beyond_the_time_that_the_caller_has(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_spread", lambda: 1.0)
    api.answers((429, {"Retry-After": "3"}, {"message": "too many requests"}))
    with pytest.raises(KubeError, match="too many requests") as caught:
        api.kube.within(2.0).get(PATH)
    assert caught.value.status == 429
    assert len(api.queries) == 1


def test_a_call_that_hangs_takes_no_longer_than_the_caller_has(api: ApiServer) -> None:
    go = threading.Event()

    def hangs(_query: dict[str, str]) -> Answer:
        go.wait(30)
        return 200, {}, {}

    api.script = hangs
    with pytest.raises(KubeError, match="timed out"):
        api.kube.within(0.05).get(PATH)
    go.set()


# Watches --------------------------------------------------------------------------------------------------------------


class Watched:
    """A watcher, what it has told, and what the API server says of each list and each watch."""

    def __init__(self, api: ApiServer, lists: list[Answer], watches: list[Answer]) -> None:
        self.told: list[tuple[Change, str]] = []
        self.over = threading.Event()  # all is told
        self.hold = threading.Event()
        self._lists, self._watches = lists, watches
        api.script = self._answer
        self.watcher = Watcher(api.kube, MODELS, "ns", self._changed)
        self.watcher.start()
        assert self.over.wait(30)
        self.watcher.stop()
        self.hold.set()

    def _changed(self, change: Change, item: Json) -> None:
        self.told.append((change, item["metadata"]["name"] + item["metadata"]["resourceVersion"]))

    def _answer(self, query: dict[str, str]) -> Answer:
        if "watch" not in query:
            return self._lists.pop(0)
        if not self._watches:
            self.over.set()
            self.hold.wait(30)
            return 200, {}, b""
        return self._watches.pop(0)


def events(*said: tuple[str, Json]) -> Answer:
    return 200, {}, b"".join(json.dumps({"type": kind, "object": item}).encode() + b"\n" for kind, item in said)


def versions(api: ApiServer) -> list[str]:
    return [query.get("resourceVersion", "list") for query in api.queries]


def test_a_watch_that_ends_goes_on_where_it_was(api: ApiServer) -> None:
    bookmark = {"metadata": {"resourceVersion": "12"}}
    seen = Watched(
        api,
        [page("a")],
        [events(("ADDED", item("b", "9"))), events(("BOOKMARK", bookmark)), events(("DELETED", item("b", "13")))],
    )
    assert seen.told == [(Change.PUT, "a1"), (Change.PUT, "b9"), (Change.GONE, "b13")]
    assert versions(api) == ["list", "7", "9", "12", "13"]


@pytest.mark.parametrize("how", ["as an answer", "as an event"])
def test_after_a_gap_all_is_listed_again_and_what_is_missing_is_told(api: ApiServer, how: str) -> None:
    expired = {"code": 410, "message": "too old resource version", "reason": "Expired"}
    gone = (
        EXPIRED
        if how == "as an answer"
        else (200, {}, json.dumps({"type": "ERROR", "object": expired}).encode() + b"\n")
    )
    seen = Watched(api, [page("ab"), page("bc", version="20")], [gone])
    assert seen.told == [(Change.PUT, "a1"), (Change.PUT, "b1"), (Change.GONE, "a1"), (Change.PUT, "c1")]
    assert versions(api) == ["list", "7", "list", "20"]


def test_an_api_server_that_is_away_is_asked_ever_less_often(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[float] = []
    wait = threading.Event.wait

    def noted(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread().name == "watch-models" and timeout is not None:
            spans.append(timeout)
        return wait(event, timeout)

    monkeypatch.setattr(client, "_spread", lambda: 1.0)
    monkeypatch.setattr(client, "MAX_PAUSE", 0.02)
    monkeypatch.setattr(client, "MIN_PAUSE", 0.001)
    monkeypatch.setattr(threading.Event, "wait", noted)
    away = (500, {}, {"message": "etcd has no leader"})
    seen = Watched(api, [page("a")], [*[away] * 6, events(("ADDED", item("b", "9"))), away])
    assert spans == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.001]
    assert seen.told == [(Change.PUT, "a1"), (Change.PUT, "b9")]


def test_a_line_that_is_cut_off_is_asked_for_again(api: ApiServer) -> None:
    whole = events(("ADDED", item("b", "9")), ("ADDED", item("c", "10")))[2]
    seen = Watched(api, [page("a")], [(200, {}, whole[:-20]), (200, {}, whole[len(whole) // 2 :])])
    assert seen.told == [(Change.PUT, "a1"), (Change.PUT, "b9"), (Change.PUT, "c10")]
