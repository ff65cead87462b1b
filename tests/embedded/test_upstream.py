"""An engine's own page and WebSocket through a hotseat that runs."""

import base64
import os
import socket
import sys
from pathlib import Path

from .conftest import Up
from .harness import Answer, Call, Document, eventually, model

PAGES = str(Path(__file__).with_name("page_engine.py"))
PAGE = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Site": "none", "Sec_Fetch_User": "?1", "Accept": "text/html"}


def pages(name: str, **spec: object) -> Document:
    document = model(name)
    document["spec"] = {
        "engine": "custom",
        "command": [sys.executable, PAGES, "{port}"],
        "health": {"path": "/up"},
        **spec,
    }
    return document


def test_a_page_that_a_person_opens_loads_its_model_and_what_it_does_stays_below_it(up: Up) -> None:
    hotseat = up(pages("a", names=["org/a"]), model("b"))
    assert hotseat.get("/upstream/org/a/", Accept="*/*").status == 409
    assert hotseat.running() == {}
    slash = hotseat.get("/upstream/org/a", **PAGE)
    assert (slash.status, slash.headers["Location"]) == (307, "/upstream/org/a/")
    page = hotseat.get("/upstream/org/a/", **PAGE)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html")
    assert page.headers["Content-Security-Policy"].startswith("sandbox ")
    assert page.headers["Set-Cookie"] is None
    moved = hotseat.get("/upstream/org/a/old")
    assert (moved.status, moved.headers["Location"]) == (302, "/upstream/org/a/new")
    told = hotseat.call("PUT", "/upstream/org/a/x%2F//y?z=%20", b"body", Authorization="Bearer k").answer().json()
    assert (told["method"], told["path"], told["body"]) == ("PUT", "/x%2F//y?z=%20", "body")
    assert "Authorization" not in told["headers"]
    assert hotseat.post("/upstream/org/a/%73lots/0?action=erase").code == "path_not_allowed"
    assert hotseat.post("/upstream/b/v1/chat/completions", {"messages": []}).status == 200, (
        "a POST loads as any other request"
    )
    assert hotseat.running() == {"b": "ready"}


def test_a_websocket_of_an_engine_talks_until_its_client_leaves(up: Up) -> None:
    hotseat = up(pages("a"))
    assert hotseat.post("/api/models/a/load?wait=true").status == 200
    host, _, port = hotseat.address.rpartition(":")

    def opened(origin: str) -> socket.socket:
        sock = socket.create_connection((host, int(port)), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ("GET /upstream/a/ws HTTP/1.1", f"Host: {hotseat.address}", f"Origin: {origin}", "Connection: Upgrade",
                 "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", "")  # fmt: skip
        sock.sendall("\r\n".join(lines).encode())
        return sock

    with opened("https://elsewhere.example") as foreign:
        assert foreign.recv(100).startswith(b"HTTP/1.1 403 "), "pages of other origins may not"
    with opened(hotseat.url) as sock:
        reader = sock.makefile("rb")
        assert reader.readline().startswith(b"HTTP/1.1 101 ")
        while reader.readline().strip():
            pass
        for text in (b"hi", b"there"):
            sock.sendall(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text)
            assert reader.read(2 + len(text)) == bytes([0x81, len(text)]) + text
        (row,) = hotseat.get("/api/requests").json()["requests"]
        assert (row["route"], row["state"]) == ("upstream", "in_flight")
        reader.close()
    eventually(lambda: [r["state"] for r in hotseat.get("/api/requests").json()["requests"]] == ["ended"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_pages_on_a_port_of_their_own_have_an_origin_of_their_own(up: Up) -> None:
    port = free_port()
    hotseat = up(pages("a"), options=("--upstream-port", str(port), "--api-key", "k", "--admin-port", str(free_port())))
    address = f"127.0.0.1:{port}"
    basic = {"Authorization": "Basic " + base64.b64encode(b"anyone:k").decode()}

    def call(method: str, path: str, **headers: str) -> Answer:
        return Call(address, method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}).answer()

    asked = call("GET", "/upstream/a/", **PAGE)
    assert (asked.status, asked.headers["WWW-Authenticate"]) == (401, 'Basic realm="hotseat"')
    page = call("GET", "/upstream/a/", **PAGE, **basic)
    assert (page.status, page.headers["Content-Security-Policy"], page.headers["Set-Cookie"]) == (200, None, None)
    own = call("POST", "/upstream/a/x", Origin=f"http://{address}", **basic)
    assert (own.status, "Authorization" in own.json()["headers"]) == (200, False)
    for origin in ("null", "https://elsewhere.example", f"http://{hotseat.address}"):
        assert call("POST", "/upstream/a/x", Origin=origin, **basic).code == "origin_not_allowed"
    for path in ("/v1/models", "/api/requests", "/upstream", "/health", "/upstream/../api/requests"):
        assert call("GET", path, **basic).status == 404
    assert call("POST", "/v1/chat/completions", **basic).status == 404


def test_engines_are_behind_the_admin_port(up: Up) -> None:
    port = free_port()
    hotseat = up(model("a"), options=("--admin-port", str(port)))
    assert hotseat.post("/upstream/a/v1/chat/completions", {"messages": []}).status == 404
