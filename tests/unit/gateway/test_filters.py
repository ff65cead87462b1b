"""Filters of a Model, from a client's socket to an engine's: each API, names, fallbacks, forms and large bodies."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.gateway.loading_news import LoadingNews
from tests.unit.gateway.http.running import LOOPS
from tests.unit.gateway.http.test_connection import Client
from tests.unit.gateway.relay.fake_engine import Engine, answers, sized
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import Router, eventually, post, resident

FILTERS = {
    "strip": ["top_k"],
    "default": {"temperature": 0.7, "max_tokens": 9},
    "set": {"seed": 1, "think": "model"},
    "byName": {"qwen:think": {"set": {"think": "name"}, "strip": ["seed"]}, "qwen:plain": {}},
}
COMPLETION = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}'


@pytest.fixture
def router() -> Iterator[Router]:
    made = Router(next(iter(LOOPS)))
    yield made
    made.close()


def sent(engine: Engine) -> list[dict[str, Any]]:
    return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in engine.requests]


def ask(router: Router, *requests: bytes) -> list[int]:
    with Client(router, b"".join(requests)) as client:
        return [client.answer()[0] for _ in requests]


def test_names_of_filters_are_names_of_one_model_and_each_has_its_parameters(router: Router) -> None:
    with Engine(answers(sized(COMPLETION))) as engine:
        router.ready("qwen", engine.address, filters=FILTERS)
        given = {"messages": [], "top_k": 5, "temperature": 0}
        assert (
            ask(router, *(post({"model": name, **given}) for name in ("qwen", "qwen:think", "qwen:plain"))) == [200] * 3
        )
        common = {"model": "qwen", "messages": [], "temperature": 0, "max_tokens": 9}
        assert sent(engine) == [
            {**common, "seed": 1, "think": "model"},
            {**common, "think": "name"},
            {**common, "seed": 1, "think": "model"},
        ]
        router.connections.close()


def test_large_bodies_are_changed_too(router: Router) -> None:
    with Engine(answers(sized(COMPLETION))) as engine:
        router.ready("qwen", engine.address, filters={"set": {"a": 1}})
        assert ask(router, post({"model": "qwen", "messages": ["x" * 400_000]})) == [200]
        assert sent(engine) == [{"model": "qwen", "messages": ["x" * 400_000], "a": 1}]
        router.connections.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "stream": False}),
        ("/api/generate", {"prompt": "hi", "stream": False}),
    ],
)
def test_the_translated_request_is_changed(router: Router, path: str, body: dict[str, Any]) -> None:
    with Engine(answers(sized(COMPLETION))) as engine:
        router.ready("qwen", engine.address, filters=FILTERS)
        assert ask(router, post({"model": "qwen:think", **body}, path=path)) == [200]
        (request,) = sent(engine)
        wanted = {"think": "name", "model": "qwen", "temperature": 0.7, "max_tokens": body.get("max_tokens", 9)}
        assert {key: request[key] for key in wanted} == wanted
        assert "seed" not in request
        router.connections.close()


def test_a_count_of_tokens_still_makes_one_token(router: Router) -> None:
    with Engine(answers(sized(COMPLETION))) as engine:
        router.ready("qwen", engine.address, filters={"set": {"max_tokens": 999, "stream": True, "a": 1}})
        request = post(
            {"model": "qwen", "messages": [{"role": "user", "content": "hi"}]}, path="/v1/messages/count_tokens"
        )
        assert ask(router, request) == [200]
        (request,) = sent(engine)
        assert (request["max_tokens"], request["a"], request.get("stream", False)) == (1, 1, False)
        router.connections.close()


def test_a_fallback_has_its_own_filters(router: Router) -> None:
    """Also if its engine knows it by the same name: a translation that was made for the first one is not used."""
    with Engine(answers(sized(COMPLETION))) as engine:
        first = model(
            "big", fallback={"model": "qwen:think", "after": "0s"}, engineModelName="m", filters={"set": {"big": 1}}
        )
        second = model("qwen", resources={"gpus": 0}, engineModelName="m", filters=FILTERS)
        router.world.tell("w", first, second, states={"big": "loading"}, residents=resident("qwen", engine.address))
        body = {"model": "big", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        assert ask(router, post(body), post(body, path="/v1/messages")) == [200] * 2
        assert [(each.get("big"), each["think"], each["model"]) for each in sent(engine)] == [(None, "name", "m")] * 2
        router.connections.close()


def test_a_request_without_a_model_is_as_one_by_the_name_of_the_default_model(router: Router) -> None:
    with Engine(answers(sized(COMPLETION))) as engine:
        router.ready("qwen", engine.address, filters=FILTERS)
        handle = router.world.handles[0]
        spec = handle.workspace.spec.model_copy(update={"default_model": "qwen:think"})
        router.call(lambda: setattr(handle, "workspace", handle.workspace.model_copy(update={"spec": spec})))
        assert ask(router, post({"messages": []})) == [200]
        assert sent(engine)[0]["think"] == "name"
        router.connections.close()


def test_fields_of_forms_are_changed(router: Router) -> None:
    parts = [('name="model"', "qwen:think"), ('name="top_k"', "4"), ('name="file"; filename="a"', "sound")]
    raw = (
        "".join(f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n" for head, value in parts)
        + "--b--\r\n"
    )
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("qwen", engine.address, filters=FILTERS)
        request = post(raw.encode(), "Content-Type: multipart/form-data; boundary=b", path="/v1/audio/transcriptions")
        assert ask(router, request) == [200]
        body = engine.requests[0].partition(b"\r\n\r\n")[2]
        assert b"top_k" not in body
        assert b'name="think"\r\n\r\nname\r\n' in body
        assert b'name="model"\r\n\r\nqwen\r\n' in body
        assert body.endswith(b"sound\r\n--b--\r\n")
        router.connections.close()


@pytest.mark.parametrize(
    "filters", [{"set": {"stream": False}}, {"strip": ["stream"]}, {"byName": {"x": {"strip": ["stream"]}}}]
)
def test_the_client_of_a_stream_that_a_filter_may_end_is_told_nothing_before_the_answer(
    router: Router, filters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadingNews, "delay", 0.0)
    router.ready("qwen", "", filters=filters, loading="Comments")
    with (
        Engine(answers(sized(COMPLETION))) as engine,
        Client(router, post({"model": "qwen", "messages": [], "stream": True})) as client,
    ):
        eventually(lambda: router.world.held() == 1)
        router.ready("qwen", engine.address, filters=filters, loading="Comments")
        assert client.answer() == (200, COMPLETION)
        router.connections.close()


def test_an_external_server_does_not_get_a_name_that_only_filters_have(router: Router) -> None:
    filters = {"byName": {"gpt:calm": {"set": {"temperature": 0}}, "gpt": {"set": {"seed": 1}}}}
    with Engine(answers(sized(COMPLETION))) as engine:
        spec: dict[str, Any] = {
            "engine": "external",
            "url": engine.address,
            "names": ["org/gpt", "gpt"],
            "filters": filters,
        }
        router.world.tell("w", model("out", **spec), residents=resident("out", engine.address))
        assert ask(router, *(post({"model": name}) for name in ("gpt", "org/gpt", "gpt:calm"))) == [200] * 3
        assert sent(engine) == [
            {"model": "gpt", "seed": 1},
            {"model": "org/gpt"},
            {"model": "org/gpt", "temperature": 0},
        ]
        router.connections.close()


def test_a_virtual_model_is_a_request_for_a_name_of_its_member(router: Router) -> None:
    """Also at a router of a cluster, which knows of it by the Workspace's document."""
    with Engine(answers(sized(b'{"model": "qwen"}'))) as engine:
        router.ready("qwen", engine.address, filters=FILTERS, responseModelName="Client")
        document = router.world.documents["w"]
        spec = {
            "virtualModels": [{"name": "any", "members": [{"model": "gone"}, {"model": "qwen:think"}]}],
            "profiles": {"p": {"llm": "any", "qwen": ""}},
        }
        router.world.apply({**document, "spec": spec})
        with Client(router, post({"model": "any"}) + post({"model": "llm"}) + post({"model": "qwen"})) as client:
            got = [client.answer() for _ in range(3)]
        assert [status for status, _ in got] == [200, 404, 200]
        assert got[0][1] == b'{"model": "any"}'
        router.world.apply({**document, "spec": {**spec, "activeProfile": "p"}})
        assert ask(router, post({"model": "llm"}), post({"model": "qwen"})) == [200, 404]
        assert [each["think"] for each in sent(engine)] == ["name", "model", "name"]
        put = b'PUT /api/profiles/active HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer k\r\nContent-Length: 13\r\n\r\n{"name": "p"}'
        with Client(router, put) as client:
            status, body = client.answer()
        assert (status, b"spec.activeProfile" in body) == (405, True)
        router.connections.close()
