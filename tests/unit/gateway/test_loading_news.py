"""What a client gets while its model is not ready, by the choice of the operator or its own."""

import json
from typing import Any
from unittest.mock import Mock

import pytest

from hotseat.api.workspace import Loading, Workspace
from hotseat.control.codec import to_rfc3339
from hotseat.control.registry import ModelRoute
from hotseat.core.errors import BadRequest, ModelLoading
from hotseat.gateway import loading_news as news
from hotseat.gateway.fallback_routing import retry_after
from hotseat.gateway.loading_news import LoadingReasoning, loading_of
from hotseat.gateway.wait_headers import loading_option
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.http.test_connection import Client
from tests.unit.gateway.relay.fake_engine import SSE, Engine, answers, chunk, sized
from tests.unit.gateway.test_fallback_routing import World, model, world
from tests.unit.gateway.test_inference import CHAT, Router, post, router

__all__ = ["router", "world"]  # fixtures

STREAM = {**CHAT, "stream": True}
DONE = SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n"
HEADER = "X-Hotseat-Loading"


# Which ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        *(({HEADER.lower(): text}, found) for found in Loading for text in (found, found.lower(), found.upper())),
    ],
)
def test_the_header_has_the_words_of_the_field_in_any_case(headers: dict[str, str], found: Loading | None) -> None:
    assert loading_option(headers) is found


@pytest.mark.parametrize("text", ["", "yes", "comment", "hold, refuse", "x" * 10_000])
def test_an_unknown_word_is_refused_with_those_that_are_allowed(text: str) -> None:
    with pytest.raises(
        BadRequest, match=r"X-Hotseat-Loading is .*; allowed: hold, comments, reasoning, refuse\."
    ) as error:
        loading_option({HEADER.lower(): text})
    assert len(error.value.message) < 400


@pytest.mark.parametrize(
    ("header", "model_", "workspace", "found"),
    [
        (None, None, None, Loading.HOLD),
        (None, None, "Refuse", Loading.REFUSE),
        (None, "Hold", "Refuse", Loading.HOLD),
        (None, "Comments", "Hold", Loading.COMMENTS),
        (Loading.HOLD, "Comments", "Refuse", Loading.HOLD),
        (Loading.REASONING, None, None, Loading.REASONING),
    ],
)
def test_the_client_decides_before_the_model_and_the_model_before_the_workspace(
    header: Loading | None, model_: str | None, workspace: str | None, found: Loading
) -> None:
    spec = {} if workspace is None else {"loading": workspace}
    handle = Mock(workspace=Workspace.model_validate({"metadata": {"name": "w"}, "spec": spec}))
    route = ModelRoute(model("a", **({} if model_ is None else {"loading": model_})), handle)
    assert loading_of(header, route) is found


def test_routers_know_the_choice_of_a_model(world: World) -> None:
    world.tell("w", model("a", loading="Refuse", responseModelName="Client"))
    found = world.find("a").model.spec
    assert (found.loading, found.response_model_name) == ("Refuse", "Client")


# News -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoadingReasoning, "delay", 0.0)


