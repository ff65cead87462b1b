"""Inference on the event loop, from a client's socket to an engine's: waiting, leaving, refusals, and exact counts."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.control.event_log import EventLog
from hotseat.gateway import inference
from hotseat.gateway.auth import Keys
from hotseat.gateway.limits import BodyBudget, ConcurrencyLimit
from hotseat.gateway.relay import Connections
from hotseat.gateway.spool import Spool
from hotseat.gateway.threads import Threads
from hotseat.gateway.wsgi import create_gateway
from hotseat.gateway.wsgi_threads import WsgiThreads
from hotseat.telemetry.metrics import Metrics
from tests.unit.gateway.conftest import Gone
from tests.unit.gateway.http.running import LOOPS, Server, eventually
from tests.unit.gateway.http.test_connection import Client, code
from tests.unit.gateway.relay.fake_engine import SSE, Engine, answers, chunk, sized
from tests.unit.gateway.test_fallback_routing import World, model

PLACES = 3


class Router(Server):
    """A gateway whose Workspaces are told what a switcher would have written."""

    def __init__(self, loop: str, spool: Spool | None = None, keys: Keys | None = None, **more: Any) -> None:
        super().__init__(loop=loop)
        client = SwitcherClient("", "http://127.0.0.1:9", DemandKeys(b"0123456789abcdef"))
        self.connections = Connections(self.owner)
        self.world = World("pod-1", client, self.connections.forget, EventLog(), self.owner)
        self.world.begin()
        self.metrics = Metrics(lambda: iter(()))
        self.concurrency, self.threads = ConcurrencyLimit(PLACES), Threads(4)
        gateway = create_gateway(
            self.world,
            EventLog(),
            self.metrics,
            keys or Keys(["k"]),
            self.connections,
            max_body=1_000_000,
            cors=frozenset({"https://app.example"}),
            concurrency=self.concurrency,
            spool=spool,
            **more,
        )
        self.gateway = gateway
        self.http.service = gateway.service(WsgiThreads(gateway, self.threads, self.owner))

    def ready(self, name: str, address: str, **spec: Any) -> None:
        """Tell that a Model is ready at this address. Empty: it is not."""
        self.world.tell("w", model(name, **spec), **({"residents": resident(name, address)} if address else {}))

    def counts(self) -> dict[str, int]:
        """Requests that were counted, by status."""
        found: dict[str, int] = {}
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "hotseat_requests_total":
                    status = sample.labels["status"]
                    found[status] = found.get(status, 0) + int(sample.value)
        return found

    def check_nothing_is_left(self) -> None:
        eventually(lambda: self.world.held() == 0)
        eventually(lambda: self.concurrency._taken == 0)
        assert self.call(lambda: self.http.service._inference.body_budget._kept) == 0

    def close(self) -> None:
        self.check_nothing_is_left()
        for handle in self.world.handles:
            handle.reporter.close()
        self.connections.close()
        super().close()
        self.threads.shutdown()


def resident(name: str, address: str) -> list[dict[str, Any]]:
    return [{"model": name, "instance": f"w/{name}@1", "state": "ready", "epoch": 1, "address": address}]


@pytest.fixture(params=LOOPS)
def router(request: pytest.FixtureRequest) -> Iterator[Router]:
    made = Router(request.param)
    yield made
    made.close()


def post(body: Any, *headers: str, path: str = "/v1/chat/completions", key: str = "k") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: h",
        f"Authorization: Bearer {key}",
        *headers,
        f"Content-Length: {len(raw)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + raw


CHAT = {"model": "a", "messages": []}


def test_what_is_known_of_a_head_is_known_of_that_head_alone(router: Router) -> None:
    """A head that was accepted is not parsed again, whatever the length of its body. Another one is."""
    with Engine(answers(sized(b"1"))) as engine:
        router.ready("a", engine.address)
        longer = CHAT | {"user": "x" * 1000}
        page = "Origin: https://app.example"
        sent = [
            post(CHAT),
            post(longer),
            post(CHAT, key="other"),
            post(CHAT, page),
            post(CHAT, "X-Priority: high"),
            post(longer),
        ]
        with Client(router, b"".join(sent)) as client:
            statuses = [client.answer()[0] for _ in sent]
        assert statuses == [200, 200, 401, 200, 400, 200]
        bodies = [request.partition(b"\r\n\r\n")[2] for request in engine.requests]
        assert [len(body) for body in bodies] == [len(json.dumps(each)) for each in (CHAT, longer, CHAT, longer)]


def test_a_client_is_told_each_time_to_send_its_body(router: Router) -> None:
    raw = json.dumps(CHAT).encode()
    head = post(CHAT, "Expect: 100-continue").removesuffix(raw)
    with Engine(answers(sized(b"1"))) as engine:
        router.ready("a", engine.address)
        with Client(router) as client:
            for _ in range(3):
                client.send(head)
                assert client.head().startswith("HTTP/1.1 100 ")
                client.send(raw)
                assert client.answer() == (200, b"1")
        router.connections.close()


def test_a_request_is_relayed_with_its_path_and_without_its_key(router: Router) -> None:
    with Engine(answers(sized(b'{"a": 1}'))) as engine:
        router.ready("a", engine.address)
        with Client(router, post(CHAT, path="//v1/%63hat/completions?x=%20") + post(CHAT)) as client:
            assert client.answer() == (200, b'{"a": 1}')
            assert client.answer() == (200, b'{"a": 1}')
        first = engine.requests[0]
        assert first.startswith(b"POST /v1/chat/completions?x=%20 HTTP/1.1\r\n")
        assert first.endswith(json.dumps(CHAT).encode())
        assert b"Bearer" not in first
        assert engine.connections == 1
        router.connections.close()
    eventually(lambda: router.counts() == {"200": 2})


def test_one_that_waits_is_answered_when_its_model_is_ready(router: Router) -> None:
    router.ready("a", "")
    with Engine(answers(sized(b"{}"))) as engine, Client(router, post(CHAT)) as client:
        eventually(lambda: router.world.held() == 1)
        router.ready("a", engine.address)
        head = client.head()
        assert "X-Queue-Position: 1" in head
        assert "X-Hotseat-Model: a" in head
        router.connections.close()


@pytest.mark.parametrize("ahead", [b"", b"GET /v1/models HTTP/1.1\r\n"])
def test_one_whose_client_leaves_is_gone_at_once(router: Router, ahead: bytes) -> None:
    router.ready("a", "")
    with Client(router, post(CHAT) + ahead):
        eventually(lambda: router.world.held() == 1)
    eventually(lambda: router.counts() == {"499": 1})
    router.check_nothing_is_left()


def test_one_is_sent_once_if_its_timer_ends_when_it_is_dispatched(router: Router) -> None:
    router.ready("a", "", names=["a", "alias"])
    large = post({"model": "alias", "messages": ["x" * 900_000]}, "X-Request-Timeout: 30s")
    with Engine(answers(sized(b"{}"))) as engine, Client(router, large) as client:
        eventually(lambda: router.world.held() == 1)
        (pending,) = router.world.handles[0].gate._pending_requests.values()
        eventually(lambda: pending._settled is not None)
        end_of_timer = pending._settled.__self__._woken
        router.call(lambda: (router.ready("a", engine.address, names=["a", "alias"]), end_of_timer()))
        assert client.answer() == (200, b"{}")
        router.connections.close()
    assert len(engine.requests) == 1


def test_one_may_limit_its_wait(router: Router) -> None:
    router.ready("a", "")
    with Client(router, post(CHAT, "X-Hotseat-Max-Wait: 100ms") + post(CHAT, "X-Hotseat-Max-Wait: 0s")) as client:
        for _ in range(2):
            status, body = client.answer()
            assert (status, code(body)) == (503, "wait_timeout")
    eventually(lambda: router.counts() == {"503": 2})


def test_refusals_have_their_status_and_keep_nothing(router: Router) -> None:
    router.ready("a", "")
    cases = [
        (post(CHAT, key="other"), 401, "invalid_api_key"),
        (post(b"{"), 400, "invalid_json"),
        (post({"model": "nobody"}), 404, "model_not_found"),
        (post(CHAT, "X-Priority: high"), 400, "invalid_request"),
        (post(CHAT, "Content-Encoding: gzip"), 415, "unsupported_encoding"),
    ]
    with Client(router, b"".join(request for request, _, _ in cases)) as client:
        for _, status, reason in cases:
            answer = client.answer()
            assert (answer[0], code(answer[1])) == (status, reason)
    with Client(
        router, b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nx-api-key: k\r\nContent-Length: 1000001\r\n\r\n"
    ) as client:
        assert client.answer()[0] == 413
    eventually(lambda: router.counts() == {"401": 1, "400": 2, "404": 1, "415": 1, "413": 1})


def test_more_than_fit_are_refused_and_places_come_back(router: Router) -> None:
    router.ready("a", "")
    clients = [Client(router, post(CHAT)) for _ in range(PLACES)]
    eventually(lambda: router.world.held() == PLACES)
    with Client(router, post(CHAT)) as client:
        status, body = client.answer()
        assert (status, code(body)) == (429, "too_many_requests")
    for client in clients:
        client.sock.close()
    eventually(lambda: router.counts() == {"429": 1, "499": PLACES})


def test_bodies_count_from_their_first_byte(router: Router) -> None:
    """As long as they are, if they say so, else as much as has come: those that never come whole take no memory beyond the limit."""
    router.ready("a", "")
    inference_ = router.http.service._inference
    router.call(lambda: setattr(inference_, "body_budget", BodyBudget(1_000_000)))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nx-api-key: k\r\n"
    chunk_ = b"61a80\r\n" + b" " * 400_000 + b"\r\n"
    with Client(router, head + b"Content-Length: 600000\r\n\r\n"):
        eventually(lambda: router.call(lambda: inference_.body_budget._kept) == 600_000)
        for begin, more in (
            (b"Content-Length: 600000\r\n\r\n", b""),
            (b"Transfer-Encoding: chunked\r\n\r\n" + chunk_, chunk_),
        ):
            with Client(router, head + begin) as client:
                if more:
                    eventually(lambda: router.call(lambda: inference_.body_budget._kept) == 1_000_000)
                    client.send(more)
                status, body = client.answer()
                assert (status, code(body)) == (429, "too_many_bytes")
        eventually(lambda: router.call(lambda: inference_.body_budget._kept) == 600_000)
    eventually(lambda: router.counts() == {"429": 2, "499": 1})


def test_what_clients_make_up_makes_no_metrics(router: Router) -> None:
    router.ready("a", "")
    sent = [post({"model": f"nobody-{number}"}, f"X-Tenant: {number}") for number in range(30)]
    sent += [post(b"{", path=f"/v1/completions?{number}", key=str(number)) for number in range(30)]
    with Client(router, b"".join(sent)) as client:
        assert [client.answer()[0] for _ in sent] == [404] * 30 + [401] * 30
    assert len(router.metrics.expose()[0].decode().split("hotseat_requests_total{")) == 3


def test_a_large_body_is_parsed_elsewhere_and_arrives_whole_under_the_name_that_its_engine_has(router: Router) -> None:
    said = "x" * 900_000
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, names=["a", "alias"])
        with Client(router, post({"model": "alias", "messages": [said]})) as client:
            assert client.answer() == (200, b"{}")
        assert json.loads(engine.requests[0].partition(b"\r\n\r\n")[2]) == {"model": "a", "messages": [said]}
        router.connections.close()


def test_one_whose_engine_has_ended_before_it_saw_anything_waits_again(router: Router, gone: Gone) -> None:
    router.ready("a", gone.address)
    with Engine(answers(sized(b"{}"))) as engine, Client(router, post(CHAT)) as client:
        router.ready("a", "")
        eventually(lambda: router.world.handles[0].gate.waiting() == 1)
        router.ready("a", engine.address)
        assert client.answer() == (200, b"{}")
        router.connections.close()


def test_one_whose_pod_has_ended_goes_to_another_pod_of_its_engine(router: Router, gone: Gone) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        (both,) = resident("a", gone.address)
        router.world.tell("w", model("a", concurrency=1), residents=[both | {"moreAddresses": [engine.address]}])
        with Client(router, post(CHAT)) as client:
            eventually(lambda: router.world.held() == 1)
            router.world.tell("w", model("a", concurrency=1), residents=resident("a", engine.address))
            assert client.answer() == (200, b"{}")
        router.connections.close()


def test_an_engine_that_is_not_there_and_has_not_ended_is_an_error(router: Router, gone: Gone) -> None:
    router.ready("a", gone.address)
    with Client(router, post(CHAT)) as client:
        status, body = client.answer()
        assert (status, code(body)) == (502, "upstream_failed")
    eventually(lambda: router.counts() == {"502": 1})


def external(router: Router, address: str, wait: str) -> None:
    """Tell of a server that something else starts and stops."""
    router.ready("a", address, engine="external", url=address, lifecycle={"connectTimeout": wait})


def test_one_for_an_external_server_that_is_not_there_is_in_flight_until_it_is(router: Router, gone: Gone) -> None:
    external(router, gone.address, "30s")
    with Client(router, post(CHAT)) as client, Client(router, post(CHAT)) as leaver:
        eventually(lambda: router.world.handles[0].gate.in_flight_of("a") == 2)
        leaver.sock.close()
        eventually(lambda: router.world.handles[0].gate.in_flight_of("a") == 1)
        with Engine(answers(sized(b"{}")), port=int(gone.address.rpartition(":")[2])) as engine:
            assert client.answer() == (200, b"{}")
            assert (engine.connections, len(engine.requests)) == (1, 1)
            router.connections.close()
    eventually(lambda: router.counts() == {"200": 1, "499": 1})


def test_one_for_an_external_server_that_is_not_there_ends_with_its_model(router: Router, gone: Gone) -> None:
    external(router, gone.address, "30s")
    with Client(router, post(CHAT)) as client:
        eventually(lambda: router.world.handles[0].gate.in_flight_of("a") == 1)
        router.ready("a", "")
        status, body = client.answer()
        assert (status, code(body)) == (503, "model_stopped")
    eventually(lambda: router.counts() == {"503": 1})


def test_one_for_an_external_server_that_is_not_there_goes_to_a_fallback_that_is_there_later(
    router: Router, monkeypatch: pytest.MonkeyPatch, gone: Gone
) -> None:
    monkeypatch.setattr(inference, "LOOK", 0.05)
    spec = {"engine": "external", "url": gone.address, "lifecycle": {"connectTimeout": "30s"}}
    models = model("a", **spec, fallback={"model": "c", "when": ["Failed"]}), model("c")
    router.world.tell("w", *models, residents=resident("a", gone.address))
    with Engine(answers(sized(b"{}"))) as engine, Client(router, post(CHAT)) as client:
        eventually(lambda: router.world.handles[0].gate.in_flight_of("a") == 1)
        router.world.tell("w", *models, residents=resident("a", gone.address) + resident("c", engine.address))
        assert client.answer() == (200, b"{}")
        eventually(lambda: not router.call(lambda: router.http.service._inference.reconnector._servers))
        router.connections.close()


@pytest.mark.parametrize(("wait", "header"), [("100ms", "X-A: b"), ("30s", "X-Request-Timeout: 100ms")])
def test_one_for_an_external_server_that_is_not_there_fails_after_its_time(
    router: Router, wait: str, header: str, gone: Gone
) -> None:
    external(router, gone.address, wait)
    began = time.monotonic()
    with Client(router, post(CHAT, header)) as client:
        status, body = client.answer()
        assert (status, code(body)) == (502, "upstream_failed")
    assert 0.1 <= time.monotonic() - began < 10


@pytest.mark.parametrize("begun", [False, True])
def test_a_model_that_is_stopped_under_its_request_ends_it_with_our_error(router: Router, begun: bool) -> None:
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
        router.ready("a", "")
        status, body = client.answer()
        error = json.loads(body.rpartition(b"data: ")[2] if begun else body)["error"]
        assert (status, error["code"]) == (200 if begun else 503, "model_stopped")
        assert engine.closed.wait(10)
    eventually(lambda: router.counts() == {"503": 1})


def test_loading_is_told_to_those_who_ask(router: Router) -> None:
    router.ready("a", "")
    comments = "X-Hotseat-Loading: comments"
    with Engine(answers(SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n")) as engine:
        with Client(router, post({**CHAT, "stream": True}, comments, "Accept-Encoding: gzip")) as client:
            assert client._read(lambda data: data.find(b": hotseat") + 1 or None)
            router.ready("a", engine.address)
            eventually(lambda: engine.requests)
            assert b"gzip" not in engine.requests[0]
        router.connections.close()


def test_pages_of_allowed_origins_get_one_cors_answer_on_every_route(router: Router) -> None:
    lying = sized(b"{}", b"Access-Control-Allow-Origin: *\r\n")
    origin = "Origin: https://app.example"
    with Engine(answers(lying)) as engine:
        router.ready("a", engine.address)
        get = b"GET %b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer k\r\nOrigin: https://app.example\r\n\r\n"
        preflight = b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: h\r\nOrigin: https://app.example\r\n\r\n"
        with Client(router) as client:
            for request in (post(CHAT, origin), post(b"{", origin), get % b"/v1/models", get % b"/nowhere", preflight):
                client.send(request)
                head = client.head()
                client._rest = b""
                assert head.count("Access-Control-Allow-Origin: https://app.example\r\n") == 1
                assert head.count("Access-Control-Allow-Origin") == 1
            client.sock.close()
        assert b"Origin" not in engine.requests[0]
        router.connections.close()


def test_routes_in_flask_are_served_beside_it(router: Router) -> None:
    router.ready("a", "")
    request = b"GET %b HTTP/1.1\r\nHost: h\r\n%b\r\n"
    with Client(router, request % (b"/health", b"") + request % (b"/v1/models", b"")) as client:
        assert client.answer()[0] == 200
        assert client.answer()[0] == 401
        client.send(request % (b"/v1/models", b"Authorization: Bearer k\r\n"))
        assert [each["id"] for each in json.loads(client.answer()[1])["data"]] == ["a"]
