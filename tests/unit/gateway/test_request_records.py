"""Requests as operators see them: in flight and ended, by id, and cancelled wherever they are."""

import json
import re
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hotseat.core.scheduler.history import Switch
from hotseat.gateway import request_records
from hotseat.gateway.request_records import RequestRecords, request_record, switches_during
from hotseat.gateway.wait_headers import NO_LIMITS
from hotseat.telemetry.answer_figures import AnswerSample
from tests.unit.gateway.conftest import Gone
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.http.test_connection import Client, code
from tests.unit.gateway.relay.fake_engine import SSE, Engine, answers, chunk, sized
from tests.unit.gateway.test_inference import CHAT, Router, external, post, router

__all__ = ["router"]  # a fixture


def in_turn(*responses: bytes) -> Any:
    """Script: each request gets the next one."""
    left = iter(responses)

    def script(peer: Any) -> None:
        while peer.request():
            peer.send(next(left))

    return script


USAGE = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'


def get(router: Router, path: str, method: str = "GET") -> tuple[int, Any]:
    """Call an admin route."""
    with Client(
        router, f"{method} {path} HTTP/1.1\r\nHost: h\r\nx-api-key: k\r\nContent-Length: 0\r\n\r\n".encode()
    ) as client:
        status, body = client.answer()
        return status, json.loads(body)


def rows(router: Router, query: str = "") -> list[dict[str, Any]]:
    status, body = get(router, f"/api/requests{query}")
    assert status == 200, body
    return body["requests"]


def test_an_ended_request_tells_its_times_and_tokens(router: Router) -> None:
    with Engine(answers(sized(USAGE))) as engine:
        router.ready("a", engine.address)
        with Client(router, post(CHAT, "X-Priority: 2")) as client:
            client.answer()
        router.connections.close()
    (row,) = rows(router)
    known = {
        "state": "ended",
        "model": "a",
        "wanted": None,
        "route": "chat",
        "tenant": "key-1",
        "priority": 2,
        "status": 200,
    }
    tokens = {"prompt_tokens": 3, "cached_tokens": None, "completion_tokens": 2, "tokens_per_second": None}
    assert row.items() >= {**known, **tokens, "switch_seconds": None, "ttft": None, "captured": False}.items()
    assert 0 <= row["waited"] <= row["seconds"]


@pytest.mark.parametrize(("path", "header"), [("/v1/chat/completions", "X-Request-Id"), ("/v1/messages", "request-id")])
def test_an_answer_has_the_id_of_its_row(router: Router, path: str, header: str) -> None:
    """Whole, as an error, and if the engine has ids too, which have another name then."""
    theirs = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-ID: theirs\r\nrequest-id: theirs\r\n\r\n{}"
    with Engine(in_turn(sized(b"{}"), theirs, b"what")) as engine:
        router.ready("a", engine.address, apis=["OpenAI", "Anthropic"])
        heads = []
        for model in ("a", "a", "a", "nobody"):
            with Client(router, post({**CHAT, "model": model}, "Connection: close", path=path)) as client:
                heads.append(client.rest().partition(b"\r\n\r\n")[0].decode() + "\r\n")
        router.connections.close()
    told = [re.findall(r"(?im)^([a-z-]*request-id): (.*?)\r$", head) for head in heads]
    first, second, failed = (row["id"] for row in reversed(rows(router)))
    engines = ("X-Engine-Request-Id", "theirs")
    assert told == [[(header, first)], [engines, engines, (header, second)], [(header, failed)], []]


def test_figures_in_the_form_of_llama_swap(router: Router) -> None:
    timings = b'{"timings": {"prompt_n": 3, "cache_n": 2, "predicted_n": 4, "predicted_per_second": 8}}'
    with Engine(in_turn(sized(USAGE), sized(timings))) as engine:
        router.ready("a", engine.address, names=["shown"])
        with Client(router, post(CHAT) * 2) as client:
            for _ in range(2):
                client.answer()
        router.ready("a", "", names=["shown"])
        with Client(router, post(CHAT)):
            eventually(lambda: router.world.held() == 1)
            status, found = get(router, "/api/metrics")
        router.connections.close()
    assert status == 200
    first, second = found
    assert (first["id"], second["id"]) == (1, 2)
    tokens = {"input_tokens": 3, "output_tokens": 2, "cache_tokens": -1, "tokens_per_second": -1}
    assert first.items() >= {**tokens, "model": "shown", "resp_status_code": 200, "has_capture": False}.items()
    assert first["tokens"].items() >= tokens.items()
    assert second["tokens"].items() >= {"input_tokens": 5, "output_tokens": 4, "cache_tokens": 2}.items()
    assert second["tokens_per_second"] == 8
    assert first["timestamp"] <= second["timestamp"]
    assert second["duration_ms"] >= 0