def told(router: Router, body: Any, *headers: str, path: str = news.CHAT, until: bytes, **spec: Any) -> bytes:
    """Return the body of an answer that begins with news, once `until` was seen and the model got ready."""
    router.ready("a", "", **spec)
    with Engine(answers(DONE)) as engine:
        with Client(router, post(body, *headers, path=path)) as client:
            head = client.head()
            assert "text/event-stream" in head
            client._read(lambda data: 0 if until in data else None)
            router.ready("a", engine.address, **spec)
            client._rest = head.encode() + client._rest
            status, data = client.answer()
            assert status == 200
        router.connections.close()
    return data


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("headers", "spec"), [([f"{HEADER}: Reasoning"], {}), ([], {"loading": "Reasoning"})])
def test_news_of_a_chat_are_chunks_with_reasoning(router: Router, headers: list[str], spec: dict[str, Any]) -> None:
    body = told(router, STREAM, *headers, until=b"reasoning_content", names=["A 1"], **spec)
    *events, last, end = body.split(b"\n\n")
    assert (last, end) == (b"data: 1", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert len({chunk["id"] for chunk in chunks}) == 1
    for at, each in enumerate(chunks):
        assert (each["object"], each["model"], type(each["created"])) == ("chat.completion.chunk", "a", int)
        (choice,) = each["choices"]
        assert (choice["index"], choice["finish_reason"]) == (0, None)
        assert choice["delta"].keys() == ({"reasoning_content"} if at else {"role", "reasoning_content"})
    texts = [chunk["choices"][0]["delta"]["reasoning_content"] for chunk in chunks]
    assert texts[0].startswith("A 1 waits for its turn (position 1 in its queue, ")
    assert texts[-1].startswith("A 1 is ready after ")
    assert texts[-1].endswith(" s.\n\n")


@pytest.mark.usefixtures("soon")
def test_other_streams_get_comments_instead(router: Router) -> None:
    body = told(router, STREAM, path="/v1/completions", until=b": hotseat {", loading="Reasoning")
    assert body.startswith(b': hotseat {"model": "a"')
    assert b"reasoning_content" not in body


@pytest.mark.parametrize("loading", ["Comments", "Reasoning"])
def test_a_request_that_is_not_streamed_is_held(router: Router, loading: str) -> None:
    router.ready("a", "", loading=loading)
    with Engine(answers(sized(b"{}"))) as engine:
        with Client(router, post(CHAT)) as client:
            eventually(lambda: router.world.held() == 1)
            router.ready("a", engine.address, loading=loading)
            assert client.answer() == (200, b"{}")
        router.connections.close()


def test_one_that_is_ready_tells_nothing_and_its_engine_may_compress(router: Router) -> None:
    with Engine(answers(DONE)) as engine:
        router.ready("a", engine.address, loading="Reasoning")
        with Client(router, post(STREAM, "Accept-Encoding: gzip")) as client:
            assert client.answer() == (200, b"data: 1\n\n")
        assert b"gzip" in engine.requests[0]
        router.connections.close()


@pytest.mark.usefixtures("soon")
def test_an_error_after_news_is_an_event(router: Router) -> None:
    router.ready("a", "", loading="Reasoning")
    with Client(router, post(STREAM)) as client:
        client._read(lambda data: 0 if b"reasoning_content" in data else None)
        refusal = {"model": "a", "epoch": 99, "code": "model_failed", "message": "no"}
        router.world.tell("w", model("a", loading="Reasoning"), refusals=[refusal])
        status, body = client.answer()
    assert (status, json.loads(body.rpartition(b"data: ")[2])["error"]["code"]) == (200, "model_failed")


def reasoning(*states: dict[str, Any]) -> list[str]:
    response = Mock()
    it = LoadingReasoning(response, Mock(requested_name="a"), str)
    usual = {"model": "a", "position": None, "estimate": None, "elapsed": 1.0, "progress": None, "resident": None}
    for state in states:
        it._send({**usual, **state})
    sent = [json.loads(call.args[0].removeprefix(b"data: ")) for call in response.write.call_args_list]
    return [chunk["choices"][0]["delta"]["reasoning_content"] for chunk in sent]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            {"state": "waiting", "resident": "b", "position": 2},
            "a waits for b to finish (position 2 in its queue, 1 s so far).",
        ),
        ({"state": "quiescing"}, "a waits for its turn (1 s so far)."),
        ({"state": "loading", "estimate": 12.4}, "a is loading (1 s so far, about 12 s left)."),
        ({"state": "fetching", "progress": {"done": 5, "total": 10}}, "a is being fetched (50%, 1 s so far)."),
        (
            {"state": "fetching", "progress": {"done": 5, "total": 10, "remaining": 9}},
            "a is being fetched (50%, 1 s so far, about 9 s left).",
        ),
        ({"state": "fetching", "progress": {"done": 5, "total": None}}, "a is being fetched (1 s so far)."),
        ({"state": "fallback", "fallback": "b", "reason": "loading"}, "b answers instead of a (loading).\n"),
    ],
)
def test_states_are_told_in_words(state: dict[str, Any], text: str) -> None:
    assert reasoning(state) == [f"{text}\n"]


def test_news_come_when_something_changes_and_every_few_seconds() -> None:
    at = [("waiting", 0.5), ("waiting", 0.7), ("loading", 1.0), ("loading", 5.9), ("loading", 6.0), ("loading", 10.0)]
    assert len(reasoning(*({"state": state, "elapsed": elapsed} for state, elapsed in at))) == 3


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(("headers", "spec"), [([f"{HEADER}: refuse"], {}), ([], {"loading": "Refuse"})])
def test_a_request_is_refused_at_once_and_its_model_is_wanted(
    router: Router, body: Any, headers: list[str], spec: dict[str, Any]
) -> None:
    router.ready("a", "", **spec)
    with Client(router, post(body, *headers)) as client:
        head = client.head()
        assert "Retry-After: 30\r\n" in head
        client._rest = head.encode() + client._rest
        status, answer = client.answer()
    error = json.loads(answer)["error"]
    assert (status, error["type"], error["code"]) == (503, "model_loading", "model_switching_in_progress")
    demand = router.world.find("a").handle.gate.demand()
    assert (demand.waiting, list(demand.wanted), list(demand.retries)) == ({}, ["a"], ["a"])
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, **spec)
        with Client(router, post(CHAT, *headers)) as client:
            assert client.answer() == (200, b"{}")
        router.connections.close()
    eventually(lambda: router.counts() == {"503": 1, "200": 1})


