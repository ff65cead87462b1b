"""Routes beside chats: those without a model, forms, queries and WebSockets. None of them loads a model by mistake."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.gateway.apis import GET_ROUTES, ROUTES
from hotseat.gateway.errors import OPENAI, shape_of
from tests.unit.gateway.conftest import Gone
from tests.unit.gateway.http.running import LOOPS, eventually
from tests.unit.gateway.http.test_connection import Client, code
from tests.unit.gateway.relay.fake_engine import Engine, answers, sized
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_form import AUDIO, BOUNDARY, part, whole
from tests.unit.gateway.test_inference import Router, post, resident

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n"
)
FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}"


@pytest.fixture(params=LOOPS)
def router(request: pytest.FixtureRequest) -> Iterator[Router]:
    made = Router(request.param)
    yield made
    made.connections.close()
    made.close()


def get(path: str, *headers: str, method: str = "GET", key: str = "Authorization: Bearer k") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", key, *headers, "", ""]).encode()


def asked(router: Router, request: bytes) -> tuple[int, Any]:
    with Client(router, request) as client:
        status, body = client.answer()
        return status, code(body) if status >= 400 else body


def test_each_route_passes_its_request_on(router: Router) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, apis=["OpenAI", "Anthropic", "Ollama"])
        for path in ROUTES:
            assert asked(router, post({"model": "a", "x": 1}, path=path)) == (200, b"{}"), path
        assert [request.split(b" ", 2)[1].decode() for request in engine.requests] == list(ROUTES)
        assert all(
            json.loads(request.partition(b"\r\n\r\n")[2]) == {"model": "a", "x": 1} for request in engine.requests
        )
        router.connections.close()


def test_a_route_needs_the_capability_that_it_is_for(router: Router) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, capabilities=["rerank"])
        served = [
            path
            for path in ROUTES
            if shape_of(path) is OPENAI and asked(router, post({"model": "a"}, path=path))[0] == 200
        ]
        assert served == [
            "/v1/rerank",
            "/v1/reranking",
            "/rerank",
            "/reranking",
            "/tokenize",
            "/detokenize",
            "/apply-template",
        ]
        router.connections.close()


# Requests without a model ---------------------------------------------------------------------------------------------

INFILL = post({"input_prefix": "def"}, path="/infill")


@pytest.mark.parametrize("request_", [INFILL, get("/slots"), get("/props?x=1")])
def test_one_without_a_model_is_for_the_resident_one(router: Router, request_: bytes) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        beside = model("embed", resources={"gpus": 0}), resident("embed", "http://127.0.0.1:1")
        router.world.tell("w", model("a"), beside[0], model("b"), residents=resident("a", engine.address) + beside[1])
        assert asked(router, request_) == (200, b"{}")
        assert engine.requests[0].split(b" ", 2)[:2] == request_.split(b" ", 2)[:2]
        router.connections.close()


@pytest.mark.parametrize("request_", [INFILL, get("/slots"), post({"content": "a"}, path="/tokenize")])
def test_one_without_a_model_loads_none(router: Router, request_: bytes) -> None:
    router.world.tell("w", model("a"), model("b"))
    assert asked(router, request_) == (409, "not_loaded")
    router.world.tell(
        "w", model("a"), model("b"), residents=[*resident("a", "http://x:1"), *resident("b", "http://x:2")]
    )
    assert asked(router, request_) == (409, "ambiguous_model")
    assert router.world.held() == 0
    assert router.world.handles[0].gate.demand().wanted == {}


def test_an_answer_to_a_get_that_a_browser_shows_as_a_page_is_sandboxed(router: Router) -> None:
    with Engine(answers(sized(b"<script>", b"Content-Type: text/html\r\n"))) as engine:
        router.ready("a", engine.address)
        with Client(router, get("/props?model=a")) as client:
            assert "\r\nContent-Security-Policy: sandbox\r\n" in client.head()
        router.connections.close()


def test_one_without_a_model_is_for_the_default_model_if_there_is_one(router: Router) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        models, residents = (model("a"), model("b")), resident("b", engine.address)
        router.world.tell("w", *models, residents=residents)
        handle = router.world.handles[0]
        spec = handle.workspace.spec.model_copy(update={"default_model": "a"})
        router.call(lambda: setattr(handle, "workspace", handle.workspace.model_copy(update={"spec": spec})))
        assert asked(router, INFILL) == (409, "not_loaded")
        assert asked(router, post({"model": "b"}, path="/infill")) == (200, b"{}")
        router.call(lambda: router.world.tell("w", *models, residents=resident("a", engine.address)))
        router.call(lambda: setattr(handle, "workspace", handle.workspace.model_copy(update={"spec": spec})))
        assert asked(router, INFILL) == (200, b"{}")
        router.connections.close()


def test_one_without_a_model_does_not_wait_for_a_place(router: Router) -> None:
    asked_, go = threading.Event(), threading.Event()

    def slow(peer: Any) -> None:
        peer.request()
        asked_.set()
        go.wait(10)
        peer.send(sized(b"{}"))

    with Engine(slow) as engine:
        router.ready("a", engine.address, concurrency=1)
        with Client(router, INFILL) as first:
            assert asked_.wait(10)
            assert asked(router, INFILL) == (503, "busy")
            go.set()
            assert first.answer() == (200, b"{}")
        router.connections.close()


def test_one_that_names_a_model_waits_for_it(router: Router) -> None:
    router.ready("a", "")
    with Engine(answers(sized(b"{}"))) as engine, Client(router, post({"model": "a"}, path="/infill")) as client:
        eventually(lambda: router.world.held() == 1)
        router.ready("a", engine.address)
        assert client.answer() == (200, b"{}")
        router.connections.close()


# Queries --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_query_names_its_model_as_the_engine_has_it(router: Router, method: str) -> None:
    with Engine(
        answers(sized(b"{}") if method == "GET" else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    ) as engine:
        router.ready("a", engine.address, names=["x/y z", "a"])
        with Client(router, get("/props?b=%20&mod%65l=x%2Fy+z&model2=c", method=method)) as client:
            assert client.head().startswith("HTTP/1.1 200 ")
        assert engine.requests[0].startswith(method.encode() + b" /props?b=%20&model=a&model2=c HTTP/1.1\r\n")
        assert b"Content-Length" not in engine.requests[0]
        router.connections.close()


def test_a_get_loads_no_model(router: Router) -> None:
    router.ready("a", "")
    for path in GET_ROUTES:
        if not GET_ROUTES[path].upgrade:
            assert asked(router, get(f"{path}?model=a")) == (409, "not_loaded")
    assert asked(router, get("/props?model=nobody")) == (404, "model_not_found")
    assert asked(router, get("/props?model=a&model=b")) == (400, "invalid_request")
    assert asked(router, get("/props?model=a", key="X: y")) == (401, "missing_api_key")
    assert router.world.held() == 0
    eventually(lambda: router.counts() == {"409": 3, "404": 1, "400": 1, "401": 1})


def test_a_get_whose_engine_has_ended_does_not_load_it_again(router: Router, gone: Gone) -> None:
    router.ready("a", gone.address)
    assert asked(router, get("/props?model=a")) == (502, "upstream_failed")
    assert router.world.held() == 0


# Forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 900_000])
def test_a_form_arrives_with_the_name_that_its_engine_has(router: Router, size: int) -> None:
    """Whichever size, and whether or not it is large enough to be parsed elsewhere."""
    file = part("file", b"\0" * size, filename="a.wav")
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, names=["whisper-1", "a"])
        sent = whole(file, part("model", b"whisper-1"), AUDIO)
        assert asked(router, post(sent, FORM, path="/v1/audio/transcriptions")) == (200, b"{}")
        head, _, body = engine.requests[0].partition(b"\r\n\r\n")
        assert body == whole(file, part("model", b"a"), AUDIO)
        assert b"\r\nContent-Length: %d" % len(body) in head
        assert FORM.encode() in head
        router.connections.close()


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (FORM, AUDIO),
        (FORM, whole(part("model", b"a"), part("model", b"a"))),
        (FORM, whole(part("model", b"a", filename="b"))),
        (FORM, b""),
        ("Content-Type: multipart/form-data", whole(part("model", b"a"))),
    ],
)
def test_a_malformed_form_is_refused_and_loads_nothing(router: Router, kind: str, raw: bytes) -> None:
    router.ready("a", "")
    assert asked(router, post(raw, kind, path="/v1/images/edits")) == (400, "invalid_request")
    assert router.world.held() == 0


def test_a_form_where_none_is_allowed_is_no_json(router: Router) -> None:
    router.ready("a", "")
    assert asked(router, post(whole(part("model", b"a")), FORM)) == (400, "invalid_json")


def test_an_edit_of_an_image_may_be_json(router: Router) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address)
        assert asked(router, post({"model": "a"}, "Content-Type: application/json", path="/v1/images/edits")) == (
            200,
            b"{}",
        )
        router.connections.close()


# WebSockets -----------------------------------------------------------------------------------------------------------

ASK = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


def echoes(peer: Any) -> None:
    peer.request()
    peer.send(SWITCH + b"hello")
    while data := peer.sock.recv(65536):
        peer.send(b"<" + data + b">")


def until(client: Client, text: bytes) -> bytes:
    return client._read(lambda data: data.find(text) + len(text) if text in data else None)


def test_a_websocket_waits_for_its_model_and_is_in_flight_until_it_ends(router: Router) -> None:
    router.ready("a", "", names=["gpt-realtime", "a"])
    with Engine(echoes) as engine, Client(router, get("/v1/realtime?model=gpt-realtime&b=c", *ASK)) as client:
        eventually(lambda: router.world.held() == 1)
        router.ready("a", engine.address, names=["gpt-realtime", "a"])
        head = client.head()
        assert head.startswith("HTTP/1.1 101 ")
        assert "Upgrade: websocket" in head
        assert "X-Hotseat-Model: gpt-realtime" in head
        assert until(client, b"hello")
        client.send(b"ping")
        assert until(client, b"<ping>")
        assert router.world.handles[0].gate.in_flight_of("a") == 1
        client.sock.close()
        assert b"GET /v1/realtime?model=a&b=c HTTP/1.1\r\n" in engine.requests[0]
        assert b"Upgrade: websocket\r\n" in engine.requests[0]
        assert b"Bearer" not in engine.requests[0]
        eventually(lambda: router.world.held() == 0)


def test_a_websocket_ends_when_its_model_is_stopped(router: Router) -> None:
    with Engine(echoes) as engine:
        router.ready("a", engine.address)
        with Client(router, get("/v1/realtime?model=a", *ASK)) as client:
            assert until(client, b"hello")
            router.ready("a", "")
            assert client.sock.recv(10) == b""
    eventually(lambda: router.counts() == {"503": 1})


def test_the_key_of_a_browsers_websocket_is_checked_and_kept_here(router: Router) -> None:
    with Engine(echoes) as engine:
        router.ready("a", engine.address)
        offered = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.%s, openai-beta.realtime-v1"
        with Client(router, get("/v1/realtime?model=a", *ASK, key=offered % "k")) as client:
            assert until(client, b"hello")
        assert b"Sec-WebSocket-Protocol: realtime, openai-beta.realtime-v1\r\n" in engine.requests[0]
    assert asked(router, get("/v1/realtime?model=a", *ASK, key=offered % "wrong")) == (401, "invalid_api_key")


def test_a_websocket_that_is_refused_gets_an_ordinary_answer(router: Router) -> None:
    router.ready("a", "")
    assert asked(router, get("/v1/realtime?model=nobody", *ASK)) == (404, "model_not_found")
    assert asked(router, get("/v1/realtime?model=a")) == (400, "invalid_request")
    assert asked(router, get("/v1/realtime", *ASK)) == (400, "invalid_request")
    with Engine(answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}")) as engine:
        router.ready("a", engine.address)
        with Client(router, get("/v1/realtime?model=a", *ASK)) as client:
            assert client.answer() == (403, b"{}")
        router.connections.close()


@pytest.mark.parametrize("request_", [get("/v1/realtime?model=a", *ASK, "Origin: https://evil.example", key="X: y")])
def test_a_page_of_another_origin_cannot_open_a_websocket(router: Router, request_: bytes) -> None:
    router.ready("a", "")
    router.http.service._keys.replace(())
    assert asked(router, request_.replace(b"Host: h", b"Host: localhost")) == (403, "origin_not_allowed")


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (post({"filename": "a"}, path="/slots/0?action=save"), 403, "path_not_allowed"),
        (post({}, path="/slots/1?action=erase&model=a"), 403, "path_not_allowed"),
        (post({"model": "a"}, path="/props"), 403, "path_not_allowed"),
        (get("/v1/responses/resp_1"), 404, "not_found"),
        (get("/v1/responses/resp_1", method="DELETE"), 404, "not_found"),
        (post({}, path="/v1/responses/resp_1/cancel"), 404, "not_found"),
        (get("/infill"), 405, "method_not_allowed"),
        (get("/v1/audio/voices", method="DELETE"), 405, "method_not_allowed"),
    ],
)
def test_what_hotseat_does_not_do_is_refused(router: Router, request_: bytes, status: int, reason: str) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address)
        assert asked(router, request_) == (status, reason)
        assert engine.requests == []
