"""Requests of Ollama's API at the gateway: names, what reaches the engine, loading and unloading, and errors."""

import json
import threading
from typing import Any

import pytest

from hotseat.core.scheduler.messages import ModelStatus
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.http.test_connection import Client
from tests.unit.gateway.relay.fake_engine import SSE, Engine, answers, chunk, dechunk, sized
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import Router, post, router  # noqa: F401 — a fixture

HELLO = {"model": "a:latest", "messages": [{"role": "user", "content": "hi"}]}
ANSWER = b'{"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}], "model": "engine"}'


def event(data: Any) -> bytes:
    return b"data: %b\n\n" % (data if isinstance(data, bytes) else json.dumps(data).encode())


def asked(engine: Engine) -> tuple[bytes, dict[str, Any]]:
    """Start and body of the only request that the engine got."""
    (request,) = engine.requests
    head, _, body = request.partition(b"\r\n\r\n")
    return head, json.loads(body)


@pytest.mark.parametrize("asked_name", ["a", "a:latest", "x:1", "big", "big:latest"])
def test_names_have_a_tag_or_none(router: Router, asked_name: str) -> None:  # noqa: F811
    with Engine(answers(sized(ANSWER))) as engine:
        router.ready("a", engine.address, names=["a", "x:1", "big:latest"])
        with Client(router, post(HELLO | {"model": asked_name, "stream": False}, path="/api/chat")) as client:
            status, body = client.answer()
        assert status == 200
        assert json.loads(body)["model"] == asked_name
        assert json.loads(body)["message"] == {"role": "assistant", "content": "hello"}
        head, sent = asked(engine)
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert (sent["model"], sent["stream"]) == ("a", False)
        router.connections.close()


def test_a_tag_is_not_ignored_in_other_apis(router: Router) -> None:  # noqa: F811
    router.ready("a", "")
    with Client(router, post(HELLO)) as client:
        assert client.answer()[0] == 404


def test_an_unknown_name_is_an_error_in_the_shape_of_ollama(router: Router) -> None:  # noqa: F811
    router.ready("a", "")
    with Client(router, post(HELLO | {"model": "b"}, path="/api/chat")) as client:
        status, body = client.answer()
    assert status == 404
    assert "The model `b` does not exist" in json.loads(body)["error"]


def test_a_near_name_is_found_although_clients_add_a_tag(router: Router) -> None:  # noqa: F811
    router.ready("a", "", names=["Gemma-3"])
    with Client(router, post(HELLO | {"model": "gemma3:latest"}, path="/api/chat")) as client:
        assert "Did you mean `Gemma-3`?" in json.loads(client.answer()[1])["error"]


def test_a_stream_is_one_of_lines(router: Router) -> None:  # noqa: F811
    deltas = [{"content": "hel"}, {"content": "lo"}]
    events = [event({"choices": [{"delta": delta}]}) for delta in deltas]
    data = b"".join(chunk(each) for each in [*events, event(b"[DONE]")]) + b"0\r\n\r\n"
    with Engine(answers(SSE + data)) as engine:
        router.ready("a", engine.address)
        with Client(router, post(HELLO, "Connection: close", path="/api/chat")) as client:
            head, _, body = client.rest().partition(b"\r\n\r\n")
        router.connections.close()
    assert b"Content-Type: application/x-ndjson\r\n" in head
    assert b"X-Hotseat-Model: a\r\n" in head
    first, second, last = map(json.loads, b"".join(dechunk(body)).splitlines())
    assert [first["message"]["content"], second["message"]["content"]] == ["hel", "lo"]
    assert (first["done"], second["done"], last["done"]) == (False, False, True)
    assert asked(engine)[1]["stream"] is True


@pytest.mark.parametrize("ending", [b"", event({"error": {"message": "it broke"}})])
def test_a_stream_that_breaks_off_ends_with_an_error(router: Router, ending: bytes) -> None:  # noqa: F811
    begun = SSE + chunk(event({"choices": [{"delta": {"content": "hel"}}]}))
    if ending:
        begun += chunk(ending) + b"0\r\n\r\n"
    with Engine(lambda peer: (peer.request(), peer.send(begun))) as engine:
        router.ready("a", engine.address)
        with Client(router, post(HELLO, "Connection: close", path="/api/chat")) as client:
            body = client.rest().partition(b"\r\n\r\n")[2]
        router.connections.close()
    first, last = map(json.loads, b"".join(dechunk(body)).splitlines())
    assert first["message"]["content"] == "hel"
    told = {"error": "The engine closed the connection before the end of its response.", "code": "upstream_failed"}
    assert last == ({"error": "it broke"} if ending else told)