def loaded(seconds: float) -> list[dict[str, Any]]:
    """The switches of a status: a was loaded once, in so many seconds."""
    switch = {"id": "w/1", "from": [], "to": "a", "reason": "demand", "waiting": 1}
    switch |= {"startedAt": to_rfc3339(0.0), "endedAt": to_rfc3339(seconds)}
    return [switch | {"outcome": "completed", "phases": {"load": seconds}}]


@pytest.mark.parametrize(
    ("path", "more", "at", "found"),
    [
        ("/v1/messages", {"max_tokens": 1}, ("error", "type"), "overloaded_error"),
        ("/v1/messages/count_tokens", {}, ("error", "code"), "model_switching_in_progress"),
        ("/api/chat", {}, ("code",), "model_switching_in_progress"),
        ("/completion", {}, ("error", "type"), "model_loading"),
    ],
)
def test_a_refusal_has_the_shape_of_each_api(
    router: Router, path: str, more: dict[str, Any], at: tuple[str, ...], found: str
) -> None:
    router.ready("a", "", loading="Refuse")
    with Client(router, post({**STREAM, **more}, path=path)) as client:
        status, body = client.answer()
    given = json.loads(body)
    for name in at:
        given = given[name]
    assert (status, given) == (503, found)


def test_a_request_that_loads_nothing_leaves_no_wish_behind_when_it_is_refused(router: Router) -> None:
    router.ready("a", "", loading="Refuse")
    with Client(router, b"GET /slots?model=a HTTP/1.1\r\nHost: h\r\nx-api-key: k\r\n\r\n") as client:
        assert client.answer()[0] == 409
    demand = router.call(router.world.handles[0].gate.demand)
    assert (demand.retries, demand.wanted) == ({}, {})


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/completions"])
def test_streams_without_reasoning_content_get_comments_instead(router: Router, path: str) -> None:
    router.ready("a", "", loading="Reasoning", apis=["Anthropic"])
    with (
        Engine(answers(DONE)) as engine,
        Client(router, post({**STREAM, "max_tokens": 1}, "Connection: close", path=path)) as client,
    ):
        client.head()
        router.ready("a", engine.address, loading="Reasoning", apis=["Anthropic"])
        assert b": hotseat {" in client.rest()


def test_a_refused_client_is_told_the_learned_time(world: World) -> None:
    world.tell("w", model("a"))
    assert retry_after(world.find("a")) == 30.0
    world.tell("w", model("a"), switches=loaded(12.0))
    assert retry_after(world.find("a")) == 12.0
    world.tell("w", model("a"), switches=loaded(0.2))
    assert retry_after(world.find("a")) == 1.0
    routed = world.routed("a")
    routed.refuses = True
    with pytest.raises(ModelLoading) as error:
        routed.submit()
    assert error.value.retry_after == 1.0


def test_a_fallback_that_is_ready_answers_a_refused_request_at_once(world: World) -> None:
    world.tell("w", model("a", fallback={"model": "b", "after": "1m"}), model("b"), ready=("b",))
    routed = world.routed("a")
    routed.refuses = True
    routed.submit()
    assert (routed.pending_request.address, world.wanted("a")) == ("http://b", True)
    routed.finish()
    world.tell("w", model("a", fallback={"model": "b", "after": "1m"}), model("b", resources={"gpus": 0}))
    routed = world.routed("a")
    routed.refuses = True
    with pytest.raises(ModelLoading):
        routed.submit()


def test_a_request_whose_engine_ended_is_refused_then(world: World) -> None:
    world.tell("w", model("a"), ready=("a",))
    routed = world.routed("a")
    routed.refuses = True
    routed.submit()
    world.tell("w", model("a"))
    with pytest.raises(ModelLoading):
        routed.wait_again()


def test_a_wrong_header_is_refused_before_anything_else(router: Router) -> None:
    router.ready("a", "")
    with Client(router, post(CHAT, f"{HEADER}: maybe")) as client:
        status, answer = client.answer()
    assert (status, json.loads(answer)["error"]["code"]) == (400, "invalid_request")
    assert router.world.held() == 0
