"""Requests for an external Model whose servers fail, from a client's socket to theirs."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotseat.gateway.spool import Spool
from tests.unit.gateway.conftest import Gone
from tests.unit.gateway.http.running import LOOPS, eventually
from tests.unit.gateway.http.test_connection import Client, code
from tests.unit.gateway.relay.fake_engine import SSE, Engine, Peer, answers, chunk, sized
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import CHAT, Router, post, resident

FAST = {"backoff": "10ms"}


@pytest.fixture(params=LOOPS)
def router(request: pytest.FixtureRequest) -> Iterator[Router]:
    made = Router(request.param)
    yield made
    made.close()


def external(router: Router, *addresses: str, **spec: Any) -> None:
    """Tell of an external Model with these servers."""
    url, *others = addresses
    router.ready("a", url, engine="external", url=url, failoverUrls=others, **spec)


def refuses(status: int, *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} No", "Content-Type: application/json", "Content-Length: 10", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + b'{"no": "!"}'[:10]


def resets(peer: Peer) -> None:
    peer.request()
    peer.reset()


def closes(peer: Peer) -> None:
    peer.request()


def samples(router: Router, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in router.metrics.registry.collect():
        for each in family.samples:
            if each.name == name:
                found[each.labels["reason"]] = each.value
    return found


def rows(router: Router) -> list[dict[str, Any]]:
    servers = router.world.find("a").servers
    assert servers is not None
    return servers.rows()


@pytest.mark.parametrize("fails", [resets, closes, answers(refuses(503)), answers(refuses(429))])
def test_the_next_server_answers_with_the_same_request(router: Router, fails: Any) -> None:
    with Engine(fails) as first, Engine(answers(sized(b'{"by": 2}'))) as second:
        external(router, first.address, second.address)
        with Client(router, post(CHAT | {"user": "x" * 1000})) as client:
            assert client.answer() == (200, b'{"by": 2}')
        assert first.requests[0].partition(b"\r\n\r\n")[2] == second.requests[0].partition(b"\r\n\r\n")[2]
        eventually(lambda: router.counts() == {"200": 1})
        router.connections.close()


def test_a_server_that_is_not_there_is_left_out(router: Router, gone: Gone) -> None:
    with Engine(answers(sized(b"{}"))) as second:
        external(router, gone.address, second.address, circuitBreaker={"failureThreshold": 2})
        for _ in range(4):
            with Client(router, post(CHAT)) as client:
                assert client.answer() == (200, b"{}")
        assert samples(router, "hotseat_upstream_retries_total") == {"unreachable": 2}
        assert [(row["circuit"], row["available"]) for row in rows(router)] == [("open", False), ("closed", True)]
        router.connections.close()


def test_nothing_is_sent_again_after_the_first_byte(router: Router) -> None:
    def breaks_off(peer: Peer) -> None:
        peer.request()
        peer.send(SSE + chunk(b"data: 1\n\n"))
        peer.reset()

    with Engine(breaks_off) as first, Engine(answers(sized(b"{}"))) as second:
        external(router, first.address, second.address)
        with Client(router, post(CHAT | {"stream": True})) as client:
            status, body = client.answer()
        assert (status, b"data: 1" in body, b"error" in body) == (200, True, True)
        assert second.requests == []


def test_the_last_answer_is_passed_on_as_it_is(router: Router) -> None:
    with Engine(answers(refuses(503))) as first, Engine(answers(refuses(429, "Retry-After: 7"))) as second:
        external(router, first.address, second.address)
        with Client(router, post(CHAT)) as client:
            status, body = client.answer()
        assert (status, body) == (429, b'{"no": "!"')
        router.connections.close()


def test_one_server_is_asked_again_after_a_pause(router: Router) -> None:
    once = iter([refuses(503), refuses(502)])

    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(next(once, sized(b"{}")))

    with Engine(script) as engine:
        external(router, engine.address, retries={"attempts": 2, **FAST})
        with Client(router, post(CHAT)) as client:
            assert client.answer() == (200, b"{}")
        assert samples(router, "hotseat_upstream_retries_total") == {"status_503": 1, "status_502": 1}
        [row] = router.call(lambda: [each.retries for each in router.http.service._inference.records._ended])
        assert row == 2
        router.connections.close()


def test_without_such_fields_the_first_answer_is_passed_on(router: Router) -> None:
    with Engine(answers(refuses(503))) as engine:
        external(router, engine.address)
        assert router.world.find("a").servers is None
        with Client(router, post(CHAT)) as client:
            assert client.answer() == (503, b'{"no": "!"')
        router.connections.close()


def test_while_the_circuit_is_open_clients_are_told_when_to_come_again(router: Router, gone: Gone) -> None:
    external(router, gone.address, circuitBreaker={"failureThreshold": 1})
    with Client(router, post(CHAT)) as client:
        assert client.answer()[0] == 502
    with Client(router, post(CHAT)) as client:
        client.sock.settimeout(10)
        whole = client.sock.recv(65536)
    assert b"503" in whole.split(b"\r\n")[0]
    assert b"Retry-After: 30" in whole
    assert code(whole.partition(b"\r\n\r\n")[2]) == "upstream_unavailable"


@pytest.mark.parametrize("fails", [resets, answers(refuses(503))])
def test_a_fallback_answers_when_no_server_does(router: Router, fails: Any) -> None:
    with Engine(fails) as first, Engine(answers(sized(b"{}"))) as other:
        url = first.address
        spec = {"engine": "external", "url": url, "retries": {"attempts": 0}, "circuitBreaker": {"failureThreshold": 1}}
        models = model("a", **spec, fallback={"model": "c", "when": ["Failed"]}), model("c")
        router.world.tell("w", *models, residents=resident("a", url) + resident("c", other.address))
        for _ in range(2):  # the second finds the circuit open
            with Client(router, post(CHAT)) as client:
                assert client.answer() == (200, b"{}")
        assert (len(first.requests), len(other.requests)) == (1, 2)
        router.connections.close()


def test_a_client_that_leaves_in_the_pause_ends_its_request(router: Router) -> None:
    with Engine(answers(refuses(503))) as engine:
        external(router, engine.address, retries={"attempts": 1, "backoff": "5s"})
        with Client(router, post(CHAT)) as client:
            eventually(lambda: samples(router, "hotseat_upstream_retries_total") == {"status_503": 1})
            client.sock.close()
            eventually(lambda: router.counts() == {"499": 1})
        assert len(engine.requests) == 1
        router.connections.close()


def test_it_is_held_for_a_server_that_starts_after_all_were_tried(router: Router, gone: Gone) -> None:
    spec = {"retries": {"attempts": 1, **FAST}, "circuitBreaker": {"failureThreshold": 1}}
    external(router, gone.address, lifecycle={"connectTimeout": "30s"}, **spec)
    with Client(router, post(CHAT)) as client:
        eventually(lambda: router.world.handles[0].gate.in_flight_of("a") == 1)
        eventually(lambda: samples(router, "hotseat_upstream_retries_total") == {"unreachable": 1})
        with Engine(answers(sized(b"{}")), port=gone.port) as engine:
            assert client.answer() == (200, b"{}")
            assert len(engine.requests) == 1
            router.connections.close()


def test_its_own_pages_are_asked_again_only_if_nothing_was_received(router: Router, gone: Gone) -> None:
    with Engine(resets) as first, Engine(answers(sized(b"page"))) as second:
        for address, expected in ((first.address, 502), (gone.address, 200)):
            external(router, address, second.address)
            request = post({}, path="/upstream/a/own/thing")
            with Client(router, request) as client:
                assert client.answer()[0] == expected
        router.connections.close()


def test_a_large_form_is_read_from_its_file_again(tmp_path: Path) -> None:
    router = Router("uvloop", Spool(tmp_path, 10**7))
    try:
        with Engine(answers(refuses(503))) as first, Engine(answers(sized(b'{"text": "t"}'))) as second:
            external(router, first.address, second.address)
            part = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
            body = part % (b"model", b"a") + part % (b"file", b"y" * 600_000) + b"--x--\r\n"
            sent = post(body, "Content-Type: multipart/form-data; boundary=x", path="/v1/audio/transcriptions")
            with Client(router, sent) as client:
                assert client.answer() == (200, b'{"text": "t"}')
            assert first.requests[0].partition(b"\r\n\r\n")[2] == second.requests[0].partition(b"\r\n\r\n")[2]
            router.connections.close()
    finally:
        router.close()


def test_the_name_of_the_model_is_the_same_for_all_servers(router: Router) -> None:
    with Engine(answers(refuses(503))) as first, Engine(answers(sized(b"{}"))) as second:
        external(router, first.address, second.address, engineModelName="own")
        with Client(router, post(CHAT)) as client:
            assert client.answer() == (200, b"{}")
        sent = [json.loads(each.requests[0].partition(b"\r\n\r\n")[2])["model"] for each in (first, second)]
        assert sent == ["own", "own"]
        router.connections.close()


def test_what_is_known_of_a_server_survives_a_change_of_other_fields(router: Router, gone: Gone) -> None:
    external(router, gone.address, circuitBreaker={"failureThreshold": 1})
    with Client(router, post(CHAT)) as client:
        assert client.answer()[0] == 502
    external(router, gone.address, circuitBreaker={"failureThreshold": 1}, description="new")
    assert rows(router)[0]["circuit"] == "open"
    external(router, gone.address, circuitBreaker={"failureThreshold": 2})
    assert rows(router)[0]["circuit"] == "closed"


def test_a_server_is_checked_in_each_period(router: Router) -> None:
    statuses = iter([200, 500, 500, 200])

    def healthy(peer: Peer) -> None:
        peer.request()
        peer.send(refuses(next(statuses, 200)))

    health = {"path": "/healthz", "period": "60ms", "failureThreshold": 2}
    with Engine(healthy) as first, Engine(answers(refuses(204))) as second:
        external(router, first.address, second.address, health=health)
        router.call(router.http.service.begin)
        seen = []
        eventually(lambda: seen.append(rows(router)[0]["healthy"]) or ({True, False} <= set(seen) and seen[-1]))
        assert first.requests[0].startswith(b"GET /healthz HTTP/1.1\r\n")
        eventually(lambda: [row["healthy"] for row in rows(router)] == [True, True])
        router.ready("a", "")
        router.connections.close()


@pytest.mark.parametrize(
    ("fails", "problem"), [(resets, "reset|closed"), (lambda peer: peer.until_closed(), "no answer within")]
)
def test_a_check_without_an_answer_has_failed(router: Router, fails: Any, problem: str) -> None:
    with Engine(fails) as engine:
        external(router, engine.address, health={"path": "/healthz", "period": "60ms", "failureThreshold": 1})
        router.call(router.http.service.begin)
        eventually(lambda: rows(router)[0]["healthy"] is False)
        assert re.search(problem, rows(router)[0]["problem"])
        with Client(router, post(CHAT)) as client:
            status, body = client.answer()
        assert (status, code(body)) == (503, "upstream_unavailable")
        router.ready("a", "")


def test_each_server_and_each_check_gets_the_key_and_the_path_of_its_url(router: Router) -> None:
    health = {"path": "/healthz", "period": "500ms"}
    with Engine(answers(refuses(503))) as first, Engine(answers(sized(b"{}"))) as second:
        urls = f"{first.address}/one/v1", f"{second.address}/two/v1"
        external(router, *urls, health=health, engineKey={"value": "secret"})
        router.call(router.http.service.begin)
        with Client(router, post(CHAT)) as client:
            assert client.answer() == (200, b"{}")
        for engine, base in ((first, b"one"), (second, b"two")):
            eventually(lambda e=engine: any(each.startswith(b"GET") for each in e.requests))
            eventually(lambda e=engine: any(each.startswith(b"POST") for each in e.requests))
            assert all(b"Authorization: Bearer secret\r\n" in each for each in engine.requests)
            paths = {each.split(b" ")[1] for each in engine.requests}
            assert paths == {b"/%b/healthz" % base, b"/%b/v1/chat/completions" % base}
        router.ready("a", "")
        router.connections.close()


def test_a_stream_that_was_only_told_of_its_wait_goes_to_the_next_server(router: Router) -> None:
    """What hotseat itself has sent is no part of the answer."""
    asked = threading.Semaphore(0)
    go_on = threading.Event()

    def refusing(peer: Peer) -> None:
        peer.request()
        asked.release()
        go_on.wait(10)
        peer.send(refuses(503))

    stream = SSE + chunk(b'data: {"by": 2}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    with Engine(refusing) as first, Engine(answers(stream)) as second:
        external(router, first.address, second.address, concurrency=1)
        with Client(router, post(CHAT | {"stream": True})) as busy:
            assert asked.acquire(timeout=10)
            with Client(router, post(CHAT | {"stream": True}, "X-Hotseat-Loading: comments")) as client:
                told = b""
                while b"\n\n" not in told:
                    told += client.sock.recv(65536)
                go_on.set()
                while not told.endswith(b"0\r\n\r\n"):
                    told += client.sock.recv(65536)
            assert b"[DONE]" in busy.answer()[1]
        assert b'data: {"by": 2}' in told
        assert b"error" not in told
        router.connections.close()
