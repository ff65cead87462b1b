"""Requests to engines: how they are addressed."""

import http.server
import socket
import threading
import time

import pytest

from hotseat.api.types import EngineCall, Method
from hotseat.runtimes.engine_http import EngineRequest


class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_a_pod_may_have_an_ipv6_address() -> None:
    hosts: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = Server(("::1", 0), Handler)
    except OSError:
        pytest.skip("this machine has no IPv6")
    threading.Thread(target=server.handle_request, daemon=True).start()
    request = EngineRequest(
        ("::1", server.server_port), [EngineCall(path="/slots", method=Method.GET)], time.monotonic()
    )
    until = time.monotonic() + 30
    while not request.step(time.monotonic()):
        assert time.monotonic() < until
    server.server_close()
    assert hosts == [f"[::1]:{server.server_port}"]