def test_an_engine_that_has_the_api_gets_the_request_as_it_is(router: Router) -> None:  # noqa: F811
    with Engine(answers(sized(b'{"done": true}'))) as engine:
        router.ready("a", engine.address, apis=["Ollama"])
        with Client(router, post(HELLO, path="/api/chat")) as client:
            assert client.answer() == (200, b'{"done": true}')
        head, sent = asked(engine)
        assert head.startswith(b"POST /api/chat HTTP/1.1\r\n")
        assert sent == HELLO | {"model": "a"}
        router.connections.close()


def test_a_request_without_messages_loads_the_model_and_does_not_reach_it(router: Router) -> None:  # noqa: F811
    router.ready("a", "")
    with Engine(answers(sized(b"{}"))) as engine, Client(router, post({"model": "a"}, path="/api/generate")) as client:
        eventually(lambda: router.world.held() == 1)
        router.ready("a", engine.address)
        head = client.head()
        assert "200 OK" in head
        assert "X-Queue-Position: 1" in head
        assert engine.requests == []
    eventually(lambda: router.counts() == {"200": 1})


class TestUnload:
    """An empty request with keep_alive 0."""

    REQUEST = {"model": "a:latest", "messages": [], "keep_alive": 0}  # noqa: RUF012

    @pytest.fixture
    def unloaded(self, router: Router, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:  # noqa: F811
        router.world.tell("w", model("a"), model("ext", engine="external", url="http://x"), ready=("a",))
        calls: list[tuple[str, float | None]] = []
        (handle,) = router.world.handles

        def unload(name: str, timeout: float | None) -> ModelStatus:
            assert threading.current_thread().name.startswith("body"), "it may wait, so it is not on the loop"
            calls.append((name, timeout))
            return ModelStatus(name, "releasing")

        monkeypatch.setattr(handle, "unload", unload)
        return calls

    def test_the_model_is_unloaded(self, router: Router, unloaded: list[Any]) -> None:  # noqa: F811
        with Client(router, post(self.REQUEST, path="/api/chat")) as client:
            status, body = client.answer()
        assert (status, unloaded) == (200, [("a", 0)])
        assert json.loads(body)["done_reason"] == "unload"
        eventually(lambda: router.counts() == {"200": 1})

    def test_others_that_wait_are_not_refused(self, router: Router, unloaded: list[Any]) -> None:  # noqa: F811
        router.world.tell("w", model("a"))
        with Client(router, post(HELLO, path="/api/chat")), Client(router) as client:
            eventually(lambda: router.world.held() == 1)
            client.send(post(self.REQUEST, path="/api/chat"))
            status, body = client.answer()
        assert (status, unloaded) == (409, [])
        assert "other requests wait for it" in json.loads(body)["error"]

    def test_it_is_for_the_admin_port(self, router: Router, unloaded: list[Any]) -> None:  # noqa: F811
        router.http.service._inference.admin_port = 1
        with Client(router, post(self.REQUEST, path="/api/chat")) as client:
            status, body = client.answer()
        assert (status, unloaded) == (403, [])
        assert json.loads(body)["code"] == "admin_port_only"

    def test_an_external_one_is_not_unloaded(self, router: Router, unloaded: list[Any]) -> None:  # noqa: F811
        with Client(router, post(self.REQUEST | {"model": "ext"}, path="/api/chat")) as client:
            assert client.answer()[0] == 409
        assert unloaded == []


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_an_error_of_the_engine_is_told_as_ollama_does(router: Router, status: int) -> None:  # noqa: F811
    body = b'{"error": {"message": "no", "type": "x", "code": 1}}'
    head = b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    with Engine(answers(head + body)) as engine:
        router.ready("a", engine.address)
        with Client(router, post(HELLO, path="/api/chat")) as client:
            assert client.answer() == (status, b'{"error":"no"}')
        router.connections.close()


def test_invalid_requests_do_not_reach_the_engine(router: Router) -> None:  # noqa: F811
    with Engine(answers(sized(ANSWER))) as engine:
        router.ready("a", engine.address)
        with Client(router, post({"model": "a", "messages": "no"}, path="/api/chat")) as client:
            status, body = client.answer()
        assert (status, engine.requests) == (400, [])
        assert "$.messages" in json.loads(body)["error"]