def test_a_stream_tells_its_first_token_while_it_goes_on(router: Router) -> None:
    go_on = threading.Event()

    def script(peer: Any) -> None:
        peer.request()
        peer.send(SSE + chunk(b"data: {}\n\n"))
        go_on.wait(10)
        peer.send(chunk(b"data: " + USAGE + b"\n\n") + b"0\r\n\r\n")

    with Engine(script) as engine:
        router.ready("a", engine.address)
        with Client(router, post({**CHAT, "stream": True})) as client:
            client._read(lambda data: 0 if b"data: {}" in data else None)
            (row,) = rows(router)
            assert (row["state"], row["status"], row["completion_tokens"]) == ("in_flight", None, None)
            assert 0 <= row["ttft"] <= row["seconds"]
            go_on.set()
            client.answer()
        (ended,) = rows(router)
        assert (ended["id"], ended["ttft"]) == (row["id"], pytest.approx(row["ttft"], abs=0.001))
        assert ended["tokens_per_second"] > 0
        router.connections.close()


def test_those_that_go_on_come_first_and_some_can_be_selected(router: Router) -> None:
    with Engine(answers(sized(USAGE))) as engine:
        router.ready("a", engine.address, names=["a", "alias"])
        with Client(router, post(CHAT) * 3) as client:
            for _ in range(3):
                client.answer()
        router.ready("a", "", names=["a", "alias"])
        with Client(router, post(CHAT)):
            eventually(lambda: router.world.held() == 1)
            found = rows(router, "?model=alias")
            assert [row["state"] for row in found] == ["waiting", "ended", "ended", "ended"]
            numbers = [int(row["id"].partition("-")[2]) for row in found]
            assert numbers == sorted(numbers, reverse=True)
            assert [row["id"] for row in rows(router, "?limit=2")] == [row["id"] for row in found[:2]]
        router.connections.close()
    assert get(router, "/api/requests?model=nobody")[0] == 404
    assert get(router, "/api/requests?limit=-1")[0] == 400


@pytest.mark.parametrize("route", ["requests", "inflight"])
def test_one_that_waits_is_cancelled(router: Router, route: str) -> None:
    router.ready("a", "")
    with Client(router, post(CHAT)) as client:
        eventually(lambda: router.world.held() == 1)
        (row,) = rows(router)
        assert get(router, f"/api/{route}/{row['id']}/cancel", "POST") == (200, {"id": row["id"], "state": "cancelled"})
        status, body = client.answer()
        assert (status, code(body)) == (410, "request_cancelled")
    status, body = get(router, f"/api/{route}/{row['id']}/cancel", "POST")
    assert status == 404, "it has ended"
    assert rows(router)[0]["status"] == 410


@pytest.mark.parametrize("begun", [False, True])
def test_one_in_flight_is_cancelled_and_its_engine_is_told(router: Router, begun: bool) -> None:
    asked = threading.Event()

    def script(peer: Any) -> None:
        peer.request()
        if begun:
            peer.send(SSE + chunk(b"data: 1\n\n"))
        asked.set()
        peer.until_closed()

    router.ready("a", "")
    with Engine(script) as engine, Client(router, post({**CHAT, "stream": True})) as client:
        router.ready("a", engine.address)
        assert asked.wait(10)
        if begun:
            client._read(lambda data: 0 if b"data: 1" in data else None)
        (row,) = rows(router)
        assert get(router, f"/api/requests/{row['id']}/cancel", "POST")[0] == 200
        status, body = client.answer()
        error = json.loads(body.rpartition(b"data: ")[2] if begun else body)["error"]
        assert (status, error["code"]) == (200 if begun else 410, "request_cancelled")
        assert engine.closed.wait(10)
    eventually(lambda: router.counts() == {"410": 1})


def test_one_whose_engine_cannot_be_reached_is_cancelled_and_not_sent_again(router: Router, gone: Gone) -> None:
    external(router, gone.address, "30s")
    with Client(router, post(CHAT)) as client:
        eventually(lambda: router.world.handles[0].gate.in_flight_of("a") == 1)
        (row,) = rows(router)
        assert get(router, f"/api/requests/{row['id']}/cancel", "POST")[0] == 200
        status, body = client.answer()
        assert (status, code(body)) == (410, "request_cancelled")


