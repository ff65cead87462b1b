"""Translated requests, from a client's socket to an engine's, by a translation that is as simple as can be."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.api.model import Api, Capability
from hotseat.core.errors import BadRequest
from hotseat.gateway import service
from hotseat.gateway.accepted_head import Route
from hotseat.gateway.fallback_routing import RoutedRequest
from tests.unit.gateway.conftest import Gone
from tests.unit.gateway.http.running import LOOPS, eventually
from tests.unit.gateway.http.test_connection import Client, code
from tests.unit.gateway.relay.fake_engine import SSE, Engine, answers, chunk, dechunk, sized
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import Router, post, resident

PATH = "/v1/shouted"
COMMENTS = "X-Hotseat-Loading: comments"


class Shouted:
    """Text in capitals. An event is what has come; `?` in it cannot be translated."""

    path, stream_type = "/v1/chat/completions", "text/event-stream"

    def __init__(self, body: bytes, name: str, asked: str) -> None:
        self._asked = asked
        if "bad" in json.loads(body):
            raise BadRequest("`bad` cannot be translated.")
        self.body = json.dumps({"model": name}).encode()

    def stream(self, data: bytes) -> bytes:
        if b"?" in data:
            raise ValueError
        return data.upper()

    def end(self) -> bytes:
        return b"data: END\n\n"

    def answer(self, body: bytes) -> bytes:
        return b'{"%b": "%b"}' % (self._asked.encode(), json.loads(body)["said"].upper().encode())

    def error(self, status: int, body: bytes) -> bytes:
        return b'{"error": {"code": "%d", "message": %b}}' % (status, json.dumps(body.decode().upper()).encode())


@pytest.fixture(params=LOOPS)
def router(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    route = Route(PATH, "shouted", Capability.CHAT, Api.ANTHROPIC, Shouted)
    monkeypatch.setattr(service, "find_route", lambda _method, path: route if path == PATH else None)
    made = Router(request.param)
    yield made
    made.close()


def shout(name: str = "a", *headers: str, **more: Any) -> bytes:
    return post({"model": name, **more}, *headers, path=PATH)


def streams(*pieces: bytes) -> Any:
    return answers(SSE + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")


def test_the_engine_gets_the_translation_and_the_client_the_answer_under_the_name_that_it_sent(router: Router) -> None:
    with Engine(answers(sized(b'{"said": "hi"}'))) as engine:
        router.ready("a", engine.address, names=["a", "alias"])
        with Client(router, shout("alias", "Accept: x/y", "anthropic-version: 1", "X-Kept: 1")) as client:
            assert client.answer() == (200, b'{"alias": "HI"}')
        head, _, body = engine.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert (b"x/y" in head, b"anthropic" in head, b"X-Kept: 1" in head) == (False, False, True)
        assert json.loads(body) == {"model": "a"}
        router.connections.close()


def test_an_engine_that_has_the_api_gets_the_request_as_it_is(router: Router) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, apis=["Anthropic"])
        with Client(router, shout(bad=True)) as client:
            assert client.answer() == (200, b"{}")
        assert engine.requests[0].startswith(b"POST /v1/shouted HTTP/1.1\r\n")
        router.connections.close()


@pytest.mark.parametrize("more", ["", "x" * 300_000])
def test_what_cannot_be_translated_is_refused_before_it_loads_anything(
    router: Router, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.ready("a", "")
    monkeypatch.setattr(RoutedRequest, "submit", lambda *_: pytest.fail("it was queued"))
    with Client(router, shout(bad=True, more=more)) as client:
        status, body = client.answer()
    assert (status, code(body)) == (400, "invalid_request")
    eventually(lambda: router.counts() == {"400": 1})


@pytest.mark.parametrize("more", ["", "x" * 300_000])
def test_a_request_that_waits_is_translated_too(router: Router, more: str) -> None:
    router.ready("a", "")
    with Engine(answers(sized(b'{"said": "hi"}'))) as engine, Client(router, shout(more=more)) as client:
        eventually(lambda: router.world.held() == 1)
        router.ready("a", engine.address)
        assert client.answer() == (200, b'{"a": "HI"}')
        assert json.loads(engine.requests[0].partition(b"\r\n\r\n")[2]) == {"model": "a"}
        router.connections.close()


def test_a_request_whose_engine_has_ended_is_translated_again(router: Router, gone: Gone) -> None:
    router.ready("a", gone.address)
    with Engine(answers(sized(b'{"said": "hi"}'))) as engine, Client(router, shout()) as client:
        router.ready("a", "")
        eventually(lambda: router.world.handles[0].gate.waiting() == 1)
        router.ready("a", engine.address)
        assert client.answer() == (200, b'{"a": "HI"}')
        router.connections.close()


@pytest.mark.parametrize(("apis", "path"), [([], b"/v1/chat/completions"), (["Anthropic"], b"/v1/shouted")])
def test_a_fallback_gets_what_its_engine_speaks(router: Router, apis: list[str], path: bytes) -> None:
    with Engine(answers(sized(b'{"said": "hi"}'))) as engine:
        both = model("a", fallback={"model": "small"}), model("small", apis=apis)
        router.world.tell("w", *both, residents=resident("small", engine.address))
        with Client(router, shout()) as client:
            status, body = client.answer()
        assert (status, body) == (200, b'{"said": "hi"}' if apis else b'{"a": "HI"}')
        assert engine.requests[0].startswith(b"POST " + path + b" ")
        assert json.loads(engine.requests[0].partition(b"\r\n\r\n")[2])["model"] == "small"
        router.connections.close()


def test_an_error_of_the_engine_keeps_its_status(router: Router) -> None:
    response = b"HTTP/1.1 418 Teapot\r\nContent-Length: 3\r\nRetry-After: 7\r\n\r\ntea"
    with Engine(answers(response)) as engine:
        router.ready("a", engine.address)
        with Client(router, shout("a", "Connection: close")) as client:
            assert "Retry-After: 7" in client.head()
            assert json.loads(client.rest()) == {"error": {"code": "418", "message": "TEA"}}
        router.connections.close()
    eventually(lambda: router.counts() == {"418": 1})


@pytest.mark.parametrize("status", [b"204 No Content", b"302 Found", b"206 Partial Content"])
def test_a_status_that_is_neither_200_nor_an_error_is_502(router: Router, status: bytes) -> None:
    with Engine(answers(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)) as engine:
        router.ready("a", engine.address)
        with Client(router, shout()) as client:
            answer, given = client.answer()
        assert (answer, code(given)) == (502, "upstream_failed")
        router.connections.close()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no JSON", b'{"said": 1}'])
def test_an_answer_in_another_shape_is_502(router: Router, body: bytes) -> None:
    with Engine(answers(sized(body))) as engine:
        router.ready("a", engine.address)
        with Client(router, shout()) as client:
            status, given = client.answer()
        assert (status, code(given)) == (502, "upstream_failed")
        router.connections.close()
    eventually(lambda: router.counts() == {"502": 1})


def test_a_stream_is_translated_as_it_comes(router: Router) -> None:
    with Engine(streams(b"data: a\n\n", b"data: b\n\n")) as engine:
        router.ready("a", engine.address)
        with Client(router, shout("a", "Connection: close")) as client:
            assert "Content-Type: text/event-stream\r\n" in client.head()
            assert b"".join(dechunk(client.rest())) == b"DATA: A\n\nDATA: B\n\ndata: END\n\n"
        router.connections.close()


def test_a_stream_whose_begin_cannot_be_translated_is_502(router: Router) -> None:
    with Engine(streams(b"data: ?\n\n")) as engine:
        router.ready("a", engine.address)
        with Client(router, shout()) as client:
            status, body = client.answer()
        assert (status, code(body)) == (502, "upstream_failed")


def test_an_answer_that_breaks_off_is_502(router: Router) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"said"')

    with Engine(script) as engine:
        router.ready("a", engine.address)
        with Client(router, shout()) as client:
            status, body = client.answer()
        assert (status, code(body)) == (502, "upstream_failed")
    eventually(lambda: router.counts() == {"502": 1})


def test_a_request_that_is_cancelled_within_an_answer_gets_the_reason(router: Router) -> None:
    begun = threading.Event()

    def script(peer: Any) -> None:
        peer.request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"said"')
        begun.set()
        peer.until_closed()

    records = router.http.service._inference.records
    with Engine(script) as engine:
        router.ready("a", engine.address)
        with Client(router, shout()) as client:
            assert begun.wait(10)
            eventually(lambda: records._running[1]._exchange._status == 200)
            records.cancel(f"{records._process}-1")
            status, body = client.answer()
        assert (status, code(body)) == (410, "request_cancelled")
        assert engine.closed.wait(10)
    eventually(lambda: router.counts() == {"410": 1})


def error_of(stream: bytes) -> tuple[bytes, dict[str, Any]]:
    before, _, last = stream.rpartition(b"data: ")
    return before, json.loads(last)["error"]


@pytest.mark.parametrize("rest", [b"", b"data: incompl", b"data: ?\n\n"])
def test_a_stream_that_breaks_off_or_cannot_be_translated_ends_with_an_error(router: Router, rest: bytes) -> None:
    begun = threading.Event()

    def script(peer: Any) -> None:
        peer.request()
        peer.send(SSE + chunk(b"data: a\n\n"))
        begun.wait()
        peer.send(chunk(rest) if rest else b"")

    with Engine(script) as engine:
        router.ready("a", engine.address)
        with Client(router, shout("a", "Connection: close")) as client:
            client.head()
            begun.set()
            before, error = error_of(b"".join(dechunk(client.rest())))
        assert before.startswith(b"DATA: A\n\n")
        assert error["code"] == "upstream_failed"
    eventually(lambda: router.counts() == {"502": 1})


def test_an_error_of_the_engine_ends_a_stream_of_comments(router: Router) -> None:
    router.ready("a", "")
    refused = b'HTTP/1.1 418 Teapot\r\nContent-Length: 14\r\n\r\n{"error": "t"}'
    with (
        Engine(answers(refused)) as engine,
        Client(router, shout("a", COMMENTS, "Connection: close", stream=True)) as client,
    ):
        assert client.head().startswith("HTTP/1.1 200 ")
        router.ready("a", engine.address)
        before, error = error_of(b"".join(dechunk(client.rest())))
        assert before.startswith(b": hotseat ")
        assert error == {"code": "418", "message": '{"ERROR": "T"}'}


def test_comments_come_before_a_translated_stream(router: Router) -> None:
    router.ready("a", "")
    with (
        Engine(streams(b"data: a\n\n")) as engine,
        Client(router, shout("a", COMMENTS, "Connection: close", stream=True)) as client,
    ):
        client.head()
        router.ready("a", engine.address)
        stream = b"".join(dechunk(client.rest()))
        assert stream.startswith(b": hotseat {")
        assert stream.endswith(b"\n\nDATA: A\n\ndata: END\n\n")
        router.connections.close()
