"""`/upstream/{model}/…`: which Model a path is for, what loads it, what is refused, and what a browser gets."""

import json
from typing import Any

import pytest

from hotseat.api.workspace import Workspace
from hotseat.core.errors import NotFound, UnknownModel
from hotseat.gateway.upstream import SANDBOX, controls_engine, find_model, navigates, rewritten
from tests.unit.gateway.http.running import eventually
from tests.unit.gateway.http.test_connection import Client, code
from tests.unit.gateway.relay.fake_engine import Engine, answers, sized
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import Router, post, resident, router

__all__ = ["router"]  # a fixture

HTML = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
ADDRESS = "http://127.0.0.1:8123"


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", "x-api-key: k", *headers, "", ""]).encode()


class Names:
    """A registry that knows some names."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def knows(self, name: str) -> bool:
        return name in self._names

    def find(self, name: str) -> None:
        if name not in self._names:
            raise UnknownModel(name)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"/upstream/a", ("a", b"/upstream/a", b"")),
        (b"/upstream/a/", ("a", b"/upstream/a", b"/")),
        (b"/upstream/a/v1//x%2Fy", ("a", b"/upstream/a", b"/v1//x%2Fy")),
        (b"/upstream/a/b/c", ("a/b", b"/upstream/a/b", b"/c")),
        (b"/upstream/a%2Fb/c", ("a/b", b"/upstream/a%2Fb", b"/c")),
        (b"/upstream/%61/b", ("a/b", b"/upstream/%61/b", b"")),
        (b"/upstream/" + "ü:latest".encode() + b"/c", ("ü:latest", b"/upstream/" + "ü:latest".encode(), b"/c")),
        (b"/upstream//slash/c", ("/slash", b"/upstream//slash", b"/c")),
        (b"/upstream/a" + b"/x" * 10_000, ("a", b"/upstream/a", b"/x" * 10_000)),
    ],
)
def test_the_longest_name_that_a_model_has_counts(raw: bytes, found: tuple[str, bytes, bytes]) -> None:
    assert find_model(raw, Names("a", "a/b", "ü:latest", "/slash")) == found


@pytest.mark.parametrize("raw", [b"/upstream/", b"/upstream/nobody/a", b"/upstream//a", b"/upstream/../a"])
def test_a_path_without_a_model_has_its_first_segment(raw: bytes) -> None:
    assert find_model(raw, Names("a"))[0] == raw.split(b"/")[2].decode()


def test_a_path_that_only_becomes_one_by_decoding_is_not_found() -> None:
    with pytest.raises(NotFound):
        find_model(b"/%75pstream/a", Names("a"))


@pytest.mark.parametrize(
    "path",
    [
        "/slots/0", "//slots//0", "/slots/0/", "/x/../slots/0", "/./slots/0", "/%73lots/0", "/%2573lots/0", "/slots%2F0", "/slots%252f0",
        "/SLOTS/0", "\\slots\\0", "/slots;x/0", "/slots%20/0", "/props", "/props/", "/prefix/props", "/props?", "/sleep", "/wake_up",
        "/%" + "25" * 5 + "73lots", "/%" + "25" * 20 + "61",
    ],
)  # fmt: skip
def test_what_controls_an_engine_is_refused_however_it_is_spelled(path: str) -> None:
    assert controls_engine("POST", path.partition("?")[0].encode(), "action=erase")


@pytest.mark.parametrize(
    ("method", "path", "query", "refused"),
    [
        ("GET", "/slots", "", False), ("GET", "/props", "", False), ("GET", "/slots/0", "action=save", True),
        ("GET", "/slots/0", "%61ction=save", True), ("POST", "/v1/chat/completions", "", False), ("POST", "/slotsx", "", False),
        ("DELETE", "/slots/0", "", True), ("POST", "/v1/100%25", "", False),
    ],
)  # fmt: skip
def test_what_only_reads_is_allowed(method: str, path: str, query: str, refused: bool) -> None:
    assert controls_engine(method, path.encode(), query) is refused


@pytest.mark.parametrize(
    ("headers", "does"),
    [
        ({"sec-fetch-mode": "navigate", "sec-fetch-site": "none", "sec-fetch-user": "?1"}, True),
        ({"sec-fetch-mode": "navigate", "sec-fetch-site": "same-origin", "sec-fetch-dest": "iframe"}, True),
        ({"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site", "sec-fetch-user": "?1"}, True),
        ({"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"}, False),
        (
            {
                "sec-fetch-mode": "navigate",
                "sec-fetch-site": "cross-site",
                "sec-fetch-dest": "iframe",
                "sec-fetch-user": "?1",
            },
            False,
        ),
        ({"sec-fetch-mode": "navigate", "sec-purpose": "prefetch;prerender"}, False),
        ({"sec-fetch-mode": "no-cors", "accept": "text/html"}, False),
        ({"accept": HTML.removeprefix("Accept: ")}, True),
        ({"accept": "text/html"}, True),
        ({"accept": "*/*"}, False),
        ({"accept": "application/json, text/html;q=0.9"}, False),
        ({"accept": "text/html;q=0"}, False),
        ({"accept": "text/html;q=x"}, False),
        ({}, False),
    ],
)
def test_who_navigates(headers: dict[str, str], does: bool) -> None:
    assert navigates(headers) is does


@pytest.mark.parametrize(
    ("location", "becomes"),
    [
        ("/login?next=/a", "/upstream/a/login?next=/a"),
        ("/", "/upstream/a/"),
        ("relative/x", "relative/x"),
        ("?q", "?q"),
        (f"{ADDRESS}/x?y#z", "/upstream/a/x?y#z"),
        (ADDRESS, "/upstream/a/"),
        ("//127.0.0.1:8123/x", "/upstream/a/x"),
        ("//other/x", "//other/x"),
        ("https://example.org/x", "https://example.org/x"),
        ("http://[", "http://["),
    ],
)
def test_redirects_stay_below_the_model(location: str, becomes: str) -> None:
    fields = rewritten(f"Location: {location}\r\n".encode(), b"/upstream/a", ADDRESS)
    assert fields.split(b"\r\n")[0] == f"Location: {becomes}".encode()


def test_a_page_gets_an_origin_of_its_own_and_keeps_nothing_in_the_browser() -> None:
    engine = (
        b"Content-Type: text/html\r\nSet-Cookie: a=b\r\nClear-Site-Data: *\r\nContent-Security-Policy: img-src *\r\n"
    )
    fields = rewritten(engine, b"/upstream/a", ADDRESS)
    assert fields == (
        b"Content-Type: text/html\r\nContent-Security-Policy: img-src *\r\n"
        + f"Content-Security-Policy: {SANDBOX}\r\n".encode()
    )
    assert "allow-same-origin" not in SANDBOX
    assert rewritten(engine, b"/upstream/a", ADDRESS, sandboxed=False).count(b"\r\n") == 2


def test_a_page_is_relayed_with_its_query_and_without_keys_and_cookies(router: Router) -> None:
    page = sized(b"<html>", b"Set-Cookie: a=b\r\n")
    with Engine(answers(page)) as engine:
        router.ready("a", engine.address, names=["org/a"])
        with Client(router, get("/upstream/org/a/x%2Fy//z?q=%20", "Authorization: Bearer k", "Cookie: s=1")) as client:
            head = client.head()
            assert head.startswith("HTTP/1.1 200 OK\r\n")
            assert f"Content-Security-Policy: {SANDBOX}\r\n" in head
            assert "Set-Cookie" not in head
        assert engine.requests[0].startswith(b"GET /x%2Fy//z?q=%20 HTTP/1.1\r\n")
        assert b"Bearer" not in engine.requests[0]
        assert b"Cookie" not in engine.requests[0]
        router.connections.close()
    eventually(lambda: router.counts() == {"200": 1})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_any_other_method_waits_for_the_model_with_any_body(router: Router, method: str) -> None:
    router.ready("a", "")
    sent = post(b"\x00no json", "Content-Encoding: gzip", path="/upstream/a/v1/anything").replace(
        b"POST", method.encode(), 1
    )
    with Engine(answers(sized(b"{}"))) as engine, Client(router, sent) as client:
        eventually(lambda: router.world.held() == 1)
        router.ready("a", engine.address)
        assert client.answer() == (200, b"{}")
        assert engine.requests[0].startswith(f"{method} /v1/anything ".encode())
        assert engine.requests[0].endswith(b"\x00no json")
        router.connections.close()


def test_a_get_loads_only_if_a_person_opens_the_page(router: Router) -> None:
    router.ready("a", "")
    for sent in (
        get("/upstream/a/metrics"),
        get("/upstream/a/x", HTML, method="HEAD"),
        get("/upstream/a/x", method="OPTIONS"),
    ):
        with Client(router, sent) as client:
            assert client.head().startswith("HTTP/1.1 409 ")
    with Client(router, get("/upstream/a/metrics")) as client:
        status, body = client.answer()
        assert (status, code(body)) == (409, "not_loaded")
    assert router.world.held() == 0
    with Engine(answers(sized(b"<html>"))) as engine, Client(router, get("/upstream/a/", HTML)) as client:
        eventually(lambda: router.world.held() == 1)
        router.ready("a", engine.address)
        assert client.answer() == (200, b"<html>")
        router.connections.close()


def test_some_paths_load_nothing_whoever_wants_them(router: Router) -> None:
    router.ready("a", "")
    (handle,) = router.world.handles
    spec = {"upstream": {"noLoadPaths": ["*.js", "/api/ping"]}}
    handle.workspace = Workspace.model_validate({"kind": "Workspace", "metadata": {"name": "w"}, "spec": spec})
    for sent in (get("/upstream/a/x/y.js?z", HTML), post({}, path="/upstream/a/api/%70ing")):
        with Client(router, sent) as client:
            assert client.answer()[0] == 409


def test_a_fallback_answers_no_request_for_an_engine(router: Router) -> None:
    with Engine(answers(sized(b"{}"))) as engine:
        models = model("a", fallback={"model": "b"}), model("b")
        router.world.tell("w", *models, residents=resident("b", engine.address))
        with Client(router, get("/upstream/a/x")) as client:
            assert client.answer()[0] == 409
        assert not engine.requests


def test_a_slash_is_added_so_that_links_stay_below_the_model(router: Router) -> None:
    router.ready("a", "", names=["org/a", "\ufffd"])
    with Client(router, get("/upstream/org%2Fa?x=1", HTML)) as client:
        head = client.head()
        assert head.startswith("HTTP/1.1 307 ")
        assert "Location: /upstream/org%2Fa/?x=1\r\n" in head
    with Client(router, get("/upstream/X", HTML).replace(b"X", b"\xff", 1)) as client:
        assert client.head().partition(" ")[2][:3] in ("400", "307"), "no error of ours"


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (get("/upstream/nobody/x"), 404, "model_not_found"),
        (get("/%75pstream/a/x"), 404, "not_found"),
        (post({}, path="/upstream/a/slots/0?action=erase"), 403, "path_not_allowed"),
        (post({}, path="/upstream/a/x", key="other"), 401, "invalid_api_key"),
        (get("/upstream/a/x", method="TRACE"), 501, "not_implemented"),
        (post({}, "X-Priority: high", path="/upstream/a/x"), 400, "invalid_request"),
    ],
)
def test_refusals(router: Router, sent: bytes, status: int, reason: str) -> None:
    router.ready("a", "")
    with Client(router, sent) as client:
        answer = client.answer()
        assert (answer[0], code(answer[1])) == (status, reason)


def switches(peer: Any) -> None:
    peer.request()
    peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSet-Cookie: a=b\r\n\r\n"
    )
    while data := peer.sock.recv(65536):
        peer.send(b"<" + data + b">")


def test_a_websocket_is_relayed_and_sets_no_cookie(router: Router) -> None:
    offered = "Sec-WebSocket-Protocol: openai-insecure-api-key.k, chat"
    asked = get("/upstream/a/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k", offered)
    with Engine(switches) as engine:
        router.ready("a", engine.address)
        with Client(router, asked) as client:
            head = client.head()
            assert head.startswith("HTTP/1.1 101 ")
            assert "Set-Cookie" not in head
            client.send(b"hi")
            client._read(lambda data: 0 if b"<hi>" in data else None)
        assert b"Sec-WebSocket-Protocol: chat\r\n" in engine.requests[0], "the key is for hotseat"
        router.connections.close()
    eventually(lambda: router.counts() == {"101": 1} or router.counts() == {"499": 1})


def test_requests_for_engines_are_listed(router: Router) -> None:
    router.ready("a", "")
    with Client(router, post({}, path="/upstream/a/x")):
        eventually(lambda: router.world.held() == 1)
        with Client(router, get("/api/requests")) as client:
            (row,) = json.loads(client.answer()[1])["requests"]
            assert (row["route"], row["state"]) == ("upstream", "waiting")