@pytest.mark.parametrize("id_", ["1", "x-1", "-", "{}-99", "{}-0", "{}-x", "{}-" + "9" * 30])
def test_an_unknown_id_is_not_found(router: Router, id_: str) -> None:
    process = router.http.service._inference.records._process
    assert get(router, f"/api/requests/{id_.format(process)}/cancel", "POST")[0] == 404
    status, body = get(router, f"/api/captures/{id_.format(process)}")
    assert (status, "--capture" in body["error"]["message"]) == (404, True)


def test_tokens_are_counted_when_somebody_wants_to_know(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted() -> dict[str, float]:
        samples = [
            s
            for family in router.metrics.registry.collect()
            for s in family.samples
            if s.name == "hotseat_tokens_total"
        ]
        assert {sample.labels["model"] for sample in samples} <= {"shown"}
        return {sample.labels["kind"]: sample.value for sample in samples}

    def settled(tokens: dict[str, float]) -> None:
        eventually(lambda: counted() == tokens)
        assert counted() == tokens, "none is counted twice"

    monkeypatch.setattr(request_records, "KEPT", 3)
    with Engine(answers(sized(USAGE))) as engine:
        router.ready("a", engine.address, names=["shown"])
        for times, requests in ((1, 1), (0, 1), (7, 8)):
            with Client(router, post(CHAT) * times) as client:
                for _ in range(times):
                    client.answer()
            settled({"prompt": 3 * requests, "completion": 2 * requests})
        router.connections.close()


def test_refused_requests_are_not_listed(router: Router) -> None:
    with Client(router, post({"model": "nobody"})) as client:
        assert client.answer()[0] == 404
    assert rows(router) == []


def switch(to: str, decided: float, ended: float | None) -> Switch:
    return Switch("s", "w", to, "demand", decided, decided, 1, ended=ended)


@pytest.mark.parametrize(
    ("switches", "seconds"),
    [
        ([], 0),
        ([switch("a", 0, 5)], 0),
        ([switch("a", 5, 15)], 5),
        ([switch("a", 12, 15)], 3),
        ([switch("a", 12, None)], 8),
        ([switch("a", 0, 100)], 10),
        ([switch("b", 11, 15)], 0),
        ([switch("a", 11, 12), switch("b", 12, 15), switch("a", 15, 18)], 4),
    ],
)
def test_the_part_of_a_wait_in_which_its_model_was_switched_to(switches: list[Switch], seconds: float) -> None:
    found = switches_during(switches, "a", 10, 20)
    assert sum(part for _, part in found) == seconds
    assert {switch.to for switch, _ in found} <= {"a"}


@pytest.mark.parametrize(
    ("more", "held", "answer", "counted"),
    [
        ({"restored": 100}, True, (200, 150), {"hits": 1, "reused_tokens": 150}),
        ({"woken": True}, True, (200, 150), {"hits": 1, "reused_tokens": 150}),
        ({"restored": 100}, True, (200, 3), {"hits": 0, "reused_tokens": 3}),  # another conversation
        ({"woken": True}, True, (200, 0), {}),  # the cache was lost
        ({}, True, (200, 150), {}),  # of a request that the same engine answered before
        ({"restored": 100}, False, (200, 150), {}),
    ],
)
def test_a_hit_is_a_request_that_waited_for_a_switch_and_found_its_prompt(
    more: dict[str, Any], held: bool, answer: tuple[int, int], counted: dict[str, int]
) -> None:
    switches = [replace(switch("a", 5, 15), **more)]
    handle = SimpleNamespace(switches=lambda: switches)
    route = SimpleNamespace(model=SimpleNamespace(name="a"), handle=handle)
    routed: Any = SimpleNamespace(
        route=route, dispatched=15, fallback_used=None, options=NO_LIMITS, held=held, began=10, retries=0
    )
    usage = {"prompt_tokens": answer[0], "prompt_tokens_details": {"cached_tokens": answer[1]}}
    sample = AnswerSample(json.dumps({"usage": usage}).encode(), stream=False)
    owner: Any = SimpleNamespace(call=lambda read: read())
    records = RequestRecords(owner)
    records.end(request_record(1, routed, "chat", 10, 10, 200, sample))
    found = {kind.removeprefix("hotseat_prompt_cache_"): count for (_, kind), count in records.tokens().items()}
    assert {kind: count for kind, count in found.items() if kind not in {"prompt", "cached"}} == counted
