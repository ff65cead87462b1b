"""What a key may do: each route by each operation by each spelling of a key, from the table of routes; Models, limits, reloads."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.gateway.apis import find_route
from hotseat.gateway.auth import ApiKey, Keys, Operation, digest_of
from hotseat.gateway.openapi import operations_of
from tests.unit.gateway.http.test_connection import Client
from tests.unit.gateway.relay.fake_engine import Engine, answers, sized
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import CHAT, Router, post, resident
from tests.unit.gateway.test_openapi import NoCaches, gateway

SECRETS = {operation: f"hs-{operation}-secret" for operation in Operation}
SPELLINGS = {
    "bearer": lambda key: (
        f"Authorization: Bearer {key}"
    ),  # OpenAI's, Anthropic's (auth_token), Ollama's and llama.cpp's clients
    "lower-case": lambda key: f"authorization: bearer {key}",
    "basic": lambda key: "Authorization: Basic " + base64.b64encode(f"who:{key}".encode()).decode(),
    "x-api-key": lambda key: f"x-api-key: {key}",  # Anthropic's clients, llama.cpp's
    "api-key": lambda key: f"api-key: {key}",  # clients of Azure's API
    "subprotocol": lambda key: f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{key}",
    "second": lambda key: f"Authorization: Bearer dummy\r\nx-api-key: {key}",
}
ROUTES = {
    **operations_of(gateway(), find_route),
    "GET /upstream/a/": (Operation.OPERATE,),
    "POST /upstream/a/v1/chat/completions": (Operation.OPERATE,),
}


def key(name: str, **rights: Any) -> ApiKey:
    return ApiKey(name, digest_of(f"hs-{name}-secret".encode()), **rights)


def serving(*keys: ApiKey, **more: Any) -> Router:
    return Router("uvloop", keys=Keys(keys), caches=NoCaches(), **more)


@pytest.fixture(scope="module")
def table() -> Iterator[Router]:
    """A gateway with one key an operation."""
    router = serving(*(key(each, operations=frozenset({each})) for each in Operation))
    yield router
    router.close()


def said(router: Router, route: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], str]:
    """Status, headers and the code of an error. A stream is not waited for."""
    method, _, rule = route.partition(" ")
    path = re.sub(r"<any\((\w+).*?>", r"\1", re.sub(r"<(model:|path:)?\w+>", "a", rule))
    lines = [f"{method} {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *headers, "", ""]
    with Client(router, "\r\n".join(lines).encode() + body) as client:
        head = client.head()
        fields = {n.lower(): v for n, _, v in (line.partition(": ") for line in head.splitlines()[1:])}
        code = ""
        if int(head.split()[1]) >= 400 and "content-length" in fields:
            told = json.loads(
                client._read(lambda data: ((n := int(fields["content-length"])) <= len(data) and n) or None)
            )
            code = str(told.get("code") or (told["error"].get("code") if isinstance(told.get("error"), dict) else ""))
        return int(head.split()[1]), fields, code


def test_each_route_says_what_a_key_needs() -> None:
    assert [route for route, operations in ROUTES.items() if operations == ()] == []
    open_routes = ["GET /health", "GET /ready", "GET /ui", "GET /ui/", "GET /ui/static/<name>"]
    assert sorted(route for route, operations in ROUTES.items() if operations is None) == open_routes
    assert len(ROUTES) > 60


def test_what_has_prompts_or_changes_anything_needs_operate() -> None:
    for route, operations in ROUTES.items():
        method, _, path = route.partition(" ")
        if path.startswith("/v1/responses/"):
            continue  # refused in any case
        if (
            "logs" in path
            or "captures" in path
            or path in {"/slots", "/unload", "/models/unload"}
            or (method != "GET" and find_route(method, path) is None and path != "/api/show")
        ):
            assert operations == (Operation.OPERATE,), route


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_key_opens_the_routes_of_its_operations_and_no_others(table: Router, route: str, spelling: str) -> None:
    needed = ROUTES[route]
    for operation, secret in SECRETS.items():
        status, _, code = said(table, route, SPELLINGS[spelling](secret))
        refused = (status, code) == (403, "operation_not_allowed")
        assert status != 401, (operation, code)
        assert refused == (needed is not None and operation not in needed), (operation, status, code)


@pytest.mark.parametrize("route", ROUTES)
def test_without_a_valid_key_none_is_open(table: Router, route: str) -> None:
    for header in ("X: y", *(spelling("hs-wrong") for spelling in SPELLINGS.values()), "Authorization: Basic Og=="):
        assert (said(table, route, header)[0] == 401) == (ROUTES[route] is not None), header


def test_a_key_in_the_url_is_no_key_and_a_valid_one_is_refused(table: Router) -> None:
    secret = SECRETS[Operation.INFER]
    assert said(table, f"GET /v1/models?api_key={secret}")[::2] == (401, "api_key_in_url")
    for name in ("key", "api_key", "access_token"):
        told = said(table, f"GET /v1/models?x=1&{name}={secret.replace('-', '%2D')}", f"x-api-key: {secret}")
        assert told[::2] == (401, "api_key_in_url")
    assert said(table, "GET /v1/models?key=other", f"x-api-key: {secret}")[0] == 200


def test_a_route_that_says_nothing_needs_operate() -> None:
    router = serving(*(key(each, operations=frozenset({each})) for each in Operation))
    router.gateway.add_url_rule("/new", "new", lambda: "")
    told = {each: said(router, "GET /new", f"x-api-key: {secret}")[0] for each, secret in SECRETS.items()}
    assert told == {Operation.INFER: 403, Operation.READ: 403, Operation.OPERATE: 200}
    assert operations_of(router.gateway, find_route)["GET /new"] == ()
    router.close()


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Router]:
    router = serving(
        key("some", models=("small*", "team/?")), key("all"), key("infer", operations=frozenset({Operation.INFER}))
    )
    router.world.tell(
        "w", model("big", names=["big", "big:8b"]), model("s", names=["small-1", "s"]), model("t", names=["team/a"])
    )
    yield router
    router.close()


SOME, ALL = "x-api-key: hs-some-secret", "x-api-key: hs-all-secret"


def listed(router: Router, path: str, header: str) -> set[str]:
    with Client(router, f"GET {path} HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n".encode()) as client:
        told = json.loads(client.answer()[1])
    return {each.get("id") or each["name"] for each in told.get("data") or told.get("models")}


def test_lists_have_the_models_that_a_key_may_use(shared: Router) -> None:
    assert listed(shared, "/v1/models", ALL) == {"big", "small-1", "team/a"}
    assert listed(shared, "/v1/models", SOME) == {"small-1", "team/a"}
    assert listed(shared, "/api/tags", SOME) == {"small-1:latest", "s:latest", "team/a:latest"}


@pytest.mark.parametrize("name", ["big", "big:8b", "unknown"])
def test_another_model_is_forbidden_whether_or_not_it_exists(shared: Router, name: str) -> None:
    refused = 403, "model_not_allowed"
    body = json.dumps({"model": name}).encode()
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/completion", "/api/show", "/api/pull"):
        assert said(shared, f"POST {path}", SOME, body=body)[::2] == refused, path
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--b--\r\n' % name.encode()
    told = said(
        shared, "POST /v1/audio/transcriptions", SOME, "Content-Type: multipart/form-data; boundary=b", body=form
    )
    assert told[::2] == refused
    for path in (f"/v1/models/{name}", f"/props?model={name}", f"/upstream/{name}/", f"/api/models/{name}/logs"):
        assert said(shared, f"GET {path}", SOME)[::2] == refused, path
    for command in ("load", "unload", "pin", "unpin"):
        assert said(shared, f"POST /api/models/{name}/{command}", SOME)[::2] == refused
    assert said(shared, f"POST /api/cache/clear?model={name}", SOME)[::2] == refused
    assert shared.world.held() == 0


@pytest.mark.parametrize("name", ["small-1", "s", "team/a"])
def test_any_name_of_a_model_that_fits_opens_it(shared: Router, name: str) -> None:
    assert said(shared, f"GET /v1/models/{name}", SOME)[0] == 200
    assert said(shared, "POST /api/show", SOME, body=json.dumps({"model": f"{name}:latest"}).encode())[0] == 200


@pytest.mark.parametrize(
    "route",
    ["POST /api/models/unload", "POST /api/models/unload?model=s", "GET /unload", "POST /models/unload", "GET /logs", "GET /logs/stream",
     "GET /logs/stream/proxy", "POST /api/requests/1-1/cancel", "GET /api/captures/1", "POST /api/cache/clear"],
)  # fmt: skip
def test_what_is_for_all_models_is_not_for_a_key_of_some(shared: Router, route: str) -> None:
    assert said(shared, route, SOME)[::2] == (403, "model_not_allowed")
    assert said(shared, "GET /running", SOME)[0] == 200, "but the state is"


def test_a_request_without_a_model_is_for_one_that_the_key_may_use(shared: Router) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        shared.world.tell("w", model("big"), model("s"), residents=resident("big", engine.address))
        assert said(shared, "POST /infill", SOME, body=b"{}")[::2] == (403, "model_not_allowed")
        assert said(shared, "POST /infill", ALL, body=b"{}")[0] == 200
        shared.connections.close()


def test_to_unload_by_a_request_for_inference_needs_operate(shared: Router) -> None:
    body = json.dumps({"model": "s", "keep_alive": 0}).encode()
    assert said(shared, "POST /api/generate", "x-api-key: hs-infer-secret", body=body)[::2] == (
        403,
        "operation_not_allowed",
    )
    assert said(shared, "POST /api/generate", SOME, body=body)[0] != 403


# Limits ---------------------------------------------------------------------------------------------------------------


def test_a_key_with_too_many_requests_a_minute_is_told_when_to_come_again() -> None:
    router = serving(key("slow", requests_per_minute=2), key("all"))
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address)
        body = json.dumps(CHAT).encode()
        told = [said(router, "POST /v1/chat/completions", "x-api-key: hs-slow-secret", body=body) for _ in range(3)]
        assert [status for status, _, _ in told] == [200, 200, 429]
        assert [fields["x-ratelimit-remaining-requests"] for _, fields, _ in told] == ["1", "0", "0"]
        assert {fields["x-ratelimit-limit-requests"] for _, fields, _ in told} == {"2"}
        _, fields, code = told[2]
        assert (code, 1 <= int(fields["retry-after"]) <= 30) == ("rate_limit_exceeded", True)
        assert 55 < float(fields["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        status, fields, _ = said(router, "POST /v1/chat/completions", ALL, body=body)
        assert (status, "x-ratelimit-limit-requests" in fields) == (200, False)
        assert said(router, "GET /v1/models", "x-api-key: hs-slow-secret")[0] == 200, "only inference counts"
        router.connections.close()
    router.close()


def test_a_key_has_so_many_requests_at_once() -> None:
    router = serving(key("one", concurrency=1), key("all"))
    router.ready("a", "")
    request = post(CHAT, key="hs-one-secret")
    with Client(router, request) as waits, Client(router, request) as second:
        head = second.head()
        assert " 429 " in head
        assert "Retry-After: 1\r\n" in head
        waits.sock.close()
        router.check_nothing_is_left()
        with Engine(answers(sized(b"{}"))) as engine:
            router.ready("a", engine.address)
            for bad in (b"{", b'{"model": "unknown"}', json.dumps(CHAT).encode()):
                with Client(router, post(bad, key="hs-one-secret")) as client:
                    assert client.answer()[0] in {200, 400, 404}, "each ended request makes room"
            router.connections.close()
    router.close()


# Changes --------------------------------------------------------------------------------------------------------------


def test_changed_keys_hold_for_the_next_request_of_a_known_head() -> None:
    router = serving(key("old"), key("all"))
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address)
        with Client(router) as client:

            def status() -> int:
                client.send(post(CHAT, key="hs-old-secret"))
                return client.answer()[0]

            assert [status(), status()] == [200, 200]
            keys = router.http.service._keys
            keys.replace([key("all")])
            assert [status(), status()] == [401, 401]
            keys.replace([key("old", operations=frozenset({Operation.READ}))])
            assert [status(), status()] == [403, 403]
            keys.replace([key("old")])
            assert [status(), status(), status()] == [200, 200, 200]
        router.connections.close()
    router.close()


def test_what_was_used_of_limits_stays_used_unless_they_change() -> None:
    keys = Keys([key("a", requests_per_minute=1)])
    used = keys.table.limits["a"]
    keys.replace([key("a", requests_per_minute=1, weight=3), key("b")])
    assert keys.table.limits == {"a": used}
    assert keys.weights == {"a": 3}
    keys.replace([key("a", requests_per_minute=2)])
    assert keys.table.limits["a"] is not used


def test_a_key_is_a_tenant_with_its_weight() -> None:
    router = serving(key("heavy", weight=7))
    router.ready("a", "")
    router.world.set_key_weights(router.http.service._keys.weights)
    with Client(router, post(CHAT, key="hs-heavy-secret")):
        gate = router.world.handles[0].gate
        assert "heavy" in (router.call(gate._machine.demand).waiting["a"].tenants if _waits(router) else {})
        assert router.call(lambda: gate._machine._request_queues._sharing.weights) == {"heavy": 7}
    router.close()


def _waits(router: Router) -> bool:
    from tests.unit.gateway.http.running import eventually

    return bool(eventually(lambda: router.world.held() == 1))


# Web pages ------------------------------------------------------------------------------------------------------------

PAGE = "Origin: https://app.example"


@pytest.mark.parametrize("route", ROUTES)
def test_a_page_may_ask_before_any_route_and_reads_each_refusal(table: Router, route: str) -> None:
    asked = said(
        table, f"OPTIONS {route.partition(' ')[2]}", PAGE, "Access-Control-Request-Headers: authorization, x-api-key"
    )
    assert asked[0] == 204
    assert asked[1]["access-control-allow-origin"] == "https://app.example"
    assert asked[1]["access-control-allow-headers"] == "authorization, x-api-key"
    assert route.partition(" ")[0] in asked[1]["access-control-allow-methods"].split(", ")
    assert "access-control-allow-credentials" not in asked[1]
    for header in ("X: y", "x-api-key: wrong", f"x-api-key: {SECRETS[Operation.READ]}"):
        assert said(table, route, PAGE, header)[1]["access-control-allow-origin"] == "https://app.example"
    other = said(table, f"OPTIONS {route.partition(' ')[2]}", "Origin: https://evil.example")
    assert not [name for name in other[1] if name.startswith("access-control-")]


def test_a_page_reads_that_there_are_too_many_requests() -> None:
    router = serving(key("slow", requests_per_minute=1))
    router.ready("a", "")
    told = [said(router, "POST /v1/chat/completions", PAGE, "x-api-key: hs-slow-secret", body=b"{") for _ in range(2)]
    assert [(status, fields["access-control-allow-origin"]) for status, fields, _ in told] == [
        (400, "https://app.example"),
        (429, "https://app.example"),
    ]
    assert told[1][1]["access-control-expose-headers"] == "*"
    router.close()
